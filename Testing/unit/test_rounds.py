"""Rounds: what was corrected, what it cost, honest intervals, and the advice to go on or stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.cli.app import run
from semiseg.errors import ConfigError
from semiseg.images.grid import Grid
from semiseg.images.labels import write_label
from semiseg.images.reading import read_map, write_image
from semiseg.report.report import write_report
from semiseg.report.rounds import report_rounds
from semiseg.rounds.changes import changes
from semiseg.rounds.corrections import Correction, correction_of, corrections, record_corrections
from semiseg.rounds.intervals import interval, summaries
from semiseg.rounds.rounds import Hint, Round, hint, rounds
from semiseg.rounds.time import minutes_of, worked
from semiseg.study.case import GateRecord
from semiseg.study.journal import Entry
from semiseg.study.ledger import SliceState
from semiseg.study.merge import Mark
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

_GRID = Grid(size_xyz=(12, 10, 8), spacing_mm_xyz=(1.0, 2.0, 3.0))
_SHAPE = _GRID.shape_zyx
_ACCEPT = GateRecord(verdict="accept", score=0.9)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The case "c" with 1 liver and 2 spleen."""
    study = Study.create(tmp_path / "study", name="s", protocol=parse_structures("liver,spleen"))
    noise = np.random.default_rng(0).normal(0, 300, _SHAPE)
    write_image(tmp_path / "c.nii.gz", noise.astype(np.int16), _GRID)
    study.add_case(tmp_path / "c.nii.gz", case_id="c", modality="CT")
    return study


def _square(first: int, last: int, value: int = 1) -> NDArray[np.uint16]:
    found = np.zeros(_SHAPE, np.uint16)
    found[:, 2:8, first:last] = value
    return found


def _weights(value: float = 0.5) -> NDArray[np.float32]:
    return np.full(_SHAPE, value, np.float32)


def _predict(study: Study, array: NDArray[np.uint16], model_id: int = 1) -> int:
    return study.predicted("c", array, _weights(), model_id=model_id, info={})


def _add_model(study: Study, dice: float | None = None) -> int:
    """A model, and a moment before and after it: times are kept to the millisecond."""
    info: dict[str, Any] = {"name": "m", "validation": {"dice": dice}}
    time.sleep(0.003)
    made = study.add_model(lambda folder: (folder / "w").write_bytes(b"w") and None, info)
    time.sleep(0.003)
    return made


def _finish(study: Study, array: NDArray[np.uint16], indices: list[int]) -> int:
    drawn = study.human_map("c").array
    drawn[indices] = array[indices]
    return study.annotate("c", drawn, plane="axial", indices=indices)


def test_what_was_added_and_removed_is_counted_in_finished_slices_only(study: Study) -> None:
    _add_model(study)
    _predict(study, _square(2, 8))
    version = _finish(study, _square(3, 9), [4])

    found = correction_of(study, "c", version)

    assert found is not None
    liver = next(one for one in found.structures if one.id == 1)
    assert liver.added_ml == pytest.approx(6 * 0.006)
    assert liver.removed_ml == pytest.approx(6 * 0.006)
    assert liver.dice == pytest.approx(2 * 30 / 72)
    assert 0 < liver.surface_mm < 1.0
    assert (found.source, found.source_version) == ("predicted", 1)
    assert (found.round, found.slices) == (1, 1)
    assert found.dice == liver.dice
    spleen = next(one for one in found.structures if one.id == 2)
    assert (spleen.dice, spleen.surface_mm) == (1.0, None)


def test_taking_a_suggestion_over_as_it_is_corrects_nothing(study: Study) -> None:
    _predict(study, _square(2, 8))
    found = correction_of(study, "c", _finish(study, _square(2, 8), [4, 5]))

    assert found is not None
    assert found.dice == 1.0
    assert all(one.added_ml == one.removed_ml == 0 for one in found.structures)
    assert found.structures[0].surface_mm == 0.0


