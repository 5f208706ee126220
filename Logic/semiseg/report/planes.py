"""Radiological views of a volume: patient right on the picture's left, anterior or head at the top.

All arrays here are on the canonical grid: axes [z, y, x] run towards superior, posterior, left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import PLANES, Grid, Plane

# Axes of the canonical array [z, y, x]: the one crossed, then those of the picture.
_AXES: dict[Plane, tuple[int, int, int]] = {
    "axial": (0, 1, 2),
    "coronal": (1, 0, 2),
    "sagittal": (2, 0, 1),
}
_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
_SECOND_LETTER_ABOVE = 0.34  # a tilt of 20 degrees


@dataclass(frozen=True, kw_only=True)
class View:
    """How one plane is laid out as a picture; `spacing_mm` and `picture_axes` are (row, column)."""

    plane: Plane
    axis: int
    picture_axes: tuple[int, int]
    spacing_mm: tuple[float, float]
    flip_rows: bool
    left: str
    right: str
    top: str
    bottom: str

    def cut(self, array_zyx: NDArray[Any], index: int) -> NDArray[Any]:
        """Slice `index` of a canonical array as (rows, columns) of the picture."""
        picture: NDArray[Any] = np.take(array_zyx, index, axis=self.axis)
        return picture[::-1] if self.flip_rows else picture


def views(grid: Grid) -> dict[Plane, View]:
    """The three views of a canonical `grid`."""
    return {plane: _view(grid, plane) for plane in PLANES}


def _view(grid: Grid, plane: Plane) -> View:
    crossed, rows, columns = _AXES[plane]
    spacing_zyx = grid.spacing_mm_xyz[::-1]
    towards_end, towards_start = _edge_letters(grid, rows)
    right, left = _edge_letters(grid, columns)
    flip = rows == 0  # canonical z runs to the head, picture rows run down
    return View(
        plane=plane,
        axis=crossed,
        picture_axes=(rows, columns),
        spacing_mm=(spacing_zyx[rows], spacing_zyx[columns]),
        flip_rows=flip,
        left=left,
        right=right,
        top=towards_end if flip else towards_start,
        bottom=towards_start if flip else towards_end,
    )


def _edge_letters(grid: Grid, axis_zyx: int) -> tuple[str, str]:
    """Patient directions at the end and at the start of an array axis, e.g. ("L", "R")."""
    direction = np.asarray(grid.direction).reshape(3, 3)[:, 2 - axis_zyx]
    order = np.argsort(-np.abs(direction), kind="stable")
    end = start = ""
    for rank, component in enumerate(order[:2]):
        if rank and abs(direction[component]) < _SECOND_LETTER_ABOVE:
            break
        positive, negative = _LETTERS[component]
        forward = direction[component] > 0
        end += positive if forward else negative
        start += negative if forward else positive
    return end, start
