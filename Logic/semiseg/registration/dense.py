"""Fine matching of many pairs, one way: B-splines moved by Adam until the features agree."""

from __future__ import annotations

import torch
from torch import Tensor

from semiseg.registration.batch import Body, Chosen, Pairs, mean_distances, of_nodes
from semiseg.registration.descent import DenseSettings, descend, draws
from semiseg.registration.discrete import Coarse
from semiseg.registration.spline import Splines, still

_LEAST_VOLUME = 0.2
_FOLDING_WEIGHT = 20.0


def refine(pairs: Pairs, coarse: Coarse, settings: DenseSettings) -> Splines:
    """The splines near `coarse` with the least mean squared feature distance in fixed bodies.

    A point p of a fixed body corresponds to `start(p + spline at p)`. What landmarks say is added.
    """
    spline = still(pairs.fixed, settings.knot_mm)
    values = coarse.at(spline.knots()).transpose(1, 2).reshape(spline.coefficients.shape)
    spline = spline.with_coefficients(values if spline.own is None else values * spline.own)
    body = Body(pairs.fixed)
    if not body.most:
        return spline
    chance = draws(settings, 1, values.device)[:, 0, : min(settings.points, body.most)]
    match = _Match(pairs, spline)

    def loss(coefficients: Tensor, step: int) -> Tensor:
        now, chosen = spline.with_coefficients(coefficients), body.some(chance[step])
        points = match.points(now, chosen)
        total = mean_distances(pairs.moving, points, chosen) + _said(pairs, chosen, points)
        total = total + settings.smoothness * now.roughness()
        total = total + _FOLDING_WEIGHT * match.shrinkage(now, chosen)
        return total.where(body.counts > 0, 0.0).sum()

    return spline.with_coefficients(descend(values, loss, settings))


def _said(pairs: Pairs, chosen: Chosen, points: Tensor) -> Tensor:
    """What the landmarks of each pair cost, (B,); nothing where it has none."""
    said = [points.new_zeros(())] * len(points)
    for pair, known in enumerate(pairs.landmarks):
        if known is not None:
            counted = slice(chosen.sizes[pair])
            nodes = pairs.fixed.own_numbers(pair, chosen.rows[pair])[counted]
            said[pair] = known.distance(nodes, points[pair][counted])
    return torch.stack(said)


class _Match:
    """What stays the same while splines move: places and weights."""

    def __init__(self, pairs: Pairs, lattice: Splines) -> None:
        self._starts = pairs.starts
        self._places = pairs.starts(pairs.fixed.points())
        self._bases = lattice.bases(pairs.fixed)
        self._slope_bases = [lattice.bases(pairs.fixed, slope_axis=axis) for axis in range(3)]

    def points(self, spline: Splines, chosen: Chosen) -> Tensor:
        """Where the chosen nodes lie in the moving images, (B, N, 3)."""
        moved = of_nodes(spline.expanded(self._bases).flatten(2).transpose(1, 2), chosen.rows)
        return of_nodes(self._places, chosen.rows) + self._starts.turned(moved)

    def shrinkage(self, spline: Splines, chosen: Chosen) -> Tensor:
        """Mean squared shortfall of local volumes below `_LEAST_VOLUME`, (B,): no folding."""
        slopes = [
            of_nodes(spline.expanded(bases).flatten(2).transpose(1, 2), chosen.rows)
            for bases in self._slope_bases
        ]
        jacobian = torch.stack(slopes, dim=2) + torch.eye(3, device=chosen.rows.device)
        first, second, third = jacobian.unbind(dim=2)
        volume = (first * torch.linalg.cross(second, third)).sum(dim=2)
        missing = (_LEAST_VOLUME - volume).clamp(min=0).square()
        total: Tensor = missing.where(chosen.counts, 0.0).sum(dim=1)
        return total / chosen.counts.sum(dim=1).clamp(min=1)