def test_a_propagated_label_is_what_was_shown_when_it_is_newer(study: Study) -> None:
    _predict(study, _square(0, 3))
    study.propagated("c", _square(2, 8), _weights(), structure_ids=[1, 2], gate=_ACCEPT, info={})
    found = correction_of(study, "c", _finish(study, _square(2, 8), [4]))

    assert found is not None
    assert found.source == "propagated"
    assert found.dice == 1.0


def test_without_suggestion_or_finished_slice_nothing_is_corrected(study: Study) -> None:
    assert correction_of(study, "c", _finish(study, _square(2, 8), [4])) is None
    _predict(study, _square(2, 8))
    assert correction_of(study, "c", _finish(study, _square(2, 8), [4])) is None  # nothing new
    drawn = study.human_map("c").array
    drawn[6] = _square(1, 3)[6]
    assert correction_of(study, "c", study.annotate("c", drawn)) is None
    again = study.annotate("c", drawn * 0, plane="axial", indices=[4])
    assert correction_of(study, "c", again) is None  # slice 4 was finished before


def test_what_was_shown_before_a_withdrawal_is_not_guessed(study: Study) -> None:
    study.propagated("c", _square(2, 8), _weights(), structure_ids=[1, 2], gate=_ACCEPT, info={})
    study.withdraw_suggestion("c")
    assert correction_of(study, "c", _finish(study, _square(2, 8), [4])) is None


def test_corrections_are_kept_once_and_survive_pruning_of_their_versions(study: Study) -> None:
    _predict(study, _square(2, 8))
    _finish(study, _square(3, 9), [4])
    first = record_corrections(study)

    assert [one.version for one in first] == [1]
    assert record_corrections(study) == []
    assert corrections(study) == tuple(first)
    json.dumps(first[0].to_json(), allow_nan=False)


def test_unreadable_corrections_are_left_out(study: Study) -> None:
    _predict(study, _square(2, 8))
    _finish(study, _square(3, 9), [4])
    record_corrections(study)
    folder = study.folder / "corrections"
    (folder / "c-0007.json").write_text("{")
    (folder / "other.json").write_text("{}")
    assert len(corrections(study)) == 1


def test_a_damaged_version_is_left_out(study: Study) -> None:
    _predict(study, _square(2, 8))
    version = _finish(study, _square(3, 9), [4])
    folder = study.folder / "cases" / "c" / "labels" / f"{version:04d}"
    (folder / "origin.nrrd").write_bytes(b"torn")
    assert record_corrections(study) == []


def test_applying_a_draft_records_what_it_corrected(study: Study) -> None:
    _predict(study, _square(2, 8))
    drawn = np.zeros(_SHAPE, np.uint16)
    drawn[4] = _square(3, 9)[4]
    mark = Mark(plane="axial", indices=(4,), state=SliceState.DONE, ids=(1, 2))
    study.save_draft("c", [drawn], marks=[mark])

    assert run(["study", "apply", str(study.folder), "--json"], lambda event: None) == 0

    assert [one.slices for one in corrections(study)] == [1]


def _entry(kind: str, time: str, **data: Any) -> Entry:
    return Entry(time=f"2026-01-01T10:{time}.000+00:00", kind=kind, data=data)


def test_pauses_count_five_minutes_at_most(study: Study) -> None:
    entries = [
        _entry("annotated", "00:00"),
        _entry("annotated", "01:30"),
        _entry("predicted", "30:00"),
        _entry("marked", "50:00"),
        _entry("annotated", "49:00"),
        Entry(time="no time", kind="annotated", data={}),
    ]
    assert [minutes for _, minutes in worked(entries)] == [0.0, 1.5, 5.0, 0.0, 0.0]
    assert minutes_of(study, "c", 9) == 0.0


