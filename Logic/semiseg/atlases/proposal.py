"""What propagation would save for a case, and how two proposals become one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semiseg.study.case import GateRecord


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A label to save, (z, y, x) on the case's own grid, for `ids`, with the gate's verdict.

    `via` is the case that the atlases' labels came over, if they did not come directly.
    """

    array: NDArray[np.uint16]
    confidence: NDArray[np.float32]
    ids: tuple[int, ...]
    gate: GateRecord
    atlases: tuple[str, ...] = ()
    via: str | None = None
    self_check: tuple[tuple[int, float], ...] = ()


def joined(fill: Proposal, lent: Proposal, human: NDArray[np.bool_]) -> Proposal:
    """The case's own slices first; atlases add what is not drawn here, or is far from any slice."""
    if lent.gate.verdict == "reject":
        return fill
    extra = tuple(sorted(set(lent.ids) - set(fill.ids)))
    adds = np.isin(lent.array, extra) & (fill.array == 0)
    shared = np.isin(lent.array, fill.ids) & np.isin(fill.array, [0, *lent.ids])
    adds |= shared & (lent.confidence > fill.confidence)
    adds &= ~human
    confidence = fill.confidence
    if extra:  # background now speaks of the added structures too
        confidence = np.where(fill.array == 0, np.minimum(confidence, lent.confidence), confidence)
    reasons = (*fill.gate.reasons, *(f"from other cases: {text}" for text in lent.gate.reasons))
    return Proposal(
        array=np.where(adds, lent.array, fill.array),
        confidence=np.where(adds, lent.confidence, confidence),
        ids=tuple(sorted({*fill.ids, *lent.ids})),
        gate=replace(fill.gate, reasons=reasons),
        atlases=lent.atlases,
        self_check=fill.self_check,
    )
