"""One structure between its done slices along one axis, cut out and made ready."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from semiseg.slices.flow import halved

_MARGIN_PIXELS = 16
_FINEST_PIXEL_MM = 1.2  # finer images are worked on at a whole fraction of their resolution
CLIP_PIXELS = 5.0
_PERCENTILES = (0.5, 99.5)

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices along one axis with one structure's done ones.

    `grey` (N, 1, h, w) in [0, 1]; `done` are positions in the stack, rising; `distance`
    (K, 1, h, w) is the signed distance in mm to the outline in each done slice, positive inside;
    `occupied` says which of them hold the structure. The stack is `box` of the volume, its axis
    first, shrunk `factor` times in plane. Beyond the outermost done slices it reaches `reach`
    slices (low, high) where the structure is still there: at its `open_ends` (low, high).
    """

    grey: Tensor
    done: tuple[int, ...]
    distance: Tensor
    occupied: tuple[bool, ...]
    box: Box
    factor: int
    reach: tuple[float, float]
    clip_mm: float
    open_ends: tuple[bool, bool]

    @cached_property
    def clipped(self) -> Tensor:
        """Distances within `clip_mm`, so that no vote outweighs others by depth."""
        return self.distance.clamp(-self.clip_mm, self.clip_mm)

    @cached_property
    def depth_mm(self) -> float:
        """The deepest point of any done slice."""
        return max(float(self.distance.max()), self.clip_mm)


def cut_stack(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    done: NDArray[np.intp],
    spacing_mm: tuple[float, float, float],
) -> Stack | None:
    """The stack of the structure `mask`, drawn in slices `done` of `image`, both (N, H, W).

    None where it is in none of them. `mask` may have more, drawn along other axes, which shows how
    far the structure goes. `spacing_mm` is along the axis, then of rows and columns.
    """
    present = np.any(mask, axis=(1, 2))
    occupied: NDArray[np.bool_] = present[done]
    if not occupied.any():
        return None
    factor = max(1, round(_FINEST_PIXEL_MM / min(spacing_mm[1:])))
    first, last = np.flatnonzero(occupied)[[0, -1]]
    usual = _reach(mask[done], done, occupied, spacing_mm)
    seen = np.flatnonzero(present)[[0, -1]]
    reach = (
        max(usual, float(done[first] - seen[0] + 1)),
        max(usual, float(seen[1] - done[last] + 1)),
    )
    low = done[first - 1] if first > 0 else max(0, done[first] - math.ceil(reach[0]))
    high = len(image) - 1
    high = done[last + 1] if last + 1 < len(done) else min(high, done[last] + math.ceil(reach[1]))
    chosen = np.flatnonzero((done >= low) & (done <= high))
    rows, columns = _sides(np.asarray(mask.any(axis=0)), factor)
    box = (slice(int(low), int(high) + 1), rows, columns)
    pixel_mm = math.sqrt(spacing_mm[1] * spacing_mm[2]) * factor
    shapes = [_signed_distance(mask[done[k], rows, columns], spacing_mm[1:]) for k in chosen]
    return Stack(
        grey=halved(torch.from_numpy(_greys(image[box]))[:, None], factor),
        done=tuple(int(done[k] - low) for k in chosen),
        distance=halved(torch.from_numpy(_completed(shapes))[:, None], factor),
        occupied=tuple(bool(occupied[k]) for k in chosen),
        box=box,
        factor=factor,
        reach=reach,
        clip_mm=CLIP_PIXELS * pixel_mm,
        open_ends=(bool(occupied[0]), bool(occupied[-1])),
    )


def _reach(
    mask: NDArray[np.bool_],
    done: NDArray[np.intp],
    occupied: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> float:
    """Half a usual gap; with one done slice, half the radius of a disc of the drawn area."""
    near = done[np.flatnonzero(occupied)]
    if len(near) > 1:
        return float(np.median(np.diff(near))) / 2
    pixels = mask.sum(axis=(1, 2)).max()
    radius_mm = math.sqrt(float(pixels) * spacing_mm[1] * spacing_mm[2] / math.pi)
    return radius_mm / 2 / spacing_mm[0]


def _sides(outline: NDArray[np.bool_], factor: int) -> tuple[slice, slice]:
    sides = []
    for axis in (0, 1):
        seen = np.flatnonzero(outline.any(axis=1 - axis))
        margin = _MARGIN_PIXELS * factor
        last = min(outline.shape[axis], int(seen[-1]) + 1 + margin)
        sides.append(slice(max(0, int(seen[0]) - margin), last))
    return sides[0], sides[1]


def _greys(image: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(image, _PERCENTILES)
    scale = max(float(high - low), 1e-6)
    greys: NDArray[np.float32] = (image - np.float32(low)) / np.float32(scale)
    return greys.clip(0, 1)


def _signed_distance(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.float32] | None:
    """Distance to the outline, half a pixel on either side of it; None for an empty mask."""
    if not mask.any():
        return None
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return np.asarray(inside - outside, dtype=np.float32)


def _completed(shapes: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """The shapes in one array; an empty slice is as far outside as any other is inside.

    A linear blend then lets the structure end halfway between the two.
    """
    drawn = [shape for shape in shapes if shape is not None]
    depth = max(float(shape.max()) for shape in drawn)
    empty = np.full(drawn[0].shape, -depth, dtype=np.float32)
    return np.stack([empty if shape is None else shape for shape in shapes])
