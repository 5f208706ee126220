"""Scores of held-back patients: what the interval holds, and how far up it reaches."""

from __future__ import annotations

import math
from typing import Any

import pytest

from semiseg.learning.honest import Growth, with_intervals
from semiseg.rounds.intervals import interval
from semiseg.rounds.summary import read_overall, read_summaries

ROWS: Any = {
    "cases": {
        "a": {"1": 0.8, "2": 0.6},
        "a2": {"1": 0.9},
        "b": {"1": 0.7, "2": 0.8},
        "m": {"1": 0.5},
    }
}


class Scan:
    def __init__(self, modality: str, patient: str) -> None:
        self.modality, self.patient = modality, patient


CASES: Any = {
    "a": Scan("CT", "pa"),
    "a2": Scan("CT", "pa"),
    "b": Scan("CT", "pb"),
    "m": Scan("MR", "pm"),
}


def by_name(rows: Any) -> dict[tuple[str, str], Any]:
    return {(row["modality"], row["structure"]): row for row in rows}


def overall(rows: Any) -> Any:
    return read_overall({"summaries": rows})


def test_each_modality_and_structure_is_told_and_a_patient_counts_once() -> None:
    told = by_name(with_intervals("split", ROWS, CASES))
    assert set(told) == {
        *(("CT", name) for name in ("1", "2", "all")),
        *(("MR", name) for name in ("1", "all")),
        ("all", "all"),
    }
    liver = told["CT", "1"]
    assert liver["n"] == 2
    assert liver["mean"] == pytest.approx((0.85 + 0.7) / 2)
    assert (liver["low"], liver["high"]) == pytest.approx(interval([0.85, 0.7]))


def test_one_patient_has_no_interval() -> None:
    told = by_name(with_intervals("leave_one_out", ROWS, CASES, Growth(half=0.6, end=0.7, times=3)))
    assert told["MR", "1"]["mean"] == 0.5
    assert told["MR", "1"]["low"] is None
    assert told["MR", "1"]["high"] is None


@pytest.mark.parametrize("kind", ["slices", "none"])
def test_slices_of_known_scans_promise_nothing_of_new_ones(kind: Any) -> None:
    assert with_intervals(kind, ROWS, CASES) == []


def test_the_figure_for_everything_is_found() -> None:
    found = overall(with_intervals("split", ROWS, CASES))
    assert found.n == 3
    assert found.mean == pytest.approx(((0.8 + 0.6 + 0.9) / 3 + 0.75 + 0.5) / 3)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": None},
        {"mean": True},
        {"n": 0},
        {"n": "2"},
        {"low": "x"},
        {"low": None},
        {"modality": 1},
    ],
    ids=str,
)
def test_a_damaged_summary_is_left_out(change: dict[str, Any]) -> None:
    good = with_intervals("split", ROWS, CASES)
    told: Any = {"summaries": [{**good[-1], **change}, 3, *good[:-1]]}
    assert [one.to_json() for one in read_summaries(told)] == good[:-1]
    assert read_overall(told) is None


@pytest.mark.parametrize("told", [None, {}, [], {"summaries": None}, {"summaries": {"a": 1}}])
def test_older_models_have_no_summaries(told: Any) -> None:
    assert read_summaries(told) == ()
    assert read_overall(told) is None


def test_the_error_falls_on_as_it_fell() -> None:
    # .4 to .3 wrong in twice the time: in four times the time .3 * (3/4)^2.
    growth = Growth(half=0.6, end=0.7, times=4.0)
    assert growth.grown(0.7) == pytest.approx(1 - 0.3 * 0.75**2)
    assert growth.grown(0.9) == pytest.approx(1 - 0.1 * 0.75**2)


@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        (Growth(half=0.8, end=0.7, times=4.0), 0.6),
        (Growth(half=0.0, end=0.9, times=2.0), 0.8),
        (Growth(half=0.6, end=0.7, times=0.5), 0.6),
        (Growth(half=1.0, end=1.0, times=4.0), 0.6),
        (Growth(half=0.2, end=0.49, times=4.0), 1.0),
        (Growth(half=None, end=0.9, times=4.0), 1.0),
    ],
    ids=["it fell", "too steep", "shorter", "perfect", "hardly learned", "not looked at"],
)
def test_what_may_be_reached_stays_within_reason(growth: Growth, expected: float) -> None:
    assert growth.grown(0.6) == pytest.approx(expected)


def test_growth_moves_the_upper_end_alone() -> None:
    rows: Any = {"cases": {"a": {"1": 0.7}, "b": {"1": 0.72}}}
    plain = overall(with_intervals("leave_one_out", rows, CASES))
    growth = Growth(half=0.6, end=0.71, times=3.0)
    told = overall(with_intervals("leave_one_out", rows, CASES, growth))
    assert (told.mean, told.low) == (plain.mean, plain.low)
    reached = interval([growth.grown(0.7), growth.grown(0.72)])
    assert reached is not None
    assert told.high == pytest.approx(reached[1])
    assert told.high > plain.high


def test_growth_counts_the_folds_that_were_looked_at_twice() -> None:
    folds = {"p": {"a": {1: 0.8}}, "q": {"b": {1: 0.6}}, "r": {"m": {1: 0.1}}}
    found = Growth.of({"p": 0.7, "q": 0.4, "r": None, "gone": 0.2}, folds, 3.0)
    assert found.half == pytest.approx(0.55)
    assert found.end == pytest.approx(0.7)
    assert math.isclose(found.times, 3.0)
    assert Growth.of({}, folds, 3.0).half is None
