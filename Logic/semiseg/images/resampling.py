"""Moving arrays between grids."""

from __future__ import annotations

import math
from typing import TypeVar, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import sparse

from semiseg.errors import GeometryMismatchError, ImageError
from semiseg.images.grid import Grid, Triple

Label = TypeVar("Label", bound=np.generic)
_SAME_MM = 1e-6
_BLOCK_BYTES = 1 << 25


def resample_image(
    array_zyx: NDArray[np.floating], grid: Grid, target: Grid, *, fill: float
) -> NDArray[np.float32]:
    """Linear values of `array_zyx` at the voxel centres of `target`; `fill` outside the volume.

    Does not smooth: shrink with `zoom_linear` first where the target is much coarser.
    """
    _require_shape(array_zyx, grid)
    values = np.asarray(array_zyx, dtype=np.float32)
    if grid.difference(target, tolerance_mm=_SAME_MM) is None:
        return values.copy()
    return _resample(values, grid, target, sitk.sitkLinear, fill)


def resample_label(array_zyx: NDArray[Label], grid: Grid, target: Grid) -> NDArray[Label]:
    """Nearest values of `array_zyx` at the voxel centres of `target`; 0 outside the volume."""
    _require_shape(array_zyx, grid)
    if grid.difference(target, tolerance_mm=_SAME_MM) is None:
        return array_zyx.copy()
    values = array_zyx.view(np.uint8) if array_zyx.dtype == bool else array_zyx
    moved = _resample(values, grid, target, sitk.sitkNearestNeighbor, 0.0)
    return cast("NDArray[Label]", moved.astype(array_zyx.dtype, copy=False))


def spaced_grid(grid: Grid, spacing_mm_xyz: Triple) -> Grid:
    """`grid` with whole voxels of about `spacing_mm_xyz` between the same outer voxel edges.

    The extent is kept exactly, so the spacing of the result is the wish rounded to whole voxels.
    """
    if min(spacing_mm_xyz) <= 0:
        raise ImageError(f"spacing must be positive, got {spacing_mm_xyz} mm")
    extent = np.multiply(grid.size_xyz, grid.spacing_mm_xyz)
    size = np.maximum(np.rint(extent / np.asarray(spacing_mm_xyz)), 1).astype(int)
    return resized_grid(grid, cast("tuple[int, int, int]", tuple(int(n) for n in size[::-1])))


def resized_grid(grid: Grid, shape_zyx: tuple[int, int, int]) -> Grid:
    """`grid` cut into `shape_zyx` voxels between the same outer voxel edges."""
    size = np.asarray(shape_zyx[::-1])
    ratio = np.asarray(grid.size_xyz) / size
    return Grid(
        size_xyz=cast("tuple[int, int, int]", tuple(int(n) for n in size)),
        spacing_mm_xyz=cast(Triple, tuple(float(s) for s in ratio * grid.spacing_mm_xyz)),
        origin_mm_lps=cast(Triple, tuple(float(o) for o in grid.to_world(ratio / 2 - 0.5))),
        direction=grid.direction,
    )


def zoom_linear(
    array: NDArray[np.floating], shape_zyx: tuple[int, int, int]
) -> NDArray[np.float32]:
    """`array` (..., z, y, x) linearly brought to `shape_zyx`, outer voxel edges kept in place.

    Shrinking averages over about one new voxel, so that fine detail does not alias.
    """
    out = np.asarray(array, dtype=np.float32)
    order = sorted(range(3), key=lambda axis: shape_zyx[axis] / out.shape[axis - 3])
    for axis in order:
        if out.shape[axis - 3] != shape_zyx[axis]:
            out = _zoom_axis(out, axis - 3, shape_zyx[axis])
    return out.copy() if out is array else np.ascontiguousarray(out)


def zoom_nearest(array: NDArray[Label], shape_zyx: tuple[int, int, int]) -> NDArray[Label]:
    """`array` (..., z, y, x) brought to `shape_zyx` by picking voxels, outer edges kept."""
    z, y, x = (nearest_index(array.shape[axis - 3], shape_zyx[axis]) for axis in range(3))
    return np.ascontiguousarray(array[..., z[:, None, None], y[:, None], x])


