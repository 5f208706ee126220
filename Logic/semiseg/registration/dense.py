"""Fine matching: a B-spline moved by Adam until the features agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from semiseg.registration.discrete import Coarse
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.spline import Spline, expand, roughness, zero_spline
from semiseg.registration.start import Start

_LAST_STEP_SHARE = 0.1
_LEAST_VOLUME = 0.2
_FOLDING_WEIGHT = 20.0


@dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """`smoothness` weighs squared slopes of the spline against squared feature distance.

    `points` body voxels, drawn anew for every step, stand for the whole body.
    """

    iterations: int = 60
    smoothness: float = 0.4
    knot_mm: float = 12.0
    step_mm: float = 5.0
    points: int = 15_000
    seed: int = 0


class Extra(Protocol):
    """A second opinion on where fixed nodes lie in the moving image."""

    def distance(self, nodes: Tensor, points_mm_zyx: Tensor) -> Tensor:
        """What it costs that the fixed `nodes` (N,) come to lie at points (N, 3)."""
        ...


def refine(
    fixed: FeatureMap,
    moving: FeatureMap,
    start: Start,
    coarse: Coarse,
    settings: DenseSettings,
    extra: Extra | None = None,
) -> Spline:
    """The spline near `coarse` with the least mean squared feature distance in the fixed body.

    A point p of the fixed body corresponds to `start(p + spline at p)`. What `extra` says is added.
    """
    spline = _from_coarse(fixed, coarse, settings.knot_mm)
    body = body_nodes(fixed)
    if not len(body):
        return spline
    match = _Match(fixed, start, spline)

    def loss(draw: torch.Generator) -> Tensor:
        nodes = some(body, settings.points, draw)
        points = match.points(spline, nodes)
        total = distance_at(moving, points, fixed.table[nodes])
        if extra is not None:
            total = total + extra.distance(nodes, points)
        total = total + settings.smoothness * roughness(spline)
        return total + _FOLDING_WEIGHT * match.shrinkage(spline, nodes)

    return descend(spline, loss, settings)


def descend(
    spline: Spline, loss: Callable[[torch.Generator], Tensor], settings: DenseSettings
) -> Spline:
    """`spline` after Adam's steps down `loss` of its coefficients; steps shrink towards the end.

    `loss` may draw random points from the generator that it is given.
    """
    spline.coefficients.requires_grad_()
    optimizer = torch.optim.Adam([spline.coefficients], lr=settings.step_mm)
    decay = _LAST_STEP_SHARE ** (1 / max(settings.iterations, 1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    draw = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.iterations):
        optimizer.zero_grad()
        loss(draw).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return spline.with_coefficients(spline.coefficients.detach())


def mean_distance(
    fixed: FeatureMap, moving: FeatureMap, start: Start, displacement_mm: Tensor | None = None
) -> float:
    """Mean squared feature distance in the fixed body, where the moving image reaches.

    `displacement_mm` (N, 3), z, y, x, of every fixed node comes before `start`; none by default.
    """
    body = body_nodes(fixed)
    points = fixed.points()[body]
    if displacement_mm is not None:
        points = points + displacement_mm[body]
    return float(distance_at(moving, start(points), fixed.table[body]))


def distance_at(features: FeatureMap, points_mm_zyx: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of the features at points (N, 3) from `wanted` (N, C), inside."""
    values, inside = features.sample(points_mm_zyx)
    squared = (values - wanted).square().sum(dim=1)
    return (squared * inside).sum() / inside.sum().clamp(min=1)


def body_nodes(features: FeatureMap) -> Tensor:
    """Numbers of the nodes in the body."""
    return features.mask.flatten().nonzero()[:, 0]


def some(body: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """`count` of `body`, with replacement; all of a smaller body."""
    if len(body) <= count:
        return body
    return body[torch.randint(len(body), (count,), generator=draw).to(body.device)]


class _Match:
    """What stays the same while a spline moves: places and weights."""

    def __init__(self, fixed: FeatureMap, start: Start, lattice: Spline) -> None:
        self._places = start(fixed.points())
        self._matrix = start.matrix
        self._bases = lattice.bases(fixed)
        self._slope_bases = [lattice.bases(fixed, slope_axis=axis) for axis in range(3)]

    def points(self, spline: Spline, nodes: Tensor) -> Tensor:
        """Where the fixed `nodes` lie in the moving image, (N, 3)."""
        moved = expand(spline.coefficients, self._bases).flatten(1)[:, nodes].T @ self._matrix.T
        return self._places[nodes] + moved

    def shrinkage(self, spline: Spline, nodes: Tensor) -> Tensor:
        """Mean squared shortfall of the local volume below `_LEAST_VOLUME`; keeps from folding."""
        slopes = [expand(spline.coefficients, b).flatten(1)[:, nodes] for b in self._slope_bases]
        jacobian = torch.stack(slopes).permute(2, 1, 0) + torch.eye(3, device=nodes.device)
        first, second, third = jacobian.unbind(dim=1)
        volume = (first * torch.linalg.cross(second, third)).sum(dim=1)
        missing: Tensor = (_LEAST_VOLUME - volume).clamp(min=0)
        return missing.square().mean()


def _from_coarse(fixed: FeatureMap, coarse: Coarse, knot_mm: float) -> Spline:
    spline = zero_spline(fixed, knot_mm)
    knots = spline.knots()
    values = coarse.at(knots.reshape(-1, 3))
    return spline.with_coefficients(values.T.reshape(3, *knots.shape[:3]).contiguous())
