"""The rows of a table of cases: right, quick, and without a voxel being read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study import labels, overview
from semiseg.study.case import GateRecord
from semiseg.study.overview import CaseOverview, case_overviews, gate_in_words
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

_GRID = Grid(size_xyz=(7, 6, 5), spacing_mm_xyz=(1.0, 2.0, 3.0))
_GATE = GateRecord(verdict="down_weight", score=0.4, reasons=("thin", "far"))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    def build(*names: str) -> Study:
        study = Study.create(
            tmp_path / "study", name="s", protocol=parse_structures("liver,spleen")
        )
        for number, name in enumerate(names):
            noise = np.random.default_rng(number).normal(0, 300, _GRID.shape_zyx)
            write_image(tmp_path / f"{name}.nii.gz", noise.astype(np.int16), _GRID)
            study.add_case(tmp_path / f"{name}.nii.gz", case_id=name, name=f"scan {name}")
        return study

    return build


@pytest.fixture
def study(make: Callable[..., Study]) -> Study:
    return make("c", "d")


def _map(value: int = 0) -> NDArray[np.uint16]:
    return np.full(_GRID.shape_zyx, value, np.uint16)


def _row(study: Study, case_id: str = "c") -> CaseOverview:
    return next(row for row in case_overviews(study) if row.id == case_id)


def _propagate(study: Study) -> None:
    weights = np.full(_GRID.shape_zyx, 0.5, np.float32)
    study.propagated("c", _map(1), weights, structure_ids=[1], gate=_GATE, info={})


def _predict(study: Study) -> None:
    weights = np.full(_GRID.shape_zyx, 0.25, np.float32)
    study.predicted("c", _map(1), weights, model_id=1, info={})


def test_a_new_case_has_nothing_yet(study: Study) -> None:
    row = _row(study)
    assert (row.id, row.name, row.patient, row.split) == ("c", "scan c", "c", "train")
    assert not row.modality_overridden
    assert row.modality_confidence == study.cases["c"].modality_confidence
    assert row.done == {"axial": (0, 5), "coronal": (0, 6), "sagittal": (0, 7)}
    assert (row.state, row.gate, row.problem, row.has_draft) == ("new", None, "", False)
    assert (row.uncertainty, row.score) == (None, None)
    assert (row.label_version, row.prediction_version) == (None, None)


def test_a_case_goes_through_its_states(study: Study) -> None:
    seen = [_row(study)]
    study.annotate("c", _map(1), plane="axial", indices=[1], structure_ids=[1])
    study.annotate("c", _map(1), plane="axial", indices=[1, 3])
    seen.append(_row(study))
    _propagate(study)
    seen.append(_row(study))
    _predict(study)
    seen.append(_row(study))
    study.withdraw_suggestion("c")
    seen.append(_row(study))
    study.withdraw_suggestion("c")
    seen.append(_row(study))
    states = ["new", "annotated", "propagated", "segmented", "propagated", "annotated"]
    assert [row.state for row in seen] == states
    assert [row.label_version for row in seen] == [None, 2, 3, 3, 3, 4]
    assert [row.prediction_version for row in seen] == [None, None, None, 1, None, None]
    assert [row.uncertainty for row in seen] == [None, None, None, 0.25, None, None]
    assert [row.gate for row in seen] == [None, None, _GATE, _GATE, _GATE, None]
    assert seen[1].done["axial"] == (2, 5)
    assert case_overviews(study)[1].state == "new"


def test_a_draft_is_seen_until_it_is_applied(study: Study) -> None:
    study.save_draft("c", [_map(1)])
    assert _row(study).has_draft
    study.apply_draft("c")
    assert not _row(study).has_draft


def test_the_score_is_that_of_the_newest_evaluation_of_the_case(study: Study) -> None:
    study.add_evaluation([{"case": "c", "dice": 0.2}, {"case": "d", "dice": 0.3}], {})
    assert _row(study).score == 0.2
    rows = [{"case": "c", "dice": 0.8}, {"case": "c", "dice": 0.6}, {"case": "c", "dice": None}]
    study.add_evaluation(rows, {})
    assert _row(study).score == pytest.approx(0.7)
    assert _row(study, "d").score == 0.3


def test_what_another_program_changes_is_noticed(study: Study, tmp_path: Path) -> None:
    before = case_overviews(study)
    other = Study.open(study.folder)
    other.set_modality("c", "MR")
    assert _row(study).modality == study.cases["c"].modality == "MR"
    other.set_split("c", "test")
    assert _row(study).split == "test"
    other.set_protocol(parse_structures("1=liver"))
    other.annotate("c", _map(1), plane="coronal", indices=[2])
    assert _row(study).done["coronal"] == (1, 6)
    other.remove_case("d")
    assert [row.id for row in case_overviews(study)] == ["c"]
    assert [row.id for row in before] == ["c", "d"]


def test_what_is_wrong_with_a_case_is_told_until_it_is_mended(study: Study, tmp_path: Path) -> None:
    image = tmp_path / "c.nii.gz"
    image.rename(tmp_path / "away.nii.gz")
    row = _row(study)
    assert row.state == "problem"
    assert "the image of c is missing" in row.problem
    (tmp_path / "away.nii.gz").rename(image)
    assert _row(study).problem == ""
    study.annotate("c", _map(1))
    study.annotate("c", _map(2))
    (study.folder / "cases/c/labels/0002/version.json").write_text("{")
    (study.folder / "cases/c/labels/0003").mkdir()
    row = _row(study)
    assert (row.state, row.label_version) == ("problem", 1)
    assert "labels version 3" in row.problem


def test_a_case_file_that_breaks_is_told_and_the_case_stays(study: Study) -> None:
    case_overviews(study)
    for path in (study.folder / "cases/c/case.json", study.folder / "backups/cases/c.json"):
        path.write_text("{")
    row = _row(study)
    assert row.state == "problem"
    assert "case.json is corrupt" in row.problem


def test_no_voxel_is_read_and_a_row_is_made_once(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    _propagate(study)
    _predict(study)
    study.save_draft("c", [_map(1)])
    for name in ("read_label", "read_map"):
        monkeypatch.setattr(labels, name, lambda *_, **__: pytest.fail("a voxel was read"))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("a draft was read"))
    rows = case_overviews(study)
    monkeypatch.setattr(overview, "_row", lambda *_, **__: pytest.fail("a row was made again"))
    again = case_overviews(study)
    assert all(one is two for one, two in zip(rows, again, strict=True))


def test_thirty_cases_that_did_not_change_take_no_time(make: Callable[..., Study]) -> None:
    study = make(*(f"case{number}" for number in range(30)))
    case_overviews(study)
    times_s = []
    for _ in range(5):
        start = time.process_time()
        assert len(case_overviews(study)) == 30
        times_s.append(time.process_time() - start)
    assert min(times_s) < 0.02


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (GateRecord(verdict="accept", score=0.91), "looks right: counts in full, score 0.91"),
        (_GATE, "doubtful: counts less, please check, score 0.40 (thin; far)"),
        (
            GateRecord(verdict="reject", score=0.1, reasons=("folded",)),
            "not used: does not fit this image, score 0.10 (folded)",
        ),
    ],
)
def test_the_gate_is_told_in_words(gate: GateRecord, words: str) -> None:
    assert gate_in_words(gate) == words
