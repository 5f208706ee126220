"""Diffeomorphic matching: a stationary velocity whose flow moves the body, exactly undone by -v.

Sources: Arsigny et al., MICCAI 2006 (stationary velocities, scaling and squaring); Vercauteren et
al., MICCAI 2008 (both directions at once).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.dense import DenseSettings, body_nodes, descend, distance_at, some
from semiseg.registration.discrete import Coarse
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.sampling import FeatureMap, lattice_points
from semiseg.registration.spline import Spline, expand, roughness, zero_spline
from semiseg.registration.start import Start

_MARGIN_MM = 15.0  # beyond the volume, so that what flows out of it comes back
_LONGEST_STEP = 0.25  # of the lattice's spacing: what a single small step may move
_MOST_SQUARINGS = 12
_LOGARITHM_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Displacement `values` (3, D, H, W) in mm, z, y, x, on a lattice, made `repeats` times.

    Linear between nodes.
    """

    values: Tensor
    origin_mm_zyx: Tensor
    spacing_mm: float
    repeats: int = 1

    def at(self, points_mm_zyx: Tensor) -> Tensor:
        """Displacement (N, 3) at points (N, 3); beyond the lattice the border's."""
        here = points_mm_zyx
        for _ in range(self.repeats):
            place = (here - self.origin_mm_zyx) / self.spacing_mm
            here = here + _read(self.values, place.view(1, -1, 1, 1, 3))[:, :, 0, 0].T
        return here - points_mm_zyx


def refine_velocity(
    fixed: FeatureMap,
    moving: FeatureMap,
    start: Start,
    coarse: Coarse,
    settings: DenseSettings,
    landmarks: Landmarks | None = None,
) -> Spline:
    """The velocity near `coarse` under whose flow fixed and moving features agree both ways.

    A point p of the fixed body corresponds to `start(p + flow at p)`, a point q of the moving one
    to `r + backward flow at r` with `r = start.inverse()(q)`.
    """
    lattice = domain(fixed, settings.knot_mm)
    velocity = _logarithm(lattice, coarse)
    here, there = body_nodes(fixed), body_nodes(moving)
    if not len(here) or not len(there):
        return velocity
    places, back = fixed.points(), start.inverse()(moving.points())

    def loss(draw: torch.Generator) -> Tensor:
        out, home = integrated(velocity), integrated(velocity, backward=True)
        p, q = some(here, settings.points, draw), some(there, settings.points, draw)
        onto_moving = start(places[p] + out.at(places[p]))
        onto_fixed = back[q] + home.at(back[q])
        apart = distance_at(moving, onto_moving, fixed.table[p])
        apart = (apart + distance_at(fixed, onto_fixed, moving.table[q])) / 2
        if landmarks is not None:
            apart = apart + landmarks.both_ways(p, onto_moving, q, onto_fixed)
        return apart + settings.smoothness * roughness(velocity)

    return descend(velocity, loss, settings)


def domain(fixed: FeatureMap, knot_mm: float) -> Spline:
    """No motion, on a lattice that covers `fixed` with a margin."""
    nodes = math.ceil(_MARGIN_MM / fixed.spacing_mm)
    wide = [n + 2 * nodes for n in fixed.shape]
    origin = fixed.origin_mm_zyx - nodes * fixed.spacing_mm
    return zero_spline(_lattice(wide, origin, fixed.spacing_mm), knot_mm)


def _lattice(shape: Sequence[int], origin_mm_zyx: Tensor, spacing_mm: float) -> FeatureMap:
    """Nodes without features."""
    mask = torch.empty(*shape, device=origin_mm_zyx.device)
    empty = mask.new_empty(0, 1)
    return FeatureMap(table=empty, mask=mask, origin_mm_zyx=origin_mm_zyx, spacing_mm=spacing_mm)


def integrated(
    velocity: Spline,
    spacing_mm: float | None = None,
    *,
    backward: bool = False,
    repeats: int = 1,
) -> Flow:
    """The flow of `velocity` after one unit of time, or `backward`, on a lattice of `spacing_mm`.

    The spacing is that of the knots by default. Scaling and squaring: 2^n equal small steps, each
    too short to fold, doubled n times. The flow of 1 / `repeats` of the time, made so often, is
    undone the more exactly.
    """
    spacing_mm = velocity.knot_mm if spacing_mm is None else spacing_mm
    lengths = [(n - 3) * velocity.knot_mm for n in velocity.coefficients.shape[1:]]
    shape = [round(length / spacing_mm) + 1 for length in lengths]
    lattice = _lattice(shape, velocity.origin_mm_zyx, spacing_mm)
    values = expand(velocity.coefficients, velocity.bases(lattice)) / (spacing_mm * repeats)
    squarings = _squarings(values)
    values = values * ((-1.0 if backward else 1.0) / 2**squarings)
    nodes = lattice_points(lattice.shape, torch.zeros_like(velocity.origin_mm_zyx), 1.0)
    for _ in range(squarings):
        values = values + _read(values, (nodes + values.permute(1, 2, 3, 0))[None])
    return Flow(
        values=values * spacing_mm,
        origin_mm_zyx=velocity.origin_mm_zyx,
        spacing_mm=spacing_mm,
        repeats=repeats,
    )


def _squarings(voxels: Tensor) -> int:
    longest = float(voxels.detach().abs().max())
    if longest <= _LONGEST_STEP:
        return 0
    return min(math.ceil(math.log2(longest / _LONGEST_STEP)), _MOST_SQUARINGS)


def _read(values: Tensor, place: Tensor) -> Tensor:
    """`values` (3, D, H, W) at voxel coordinates (1, d, h, w, 3), z, y, x; (3, d, h, w)."""
    last = torch.tensor(values.shape[1:], device=values.device) - 1
    unit = (place * (2 / last.clamp(min=1)) - 1).flip(-1)
    read = functional.grid_sample(values[None], unit, padding_mode="border", align_corners=True)
    return read[0]


def _logarithm(lattice: Spline, coarse: Coarse) -> Spline:
    """A velocity whose flow comes near to `coarse`, which may fold."""
    knots = lattice.knots()
    wanted = coarse.at(knots.reshape(-1, 3)).T.reshape(3, *knots.shape[:3])
    velocity = lattice.with_coefficients(wanted.contiguous())
    for _ in range(_LOGARITHM_ROUNDS):
        reached = integrated(velocity).at(knots.reshape(-1, 3)).T.reshape(wanted.shape)
        velocity = lattice.with_coefficients(velocity.coefficients + (wanted - reached) / 2)
    return velocity
