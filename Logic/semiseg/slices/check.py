"""Leave-one-slice-out: which way of filling does best on slices whose outline is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from semiseg.slices.candidates import (
    FILL_METHODS,
    FillMethod,
    Guided,
    Opinion,
    interpolated,
    nearest,
)
from semiseg.slices.stack import Stack
from semiseg.slices.targets import held_out_targets

_MARGIN, _MARGIN_OF_ONE = 0.02, 0.3


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """Twice the pixels in common (`overlap`) and the pixels of both (`total`), per method.

    `slices` held-out slices went into it.
    """

    slices: int = 0
    overlap: Mapping[FillMethod, float] = field(default_factory=dict)
    total: Mapping[FillMethod, float] = field(default_factory=dict)

    def dice(self, method: FillMethod) -> float | None:
        """Dice over all held-out slices together; None where there was nothing to check."""
        total = self.total.get(method, 0.0)
        return self.overlap[method] / total if total > 0 else None

    def joined(self, other: SelfCheck) -> SelfCheck:
        """Both checks as one."""
        methods = [m for m in FILL_METHODS if m in self.total or m in other.total]
        return SelfCheck(
            slices=self.slices + other.slices,
            overlap={m: self.overlap.get(m, 0) + other.overlap.get(m, 0) for m in methods},
            total={m: self.total.get(m, 0) + other.total.get(m, 0) for m in methods},
        )


def check_methods(stack: Stack, guided: Guided | None) -> SelfCheck:
    """Every method on each done slice that others can tell; without `guided` not that one.

    Held-out slices are twice as far from their neighbours as the slices to fill, so that the
    truth is better than the check says.
    """
    targets = held_out_targets(stack)
    if not targets:
        return SelfCheck()
    opinions: dict[FillMethod, Opinion] = {
        "interpolated": interpolated(stack, targets),
        "nearest": nearest(stack, targets),
    }
    if guided is not None:
        opinions["guided"] = guided.coarse(targets)
    place_of = {place: k for k, place in enumerate(stack.done)}
    truth = stack.distance[[place_of[target.place] for target in targets]] > 0
    return SelfCheck(
        slices=len(targets),
        overlap={m: 2 * _count(truth & (score > 0)) for m, (score, _) in opinions.items()},
        total={m: _count(truth) + _count(score > 0) for m, (score, _) in opinions.items()},
    )


def best_method(check: SelfCheck, *, image_guided: bool) -> FillMethod:
    """The best by the check; the image leads where the check does not clearly object.

    A check on few slices is noise: another way must be better by 0.02, and 0.3 shared among them.
    """
    allowed = [m for m in FILL_METHODS if image_guided or m != "guided"]
    margin = _MARGIN + _MARGIN_OF_ONE / max(check.slices, 1)

    def merit(method: FillMethod) -> float:
        return (check.dice(method) or 0.0) + (margin if method == "guided" else 0.0)

    return max(allowed, key=merit)


def _count(mask: Tensor) -> float:
    return float(mask.sum())
