"""Laws of geometry over oblique, flipped, permuted and anisotropic grids."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import semiseg.images.resampling as resampling_module
from semiseg.errors import GeometryMismatchError, ImageError
from semiseg.images.grid import PLANES, Grid, Triple, canonical, plane_axis
from semiseg.images.reading import read_grid, read_map, write_image
from semiseg.images.resampling import (
    nearest_index,
    resample_image,
    resample_label,
    resized_grid,
    spaced_grid,
    zoom_linear,
    zoom_nearest,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rotation(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (n for n in range(3) if n != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


@st.composite
def grids(draw: st.DrawFn, smallest: int = 1, tilt: float = 0.6) -> Grid:
    size = draw(st.tuples(*[st.integers(smallest, 9)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.4, 8)] * 3))
    origin = draw(st.tuples(*[st.floats(-400, 400)] * 3))
    angles = draw(st.tuples(*[st.floats(-tilt, tilt)] * 3))
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    direction = rotation(angles)[:, order] * signs
    return Grid(
        size_xyz=size,
        spacing_mm_xyz=spacing,
        origin_mm_lps=origin,
        direction=tuple(float(v) for v in direction.ravel()),
    )


def numbered(grid: Grid, dtype: type = np.uint16) -> NDArray[np.generic]:
    return np.arange(math.prod(grid.shape_zyx), dtype=dtype).reshape(grid.shape_zyx)


# ---- the grid ------------------------------------------------------------------------------


@quick
@given(grids())
def test_world_of_a_voxel_is_what_simpleitk_says(grid: Grid) -> None:
    image = grid.to_sitk_header(sitk.Image(list(grid.size_xyz), sitk.sitkUInt8))
    corner = [n - 1 for n in grid.size_xyz]
    expected = image.TransformIndexToPhysicalPoint(corner)
    np.testing.assert_allclose(grid.to_world(np.array(corner)), expected, atol=1e-9)
    np.testing.assert_allclose(grid.to_voxel(np.array(expected)), corner, atol=1e-9)
    assert Grid.from_sitk(image).difference(grid) is None


@quick
@given(grids())
def test_grid_survives_json_exactly(grid: Grid) -> None:
    assert Grid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


@quick
@given(grids(smallest=2), st.integers(0, 2), st.floats(0.01, 5))
def test_shifted_grid_is_named_different(grid: Grid, axis: int, shift_mm: float) -> None:
    origin = list(grid.origin_mm_lps)
    origin[axis] += shift_mm
    other = Grid(
        size_xyz=grid.size_xyz,
        spacing_mm_xyz=grid.spacing_mm_xyz,
        origin_mm_lps=(origin[0], origin[1], origin[2]),
        direction=grid.direction,
    )
    assert grid.difference(grid) is None
    assert "origin" in str(grid.difference(other)) or "corners" in str(grid.difference(other))


def test_difference_names_what_differs_with_both_values() -> None:
    grid = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1, 1, 2))
    larger = Grid(size_xyz=(4, 5, 7), spacing_mm_xyz=(1, 1, 2))
    coarser = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1, 1, 2.5))
    flipped = Grid(
        size_xyz=(4, 5, 6), spacing_mm_xyz=(1, 1, 2), direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    )
    assert grid.difference(larger) == "size 4 x 5 x 6 against 4 x 5 x 7 voxels"
    assert grid.difference(coarser) == "spacing 1 x 1 x 2 against 1 x 1 x 2.5 mm"
    assert str(grid.difference(flipped)).startswith("direction")
    with pytest.raises(GeometryMismatchError, match=r"liver label: .* against 1 x 1 x 2.5 mm"):
        grid.require_same(coarser, "liver label")


def test_voxel_volume_and_middle_are_in_world_units() -> None:
    grid = Grid(size_xyz=(3, 3, 3), spacing_mm_xyz=(1, 2, 5), origin_mm_lps=(10, 20, 30))
    assert grid.voxel_ml == pytest.approx(0.01)
    assert grid.spacing_mm_zyx == (5, 2, 1)
    np.testing.assert_allclose(grid.centre_mm_lps, [11, 22, 35])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size_xyz": (0, 2, 2)}, "no voxels"),
        ({"spacing_mm_xyz": (1, 0, 1)}, "spacing"),
        ({"spacing_mm_xyz": (1, math.nan, 1)}, "spacing"),
        ({"spacing_mm_xyz": (1, -2, 1)}, "spacing"),
        ({"origin_mm_lps": (math.inf, 0, 0)}, "not a number"),
        ({"direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0.3, 1.0)}, "right angles"),
        ({"direction": (1.0, 0, 0, 1.0)}, "9 numbers"),
    ],
)
def test_impossible_grid_is_refused(change: dict[str, tuple[float, ...]], sentence: str) -> None:
    values = {"size_xyz": (2, 2, 2), "spacing_mm_xyz": (1.0, 1.0, 1.0), **change}
    with pytest.raises(ImageError, match=sentence):
        Grid(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [None, [1, 2], "1 2 3", [1, 2, "x"], [1, 2, True]])
def test_grid_from_bad_json_is_refused(broken: object) -> None:
    values = Grid(size_xyz=(2, 2, 2), spacing_mm_xyz=(1, 1, 1)).to_json()
    values["spacing_mm_xyz"] = broken  # type: ignore[assignment]
    with pytest.raises(ImageError, match="spacing_mm_xyz should be 3 numbers"):
        Grid.from_json(values)


# ---- orientation ---------------------------------------------------------------------------


@quick
@given(grids())
def test_canonical_and_back_is_identity(grid: Grid) -> None:
    turn = canonical(grid)
    array = numbered(grid)
    turned = turn.apply(array)
    assert turned.flags.c_contiguous
    assert not np.shares_memory(turned, array)
    assert not np.shares_memory(turn.invert(turned), turned)
    assert turned.shape == turn.grid.shape_zyx
    np.testing.assert_array_equal(turn.invert(turned), array)


@quick
@given(grids(tilt=0.3))
def test_canonical_axes_run_to_superior_posterior_left(grid: Grid) -> None:
    turn = canonical(grid)
    assert np.all(np.diag(np.reshape(turn.grid.direction, (3, 3))) > 0.5)
    again = canonical(turn.grid)
    assert again.axes == (0, 1, 2)
    assert again.flips == (False, False, False)


@quick
@given(grids())
def test_canonical_keeps_every_voxel_at_its_place_in_the_world(grid: Grid) -> None:
    turn = canonical(grid)
    zyx = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"))
    world = grid.to_world(np.moveaxis(zyx[::-1], 0, -1).astype(float))
    turned = turn.apply(np.moveaxis(world, -1, 0))
    zyx = np.stack(np.meshgrid(*map(np.arange, turn.grid.shape_zyx), indexing="ij"))
    expected = turn.grid.to_world(np.moveaxis(zyx[::-1], 0, -1).astype(float))
    np.testing.assert_allclose(np.moveaxis(turned, 0, -1), expected, atol=1e-9)


@quick
@given(grids(tilt=0.3))
def test_planes_use_each_array_axis_once_along_their_normal(grid: Grid) -> None:
    axes = [plane_axis(grid, plane) for plane in PLANES]
    assert sorted(axes) == [0, 1, 2]
    for world, axis in zip((2, 1, 0), axes, strict=True):
        column = np.abs(np.reshape(grid.direction, (3, 3))[:, 2 - axis])
        assert column.argmax() == world
    assert canonical(grid).axes == tuple(axes)


def test_grid_turned_by_45_degrees_still_has_three_planes() -> None:
    half = math.sqrt(0.5)
    grid = Grid(
        size_xyz=(4, 5, 6),
        spacing_mm_xyz=(1, 1, 1),
        direction=(half, -half, 0.0, half, half, 0.0, 0.0, 0.0, 1.0),
    )
    assert sorted(plane_axis(grid, plane) for plane in PLANES) == [0, 1, 2]


def test_unknown_plane_and_wrong_shape_are_refused() -> None:
    grid = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1, 1, 1))
    with pytest.raises(ImageError, match="no plane 'transversal'"):
        plane_axis(grid, "transversal")  # type: ignore[arg-type]
    with pytest.raises(GeometryMismatchError, match="does not fit"):
        canonical(grid).apply(np.zeros((4, 5, 6)))


# ---- files ---------------------------------------------------------------------------------


@quick
@given(grid=grids(tilt=3), suffix=st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha"]))
def test_file_and_back_keeps_voxels_and_affine(grid: Grid, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"größe 1{suffix}"
    array = numbered(grid)
    write_image(path, array, grid)
    back, found = read_map(path)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(found.affine_lps, grid.affine_lps, atol=1e-4)
    assert grid.difference(read_grid(path), tolerance_mm=1e-3) is None


@quick
@given(grid=grids(tilt=3))
def test_nibabel_sees_the_same_world_in_ras(grid: Grid, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "witness.nii.gz"
    array = numbered(grid)
    write_image(path, array, grid)
    witness = nibabel.load(path)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine_lps
    np.testing.assert_allclose(witness.affine, ras, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(witness.dataobj).squeeze(), array.T.squeeze())
    for matrix, code in (witness.get_qform(coded=True), witness.get_sform(coded=True)):
        assert code > 0
        np.testing.assert_allclose(matrix, ras, atol=1e-3)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL", "LIA"])
def test_nibabel_files_of_any_orientation_come_out_canonical(axcodes: str, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    from nibabel.orientations import axcodes2ornt, ornt_transform

    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # x, y, z, in RAS
    image = nibabel.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
    nibabel.save(image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    back, grid = read_map(tmp_path / "turned.nii.gz")
    turned = canonical(grid)
    np.testing.assert_array_equal(turned.apply(back), array.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert turned.grid.spacing_mm_xyz == (1, 2, 3)


# ---- resampling ----------------------------------------------------------------------------


@quick
@given(grids())
def test_resampling_to_the_same_grid_is_identity(grid: Grid) -> None:
    values = numbered(grid).astype(np.float32)
    moved = resample_image(values, grid, grid, fill=-7)
    np.testing.assert_array_equal(moved, values)
    assert moved is not values
    labels = numbered(grid) % 5
    np.testing.assert_array_equal(resample_label(labels, grid, grid), labels)


@quick
@given(grids(smallest=2))
def test_resampling_to_the_canonical_grid_is_turning(grid: Grid) -> None:
    turn = canonical(grid)
    values = numbered(grid).astype(np.float32)
    moved = resample_image(values, grid, turn.grid, fill=-7)
    np.testing.assert_allclose(moved, turn.apply(values), atol=0.05)
    labels = numbered(grid)
    np.testing.assert_array_equal(resample_label(labels, grid, turn.grid), turn.apply(labels))


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(-3, 3)] * 3))
def test_sphere_lands_at_its_place_on_another_oblique_grid(
    angles: tuple[float, float, float], shift: Triple
) -> None:
    centre, radius = np.array([12.0, -30.0, 44.0]), 14.0

    def around(direction: NDArray[np.float64], spacing: Triple, size: tuple[int, int, int]) -> Grid:
        middle = direction @ ((np.array(size) - 1) / 2 * spacing)
        origin = centre + shift - middle
        return Grid(
            size_xyz=size,
            spacing_mm_xyz=spacing,
            origin_mm_lps=(float(origin[0]), float(origin[1]), float(origin[2])),
            direction=tuple(float(v) for v in direction.ravel()),
        )

    def sphere(grid: Grid) -> NDArray[np.bool_]:
        zyx = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"))
        world = grid.to_world(np.moveaxis(zyx[::-1], 0, -1).astype(float))
        return np.asarray(np.linalg.norm(world - centre, axis=-1) < radius)

    source = around(rotation((0.2, -0.3, 0.1))[:, [2, 0, 1]], (1.3, 1.1, 2.0), (36, 40, 24))
    target = around(rotation(angles), (1.5, 1.5, 2.5), (32, 32, 20))
    drawn = sphere(source).astype(np.uint16) * 40000
    moved = resample_label(drawn, source, target)
    assert set(np.unique(moved)) <= {0, 40000}
    found, expected = moved > 0, sphere(target)
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9
    index = np.argwhere(found).mean(axis=0)[::-1]
    np.testing.assert_allclose(target.to_world(index), centre, atol=0.5)


def test_outside_is_fill_for_images_and_background_for_labels() -> None:
    grid = Grid(size_xyz=(4, 4, 4), spacing_mm_xyz=(1, 1, 1))
    away = Grid(size_xyz=(4, 4, 4), spacing_mm_xyz=(1, 1, 1), origin_mm_lps=(100, 0, 0))
    ones = np.ones((4, 4, 4), np.float32)
    assert np.all(resample_image(ones, grid, away, fill=-1000) == -1000)
    moved = resample_label(ones.astype(bool), grid, away)
    assert moved.dtype == bool
    assert not moved.any()


def test_arrays_that_do_not_fit_are_refused() -> None:
    grid = Grid(size_xyz=(4, 4, 5), spacing_mm_xyz=(1, 1, 1))
    with pytest.raises(GeometryMismatchError, match="does not fit"):
        resample_image(np.zeros((4, 4, 5), np.float32), grid, grid, fill=0)
    with pytest.raises(ImageError, match="positive"):
        spaced_grid(grid, (1, 0, 1))


@quick
@given(grids(), st.tuples(*[st.floats(0.3, 20)] * 3))
def test_spaced_grid_keeps_the_outer_voxel_edges(grid: Grid, spacing: Triple) -> None:
    other = spaced_grid(grid, spacing)
    for corner in itertools.product((0, 1), repeat=3):
        mine = grid.to_world(np.array(corner) * grid.size_xyz - 0.5)
        theirs = other.to_world(np.array(corner) * other.size_xyz - 0.5)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    for wish, got, count in zip(spacing, other.spacing_mm_xyz, other.size_xyz, strict=True):
        assert count == 1 or abs(got - wish) / wish < 0.6


@quick
@given(grids(smallest=3), st.tuples(*[st.integers(1, 20)] * 3))
def test_zoom_keeps_a_linear_ramp_where_it_was(grid: Grid, shape: tuple[int, int, int]) -> None:
    target = resized_grid(grid, shape)
    ramp = np.array([0.3, -0.2, 0.11])
    zyx = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"))
    values = grid.to_world(np.moveaxis(zyx[::-1], 0, -1).astype(float)) @ ramp
    zoomed = zoom_linear(values, shape)
    zyx = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    expected = target.to_world(np.moveaxis(zyx[::-1], 0, -1).astype(float)) @ ramp
    reach = [math.ceil(max(1.0, to / n)) for to, n in zip(shape, values.shape, strict=True)]
    inner = tuple(slice(r, -r) for r in reach)
    assume(all(s > 2 * r for s, r in zip(shape, reach, strict=True)))
    np.testing.assert_allclose(zoomed[inner], expected[inner], atol=2e-3)


def test_zoom_in_blocks_is_the_same_zoom(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).normal(size=(2, 9, 10, 11)).astype(np.float32)
    whole = zoom_linear(array, (5, 14, 6))
    monkeypatch.setattr(resampling_module, "_BLOCK_BYTES", 600)
    np.testing.assert_array_equal(zoom_linear(array, (5, 14, 6)), whole)


def test_zoom_to_the_same_shape_copies() -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    zoomed = zoom_linear(array, (4, 5, 6))
    np.testing.assert_array_equal(zoomed, array)
    assert zoomed is not array


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((8, 8, 64), np.float32)
    stripes[..., ::2] = 1
    zoomed = zoom_linear(stripes, (8, 8, 16))
    np.testing.assert_allclose(zoomed[..., 1:-1], 0.5, atol=0.01)


def test_zoom_keeps_leading_axes_and_constants() -> None:
    array = np.full((2, 3, 4, 5), 3.5, np.float32)
    np.testing.assert_allclose(zoom_linear(array, (7, 2, 9)), np.full((2, 7, 2, 9), 3.5), rtol=1e-6)


@pytest.mark.parametrize(("n_from", "n_to"), [(5, 5), (5, 10), (10, 5), (7, 3), (3, 7), (1, 4)])
def test_nearest_index_is_the_voxel_that_holds_the_centre(n_from: int, n_to: int) -> None:
    index = nearest_index(n_from, n_to)
    centre = (np.arange(n_to) + 0.5) * n_from / n_to
    assert np.all((index <= centre) & (centre <= index + 1))
    assert np.array_equal(zoom_nearest(np.arange(n_from)[None, None], (1, 1, n_to))[0, 0], index)
