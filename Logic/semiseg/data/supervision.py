"""From a study's label and ledger to what is known at each voxel of the training grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import Orientation
from semiseg.images.resampling import nearest_index
from semiseg.study.case import CaseLabel, Origin

Line = tuple[int, int]
"""A slice of a case: array axis of the image's own grid, index along it."""
Lines = dict[int, NDArray[np.bool_]]
"""Per array axis (K, n): whether slice i along it is done for structure k."""


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """What is known on one training grid (z, y, x).

    label: channel numbers; valid: [0, 1]; origin: `study.case.Origin`; pattern: number of the row
    of `patterns` (P, C) bool that says which classes are known there.
    """

    label: NDArray[np.int16]
    valid: NDArray[np.float32]
    origin: NDArray[np.uint8]
    pattern: NDArray[np.int32]
    patterns: NDArray[np.bool_]

    @property
    def any(self) -> bool:
        """Whether anything is known at all."""
        return bool((self.valid > 0).any())

    @property
    def by_human(self) -> bool:
        """Whether a human has done a slice of it."""
        return bool(((self.valid > 0) & (self.origin != Origin.PROPAGATED)).any())


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to take from a label: `classes` are protocol ids by channel, 0 first.

    Slices in `hidden` count as not done. With `only` set, nothing but those slices counts.
    """

    classes: tuple[int, ...]
    use_propagated: bool = True
    hidden: frozenset[Line] = frozenset()
    only: frozenset[Line] | None = None


def supervise(
    label: CaseLabel, orientation: Orientation, shape_zyx: tuple[int, int, int], wanted: Wanted
) -> Supervision:
    """`label` on a training grid of `shape_zyx`, by picking voxels.

    A training slice shows its nearest slice, but one that covers several prefers those that are
    done, so no done slice is lost to the zoom.
    """
    done = label.ledger.known_lines(orientation.source, wanted.classes[1:])
    kept = _kept(done, wanted)
    trusted = _untouched_by_hidden(done, kept, wanted, orientation.source.shape_zyx)
    lines = [_turn(kept, orientation, axis, len(wanted.classes) - 1) for axis in range(3)]
    index = [_picked(lines[axis], shape_zyx[axis]) for axis in range(3)]
    program = _program_voxels(label, wanted) & trusted

    def pick(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return orientation.apply(array)[np.ix_(*index)]

    code, table = _patterns([lines[axis][:, index[axis]] for axis in range(3)])
    return _combine(
        channel=to_channels(pick(label.array), wanted.classes),
        origin=pick(label.origin).astype(np.uint8),
        confidence=np.where(pick(program), pick(label.confidence), 0).astype(np.float32),
        human=(code, table),
        program=np.isin(wanted.classes[1:], label.propagated_ids),
    )


def to_channels(array: NDArray[np.generic], classes: tuple[int, ...]) -> NDArray[np.int16]:
    """Protocol ids as channel numbers; ids that are no class become 0."""
    table = np.zeros(max(int(array.max(initial=0)), *classes) + 1, dtype=np.int16)
    table[list(classes)] = np.arange(len(classes))
    return np.asarray(table[array])


def _kept(done: Mapping[int, NDArray[np.bool_]], wanted: Wanted) -> Lines:
    kept = {axis: lines.copy() for axis, lines in done.items()}
    for axis, index in wanted.hidden:
        kept[axis][:, index] = False
    if wanted.only is None:
        return kept
    only = {axis: np.zeros_like(lines) for axis, lines in kept.items()}
    for axis, index in wanted.only:
        only[axis][:, index] = kept[axis][:, index]
    return only


def _untouched_by_hidden(
    done: Mapping[int, NDArray[np.bool_]],
    kept: Lines,
    wanted: Wanted,
    shape_zyx: tuple[int, int, int],
) -> NDArray[np.bool_]:
    """(z, y, x) False where a program may have filled a gap from a slice that is hidden now."""
    trusted = np.ones(shape_zyx, dtype=bool)
    for axis, index in wanted.hidden:
        for structure in np.flatnonzero(done[axis][:, index]):
            left = np.flatnonzero(kept[axis][structure])
            first = left[left < index].max(initial=-1) + 1
            last = left[left > index].min(initial=shape_zyx[axis])
            np.moveaxis(trusted, axis, 0)[first:last] = False
    return trusted


def _program_voxels(label: CaseLabel, wanted: Wanted) -> NDArray[np.bool_]:
    if not wanted.use_propagated or wanted.only is not None:
        return np.zeros(label.array.shape, dtype=bool)
    return np.asarray(label.origin == Origin.PROPAGATED)


def _turn(lines: Lines, orientation: Orientation, axis: int, n: int) -> NDArray[np.bool_]:
    """The lines (n, size) along canonical array axis `axis`."""
    source = orientation.axes[axis]
    none = np.zeros((n, orientation.grid.shape_zyx[axis]), dtype=bool)
    own = lines.get(source, none)
    return own[:, ::-1] if orientation.flips[axis] else own


def _picked(lines: NDArray[np.bool_], n_to: int) -> NDArray[np.intp]:
    """For each of `n_to` training slices the slice that it shows, done ones first."""
    n_from = lines.shape[1]
    index = nearest_index(n_from, n_to)
    covering = nearest_index(n_to, n_from)
    worth = lines.sum(axis=0)

    def rank(i: int, k: int) -> tuple[int, float]:
        return int(worth[i]), -abs((i + 0.5) * n_to / n_from - k - 0.5)

    for i in map(int, np.flatnonzero(worth)):
        k = int(covering[i])
        if rank(i, k) > rank(int(index[k]), k):
            index[k] = i
    return index


def _patterns(known: list[NDArray[np.bool_]]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(z, y, x) row numbers of a table (P, K): known if known along any axis."""
    rows, codes = zip(
        *(np.unique(lines.T, axis=0, return_inverse=True) for lines in known), strict=True
    )
    z, y, x = (code.reshape(-1) for code in codes)
    table = rows[0][:, None, None] | rows[1][None, :, None] | rows[2][None, None]
    numbers = np.arange(math.prod(table.shape[:3])).reshape(table.shape[:3])
    return numbers[np.ix_(z, y, x)], table.reshape(-1, table.shape[-1])


def _combine(
    *,
    channel: NDArray[np.int16],
    origin: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    human: tuple[NDArray[np.intp], NDArray[np.bool_]],
    program: NDArray[np.bool_],
) -> Supervision:
    """One pattern per voxel; where a human has said something, a program adds nothing.

    A voxel that is drawn as a structure which is known there is known for all.
    """
    code, table = human
    by_human = np.asarray(table.any(axis=1))[code]
    by_program = (confidence > 0) & ~by_human & program.any()
    table = np.concatenate([table, program[None], np.ones_like(program[None])])
    code = np.where(by_program, len(table) - 2, code)
    drawn = (channel > 0) & table[code, channel - 1]
    code = np.where(drawn, len(table) - 1, code)
    used, pattern = np.unique(code, return_inverse=True)
    table = table[used]
    return Supervision(
        label=np.where(drawn, channel, 0).astype(np.int16),
        valid=np.where(by_human, 1, np.where(by_program, confidence, 0)).astype(np.float32),
        origin=origin,
        pattern=pattern.reshape(code.shape).astype(np.int32),
        patterns=np.concatenate([table.all(axis=1, keepdims=True), table], axis=1),
    )
