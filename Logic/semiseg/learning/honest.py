"""The score of patients that were held back, with the interval in which that of new ones lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, cast

from semiseg.events import Json
from semiseg.learning.scheme import Kind
from semiseg.learning.scoring import Score
from semiseg.rounds.intervals import summaries
from semiseg.rounds.summary import ALL, ScoreSummary
from semiseg.study.case import Case

HARDLY_LEARNED = 0.5  # mean Dice below which a shorter training tells nothing of the longer one
Rows = Mapping[str, Mapping[Any, float]]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How the shorter trainings of leave-one-out still grew, and how much longer the model learns.

    `half` and `end` are their mean Dice after half of their time and at its end, None where it was
    not looked at; the kept model learns `times` as long.
    """

    half: float | None
    end: float
    times: float

    @classmethod
    def of(
        cls, early: Mapping[str, float | None], folds: Mapping[str, Rows], times: float
    ) -> Growth:
        """`early` mean Dice and Dice at the end by fold; those that were looked at twice count."""
        pairs = [
            (half, Score(dice=folds[name]).mean or 0.0)
            for name, half in early.items()
            if half is not None and name in folds
        ]
        if not pairs:
            return cls(half=None, end=0.0, times=times)
        return cls(half=fmean(h for h, _ in pairs), end=fmean(e for _, e in pairs), times=times)

    def grown(self, dice: float) -> float:
        """What a Dice may grow to in the longer training, an optimistic guess.

        The error falls as a power of the time, as it did over the second half, at most as its
        inverse. A training that hardly learned is no base for a guess: there it may become 1.
        """
        if self.half is None or self.end < HARDLY_LEARNED:
            return 1.0
        before, after = 1 - min(self.half, 1 - 1e-6), 1 - min(self.end, 1 - 1e-6)
        power = min(max(math.log2(before / after), 0.0), 1.0)
        return 1 - (1 - dice) * float(max(self.times, 1.0) ** -power)


def with_intervals(
    kind: Kind, score: Mapping[str, Json], cases: Mapping[str, Case], growth: Growth | None = None
) -> list[dict[str, Json]]:
    """`ScoreSummary` per modality and structure, as JSON; of both modalities together last.

    Structures are ids as text, or "all". Each patient counts once. Empty where no whole patients
    were held back: slices of scans that are learned from tell nothing of new ones. With `growth`
    the upper ends reach as far as the kept model may get.
    """
    if kind not in ("split", "leave_one_out"):
        return []
    rows = cast("Rows", score["cases"])
    found = _summaries(rows, cases)
    if growth is not None:
        grown = {case: {i: growth.grown(v) for i, v in row.items()} for case, row in rows.items()}
        tops = _summaries(grown, cases)
        found = [
            one if one.low is None else replace(one, high=top.high)
            for one, top in zip(found, tops, strict=True)
        ]
    return [one.to_json() for one in found]


def _summaries(rows: Rows, cases: Mapping[str, Case]) -> list[ScoreSummary]:
    flat: list[dict[str, Json]] = [
        {"case": case, "modality": cases[case].modality, "structure": structure, "dice": dice}
        for case, row in rows.items()
        for structure, dice in row.items()
    ]
    patients = {case: cases[case].patient for case in rows}
    together = summaries([{**row, "modality": ALL} for row in flat], patients=patients)
    return [
        *summaries(flat, patients=patients),
        *(one for one in together if one.is_of_everything),
    ]
