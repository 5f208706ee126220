"""Laws of placing images of the scene on the engine's grids."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semiseg.errors import ImageError
from semiseg.images.grid import Grid, canonical
from SemiSegModuleLib.mrml.geometry import (
    SceneError,
    affine_ras,
    grid_of,
    placement,
    require_same_transform,
    to_numpy,
    to_vtk,
)

_LAW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def _rotation(angles: tuple[float, float, float]) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        a, b = [other for other in range(3) if other != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    return turn


@st.composite
def grids(draw) -> Grid:
    """Any orientation: axes in any order and direction, then tilted by up to half a radian."""
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    angles = draw(st.tuples(*[st.sampled_from([0.0, 0.05, -0.4, 0.5])] * 3))
    axes = _rotation(angles) @ np.eye(3)[:, order] * np.asarray(signs)
    return Grid(
        size_xyz=draw(st.tuples(*[st.integers(1, 6)] * 3)),
        spacing_mm_xyz=draw(st.tuples(*[st.sampled_from([0.4, 0.7812501, 1.0, 5.0])] * 3)),
        origin_mm_lps=draw(st.tuples(*[st.floats(-900, 900, allow_subnormal=False)] * 3)),
        direction=tuple(float(v) for v in axes.ravel()),
    )


def _numbered(grid: Grid) -> np.ndarray:
    return np.arange(np.prod(grid.shape_zyx), dtype=np.int16).reshape(grid.shape_zyx)


@given(grid=grids())
@_LAW
def test_the_grid_of_a_node_is_the_grid_it_was_made_on(world, grid):
    found = grid_of(world.volume(grid))
    assert found.difference(grid, tolerance_mm=1e-6) is None


@given(grid=grids())
@_LAW
def test_the_scene_and_simpleitk_agree_where_a_voxel_lies(grid):
    image = grid.to_sitk_header(sitk.GetImageFromArray(_numbered(grid)))
    last = tuple(size - 1 for size in grid.size_xyz)
    expected = np.array(image.TransformIndexToPhysicalPoint(last)) * (-1, -1, 1)
    assert np.allclose((affine_ras(grid) @ (*last, 1))[:3], expected, atol=1e-9)


@given(grid=grids())
@_LAW
def test_an_image_with_swapped_and_reversed_axes_comes_back_exactly(grid):
    turned = canonical(grid)
    array = _numbered(grid)
    extent = [n for size in turned.grid.size_xyz for n in (0, size - 1)]
    found = placement(affine_ras(turned.grid), extent, grid)
    assert found.offset_zyx == (0, 0, 0)
    assert np.array_equal(found.view(turned.apply(array)), array)


@given(grid=grids(), start=st.tuples(*[st.integers(-9, 9)] * 3))
@_LAW
def test_the_start_of_an_extent_is_its_place_on_the_grid(grid, start):
    extent = [n for first in start for n in (first, first + 2)]
    found = placement(affine_ras(grid), extent, grid)
    assert found.offset_zyx == tuple(reversed(start))


@pytest.mark.parametrize("shift_voxels", [0.5, 0.1, 0.02])
def test_an_image_between_the_voxels_has_no_place(oblique, shift_voxels):
    moved = affine_ras(oblique)
    moved[:3, 3] += shift_voxels * moved[:3, 0]
    assert placement(moved, (0, 5, 0, 5, 0, 5), oblique) is None


def test_a_smaller_spacing_has_no_place(oblique):
    finer = affine_ras(oblique)
    finer[:3, 1] *= 0.5
    assert placement(finer, (0, 5, 0, 5, 0, 5), oblique) is None


def test_a_slight_turn_counts_by_how_far_it_moves_voxels(oblique):
    turn = np.eye(4)
    turn[:3, :3] = _rotation((0.0, 0.0, 0.002))
    assert placement(turn @ affine_ras(oblique), (0, 19, 0, 15, 0, 9), oblique) is None
    turn[:3, :3] = _rotation((0.0, 0.0, 1e-9))
    assert placement(turn @ affine_ras(oblique), (0, 19, 0, 15, 0, 9), oblique) is not None


def test_rounding_of_a_float_header_is_no_difference(oblique):
    rounded = affine_ras(oblique).astype(np.float32).astype(np.float64)
    assert placement(rounded, (0, 19, 0, 15, 0, 9), oblique) is not None


def test_a_sheared_volume_is_refused_in_words(world, oblique):
    node = world.volume(oblique)
    matrix = affine_ras(oblique)
    matrix[:3, 2] += 0.3 * matrix[:3, 1]
    node.SetIJKToRASMatrix(to_vtk(matrix))
    with pytest.raises(ImageError, match="not at right angles"):
        grid_of(node)


def test_a_node_without_voxels_is_refused_in_words(world):
    node = world.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty one")
    with pytest.raises(SceneError, match="empty one has no voxels"):
        grid_of(node)


def test_matrices_survive_the_way_to_vtk_and_back(oblique):
    assert np.array_equal(to_numpy(to_vtk(affine_ras(oblique))), affine_ras(oblique))


def test_one_node_alone_under_a_transform_is_refused_by_name(world, oblique):
    volume, other = world.volume(oblique, name="scan"), world.volume(oblique, name="drawing")
    moving = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    other.SetAndObserveTransformNodeID(moving.GetID())
    with pytest.raises(SceneError, match="drawing is under the transform registration and scan"):
        require_same_transform(volume, None, other)
    volume.SetAndObserveTransformNodeID(moving.GetID())
    require_same_transform(volume, other)


def test_a_volume_alone_under_a_warp_is_refused_by_name(world, oblique):
    volume, other = world.volume(oblique, name="scan"), world.volume(oblique, name="drawing")
    warp = world.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    volume.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(SceneError, match="scan is under the transform warp and drawing"):
        require_same_transform(volume, other)
