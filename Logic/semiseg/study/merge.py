"""Joins what a human drew, or a program computed, with what a label held before.

A program never changes a HUMAN or CORRECTED voxel, nor claims one that a done slice already
decides. A human's voxel goes only where the human's own map says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import LabelError
from semiseg.images.grid import Grid, Plane, plane_axis
from semiseg.study.case import CaseLabel, Origin
from semiseg.study.ledger import Ledger, SliceState, union_of_lines

Ids = NDArray[np.uint16]
_TABLE = 65536
_SLAB_VOXELS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A human's word on some slices of a plane, for some structures."""

    plane: Plane
    indices: tuple[int, ...]
    state: SliceState
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A human's label map and marks.

    `array` (z, y, x) is the whole map. With `shown`, the map that the human started from, only
    what differs from it is the human's word; without, every drawn voxel is, and a voxel of
    `spoken_ids` that a human drew before and that is now empty was erased.
    """

    array: Ids
    spoken_ids: tuple[int, ...]
    marks: tuple[Mark, ...] = ()
    shown: Ids | None = None


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A program's label map for `ids` (0: none of them), with confidence in [0, 1]."""

    array: Ids
    confidence: NDArray[np.float32]
    ids: tuple[int, ...]
    origin: Origin


def merge_human(before: CaseLabel, drawing: Drawing, grid: Grid, ids: tuple[int, ...]) -> CaseLabel:
    """`before` with `drawing` applied; `ids` are those of the protocol.

    LabelError when a slice is marked empty but holds a voxel that a human drew.
    """
    own = replace(
        before,
        array=before.array.copy(),
        origin=before.origin.copy(),
        confidence=before.confidence.copy(),
    )
    return merge_human_into(own, drawing, grid, ids)[0]


def merge_human_into(
    label: CaseLabel, drawing: Drawing, grid: Grid, ids: tuple[int, ...]
) -> tuple[CaseLabel, bool]:
    """As `merge_human`, in the arrays of `label` itself; and whether anything changed.

    `drawing.array` may be `label.array`; `drawing.shown` may not.
    """
    ledger = label.ledger
    for mark in drawing.marks:
        ledger = ledger.mark(mark.plane, mark.indices, mark.state, mark.ids)
    _require_empty(drawing, grid)
    lines = ledger.known_lines(grid, ids)
    changed = ledger != label.ledger
    for slab in _slabs(grid.shape_zyx):
        array, origin = label.array[slab], label.origin[slab]
        confidence = label.confidence[slab]
        before = array.copy(), origin.copy(), confidence.copy()
        said = _said(label, drawing, grid, slab)
        _take_over(array, origin, drawing.array[slab], said)
        _settle_background(label, lines, slab)
        same = np.array_equal(array, before[0]) and np.array_equal(origin, before[1])
        changed = changed or not same or not np.array_equal(confidence, before[2])
    return replace(label, ledger=ledger), changed


def merge_program(before: CaseLabel, computed: Computed, grid: Grid) -> CaseLabel:
    """`before` with `computed` in place of what programs said of its ids.

    Program voxels of other structures stay unless `computed` is surer of its own there.
    """
    array, confidence = computed.array.copy(), computed.confidence.copy()
    blocked = _contradicts_human(before.ledger, computed, grid)
    array[blocked], confidence[blocked] = 0, 0.0
    other = _by_program(before.origin) & (before.array != 0)
    other &= ~_table(computed.ids)[before.array]
    other &= (array == 0) | (confidence < before.confidence)
    written = ~by_human(before.origin) & ~other
    claims = (array != 0) | (confidence > 0)
    origin = np.where(claims, np.uint8(computed.origin), np.uint8(Origin.NONE))
    return replace(
        before,
        array=np.where(written, array, before.array),
        origin=np.where(written, origin, before.origin),
        confidence=np.where(written, confidence, before.confidence),
        propagated_ids=tuple(sorted({*before.propagated_ids, *computed.ids})),
    )


def count_voxels(label: CaseLabel) -> dict[str, dict[str, int]]:
    """Drawn voxels per structure id, those of humans and those of programs apart."""
    counts = np.zeros((2, _TABLE), np.int64)
    for slab in _slabs(label.array.shape):
        drawn = np.flatnonzero(label.array[slab])
        values = label.array[slab].reshape(-1)[drawn]
        human = by_human(label.origin[slab].reshape(-1)[drawn])
        for row, found in enumerate((values[human], values[~human])):
            counts[row] += np.bincount(found, minlength=_TABLE)
    human_counts, program_counts = (
        {str(i): int(row[i]) for i in np.flatnonzero(row)} for row in counts
    )
    return {"human": human_counts, "program": program_counts}


