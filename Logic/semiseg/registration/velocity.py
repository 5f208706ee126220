"""Stationary velocities of many pairs, whose flows move bodies and are exactly undone by -v.

Source: Arsigny et al., MICCAI 2006 (stationary velocities, scaling and squaring).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.discrete import Coarse
from semiseg.registration.sampling import lattice_points
from semiseg.registration.spline import Splines, basis, still
from semiseg.registration.stacked import Stack

_MARGIN_MM = 15.0  # beyond the volume, so that what flows out of it comes back
_LONGEST_STEP = 0.25  # of the lattice's spacing: what a single small step may move
_MOST_SQUARINGS = 12
_LOGARITHM_ROUNDS = 4
_LOGARITHM_SQUARINGS = 6  # fixed, so that a pair's does not depend on its batch


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Displacements `values` (B, 3, D, H, W) of a lattice, z, y, x, in nodes; made `repeats` times.

    Linear between nodes. `last` (B, 1, 3) is each pair's own last node, None where it is the
    lattice's.
    """

    values: Tensor
    origin_mm_zyx: Tensor
    spacing_mm: float
    last: Tensor | None = None
    repeats: int = 1

    def at(self, points_mm_zyx: Tensor) -> Tensor:
        """Displacement (B, N, 3) in mm at points (B, N, 3); beyond the lattice the border's."""
        begin = here = (points_mm_zyx - self.origin_mm_zyx) / self.spacing_mm
        for _ in range(self.repeats):
            here = here + self._read(here)
        return (here - begin) * self.spacing_mm

    def followed(self, points_mm_zyx: Tensor, steps: int) -> Tensor:
        """As `at`, of values that are velocities: after one unit of time in `steps` midpoint steps.

        The cheaper the fewer points there are; not undone exactly by the way back.
        """
        begin = here = (points_mm_zyx - self.origin_mm_zyx) / self.spacing_mm
        for _ in range(steps):
            halfway = here + self._read(here) / (2 * steps)
            here = here + self._read(halfway) / steps
        return (here - begin) * self.spacing_mm

    def _read(self, nodes: Tensor) -> Tensor:
        moved = read(self.values, nodes[:, :, None, None], self.last)[..., 0, 0]
        return moved.transpose(1, 2)


def domain(fixed: Stack, knot_mm: float) -> Splines:
    """No motion, on lattices that cover `fixed` with a margin."""
    return still(fixed, knot_mm, margin=math.ceil(_MARGIN_MM / fixed.spacing_mm))


def integrated(
    velocity: Splines,
    spacing_mm: float | None = None,
    *,
    directions: Sequence[int] = (1,),
    repeats: int = 1,
    squarings: int | None = None,
) -> Flow:
    """The flows of `velocity` after one unit of time on lattices of `spacing_mm`.

    -1 among `directions` is backward; the pairs of one direction follow those of the other. The
    spacing is that of the knots by default. Scaling and squaring: 2^n equal small steps, doubled
    n times, by default as many as it takes that none can fold. The flow of 1 / `repeats` of the
    time, made so often, is undone the more exactly.
    """
    spacing_mm = velocity.knot_mm if spacing_mm is None else spacing_mm
    shapes = [[_nodes(n, velocity.knot_mm, spacing_mm) for n in own] for own in velocity.shapes]
    values = _expanded(velocity, spacing_mm, _most(shapes)) / (spacing_mm * repeats)
    count = _squarings(values) if squarings is None else squarings
    values = torch.cat([values * (way / 2**count) for way in directions])
    last = None if velocity.own is None else _last(shapes, values.device)
    last = last if last is None else last.repeat(len(directions), 1, 1)
    zero = torch.zeros(3, device=values.device)
    nodes = lattice_points(values.shape[2:], zero, 1.0)
    for _ in range(count):
        values = values + read(values, nodes + values.permute(0, 2, 3, 4, 1), last)
    return Flow(
        values=values,
        origin_mm_zyx=velocity.origin_mm_zyx.repeat(len(directions), 1, 1),
        spacing_mm=spacing_mm,
        last=last,
        repeats=repeats,
    )


def _nodes(coefficients: int, knot_mm: float, spacing_mm: float) -> int:
    return round((coefficients - 3) * knot_mm / spacing_mm) + 1


def _most(shapes: Sequence[Sequence[int]]) -> list[int]:
    return [max(sizes) for sizes in zip(*shapes, strict=True)]


def _last(shapes: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return (torch.tensor(shapes, dtype=torch.float32) - 1)[:, None].to(device)


def _expanded(velocity: Splines, spacing_mm: float, shape: Sequence[int]) -> Tensor:
    """Velocities (B, 3, *shape) in mm at the nodes of a lattice that begins at the origin."""
    step = spacing_mm / velocity.knot_mm
    z, y, x = (
        basis(n, columns, step=step, first=0.0).to(velocity.coefficients.device)
        for n, columns in zip(shape, velocity.coefficients.shape[2:], strict=True)
    )
    return velocity.expanded((z, y, x))


def _squarings(nodes: Tensor) -> int:
    longest = float(nodes.detach().abs().max().nan_to_num(0.0))
    if longest <= _LONGEST_STEP:
        return 0
    return min(math.ceil(math.log2(longest / _LONGEST_STEP)), _MOST_SQUARINGS)


def read(values: Tensor, place: Tensor, last: Tensor | None = None) -> Tensor:
    """`values` (B, C, D, H, W) at coordinates (B, d, h, w, 3) in nodes, z, y, x; (B, C, d, h, w).

    Beyond `last` (B, 1, 3), or the lattice, the border's.
    """
    if last is not None:
        place = torch.minimum(place, last[:, :, None, None])
    size = torch.tensor(values.shape[2:], device=values.device) - 1
    unit = (place * (2 / size.clamp(min=1)) - 1).flip(-1)
    return functional.grid_sample(values, unit, padding_mode="border", align_corners=True)


def logarithm(lattice: Splines, coarse: Coarse) -> Splines:
    """Velocities whose flows come near to `coarse`, which may fold."""
    knots, shape = lattice.knots(), lattice.coefficients.shape
    own = 1.0 if lattice.own is None else lattice.own
    wanted = coarse.at(knots).transpose(1, 2).reshape(shape) * own
    velocity = lattice.with_coefficients(wanted)
    for _ in range(_LOGARITHM_ROUNDS):
        flow = integrated(velocity, squarings=_LOGARITHM_SQUARINGS)
        reached = flow.at(knots).transpose(1, 2).reshape(shape)
        missing = (wanted - reached) * own / 2
        velocity = lattice.with_coefficients(velocity.coefficients + missing)
    return velocity
