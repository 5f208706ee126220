"""Scores against references: matched by name or id, the policy for gaps kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.errors import ConfigError, GeometryMismatchError, LabelError, StudyError
from semiseg.evaluation import evaluate, means
from semiseg.images.grid import Grid
from semiseg.images.labels import write_label
from semiseg.images.reading import write_image
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

GRID = Grid(size_xyz=(10, 12, 8), spacing_mm_xyz=(1.0, 1.5, 2.0), origin_mm_lps=(-5.0, 3.0, 40.0))
NAMES = {1: "liver", 5: "spleen", 7: "aorta", 8: "pancreas"}
PROTOCOL = Protocol(tuple(common_structure(name, i) for i, name in NAMES.items()))


def drawn() -> NDArray[np.uint16]:
    """Liver and spleen as blocks; aorta and pancreas absent."""
    array = np.zeros(GRID.shape_zyx, np.uint16)
    array[1:5, 2:8, 2:6] = 1
    array[5:7, 2:6, 6:9] = 5
    return array


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study.create(tmp_path / "study", name="test", protocol=PROTOCOL)
    noise = np.random.default_rng(0).normal(0, 100, GRID.shape_zyx).astype(np.float32)
    write_image(tmp_path / "ct.nii.gz", noise, GRID)
    made.add_case(tmp_path / "ct.nii.gz", case_id="ct", modality="CT", split="test")
    found = drawn()
    found[0, 0, 0] = 7  # a stray voxel of a structure that the reference may or may not have
    made.predicted("ct", found, np.zeros(found.shape, np.float32), model_id=3, info={})
    return made


def reference(
    tmp_path: Path, array: NDArray[np.uint16], name: str = "reference.nii.gz", grid: Grid = GRID
) -> dict[str, Path]:
    path = tmp_path / name
    write_label(path, array, grid, PROTOCOL.segments())
    return {"ct": path}


def test_rows_say_case_structure_scores_and_where_the_reference_comes_from(
    study: Study, tmp_path: Path
) -> None:
    rows = evaluate(study, reference(tmp_path, drawn()), reference_note="drawn by a program")
    liver = rows[0]
    assert (liver["case"], liver["structure"], liver["modality"]) == ("ct", "liver", "CT")
    assert (liver["dice"], liver["hd95_mm"], liver["assd_mm"]) == (1.0, 0.0, 0.0)
    assert liver["volume_ml"] == liver["reference_ml"] == pytest.approx(96 * 3 / 1000)
    assert (liver["state"], liver["split"], liver["model_id"]) == ("compared", "test", 3)
    assert {row["reference_note"] for row in rows} == {"drawn by a program"}
    kept = study.evaluations()[-1]
    assert [dict(row) for row in kept.rows] == rows
    assert "Dice 0" in str(kept.settings["policy"])
    assert means(rows) == {"liver": (1.0, 1), "spleen": (1.0, 1)}


def test_distances_are_in_millimetres_of_the_anisotropic_grid(study: Study, tmp_path: Path) -> None:
    moved = np.where(drawn() == 1, 0, drawn())
    moved[2:6, 2:8, 2:6] = 1
    liver = evaluate(study, reference(tmp_path, moved))[0]
    assert liver["hd95_mm"] == 2.0
    assert liver["dice"] == pytest.approx(0.75)


def test_a_structure_that_an_unnamed_reference_never_shows_is_not_compared(
    study: Study, tmp_path: Path
) -> None:
    states = {r["structure"]: r for r in evaluate(study, reference(tmp_path, drawn()))}
    assert states["aorta"]["state"] == states["pancreas"]["state"] == "not compared"
    assert states["aorta"]["dice"] is None
    assert states["aorta"]["reference_ml"] is None
    assert states["aorta"]["volume_ml"] == pytest.approx(0.003)


def test_a_structure_that_a_named_reference_lists_without_voxels_is_compared(
    study: Study, tmp_path: Path
) -> None:
    rows = evaluate(study, reference(tmp_path, drawn(), "reference.seg.nrrd"))
    states = {row["structure"]: row for row in rows}
    assert (states["aorta"]["state"], states["aorta"]["dice"]) == ("missed", 0.0)
    assert states["aorta"]["hd95_mm"] is None
    assert (states["pancreas"]["state"], states["pancreas"]["dice"]) == ("absent", None)


def test_named_segments_are_matched_by_name_whatever_their_numbers(
    study: Study, tmp_path: Path
) -> None:
    array = np.select([drawn() == 1, drawn() == 5], [5, 1], 0).astype(np.uint16)
    array[0, :3, :3] = 9
    segments = (
        replace(PROTOCOL.segments()[0], id=5, name="Liver"),
        replace(PROTOCOL.segments()[1], id=1),
        replace(PROTOCOL.segments()[2], id=9, name="rib"),
    )
    path = tmp_path / "other.seg.nrrd"
    write_label(path, array, GRID, segments)
    rows = evaluate(study, {"ct": path})
    assert [row["dice"] for row in rows] == [1.0, 1.0, None, None]


def test_a_reference_on_another_grid_is_refused(study: Study, tmp_path: Path) -> None:
    other = replace(GRID, spacing_mm_xyz=(1.0, 1.5, 2.5))
    with pytest.raises(GeometryMismatchError, match=r"reference\.nii\.gz of ct.*spacing"):
        evaluate(study, reference(tmp_path, drawn(), grid=other))
    assert not study.evaluations()


def test_a_reference_without_any_structure_of_the_protocol_is_refused(
    study: Study, tmp_path: Path
) -> None:
    strange = np.where(drawn() > 0, 99, 0).astype(np.uint16)
    path = tmp_path / "strange.nii.gz"
    write_label(path, strange, GRID)
    with pytest.raises(LabelError, match=r"has 99, none of which is in the protocol \(liver"):
        evaluate(study, {"ct": path})
    write_label(path, np.zeros_like(strange), GRID)
    with pytest.raises(LabelError, match="no structure at all"):
        evaluate(study, {"ct": path})


def test_labels_and_the_combination_can_be_judged_too(study: Study, tmp_path: Path) -> None:
    references = reference(tmp_path, drawn(), "reference.seg.nrrd")
    with pytest.raises(StudyError, match="ct has no label"):
        evaluate(study, references, "label")
    only_liver = np.where(drawn() == 1, 1, 0).astype(np.uint16)
    study.annotate("ct", only_liver, plane="axial", indices=[0, 1, 2])
    label = {r["structure"]: r for r in evaluate(study, references, "label")}
    assert (label["spleen"]["state"], label["spleen"]["model_id"]) == ("missed", None)
    both = {r["structure"]: r for r in evaluate(study, references, "combined")}
    assert both["spleen"]["dice"] == 1.0
    assert both["aorta"]["state"] == "absent"  # the human said that slice 0 has none


def test_what_cannot_be_judged_is_a_sentence(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no reference was given"):
        evaluate(study, {})
    with pytest.raises(StudyError, match="'nobody'"):
        evaluate(study, {"nobody": tmp_path / "x.nii.gz"})
    with pytest.raises(ConfigError, match="what must be one of"):
        evaluate(study, {"ct": tmp_path / "x.nii.gz"}, "volume")  # type: ignore[arg-type]
    noise = np.random.default_rng(1).normal(0, 100, GRID.shape_zyx).astype(np.float32)
    write_image(tmp_path / "mr.nii.gz", noise, GRID)
    study.add_case(tmp_path / "mr.nii.gz", case_id="mr", modality="MR")
    with pytest.raises(StudyError, match="mr has no prediction to compare; run predict"):
        evaluate(study, {"mr": tmp_path / "x.nii.gz"})
