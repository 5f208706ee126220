"""Outlines of masks as polygons, and polygons filled again; both in pixels of one plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import cast

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

Points = NDArray[np.float64]
_Ends = NDArray[np.unsignedinteger]


def outlines(mask: NDArray[np.bool_]) -> list[Points]:
    """Closed polygons (n, 2) of x, y around the pixels of `mask` (y, x), half-way to the others.

    A hole is reached from the outside by a cut that is walked there and back, as DICOM asks, so
    that each polygon stands for itself. `filled` gives exactly the same pixels again.
    """
    if not mask.any():
        return []
    padded = np.pad(mask, 1).astype(np.float64)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    points, offsets = cast("tuple[list[Points], list[_Ends]]", generator.filled(0.5, 2.0))
    found = []
    for piece, ends in zip(points, offsets, strict=True):
        rings = [piece[a:b] - 1.0 for a, b in itertools.pairwise(ends)]
        found.append(_one_ring([_straight(ring[:-1]) for ring in rings]))
    return found


def filled(polygons: Iterable[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (y, x) whose centres lie inside an odd number of the closed `polygons` (x, y).

    A centre exactly on an edge counts as inside on the left and upper side of a region only.
    """
    height, width = shape
    flips = np.zeros((height, width + 1), dtype=np.int64)
    for polygon in polygons:
        _add_crossings(flips, np.asarray(polygon, dtype=np.float64))
    inside: NDArray[np.bool_] = np.cumsum(flips[:, :width], axis=1) % 2 == 1
    return inside


def _add_crossings(flips: NDArray[np.int64], polygon: Points) -> None:
    """Counts, for each row, where an edge crosses it: pixels from there on change sides."""
    height, width = flips.shape[0], flips.shape[1] - 1
    x0, y0 = polygon.T
    x1, y1 = np.roll(polygon, -1, axis=0).T
    low, high = np.minimum(y0, y1), np.maximum(y0, y1)
    first = np.clip(np.ceil(low), 0, height).astype(int)
    last = np.clip(np.ceil(high), 0, height).astype(int)
    counts = last - first
    edge = np.repeat(np.arange(len(polygon)), counts)
    start = np.cumsum(counts) - counts
    row = np.arange(len(edge)) - np.repeat(start, counts) + np.repeat(first, counts)
    share = (row - y0[edge]) / (y1 - y0)[edge]
    crossing = x0[edge] + share * (x1 - x0)[edge]
    column = np.clip(np.ceil(crossing), 0, width).astype(int)
    np.add.at(flips, (row, column), 1)


def _straight(ring: Points) -> Points:
    """The ring without points in the middle of straight lines."""
    before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
    (ax, ay), (bx, by) = (ring - before).T, (after - ring).T
    bends = np.abs(ax * by - ay * bx) > 1e-9
    return ring[bends] if bends.sum() >= 3 else ring


def _one_ring(rings: list[Points]) -> Points:
    """The outer ring with each hole spliced in at the nearest pair of points."""
    whole, *holes = rings
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        distance = ((whole[:, None] - hole[None]) ** 2).sum(axis=-1)
        out, inner = np.unravel_index(int(distance.argmin()), distance.shape)
        loop = np.roll(hole, -int(inner), axis=0)
        whole = np.concatenate(
            [whole[: out + 1], loop, loop[:1], whole[out : out + 1], whole[out + 1 :]]
        )
    return whole
