"""Displacement fields and warping in the patient's millimetres."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg.errors import GeometryMismatchError
from semiseg.images.grid import Grid
from semiseg.registration.field import (
    Field,
    folded_fraction,
    inverse_error_mm,
    jacobian_determinant,
)
from semiseg.registration.register import warp_image, warp_label, warp_onehot

OBLIQUE = (
    math.cos(0.3),
    -math.sin(0.3),
    0.0,
    math.sin(0.3),
    math.cos(0.3),
    0.0,
    0.0,
    0.0,
    1.0,
)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0)


def _constant(grid: Grid, displacement_mm: tuple[float, float, float]) -> Field:
    parts = [np.full(grid.shape_zyx, d, dtype=np.float32) for d in displacement_mm]
    return Field(displacement_mm=np.stack(parts), grid=grid)


def test_the_warp_reads_the_moving_image_at_p_plus_u() -> None:
    grid = Grid(size_xyz=(2, 2, 5), spacing_mm_xyz=(1.0, 1.0, 2.0), origin_mm_lps=(0.0, 0.0, 7.0))
    ramp = np.broadcast_to(np.arange(5.0)[:, None, None], (5, 2, 2)).astype(np.float32)
    warped = warp_image(ramp, grid, _constant(grid, (0.0, 0.0, 2.0)), grid, fill=-1.0)
    assert warped[:, 0, 0].tolist() == [1.0, 2.0, 3.0, 4.0, -1.0]
    half = warp_image(ramp, grid, _constant(grid, (0.0, 0.0, -1.0)), grid, fill=-1.0)
    assert half[:, 1, 1].tolist() == [0.0, 0.5, 1.5, 2.5, 3.5]


def test_identity_leaves_labels_and_images_as_they_are() -> None:
    grid = Grid(size_xyz=(6, 5, 4), spacing_mm_xyz=(0.7, 1.3, 4.0), direction=OBLIQUE)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, grid.shape_zyx).astype(np.uint16)
    image = rng.normal(size=grid.shape_zyx).astype(np.float32)
    still = _constant(grid, (0.0, 0.0, 0.0))
    np.testing.assert_array_equal(warp_label(label, grid, still, grid), label)
    np.testing.assert_allclose(warp_image(image, grid, still, grid), image, atol=1e-4)


def test_world_coordinates_hold_across_orientations() -> None:
    """Moving, field and target grids all lie differently; a point mark must land at p."""
    field_grid = Grid(size_xyz=(20, 20, 20), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-30.0,) * 3)
    moving = Grid(
        size_xyz=(24, 22, 20),
        spacing_mm_xyz=(1.5, 2.0, 2.5),
        origin_mm_lps=(20.0, -22.0, -20.0),
        direction=FLIPPED,
    )
    target = Grid(
        size_xyz=(25, 24, 14),
        spacing_mm_xyz=(2.0, 2.0, 3.5),
        origin_mm_lps=(-20.0, -25.0, -20.0),
        direction=OBLIQUE,
    )
    shift = np.array([4.0, -3.0, 5.0])
    voxels = np.stack(np.meshgrid(*map(np.arange, moving.size_xyz), indexing="ij"), -1)
    world = moving.to_world(voxels.astype(float)).transpose(2, 1, 0, 3)
    image = (world @ np.array([1.0, 10.0, 0.1])).astype(np.float32)
    warped = warp_image(image, moving, _constant(field_grid, (4.0, -3.0, 5.0)), target, fill=np.nan)
    index = np.argwhere(np.isfinite(warped))
    assert len(index) > 500
    expected = (target.to_world(index[:, ::-1].astype(float)) + shift) @ [1.0, 10.0, 0.1]
    inner = np.isclose(warped[tuple(index.T)], expected, atol=2e-2)
    assert inner.mean() > 0.8  # the outer half voxel repeats the border


def test_a_label_vote_takes_the_heavier_side() -> None:
    grid = Grid(size_xyz=(1, 1, 4), spacing_mm_xyz=(1.0, 1.0, 1.0))
    label = np.array([7, 7, 3, 3], dtype=np.uint16).reshape(4, 1, 1)
    up = warp_label(label, grid, _constant(grid, (0.0, 0.0, 0.4)), grid)
    assert up.ravel().tolist() == [7, 7, 3, 3]
    more = warp_label(label, grid, _constant(grid, (0.0, 0.0, 0.6)), grid)
    assert more.ravel().tolist() == [7, 3, 3, 0]


def test_onehot_shares_sum_to_one_inside_and_to_zero_outside() -> None:
    grid = Grid(size_xyz=(6, 6, 6), spacing_mm_xyz=(2.0, 2.0, 3.0))
    label = np.random.default_rng(1).integers(0, 3, (6, 6, 6)).astype(np.uint16)
    shares = warp_onehot(label, (0, 1, 2), grid, _constant(grid, (0.7, 0.3, 1.0)), grid)
    np.testing.assert_allclose(shares.sum(axis=0)[:5], 1.0, rtol=1e-5)
    far = warp_onehot(label, (1, 2), grid, _constant(grid, (100.0, 0.0, 0.0)), grid)
    assert far.shape == (2, 6, 6, 6)
    assert not far.any()
    assert warp_onehot(label, (), grid, _constant(grid, (0.0,) * 3), grid).shape == (0, 6, 6, 6)


def test_an_array_off_its_grid_is_refused() -> None:
    grid = Grid(size_xyz=(3, 3, 3), spacing_mm_xyz=(1.0, 1.0, 1.0))
    with pytest.raises(GeometryMismatchError, match="does not fit the moving grid"):
        warp_image(np.zeros((2, 3, 3)), grid, _constant(grid, (0.0,) * 3), grid)
    with pytest.raises(GeometryMismatchError, match="does not fit its grid"):
        Field(displacement_mm=np.zeros((3, 2, 3, 3), dtype=np.float32), grid=grid)


@settings(max_examples=20, deadline=None)
@given(
    scale=st.lists(st.floats(0.5, 1.5), min_size=3, max_size=3),
    shear=st.floats(-0.3, 0.3),
)
def test_the_determinant_of_an_affine_map_is_its_volume_change(
    scale: list[float], shear: float
) -> None:
    grid = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1.0, 2.0, 3.0), direction=OBLIQUE)
    matrix = np.diag(scale)
    matrix[0, 1] = shear
    field = _linear_field(grid, matrix)
    np.testing.assert_allclose(jacobian_determinant(field), np.linalg.det(matrix), rtol=1e-3)
    assert folded_fraction(field, np.ones(grid.shape_zyx, dtype=bool)) == 0.0


def test_folding_is_counted_where_the_map_turns_back() -> None:
    grid = Grid(size_xyz=(12, 3, 3), spacing_mm_xyz=(2.0, 2.0, 2.0))
    x = np.arange(12.0) * 2
    u = np.where((x >= 8) & (x <= 14), -1.5 * (x - 8), np.where(x > 14, -9.0, 0.0))
    displacement = np.zeros((3, 3, 3, 12), dtype=np.float32)
    displacement[0] = u
    field = Field(displacement_mm=displacement, grid=grid)
    # 1 + du/dx by central differences: 1, 0.25 at the two ends, -0.5 between
    mask = np.ones(grid.shape_zyx, dtype=bool)
    assert folded_fraction(field, mask) == pytest.approx(2 / 12)
    assert folded_fraction(field, ~mask) == 0.0


def test_a_field_and_its_inverse_have_no_error() -> None:
    grid = Grid(size_xyz=(9, 9, 9), spacing_mm_xyz=(2.0, 2.0, 2.0), origin_mm_lps=(5.0, 0.0, -9.0))
    matrix = np.diag([1.1, 0.9, 1.0])
    forward = _linear_field(grid, matrix)
    backward = _linear_field(grid, np.linalg.inv(matrix))
    mask = np.zeros(grid.shape_zyx, dtype=bool)
    mask[3:6, 3:6, 3:6] = True
    error = inverse_error_mm(forward, backward, mask)
    assert error == pytest.approx(0.0, abs=1e-4)
    off = inverse_error_mm(forward, _constant(grid, (0.0, 0.0, 0.0)), mask)
    assert off is not None
    assert off == pytest.approx(0.2 * math.sqrt(2), rel=1e-3)
    far = _constant(grid, (500.0, 0.0, 0.0))
    assert inverse_error_mm(far, backward, mask) is None
    assert inverse_error_mm(forward, backward, ~np.ones_like(mask)) is None


def test_a_flat_grid_has_a_determinant() -> None:
    grid = Grid(size_xyz=(4, 4, 1), spacing_mm_xyz=(1.0, 1.0, 5.0))
    field = _constant(grid, (3.0, 0.0, 0.0))
    np.testing.assert_allclose(jacobian_determinant(field), 1.0)
    point = field.at(np.array([[1.0, 1.0, 0.0], [50.0, 0.0, 9.0]]))
    np.testing.assert_allclose(point, [[3, 0, 0], [3, 0, 0]])


def _linear_field(grid: Grid, matrix: np.ndarray) -> Field:
    """p -> c + matrix (p - c) around the grid's centre."""
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), -1)
    world = grid.to_world(voxels.astype(float)).transpose(2, 1, 0, 3) - grid.centre_mm_lps
    displacement = np.moveaxis(world @ matrix.T - world, -1, 0).astype(np.float32)
    return Field(displacement_mm=np.ascontiguousarray(displacement), grid=grid)
