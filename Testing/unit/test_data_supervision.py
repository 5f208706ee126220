"""What done slices say on the training grid, and what they leave open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiseg.data.cases import drawn_ids
from semiseg.data.supervision import Supervision, Wanted, supervise, to_channels
from semiseg.images.grid import Grid, canonical
from semiseg.study.case import CaseLabel, Origin
from semiseg.study.ledger import Ledger, SliceState

GRID = Grid(size_xyz=(6, 5, 8), spacing_mm_xyz=(1.0, 1.5, 4.0))
SHAPE = GRID.shape_zyx
CLASSES = (0, 10, 20, 30)


def label_of(array: np.ndarray, ledger: Ledger, **changes: object) -> CaseLabel:
    plain = CaseLabel(
        case_id="a",
        version=1,
        array=array.astype(np.uint16),
        origin=np.full(SHAPE, Origin.HUMAN, np.uint8),
        confidence=np.ones(SHAPE, np.float32),
        ledger=ledger,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def done(indices: tuple[int, ...], ids: tuple[int, ...] = CLASSES[1:]) -> Ledger:
    return Ledger().mark("axial", indices, SliceState.DONE, ids)


def known(found: Supervision) -> np.ndarray:
    """(z, y, x, C) bool."""
    return np.asarray(found.patterns[found.pattern])


def same_grid(label: CaseLabel, wanted: Wanted | None = None) -> Supervision:
    return supervise(label, canonical(GRID), SHAPE, wanted or Wanted(classes=CLASSES))


def test_only_done_slices_supervise() -> None:
    array = np.full(SHAPE, 10)
    found = same_grid(label_of(array, done((2, 5))))
    assert np.flatnonzero(found.valid.all(axis=(1, 2))).tolist() == [2, 5]
    assert found.valid.sum() == 2 * 5 * 6
    assert not known(found)[[0, 1, 3, 4, 6, 7]].any()
    assert not found.label[0].any()


def test_slice_done_for_one_structure_says_nothing_of_the_others() -> None:
    array = np.zeros(SHAPE)
    array[3, 1] = 10
    array[3, 2] = 20
    found = same_grid(label_of(array, done((3,), (10,))))
    assert known(found)[3, 1].all()
    assert found.label[3, 1].tolist() == [1] * 6
    for row in (0, 2):  # drawn as background, and as a structure that is not done here
        assert found.label[3, row].tolist() == [0] * 6
        assert known(found)[3, row].tolist() == [[False, True, False, False]] * 6


def test_background_of_a_slice_done_for_all_is_known() -> None:
    found = same_grid(label_of(np.zeros(SHAPE), done((4,))))
    assert known(found)[4].all()
    assert (found.valid[4] == 1).all()


def test_slices_along_several_axes_add_up() -> None:
    ledger = done((3,), (10,)).mark("sagittal", (2,), SliceState.EMPTY, (20, 30))
    found = same_grid(label_of(np.zeros(SHAPE), ledger))
    assert known(found)[3, 0, 2].tolist() == [True, True, True, True]
    assert known(found)[3, 0, 1].tolist() == [False, True, False, False]
    assert known(found)[0, 0, 2].tolist() == [False, False, True, True]
    assert found.valid[0, 0, 0] == 0


def propagated(array: np.ndarray, confidence: float, ids: tuple[int, ...]) -> CaseLabel:
    origin = np.full(SHAPE, Origin.PROPAGATED, np.uint8)
    origin[2] = Origin.HUMAN
    return label_of(
        array,
        done((2,)),
        origin=origin,
        confidence=np.full(SHAPE, confidence, np.float32),
        propagated_ids=ids,
    )


def test_propagated_voxels_carry_their_confidence_and_their_structures() -> None:
    array = np.zeros(SHAPE)
    array[5, 1] = 20
    array[5, 2] = 30
    found = same_grid(propagated(array, 0.4, (10, 20)))
    assert found.valid[5] == pytest.approx(0.4)
    assert (found.valid[2] == 1).all()
    assert known(found)[5, 1].all()
    assert found.label[5, 1].tolist() == [2] * 6
    assert known(found)[5, 2, 0].tolist() == [False, True, True, False]
    assert not found.label[5, 2].any()
    assert found.by_human


def test_propagated_voxels_are_unknown_when_they_are_not_wanted() -> None:
    found = same_grid(
        propagated(np.full(SHAPE, 10), 0.4, (10,)), Wanted(classes=CLASSES, use_propagated=False)
    )
    assert (np.delete(found.valid, 2, axis=0) == 0).all()
    assert (found.valid[2] == 1).all()


def test_voxels_propagated_without_confidence_are_unknown() -> None:
    found = same_grid(propagated(np.full(SHAPE, 10), 0.0, (10,)))
    assert (np.delete(found.valid, 2, axis=0) == 0).all()


def test_hidden_slice_and_the_gap_filled_from_it_are_unknown() -> None:
    label = replace(propagated(np.full(SHAPE, 10), 0.5, CLASSES[1:]), ledger=done((1, 3, 6)))
    found = same_grid(label, Wanted(classes=CLASSES, hidden=frozenset({(0, 3)})))
    assert found.valid[:, 0, 0].tolist() == [0.5, 1, 0, 0, 0, 0, 1, 0.5]


def test_the_slice_behind_the_last_one_that_stays_may_be_filled_from_the_hidden_one() -> None:
    label = replace(propagated(np.full(SHAPE, 10), 0.5, CLASSES[1:]), ledger=done((3, 5, 7)))
    found = same_grid(label, Wanted(classes=CLASSES, hidden=frozenset({(0, 5)})))
    assert found.valid[3:, 0, 0].tolist() == [1, 0, 0, 0, 1]


def test_a_program_adds_nothing_where_a_human_has_said_something() -> None:
    label = replace(propagated(np.zeros(SHAPE), 0.5, (10, 20)), ledger=done((5,), (10,)))
    found = same_grid(label)
    assert known(found)[5, 0, 0].tolist() == [False, True, False, False]
    assert known(found)[6, 0, 0].tolist() == [False, True, True, False]


def test_only_named_slices_count_when_asked_so() -> None:
    label = replace(propagated(np.full(SHAPE, 10), 0.5, CLASSES[1:]), ledger=done((1, 3, 6)))
    found = same_grid(label, Wanted(classes=CLASSES, only=frozenset({(0, 3)})))
    assert found.valid[:, 0, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_nothing_known_is_told() -> None:
    found = same_grid(label_of(np.ones(SHAPE), Ledger()))
    assert not found.any
    assert not found.by_human


@given(st.integers(0, 11), st.integers(1, 12), st.booleans())
def test_every_done_slice_survives_the_zoom(index: int, n_to: int, flipped: bool) -> None:
    direction = (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0 if flipped else 1.0)
    grid = Grid(size_xyz=(3, 3, 12), spacing_mm_xyz=(1.0, 1.0, 2.0), direction=direction)
    array = np.zeros(grid.shape_zyx, np.uint16)
    array[index] = 10
    label = CaseLabel(
        case_id="a",
        version=1,
        array=array,
        origin=np.ones_like(array, dtype=np.uint8),
        confidence=np.ones(array.shape, np.float32),
        ledger=done((index,), (10,)),
    )
    found = supervise(label, canonical(grid), (n_to, 3, 3), Wanted(classes=(0, 10)))
    shown = np.flatnonzero(found.valid[:, 0, 0])
    place = 11 - index if flipped else index
    assert int((place + 0.5) * n_to / 12) in shown
    assert (found.label[shown] == 1).all()


def test_the_slice_done_for_more_wins_where_one_training_slice_covers_two() -> None:
    array = np.zeros(SHAPE)
    array[3] = 10
    ledger = done((2,), (10,)).mark("axial", (3,), SliceState.DONE, (10, 20, 30))
    found = supervise(label_of(array, ledger), canonical(GRID), (4, 5, 6), Wanted(classes=CLASSES))
    assert (found.label[1] == 1).all()


def test_supervision_is_turned_with_the_image() -> None:
    direction = (0.0, 0, 1, 1, 0, 0, 0, -1, 0)
    grid = Grid(size_xyz=SHAPE[::-1], spacing_mm_xyz=(1, 1, 1), direction=direction)
    array = np.random.default_rng(0).choice([0, 10, 20], SHAPE)
    turned = canonical(grid)
    ledger = Ledger().mark("coronal", range(20), SliceState.UNTOUCHED, (10,))
    for plane in ("axial", "coronal", "sagittal"):
        ledger = ledger.mark(plane, (2,), SliceState.DONE, CLASSES[1:])  # type: ignore[arg-type]
    label = label_of(array, ledger)
    found = supervise(label, turned, turned.grid.shape_zyx, Wanted(classes=CLASSES))
    expected = np.zeros(SHAPE, bool)
    for structure_id in CLASSES[1:]:
        expected |= ledger.known_mask(grid, structure_id)
    assert np.array_equal(found.valid > 0, turned.apply(expected))
    assert np.array_equal(found.label, turned.apply(to_channels(array, CLASSES) * expected))


def test_ids_become_channels_by_their_place() -> None:
    assert to_channels(np.array([0, 30, 10, 99]), (0, 10, 30)).tolist() == [0, 2, 1, 0]


def test_drawn_ids_are_those_that_are_known_somewhere() -> None:
    array = np.zeros(SHAPE)
    array[3, 0], array[3, 1], array[5, 0], array[5, 1] = 10, 20, 20, 30
    origin = np.where(np.arange(8)[:, None, None] == 5, Origin.PROPAGATED, Origin.HUMAN)
    label = label_of(
        array,
        done((3,), (10, 30)),
        origin=np.broadcast_to(origin, SHAPE).astype(np.uint8),
        propagated_ids=(20,),
    )
    human, program = drawn_ids(label, GRID, CLASSES[1:])
    assert human == {10}
    assert program == {20}
