"""Export of a small real study: same voxels, same grid, nothing overwritten, honest figures."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import semiseg.export as export_module
from semiseg.errors import (
    ConfigError,
    NotEnoughLabelsError,
    SemiSegError,
    StorageError,
    StudyError,
)
from semiseg.events import Event
from semiseg.export import MEASUREMENTS, export_study, segmentation
from semiseg.images.grid import Grid
from semiseg.images.labels import read_label
from semiseg.images.reading import read_map, write_image
from semiseg.study.case import Origin
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.study import Study

OBLIQUE = Grid(
    size_xyz=(9, 8, 7),
    spacing_mm_xyz=(1.0, 2.0, 5.0),
    origin_mm_lps=(-20.0, 31.5, 7.0),
    direction=(0.6, 0.8, 0.0, 0.8, -0.6, 0.0, 0.0, 0.0, 1.0),
)
LIVER, SPLEEN = 7, 300
PROTOCOL = Protocol(
    (
        Structure(id=LIVER, name="Leber / liver", color=(200, 100, 50)),
        Structure(id=SPLEEN, name="spleen", color=(20, 30, 40)),
    )
)


def drawn() -> NDArray[np.uint16]:
    array = np.zeros(OBLIQUE.shape_zyx, np.uint16)
    array[2, 1:4, 2:6] = LIVER
    return array


def guessed() -> NDArray[np.uint16]:
    array = np.zeros(OBLIQUE.shape_zyx, np.uint16)
    array[2:5, 1:5, 2:6] = LIVER
    array[5:, 5:, 6:] = SPLEEN
    return array


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """ct1: two slices done by a human and a prediction. mr1: a prediction. mr2: nothing."""
    rng = np.random.default_rng(0)
    study = Study.create(tmp_path / "study", name="test", protocol=PROTOCOL)
    for name, modality in (("ct1", "CT"), ("mr1", "MR"), ("mr2", "MR")):
        path = tmp_path / f"{name}.nii.gz"
        write_image(path, rng.normal(100, 20, OBLIQUE.shape_zyx).astype(np.float32), OBLIQUE)
        study.add_case(path, case_id=name, modality=modality)  # type: ignore[arg-type]
    study.annotate("ct1", drawn(), plane="axial", indices=[2])
    for name in ("ct1", "mr1"):
        unsure = np.zeros(OBLIQUE.shape_zyx, np.float32)
        study.predicted(name, guessed(), unsure, model_id=4, info={})
    return study


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / MEASUREMENTS).open(encoding="utf-8-sig", newline="") as file:
        return {(row["case"], row["structure_id"]): row for row in csv.DictReader(file)}


def test_exported_files_have_the_voxels_and_the_grid_of_the_image(
    study: Study, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "für den Arzt"
    paths = export_study(study, folder, "prediction")
    assert sorted(path.name for path in paths) == names_in(folder)
    assert len(paths) == 2 * 2 + 1
    for path in paths[:-1]:
        back = read_label(path)
        np.testing.assert_array_equal(back.array, guessed())
        assert back.grid.difference(OBLIQUE) is None
        if path.name.endswith(".seg.nrrd"):
            assert back.segments == PROTOCOL.segments()


def test_combined_keeps_what_the_human_decided(study: Study, tmp_path: Path) -> None:
    export_study(study, tmp_path / "out", case_ids=["ct1"])
    back = read_label(tmp_path / "out" / "ct1_combined.seg.nrrd")
    np.testing.assert_array_equal(back.array[2], drawn()[2])
    np.testing.assert_array_equal(back.array[3:], guessed()[3:])


def test_case_without_prediction_is_exported_as_its_label(study: Study, tmp_path: Path) -> None:
    study.annotate("mr2", drawn())
    export_study(study, tmp_path / "out", case_ids=["mr2"], format_="nii.gz")
    back = read_label(tmp_path / "out" / "mr2_combined.nii.gz")
    np.testing.assert_array_equal(back.array, drawn())
    assert rows_of(tmp_path / "out")["mr2", str(LIVER)]["source"] == "label 1"


def test_structures_become_one_mask_each(study: Study, tmp_path: Path) -> None:
    paths = export_study(study, tmp_path / "out", "prediction", "structures", ["mr1"])
    names = [path.name for path in paths]
    assert names[0] == "mr1_prediction_7_Leber_liver.nii.gz"
    assert names[1] == "mr1_prediction_300_spleen.nii.gz"
    mask, grid = read_map(paths[1])
    np.testing.assert_array_equal(mask, guessed() == SPLEEN)
    assert grid.difference(OBLIQUE) is None


def test_several_formats_are_written_once_each(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    formats = ("both", "nii.gz", "structures")
    paths = export_study(study, folder, "combined", formats, ["ct1"])
    assert len(paths) == len(set(paths)) == len(names_in(folder)) == 5
    with pytest.raises(ConfigError, match="png"):
        export_study(study, folder, "combined", ("csv", "png"))


def test_measurements_say_volume_grey_values_and_who_drew(study: Study, tmp_path: Path) -> None:
    export_study(study, tmp_path / "out", format_="csv")
    assert names_in(tmp_path / "out") == [MEASUREMENTS]
    row = rows_of(tmp_path / "out")["ct1", str(LIVER)]
    found = segmentation(study, "ct1", "combined")
    assert found is not None
    inside = found.array == LIVER
    values = study.image("ct1").array[inside]
    assert float(row["volume_ml"]) == pytest.approx(inside.sum() * 0.01, abs=1e-4)
    assert float(row["intensity_mean"]) == pytest.approx(values.mean(), abs=1e-2)
    assert float(row["intensity_sd"]) == pytest.approx(values.std(), abs=1e-2)
    assert row["intensity_unit"] == "HU"
    human = inside & (found.origin == Origin.HUMAN)
    assert human[2].any()
    share = 100 * human.sum() / inside.sum()
    assert float(row["drawn_by_human_percent"]) == pytest.approx(share, abs=1e-2)
    assert float(row["predicted_percent"]) == pytest.approx(100 - share, abs=1e-2)
    assert float(row["propagated_percent"]) == 0
    assert (row["label_version"], row["prediction_version"], row["model"]) == ("1", "1", "model 4")
    assert row["source"] == "prediction 1 (model 4) under label 1"
    assert float(row["uncertainty_mean_0_to_1"]) == 0
    assert rows_of(tmp_path / "out")["mr1", str(LIVER)]["intensity_unit"] == "none (MR)"


def test_structure_without_voxels_has_a_row_without_grey_values(
    study: Study, tmp_path: Path
) -> None:
    export_study(study, tmp_path / "out", "label", "csv", ["ct1"])
    row = rows_of(tmp_path / "out")["ct1", str(SPLEEN)]
    assert (row["voxels"], row["volume_ml"], row["intensity_mean"]) == ("0", "0.0", "")


def test_nothing_is_overwritten_unasked(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_study(study, folder, "prediction", "nii.gz")
    kept = {name: (folder / name).read_bytes() for name in names_in(folder)}
    study.predicted("mr1", drawn(), np.zeros(OBLIQUE.shape_zyx), model_id=5, info={})
    with pytest.raises(StorageError, match="of the files exist in"):
        export_study(study, folder, "prediction", "nii.gz")
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == kept
    export_study(study, folder, "prediction", "nii.gz", overwrite=True)
    back = read_label(folder / "mr1_prediction.nii.gz")
    np.testing.assert_array_equal(back.array, drawn())


def test_case_without_anything_is_left_out_or_refused_when_named(
    study: Study, tmp_path: Path
) -> None:
    paths = export_study(study, tmp_path / "out", "label", "nii.gz")
    assert [path.name for path in paths] == ["ct1_label.nii.gz", MEASUREMENTS]
    with pytest.raises(NotEnoughLabelsError, match="for mr1, mr2"):
        export_study(study, tmp_path / "other", "label", case_ids=["ct1", "mr1", "mr2"])
    with pytest.raises(StudyError, match="no case 'who'"):
        export_study(study, tmp_path / "other", case_ids=["who"])
    assert not (tmp_path / "other").exists()


def test_study_without_results_is_refused(tmp_path: Path) -> None:
    empty = Study.create(tmp_path / "empty", name="empty", protocol=PROTOCOL)
    with pytest.raises(NotEnoughLabelsError, match="no case has anything"):
        export_study(empty, tmp_path / "out")


@pytest.mark.parametrize("change", [{"what": "best"}, {"format_": "vtk"}])
def test_unknown_kind_or_format_is_refused(
    study: Study, tmp_path: Path, change: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="must be one of"):
        export_study(study, tmp_path / "out", **change)  # type: ignore[arg-type]


def test_missing_image_leaves_grey_values_out_and_says_so(study: Study, tmp_path: Path) -> None:
    (tmp_path / "mr1.nii.gz").unlink()
    told: list[Event] = []
    export_study(study, tmp_path / "out", "prediction", "nii.gz", ["mr1"], told.append)
    assert rows_of(tmp_path / "out")["mr1", str(LIVER)]["intensity_mean"] == ""
    assert "grey values are left out" in told[-1].message


def test_removed_structure_is_not_exported(study: Study, tmp_path: Path) -> None:
    study.set_protocol(PROTOCOL.remove(SPLEEN))
    export_study(study, tmp_path / "out", "prediction", "seg.nrrd", ["mr1"])
    back = read_label(tmp_path / "out" / "mr1_prediction.seg.nrrd")
    assert set(np.unique(back.array)) == {0, LIVER}


def test_folder_that_cannot_be_made_is_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not be written"):
        export_study(study, tmp_path / "file" / "out")


def test_full_disk_leaves_no_half_file(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        export_study(study, tmp_path / "out", "prediction")
    assert names_in(tmp_path / "out") == []


@pytest.mark.parametrize("lie", ["voxels", "error"])
def test_file_that_reads_back_differently_is_reported(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    def read_wrong(path: Path) -> object:
        if lie == "error":
            raise SemiSegError("damaged")
        back = read_label(path)
        back.array[0, 0, 0] += 1
        return back

    monkeypatch.setattr(export_module, "read_label", read_wrong)
    with pytest.raises(StorageError, match=r"read back"):
        export_study(study, tmp_path / "out", "prediction")


def test_unreadable_prediction_is_told_with_the_way_to_check(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "prediction", lambda self, case_id: None)
    with pytest.raises(SemiSegError, match="semiseg study check"):
        export_study(study, tmp_path / "out", "prediction")
