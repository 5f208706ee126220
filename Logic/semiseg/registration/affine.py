"""A start that is affine: what a quick dense match of the best start has in common everywhere."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from semiseg.config import RegistrationConfig
from semiseg.registration.batch import as_pairs
from semiseg.registration.dense import refine
from semiseg.registration.descent import DenseSettings
from semiseg.registration.discrete import search_both_ways
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import best_start
from semiseg.registration.start import Start

_QUICK = DenseSettings(iterations=20, smoothness=0.4, knot_mm=18.0, points=5_000)
_REACH = (2, 2, 2)
_FEWEST = 500
_ROUNDS, _KEPT = 4, 0.8
_LARGEST_STRETCH = 1.5


def affine_start(fixed: Prepared, moving: Prepared, config: RegistrationConfig) -> Start:
    """`best_start`, turned, stretched and sheared as a quick dense match from there asks for.

    Least squares over the body nodes that meet the other body, of which the worst fifth is left
    out in turn. The best start itself where too few meet, or where the map would be far from any
    body's.
    """
    start = best_start(fixed, moving, config)
    cells = fixed.plain.large_cells, moving.plain.large_cells
    found = search_both_ways([cells[0]], [cells[1]], [start], reach=_REACH)
    here, there = fixed.features, moving.features
    batch = as_pairs([here], [there], [start])
    spline = refine(batch, found.forth, replace(_QUICK, seed=config.seed))
    body = here.mask.flatten().nonzero()[:, 0]
    points = here.points()[body]
    moved = start(points + spline.on(batch.fixed)[0].flatten(1).T[body])
    inside = replace(there, table=there.mask.flatten()[:, None].float()).sample(moved)
    meets = inside[1] & (inside[0][:, 0] > 0.5)
    if int(meets.sum()) < _FEWEST:
        return start
    matrix, offset = _fitted(points[meets], moved[meets])
    stretch = torch.linalg.svdvals(matrix)
    if float(stretch.max()) > _LARGEST_STRETCH or float(stretch.min()) < 1 / _LARGEST_STRETCH:
        return start
    return replace(start, matrix=matrix, offset_mm=offset)


def _fitted(points: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (3, 3) and offset (3,) with moved ~ points @ matrix.T + offset, without outliers."""
    base = torch.cat([points, torch.ones_like(points[:, :1])], dim=1).double()
    target = moved.double()
    kept = torch.ones(len(base), dtype=torch.bool, device=base.device)
    solution = torch.zeros(4, 3, dtype=torch.float64, device=base.device)
    for _ in range(_ROUNDS):
        solution = torch.linalg.lstsq(base[kept], target[kept]).solution
        error = (base @ solution - target).norm(dim=1)
        kept = error <= error.quantile(_KEPT)
    return solution[:3].T.to(points.dtype).contiguous(), solution[3].to(points.dtype)
