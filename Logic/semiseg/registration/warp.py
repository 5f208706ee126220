"""Moving arrays onto any grid in fixed space: one resampling of the original voxels, by slabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import GeometryMismatchError
from semiseg.images.grid import Grid
from semiseg.registration.field import Field
from semiseg.registration.linear import Coordinates, corners, inside, read_linear

Label = TypeVar("Label", bound=np.integer)
_SLAB_VOXELS = 500_000


def warp_image(
    array: NDArray[np.floating], grid: Grid, field: Field, target: Grid, fill: float = 0.0
) -> NDArray[np.float32]:
    """Linear values of the moving `array` (z, y, x) on `target`; `fill` outside the image."""
    values = np.asarray(array, dtype=np.float32)[None]

    def read(place: Coordinates) -> NDArray[np.float32]:
        found = read_linear(values, place)
        found[:, ~inside(array.shape, place)] = fill
        return found

    out = np.empty(target.shape_zyx, dtype=np.float32)
    _fill_slabs(out[None], array.shape, grid, field, target, read)
    return out


def warp_label(array: NDArray[Label], grid: Grid, field: Field, target: Grid) -> NDArray[Label]:
    """The moving label map `array` on `target`: per voxel the label with the most linear weight.

    0 outside the image; the smaller label where two weigh the same.
    """
    flat = np.ascontiguousarray(array).reshape(-1)

    def vote(place: Coordinates) -> NDArray[np.integer]:
        index, weight = corners(array.shape, place)
        winner = _heaviest(flat[index], weight)
        winner[~inside(array.shape, place)] = 0
        return winner[None]

    out = np.zeros(target.shape_zyx, dtype=array.dtype)
    _fill_slabs(out[None], array.shape, grid, field, target, vote)
    return out


def warp_onehot(
    array: NDArray[Label], ids: Sequence[int], grid: Grid, field: Field, target: Grid
) -> NDArray[np.float32]:
    """Linear weight in [0, 1] of each of `ids` on `target`, (len(ids), D, H, W); 0 outside."""
    flat = np.ascontiguousarray(array).reshape(-1)

    def read(place: Coordinates) -> NDArray[np.float32]:
        index, weight = corners(array.shape, place)
        labels, weight = flat[index], weight * inside(array.shape, place)
        shares = [(weight * (labels == i)).sum(axis=0) for i in ids]
        return np.stack(shares) if shares else np.empty((0, len(place)), dtype=np.float32)

    out = np.zeros((len(ids), *target.shape_zyx), dtype=np.float32)
    _fill_slabs(out, array.shape, grid, field, target, read)
    return out


def _heaviest(labels: NDArray[Label], weight: NDArray[np.float32]) -> NDArray[Label]:
    """Per column of `labels` (8, N) the value with the greatest sum of `weight` (8, N)."""
    winner: NDArray[Label] = labels[0].copy()
    mixed = np.flatnonzero((labels != labels[0]).any(axis=0))
    some, heavy = labels[:, mixed], weight[:, mixed]
    best = np.zeros(len(mixed), dtype=np.float32)
    for value in np.unique(some):
        share = (heavy * (some == value)).sum(axis=0)
        ahead = share > best
        best[ahead] = share[ahead]
        winner[mixed[ahead]] = value
    return winner


def _fill_slabs(
    out: NDArray[np.generic],
    shape: tuple[int, ...],
    grid: Grid,
    field: Field,
    target: Grid,
    read: Callable[[Coordinates], NDArray[np.generic]],
) -> None:
    """Write `read(moving voxel coordinates (N, 3))` into `out` (C, D, H, W), by slabs."""
    if shape != grid.shape_zyx:
        raise GeometryMismatchError(
            f"an array of shape {shape} does not fit the moving grid's {grid.shape_zyx} (z, y, x)"
        )
    for slab in _slabs(target):
        world = target.to_world(_voxels_xyz(target, slab))
        place = grid.to_voxel(field.moved(world))[:, ::-1]
        part = out[:, slab]
        out[:, slab] = read(place).reshape(part.shape)


def _slabs(target: Grid) -> Iterator[slice]:
    depth, height, width = target.shape_zyx
    thickness = max(1, _SLAB_VOXELS // (height * width))
    for first in range(0, depth, thickness):
        yield slice(first, min(first + thickness, depth))


def _voxels_xyz(target: Grid, slab: slice) -> Coordinates:
    """Voxel coordinates (N, 3), x, y, z, of the slices in `slab`."""
    _, height, width = target.shape_zyx
    z, y, x = np.meshgrid(
        np.arange(slab.start, slab.stop), np.arange(height), np.arange(width), indexing="ij"
    )
    return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.float64)
