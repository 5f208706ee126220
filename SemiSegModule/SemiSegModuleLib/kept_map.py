"""A label map that is kept for later, in no more memory than what is drawn takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.study.merge import present_ids

Zyx = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptMap:
    """A map (z, y, x) of `shape_zyx`, cropped to its box at `offset_zyx`."""

    array: NDArray[Any]
    offset_zyx: Zyx
    shape_zyx: Zyx

    @classmethod
    def of(cls, full: NDArray[Any]) -> KeptMap:
        """Keeps a copy of what is not 0 in `full`."""
        box = _box(full)
        part = full[box]
        small = np.uint8 if not part.size or int(part.max()) < 256 else np.uint16
        z, y, x = full.shape
        starts = [side.start for side in box]
        return cls(
            array=part.astype(small),
            offset_zyx=(starts[0], starts[1], starts[2]),
            shape_zyx=(z, y, x),
        )

    def full(self) -> NDArray[np.uint16]:
        """The whole map again."""
        whole = np.zeros(self.shape_zyx, np.uint16)
        places = zip(self.offset_zyx, self.array.shape, strict=True)
        whole[tuple(slice(start, start + size) for start, size in places)] = self.array
        return whole

    def ids(self) -> set[int]:
        """The structures with a voxel in it."""
        return set(present_ids(self.array))


def _box(full: NDArray[Any]) -> tuple[slice, ...]:
    drawn = full != 0
    in_plane = drawn.any(axis=0)
    lines = (drawn.any(axis=(1, 2)), in_plane.any(axis=1), in_plane.any(axis=0))
    sides = []
    for line in lines:
        found = np.flatnonzero(line)
        sides.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(sides)
