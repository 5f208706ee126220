"""DICOM objects of several cases: one that has none does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semiseg.cli.app import run
from semiseg.dicom.scan import scan
from semiseg.events import Event
from semiseg.importing import add_series
from semiseg.study.study import Study

pytest.importorskip("highdicom")


def _export(study: Study, out: Path, *cases: str) -> tuple[int, list[Event]]:
    events: list[Event] = []
    command = ["export", str(study.folder), str(out), *cases, "--format", "rtstruct"]
    return run([*command, "--identity", "keep", "--json"], events.append), events


@pytest.fixture
def two(tmp_path: Path, dicom_study: Callable[..., Study], dicom_series: Callable) -> Study:
    """CT-7 with structures, MR-7 that is done and empty."""
    study = dicom_study()
    dicom_series(tmp_path / "other", key="b", modality="MR")
    case = add_series(study, tmp_path / "other", scan(tmp_path / "other").volumes[0])
    study.annotate(case.id, np.zeros(case.grid.shape_zyx, np.uint16), plane="axial", empty=range(5))
    return study


def test_an_empty_case_is_named_and_the_other_is_written(tmp_path: Path, two: Study) -> None:
    code, events = _export(two, tmp_path / "out")
    assert code == 0, events[-1].message
    assert [path.name for path in (tmp_path / "out").glob("*.dcm")] == [
        "CT-7_combined.rtstruct.dcm"
    ]
    (told,) = [event.data for event in events if "error" in event.data]
    empty = next(case_id for case_id in two.cases if case_id != "CT-7")
    assert told["case"] == empty
    assert f"not written: no structure of {empty} has a voxel" in events[-1].message


def test_a_lost_series_is_told_under_its_cases_name(tmp_path: Path, two: Study) -> None:
    for path in (tmp_path / "other").iterdir():
        path.unlink()
    code, events = _export(two, tmp_path / "out")
    assert code == 0
    assert "not where they were" in events[-1].message


def test_alone_it_is_an_error(tmp_path: Path, two: Study) -> None:
    empty = next(case_id for case_id in two.cases if case_id != "CT-7")
    code, events = _export(two, tmp_path / "out", empty)
    assert code != 0
    assert events[-1].kind == "error"


def test_when_no_case_has_a_series_nothing_is_written(tmp_path: Path, two: Study) -> None:
    for folder in ("other", "in"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    code, _ = _export(two, tmp_path / "out")
    assert code != 0
    assert not (tmp_path / "out").exists()
