"""Cubic B-spline displacements: a coarse lattice of coefficients, evaluated exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiseg.registration.sampling import FeatureMap, lattice_points

Bases = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Spline:
    """Displacement in mm, `coefficients` (3, d, h, w), components and axes in z, y, x order.

    Coefficient k of an axis sits at `origin_mm_zyx + knot_mm * (k - 1)`.
    """

    coefficients: Tensor
    origin_mm_zyx: Tensor
    knot_mm: float

    def on(self, points: FeatureMap) -> Tensor:
        """Displacement (3, D, H, W) at the nodes of `points`."""
        return expand(self.coefficients, self.bases(points))

    def bases(self, points: FeatureMap, *, slope_axis: int | None = None) -> Bases:
        """One weight matrix (n nodes, n coefficients) per axis of `points`.

        Expanding with them gives the displacement, or its slope per mm along `slope_axis`.
        """
        first = ((points.origin_mm_zyx - self.origin_mm_zyx) / self.knot_mm).tolist()
        z, y, x = (
            self._basis(axis, n, points.spacing_mm / self.knot_mm, first[axis], slope_axis)
            for axis, n in enumerate(points.shape)
        )
        return z, y, x

    def _basis(
        self, axis: int, n: int, step: float, first: float, slope_axis: int | None
    ) -> Tensor:
        columns = self.coefficients.shape[axis + 1]
        if axis == slope_axis:
            weights = basis_slope(n, columns, step=step, first=first) / self.knot_mm
        else:
            weights = basis(n, columns, step=step, first=first)
        return weights.to(self.coefficients.device)

    def knots(self) -> Tensor:
        """Positions (d, h, w, 3) of the coefficients in mm, z, y, x."""
        shape = self.coefficients.shape[1:]
        return lattice_points(shape, self.origin_mm_zyx - self.knot_mm, self.knot_mm)

    def with_coefficients(self, coefficients: Tensor) -> Spline:
        """The same lattice with other coefficients."""
        return replace(self, coefficients=coefficients)


def zero_spline(covering: FeatureMap, knot_mm: float) -> Spline:
    """No displacement, on a lattice that covers every node of `covering`."""
    lengths = [(n - 1) * covering.spacing_mm for n in covering.shape]
    shape = [math.ceil(length / knot_mm + 1e-6) + 3 for length in lengths]
    zeros = torch.zeros(3, *shape, device=covering.table.device)
    return Spline(coefficients=zeros, origin_mm_zyx=covering.origin_mm_zyx, knot_mm=knot_mm)


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


def roughness(spline: Spline) -> Tensor:
    """Mean squared slope (mm per mm) of the coefficients, summed over axes and components."""
    c = spline.coefficients
    slopes = [c.diff(dim=axis) / spline.knot_mm for axis in (1, 2, 3)]
    return torch.stack([slope.square().sum(0).mean() for slope in slopes]).sum()
