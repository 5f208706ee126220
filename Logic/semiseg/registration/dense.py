"""Dense registration: a discrete search with coupled convex smoothing, then a spline by Adam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.sampling import FeatureMap, block_mean, feature_map, lattice_points
from semiseg.registration.spline import Spline, expand, roughness, zero_spline
from semiseg.registration.start import Start

_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """Lengths in mm; `smoothness` weighs squared slopes against squared feature distance."""

    iterations: int = 60
    smoothness: float = 0.3
    knot_mm: float = 12.0
    cell: int = 3
    reach: int = 4
    step_mm: float = 2.0


def discrete_search(
    fixed: FeatureMap, moving: FeatureMap, start: Start, settings: DenseSettings
) -> Spline:
    """The best of (2 reach + 1)^3 displacements per cell, smoothed by a coupled convex scheme.

    Source: Heinrich et al., MICCAI 2014 (coupled convex discrete optimisation); Siebert et al.,
    ConvexAdam, 2024.
    """
    cells = _cells(fixed, settings.cell)
    cost, choices = _cost_volume(cells, _softened(moving, settings.cell), start, settings.reach)
    field = _coupled(cost, choices, cells.shape) * cells.spacing_mm
    spline = zero_spline(fixed, settings.knot_mm)
    return spline.with_coefficients(_interpolated(field, cells, spline.knots()))


def refine(
    fixed: FeatureMap, moving: FeatureMap, start: Start, first: Spline, settings: DenseSettings
) -> Spline:
    """`first` improved by Adam on mean squared feature distance inside the fixed body."""
    keep = fixed.mask.flatten().nonzero()[:, 0]
    target, places = fixed.table[keep], start(fixed.points()[keep])
    bases = first.bases(fixed)
    spline = first.with_coefficients(first.coefficients.clone().requires_grad_())
    optimizer = torch.optim.Adam([spline.coefficients], lr=settings.step_mm)
    decay = 0.1 ** (1 / max(settings.iterations, 1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    for _ in range(settings.iterations):
        moved = expand(spline.coefficients, bases).flatten(1).T[keep] @ start.matrix.T
        loss = _distance(target, moving, places + moved) + settings.smoothness * roughness(spline)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return spline.with_coefficients(spline.coefficients.detach())


def mean_distance(
    fixed: FeatureMap, moving: FeatureMap, start: Start, spline: Spline | None
) -> float:
    """Mean squared feature distance inside the fixed body, where the moving image reaches."""
    keep = fixed.mask.flatten().nonzero()[:, 0]
    places = start(fixed.points()[keep])
    if spline is not None:
        moved = expand(spline.coefficients, spline.bases(fixed)).flatten(1).T[keep]
        places = places + moved @ start.matrix.T
    return float(_distance(fixed.table[keep], moving, places))


def _distance(target: Tensor, moving: FeatureMap, places: Tensor) -> Tensor:
    values, inside = moving.sample(places)
    squared = (values - target).square().sum(dim=1)
    return (squared * inside).sum() / inside.sum().clamp(min=1)


def _cells(features: FeatureMap, factor: int) -> FeatureMap:
    """Means over cubes; a cell belongs to the body where any of its nodes does."""
    covered = block_mean(features.mask[None].float(), factor)[0]
    return feature_map(
        block_mean(features.volume, factor),
        covered > 0,
        features.origin_mm_zyx + (factor - 1) / 2 * features.spacing_mm,
        features.spacing_mm * factor,
    )


def _softened(features: FeatureMap, side: int) -> FeatureMap:
    """Running means over cubes of an odd `side`, so that cells compare with cells."""
    padded = functional.pad(features.volume[None], (side // 2,) * 6, mode="replicate")
    soft = functional.avg_pool3d(padded, side, stride=1)[0]
    return feature_map(soft, features.mask, features.origin_mm_zyx, features.spacing_mm)


def _cost_volume(
    cells: FeatureMap, moving: FeatureMap, start: Start, reach: int
) -> tuple[Tensor, Tensor]:
    """Squared distances (K, N) for the K displacements (K, 3), in cells, of N cells.

    Cells outside the body cost nothing; places outside the moving image cost the mean.
    """
    shape = cells.shape
    wide = [n + 2 * reach for n in shape]
    origin = cells.origin_mm_zyx - reach * cells.spacing_mm
    points = lattice_points(wide, origin, cells.spacing_mm).reshape(-1, 3)
    values, inside = moving.sample(start(points))
    seen = inside.reshape(wide)
    shifted = values.T.reshape(-1, *wide)
    target = cells.volume.contiguous()
    steps = torch.arange(-reach, reach + 1, device=target.device, dtype=torch.float32)
    choices = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    cost = torch.empty(len(choices), *shape, device=target.device)
    for row, (z, y, x) in enumerate((choices + reach).long().tolist()):
        window = (slice(z, z + shape[0]), slice(y, y + shape[1]), slice(x, x + shape[2]))
        difference = (target - shifted[(slice(None), *window)]).square_().sum(0)
        cost[row] = difference.where(seen[window], torch.nan)
    typical = cost[:, cells.mask].nanmean().nan_to_num(0.0)
    cost = cost.where(~cost.isnan(), typical) * cells.mask
    return cost.flatten(1), choices


def _coupled(cost: Tensor, choices: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Smooth field (3, D, H, W), in cells: the best choices pulled ever closer to their mean."""
    norms = choices.square().sum(1, keepdim=True)
    field = _smooth(choices[cost.argmin(0)].T.reshape(-1, *shape))
    for weight in _COUPLING:
        pull = norms - 2 * choices @ field.flatten(1)
        field = _smooth(choices[(cost + weight * pull).argmin(0)].T.reshape(-1, *shape))
    return field


def _smooth(field: Tensor) -> Tensor:
    padded = functional.pad(field[None], (1,) * 6, mode="replicate")
    return functional.avg_pool3d(padded, 3, stride=1)[0]


def _interpolated(field: Tensor, like: FeatureMap, points: Tensor) -> Tensor:
    """`field` (3, ...) on the nodes of `like`, at `points` (d, h, w, 3): (3, d, h, w)."""
    source = feature_map(field, like.mask, like.origin_mm_zyx, like.spacing_mm)
    values, _ = source.sample(points.reshape(-1, 3))
    return values.T.reshape(-1, *points.shape[:3])