def test_rounds_begin_with_each_model(study: Study) -> None:
    _finish(study, _square(2, 8), [1])
    _add_model(study, 0.8)
    _predict(study, _square(2, 8))
    _finish(study, _square(3, 9), [4, 5])
    record_corrections(study)
    _add_model(study)

    found = rounds(study)

    assert [one.number for one in found] == [0, 1, 2]
    assert [one.slices for one in found] == [1, 2, 0]
    assert [one.validation for one in found] == [None, 0.8, None]
    assert found[1].corrected == 2
    assert found[1].dice == pytest.approx(2 * 30 / 72)
    assert found[1].added_ml == pytest.approx(12 * 0.006)
    assert found[1].surface_mm is not None
    assert found[2].dice is None


def _round(number: int, dice: float | None, corrected: int = 5) -> Round:
    return Round(
        number=number,
        name=f"model {number}",
        created="",
        minutes=12.0,
        slices=8,
        validation=None,
        corrected=corrected,
        dice=dice,
        added_ml=0.0,
        removed_ml=0.0,
        surface_mm=None,
    )


def test_the_hint_says_what_it_rests_on() -> None:
    assert hint([_round(0, None)]).go_on is True
    unclear = hint([_round(0, None), _round(1, 0.5, corrected=2)])
    assert unclear.go_on is None
    assert "so far 2" in unclear.reason
    good = hint([_round(0, None), _round(1, 0.97)])
    assert good == Hint(go_on=False, reason=good.reason)
    assert "97.0 % (Dice) stayed" in good.reason
    first = hint([_round(0, None), _round(1, 0.8)])
    assert first.go_on is True
    small = hint([_round(0, None), _round(1, 0.8), _round(2, 0.803)])
    assert small.go_on is False
    assert "12 minutes of drawing (8 slices) gained +0.3 points" in small.reason
    large = hint([_round(0, None), _round(1, 0.8), _round(2, 0.85)])
    assert large.go_on is True


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 30])
def test_intervals_cover_the_true_mean_in_nine_of_ten_studies(n: int) -> None:
    rng = np.random.default_rng(n)
    truth, hits = 0.85, 0
    for _ in range(200):
        ends = interval(list(rng.beta(17, 3, size=n)), seed=1)
        assert ends is not None
        hits += ends[0] <= truth <= ends[1]
    assert hits >= 180


def test_intervals_stay_within_what_a_score_can_be() -> None:
    assert interval([0.5]) is None
    low, high = interval([0.02, 0.98]) or (None, None)
    assert (low, high) == (0.0, 1.0)
    millimetres = interval([1.0, 9.0, 20.0])
    assert millimetres is not None
    assert millimetres[1] > 20


def _row(case: str, structure: str, dice: float | None, modality: str = "CT") -> dict[str, Any]:
    return {"case": case, "structure": structure, "dice": dice, "modality": modality}


def test_scores_are_summed_up_by_modality_structure_and_patient() -> None:
    rows = [
        _row("a", "liver", 0.9),
        _row("b", "liver", 0.7),
        _row("c", "liver", 0.5),
        _row("a", "spleen", None),
        _row("m", "liver", 0.4, "MR"),
    ]
    found = summaries(rows, patients={"a": "p", "b": "p"})

    assert [(one.modality, one.structure, one.n) for one in found] == [
        ("CT", "liver", 2),
        ("CT", "all", 2),
        ("MR", "liver", 1),
        ("MR", "all", 1),
    ]
    assert found[0].mean == pytest.approx(0.65)
    assert found[2].low is None
    with pytest.raises(ConfigError):
        summaries(rows, seed=-1)


@pytest.fixture
def command(study: Study) -> Callable[..., Any]:
    """Runs a `semiseg history` command on the study; data of its last event."""

    def call(name: str, *arguments: str, code: int = 0) -> Any:
        events = []
        line = ["history", name, str(study.folder), *arguments]
        assert run(line, events.append) == code
        return events[-1]

    return call


