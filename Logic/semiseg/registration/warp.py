"""Moving arrays onto any grid in fixed space: one resampling of the original voxels, by slabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.errors import GeometryMismatchError
from semiseg.images.grid import Grid
from semiseg.registration.field import Field

_SLAB_VOXELS = 1_000_000
_Coordinates = NDArray[np.float64]


def warp_image(
    array: NDArray[np.floating], grid: Grid, field: Field, target: Grid, fill: float = 0.0
) -> NDArray[np.float32]:
    """Linear values of the moving `array` (z, y, x) on `target`; `fill` outside the image."""
    values = np.asarray(array, dtype=np.float32)

    def read(place: _Coordinates) -> NDArray[np.float32]:
        return _linear(values, place, fill)

    out = np.empty(target.shape_zyx, dtype=np.float32)
    _fill_slabs(out[None], values.shape, grid, field, target, lambda place: read(place)[None])
    return out


def warp_label(
    array: NDArray[np.uint16], grid: Grid, field: Field, target: Grid
) -> NDArray[np.uint16]:
    """The moving label map `array` on `target`: per voxel the label with the most linear weight.

    0 outside the image.
    """
    ids = [int(i) for i in np.unique(array) if i != 0]
    lookup = np.array([0, *ids], dtype=array.dtype)
    masks = _masks(array, ids)

    def vote(place: _Coordinates) -> NDArray[np.uint16]:
        weights = np.stack([_linear(mask, place, 0.0) for mask in masks])
        rest = 1.0 - weights.sum(axis=0, keepdims=True)
        winner = np.concatenate([rest, weights]).argmax(axis=0)
        labels: NDArray[np.uint16] = lookup[winner]
        return labels[None]

    out = np.zeros(target.shape_zyx, dtype=array.dtype)
    if ids:
        _fill_slabs(out[None], array.shape, grid, field, target, vote)
    return out


def warp_onehot(
    array: NDArray[np.uint16], ids: Sequence[int], grid: Grid, field: Field, target: Grid
) -> NDArray[np.float32]:
    """Linear weight in [0, 1] of each of `ids` on `target`, (len(ids), D, H, W)."""
    masks = _masks(array, ids)

    def read(place: _Coordinates) -> NDArray[np.float32]:
        return np.stack([_linear(mask, place, 0.0) for mask in masks])

    out = np.zeros((len(ids), *target.shape_zyx), dtype=np.float32)
    if masks:
        _fill_slabs(out, array.shape, grid, field, target, read)
    return out


def _masks(array: NDArray[np.uint16], ids: Sequence[int]) -> list[NDArray[np.float32]]:
    return [(array == i).astype(np.float32) for i in ids]


def _linear(values: NDArray[np.float32], place: _Coordinates, fill: float) -> NDArray[np.float32]:
    """Values at voxel coordinates (3, ...) z, y, x; the outer half voxel repeats the border."""
    last = np.asarray(values.shape)[:, None, None, None] - 1
    inside = ((place >= -0.5) & (place <= last + 0.5)).all(axis=0)
    read = ndimage.map_coordinates(values, place, order=1, mode="nearest")
    return np.where(inside, read, np.float32(fill)).astype(np.float32)


def _fill_slabs(
    out: NDArray[np.generic],
    shape: tuple[int, ...],
    grid: Grid,
    field: Field,
    target: Grid,
    read: Callable[[_Coordinates], NDArray[np.generic]],
) -> None:
    """Write `read(moving voxel coordinates)` into `out` (C, D, H, W), some slices at a time."""
    if shape != grid.shape_zyx:
        raise GeometryMismatchError(
            f"an array of shape {shape} does not fit the moving grid's {grid.shape_zyx} (z, y, x)"
        )
    for slab in _slabs(target):
        world = target.to_world(_voxels_xyz(target, slab))
        place_xyz = grid.to_voxel(field.moved(world))
        out[:, slab] = read(np.moveaxis(place_xyz[..., ::-1], -1, 0))


def _slabs(target: Grid) -> Iterator[slice]:
    depth, height, width = target.shape_zyx
    thickness = max(1, _SLAB_VOXELS // (height * width))
    for first in range(0, depth, thickness):
        yield slice(first, min(first + thickness, depth))


def _voxels_xyz(target: Grid, slab: slice) -> _Coordinates:
    """Voxel coordinates (d, H, W, 3), x, y, z, of the slices in `slab`."""
    _, height, width = target.shape_zyx
    z, y, x = np.meshgrid(
        np.arange(slab.start, slab.stop), np.arange(height), np.arange(width), indexing="ij"
    )
    return np.stack([x, y, z], axis=-1).astype(np.float64)
