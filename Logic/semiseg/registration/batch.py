"""Pairs of images as one batch: their features, starts, and the places that stand for bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiseg.registration.landmarks import Landmarks
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.stacked import Stack, Starts, stack, stack_starts
from semiseg.registration.start import Start


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """B pairs to be matched: features, starts, ways back, and what is known of each."""

    fixed: Stack
    moving: Stack
    starts: Starts
    home: Starts
    landmarks: Sequence[Landmarks | None]


def as_pairs(
    fixed: Sequence[FeatureMap],
    moving: Sequence[FeatureMap],
    starts: Sequence[Start],
    landmarks: Sequence[Landmarks | None] | None = None,
) -> Pairs:
    """A batch of fixed and moving features with their starts."""
    return Pairs(
        fixed=stack(fixed),
        moving=stack(moving),
        starts=stack_starts(starts),
        home=stack_starts([start.inverse() for start in starts]),
        landmarks=[None] * len(starts) if landmarks is None else landmarks,
    )


def mean_distances(features: Stack, points_mm_zyx: Tensor, chosen: Chosen) -> Tensor:
    """Mean squared distance (B,) of the features at points (B, N, 3) from `chosen`, inside."""
    values, inside = features.sample(points_mm_zyx)
    inside = inside & chosen.counts
    squared = (values - chosen.wanted).square().sum(dim=2)
    return squared.where(inside, 0.0).sum(dim=1) / inside.sum(dim=1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Nodes of B bodies: `rows` (B, N) of their maps, of which the first of `sizes` count."""

    rows: Tensor
    counts: Tensor
    sizes: tuple[int, ...]
    points: Tensor
    wanted: Tensor


class Body:
    """The nodes in the bodies of a stack, from which each step chooses."""

    def __init__(self, features: Stack) -> None:
        masks = features.mask.flatten(1) > 0
        self.counts = masks.sum(dim=1)
        self._sizes: list[int] = self.counts.tolist()
        self.most = max(self._sizes)
        self._features = features
        self._rows = masks.byte().argsort(dim=1, descending=True, stable=True)[:, : self.most]
        self._points = features.points()

    def some(self, chance: Tensor) -> Chosen:
        """Of each body the nodes at `chance` (N,) in [0, 1); all of a body that has no more."""
        counts, order = self.counts[:, None], torch.arange(len(chance), device=chance.device)
        few = counts <= len(chance)
        number = torch.where(few, order, (chance * counts).long())
        number = number.minimum(counts - 1).clamp(min=0)
        rows = self._rows.gather(1, number)
        return Chosen(
            rows=rows,
            counts=order < counts,
            sizes=tuple(min(size, len(chance)) for size in self._sizes),
            points=of_nodes(self._points, rows),
            wanted=of_nodes(self._features.rows, rows),
        )


def of_nodes(table: Tensor, rows: Tensor) -> Tensor:
    """What `table` (B, R, C) holds of the nodes `rows` (B, N): (B, N, C)."""
    if len(table) == 1:
        return table[0][rows[0]][None]
    return table.gather(1, rows[:, :, None].expand(-1, -1, table.shape[2]))
