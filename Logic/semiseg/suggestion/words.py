"""Why a slice is suggested, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_DIFFER_MM2 = 20.0
_UNSURE = 0.15


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What speaks for a slice: where model and propagation differ, where it and the model before.

    `row` is the structure that gains most, None before any program; `missed` says that it was
    found nowhere in the scan, `beyond_mm2` what of it is to be expected though nobody said so.
    `others` counts further scans that the slice tells something of, `nearest_mm` is infinite
    where no slice of the plane is done.
    """

    row: int | None
    by_model: bool
    by_propagation: bool
    differ_mm2: float
    unsure: float
    nearest_mm: float
    others: int
    n_cases: int
    before_mm2: float = 0.0
    beyond_mm2: float = 0.0
    missed: bool = False


def reason(facts: Facts, names: Sequence[str]) -> str:
    """One sentence without an end."""
    parts = [_doubt(facts, names), _distance(facts)]
    return "; ".join(part for part in parts if part)


def _doubt(facts: Facts, names: Sequence[str]) -> str:
    if facts.row is None:
        return _coverage(facts)
    name = names[facts.row].replace("_", " ")
    if facts.missed:
        return f"the {name} was not found in this scan yet and probably lies about here"
    return _differing(facts, name) or _unsure(facts, name)


def _differing(facts: Facts, name: str) -> str:
    both = facts.by_model and facts.by_propagation
    if both and facts.differ_mm2 >= _DIFFER_MM2:
        return (
            f"the model and the propagation disagree on the {name} here "
            f"({facts.differ_mm2 / 100:.1f} cm²)"
        )
    if facts.by_model and facts.before_mm2 >= _DIFFER_MM2:
        return (
            f"the model and the one before it disagree on the {name} here "
            f"({facts.before_mm2 / 100:.1f} cm²)"
        )
    return ""


def _unsure(facts: Facts, name: str) -> str:
    if facts.beyond_mm2 >= _DIFFER_MM2:
        return f"the {name} probably goes on here, beyond the last slice that is done"
    who = "the model" if facts.by_model else "the propagation"
    if facts.unsure >= _UNSURE:
        return f"{who} is unsure of the {name} here"
    return f"what {who} says of the {name} is least backed by drawn slices around here"


def _coverage(facts: Facts) -> str:
    if facts.others:
        scans = "scan" if facts.others == 1 else "scans"
        return f"it looks like parts of {facts.others} other {scans} of which little is known"
    if facts.n_cases > 1:
        return "it looks like nothing that is drawn yet"
    return "nothing is known of this part of the scan yet"


def _distance(facts: Facts) -> str:
    if math.isinf(facts.nearest_mm):
        return "no slice of this scan is done in this plane yet"
    return f"{facts.nearest_mm:.0f} mm from the nearest done slice"
