"""Which structures the shown slice holds, read from the scene within a millisecond or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SemiSegError
from semiseg.images.grid import Grid, Plane, plane_axis
from SemiSegModuleLib.mrml.layers import layers_of


@dataclass(frozen=True)
class SliceContent:
    """Names in the protocol's order: what the user drew, and what is suggested beside that.

    `any_suggested`: also of structures of which a part is drawn already.
    """

    drawn: tuple[str, ...] = ()
    suggested: tuple[str, ...] = ()
    any_suggested: bool = False


def content_of(session: Any, index: int | None) -> SliceContent:
    """What slice `index` of the current case and plane holds."""
    if session.study is None or session.current is None or index is None:
        return SliceContent()
    nodes, grid = session.nodes(session.current), grid_of_case(session)
    drawn = _ids(nodes.drawn, grid, session.plane, index)
    every = _ids(nodes.suggestion, grid, session.plane, index)
    suggested = every - drawn
    structures = session.protocol().structures
    return SliceContent(
        drawn=tuple(s.name for s in structures if s.id in drawn),
        suggested=tuple(s.name for s in structures if s.id in suggested),
        any_suggested=bool(every),
    )


def grid_of_case(session: Any) -> Grid:
    """The grid of the current case."""
    grid: Grid = session.study.case(session.current).grid
    return grid


def voxels_of(node: Any, grid: Grid, plane: Plane, index: int) -> tuple[NDArray[np.uint16], ...]:
    """Structure ids of one slice of `node`, per layer that reaches it; each on the whole slice."""
    axis = plane_axis(grid, plane)
    shape = tuple(n for a, n in enumerate(grid.shape_zyx) if a != axis)
    found = []
    for layer in layers_of(node, grid):
        first, end = layer.box[axis]
        if not first <= index < end:
            continue
        full = np.zeros(shape, np.uint16)
        sides = [slice(*side) for a, side in enumerate(layer.box) if a != axis]
        values = np.take(layer.array, index - first, axis=axis)
        full[tuple(sides)] = layer.ids_table()[values]
        found.append(full)
    return tuple(found)


def _ids(node: Any, grid: Grid, plane: Plane, index: int) -> set[int]:
    if node is None:
        return set()
    try:
        arrays = voxels_of(node, grid, plane, index)
    except SemiSegError:
        return set()  # said when the drawing is saved
    return {int(i) for array in arrays for i in np.unique(array)} - {0}