def test_history_lists_and_names(study: Study, command: Callable[..., Any]) -> None:
    _finish(study, _square(2, 8), [1])
    command("name", "label:1", "first try", "--case", "c")
    command("pin", "label:1", "--case", "c")
    row = command("list", "c").data["versions"][0]
    assert (row["name"], row["pinned"], row["number"]) == ("first try", True, 1)
    command("pin", "label:1", "--case", "c", "--off")
    assert not command("list").data["versions"][0]["pinned"]


def test_history_shows_rounds_with_advice(study: Study, command: Callable[..., Any]) -> None:
    _add_model(study)
    _predict(study, _square(2, 8))
    _finish(study, _square(2, 8), [1, 2, 3])

    told = command("rounds").data

    assert told["go_on"] is False
    assert told["rounds"][1]["corrected"] == 3
    assert told["corrections"][0]["case_id"] == "c"
    assert run(["history", "rounds", str(study.folder)]) == 0


def test_a_model_is_listed_with_what_to_expect_in_new_patients(
    study: Study, command: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"modality": "all", "structure": "all", "mean": 0.7, "n": 3, "low": 0.55, "high": 0.86}
    validation: Any = {"dice": 0.71, "summaries": [own]}
    study.add_model(
        lambda folder: (folder / "w").write_bytes(b"w") and None, {"validation": validation}
    )
    _add_model(study, 0.6)

    listed = [v for v in command("list").data["versions"] if v["kind"] == "model"]
    told = command("rounds").data["rounds"]

    expected = [(0.55, 0.86), (None, None)]
    assert [(one["low"], one["high"]) for one in listed] == expected
    assert [(one["low"], one["high"]) for one in told] == [(None, None), *expected]
    capsys.readouterr()
    assert run(["history", "rounds", str(study.folder)]) == 0
    shown = capsys.readouterr().out
    assert "0.710 (0.55 to 0.86)" in shown
    assert "0.600" in shown


def test_the_report_shows_rounds_advice_and_learning_curve(study: Study) -> None:
    assert report_rounds(study) is None
    _finish(study, _square(2, 8), [0])
    _add_model(study, 0.7)
    _predict(study, _square(2, 8))
    _finish(study, _square(3, 9), [1, 2, 3])
    _add_model(study)

    found = report_rounds(study)

    assert found is not None
    assert found.advice == "Not known yet"
    assert [series.name for series in found.charts[0].series] == [
        "what was suggested",
        "validation",
    ]
    page = write_report(study).read_text(encoding="utf-8")
    assert "Another round?" in page
    assert "Corrected slices" in page


def test_a_model_without_figures_has_no_curve(study: Study) -> None:
    _add_model(study)
    found = report_rounds(study)
    assert found is not None
    assert found.charts == ()


def test_history_compares_and_writes_the_changed_voxels(
    study: Study, command: Callable[..., Any], tmp_path: Path
) -> None:
    _predict(study, _square(2, 8))
    _predict(study, _square(3, 8))
    out = tmp_path / "changed.nii.gz"

    told = command("compare", "c", "prediction:1", "prediction:2", "--out", str(out)).data

    assert told["changed"] == 48
    assert told["structures"][0]["removed"] == 48
    assert read_map(out)[0].sum() == 48
    assert told["files"] == {}

    arrays = command(
        "compare", "c", "prediction:1", "prediction:2", "--arrays", str(tmp_path / "maps")
    ).data["files"]

    for name, version in (("first", 1), ("second", 2)):
        said = study.prediction("c", version)
        assert said is not None
        np.testing.assert_array_equal(np.load(arrays[name]), said.array)


