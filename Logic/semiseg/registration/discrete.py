"""Coarse matching: every displacement of a cell is tried, then neighbours are made to agree.

Sources: Heinrich et al., MICCAI 2014 (coupled convex optimisation of discrete choices); Siebert
et al., ConvexAdam, arXiv 2024 (both directions made consistent).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.sampling import FeatureMap, block_mean, feature_map, lattice_points, rows
from semiseg.registration.start import Start

_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_CONSISTENCY_ROUNDS = 15


@dataclass(frozen=True, kw_only=True)
class Coarse:
    """Displacement in mm of cells, `map.table` (N, 3) in z, y, x, read like features."""

    map: FeatureMap

    def at(self, points_mm_zyx: Tensor) -> Tensor:
        """Displacement (N, 3) at points (N, 3); beyond the cells the border's."""
        return self.map.sample(points_mm_zyx)[0]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """One image at the resolution of cells: as the `cells` to place, and `soft` to be searched.

    The mask of `cells` is the share of each that lies in the body.
    """

    cells: FeatureMap
    soft: FeatureMap


def blocks(features: FeatureMap, side: int) -> Blocks:
    """Cells of `side` cubed nodes of `features`."""
    return Blocks(cells=_cells(features, side), soft=_softened(features, side))


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Displacements before the start that lead there, and back; they undo each other.

    `apart_mm` is how far the two, found each by itself, were from doing so: the median over the
    fixed body of the way there and back.
    """

    forth: Coarse
    back: Coarse
    apart_mm: float


def search_both_ways(fixed: Blocks, moving: Blocks, start: Start, *, reach: int = 4) -> Searched:
    """What leads from fixed to moving, and from moving to fixed.

    Displacements reach `reach` cells along every axis; both need cells of the same size.
    """
    home = start.inverse()
    forth = _search(fixed.cells, moving.soft, start, reach)
    back = _search(moving.cells, fixed.soft, home, reach)
    apart_mm = _apart_mm(forth, back, start, home)
    forth, back = _consistent(forth, back, start, home)
    return Searched(forth=forth, back=back, apart_mm=apart_mm)


def _apart_mm(forth: Coarse, back: Coarse, start: Start, home: Start) -> float:
    u = forth.map.table
    there = start(forth.map.points() + u)
    returned, inside = back.map.sample(there)
    seen = inside & (forth.map.mask.flatten() > 0.5)
    missed = (u + returned @ home.matrix.T).norm(dim=1)[seen]
    return float(missed.median()) if len(missed) else 0.0


def _search(cells: FeatureMap, moving: FeatureMap, start: Start, reach: int) -> Coarse:
    cost, choices = _cost_volume(cells, moving, start, reach)
    field = _coupled(cost, choices, cells.shape) * cells.spacing_mm
    return Coarse(map=replace(cells, table=rows(field)))


def _consistent(
    forward: Coarse, backward: Coarse, start: Start, back: Start
) -> tuple[Coarse, Coarse]:
    """Both fields drawn towards each other's inverse."""
    here, there = forward.map.points(), backward.map.points()
    for _ in range(_CONSISTENCY_ROUNDS):
        u, v = forward.map.table, backward.map.table
        to_fixed = backward.at(start(here + u)) @ back.matrix.T
        to_moving = forward.at(back(there + v)) @ start.matrix.T
        forward = Coarse(map=replace(forward.map, table=(u - to_fixed) / 2))
        backward = Coarse(map=replace(backward.map, table=(v - to_moving) / 2))
    return forward, backward


def _cells(features: FeatureMap, factor: int) -> FeatureMap:
    """Means over cubes; the mask is the share of each cube that lies in the body."""
    return feature_map(
        block_mean(features.volume, factor),
        block_mean(features.mask[None].float(), factor)[0],
        features.origin_mm_zyx + (factor - 1) / 2 * features.spacing_mm,
        features.spacing_mm * factor,
    )


def _softened(features: FeatureMap, side: int) -> FeatureMap:
    """Running means over cubes of `side` nodes, so that cells compare with cells."""
    before, after = (side - 1) // 2, side // 2
    padded = functional.pad(features.volume[None], (before, after) * 3, mode="replicate")
    soft = functional.avg_pool3d(padded, side, stride=1)[0]
    centre = features.origin_mm_zyx + (after - before) / 2 * features.spacing_mm
    return feature_map(soft, features.mask, centre, features.spacing_mm)


def _cost_volume(
    cells: FeatureMap, moving: FeatureMap, start: Start, reach: int
) -> tuple[Tensor, Tensor]:
    """Squared distances (K, N) of N cells for the K displacements (K, 3), in cells.

    Weighted by the share of body, smoothed over neighbours. Places outside the moving image cost
    the mean of the others, so that they neither attract nor repel.
    """
    shape = cells.shape
    wide = [n + 2 * reach for n in shape]
    origin = cells.origin_mm_zyx - reach * cells.spacing_mm
    points = lattice_points(wide, origin, cells.spacing_mm).reshape(-1, 3)
    values, inside = moving.sample(start(points))
    seen, shifted = inside.reshape(wide), values.T.reshape(-1, *wide).contiguous()
    target = cells.volume.contiguous()
    steps = torch.arange(-reach, reach + 1, device=target.device, dtype=torch.float32)
    choices = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    cost = torch.empty(len(choices), *shape, device=target.device)
    for row, corner in enumerate((choices + reach).long().tolist()):
        window = tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))
        difference = (target - shifted[(slice(None), *window)]).square_().sum(0)
        cost[row] = difference.where(seen[window], torch.nan)
    typical = cost[:, cells.mask > 0].nanmean().nan_to_num(0.0)
    cost = cost.where(~cost.isnan(), typical).mul_(cells.mask)
    return _neighbour_mean(cost).flatten(1), choices


def _coupled(cost: Tensor, choices: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Smooth field (3, D, H, W), in cells: the best choices pulled ever closer to their mean."""
    norms = choices.square().sum(1, keepdim=True)
    field = _chosen(cost, choices, shape)
    for weight in _COUPLING:
        pull = norms - 2 * choices @ field.flatten(1)
        field = _chosen(cost + weight * pull, choices, shape)
    return field


def _chosen(cost: Tensor, choices: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The cheapest choice of each cell, averaged over neighbours."""
    field = choices[cost.argmin(0)].T.reshape(1, -1, *shape)
    padded = functional.pad(field, (1,) * 6, mode="replicate")
    return functional.avg_pool3d(padded, 3, stride=1)[0]


def _neighbour_mean(volume: Tensor) -> Tensor:
    """Means over a cell and its neighbours inside; padded by hand, as pooling refuses thin ones."""
    inside = torch.ones_like(volume[:1])
    sums = [
        functional.avg_pool3d(functional.pad(v[None], (1,) * 6), 3, 1)[0] for v in (volume, inside)
    ]
    return sums[0] / sums[1]
