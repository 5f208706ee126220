"""Filling between done slices: what a caller may rely on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semiseg.config import SliceConfig
from semiseg.errors import ConfigError, GeometryMismatchError, NotEnoughLabelsError
from semiseg.slices.fill import SliceFill, fill_slices

SPACING = (3.0, 1.5, 1.25)
SHAPE = (18, 28, 30)
Known = dict[int, dict[int, NDArray[np.bool_]]]


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
    grid = np.indices(SHAPE, dtype=np.float64)
    parts = [((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)]
    return np.asarray(sum(parts) < 1)


def truth() -> NDArray[np.uint16]:
    label = np.zeros(SHAPE, dtype=np.uint16)
    label[ellipsoid((9, 11, 9), (8, 7, 6))] = 1
    label[ellipsoid((9, 17, 22), (6, 6, 5))] = 2
    return label


def picture(label: NDArray[np.uint16]) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    greys = np.array([-20.0, 90.0, 40.0])[label] + rng.normal(0, 4, SHAPE)
    return greys.astype(np.float32)


def lines(axis: int, *indices: int) -> dict[int, NDArray[np.bool_]]:
    line = np.zeros(SHAPE[axis], dtype=np.bool_)
    line[list(indices)] = True
    return {axis: line}


def drawn(label: NDArray[np.uint16], known: Known) -> NDArray[np.uint16]:
    """What a human drew: each structure on its own done slices."""
    out = np.zeros_like(label)
    for number, by_axis in known.items():
        out[done(by_axis) & (label == number)] = number
    return out


def done(by_axis: dict[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    for axis, line in by_axis.items():
        mask |= line.reshape([-1 if k == axis else 1 for k in range(3)])
    return mask


def fill(known: Known, config: SliceConfig | None = None) -> SliceFill:
    label = truth()
    return fill_slices(picture(label), drawn(label, known), known, SPACING, config or SliceConfig())


def overlap(fill: SliceFill, number: int) -> float:
    found, true = fill.array == number, truth() == number
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


BOTH: Known = {1: lines(0, 1, 5, 9, 13, 17), 2: lines(0, 2, 6, 9, 12, 16)}


@pytest.mark.parametrize("method", ["auto", "guided", "interpolated", "nearest"])
def test_every_way_of_filling_meets_a_phantom(method: str) -> None:
    filled = fill(BOTH, SliceConfig(method=method))  # type: ignore[arg-type]
    least = 0.75 if method == "nearest" else 0.85
    assert overlap(filled, 1) > least
    assert overlap(filled, 2) > least


def test_the_image_shows_what_shapes_cannot_know() -> None:
    label = np.zeros(SHAPE, dtype=np.uint16)
    for z in range(SHAPE[0]):  # a tube that runs to and fro, drawn where it is at one side
        centre = 15 + 5 * np.sin(z * np.pi / 8)
        y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
        label[z][(y - 14) ** 2 + (x - centre) ** 2 < 25] = 1
    known: Known = {1: lines(0, 0, 8, 16)}
    masks = {}
    for config in (SliceConfig(), SliceConfig(image_guided=False)):
        given_label = np.where(done(known[1]), label, 0).astype(np.uint16)
        filled = fill_slices(picture(label), given_label, known, SPACING, config)
        masks[config.image_guided] = (filled.array == 1)[:17]
    errors = {key: int((mask != (label == 1)[:17]).sum()) for key, mask in masks.items()}
    assert errors[True] < 0.4 * errors[False]


def test_done_slices_come_back_exactly() -> None:
    filled = fill(BOTH)
    for number, by_axis in BOTH.items():
        where = done(by_axis)
        np.testing.assert_array_equal((filled.array == number)[where], (truth() == number)[where])


def test_a_slice_done_for_all_structures_is_sure() -> None:
    both: Known = {1: lines(0, 2, 9, 15), 2: lines(0, 2, 9, 15)}
    assert (fill(both).confidence[[2, 9, 15]] == 1).all()


def test_confidence_falls_with_the_distance_from_the_slices() -> None:
    both: Known = {1: lines(0, 3, 9), 2: lines(0, 3, 9)}
    corner = fill(both).confidence[:, 0, 0]
    assert corner[3] == corner[9] == 1
    assert corner[6] < corner[5] < corner[4] < 1
    assert corner[17] < corner[10]


def test_a_slice_done_for_one_structure_says_nothing_of_the_other() -> None:
    known: Known = {1: lines(0, 1, 9, 17)}
    filled = fill(known)
    assert set(np.unique(filled.array)) == {0, 1}
    assert set(filled.structures) == {1}


def test_background_is_known_no_better_than_for_the_least_known_structure() -> None:
    alone = fill({1: BOTH[1]}).confidence[9, 0, 0]
    far: Known = {1: BOTH[1], 2: lines(0, 4)}
    assert fill(far).confidence[9, 0, 0] < alone


def test_beyond_the_last_drawn_slice_a_structure_ends_soon_and_is_unsure() -> None:
    known: Known = {1: lines(0, 5, 9, 13)}
    filled = fill(known)
    present = np.flatnonzero((filled.array == 1).any(axis=(1, 2)))
    assert 3 <= present[0] <= 5
    assert 13 <= present[-1] <= 15
    assert filled.confidence[14][filled.array[14] == 1].max(initial=0) < 0.6
    assert filled.confidence[17, 11, 9] == 0  # nobody knows whether it goes on


def test_done_and_empty_slices_bound_a_structure() -> None:
    known: Known = {1: lines(0, 0, 5, 9, 13, 17)}
    label = truth()
    label[[0, 17]] = 0
    filled = fill_slices(picture(label), drawn(label, known), known, SPACING, SliceConfig())
    assert not (filled.array[[0, 17]] == 1).any()
    assert filled.confidence[17, 0, 0] == 1


def test_a_structure_found_absent_is_background_everywhere() -> None:
    label = np.zeros(SHAPE, dtype=np.uint16)
    known: Known = {1: lines(0, 4, 12)}
    filled = fill_slices(picture(truth()), label, known, SPACING, SliceConfig())
    assert not filled.array.any()
    assert filled.confidence[4, 3, 3] == 1
    assert 0 < filled.confidence[8, 3, 3] < 1
    assert filled.self_check == {}


def test_several_planes_are_better_than_one() -> None:
    axial: Known = {1: lines(0, 1, 16)}
    crossed: Known = {1: {**lines(0, 1, 16), **lines(1, 11), **lines(2, 9)}}
    assert overlap(fill(crossed), 1) > max(overlap(fill(axial), 1), 0.8)


def test_one_drawn_slice_is_carried_a_little() -> None:
    filled = fill({1: lines(0, 9)})
    present = np.flatnonzero((filled.array == 1).any(axis=(1, 2)))
    assert 1 < len(present) < 8
    assert filled.structures[1].dice is None


def test_two_drawn_slices_check_each_other() -> None:
    checked = fill({1: lines(0, 7, 11)}).structures[1]
    assert checked.dice is not None
    assert 0.6 < checked.dice <= 1
    assert set(checked.dice_by_method) == {"guided", "interpolated", "nearest"}


def test_the_self_check_takes_no_way_that_clearly_loses() -> None:
    label = truth()
    noise = np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
    for image in (picture(label), noise, np.zeros(SHAPE, dtype=np.float32)):
        filled = fill_slices(image, drawn(label, BOTH), BOTH, SPACING, SliceConfig())
        for found in filled.structures.values():
            assert found.dice is not None
            assert found.dice >= max(found.dice_by_method.values()) - 0.06


def test_structures_that_claim_one_place_share_it_out() -> None:
    label = np.zeros(SHAPE, dtype=np.uint16)
    label[2, 5:20, 5:20], label[12, 5:20, 5:20] = 1, 2
    known: Known = {1: lines(0, 2), 2: lines(0, 12)}
    filled = fill_slices(picture(truth()), label, known, SPACING, SliceConfig())
    assert (filled.array[2, 5:20, 5:20] == 1).all()
    assert (filled.array[12, 5:20, 5:20] == 2).all()
    assert filled.confidence.min() >= 0


def test_fine_images_are_worked_on_coarsely_and_given_back_finely() -> None:
    label = truth()
    fine = tuple(s / 3 for s in SPACING)
    filled = fill_slices(
        picture(label), drawn(label, BOTH), BOTH, (fine[0], fine[1], fine[2]), SliceConfig()
    )
    assert overlap(filled, 1) > 0.8
    assert filled.array.shape == SHAPE


def test_a_scan_of_one_slice_is_returned_as_drawn() -> None:
    label = truth()[9:10]
    known = {1: {0: np.array([True])}}
    only = np.where(label == 1, label, 0).astype(np.uint16)
    filled = fill_slices(picture(truth())[9:10], only, known, SPACING, SliceConfig())
    np.testing.assert_array_equal(filled.array, only)


def test_without_a_done_slice_it_says_what_to_do() -> None:
    nothing: Known = {1: {0: np.zeros(SHAPE[0], dtype=np.bool_)}}
    with pytest.raises(NotEnoughLabelsError, match="mark these as done"):
        fill(nothing)


def test_shapes_that_differ_are_refused() -> None:
    label = truth()
    with pytest.raises(GeometryMismatchError, match="one grid"):
        fill_slices(picture(label)[1:], label, BOTH, SPACING, SliceConfig())
    wrong = {1: {1: np.ones(SHAPE[0], dtype=np.bool_)}}
    with pytest.raises(GeometryMismatchError, match="28"):
        fill_slices(picture(label), label, wrong, SPACING, SliceConfig())


def test_an_unknown_way_of_filling_is_refused() -> None:
    with pytest.raises(ConfigError, match="nearest"):
        SliceConfig(method="magic")  # type: ignore[arg-type]


indices = st.sets(st.integers(0, 17), min_size=1, max_size=4)


@settings(max_examples=12, deadline=None)
@given(
    first=indices,
    second=indices,
    coronal=st.sets(st.integers(0, 27), max_size=2),
    seed=st.integers(0, 99),
)
def test_human_voxels_and_done_slices_are_laws(
    first: set[int], second: set[int], coronal: set[int], seed: int
) -> None:
    label = truth()
    known: Known = {1: {**lines(0, *first), **lines(1, *coronal)}, 2: lines(0, *second)}
    human = np.random.default_rng(seed).random(SHAPE) < 0.02
    human |= drawn(label, known) > 0
    given_label = np.where(human, label, 0).astype(np.uint16)
    filled = fill_slices(picture(label), given_label, known, SPACING, SliceConfig(), human=human)
    np.testing.assert_array_equal(filled.array[human], label[human])
    assert (filled.confidence[human] == 1).all()
    assert filled.confidence.min() >= 0
    assert filled.confidence.max() <= 1
    for number, by_axis in known.items():
        where = done(by_axis) & ~human
        assert not (filled.array == number)[where].any()
