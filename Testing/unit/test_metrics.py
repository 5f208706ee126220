"""Dice, HD95, ASSD and volume against values worked out by hand and against MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.errors import ConfigError, GeometryMismatchError
from semiseg.metrics import assd_mm, dice, hd95_mm, score, surface_distances_mm, volume_ml

SPACING = (5.0, 1.5, 0.7)
Mask = NDArray[np.bool_]


def box(z: slice, y: slice, x: slice, shape: tuple[int, int, int] = (12, 16, 20)) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[z, y, x] = True
    return mask


def blob(seed: int, shape: tuple[int, int, int] = (9, 17, 21)) -> Mask:
    rng = np.random.default_rng(seed)
    centre = np.asarray(shape) * rng.uniform(0.35, 0.65, 3)
    grid = np.indices(shape).transpose(1, 2, 3, 0)
    radius = rng.uniform(2, 5) + rng.uniform(-1, 1, shape)
    return np.asarray(np.linalg.norm((grid - centre) * [2, 1, 1], axis=-1) < radius)


def test_dice_of_half_overlapping_boxes_is_one_half() -> None:
    first = box(slice(2, 6), slice(0, 4), slice(0, 4))
    second = box(slice(4, 8), slice(0, 4), slice(0, 4))
    assert dice(first, second) == pytest.approx(0.5)


def test_equal_masks_score_one_and_zero_distance() -> None:
    mask = blob(1)
    assert dice(mask, mask) == 1.0
    assert hd95_mm(mask, mask, SPACING) == 0.0
    assert assd_mm(mask, mask, SPACING) == 0.0


def test_distance_of_two_single_voxels_is_in_millimetres_along_each_axis() -> None:
    first = box(slice(1, 2), slice(1, 2), slice(1, 2))
    second = box(slice(3, 4), slice(5, 6), slice(11, 12))
    expected = math.sqrt((2 * 5.0) ** 2 + (4 * 1.5) ** 2 + (10 * 0.7) ** 2)
    assert hd95_mm(first, second, SPACING) == pytest.approx(expected)
    assert assd_mm(first, second, SPACING) == pytest.approx(expected)


def test_shifted_slab_has_the_shift_as_distance_of_its_faces() -> None:
    first = box(slice(2, 4), slice(None), slice(None))
    second = box(slice(5, 7), slice(None), slice(None))
    there, back = surface_distances_mm(first, second, SPACING)
    # two slices thick and as wide as the volume: every voxel is surface, 2 or 3 slices away
    assert sorted(set(np.round(there, 6))) == [10.0, 15.0]
    assert there.size == back.size == 2 * 16 * 20
    assert assd_mm(first, second, SPACING) == pytest.approx(12.5)
    assert hd95_mm(first, second, SPACING) == pytest.approx(15.0)


def test_inner_voxels_are_no_surface() -> None:
    mask = box(slice(1, 6), slice(1, 6), slice(1, 6))
    there, _ = surface_distances_mm(mask, mask, SPACING)
    assert there.size == 5**3 - 3**3


def test_volume_is_voxels_times_spacing() -> None:
    mask = box(slice(0, 2), slice(0, 5), slice(0, 10))
    assert volume_ml(mask, SPACING) == pytest.approx(100 * 5.0 * 1.5 * 0.7 / 1000)


def test_scores_are_symmetric_and_independent_of_the_surroundings() -> None:
    first, second = blob(2), blob(3)
    assert hd95_mm(first, second, SPACING) == hd95_mm(second, first, SPACING)
    wide = [np.pad(m, 6) for m in (first, second)]
    assert assd_mm(wide[0], wide[1], SPACING) == pytest.approx(assd_mm(first, second, SPACING))


def test_structure_that_neither_has_does_not_apply() -> None:
    empty = np.zeros((4, 4, 4), dtype=bool)
    assert math.isnan(dice(empty, empty))
    assert math.isnan(hd95_mm(empty, empty, SPACING))
    (row,) = score(empty.astype(np.uint16), empty.astype(np.uint16), [3], SPACING)
    assert row.absent
    assert not row.missed
    assert math.isnan(row.dice)


@pytest.mark.parametrize("swap", [False, True])
def test_structure_that_one_alone_has_is_missed_with_dice_zero(swap: bool) -> None:
    labels = (blob(4) * 7).astype(np.uint16)
    pair = (np.zeros_like(labels), labels)
    (row,) = score(*(pair[::-1] if swap else pair), [7], SPACING)
    assert row.missed
    assert not row.absent
    assert row.dice == 0.0
    assert math.isnan(row.hd95_mm)
    assert math.isnan(row.assd_mm)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_score_of_label_maps_equals_the_scores_of_their_masks(dtype: type) -> None:
    first, second = np.zeros((9, 17, 21), dtype), np.zeros((9, 17, 21), dtype)
    for number in (5, 2):
        first[blob(number)], second[blob(number + 10)] = number, number
    rows = score(first, second, [5, 2, 99], SPACING)
    assert [row.id for row in rows] == [5, 2, 99]
    for row in rows[:2]:
        pair = first == row.id, second == row.id
        assert row.dice == dice(*pair)
        assert row.hd95_mm == pytest.approx(hd95_mm(*pair, SPACING))
        assert row.assd_mm == pytest.approx(assd_mm(*pair, SPACING))
        assert row.volume_ml == pytest.approx(volume_ml(pair[0], SPACING))
        assert row.reference_ml == pytest.approx(volume_ml(pair[1], SPACING))
    assert rows[2].absent


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(6))
def test_scores_agree_with_monai(seed: int) -> None:
    monai = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    first, second = blob(seed), blob(seed + 100)
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (first, second)]
    settings = {"include_background": True, "spacing": list(SPACING)}
    theirs_hd = monai.compute_hausdorff_distance(*pair, percentile=95, **settings)
    theirs_assd = monai.compute_average_surface_distance(*pair, symmetric=True, **settings)
    assert dice(first, second) == pytest.approx(float(monai.compute_dice(*pair)), abs=1e-6)
    assert hd95_mm(first, second, SPACING) == pytest.approx(float(theirs_hd), abs=1e-4)
    assert assd_mm(first, second, SPACING) == pytest.approx(float(theirs_assd), abs=1e-4)


def test_volumes_of_different_shape_are_refused() -> None:
    with pytest.raises(GeometryMismatchError, match="cannot be compared"):
        dice(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool))
    with pytest.raises(GeometryMismatchError, match="volumes"):
        score(np.zeros((2, 2), np.uint16), np.zeros((2, 2), np.uint16), [1], SPACING)


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, math.nan, 1.0), (1.0, 1.0)])
def test_impossible_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="spacing"):
        volume_ml(np.ones((1, 1, 1), bool), spacing)  # type: ignore[arg-type]
