"""The rounds of a study: what each cost, how good its suggestions were, and whether to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semiseg.events import Json
from semiseg.rounds.corrections import Correction, corrections
from semiseg.rounds.summary import read_overall
from semiseg.rounds.time import worked
from semiseg.study.journal import Entry
from semiseg.study.ledger import FINISHED
from semiseg.study.study import ModelRecord, Study

_GOOD_DICE = 0.95
_SMALL_GAIN = 0.01
_FEW_SLICES = 3


@dataclass(frozen=True, kw_only=True)
class Round:
    """From the model `number` (0: none yet) to the next.

    `minutes` and `slices` (finished ones) are those of this round. `dice` is how well what was
    suggested fitted what the human left, None where nothing suggested was corrected;
    `corrected` counts the slices behind it. `validation` is the model's own Dice; in new patients
    it is expected from `low` to `high` (None where that is not known).
    """

    number: int
    name: str
    created: str
    minutes: float
    slices: int
    validation: float | None
    corrected: int
    dice: float | None
    added_ml: float
    removed_ml: float
    surface_mm: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Json]:
        """Plain values for events."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Whether another round is worth it; None where that cannot be told yet."""

    go_on: bool | None
    reason: str


def rounds(study: Study) -> tuple[Round, ...]:
    """All rounds, oldest first; the first is that before any model."""
    models, kept = study.models(), corrections(study)
    starts = ["", *(model.created for model in models)]
    work = worked(study.journal.read())
    return tuple(
        _round(
            number,
            None if number == 0 else models[number - 1],
            [w for w in work if _number(starts, w[0].time) == number],
            [one for one in kept if one.round == number],
        )
        for number in range(len(starts))
    )


def hint(found: Sequence[Round]) -> Hint:
    """Goes by what had to be corrected in the last rounds, and what it gained."""
    last = found[-1]
    if last.number == 0:
        return Hint(
            go_on=True, reason="no model yet: draw slices in some scans, propagate and learn"
        )
    if last.dice is None or last.corrected < _FEW_SLICES:
        return Hint(
            go_on=None,
            reason=f"check at least {_FEW_SLICES} slices that the new model suggests and mark "
            f"them as done (so far {last.corrected}); then it is known how much is still wrong",
        )
    percent = f"{100 * last.dice:.1f} %"
    if last.dice >= _GOOD_DICE:
        return Hint(
            go_on=False,
            reason=f"of what was suggested in the last {last.corrected} slices, {percent} (Dice) "
            "stayed as it was; more slices will hardly change the result",
        )
    before = [one for one in found[:-1] if one.dice is not None]
    if before and before[-1].dice is not None:
        return _by_gain(last.dice - before[-1].dice, before[-1], percent)
    return Hint(
        go_on=True,
        reason=f"{percent} (Dice) of what was suggested stayed as it was; one more round will "
        "tell what a round gains",
    )


def _by_gain(gain: float, paid: Round, percent: str) -> Hint:
    cost = f"{paid.minutes:.0f} minutes of drawing ({paid.slices} slices)"
    if gain < _SMALL_GAIN:
        return Hint(
            go_on=False,
            reason=f"the last {cost} gained {100 * gain:+.1f} points of Dice, now at {percent}; "
            "another round like it will hardly pay",
        )
    return Hint(
        go_on=True,
        reason=f"the last {cost} gained {100 * gain:+.1f} points of Dice, now at {percent}; "
        "another round pays",
    )


def _number(starts: Sequence[str], time: str) -> int:
    return sum(start <= time for start in starts) - 1


def _round(
    number: int,
    model: ModelRecord | None,
    work: Sequence[tuple[Entry, float]],
    kept: Sequence[Correction],
) -> Round:
    scored = [(one.dice, one.slices) for one in kept if one.dice is not None]
    parts = [part for one in kept for part in one.structures]
    surfaces = [part.surface_mm for part in parts if part.surface_mm is not None]
    weights = [slices for _, slices in scored]
    own = None if model is None else read_overall(model.info.get("validation"))
    return Round(
        number=number,
        name="before the first model" if model is None else model.name,
        created="" if model is None else model.created,
        minutes=round(sum(minutes for _, minutes in work), 2),
        slices=len({place for entry, _ in work for place in _places(entry)}),
        validation=None if model is None else _validation(model),
        corrected=sum(weights),
        dice=float(np.average([d for d, _ in scored], weights=weights)) if scored else None,
        added_ml=sum(part.added_ml for part in parts),
        removed_ml=sum(part.removed_ml for part in parts),
        surface_mm=float(np.mean(surfaces)) if surfaces else None,
        low=None if own is None else own.low,
        high=None if own is None else own.high,
    )


def _validation(model: ModelRecord) -> float | None:
    told = model.info.get("validation")
    dice = told.get("dice") if isinstance(told, dict) else None
    return float(dice) if isinstance(dice, int | float) else None


def _places(entry: Entry) -> list[tuple[str, str, int]]:
    """Case, plane and number of the slices that an entry finished."""
    marks, found = entry.data.get("marks"), []
    for mark in marks if isinstance(marks, list) else []:
        if isinstance(mark, dict) and mark.get("state") in FINISHED:
            indices = mark.get("indices")
            for index in indices if isinstance(indices, list) else []:
                if isinstance(index, int):
                    found.append((str(entry.data.get("case")), str(mark.get("plane")), index))
    return found
