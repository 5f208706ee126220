"""A mark goes when the editor's Undo takes back the voxels that came with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SemiSegError
from semiseg.images.grid import Plane
from SemiSegModuleLib.sections.slice_content import grid_of_case, voxels_of

_MOST = 10


@dataclass(frozen=True)
class _Taken:
    """A slice that was marked as done together with suggestions taken over into it."""

    case_id: str
    plane: Plane
    index: int
    before: NDArray[np.uint16]


class UndoGuard:
    """Remembers what slices held before suggestions were taken over into them.

    The editor tells nobody of an undo. A done slice that is again exactly as it was before the
    suggestions came is one that was undone: its mark would now say that those structures are not
    there, which nobody has said.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._taken: list[_Taken] = []

    @contextmanager
    def watching(self, index: int) -> Iterator[None]:
        """Note what the slice holds before and after; only a change is remembered."""
        before = self._slice(self._session.plane, index)
        yield
        after = self._slice(self._session.plane, index)
        if before is None or after is None or np.array_equal(before, after):
            return
        session = self._session
        self._taken = [
            *self._taken[1 - _MOST :],
            _Taken(session.current, session.plane, index, before),
        ]

    def undone(self) -> tuple[Plane, int] | None:
        """The newest slice that is again as it was, once; the caller takes its mark away."""
        if not self._taken:
            return None
        newest = self._taken[-1]
        if newest.case_id != self._session.current:
            self._taken = []  # the editor forgot its undo states with the other case
            return None
        now = self._slice(newest.plane, newest.index)
        if now is None or not np.array_equal(now, newest.before):
            return None
        self._taken.pop()
        return newest.plane, newest.index

    def _slice(self, plane: Plane, index: int) -> NDArray[np.uint16] | None:
        """All layers of the slice in one; None when the drawing cannot be read."""
        session = self._session
        if session.study is None or session.current is None:
            return None
        node = session.nodes(session.current).drawn
        if node is None:
            return None
        try:
            arrays = voxels_of(node, grid_of_case(session), plane, index)
        except SemiSegError:
            return None
        empty = np.zeros((1, 1), np.uint16)
        found: NDArray[np.uint16] = np.maximum.reduce(arrays) if arrays else empty
        return found if found.any() else empty
