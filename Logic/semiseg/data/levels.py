"""Signed distances to a structure's outline, as targets of level-set heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.data.supervision import Supervision

FAR_MM = 1000.0
"""What stands for the distance to a structure that is not there."""


def signed_distance(
    inside: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """Millimetres to the outline of `inside`: negative in it, 0 on its inner boundary.

    The inner boundary are the voxels of `inside` with a neighbour along an axis that is not.
    `FAR_MM` everywhere where `inside` is empty, minus that where it is full.
    """
    if not inside.any():
        return np.full(inside.shape, FAR_MM, np.float32)
    if inside.all():
        return np.full(inside.shape, -FAR_MM, np.float32)
    outer = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
    inner = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    signed = np.asarray(outer - inner, np.float32)
    signed[inside & ~ndimage.binary_erosion(inside, border_value=1)] = 0.0
    return signed


def level_maps(
    found: Supervision,
    spacing_mm_zyx: tuple[float, float, float],
    *,
    within_slices: bool = False,
) -> NDArray[np.float16]:
    """(K, z, y, x) signed distance of each structure where it is known, NaN elsewhere.

    Where a structure is known in the whole volume the distance is in 3-D; where it is known in
    single slices it is within each slice, because what lies between them is not known.
    `within_slices`: within each axial slice in any case.
    """
    n_structures = found.patterns.shape[1] - 1
    maps = np.full((n_structures, *found.label.shape), np.nan, np.float16)
    for k in range(n_structures):
        known = found.patterns[:, k + 1][found.pattern] & (found.valid > 0)
        inside = (found.label == k + 1) & known
        if within_slices:
            _fill_slices(maps[k], inside, known, spacing_mm_zyx, axes=(0,))
        elif known.all():
            maps[k] = signed_distance(inside, spacing_mm_zyx)
        else:
            _fill_slices(maps[k], inside, known, spacing_mm_zyx)
    return maps


def _fill_slices(
    target: NDArray[np.float16],
    inside: NDArray[np.bool_],
    known: NDArray[np.bool_],
    spacing_mm_zyx: tuple[float, float, float],
    axes: tuple[int, ...] = (0, 1, 2),
) -> None:
    for axis in axes:
        others = tuple(i for i in range(3) if i != axis)
        spacing = tuple(spacing_mm_zyx[i] for i in others)
        for index in np.flatnonzero(known.all(axis=others)):
            where = (slice(None),) * axis + (index,)
            target[where] = signed_distance(inside[where], spacing)