def test_history_goes_back(study: Study, command: Callable[..., Any]) -> None:
    study.propagated("c", _square(2, 8), _weights(), structure_ids=[1, 2], gate=_ACCEPT, info={})
    study.propagated("c", _square(2, 3), _weights(), structure_ids=[1, 2], gate=_ACCEPT, info={})
    assert command("back", "c", "label:1", "--structures", "liver").data["label_version"] == 3
    assert command("back", "c", "label:1").data["label_version"] == 4
    for _ in range(2):
        _predict(study, _square(2, 8))
    assert command("back", "c", "prediction:1").data["prediction_version"] == 1
    _predict(study, _square(3, 8))
    mixed = command("back", "c", "prediction:1", "--structures", "liver").data
    assert mixed["prediction_version"] == 4
    assert "as in version 1" in study.version_rows()[-1].what
    assert "segmenting with it anew" in command("back", "c", "model:1", code=2).message


def test_history_tells_what_each_version_changed_and_keeps_it(
    study: Study, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _predict(study, _square(2, 8))
    _predict(study, _square(3, 8))
    _finish(study, _square(2, 8), [1])
    _finish(study, _square(2, 8, 2), [1])

    def told(*options: str) -> list[Any]:
        return [row["changes"] for row in command("list", *options).data["versions"]]

    assert told() == [None] * 4
    rows = command("list").data["versions"]
    kinds = {(row["kind"], row["number"]): row for row in rows}
    assert kinds["label", 2]["minutes"] is not None
    assert kinds["prediction", 1]["uncertainty"] is not None
    assert kinds["prediction", 1]["score"] is None
    first = told("--changes")
    assert first == [
        None,
        [{"id": 1, "added": 0, "removed": 36}, {"id": 2, "added": 36, "removed": 0}],
        None,
        [{"id": 1, "added": 0, "removed": 48}],
    ]
    monkeypatch.setattr(Study, "compare", None)
    assert told("--changes") == first
    assert run(["history", "list", str(study.folder), "--changes"]) == 0


def test_changes_of_unreadable_versions_are_left_out(study: Study, tmp_path: Path) -> None:
    for first in (2, 3, 4):
        _predict(study, _square(first, 8))
    rows = study.version_rows()
    folder = study.folder / "cases" / "c" / "predictions"
    path = folder / "0002" / "label.seg.nrrd"
    path.write_bytes(b"x" * path.stat().st_size)
    (study.cache_dir / "history").write_text("in the way")

    assert changes(study, rows) == {}


def test_history_prunes_only_when_told(study: Study, command: Callable[..., Any]) -> None:
    for index in range(4):
        _finish(study, _square(2, 8), [index])
    assert command("prune").data["bytes"] > 0
    assert len(study.label_versions("c")) == 4
    assert command("prune", "--delete", "--keep", "1").data["deleted"]
    assert len(study.label_versions("c")) == 1
    assert run(["history", "prune", str(study.folder)]) == 0


@pytest.mark.parametrize("text", ["label", "label:x", "picture:1", "label:1"])
def test_versions_are_written_one_way(text: str, command: Callable[..., Any]) -> None:
    assert command("pin", text, code=2).kind == "error"


def test_evaluation_tells_means_with_their_interval(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _predict(study, _square(2, 8))
    write_label(tmp_path / "r.nii.gz", _square(2, 8), _GRID, study.protocol.segments())
    events = []
    line = ["evaluate", str(study.folder), "--reference", f"c={tmp_path / 'r.nii.gz'}"]

    assert run(line, events.append) == 0

    found = events[-1].data["summaries"]
    assert found[0] == {
        "modality": "CT",
        "structure": "liver",
        "mean": 1.0,
        "n": 1,
        "low": None,
        "high": None,
    }
    assert run(line) == 0
    assert "Means over patients" in capsys.readouterr().out


def test_a_correction_without_any_voxel_has_no_dice() -> None:
    empty = Correction(
        case_id="c",
        version=1,
        created="",
        round=0,
        source="predicted",
        source_version=1,
        slices=1,
        minutes=0.0,
        structures=(),
    )
    assert empty.dice is None
