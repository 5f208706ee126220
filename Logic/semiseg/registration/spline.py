"""Cubic B-spline displacements of many pairs: coarse lattices of coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from semiseg.registration.sampling import lattice_points
from semiseg.registration.stacked import Shape, Stack, largest, within

Bases = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Splines:
    """`coefficients` (B, 3, d, h, w) of cubic B-splines in mm, z, y, x: one field per pair.

    Coefficient k of an axis sits at `origin_mm_zyx` (B, 1, 3) + `knot_mm` * (k - 1). `shapes` are
    the pairs' own numbers of coefficients; what lies behind them is zero and never read.
    """

    coefficients: Tensor
    origin_mm_zyx: Tensor
    knot_mm: float
    shapes: tuple[Shape, ...]

    @cached_property
    def own(self) -> Tensor | None:
        """Which coefficients count (B, 1, d, h, w); None where all do."""
        wide = largest(self.shapes)
        if all(shape == wide for shape in self.shapes):
            return None
        return within(self.shapes, wide, self.coefficients.device)[:, None]

    def knots(self) -> Tensor:
        """Positions (B, d * h * w, 3) of the coefficients in mm, z, y, x."""
        shape, zero = self.coefficients.shape[2:], torch.zeros_like(self.origin_mm_zyx[0, 0])
        steps = lattice_points(shape, zero - self.knot_mm, self.knot_mm).view(1, -1, 3)
        return steps + self.origin_mm_zyx

    def with_coefficients(self, coefficients: Tensor) -> Splines:
        """The same lattice with other coefficients."""
        return replace(self, coefficients=coefficients)

    def one(self, pair: int) -> Splines:
        """That of one pair, a batch of its own without padding."""
        z, y, x = self.shapes[pair]
        return Splines(
            coefficients=self.coefficients[pair : pair + 1, :, :z, :y, :x].contiguous(),
            origin_mm_zyx=self.origin_mm_zyx[pair : pair + 1],
            knot_mm=self.knot_mm,
            shapes=(self.shapes[pair],),
        )

    def on(self, points: Stack, *, slope_axis: int | None = None) -> Tensor:
        """Displacements (B, 3, D, H, W) at the nodes of `points`, or their slopes per mm.

        The nodes of every pair must begin at the same distance from its coefficients.
        """
        return self.expanded(self.bases(points, slope_axis=slope_axis))

    def expanded(self, bases: Bases) -> Tensor:
        """Fields (B, 3, D, H, W) with one weight matrix (n nodes, n coefficients) per axis."""
        pairs, parts = self.coefficients.shape[:2]
        field = expand(self.coefficients.flatten(0, 1), bases)
        return field.view(pairs, parts, *field.shape[1:])

    def bases(self, points: Stack, *, slope_axis: int | None = None) -> Bases:
        """What `expanded` needs for the nodes of `points`."""
        offset = (points.origin_mm_zyx - self.origin_mm_zyx)[0, 0] / self.knot_mm
        z, y, x = (
            self._basis(axis, n, points.spacing_mm / self.knot_mm, first, slope_axis)
            for axis, (n, first) in enumerate(zip(points.shape, offset.tolist(), strict=True))
        )
        return z, y, x

    def _basis(
        self, axis: int, n: int, step: float, first: float, slope_axis: int | None
    ) -> Tensor:
        columns = self.coefficients.shape[axis + 2]
        if axis == slope_axis:
            weights = basis_slope(n, columns, step=step, first=first) / self.knot_mm
        else:
            weights = basis(n, columns, step=step, first=first)
        return weights.to(self.coefficients.device)

    def roughness(self) -> Tensor:
        """Mean squared slope (mm per mm) of each pair's coefficients, (B,), over all axes."""
        total = self.coefficients.new_zeros(len(self.shapes))
        for axis in (2, 3, 4):
            squared = (self.coefficients.diff(dim=axis) / self.knot_mm).square().sum(1)
            if self.own is None:
                total = total + squared.mean(dim=(1, 2, 3))
            else:
                own = self.own.narrow(axis, 1, squared.shape[axis - 1])[:, 0]
                total = total + (squared * own).sum(dim=(1, 2, 3)) / own.sum(dim=(1, 2, 3))
        return total


def still(covering: Stack, knot_mm: float, *, margin: int = 0) -> Splines:
    """No displacement, on lattices that cover every node of `covering` and `margin` more."""
    shapes = tuple(_knots(shape, margin, covering.spacing_mm, knot_mm) for shape in covering.shapes)
    device = covering.table.device
    return Splines(
        coefficients=torch.zeros(len(shapes), 3, *largest(shapes), device=device),
        origin_mm_zyx=covering.origin_mm_zyx - margin * covering.spacing_mm,
        knot_mm=knot_mm,
        shapes=shapes,
    )


def _knots(shape: Shape, margin: int, spacing_mm: float, knot_mm: float) -> Shape:
    """How many coefficients cover `shape` nodes with a `margin`."""
    lengths = [(n + 2 * margin - 1) * spacing_mm for n in shape]
    z, y, x = (math.ceil(length / knot_mm + 1e-6) + 3 for length in lengths)
    return z, y, x


def basis(n_points: int, n_coefficients: int, *, step: float, first: float) -> Tensor:
    """(n_points, n_coefficients) cubic weights at `first + step * i` knots from coefficient 1.

    Rows sum to 1; points beyond the lattice take its end. Source: Rueckert et al., TMI 1999,
    equation 3.
    """
    t, columns = _places(n_points, n_coefficients, step, first)
    weights = torch.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ],
        dim=1,
    )
    return _spread(weights, columns, n_coefficients)


def basis_slope(n_points: int, n_coefficients: int, *, step: float, first: float) -> Tensor:
    """The derivative of `basis` per knot."""
    t, columns = _places(n_points, n_coefficients, step, first)
    weights = torch.stack(
        [
            -((1 - t) ** 2) / 2,
            (3 * t**2 - 4 * t) / 2,
            (-3 * t**2 + 2 * t + 1) / 2,
            t**2 / 2,
        ],
        dim=1,
    )
    return _spread(weights, columns, n_coefficients)


def _places(n_points: int, n_coefficients: int, step: float, first: float) -> tuple[Tensor, Tensor]:
    """Of each point the place in its knot interval, [0, 1], and its four coefficients."""
    place = first + step * torch.arange(n_points, dtype=torch.float64)
    knot = place.floor().clamp(0, n_coefficients - 4)
    return (place - knot).clamp(0, 1), knot.long()[:, None] + torch.arange(4)


def _spread(weights: Tensor, columns: Tensor, n_coefficients: int) -> Tensor:
    matrix = torch.zeros(len(weights), n_coefficients, dtype=torch.float64)
    return matrix.scatter_(1, columns, weights).float()


def expand(coefficients: Tensor, bases: Bases) -> Tensor:
    """Field (C, D, H, W) of `coefficients` (C, d, h, w) with one `basis` per axis."""
    along_x = coefficients @ bases[2].T
    along_yx = bases[1] @ along_x
    return (bases[0] @ along_yx.flatten(2)).reshape(-1, bases[0].shape[0], *along_yx.shape[2:])
