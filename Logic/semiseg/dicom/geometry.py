"""From the places of single slices to one regular grid: exactly where possible, else a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from semiseg.dicom.frames import UNIT_TOLERANCE, Frame
from semiseg.errors import ImageError
from semiseg.images.grid import Grid, Triple

SAME_PLACE_MM = 0.01
_EXACT_MM = 0.01
_SHARE_OF_STEP = 0.01
_SHARE_OF_PIXEL = 0.1
_COMMON_STEP = 0.1
_WIDEST_GAP = 3.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the slices of a volume lie and on which grid it ends up.

    `order` sorts the frames along the slices' normal; `shifts_px` (n, 2) says where each sorted
    slice's first pixel lies in its plane of the grid (column, row; in pixels), `heights` (n,)
    at which of the grid's planes it lies (0 the first). `exact`: slice k is plane k, unmoved.
    """

    order: tuple[int, ...]
    grid: Grid
    shifts_px: NDArray[np.float64]
    heights: NDArray[np.float64]
    exact: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Axes:
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    normal: NDArray[np.float64]
    spacing_xy: NDArray[np.float64]


def lay_out(frames: Sequence[Frame], *, bridge_gaps: bool = False) -> Layout:
    """The grid for `frames`, which all have one size and orientation and differ in place.

    ImageError: a single slice, missing slices (unless `bridge_gaps`), a gap too wide to fill.
    """
    if len(frames) < 2:
        raise ImageError("has a single slice; a volume needs at least two")
    axes = _axes(frames[0])
    places = np.array([frame.position for frame in frames])
    along = (places - places[0]) @ axes.normal
    order = np.argsort(along, kind="stable")
    places, along = places[order], along[order] - along[order[0]]
    sorted_frames = [frames[index] for index in order]
    steps = np.diff(along)
    if steps.min() < SAME_PLACE_MM:
        raise ImageError("has several slices in one place")
    drift = (places - places[0]) @ np.column_stack([axes.row, axes.column]) / axes.spacing_xy
    regular, step, notes = _regular(along, steps)
    straight = float(np.abs(drift).max()) <= _SHARE_OF_PIXEL
    if regular and straight:
        layout_notes = (*notes, *_drift_note(drift, axes))
        return _exact(frames[0], axes, places[0], order, step, layout_notes)
    if not regular:
        step, notes = _irregular(sorted_frames, along, steps, bridge_gaps=bridge_gaps)
    if not straight:
        notes = (*notes, _tilt_note(drift, along, axes))
    return _resampled(frames[0], axes, (places[0], order, along, drift, step), notes)