def nearest_index(n_from: int, n_to: int) -> NDArray[np.intp]:
    """For each of `n_to` voxels the one of `n_from` that holds its centre; outer edges agree."""
    return ((np.arange(n_to) + 0.5) * n_from / n_to).astype(np.intp).clip(0, n_from - 1)


def _zoom_axis(array: NDArray[np.float32], axis: int, n_to: int) -> NDArray[np.float32]:
    """In blocks of `_BLOCK_BYTES`, so that the result is all the memory that it takes."""
    source = np.moveaxis(array, axis, 0)
    out = np.empty((*array.shape[:axis], n_to, *array.shape[axis:][1:]), dtype=np.float32)
    target = np.moveaxis(out, axis, 0)
    weights = _weights(source.shape[0], n_to)
    row_bytes = max(source.shape[0], n_to) * source[0, 0].size * source.itemsize
    step = max(1, _BLOCK_BYTES // row_bytes)
    for begin in range(0, source.shape[1], step):
        block = np.ascontiguousarray(source[:, begin : begin + step])
        moved = weights @ block.reshape(block.shape[0], -1)
        target[:, begin : begin + step] = moved.reshape(n_to, *block.shape[1:])
    return out


def _weights(n_from: int, n_to: int) -> sparse.csr_array:
    """(n_to, n_from), rows summing to 1: linear interpolation averaged over a window.

    The window is 0 wide where the axis does not shrink and about a new voxel where it does, so
    a linear ramp stays exactly where it was. Beyond the edge the edge repeats.
    """
    scale = n_from / n_to
    window = math.sqrt(max(scale * scale - 1, 0.0))
    centre = (np.arange(n_to) + 0.5) * scale - 0.5
    reach = math.ceil(window / 2) + 1
    index = np.floor(centre).astype(np.intp)[:, None] + np.arange(-reach, reach + 2)
    distance = centre[:, None] - index
    if window > 0:
        value = (_hat_area(distance + window / 2) - _hat_area(distance - window / 2)) / window
    else:
        value = np.maximum(0.0, 1.0 - np.abs(distance))
    rows = np.repeat(np.arange(n_to), index.shape[1])
    columns = index.clip(0, n_from - 1).ravel()
    matrix = sparse.coo_array((value.ravel().astype(np.float32), (rows, columns)), (n_to, n_from))
    return matrix.tocsr()


def _hat_area(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under the hat of linear interpolation, height 1 at 0, left of `distance`."""
    side = np.clip(distance, -1.0, 1.0)
    return np.where(side < 0, (1 + side) ** 2 / 2, 1 - (1 - side) ** 2 / 2)


def _resample(
    values: NDArray[Label], grid: Grid, target: Grid, interpolator: int, fill: float
) -> NDArray[Label]:
    moving = sitk.GetImageFromArray(values)
    moving.SetSpacing(grid.spacing_mm_xyz)
    moving.SetOrigin(grid.origin_mm_lps)
    moving.SetDirection(_rounded(grid.direction))
    moved = sitk.Resample(
        moving,
        target.size_xyz,
        sitk.Transform(),
        interpolator,
        target.origin_mm_lps,
        target.spacing_mm_xyz,
        _rounded(target.direction),
        fill,
    )
    return cast("NDArray[Label]", sitk.GetArrayFromImage(moved))


def _rounded(direction: tuple[float, ...]) -> tuple[float, ...]:
    """Cosines such as 1e-313 make the resampling filter miss the volume altogether."""
    return tuple(round(cosine, 12) for cosine in direction)


def _require_shape(array: NDArray[np.generic], grid: Grid) -> None:
    if array.shape != grid.shape_zyx:
        raise GeometryMismatchError(
            f"an array of shape {array.shape} does not fit the grid's {grid.shape_zyx} (z, y, x)"
        )
