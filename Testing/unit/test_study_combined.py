"""What a human decided wins over a prediction, structure by structure."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.images.grid import Grid
from semiseg.study.case import CaseLabel, Origin
from semiseg.study.combined import combined
from semiseg.study.ledger import Ledger, SliceState

GRID = Grid(size_xyz=(6, 5, 4), spacing_mm_xyz=(1.0, 1.0, 2.0))
IDS = (1, 2)


def label(
    array: NDArray[np.uint16], origin: NDArray[np.uint8], ledger: Ledger | None = None
) -> CaseLabel:
    return CaseLabel(
        case_id="ct",
        version=1,
        array=array,
        origin=origin,
        confidence=(origin > 0).astype(np.float32),
        ledger=ledger or Ledger(),
    )


def zeros() -> NDArray[np.uint16]:
    return np.zeros(GRID.shape_zyx, np.uint16)


@pytest.fixture
def prediction() -> NDArray[np.uint16]:
    array = zeros()
    array[:, 1:4, 1:3] = 1
    array[:, 1:4, 3:5] = 2
    return array


def test_without_a_label_all_is_predicted(prediction: NDArray[np.uint16]) -> None:
    array, origin = combined(prediction, None, GRID, IDS)
    np.testing.assert_array_equal(array, prediction)
    np.testing.assert_array_equal(origin, np.where(prediction > 0, Origin.PREDICTED, 0))


def test_drawn_and_erased_voxels_win_and_propagated_ones_do_not(
    prediction: NDArray[np.uint16],
) -> None:
    drawn, origin = zeros(), zeros().astype(np.uint8)
    drawn[0, 0, 0], origin[0, 0, 0] = 2, Origin.HUMAN
    drawn[1, 2, 2], origin[1, 2, 2] = 2, Origin.CORRECTED
    origin[2, 2, 2] = Origin.CORRECTED  # corrected to background
    drawn[3, 0, 0], origin[3, 0, 0] = 1, Origin.PROPAGATED
    array, found = combined(prediction, label(drawn, origin), GRID, IDS)
    assert (array[0, 0, 0], found[0, 0, 0]) == (2, Origin.HUMAN)
    assert (array[1, 2, 2], found[1, 2, 2]) == (2, Origin.CORRECTED)
    assert (array[2, 2, 2], found[2, 2, 2]) == (0, Origin.CORRECTED)
    assert (array[3, 0, 0], found[3, 0, 0]) == (0, Origin.NONE)
    assert (array[3, 2, 2], found[3, 2, 2]) == (1, Origin.PREDICTED)


def test_on_a_slice_done_for_one_structure_only_that_prediction_counts_for_nothing(
    prediction: NDArray[np.uint16],
) -> None:
    drawn, origin = zeros(), zeros().astype(np.uint8)
    drawn[2, 1, 1] = 1
    origin[2] = Origin.HUMAN
    ledger = Ledger().mark("axial", [2], SliceState.DONE, [1])
    array, found = combined(prediction, label(drawn, origin, ledger), GRID, IDS)
    assert (array[2] == 1).sum() == 1
    assert (array[2] == 2).sum() == (prediction[2] == 2).sum()
    assert (found[2][array[2] == 2] == Origin.PREDICTED).all()
    assert found[2, 1, 2] == Origin.HUMAN
    np.testing.assert_array_equal(array[[0, 1, 3]], prediction[[0, 1, 3]])


def test_a_slice_done_for_all_is_the_humans_to_the_last_voxel(
    prediction: NDArray[np.uint16],
) -> None:
    drawn, origin = zeros(), zeros().astype(np.uint8)
    drawn[:, 3, :2] = 2
    origin[:, 3] = Origin.HUMAN
    ledger = Ledger().mark("coronal", [3], SliceState.DONE, IDS)
    array, found = combined(prediction, label(drawn, origin, ledger), GRID, IDS)
    np.testing.assert_array_equal(array[:, 3], drawn[:, 3])
    assert (found[:, 3] == Origin.HUMAN).all()
    assert (array[:, 2] == prediction[:, 2]).all()


def test_the_prediction_itself_is_not_changed(prediction: NDArray[np.uint16]) -> None:
    before = prediction.copy()
    drawn = np.ones_like(prediction)
    combined(prediction, label(drawn, drawn.astype(np.uint8)), GRID, IDS)
    np.testing.assert_array_equal(prediction, before)