def same_direction(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two image orientations (6 cosines) are the same but for rounding."""
    return bool(np.abs(np.subtract(one, other)).max() <= UNIT_TOLERANCE)


def normal_of(orientation: Sequence[float]) -> NDArray[np.float64]:
    """The direction in which slices of this image orientation are stacked."""
    return np.cross(orientation[:3], orientation[3:])


def _axes(frame: Frame) -> _Axes:
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    between_rows, between_columns = frame.spacing_mm
    return _Axes(
        row=row,
        column=column,
        normal=normal / np.linalg.norm(normal),
        spacing_xy=np.array([between_columns, between_rows]) * lengths,
    )


def _regular(
    along: NDArray[np.float64], steps: NDArray[np.float64]
) -> tuple[bool, float, tuple[str, ...]]:
    """Whether the slices are evenly spaced, their step in mm, and a note on what is not."""
    step = float(along[-1]) / len(steps)
    off = float(np.abs(along - step * np.arange(len(along))).max())
    if off > max(_EXACT_MM, _SHARE_OF_STEP * step):
        return False, step, ()
    if off <= _EXACT_MM:
        return True, step, ()
    return True, step, (f"slices lie up to {off:.3f} mm beside an even spacing of {step:.4g} mm",)


def _irregular(
    frames: Sequence[Frame],
    along: NDArray[np.float64],
    steps: NDArray[np.float64],
    *,
    bridge_gaps: bool,
) -> tuple[float, tuple[str, ...]]:
    """The step of the grid to resample to, in mm, and what to say of it."""
    step = _common_step(steps)
    missing = _missing(frames, steps, step)
    if missing and not bridge_gaps:
        where = ", ".join(f"{along[k]:.1f} mm" for k in np.flatnonzero(steps > 1.5 * step)[:3])
        raise ImageError(
            f"has gaps where {missing} slices are missing (the first after {where} from its lower "
            f"end; slices are {step:.4g} mm apart); fetch the whole series, or have the gaps "
            "filled from their neighbours (--bridge-gaps)"
        )
    widest = float(steps.max())
    if widest > max(_WIDEST_GAP * float(np.median(steps)), 10.0) and not bridge_gaps:
        raise ImageError(
            f"has neighbouring slices {widest:.1f} mm apart while most are {step:.4g} mm apart; "
            "these are probably two scans: export them as two series"
        )
    count = max(round(float(along[-1]) / step), 1)
    even = float(along[-1]) / count
    said = f"slices are {steps.min():.4g} to {widest:.4g} mm apart"
    if missing:
        said = f"{missing} slices are missing"
    return even, (f"{said}; the volume was resampled to {even:.4g} mm between slices",)


def _common_step(steps: NDArray[np.float64]) -> float:
    """The smallest distance that at least a tenth of the slices keep."""
    for step in np.sort(steps):
        near = steps[np.abs(steps - step) <= max(_EXACT_MM, _SHARE_OF_STEP * step)]
        if len(near) >= max(2.0, _COMMON_STEP * len(steps)):
            return float(near.mean())
    return float(np.median(steps))


def _missing(frames: Sequence[Frame], steps: NDArray[np.float64], step: float) -> int:
    """How many slices lack in a series that is even but for gaps; 0 when it is uneven by design.

    Numbers that go on without a break across every gap say that nothing was lost.
    """
    ratio = steps / step
    whole = np.rint(ratio)
    if np.abs(ratio - whole).max() > 0.05 or (whole > 1).mean() > 0.3:
        return 0
    numbers = np.array([frame.order.instance for frame in frames])
    jumps = np.abs(np.diff(numbers))
    if numbers.min() >= 0 and (jumps == 1).all():
        return 0
    return int((whole - 1).sum())


def _exact(
    frame: Frame,
    axes: _Axes,
    origin: NDArray[np.float64],
    order: NDArray[np.intp],
    step: float,
    notes: tuple[str, ...],
) -> Layout:
    count = len(order)
    return Layout(
        order=tuple(int(k) for k in order),
        grid=_grid((frame.key.columns, frame.key.rows, count), axes, origin, step),
        shifts_px=np.zeros((count, 2)),
        heights=np.arange(count, dtype=np.float64),
        exact=True,
        notes=notes,
    )


def _resampled(
    frame: Frame,
    axes: _Axes,
    measured: tuple[
        NDArray[np.float64], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], float
    ],
    notes: tuple[str, ...],
) -> Layout:
    """A grid with the slices' own planes and pixel size, wide enough for all of them."""
    first, order, along, drift, step = measured
    low = drift.min(axis=0)
    shifts = drift - low
    extra = np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    size = (frame.key.columns + int(extra[0]), frame.key.rows + int(extra[1]))
    corner = low * axes.spacing_xy
    origin = first + corner[0] * axes.row + corner[1] * axes.column
    heights = along / step
    return Layout(
        order=tuple(int(k) for k in order),
        grid=_grid((*size, round(float(heights[-1])) + 1), axes, origin, step),
        shifts_px=shifts,
        heights=heights,
        exact=False,
        notes=notes,
    )


def _grid(
    size: tuple[int, int, int], axes: _Axes, origin: NDArray[np.float64], step: float
) -> Grid:
    direction = np.column_stack([axes.row, axes.column, axes.normal])
    x, y = (float(v) for v in axes.spacing_xy)
    return Grid(
        size_xyz=size,
        spacing_mm_xyz=(x, y, step),
        origin_mm_lps=cast(Triple, tuple(float(v) for v in origin)),
        direction=tuple(float(v) for v in direction.ravel()),
    )


def _tilt_note(drift: NDArray[np.float64], along: NDArray[np.float64], axes: _Axes) -> str:
    moved = drift[-1] * axes.spacing_xy
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(moved), along[-1])))
    return (
        f"the slices are stacked at a slant of {degrees:.1f} degrees (gantry tilt); they were "
        "shifted in their planes onto a straight grid"
    )


def _drift_note(drift: NDArray[np.float64], axes: _Axes) -> tuple[str, ...]:
    off = float(np.linalg.norm(drift * axes.spacing_xy, axis=1).max())
    return () if off <= _EXACT_MM else (f"slices lie up to {off:.3f} mm beside a straight stack",)
