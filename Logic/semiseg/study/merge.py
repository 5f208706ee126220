"""Joins what a human drew, or a program computed, with what a label held before.

A program never changes a HUMAN or CORRECTED voxel, nor claims one that a done slice already
decides. A human's voxel goes only where the human's own map says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import LabelError
from semiseg.images.grid import Grid, Plane, plane_axis
from semiseg.study.case import PROTECTED, CaseLabel, Origin
from semiseg.study.ledger import Ledger, SliceState, union_of_lines

Ids = NDArray[np.uint16]
_TABLE = 65536
_IS_PROTECTED = np.isin(np.arange(256), [int(o) for o in PROTECTED])
_IS_PROGRAM = np.isin(np.arange(256), [int(Origin.PROPAGATED), int(Origin.PREDICTED)])


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
    ledger = before.ledger
    for mark in drawing.marks:
        ledger = ledger.mark(mark.plane, mark.indices, mark.state, mark.ids)
    said = _said(before, drawing, grid)
    was_program = _IS_PROGRAM[before.origin]
    corrected = before.origin == Origin.CORRECTED
    corrected |= was_program & (before.array != drawing.array)
    origin = np.where(drawing.array != 0, np.uint8(Origin.HUMAN), np.uint8(Origin.NONE))
    np.copyto(origin, before.origin, where=was_program & (drawing.array == 0))
    origin[corrected] = Origin.CORRECTED
    label = replace(
        before,
        array=np.where(said, drawing.array, before.array),
        origin=np.where(said, origin, before.origin),
        confidence=before.confidence.copy(),
        ledger=ledger,
    )
    _settle_background(label, grid, ids)
    return label


def merge_program(before: CaseLabel, computed: Computed, grid: Grid) -> CaseLabel:
    """`before` with `computed` in place of what programs said of its ids.

    Program voxels of other structures stay unless `computed` is surer of its own there.
    """
    array, confidence = computed.array.copy(), computed.confidence.copy()
    blocked = _contradicts_human(before.ledger, computed, grid)
    array[blocked], confidence[blocked] = 0, 0.0
    other = _IS_PROGRAM[before.origin] & (before.array != 0)
    other &= ~_table(computed.ids)[before.array]
    other &= (array == 0) | (confidence < before.confidence)
    written = ~_IS_PROTECTED[before.origin] & ~other
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
    human = _IS_PROTECTED[label.origin]
    return {
        "human": _counts(label.array, human),
        "program": _counts(label.array, ~human),
    }


def present_ids(array: Ids) -> tuple[int, ...]:
    """The ids in `array` other than 0, rising."""
    seen = np.zeros(_TABLE, np.bool_)
    for values in array:
        seen[values] = True
    return tuple(int(i) for i in np.flatnonzero(seen) if i != 0)


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
    _settle_background(seen, grid, ids)
    return seen


def _said(before: CaseLabel, drawing: Drawing, grid: Grid) -> NDArray[np.bool_]:
    """Where the human's map counts."""
    if drawing.shown is None:
        erased = _table(drawing.spoken_ids)[before.array] & _IS_PROTECTED[before.origin]
        said: NDArray[np.bool_] = erased | (drawing.array != 0)
    else:
        said = drawing.array != drawing.shown
    for mark in drawing.marks:
        if mark.state in (SliceState.DONE, SliceState.EMPTY):
            _say_slices(said, before, drawing, mark, plane_axis(grid, mark.plane))
    return said


def _say_slices(
    said: NDArray[np.bool_], before: CaseLabel, drawing: Drawing, mark: Mark, axis: int
) -> None:
    table = _table(mark.ids)
    for index in mark.indices:
        where = (slice(None),) * axis + (index,)
        drawn = table[drawing.array[where]]
        if mark.state is SliceState.EMPTY and drawn.any():
            raise LabelError(
                f"{mark.plane} slice {index} is said to be empty, but {int(drawn.sum())} voxels "
                "are drawn there; erase them or mark the slice as done"
            )
        said[where] |= drawn | table[before.array[where]]


def _settle_background(label: CaseLabel, grid: Grid, ids: tuple[int, ...]) -> None:
    """Background is a human's word exactly where every structure is known, or was corrected."""
    lines = label.ledger.known_lines(grid, ids)
    rows = {tuple(line[row].tobytes() for line in lines.values()): row for row in range(len(ids))}
    known = np.full(grid.shape_zyx, bool(rows))
    for row in rows.values():  # structures that are known in the same slices count once
        known &= union_of_lines({axis: line[row] for axis, line in lines.items()}, grid)
    background = (label.array == 0) & (label.origin != Origin.CORRECTED)
    label.origin[background & known] = Origin.HUMAN
    label.origin[background & ~known & (label.origin == Origin.HUMAN)] = Origin.NONE
    label.confidence[_IS_PROTECTED[label.origin]] = 1.0
    label.confidence[label.origin == Origin.NONE] = 0.0


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


def _counts(array: Ids, where: NDArray[np.bool_]) -> dict[str, int]:
    counts = np.zeros(_TABLE, np.int64)
    for values, wanted in zip(array, where, strict=True):  # by slice, to spare memory
        found = np.bincount(values[wanted])
        counts[: found.size] += found
    return {str(i): int(counts[i]) for i in np.flatnonzero(counts) if i != 0}
