"""Displacement fields in the patient's millimetres: reading, folding, inverse error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.errors import GeometryMismatchError
from semiseg.images.grid import Grid
from semiseg.registration.linear import inside, read_linear


@dataclass(frozen=True, kw_only=True)
class Field:
    """`displacement_mm` (3, D, H, W): LPS components x, y, z at the voxels of `grid`.

    The fixed world point p corresponds to the moving world point p + u(p). Between voxels u is
    linear; beyond the grid it keeps the border's value.
    """

    displacement_mm: NDArray[np.float32]
    grid: Grid

    def __post_init__(self) -> None:
        expected = (3, *self.grid.shape_zyx)
        if self.displacement_mm.shape != expected:
            raise GeometryMismatchError(
                f"a displacement field of shape {self.displacement_mm.shape} does not fit its "
                f"grid, which needs {expected}"
            )

    def at(self, points_mm_lps: NDArray[np.float64]) -> NDArray[np.float32]:
        """Displacement (..., 3) in mm at world points (..., 3), x, y, z."""
        points = np.asarray(points_mm_lps, dtype=np.float64)
        voxel_zyx = self.grid.to_voxel(points.reshape(-1, 3))[:, ::-1]
        return read_linear(self.displacement_mm, voxel_zyx).T.reshape(points.shape)

    def moved(self, points_mm_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Moving world points (..., 3) of fixed world points (..., 3)."""
        moved: NDArray[np.float64] = points_mm_lps + self.at(points_mm_lps)
        return moved


def jacobian_determinant(field: Field) -> NDArray[np.float32]:
    """Local change of volume (D, H, W) of p -> p + u(p), central differences; 1 for identity."""
    steps = _spatial_steps(field.grid)
    displacement = torch.from_numpy(field.displacement_mm)
    slopes_xyz = [_slope(displacement, axis) for axis in (3, 2, 1)]
    columns: list[Tensor] = []
    for world in range(3):
        column = torch.zeros_like(displacement)
        for slope, step in zip(slopes_xyz, steps[:, world].tolist(), strict=True):
            if step:
                column.add_(slope, alpha=step)
        column[world] += 1
        columns.append(column)
    (a, d, g), (b, e, h), (c, f, i) = columns
    determinant: NDArray[np.float32] = (
        a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    ).numpy()
    return determinant


def folded_fraction(field: Field, mask: NDArray[np.bool_]) -> float:
    """Share of voxels of `mask` where the map turns inside out (determinant <= 0)."""
    if not mask.any():
        return 0.0
    return float((jacobian_determinant(field)[mask] <= 0).mean())


def inverse_error_mm(forward: Field, backward: Field, mask: NDArray[np.bool_]) -> float | None:
    """95th percentile of |p - backward(forward(p))| over `mask` of the forward grid, in mm.

    Only points that land on the backward field's grid count; None where none does.
    """
    index_zyx = np.argwhere(mask)
    start = forward.grid.to_world(index_zyx[:, ::-1].astype(np.float64))
    moved = forward.moved(start)
    landed = inside(backward.grid.shape_zyx, backward.grid.to_voxel(moved)[:, ::-1])
    if not landed.any():
        return None
    error = np.linalg.norm(backward.moved(moved[landed]) - start[landed], axis=1)
    return float(np.percentile(error, 95))


def _slope(displacement: Tensor, axis: int) -> Tensor:
    if displacement.shape[axis] < 2:
        return torch.zeros_like(displacement)
    slope: Tensor = torch.gradient(displacement, dim=axis)[0]
    return slope


def _spatial_steps(grid: Grid) -> NDArray[np.float64]:
    """d(voxel x, y, z) / d(world x, y, z), (3, 3)."""
    return np.asarray(np.linalg.inv(grid.affine_lps[:3, :3]))