def by_human(origin: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a human drew, confirmed or corrected."""
    return np.asarray((origin == Origin.HUMAN) | (origin == Origin.CORRECTED))


def present_ids(array: Ids) -> tuple[int, ...]:
    """The ids in `array` other than 0, rising."""
    seen = np.zeros(_TABLE, np.bool_)
    for values in array:
        seen[values[values != 0]] = True
    return tuple(int(i) for i in np.flatnonzero(seen))


def seen_through(label: CaseLabel, grid: Grid, ids: tuple[int, ...]) -> CaseLabel:
    """`label` as it counts under a protocol of `ids`, which may not be that of its making.

    Structures that were removed are left out. Slices that were done before a structure was
    added say nothing of it, so that their background is free for programs to put it there.
    """
    strange = ~_table((0, *ids))[label.array]
    array, origin, confidence = label.array.copy(), label.origin.copy(), label.confidence.copy()
    array[strange], origin[strange], confidence[strange] = 0, Origin.NONE, 0.0
    seen = replace(
        label,
        array=array,
        origin=origin,
        confidence=confidence,
        ledger=label.ledger.without(label.ledger.ids() - set(ids)),
        propagated_ids=tuple(i for i in label.propagated_ids if i in ids),
    )
    lines = seen.ledger.known_lines(grid, ids)
    for slab in _slabs(grid.shape_zyx):
        _settle_background(seen, lines, slab)
    return seen


def _take_over(array: Ids, origin: NDArray[np.uint8], drawn: Ids, said: NDArray[np.bool_]) -> None:
    """Puts `drawn` where it counts, and a human's origin."""
    corrected = origin == Origin.CORRECTED
    corrected |= _by_program(origin) & (array != drawn)
    human = said & (drawn != 0)
    erased = said & (drawn == 0) & ~_by_program(origin)
    np.copyto(array, drawn, where=said)
    np.copyto(origin, np.uint8(Origin.HUMAN), where=human)
    np.copyto(origin, np.uint8(Origin.NONE), where=erased)
    np.copyto(origin, np.uint8(Origin.CORRECTED), where=said & corrected)


def _said(before: CaseLabel, drawing: Drawing, grid: Grid, slab: slice) -> NDArray[np.bool_]:
    """Where the human's map counts, in a slab."""
    array, drawn = before.array[slab], drawing.array[slab]
    if drawing.shown is None:
        said = _table(drawing.spoken_ids)[array]
        said &= by_human(before.origin[slab])
        said |= drawn != 0
    else:
        said = np.asarray(drawn != drawing.shown[slab])
    for mark in drawing.marks:
        if mark.state in (SliceState.DONE, SliceState.EMPTY):
            table = _table(mark.ids)
            for where in _places(mark, grid, slab):
                said[where] |= table[drawn[where]] | table[array[where]]
    return said


def _places(mark: Mark, grid: Grid, slab: slice) -> Iterator[tuple[slice | int, ...]]:
    """The marked slices in the coordinates of a slab."""
    axis = plane_axis(grid, mark.plane)
    for index in mark.indices:
        if axis:
            yield (slice(None),) * axis + (index,)
        elif slab.start <= index < slab.stop:
            yield (index - slab.start,)


def _require_empty(drawing: Drawing, grid: Grid) -> None:
    """LabelError when a slice that is to be empty has a drawn voxel."""
    for mark in drawing.marks:
        if mark.state is not SliceState.EMPTY:
            continue
        table, axis = _table(mark.ids), plane_axis(grid, mark.plane)
        for index in mark.indices:
            count = np.count_nonzero(table[drawing.array[(slice(None),) * axis + (index,)]])
            if count:
                raise LabelError(
                    f"{mark.plane} slice {index} is said to be empty, but {count} voxels are "
                    "drawn there; erase them or mark the slice as done"
                )


def _settle_background(
    label: CaseLabel, lines: Mapping[int, NDArray[np.bool_]], slab: slice
) -> None:
    """Background is a human's word exactly where every structure is known, or was corrected.

    `lines` are the ledger's known lines of all structures.
    """
    array, origin = label.array[slab], label.origin[slab]
    background = (array == 0) & (origin != Origin.CORRECTED)
    known = _all_known(lines, slab, array.shape)
    np.copyto(origin, np.uint8(Origin.HUMAN), where=background & known)
    forgotten = background & ~known & (origin == Origin.HUMAN)
    np.copyto(origin, np.uint8(Origin.NONE), where=forgotten)
    confidence = label.confidence[slab]
    np.copyto(confidence, np.float32(1), where=by_human(origin))
    np.copyto(confidence, np.float32(0), where=origin == Origin.NONE)


def _all_known(
    lines: Mapping[int, NDArray[np.bool_]], slab: slice, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Where every structure is known, in a slab; structures known in the same slices count once."""
    here = {axis: line[:, slab] if axis == 0 else line for axis, line in lines.items()}
    n_ids = next(iter(here.values())).shape[0]
    rows = {tuple(line[row].tobytes() for line in here.values()): row for row in range(n_ids)}
    known = np.full(shape, bool(rows))
    for row in rows.values():
        known &= union_of_lines({axis: line[row] for axis, line in here.items()}, shape)
    return known


def _slabs(shape_zyx: tuple[int, ...]) -> Iterator[slice]:
    """Runs of slices small enough for the processor's cache, which halves the time and more."""
    depth = max(1, _SLAB_VOXELS // max(1, shape_zyx[1] * shape_zyx[2]))
    for start in range(0, shape_zyx[0], depth):
        yield slice(start, min(start + depth, shape_zyx[0]))


def _by_program(origin: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((origin == Origin.PROPAGATED) | (origin == Origin.PREDICTED))


def _contradicts_human(ledger: Ledger, computed: Computed, grid: Grid) -> NDArray[np.bool_]:
    """Where `computed` puts a structure into a slice that a human finished for it."""
    blocked = np.zeros(grid.shape_zyx, np.bool_)
    for structure_id in computed.ids:
        if ledger.planes_done(structure_id):
            blocked |= ledger.known_mask(grid, structure_id) & (computed.array == structure_id)
    return blocked


def _table(ids: Iterable[int]) -> NDArray[np.bool_]:
    table = np.zeros(_TABLE, np.bool_)
    table[list(ids)] = True
    return table
