"""Outlines of masks as compact, smooth SVG paths."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

UNITS = 4  # path units per pixel: outlines fall on whole units, so paths are short and exact


def outline_paths(mask: NDArray[np.bool_], solid: NDArray[np.bool_]) -> tuple[str, str]:
    """SVG path data of the outline of `mask` (rows, columns): where `solid` holds, and elsewhere.

    Coordinates are quarter pixels from the picture's top left corner. The outline passes halfway
    between inside and outside pixel centres; corners are rounded by at most a quarter pixel.
    """
    if not mask.any():
        return "", ""
    padded, firm = np.pad(mask, 1), np.pad(solid, 1)
    lines = contour_generator(z=padded.astype(np.float32), line_type=LineType.Separate).lines(0.5)
    parts: dict[bool, list[str]] = {True: [], False: []}
    for line in lines:
        ring = np.rint(np.asarray(line)[:-1] * 2).astype(int)  # half pixels, each point once
        for is_solid, path in _pieces(ring, _inside_value(ring, padded, firm)):
            parts[is_solid].append(path)
    return "".join(parts[True]), "".join(parts[False])


def label_position(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """(column, row, room) of the place deepest inside `mask`, in pixels; room is its half width."""
    depth = np.asarray(distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5, float(depth[row, column])


def _inside_value(
    ring: NDArray[np.int_], padded: NDArray[np.bool_], firm: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The value of `firm` in the mask's pixel beside each outline point."""
    low, high = ring // 2, -(-ring // 2)
    low_inside = padded[low[:, 1], low[:, 0]]
    return np.where(low_inside, firm[low[:, 1], low[:, 0]], firm[high[:, 1], high[:, 0]])


def _pieces(ring: NDArray[np.int_], solid: NDArray[np.bool_]) -> list[tuple[bool, str]]:
    """Runs of equal `solid` around a closed ring of half-pixel points."""
    changes = np.flatnonzero(solid != np.roll(solid, 1))
    if not changes.size:
        return [(bool(solid[0]), _curve(ring, closed=True))]
    ring, solid = np.roll(ring, -changes[0], axis=0), np.roll(solid, -changes[0])
    bounds = [*(changes - changes[0]), len(ring)]
    wrapped = np.concatenate([ring[-1:], ring, ring[:1]])
    return [
        (bool(solid[start]), _curve(wrapped[start : stop + 2], closed=False))
        for start, stop in pairwise(bounds)
    ]


def _curve(points: NDArray[np.int_], *, closed: bool) -> str:
    """A curve through the midpoints of `points`, with the points themselves as its controls.

    Every control point is the mirror image of the one before, so that SVG's short form `t` draws
    the rest of the curve from the midpoints alone.
    """
    if closed:
        points = np.concatenate([points[-1:], points, points[:1]])
    middles = points[:-1] + points[1:] - 2  # quarters; the mask was padded by one pixel
    first, control = middles[0], 2 * points[1] - 2 - middles[0]
    steps = np.diff(middles, axis=0)
    path = f"M{_pair(first)}q{_pair(control)} {_pair(steps[0])}"
    if len(steps) > 1:
        path += "t" + " ".join(map(_pair, steps[1:]))
    return path + ("z" if closed else "")


def _pair(xy: NDArray[np.int_]) -> str:
    return f"{xy[0]} {xy[1]}"
