"""Votes of look-alike patches: each pixel hears those pixels of other slices that resemble it.

Non-local label fusion (Coupe et al. 2011; Rousseau et al. 2011) after the slices were aligned, so
that a small search window is enough; it mends what a smooth motion cannot follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_FLOOR = 1e-10  # where nothing looks alike, the votes count equally


@dataclass(frozen=True, kw_only=True)
class Source:
    """An aligned slice per target: `grey`, `score` (N, 1, H, W) and `weight` (N,)."""

    grey: Tensor
    score: Tensor
    weight: Tensor


def patch_vote(
    grey: Tensor, sources: Sequence[Source], *, radius: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Score at `grey` (N, 1, H, W), and how surely the sources speak with one voice, in [0, 1].

    Patches within `radius` pixels weigh exp(-mean squared difference / `tolerance`^2). The second
    result is one minus the spread of the sources' own opinions.
    """
    totals, sums = [], []
    for source in sources:
        total, weighed = _votes(grey, source, radius, tolerance)
        totals.append(total)
        sums.append(weighed)
    score = _sum(sums, sources) / _sum(totals, sources)
    opinions = torch.stack([weighed / total for weighed, total in zip(sums, totals, strict=True)])
    inside = opinions.sigmoid()
    return score, 1 - (inside.amax(dim=0) - inside.amin(dim=0))


def usual_difference(grey: Tensor, sources: Sequence[Source]) -> float:
    """The median over pixels of the least difference between `grey` and any source."""
    apart = torch.stack([(grey - source.grey).abs() for source in sources]).amin(dim=0)
    apart = apart[apart > 0]  # clipped greys are equal without being alike
    return float(apart.median()) if apart.numel() else 0.0


def _sum(parts: Sequence[Tensor], sources: Sequence[Source]) -> Tensor:
    weighed = [
        part * source.weight.view(-1, 1, 1, 1) for part, source in zip(parts, sources, strict=True)
    ]
    return torch.stack(weighed).sum(dim=0)


def _votes(grey: Tensor, source: Source, radius: int, tolerance: float) -> tuple[Tensor, Tensor]:
    total, weighed = torch.full_like(grey, _FLOOR), _FLOOR * source.score
    for other, score in zip(
        _shifts(source.grey, radius), _shifts(source.score, radius), strict=True
    ):
        distance = _box_mean((grey - other) ** 2)
        weight = torch.exp(distance / -(tolerance**2))
        total = total + weight
        weighed = weighed + weight * score
    return total, weighed


def _shifts(values: Tensor, radius: int) -> Iterator[Tensor]:
    """`values` moved by every whole-pixel offset up to `radius`, borders repeated."""
    height, width = values.shape[-2:]
    wide = functional.pad(values, (radius,) * 4, mode="replicate")
    for y in range(2 * radius + 1):
        for x in range(2 * radius + 1):
            yield wide[..., y : y + height, x : x + width]


def _box_mean(values: Tensor) -> Tensor:
    """Means of 3 x 3 pixels, borders repeated."""
    wide = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
