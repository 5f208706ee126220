"""Two registrations one after the other: from a case over another one to an atlas, and home."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import Grid
from semiseg.registration.field import Field, folded_fraction
from semiseg.registration.register import RegistrationResult

_SLAB_VOXELS = 500_000


def composed(first: Field, second: Field) -> Field:
    """The way along `first`, then along `second`, on the grid of `first`; in millimetres.

    Places are added up in the patient, so that grids of any kind may meet; no array is resampled.
    """
    total = np.empty_like(first.displacement_mm)
    for slab in _slabs(first.grid):
        places = _places(first.grid, slab)
        between = places + np.moveaxis(first.displacement_mm[:, slab], 0, -1)
        moved = second.moved(between) - places
        total[:, slab] = np.moveaxis(moved, -1, 0).astype(np.float32)
    return Field(displacement_mm=total, grid=first.grid)


def chained(
    first: RegistrationResult, second: RegistrationResult, body: NDArray[np.bool_]
) -> RegistrationResult:
    """The registrations of a case with another one and of that one with an atlas, as one.

    `body` (z, y, x) is the case's, on the grid of the first field. It is as sure as the less
    sure of both. Where one of them has no way back, there is none.
    """
    field = composed(first.field, second.field)
    inverse = None
    if first.inverse is not None and second.inverse is not None:
        inverse = composed(second.inverse, first.inverse)
    unsure = min((first, second), key=lambda one: one.start_certainty)
    return RegistrationResult(
        field=field,
        inverse=inverse,
        folded=folded_fraction(field, body),
        similarity_before=first.similarity_before,
        similarity_after=min(first.similarity_after, second.similarity_after),
        inverse_error_mm=_added(first.inverse_error_mm, second.inverse_error_mm),
        start_certainty=unsure.start_certainty,
        start_reason=unsure.start_reason,
        seconds=first.seconds,
        ways_apart_mm=max(first.ways_apart_mm, second.ways_apart_mm),
    )


def _added(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _slabs(grid: Grid) -> Iterator[slice]:
    depth, height, width = grid.shape_zyx
    thickness = max(1, _SLAB_VOXELS // (height * width))
    for first in range(0, depth, thickness):
        yield slice(first, min(first + thickness, depth))


def _places(grid: Grid, slab: slice) -> NDArray[np.float64]:
    """World points (z, y, x, 3) of the voxels of the slices in `slab`."""
    _, height, width = grid.shape_zyx
    z, y, x = np.meshgrid(
        np.arange(slab.start, slab.stop), np.arange(height), np.arange(width), indexing="ij"
    )
    return grid.to_world(np.stack([x, y, z], axis=-1).astype(np.float64))
