"""Which slices a human has finished, for which structures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import LabelError, SchemaError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Grid, Plane, plane_axis


class SliceState(StrEnum):
    """What is known of one slice for one structure; EMPTY is done without a voxel of it."""

    UNTOUCHED = "untouched"
    SUGGESTED = "suggested"
    DONE = "done"
    EMPTY = "empty"


FINISHED = (SliceState.DONE, SliceState.EMPTY)
_Slices: TypeAlias = Mapping[int, Mapping[int, SliceState]]


@dataclass(frozen=True)
class Ledger:
    """The state per plane, slice (along that plane's array axis) and structure id.

    What is not in `states` is untouched.
    """

    states: Mapping[Plane, _Slices] = field(default_factory=dict)

    def mark(
        self, plane: Plane, indices: Iterable[int], state: SliceState, structure_ids: Iterable[int]
    ) -> Ledger:
        """With `state` for these slices and structures; UNTOUCHED takes the entry out."""
        ids = tuple(structure_ids)
        slices = {index: dict(found) for index, found in self.states.get(plane, {}).items()}
        for index in indices:
            entry = slices.setdefault(int(index), {})
            for structure_id in ids:
                entry[structure_id] = state
        kept = {index: _touched(entry) for index, entry in sorted(slices.items())}
        filled = {index: entry for index, entry in kept.items() if entry}
        others = {name: found for name, found in self.states.items() if name != plane}
        return Ledger({**others, plane: filled} if filled else others)

    def state(self, plane: Plane, index: int, structure_id: int) -> SliceState:
        """UNTOUCHED where nothing was marked."""
        found = self.states.get(plane, {}).get(index, {})
        return found.get(structure_id, SliceState.UNTOUCHED)

    def done(self, plane: Plane, structure_id: int) -> tuple[int, ...]:
        """The slices that are done, or done and empty, in rising order."""
        slices = self.states.get(plane, {})
        return tuple(
            sorted(i for i, entry in slices.items() if entry.get(structure_id) in FINISHED)
        )

    def planes_done(self, structure_id: int) -> tuple[Plane, ...]:
        """The planes in which at least one slice is done."""
        return tuple(plane for plane in PLANES if self.done(plane, structure_id))

    @property
    def any_done(self) -> bool:
        """Whether any slice is done for any structure."""
        return any(
            state in FINISHED
            for slices in self.states.values()
            for entry in slices.values()
            for state in entry.values()
        )

    def ids(self) -> set[int]:
        """The structures that any mark speaks of."""
        slices = (found for plane in self.states.values() for found in plane.values())
        return {structure_id for entry in slices for structure_id in entry}

    def without(self, structure_ids: Iterable[int]) -> Ledger:
        """With no word on `structure_ids`."""
        ledger, gone = self, tuple(structure_ids)
        for plane, slices in self.states.items():
            ledger = ledger.mark(plane, slices, SliceState.UNTOUCHED, gone)
        return ledger

    def known_lines(self, grid: Grid, ids: Sequence[int]) -> dict[int, NDArray[np.bool_]]:
        """Per array axis, whether each slice along it is done: (len(ids), slices) of bool.

        A voxel is known for a structure when its slice along any axis is.
        """
        lines = {}
        for plane in PLANES:
            axis = plane_axis(grid, plane)
            line = np.zeros((len(ids), grid.shape_zyx[axis]), dtype=np.bool_)
            for row, structure_id in enumerate(ids):
                line[row, list(self.done(plane, structure_id))] = True
            lines[axis] = line
        return lines

    def known_mask(self, grid: Grid, structure_id: int) -> NDArray[np.bool_]:
        """Per voxel (z, y, x), whether it is known if the structure is there."""
        lines = self.known_lines(grid, [structure_id])
        return union_of_lines({axis: line[0] for axis, line in lines.items()}, grid.shape_zyx)

    def require_inside(self, grid: Grid) -> None:
        """LabelError when a slice is marked that `grid` does not have."""
        for plane, slices in self.states.items():
            require_slices(grid, plane, slices)

    def to_json(self) -> dict[str, Json]:
        """Plain values for ledger.json."""
        return {
            plane: {
                str(index): {str(key): state.value for key, state in entry.items()}
                for index, entry in slices.items()
            }
            for plane, slices in self.states.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> Ledger:
        """SchemaError when a plane, slice or state is not one."""
        try:
            return cls({_plane(name): _slices(found) for name, found in values.items()})
        except (ValueError, AttributeError, TypeError) as error:
            raise SchemaError(f"the slice ledger is corrupt: {error}") from error


def require_slices(grid: Grid, plane: Plane, indices: Iterable[int]) -> tuple[int, ...]:
    """The slice numbers, sorted; LabelError when one is outside of the image."""
    count = grid.shape_zyx[plane_axis(grid, plane)]
    numbers = tuple(sorted({int(index) for index in indices}))
    outside = [number for number in numbers if not 0 <= number < count]
    if outside:
        raise LabelError(
            f"there is no {plane} slice {outside[0]}; this image has {count}, numbered from 0 "
            f"to {count - 1}"
        )
    return numbers


def union_of_lines(
    lines: Mapping[int, NDArray[np.bool_]], shape_zyx: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Per voxel, whether its slice along any axis is set in that axis's line."""
    mask = np.zeros(shape_zyx, dtype=np.bool_)
    for axis, line in lines.items():
        mask[(slice(None),) * axis + (line,)] = True
    return mask


def _touched(entry: Mapping[int, SliceState]) -> dict[int, SliceState]:
    return {key: state for key, state in entry.items() if state is not SliceState.UNTOUCHED}


def _plane(name: str) -> Plane:
    for plane in PLANES:
        if plane == name:
            return plane
    raise ValueError(f"there is no plane {name!r}")


def _slices(found: Json) -> dict[int, dict[int, SliceState]]:
    if not isinstance(found, dict):
        raise ValueError(f"expected slices, found {found!r}")
    return {int(index): _entry(entry) for index, entry in found.items()}


def _entry(found: Json) -> dict[int, SliceState]:
    if not isinstance(found, dict):
        raise ValueError(f"expected structures, found {found!r}")
    return {int(key): SliceState(str(state)) for key, state in found.items()}
