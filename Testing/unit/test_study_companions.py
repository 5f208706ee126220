"""Further volumes of a case: taken in, checked, kept, shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from semiseg.cli.app import run
from semiseg.errors import GeometryMismatchError, StudyError
from semiseg.events import Event, Json
from semiseg.images.grid import Grid
from semiseg.images.reading import read_image, write_image
from semiseg.study.overview import case_overviews
from semiseg.study.study import Study

PhantomStudy = Callable[..., Study]
GRID = Grid(size_xyz=(16, 16, 10), spacing_mm_xyz=(3.0, 3.0, 4.0))
COARSE = Grid(size_xyz=(8, 8, 10), spacing_mm_xyz=(6.0, 6.0, 4.0), origin_mm_lps=(1.5, 1.5, 0.0))


@pytest.fixture
def study(phantom_study: PhantomStudy) -> Study:
    return phantom_study(("MR", "MR"))


def volume(folder: Path, grid: Grid = GRID, seed: int = 5) -> Path:
    path = folder / f"other{seed}.nii.gz"
    array = np.random.default_rng(seed).normal(100, 20, grid.shape_zyx).astype(np.float32)
    write_image(path, array, grid)
    return path


def test_a_companion_is_kept_with_its_voxels_grid_and_hash(study: Study, tmp_path: Path) -> None:
    path = volume(tmp_path, COARSE)
    study.add_companion("c0", path, "T2")
    found = Study.open(study.folder)
    (companion,) = found.case("c0").companions
    image = found.companion("c0", "T2")
    assert np.array_equal(image.array, read_image(path).array)
    assert image.grid.difference(COARSE) is None
    assert companion.name == "T2"
    assert len(companion.image.sha256) == 64
    assert (study.folder / str(companion.image.relative)).parent.parent.name == "c0"
    assert found.case("c1").companions == ()


def test_nothing_of_the_file_but_voxels_and_grid_is_kept(study: Study, tmp_path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(volume(tmp_path)))
    image.SetMetaData("PatientName", "Doe^Jane")
    path = tmp_path / "Doe_Jane.nrrd"
    sitk.WriteImage(image, str(path))
    study.add_companion("c0", path, "T2")
    kept = [p.read_bytes() for p in (study.folder / "cases" / "c0").rglob("*") if p.is_file()]
    kept.append((study.folder / "journal.jsonl").read_bytes())
    assert not any(b"Doe" in content for content in kept)


@pytest.mark.parametrize(
    "other",
    [
        replace(GRID, origin_mm_lps=(20.0, 0.0, 0.0)),
        replace(GRID, spacing_mm_xyz=(3.0, 3.0, 8.0)),
        replace(GRID, direction=(0.866, -0.5, 0, 0.5, 0.866, 0, 0, 0, 1)),
    ],
)
def test_a_volume_of_another_space_is_refused(study: Study, tmp_path: Path, other: Grid) -> None:
    with pytest.raises(GeometryMismatchError, match="does not fill the same space"):
        study.add_companion("c0", volume(tmp_path, other), "T2")
    assert study.case("c0").companions == ()


def test_the_same_space_may_be_stored_with_turned_axes(study: Study, tmp_path: Path) -> None:
    turned = replace(
        GRID,
        origin_mm_lps=(45.0, 45.0, 0.0),
        direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0),
    )
    study.add_companion("c0", volume(tmp_path, turned), "T2")
    assert len(study.case("c0").companions) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../x", "cannot name a volume"),
        ("", "cannot name a volume"),
        ("mr", "what the image of c0 itself shows"),
        ("t2", "a companion 'T2' already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(
    study: Study, tmp_path: Path, name: str, told: str
) -> None:
    study.add_companion("c0", volume(tmp_path), "T2")
    with pytest.raises(StudyError, match=told):
        study.add_companion("c0", volume(tmp_path, seed=6), name)


def test_the_same_volume_is_not_taken_twice(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is the image of c0 itself"):
        study.add_companion("c0", tmp_path / "c0.nii.gz", "T2")
    path = volume(tmp_path)
    study.add_companion("c0", path, "T2")
    with pytest.raises(StudyError, match="has this volume already, as 'T2'"):
        study.add_companion("c0", path, "T1")
    assert not list(study.folder.rglob("volume-T1*"))


def test_a_companion_named_after_a_modality_is_of_it(study: Study, tmp_path: Path) -> None:
    case = study.add_companion("c0", volume(tmp_path), "ct")
    case = study.add_companion("c0", volume(tmp_path, seed=6), "T2")
    assert [(c.name, case.modality_of(c)) for c in case.companions] == [("CT", "CT"), ("T2", "MR")]


def test_a_companion_can_be_taken_out(study: Study, tmp_path: Path) -> None:
    study.add_companion("c0", volume(tmp_path), "T2")
    study.remove_companion("c0", "T2")
    assert study.case("c0").companions == ()
    assert not list(study.folder.rglob("volume-*"))
    with pytest.raises(StudyError, match="has no companion 'T2'; it has none"):
        study.companion("c0", "T2")


def test_a_lost_or_changed_companion_is_a_problem_that_says_what_to_do(
    study: Study, tmp_path: Path
) -> None:
    study.add_companion("c0", volume(tmp_path), "T2")
    path = study.folder / str(study.case("c0").companions[0].image.relative)
    assert study.check() == ()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (problem,) = study.check()
    assert "c0 (T2) is not the file that was added" in str(problem)
    path.unlink()
    (problem,) = Study.open(study.folder).problems
    assert "remove-companion" in problem.remedy
    assert problem.case_id == "c0"
    with pytest.raises(StudyError, match=r"c0 \(T2\) is missing"):
        Study.open(study.folder).companion("c0", "T2")


def test_studies_without_companions_are_written_and_read_as_before(study: Study) -> None:
    values = json.loads((study.folder / "cases" / "c0" / "case.json").read_text())
    assert "companions" not in values
    assert "sequence" not in values
    assert Study.open(study.folder).case("c0").companions == ()


def test_the_sequence_of_an_image_can_be_said(study: Study, tmp_path: Path) -> None:
    assert study.case("c1").stream == "MR"
    study.set_sequence("c1", "T2")
    assert Study.open(study.folder).case("c1").stream == "T2"
    assert study.set_sequence("c1", "mr").sequence is None
    study.add_companion("c1", volume(tmp_path), "T1")
    with pytest.raises(StudyError, match="T1 names a companion"):
        study.set_sequence("c1", "T1")


def test_removed_and_restored_cases_keep_their_companions(study: Study, tmp_path: Path) -> None:
    study.add_companion("c0", volume(tmp_path), "T2")
    study.restore_case(study.remove_case("c0"))
    assert study.companion("c0", "T2").array.shape == GRID.shape_zyx


def test_the_overview_names_companions_and_notices_new_ones(study: Study, tmp_path: Path) -> None:
    assert case_overviews(study)[0].companions == ()
    Study.open(study.folder).add_companion("c0", volume(tmp_path), "T2")
    assert case_overviews(study)[0].companions == ("T2",)


def test_the_command_line_adds_shows_and_removes_companions(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def last(*command: str) -> Mapping[str, Json]:
        events: list[Event] = []
        assert run(command, events.append) == 0
        return events[-1].data

    folder, path = str(study.folder), str(volume(tmp_path))
    found = last("study", "add-companion", folder, "c0", path, "--name", "T2")
    assert found["companions"] == ["T2"]
    assert last("study", "status", folder)["cases"][0]["companions"] == ["T2"]
    capfd.readouterr()
    assert run(["study", "status", folder]) == 0
    assert "c0: MR, with T2" in capfd.readouterr().out
    assert last("study", "sequence", folder, "c1", "T2")["sequence"] == "T2"
    assert last("study", "sequence", folder, "c1", "none")["sequence"] is None
    assert last("study", "remove-companion", folder, "c0", "T2")["companions"] == []


def test_a_dicom_series_becomes_a_companion_without_its_identity(
    dicom_study: Callable[..., Study],
    dicom_series: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    study = dicom_study()
    (case_id,) = study.cases
    other = tmp_path / "other"
    dicom_series(other, key="b", values=lambda world: world @ np.array([-9.0, 2.0, 5.0]) + 400)
    events: list[Event] = []
    command = ["study", "add-companion", str(study.folder), case_id, str(other), "--name", "venous"]
    assert run(command, events.append) == 0
    found = Study.open(study.folder)
    image = found.companion(case_id, "venous")
    assert image.grid.difference(found.case(case_id).grid) is None
    assert image.array.mean() > 0
    kept = [p.read_bytes() for p in study.folder.rglob("volume-*")]
    assert kept
    assert not any(b"Doe" in content or b"MRN" in content for content in kept)


def test_of_several_dicom_series_one_must_be_named(
    dicom_study: Callable[..., Study],
    dicom_series: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    study = dicom_study()
    (case_id,) = study.cases
    for key, slope in (("b", 2.0), ("c", 3.0)):
        values = partial(np.dot, b=np.full(3, slope))
        dicom_series(tmp_path / "other", key=key, prefix=key, values=values)
    events: list[Event] = []
    command = ["study", "add-companion", str(study.folder), case_id, str(tmp_path / "other")]
    assert run([*command, "--name", "venous"], events.append) == 4
    assert "say which with --series" in events[-1].message
    assert run([*command, "--name", "venous", "--series", "2"], events.append) == 0
