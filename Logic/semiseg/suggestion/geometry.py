"""Slices counted along the patient: index, place and reach, the same way in every image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import PLANES, Grid, Orientation, Plane, Scalar, canonical
from semiseg.study.ledger import Ledger

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Turned:
    """A case's grid with axes running to S, P, L, so that slices of different images compare."""

    grid: Grid

    @cached_property
    def _turn(self) -> Orientation:
        return canonical(self.grid)

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Spacing along S, P, L."""
        return self._turn.grid.spacing_mm_zyx

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Slices along S, P, L."""
        return self._turn.grid.shape_zyx

    def view(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """`array` (z, y, x) of the image, turned, without a copy."""
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in self._turn.flips)
        return array.transpose(self._turn.axes)[flips]

    def index(self, plane: Plane, number: int) -> int:
        """Slice `number` of a plane of the image, counted along the patient; its own inverse."""
        axis = axis_of(plane)
        return self.shape_zyx[axis] - 1 - number if self._turn.flips[axis] else number

    def to_mm_zyx(self, index_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS millimetres (N, 3) in the order z, y, x of turned voxel coordinates (N, 3)."""
        matrix = self._turn.grid.affine_lps
        return np.asarray((index_zyx[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3])[:, ::-1])

    def to_index_zyx(self, mm_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `to_mm_zyx`."""
        back = np.linalg.inv(self._turn.grid.affine_lps)
        return np.asarray((mm_zyx[:, ::-1] @ back[:3, :3].T + back[:3, 3])[:, ::-1])

    def done(self, ledger: Ledger, plane: Plane, structure_id: int) -> NDArray[np.int64]:
        """The slices that are done for a structure, counted along the patient, rising."""
        numbers = [self.index(plane, number) for number in ledger.done(plane, structure_id)]
        return np.array(sorted(numbers), dtype=np.int64)


def axis_of(plane: Plane) -> int:
    """The axis of a turned array along which the slices of `plane` are counted."""
    return PLANES.index(plane)


def near(distance_mm: NDArray[np.floating], reach_mm: float) -> Floats:
    """How much a slice tells of one so far away: 1 at no distance, 0.6 at `reach_mm`."""
    return np.asarray(np.exp(-0.5 * np.square(distance_mm / reach_mm)), dtype=np.float32)


def distance_mm(count: int, done: NDArray[np.int64], spacing_mm: float) -> Floats:
    """From each of `count` slices to the nearest one in `done`; infinite where none is."""
    if not done.size:
        return np.full(count, np.inf, dtype=np.float32)
    places = np.arange(count)
    gaps = np.abs(places[:, None] - done[None, :]).min(axis=1)
    return np.asarray(gaps * spacing_mm, dtype=np.float32)
