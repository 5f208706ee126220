"""Coarse matching: every displacement of a cell is tried, then neighbours are made to agree.

All of it works on many pairs at once. Sources: Heinrich et al., MICCAI 2014 (coupled convex
optimisation of discrete choices); Siebert et al., ConvexAdam, arXiv 2024 (both directions made
consistent).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.sampling import FeatureMap, block_mean, feature_map, lattice_points
from semiseg.registration.stacked import Stack, Starts, stack, stack_starts
from semiseg.registration.start import Start

_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_CONSISTENCY_ROUNDS = 15
Reach = tuple[int, int, int]
_REACH: Reach = (4, 4, 4)


@dataclass(frozen=True, kw_only=True)
class Coarse:
    """Displacements in mm of the cells of B pairs, the rows of `map`, z, y, x."""

    map: Stack

    def at(self, points_mm_zyx: Tensor) -> Tensor:
        """Displacement (B, N, 3) at points (B, N, 3); beyond the cells the border's."""
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
    """Displacements before the starts that lead there, and back; they undo each other.

    `apart_mm` (B,) is how far the two, found each by itself, were from doing so: the median over
    the fixed body of the way there and back.
    """

    forth: Coarse
    back: Coarse
    apart_mm: Tensor


def search_both_ways(
    fixed: Sequence[Blocks],
    moving: Sequence[Blocks],
    starts: Sequence[Start],
    *,
    reach: Reach = _REACH,
) -> Searched:
    """What leads from each fixed image to its moving one, and what leads back.

    Displacements reach `reach` cells along z, y, x; all need cells of the same size.
    """
    there, home = stack_starts(starts), stack_starts([start.inverse() for start in starts])
    here = stack([one.cells for one in fixed]), stack([one.soft for one in fixed])
    away = stack([one.cells for one in moving]), stack([one.soft for one in moving])
    forth = _search(here[0], away[1], there, reach)
    back = _search(away[0], here[1], home, reach)
    apart_mm = _apart_mm(forth, back, there, home)
    forth, back = _consistent(forth, back, there, home)
    return Searched(forth=forth, back=back, apart_mm=apart_mm)


def _apart_mm(forth: Coarse, back: Coarse, start: Starts, home: Starts) -> Tensor:
    u = forth.map.rows
    returned, inside = back.map.sample(start(forth.map.points() + u))
    seen = inside & (forth.map.mask.flatten(1) > 0.5)
    missed = (u + home.turned(returned)).norm(dim=2)
    median: Tensor = missed.where(seen, torch.nan).nanmedian(dim=1).values
    return median.nan_to_num(0.0)


def _search(cells: Stack, moving: Stack, start: Starts, reach: Reach) -> Coarse:
    cost, choices = _cost_volume(cells, moving, start, reach)
    field = _coupled(cost, choices, cells) * cells.spacing_mm
    return Coarse(map=cells.with_rows(field.flatten(2).transpose(1, 2)))


def _consistent(
    forward: Coarse, backward: Coarse, start: Starts, back: Starts
) -> tuple[Coarse, Coarse]:
    """Both fields drawn towards each other's inverse."""
    here, there = forward.map.points(), backward.map.points()
    for _ in range(_CONSISTENCY_ROUNDS):
        u, v = forward.map.rows, backward.map.rows
        to_fixed = back.turned(backward.at(start(here + u)))
        to_moving = start.turned(forward.at(back(there + v)))
        forward = Coarse(map=forward.map.with_rows((u - to_fixed) / 2))
        backward = Coarse(map=backward.map.with_rows((v - to_moving) / 2))
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


def _cost_volume(cells: Stack, moving: Stack, start: Starts, reach: Reach) -> tuple[Tensor, Tensor]:
    """Squared distances (K, B, D, H, W) of the cells for the K displacements (K, 3), in cells.

    Weighted by the share of body, smoothed over neighbours. Places outside the moving image cost
    the mean of the others, so that they neither attract nor repel.
    """
    seen, shifted = _surroundings(cells, moving, start, reach)
    target = cells.volume.contiguous()
    steps = [torch.arange(-r, r + 1, device=target.device, dtype=torch.float32) for r in reach]
    choices = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    cost = target.new_empty(len(choices), len(target), *cells.shape)
    windows = [range(2 * r + 1) for r in reach]
    for row, corner in zip(cost, itertools.product(*windows), strict=True):
        z, y, x = (slice(c, c + n) for c, n in zip(corner, cells.shape, strict=True))
        difference = (target - shifted[:, :, z, y, x]).square_().sum(1)
        row[:] = difference.where(seen[:, z, y, x], torch.nan)
    known = ~cost.isnan() & (cells.mask > 0)
    typical = cost.where(known, 0.0).sum((0, 2, 3, 4)) / known.sum((0, 2, 3, 4)).clamp(min=1)
    cost = cost.where(~cost.isnan(), typical.view(-1, 1, 1, 1)).mul_(cells.mask)
    return _neighbour_mean(cost, cells.own), choices


def _surroundings(
    cells: Stack, moving: Stack, start: Starts, reach: Reach
) -> tuple[Tensor, Tensor]:
    """Which places (B, d, h, w) up to `reach` cells around exist, and what is there (B, C, ...)."""
    wide = [n + 2 * r for n, r in zip(cells.shape, reach, strict=True)]
    device = cells.table.device
    corner = -torch.tensor(reach, dtype=torch.float32, device=device) * cells.spacing_mm
    points = lattice_points(wide, corner, cells.spacing_mm).view(1, -1, 3) + cells.origin_mm_zyx
    values, inside = moving.sample(start(points))
    volume = values.transpose(1, 2).reshape(len(values), -1, *wide)
    return inside.view(-1, *wide), volume.contiguous()


def _coupled(cost: Tensor, choices: Tensor, cells: Stack) -> Tensor:
    """Smooth field (B, 3, D, H, W), in cells: best choices pulled ever closer to their mean."""
    flat = cost.flatten(1)
    field = _chosen(flat, choices, cells)
    # |choice - field|^2, but for what all choices share
    terms = torch.cat([-2 * choices, choices.square().sum(1, keepdim=True)], dim=1)
    for weight in _COUPLING:
        place = field.transpose(0, 1).reshape(3, -1)
        place = torch.cat([place, torch.ones_like(place[:1])])
        field = _chosen(torch.addmm(flat, terms, place, alpha=weight), choices, cells)
    return field


def _chosen(cost: Tensor, choices: Tensor, cells: Stack) -> Tensor:
    """The cheapest choice of each cell, averaged over neighbours."""
    field = choices[cost.argmin(0)].view(-1, *cells.shape, 3).permute(0, 4, 1, 2, 3)
    return functional.avg_pool3d(cells.bordered(field), 3, stride=1)


def _neighbour_mean(volume: Tensor, own: Tensor) -> Tensor:
    """Means over a cell and its own neighbours; padded by hand, as pooling refuses thin ones."""
    sums = [
        functional.avg_pool3d(functional.pad(v, (1,) * 6), 3, 1)
        for v in (volume, own[None].float())
    ]
    return sums[0] / sums[1].clamp(min=1 / 27)
