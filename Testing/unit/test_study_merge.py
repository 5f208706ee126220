"""What humans draw is never lost to programs, whatever comes in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from semiseg.errors import LabelError
from semiseg.images.grid import PLANES, Grid, Plane, plane_axis
from semiseg.study.case import PROTECTED, CaseLabel, Origin, empty_label
from semiseg.study.ledger import FINISHED, SliceState
from semiseg.study.merge import (
    Computed,
    Drawing,
    Mark,
    count_voxels,
    merge_human,
    merge_program,
    seen_through,
)

_IDS = (1, 2, 300)
_GRID = Grid(
    size_xyz=(3, 2, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.0, 0.0, 1.0, 0.6, -0.8, 0.0, 0.8, 0.6, 0.0),
)
_SHAPE = _GRID.shape_zyx
_MAPS = arrays(np.uint16, _SHAPE, elements=st.sampled_from((0, *_IDS)))
_WEIGHTS = arrays(np.float32, _SHAPE, elements=st.sampled_from((0.0, 0.25, 0.5, 1.0)))
_SOME = st.sets(st.sampled_from(_IDS), min_size=1).map(lambda ids: tuple(sorted(ids)))


@st.composite
def _marks(draw: st.DrawFn) -> Mark:
    plane: Plane = draw(st.sampled_from(PLANES))
    count = _SHAPE[plane_axis(_GRID, plane)]
    indices = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=2))
    state = draw(st.sampled_from((SliceState.DONE, SliceState.UNTOUCHED, SliceState.SUGGESTED)))
    return Mark(plane=plane, indices=tuple(sorted(indices)), state=state, ids=draw(_SOME))


@dataclass
class _Human:
    array: NDArray[np.uint16]
    spoken: tuple[int, ...]
    marks: tuple[Mark, ...]
    edits: bool


@dataclass
class _Program:
    array: NDArray[np.uint16]
    confidence: NDArray[np.float32]
    ids: tuple[int, ...]
    origin: Origin


_HUMANS = st.builds(_Human, _MAPS, _SOME, st.lists(_marks(), max_size=2).map(tuple), st.booleans())
_PROGRAMS = st.builds(
    _Program, _MAPS, _WEIGHTS, _SOME, st.sampled_from((Origin.PROPAGATED, Origin.PREDICTED))
)
_HISTORIES = st.lists(st.one_of(_HUMANS, _PROGRAMS), min_size=1, max_size=5)


def _draw(before: CaseLabel, human: _Human) -> CaseLabel:
    drawing = Drawing(
        array=human.array,
        spoken_ids=human.spoken,
        marks=human.marks,
        shown=before.array if human.edits else None,
    )
    return merge_human(before, drawing, _GRID, _IDS)


def _compute(before: CaseLabel, program: _Program) -> CaseLabel:
    array = np.where(np.isin(program.array, program.ids), program.array, 0).astype(np.uint16)
    computed = Computed(
        array=array, confidence=program.confidence, ids=program.ids, origin=program.origin
    )
    return merge_program(before, computed, _GRID)


def _require_sound(label: CaseLabel) -> None:
    protected = np.isin(label.origin, PROTECTED)
    assert (label.array.dtype, label.origin.dtype, label.confidence.dtype) == (
        np.uint16,
        np.uint8,
        np.float32,
    )
    assert (label.confidence[protected] == 1).all()
    assert (label.confidence[label.origin == Origin.NONE] == 0).all()
    assert (label.array[label.origin == Origin.NONE] == 0).all()
    known = np.ones(_SHAPE, bool)
    for structure_id in _IDS:
        mask = label.ledger.known_mask(_GRID, structure_id)
        known &= mask
        # In a finished slice, a structure is where the human has it, and nowhere else.
        assert (protected | (label.array != structure_id))[mask].all()
    background = label.array == 0
    assert np.array_equal(background & known, background & known & protected)


@settings(max_examples=80, deadline=None)
@given(history=_HISTORIES)
def test_a_program_never_changes_what_a_human_decided(
    history: list[_Human | _Program],
) -> None:
    label = empty_label("c", _GRID)
    for step in history:
        before, inputs = label, [a.copy() for a in (label.array, label.origin, label.confidence)]
        label = _draw(before, step) if isinstance(step, _Human) else _compute(before, step)
        _require_sound(label)
        assert all(
            np.array_equal(a, b)
            for a, b in zip(inputs, (before.array, before.origin, before.confidence), strict=True)
        )
        if isinstance(step, _Program):
            protected = np.isin(before.origin, PROTECTED)
            assert np.array_equal(label.array[protected], before.array[protected])
            assert np.array_equal(label.origin[protected], before.origin[protected])
            assert label.ledger == before.ledger


@settings(max_examples=80, deadline=None)
@given(history=_HISTORIES, last=_HUMANS)
def test_what_a_human_draws_is_there_and_nothing_else_of_a_humans_goes(
    history: list[_Human | _Program], last: _Human
) -> None:
    before = empty_label("c", _GRID)
    for step in history:
        before = _draw(before, step) if isinstance(step, _Human) else _compute(before, step)
    after = _draw(before, last)
    protected = np.isin(before.origin, PROTECTED) & (before.array != 0)
    if last.edits:
        said = last.array != before.array
        assert np.array_equal(after.array[said], last.array[said])
    else:
        drawn = last.array != 0
        assert np.array_equal(after.array[drawn], last.array[drawn])
        assert np.isin(after.origin[drawn], PROTECTED).all()
        said = drawn | np.isin(before.array, last.spoken)
    for mark in last.marks:
        if mark.state in FINISHED:
            where = (slice(None),) * plane_axis(_GRID, mark.plane) + (list(mark.indices),)
            said[where] |= np.isin(before.array[where], mark.ids)
            finished = np.isin(after.array[where], mark.ids)
            assert np.array_equal(finished, np.isin(last.array[where], mark.ids))
    kept = protected & ~said
    assert np.array_equal(after.array[kept], before.array[kept])


@settings(max_examples=30, deadline=None)
@given(history=_HISTORIES, human=_HUMANS)
def test_saying_the_same_twice_changes_nothing(
    history: list[_Human | _Program], human: _Human
) -> None:
    label = empty_label("c", _GRID)
    for step in history:
        label = _draw(label, step) if isinstance(step, _Human) else _compute(label, step)
    once = _draw(label, human)
    drawing = Drawing(
        array=once.array, spoken_ids=human.spoken, marks=human.marks, shown=once.array
    )
    twice = merge_human(once, drawing, _GRID, _IDS)
    assert np.array_equal(once.array, twice.array)
    assert np.array_equal(once.origin, twice.origin)


@settings(max_examples=30, deadline=None)
@given(history=_HISTORIES, ids=_SOME)
def test_a_smaller_protocol_hides_structures_and_changes_nothing_of_the_others(
    history: list[_Human | _Program], ids: tuple[int, ...]
) -> None:
    label = empty_label("c", _GRID)
    for step in history:
        label = _draw(label, step) if isinstance(step, _Human) else _compute(label, step)
    seen = seen_through(label, _GRID, ids)
    assert np.array_equal(seen.array, np.where(np.isin(label.array, ids), label.array, 0))
    drawn = seen.array != 0
    assert np.array_equal(seen.origin[drawn], label.origin[drawn])
    assert seen.ledger.ids() <= set(ids)
    assert set(seen.propagated_ids) <= set(ids)


def _one(value: int, at: tuple[int, int, int] = (0, 0, 0)) -> NDArray[np.uint16]:
    array = np.zeros(_SHAPE, np.uint16)
    array[at] = value
    return array


def _propagated(array: NDArray[np.uint16], confidence: float = 0.5) -> CaseLabel:
    program = _Program(array, np.full(_SHAPE, confidence, np.float32), _IDS, Origin.PROPAGATED)
    return _compute(empty_label("c", _GRID), program)


def test_drawing_over_a_programs_voxel_corrects_it() -> None:
    before = _propagated(_one(1))
    drawing = Drawing(array=_one(2), spoken_ids=_IDS)
    after = merge_human(before, drawing, _GRID, _IDS)
    assert (after.array[0, 0, 0], after.origin[0, 0, 0]) == (2, Origin.CORRECTED)
    agreed = merge_human(before, Drawing(array=_one(1), spoken_ids=_IDS), _GRID, _IDS)
    assert agreed.origin[0, 0, 0] == Origin.HUMAN
    assert agreed.origin[0, 0, 1] == Origin.PROPAGATED


def test_erasing_a_programs_voxel_in_an_edited_map_corrects_it_for_good() -> None:
    before = _propagated(_one(1))
    drawing = Drawing(array=_one(0), spoken_ids=_IDS, shown=before.array)
    after = merge_human(before, drawing, _GRID, _IDS)
    assert (after.array[0, 0, 0], after.origin[0, 0, 0]) == (0, Origin.CORRECTED)
    again = _compute(after, _Program(_one(1), np.ones(_SHAPE, np.float32), _IDS, Origin.PROPAGATED))
    assert again.array[0, 0, 0] == 0


def test_without_a_start_map_an_empty_voxel_leaves_a_programs_alone() -> None:
    before = _propagated(_one(1))
    after = merge_human(before, Drawing(array=_one(0), spoken_ids=_IDS), _GRID, _IDS)
    assert (after.array[0, 0, 0], after.origin[0, 0, 0]) == (1, Origin.PROPAGATED)


def test_a_finished_slice_takes_a_programs_voxels_over_or_out() -> None:
    mark = Mark(plane="axial", indices=(0,), state=SliceState.DONE, ids=(1, 2, 300))
    where = (slice(None),) * plane_axis(_GRID, "axial") + (0,)
    array = np.zeros(_SHAPE, np.uint16)
    array[where] = 1
    before = _propagated(array)
    confirmed = merge_human(
        before, Drawing(array=array, spoken_ids=_IDS, marks=(mark,)), _GRID, _IDS
    )
    assert (confirmed.origin[where] == Origin.HUMAN).all()
    emptied = merge_human(
        before, Drawing(array=_one(0), spoken_ids=_IDS, marks=(mark,)), _GRID, _IDS
    )
    assert (emptied.array[where] == 0).all()
    assert (emptied.origin[where] == Origin.CORRECTED).all()


def test_a_slice_finished_for_one_structure_says_nothing_of_another() -> None:
    mark = Mark(plane="axial", indices=(0,), state=SliceState.DONE, ids=(1,))
    drawn = merge_human(
        empty_label("c", _GRID),
        Drawing(array=_one(0), spoken_ids=_IDS, marks=(mark,)),
        _GRID,
        _IDS,
    )
    assert (drawn.origin == Origin.NONE).all()
    where = (slice(None),) * plane_axis(_GRID, "axial") + (0,)
    for structure_id, expected in ((1, 0), (2, 2)):
        array = np.full(_SHAPE, structure_id, np.uint16)
        program = _Program(array, np.ones(_SHAPE, np.float32), _IDS, Origin.PROPAGATED)
        after = _compute(drawn, program)
        assert (after.array[where] == expected).all()


def test_an_empty_slice_with_drawn_voxels_is_refused() -> None:
    mark = Mark(plane="axial", indices=(0, 1, 2), state=SliceState.EMPTY, ids=_IDS)
    drawing = Drawing(array=np.ones(_SHAPE, np.uint16), spoken_ids=_IDS, marks=(mark,))
    with pytest.raises(LabelError, match="axial slice 0 is said to be empty, but"):
        merge_human(empty_label("c", _GRID), drawing, _GRID, _IDS)


def test_the_surer_program_keeps_a_voxel_of_another_structure() -> None:
    before = _propagated(_one(1), confidence=0.5)
    for confidence, expected in ((0.25, 1), (1.0, 2)):
        program = _Program(_one(2), np.full(_SHAPE, confidence, np.float32), (2,), Origin.PREDICTED)
        assert _compute(before, program).array[0, 0, 0] == expected
    silent = _Program(_one(0), np.ones(_SHAPE, np.float32), (2,), Origin.PROPAGATED)
    assert _compute(before, silent).array[0, 0, 0] == 1
    newer = _Program(_one(0), np.zeros(_SHAPE, np.float32), (1,), Origin.PROPAGATED)
    assert _compute(before, newer).array[0, 0, 0] == 0


def test_voxels_are_counted_by_structure_and_maker() -> None:
    drawing = Drawing(array=_one(300), spoken_ids=_IDS)
    label = merge_human(_propagated(_one(1, (1, 1, 1))), drawing, _GRID, _IDS)
    assert count_voxels(label) == {"human": {"300": 1}, "program": {"1": 1}}
