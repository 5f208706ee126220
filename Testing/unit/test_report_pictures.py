"""Pictures of the report: right on the left, in millimetres, and drawn where the voxels are."""

from __future__ import annotations

import base64
import io
import itertools
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pixels

from semiseg.images.grid import PLANES, Grid, canonical, plane_axis
from semiseg.images.labels import Segment
from semiseg.report.colors import css, distinct_segments, text_on, vivid
from semiseg.report.contours import UNITS, label_position, outline_paths
from semiseg.report.gallery import (
    Gallery,
    Scan,
    best_index,
    make_gallery,
    slider_position,
    spread_indices,
)
from semiseg.report.pictures import Picture, choose_window, heat, make_base
from semiseg.report.planes import views

LIVER = Segment(id=1, name="liver", color=(221, 130, 101))
SPLEEN = Segment(id=2, name="spleen", color=(157, 108, 162))
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def _turn(degrees: float, axis: int) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    matrix = np.eye(3)
    first, second = (other for other in range(3) if other != axis)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _grid(order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> Grid:
    """24 x 20 x 16 voxels of 2 x 2.5 x 4 mm, its axes permuted, flipped and tilted; middle at 0."""
    size, spacing = np.array([24, 20, 16]), np.array([2.0, 2.5, 4.0])
    axes = np.eye(3)[:, list(order)] * signs
    axes = _turn(tilt, 0) @ _turn(tilt / 2, 2) @ axes
    size, spacing = size[list(order)], spacing[list(order)]
    origin = -(axes * spacing) @ ((size - 1) / 2)
    return Grid(
        size_xyz=tuple(int(n) for n in size),
        spacing_mm_xyz=tuple(float(s) for s in spacing),
        origin_mm_lps=tuple(float(o) for o in origin),
        direction=tuple(float(d) for d in axes.ravel()),
    )


def _phantom(grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """A body with a liver at the patient's right, front and top, and a spleen at the left."""
    z, y, x = np.indices(grid.shape_zyx)
    world = grid.to_world(np.stack([x, y, z], axis=-1).astype(float))
    label = np.zeros(grid.shape_zyx, np.uint16)
    label[np.linalg.norm(world - (-12, -8, 12), axis=-1) < 9] = 1  # LPS: right, anterior, superior
    label[np.linalg.norm(world - (13, 8, 10), axis=-1) < 6] = 2
    image = np.where(label > 0, 100, -50) - 900 * (np.linalg.norm(world, axis=-1) > 26)
    return image.astype(np.float32), label


def _scan(grid: Grid, **more: object) -> Scan:
    image, label = _phantom(grid)
    fields = {"label": label, "human": label > 0, **more}
    return Scan(
        key="case", image=image, grid=grid, modality="CT", segments=(LIVER, SPLEEN), **fields
    )


def _pixels(uri: str) -> NDArray[np.uint8]:
    kind, body = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", uri).groups()
    with Pixels.open(io.BytesIO(base64.b64decode(body))) as picture:
        assert picture.format == kind.upper()
        return np.asarray(picture.convert("RGBA" if picture.mode == "P" else picture.mode))


def _points(path: str) -> NDArray[np.float64]:
    """The points on a path of the report, absolute, in path units."""
    points = []
    for part in path.split("M")[1:]:
        start, curve = re.split("q", part.rstrip("z"), maxsplit=1)
        numbers = [int(number) for number in re.findall(r"-?\d+", start)]
        steps = [int(number) for number in re.findall(r"-?\d+", curve)][2:]
        steps = np.array([numbers, *zip(steps[::2], steps[1::2], strict=True)])
        points.append(np.cumsum(steps, axis=0))
    return np.concatenate(points)


def _middle(picture: Picture, name: str) -> tuple[float, float]:
    """Middle of a structure's outline, as (column, row) shares of the picture."""
    path = next(o.path for o in picture.outlines if o.title.startswith(name))
    x, y = _points(path).mean(axis=0) / UNITS
    return x / picture.base.columns, y / picture.base.rows


def _three_planes(gallery: Gallery) -> tuple[Picture, Picture, Picture]:
    axial, coronal, sagittal = gallery.planes[0].pictures
    return axial, coronal, sagittal


@pytest.mark.parametrize("tilt", [0.0, 15.0])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_patient_right_is_left_anterior_and_head_are_up_on_every_grid(order, signs, tilt):
    gallery = make_gallery(_scan(_grid(order, signs, tilt)))
    axial, coronal, sagittal = _three_planes(gallery)
    for picture in (axial, coronal):
        assert _middle(picture, "liver")[0] < 0.5
        assert picture.base.view.left.startswith("R")
        assert picture.base.view.right.startswith("L")
    assert _middle(axial, "liver")[1] < 0.5
    assert axial.base.view.top.startswith("A")
    assert axial.base.view.bottom.startswith("P")
    assert _middle(coronal, "liver")[1] < 0.5
    for picture in (coronal, sagittal):
        assert picture.base.view.top.startswith("S")
        assert picture.base.view.bottom.startswith("I")
    assert sagittal.base.view.left.startswith("A")


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_liver_pixels_of_the_grey_picture_lie_in_its_left_upper_part(order, signs):
    grid = _grid(order, signs)
    axial = _three_planes(make_gallery(_scan(grid)))[0]
    grey = _pixels(axial.base.href)
    bright = np.argwhere(grey > 0.9 * 255 * (100 + 160) / 400)
    assert len(bright) > 10
    right_half = bright[:, 1] > grey.shape[1] / 2
    assert right_half.mean() < 0.4  # the spleen alone
    left = bright[~right_half].mean(axis=0) / grey.shape
    assert left[0] < 0.5
    assert grey.shape == (20, 24)


def test_pictures_have_the_size_of_the_patient_in_millimetres():
    axial, coronal, sagittal = _three_planes(make_gallery(_scan(_grid((2, 0, 1), (1, -1, 1)))))
    sizes = [(p.base.width_mm, p.base.height_mm) for p in (axial, coronal, sagittal)]
    assert sizes == [(48, 50), (48, 64), (50, 64)]
    assert axial.base.unit_mm == (2 / UNITS, 2.5 / UNITS)
    assert axial.base.scale_bar_mm == 10
    assert axial.base.letter_mm == pytest.approx(0.05 * 50)


def test_an_oblique_grid_gets_second_letters_and_no_slider_position():
    grid = _grid((0, 1, 2), (1, 1, 1), 40)
    assert len(views(canonical(grid).grid)["axial"].top) == 2
    assert slider_position(grid, "axial", 3) == ""


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_slider_position_is_what_slicer_shows(order, signs):
    grid = _grid(order, signs)
    index = int(np.argmin([grid.to_world(v)[2] for v in _line(grid, "axial")]))
    assert slider_position(grid, "axial", index) == "I 30.0 mm"
    index = int(np.argmin([grid.to_world(v)[0] for v in _line(grid, "sagittal")]))
    assert slider_position(grid, "sagittal", index) == "R 23.0 mm"
    index = int(np.argmin([grid.to_world(v)[1] for v in _line(grid, "coronal")]))
    assert slider_position(grid, "coronal", index) == "A 23.8 mm"


def _line(grid: Grid, plane: str) -> NDArray[np.float64]:
    axis = 2 - plane_axis(grid, plane)
    return np.arange(grid.size_xyz[axis])[:, None] * np.eye(3)[axis]


def test_outline_passes_halfway_between_inside_and_outside():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:5] = True
    solid, dashed = outline_paths(mask, mask)
    points = _points(solid)
    assert dashed == ""
    assert solid.count("z") == 1
    assert points.min(axis=0).tolist() == [2 * UNITS, 1 * UNITS]
    assert points.max(axis=0).tolist() == [5 * UNITS, 4 * UNITS]


def test_outline_of_nothing_is_no_path():
    empty = np.zeros((4, 4), bool)
    assert outline_paths(empty, empty) == ("", "")


def test_outline_at_the_border_and_of_one_voxel_is_closed():
    mask = np.zeros((3, 3), bool)
    mask[0, 0] = mask[2, 2] = True
    solid, dashed = outline_paths(mask, ~mask)
    assert solid == ""
    assert dashed.count("M") == dashed.count("z") == 2
    assert _points(dashed).min() >= 0


def test_human_and_program_parts_of_one_outline_share_it_without_gap_or_overlap():
    mask = np.zeros((10, 10), bool)
    mask[2:8, 2:8] = True
    human = np.zeros_like(mask)
    human[4:5] = True
    solid, dashed = outline_paths(mask, human)
    assert solid.count("M") == dashed.count("M") == 2
    whole = len(_points(outline_paths(mask, mask)[0])) - 1
    assert len(_points(solid)) - 2 + len(_points(dashed)) - 2 == whole
    assert np.abs(_points(solid)[:, 1] / UNITS - 4.5).max() <= 0.5


def test_structure_number_stands_inside_the_structure():
    mask = np.zeros((12, 12), bool)
    mask[0:5, 3:9] = True
    column, row, room = label_position(mask)
    assert mask[int(row), int(column)]
    assert room == pytest.approx(3)


def test_best_slice_shows_most_structures_counting_small_ones_alike():
    label = np.zeros((9, 8, 8), np.uint16)
    label[1, :, :] = 1
    label[5, :7, :] = 1
    label[5, 7, 0] = 2
    assert best_index(label, 0) == 5


def test_best_slice_without_a_label_is_the_middle():
    assert best_index(np.zeros((9, 8, 4), np.uint16), 0) == 4


def test_spread_slices_stay_within_the_label():
    label = np.zeros((30, 4, 4), np.uint16)
    label[10:20] = 1
    assert spread_indices(label, 0, 5) == [11, 13, 15, 17, 19]
    assert spread_indices(label[:, :3, :1], 2, 5) == [0]


def test_ct_window_is_fixed_and_mr_follows_percentiles():
    ct = choose_window(np.array([-1000, 0, 500], np.float32), "CT")
    assert ct.grey(np.array([-160, 40, 240], np.float32)).tolist() == [0, 128, 255]
    assert "W 400" in ct.words
    values = np.linspace(0, 1000, 5000, dtype=np.float32)
    mr = choose_window(values, "MR")
    assert mr.low == pytest.approx(10, abs=1)
    assert mr.high == pytest.approx(995, abs=1)
    assert "percentile" in mr.words


def test_ct_without_hounsfield_units_and_constant_images_get_a_window_too():
    assert "no Hounsfield" in choose_window(np.arange(256, dtype=np.float32), "CT").words
    flat = choose_window(np.zeros(10, np.float32), "MR")
    assert flat.grey(np.zeros(3, np.float32)).tolist() == [0, 0, 0]


def test_large_cuts_are_kept_small_and_cover_the_same_extent():
    rng = np.random.default_rng(0)
    cut = rng.normal(0, 200, (1100, 600)).astype(np.float32)
    view = views(Grid(size_xyz=(600, 4, 1100), spacing_mm_xyz=(1, 1, 1)))["coronal"]
    base = make_base("k", cut, view, choose_window(cut, "CT"))
    assert _pixels(base.href).shape == (512, 512)
    assert base.href.startswith("data:image/jpeg")
    assert (base.width_mm, base.height_mm) == (600, 1100)


def test_heat_is_transparent_where_the_model_is_sure():
    pixels = _pixels(heat(np.array([[0, 0.5], [1, np.nan]], np.float32)))
    assert pixels[0, 0, 3] == pixels[1, 1, 3] == 0
    assert 0 < pixels[0, 1, 3] < pixels[1, 0, 3]


def test_every_kind_of_content_gets_a_row_over_one_shared_grey_picture():
    grid = _grid((0, 1, 2), (1, 1, 1))
    label = _phantom(grid)[1]
    unsure = np.where(label > 0, 0.8, 0.0).astype(np.float32)
    done = {"axial": {9: [1, 2], 11: [1], 12: [1]}}
    scan = _scan(grid, prediction=label, uncertainty=unsure, done=done)
    gallery = make_gallery(scan)
    assert [row.title for row in gallery.planes] == ["Labels", "Segmentation", "Uncertainty"]
    assert [row.title for row in gallery.strip] == [
        "Labels, slice by slice",
        "Segmentation, slice by slice",
    ]
    assert [p.draws_base for row in gallery.planes for p in row.pictures] == [True] * 3 + [
        False
    ] * 6
    assert [p.done for p in gallery.strip[0].pictures] == [
        "done by hand",
        "done by hand: liver",
        "done by hand: liver",
    ]
    coronal = gallery.planes[0].pictures[1]
    assert coronal.done_rows_mm == ((15 - 9 + 0.5) * 4, (15 - 11 + 0.5) * 4, (15 - 12 + 0.5) * 4)
    assert coronal.done_columns_mm == ()
    assert not gallery.planes[1].pictures[1].done_rows_mm


def test_strip_follows_the_plane_with_most_done_slices():
    done = {"axial": {9: [1], 11: [1]}, "coronal": dict.fromkeys(range(2, 18), (1,))}
    strip = make_gallery(_scan(_grid((0, 1, 2), (1, 1, 1)), done=done)).strip[0]
    assert [p.base.view.plane for p in strip.pictures] == ["coronal"] * 5


def test_a_bare_scan_shows_the_image_alone():
    grid = _grid((0, 1, 2), (1, 1, 1))
    empty = np.zeros(grid.shape_zyx, np.uint16)
    for label in (None, empty):
        gallery = make_gallery(_scan(grid, label=label, human=None))
        assert [row.title for row in gallery.planes] == ["Image"]
        assert gallery.strip == ()


def test_prediction_alone_chooses_the_cuts():
    grid = _grid((0, 1, 2), (1, 1, 1))
    label = _phantom(grid)[1]
    gallery = make_gallery(_scan(grid, label=None, human=None, prediction=label))
    assert [row.title for row in gallery.planes] == ["Segmentation"]
    assert {o.line for p in gallery.planes[0].pictures for o in p.outlines} == {"model"}


def test_a_single_slice_scan_has_pictures():
    grid = Grid(size_xyz=(12, 10, 1), spacing_mm_xyz=(1, 1, 4))
    label = np.zeros(grid.shape_zyx, np.uint16)
    label[0, 2:8, 2:8] = 1
    image = label.astype(np.float32)
    gallery = make_gallery(
        Scan(key="k", image=image, grid=grid, modality="MR", segments=(LIVER,), label=label)
    )
    assert [p.base.view.plane for p in gallery.planes[0].pictures] == list(PLANES)
    assert gallery.planes[0].stacked


def test_alike_colours_are_told_apart_and_unlike_ones_keep_their_hue():
    stomach = Segment(id=3, name="stomach", color=(216, 132, 105))
    vein = Segment(id=4, name="vein", color=(0, 151, 206))
    found = {s.name: s.color for s in distinct_segments((LIVER, stomach, vein))}
    assert found["liver"] == vivid(LIVER.color)
    assert found["vein"] == vivid(vein.color)
    assert found["stomach"] != vivid(stomach.color)
    many = [Segment(id=n, name=str(n), color=(90, 90, 90)) for n in range(1, 60)]
    assert len(distinct_segments(many)) == 59


def test_colours_become_css_and_text_on_them_is_readable():
    assert css((0, 151, 206)) == "#0097ce"
    assert vivid((120, 120, 120)) == (242, 242, 242)
    assert text_on((255, 255, 0)) == "#000"
    assert text_on((0, 0, 120)) == "#fff"
