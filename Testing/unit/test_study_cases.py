"""Cases come in by reference or as copies, and stay with their image, patient and split."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiseg.cli.app import run
from semiseg.errors import ConfigError, ImageError, SchemaError, StudyError
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study import picture
from semiseg.study.case import SPLITS
from semiseg.study.fields import Fields
from semiseg.study.picture import free_id, reference_to, relative_to, require_id
from semiseg.study.splits import Splits
from semiseg.study.study import Study

_GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.0, 0.0, 1.0, 0.6, -0.8, 0.0, 0.8, 0.6, 0.0),
)
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def make_image(tmp_path: Path) -> Make:
    """Writes a little oblique image with noise of `seed` under a name."""

    def make(name: str = "scan.nii.gz", seed: int = 0) -> Path:
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(seed).normal(0, 300, _GRID.shape_zyx)
        write_image(path, noise.astype(np.int16), _GRID)
        return path

    return make


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "my study ü", name="Übung")


def test_a_case_is_taken_in_by_reference(study: Study, make_image: Make) -> None:
    path = make_image("Müller Scan 1.nii.gz")
    case = study.add_case(path)
    assert (case.id, case.name, case.patient) == ("Müller-Scan-1", "Müller Scan 1", "Müller-Scan-1")
    assert case.image.absolute == str(path)
    assert case.image.relative == "../images/Müller Scan 1.nii.gz"
    assert not case.image.copied
    assert _GRID.difference(case.grid) is None
    again = Study.open(study.folder)
    assert again.problems == ()
    assert dict(again.cases) == {case.id: case}
    assert (again.id, again.name) == (study.id, "Übung")
    assert np.array_equal(again.image(case.id).array, study.image(case.id).array)


def test_a_copied_case_needs_its_original_no_more(
    study: Study, make_image: Make, tmp_path: Path
) -> None:
    path = make_image()
    case = study.add_case(path, copy=True)
    path.unlink()
    moved = tmp_path / "elsewhere"
    shutil.move(study.folder, moved)
    opened = Study.open(moved)
    assert opened.problems == ()
    assert case.image.copied
    assert opened.image(case.id).array.shape == _GRID.shape_zyx


def test_a_study_that_moves_with_its_images_finds_them(
    tmp_path: Path, make_image: Make, study: Study
) -> None:
    case = study.add_case(make_image())
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "images", tmp_path / "new" / "images")
    shutil.move(study.folder, tmp_path / "new" / "study")
    opened = Study.open(tmp_path / "new" / "study")
    assert opened.problems == ()
    opened.image(case.id)


def test_a_study_that_moves_alone_finds_its_images_where_they_were(
    tmp_path: Path, make_image: Make, study: Study
) -> None:
    case = study.add_case(make_image())
    (tmp_path / "far" / "away").mkdir(parents=True)
    shutil.move(study.folder, tmp_path / "far" / "away" / "study")
    Study.open(tmp_path / "far" / "away" / "study").image(case.id)


def test_the_same_image_twice_is_refused(study: Study, make_image: Make, tmp_path: Path) -> None:
    path = make_image()
    study.add_case(path, case_id="first")
    shutil.copy(path, tmp_path / "again.nii.gz")
    with pytest.raises(StudyError, match="in the study already, as the case 'first'"):
        study.add_case(tmp_path / "again.nii.gz")
    assert list(Study.open(study.folder).cases) == ["first"]


def test_an_image_that_cannot_be_used_is_not_added(study: Study, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    for path in (bad, tmp_path / "missing.nii.gz", tmp_path):
        with pytest.raises(ImageError):
            study.add_case(path)
    assert not study.cases
    assert not list((study.folder / "cases").iterdir())


def test_ids_follow_names_and_never_repeat(study: Study, make_image: Make) -> None:
    found = [study.add_case(make_image(f"{n}.nii.gz", n), name="Same: name").id for n in range(3)]
    assert found == ["Same-name", "Same-name-2", "Same-name-3"]
    with pytest.raises(StudyError, match="has a case 'SAME-name' already"):
        study.add_case(make_image("x.nii.gz", 9), case_id="SAME-name")


@pytest.mark.parametrize(
    "case_id",
    ["", " ", "a/b", "a\\b", "..", ".hidden", "a.", "CON", "nul.x", "a\nb", "x" * 65, "a?"],
)
def test_ids_that_cannot_name_a_folder_are_refused(case_id: str) -> None:
    with pytest.raises(StudyError, match="case id"):
        require_id(case_id, ())


def test_ids_with_spaces_and_other_scripts_work(study: Study, make_image: Make) -> None:
    for number, case_id in enumerate(["患者 一", "Fall Ä 3", "a.b"]):
        image = make_image(f"{number}.nii.gz", number)
        assert study.add_case(image, case_id=case_id).id == case_id
    assert list(Study.open(study.folder).cases) == ["患者 一", "Fall Ä 3", "a.b"]


@given(name=st.text(max_size=100), taken=st.lists(st.text(max_size=3), max_size=3))
def test_any_name_gives_a_free_and_safe_id(name: str, taken: list[str]) -> None:
    found = free_id(name, taken)
    assert require_id(found, taken) == found


def test_the_modality_is_guessed_until_the_user_says_it(study: Study, make_image: Make) -> None:
    guessed = study.add_case(make_image())
    assert not guessed.modality_overridden
    assert 0 <= guessed.modality_confidence <= 1
    study.set_modality(guessed.id, "MR")
    for opened in (study, Study.open(study.folder)):
        case = opened.cases[guessed.id]
        assert (case.modality, case.modality_confidence, case.modality_overridden) == (
            "MR",
            1,
            True,
        )
    given_case = study.add_case(make_image("b.nii.gz", 1), modality="MR")
    assert given_case.modality_overridden
    with pytest.raises(ConfigError, match="CT, MR"):
        study.set_modality(guessed.id, "PET")  # type: ignore[arg-type]


def test_nothing_of_the_patient_is_written_that_was_not_given(
    study: Study, make_image: Make
) -> None:
    study.add_case(make_image("scan.nrrd"), name="first")
    text = "".join(p.read_text() for p in study.folder.rglob("*.json*"))
    user = os.environ.get("USER", "")
    assert '"patient": "first"' in text
    assert not user or f'"{user}"' not in text


def test_all_images_of_a_patient_share_the_split(study: Study, make_image: Make) -> None:
    first = study.add_case(make_image(), patient="P 1", split="val")
    second = study.add_case(make_image("b.nii.gz", 1), patient="P 1")
    assert (first.split, second.split) == ("val", "val")
    with pytest.raises(StudyError, match="'P 1' is in the split 'val'"):
        study.add_case(make_image("c.nii.gz", 2), patient="P 1", split="train")
    study.set_split("P 1", "test")
    opened = Study.open(study.folder)
    assert {case.split for case in opened.cases.values()} == {"test"}
    with pytest.raises(StudyError, match="no case belongs"):
        study.set_split("P 2", "test")
    with pytest.raises(ConfigError, match="train, val, test"):
        study.set_split("P 1", "all")  # type: ignore[arg-type]


def test_splits_are_sticky_when_cases_come(study: Study, make_image: Make) -> None:
    for number in range(6):
        study.add_case(make_image(f"{number}.nii.gz", number))
    assert {case.split for case in study.cases.values()} == {"train"}
    study.assign_splits(3, (0.5, 0.25, 0.25))
    before = {case.id: case.split for case in study.cases.values()}
    assert set(before.values()) == set(SPLITS)
    for number in range(6, 9):
        study.add_case(make_image(f"{number}.nii.gz", number))
    study.assign_splits(99, (0.1, 0.8, 0.1))
    after = {case.id: case.split for case in Study.open(study.folder).cases.values()}
    assert {name: after[name] for name in before} == before


_NAMES = st.sets(st.text(max_size=4), max_size=12)


@given(names=_NAMES, more=_NAMES, seed=st.integers(0, 5))
def test_splits_depend_on_seed_and_names_and_never_move(
    names: set[str], more: set[str], seed: int
) -> None:
    fractions = (0.6, 0.2, 0.2)
    first = Splits().assign(names, seed, fractions)
    assert first == Splits().assign(sorted(names, reverse=True), seed, fractions)
    assert set(first.patients) == names
    if names:
        assert "train" in first.patients.values()
    later = first
    for name in sorted(more):
        later = later.with_patient(name)
    assert all(later.patients[name] == split for name, split in first.patients.items())
    new = more - names
    alone = {name: Splits(seed=seed, fractions=fractions).with_patient(name) for name in new}
    assert all(later.patients[name] == alone[name].patients[name] for name in new)
    final = first.assign(names | more, seed + 1, fractions)
    assert all(final.patients[name] == split for name, split in first.patients.items())
    assert Splits.from_json(Fields(final.to_json(), "study.json")) == final


@pytest.mark.parametrize("n_patients", [1, 2, 3, 10])
def test_fractions_are_kept_for_few_patients_too(n_patients: int) -> None:
    splits = Splits().assign([str(n) for n in range(n_patients)], 0, (0.6, 0.2, 0.2))
    counts = [list(splits.patients.values()).count(name) for name in SPLITS]
    assert counts == {1: [1, 0, 0], 2: [1, 1, 0], 3: [2, 1, 0], 10: [6, 2, 2]}[n_patients]


def test_impossible_fractions_are_refused(study: Study) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        study.assign_splits(0, (0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        study.assign_splits(0, (1.5, -0.5, 0.0))
    broken = {"seed": 1, "fractions": [1, 2], "patients": {}}
    with pytest.raises(SchemaError, match="three numbers"):
        Splits.from_json(Fields(broken, "study.json"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        Splits().set("a", "all")  # type: ignore[arg-type]


def test_a_missing_image_is_told_and_its_new_place_accepted(
    study: Study, make_image: Make, tmp_path: Path
) -> None:
    path = make_image()
    case = study.add_case(path)
    other = make_image("other.nii.gz", 1)
    path.rename(tmp_path / "moved.nii.gz")
    opened = Study.open(study.folder)
    assert case.id in opened.cases
    (problem,) = opened.problems
    assert problem.case_id == case.id
    assert "is missing" in problem.message
    assert str(path) in problem.message
    assert "put the original file back" in problem.remedy
    with pytest.raises(StudyError, match="is missing"):
        opened.image(case.id)
    with pytest.raises(StudyError, match="content differs"):
        opened.relink_image(case.id, other)
    with pytest.raises(ImageError, match="not there"):
        opened.relink_image(case.id, path)
    opened.relink_image(case.id, tmp_path / "moved.nii.gz")
    assert opened.problems == ()
    Study.open(study.folder).image(case.id)


def test_the_command_that_a_missing_image_asks_for_mends_it(
    study: Study, make_image: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_image()
    study.add_case(path, case_id="a")
    path.rename(tmp_path / "moved.nii.gz")
    assert "semiseg study relink" in Study.open(study.folder).problems[0].remedy
    assert run(["study", "relink", str(study.folder), "a", str(tmp_path / "moved.nii.gz")]) == 0
    assert "moved.nii.gz" in capfd.readouterr().out
    assert Study.open(study.folder).problems == ()


def test_a_changed_image_is_not_used(study: Study, make_image: Make) -> None:
    path = make_image("scan.nrrd")
    case = study.add_case(path)
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    opened = Study.open(study.folder)
    assert "has changed since" in opened.problems[0].message
    with pytest.raises(StudyError, match="not the file that was added"):
        opened.image(case.id)
    path.write_bytes(content[:-1] + b"x")
    same_size = Study.open(study.folder)
    with pytest.raises(StudyError, match="not the file that was added"):
        same_size.image(case.id)
    assert any("has changed since" in problem.message for problem in same_size.check())


def test_an_image_with_a_new_date_is_still_the_same(
    study: Study, make_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_image()
    case = study.add_case(path)
    os.utime(path, (1, 1))
    opened = Study.open(study.folder)
    assert opened.problems == ()
    opened.image(case.id)
    with monkeypatch.context() as patch:
        patch.setattr(picture, "sha256_file", lambda found: "read a second time")
        opened.image(case.id)
    assert opened.check() == ()


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right on Windows")
def test_an_image_behind_a_loop_of_links_is_told(study: Study, make_image: Make) -> None:
    path = make_image()
    case = study.add_case(path)
    path.unlink()
    path.symlink_to(path)
    opened = Study.open(study.folder)
    assert "symbolic link that leads nowhere" in opened.problems[0].message
    with pytest.raises(StudyError, match="symbolic link"):
        opened.image(case.id)


def test_a_damaged_image_is_found_by_checking(
    study: Study, make_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.add_case(make_image())

    def refuse(path: Path) -> None:
        raise ImageError("cannot be read")

    monkeypatch.setattr(picture, "read_image", refuse)
    assert "cannot be read" in study.check()[0].message


def test_an_image_on_another_drive_has_no_relative_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def other_drive(*args: object) -> str:
        raise ValueError("path is on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", other_drive)
    assert relative_to(tmp_path / "a", tmp_path) is None
    with pytest.raises(ImageError, match="not there"):
        reference_to(tmp_path / "missing.nii", tmp_path)


def test_an_image_that_changes_while_it_is_copied_is_refused(
    study: Study, make_image: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "semiseg.study.casework.copy_file", lambda source, target: target.write_bytes(b"torn")
    )
    with pytest.raises(StudyError, match="changed while it was copied"):
        study.add_case(make_image(), copy=True)
    assert not list((study.folder / "cases").iterdir())


def test_an_unknown_case_is_told_with_the_known_ones(study: Study, make_image: Make) -> None:
    with pytest.raises(StudyError, match="none yet"):
        study.case("a")
    study.add_case(make_image(), case_id="b")
    with pytest.raises(StudyError, match="no case 'a'; there are b"):
        study.image("a")


def test_two_open_studies_see_each_others_changes_when_they_write(
    study: Study, make_image: Make
) -> None:
    other = Study.open(study.folder)
    study.add_case(make_image(), case_id="a")
    study.assign_splits(0)
    other.add_case(make_image("b.nii.gz", 1), case_id="b")
    assert list(Study.open(study.folder).cases) == ["a", "b"]
    assert json.loads((study.folder / "study.json").read_text())["splits"]["seed"] == 0
