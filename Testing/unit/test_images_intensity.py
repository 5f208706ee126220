"""Modality, common scale and body on made-up scans."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.config import Modality
from semiseg.errors import ConfigError
from semiseg.images.grid import Grid
from semiseg.images.intensity import (
    CT_WINDOW_HU,
    NORMALISATION,
    body_mask,
    guess_modality,
    normalise,
    otsu,
)
from semiseg.images.reading import Image

GRID = Grid(size_xyz=(32, 30, 12), spacing_mm_xyz=(8, 8, 10))


def ellipse(shape: tuple[int, int, int], share: float = 0.8) -> NDArray[np.bool_]:
    _, y, x = np.indices(shape)
    centre = (np.asarray(shape) - 1) / 2
    return np.asarray(
        np.hypot((y - centre[1]) / centre[1] / share, (x - centre[2]) / centre[2] / share) < 1
    )


def scan(modality: Modality, seed: int = 0) -> NDArray[np.float32]:
    """A body of tissue and fat with a gas pocket, in air; the CT lies on a table."""
    rng = np.random.default_rng(seed)
    shape = GRID.shape_zyx
    body, tissue = ellipse(shape), ellipse(shape, 0.65)
    if modality == "MR":
        values = np.abs(rng.normal(0, 4, shape)) + body * 90 + tissue * rng.normal(200, 30, shape)
        return values.astype(np.float32)
    values = rng.normal(-1000, 10, shape)
    values[body] = rng.normal(-100, 10, int(body.sum()))
    values[tissue] = rng.normal(50, 20, int(tissue.sum()))
    values[4:8, 12:16, 14:18] = -950
    values[:, 28, 3:29] = 120
    return values.astype(np.float32)


def image(array: NDArray[np.float32], tag: Modality | None = None) -> Image:
    return Image(array=array, grid=GRID, modality_tag=tag)


@pytest.mark.parametrize(
    ("array", "modality", "at_least"),
    [
        (scan("CT"), "CT", 0.9),
        (np.clip(scan("CT"), -125, 275), "CT", 0.85),
        (scan("CT") + 1024, "CT", 0.5),
        (scan("MR"), "MR", 0.85),
        (scan("MR") - 6, "MR", 0.5),
        (scan("MR") / 3, "MR", 0.6),
    ],
    ids=["HU", "windowed HU", "CT with an offset", "MR", "MR with negatives", "8-bit MR"],
)
def test_modality_is_told_from_the_values(
    array: NDArray[np.float32], modality: Modality, at_least: float
) -> None:
    guess = guess_modality(image(array.astype(np.float32)))
    assert guess.modality == modality
    assert at_least <= guess.confidence < 1
    assert guess.reason


def test_standardised_values_are_only_a_coin_toss() -> None:
    array = scan("MR")
    guess = guess_modality(image((array - array.mean()) / array.std()))
    assert guess.confidence <= 0.5


def test_tag_that_agrees_is_trusted_and_one_that_does_not_is_doubted() -> None:
    assert guess_modality(image(scan("CT"), "CT")).confidence == 0.99
    wrong = guess_modality(image(scan("CT"), "MR"))
    assert (wrong.modality, wrong.confidence) == ("CT", 0.6)
    assert wrong.reason.startswith("the file says MR, but")
    unsure = guess_modality(image(scan("MR") / 3, "CT"))
    assert (unsure.modality, unsure.confidence) == ("CT", 0.6)


def test_ct_is_clipped_to_the_window_and_scaled() -> None:
    array = np.array([[[-1000, -150, 50, 250, 3000]]], np.float32)
    np.testing.assert_allclose(normalise(array, "CT"), [[[-1, -1, 0, 1, 1]]])
    assert CT_WINDOW_HU == (-150.0, 250.0)
    assert "[-150, 250]" in NORMALISATION


def test_normalising_leaves_its_input_alone() -> None:
    for modality in ("CT", "MR"):
        array = scan(modality)
        before = array.copy()
        normalise(array, modality)
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("factor", [0.001, 1.0, 1000.0])
def test_mr_scale_does_not_depend_on_the_scanner(factor: float) -> None:
    array = scan("MR")
    expected = normalise(array, "MR")
    scaled = normalise(array * np.float32(factor), "MR")
    np.testing.assert_allclose(scaled, expected, atol=1e-3)
    assert expected.min() == pytest.approx(-1)
    assert expected.max() == pytest.approx(1)


def test_mr_percentiles_are_those_of_the_mask() -> None:
    array = np.zeros((1, 1, 1001), np.float32)
    array[..., 1:] = np.linspace(100, 200, 1000)
    mask = array > 0
    scaled = normalise(array, "MR", mask)
    assert scaled[0, 0, 500] == pytest.approx(0, abs=0.02)


def test_dark_organs_beside_bright_fat_keep_their_contrast_in_mr() -> None:
    rng = np.random.default_rng(0)
    array = np.abs(rng.normal(0, 3, GRID.shape_zyx)) + ellipse(GRID.shape_zyx) * 500
    organs = ellipse(GRID.shape_zyx, 0.5)
    array[organs] = 30
    array[:, :, 16:][organs[:, :, 16:]] = 95
    scaled = normalise(array.astype(np.float32), "MR")
    dark, less_dark = scaled[6, 15, 14], scaled[6, 15, 18]
    assert -0.95 < dark < less_dark - 0.15


def test_ct_in_an_8_bit_window_still_spreads_over_the_scale() -> None:
    window = np.clip((scan("CT") + 125) * 255 / 400, 0, 255)
    scaled = normalise(window, "CT")
    assert scaled.min() == pytest.approx(-1)
    assert scaled.max() == pytest.approx(1)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("value", [0.0, 7.0, -300.0])
def test_constant_image_becomes_zeros(modality: Modality, value: float) -> None:
    scaled = normalise(np.full((3, 4, 5), value, np.float32), modality)
    np.testing.assert_array_equal(scaled, 0)
    assert scaled.dtype == np.float32


def test_no_voxels_and_empty_masks_are_survived() -> None:
    assert normalise(np.empty((0, 2, 2), np.float32), "MR").size == 0
    array = scan("MR")
    scaled = normalise(array, "MR", np.zeros(array.shape, bool))
    assert np.isfinite(scaled).all()


def test_unknown_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match="modality"):
        normalise(scan("MR"), "PET")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="modality"):
        body_mask(scan("MR"), GRID, "PET")  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_body_is_found_whole_without_table_or_holes(modality: Modality) -> None:
    mask = body_mask(scan(modality), GRID, modality)
    body = ellipse(GRID.shape_zyx)
    assert 2 * (mask & body).sum() / (mask.sum() + body.sum()) > 0.93
    assert mask[4:8, 12:16, 14:18].all()
    assert not mask[:, 28].any() or modality == "MR"


def test_smaller_pieces_beside_the_body_are_left_out() -> None:
    array = scan("CT")
    array[:, :4, :5] = 60
    mask = body_mask(array, GRID, "CT")
    assert mask[6, 15, 16]
    assert not mask[:, :3, :3].any()


def test_windowed_ct_has_the_same_body() -> None:
    whole = body_mask(scan("CT"), GRID, "CT")
    windowed = body_mask(np.clip(scan("CT"), -125, 275), GRID, "CT")
    assert (whole ^ windowed).mean() < 0.04


def test_body_without_air_around_it_is_everything() -> None:
    rng = np.random.default_rng(0)
    crop = rng.normal(300, 20, GRID.shape_zyx).astype(np.float32)
    assert body_mask(crop, GRID, "MR").mean() > 0.9


def test_image_without_a_body_gives_everything() -> None:
    air = np.full(GRID.shape_zyx, -1000, np.float32)
    air[0, 0, 0] = 100
    assert body_mask(air, GRID, "CT").all()


def test_otsu_parts_two_humps_and_survives_a_constant() -> None:
    rng = np.random.default_rng(1)
    humps = np.concatenate([rng.normal(0, 1, 500), rng.normal(20, 1, 500)])
    assert 3 < otsu(humps) < 17
    assert np.isfinite(otsu(np.full(10, 3.0)))
