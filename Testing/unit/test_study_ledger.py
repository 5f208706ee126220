"""The slice ledger: what is finished, for which structures, and the mask that it makes known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiseg.errors import LabelError, SchemaError
from semiseg.images.grid import PLANES, Grid, plane_axis
from semiseg.study.ledger import Ledger, SliceState, require_slices, union_of_lines

_GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.0, 0.0, 1.0, 0.6, -0.8, 0.0, 0.8, 0.6, 0.0),
)
_MARKS = st.lists(
    st.tuples(
        st.sampled_from(PLANES),
        st.sets(st.integers(0, 3), max_size=3),
        st.sampled_from(SliceState),
        st.sets(st.integers(1, 3), min_size=1),
    ),
    max_size=6,
)


def _marked(marks: list[tuple[str, set[int], SliceState, set[int]]]) -> Ledger:
    ledger = Ledger()
    for plane, indices, state, ids in marks:
        ledger = ledger.mark(plane, indices, state, ids)  # type: ignore[arg-type]
    return ledger


def test_marks_are_kept_per_structure_and_the_old_ledger_stays() -> None:
    first = Ledger()
    done = first.mark("axial", [3, 1], SliceState.DONE, [1, 2])
    mixed = done.mark("axial", [2], SliceState.EMPTY, [1]).mark(
        "coronal", [0], SliceState.SUGGESTED, [2]
    )
    assert not first.any_done
    assert mixed.done("axial", 1) == (1, 2, 3)
    assert mixed.done("axial", 2) == (1, 3)
    assert mixed.done("coronal", 2) == ()
    assert mixed.planes_done(2) == ("axial",)
    assert mixed.state("coronal", 0, 2) is SliceState.SUGGESTED
    assert mixed.state("coronal", 0, 1) is SliceState.UNTOUCHED
    assert mixed.ids() == {1, 2}
    assert not Ledger().mark("axial", [1], SliceState.SUGGESTED, [1]).any_done


def test_untouched_takes_an_entry_out() -> None:
    marked = Ledger().mark("axial", [1], SliceState.DONE, [1, 2])
    assert marked.mark("axial", [1], SliceState.UNTOUCHED, [1, 2]) == Ledger()
    assert marked.without([1]).ids() == {2}


@given(marks=_MARKS)
def test_known_is_the_union_of_the_done_slices(
    marks: list[tuple[str, set[int], SliceState, set[int]]],
) -> None:
    ledger = _marked(marks)
    lines = ledger.known_lines(_GRID, [1, 2, 3])
    assert sorted(lines) == [0, 1, 2]
    for row, structure_id in enumerate([1, 2, 3]):
        expected = np.zeros(_GRID.shape_zyx, bool)
        for plane in PLANES:
            for index in ledger.done(plane, structure_id):
                np.moveaxis(expected, plane_axis(_GRID, plane), 0)[index] = True
        assert np.array_equal(ledger.known_mask(_GRID, structure_id), expected)
        assert np.array_equal(
            union_of_lines({a: m[row] for a, m in lines.items()}, _GRID.shape_zyx), expected
        )


@given(marks=_MARKS)
def test_a_ledger_survives_json(marks: list[tuple[str, set[int], SliceState, set[int]]]) -> None:
    ledger = _marked(marks)
    assert Ledger.from_json(ledger.to_json()) == ledger


@pytest.mark.parametrize(
    "values",
    [
        {"oblique": {}},
        {"axial": []},
        {"axial": {"x": {}}},
        {"axial": {"1": []}},
        {"axial": {"1": {"1": "finished"}}},
    ],
)
def test_a_corrupt_ledger_is_told(values: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match="ledger is corrupt"):
        Ledger.from_json(values)  # type: ignore[arg-type]


def test_slices_outside_of_the_image_are_refused() -> None:
    axial = _GRID.shape_zyx[plane_axis(_GRID, "axial")]
    assert require_slices(_GRID, "axial", [1, 0, 1]) == (0, 1)
    with pytest.raises(LabelError, match=f"no axial slice {axial}; this image has {axial}"):
        require_slices(_GRID, "axial", [axial])
    with pytest.raises(LabelError):
        Ledger().mark("axial", [-1], SliceState.DONE, [1]).require_inside(_GRID)
