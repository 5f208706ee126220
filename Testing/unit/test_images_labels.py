"""Label maps and the segments of Slicer's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from semiseg.errors import GeometryMismatchError, ImageError, LabelError
from semiseg.images.grid import Grid, canonical
from semiseg.images.labels import LabelMap, Segment, place_on, read_label, write_label
from semiseg.images.reading import to_sitk, write_image

OBLIQUE = Grid(
    size_xyz=(9, 8, 7),
    spacing_mm_xyz=(1.0, 2.0, 5.0),
    origin_mm_lps=(-20.0, 31.5, 7.0),
    direction=(0.6, 0.8, 0.0, 0.8, -0.6, 0.0, 0.0, 0.0, 1.0),
)
ENTRY = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure"
    "~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
)
SEGMENTS = (
    Segment(id=3, name="Leber größer", color=(221, 130, 101), terminology=ENTRY),
    Segment(id=300, name="right kidney", color=(1, 2, 255)),
    Segment(id=8, name="never drawn", color=(0, 0, 0)),
)


def labels() -> NDArray[np.uint16]:
    array = np.zeros(OBLIQUE.shape_zyx, np.uint16)
    array[1:4, 2:6, 3:7] = 3
    array[5, 6:, 7:] = 300
    return array


def layered(path: Path, layers: NDArray[np.uint8], fields: dict[str, str]) -> Path:
    """A segmentation with one layer per last axis, as Slicer saves overlapping segments."""
    image = sitk.GetImageFromArray(layers, isVector=True)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


def two_layers(overlap: bool) -> NDArray[np.uint8]:
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[1, 1:3, 1:3, 0] = 1
    layers[2, 1:3, 1:3, 1] = 1
    layers[1, 1, 1, 1] = overlap
    return layers


LAYER_FIELDS = {
    "Segment0_ID": "Segment_1",
    "Segment0_Name": "liver",
    "Segment0_LabelValue": "1",
    "Segment0_Layer": "0",
    "Segment0_Color": "0.5 0.25 1",
    "Segment1_ID": "Segment_2",
    "Segment1_Name": "tumour",
    "Segment1_LabelValue": "1",
    "Segment1_Layer": "1",
    "Segment1_Tags": f"Segmentation.Status:inprogress|TerminologyEntry:{ENTRY}|",
}


# ---- writing and reading back ----------------------------------------------------------------


def test_segmentation_keeps_voxels_grid_names_colours_and_codes(tmp_path: Path) -> None:
    path = tmp_path / "ct 1 ü.seg.nrrd"
    write_label(path, labels(), OBLIQUE, SEGMENTS)
    back = read_label(path)
    np.testing.assert_array_equal(back.array, labels())
    assert back.array.dtype == np.uint16
    assert back.grid.difference(OBLIQUE) is None
    assert back.segments == SEGMENTS


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_plain_label_maps_keep_voxels_and_grid(suffix: str, dtype: type, tmp_path: Path) -> None:
    array = np.minimum(labels(), 255 if dtype is np.uint8 else 300).astype(dtype)
    write_label(tmp_path / f"a{suffix}", array, OBLIQUE, SEGMENTS)
    back = read_label(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, array)
    assert back.grid.difference(OBLIQUE) is None
    assert back.segments == ()


def test_small_ids_take_one_byte_per_voxel(tmp_path: Path) -> None:
    write_label(tmp_path / "a.mha", labels() // 300, OBLIQUE)
    assert sitk.ReadImage(str(tmp_path / "a.mha")).GetPixelID() == sitk.sitkUInt8


def test_header_has_the_fields_by_which_slicer_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_label(path, labels(), OBLIQUE, SEGMENTS)
    image = sitk.ReadImage(str(path))
    field = image.GetMetaData
    assert field("Segmentation_MasterRepresentation") == "Binary labelmap"
    assert field("Segmentation_ContainedRepresentationNames") == "Binary labelmap|"
    assert field("Segmentation_ReferenceImageExtentOffset") == "0 0 0"
    for index in range(3):
        # Slicer cuts a layer to its first segment's extent, so each carries the whole
        assert field(f"Segment{index}_Extent") == "0 8 0 7 0 6"
        assert field(f"Segment{index}_Layer") == "0"
    assert field("Segment0_Tags") == f"TerminologyEntry:{ENTRY}|"
    assert field("Segment1_LabelValue") == "300"
    assert field("Segment1_Color") == "0.00392157 0.00784314 1"


def test_slicerio_reads_the_segmentation(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio")
    path = tmp_path / "a.seg.nrrd"
    write_label(path, labels(), OBLIQUE, SEGMENTS)
    found = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(found["voxels"].transpose(2, 1, 0), labels())
    np.testing.assert_allclose(found["ijkToLPS"], OBLIQUE.affine_lps, atol=1e-6)
    assert [segment["labelValue"] for segment in found["segments"]] == [3, 300, 8]
    assert found["segments"][0]["terminology"]["type"] == ["SCT", "10200004", "Liver"]
    assert found["segments"][1]["name"] == "right kidney"


def test_ids_are_found_again_when_slicer_renumbered_the_voxels(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_label(path, labels(), OBLIQUE, SEGMENTS)
    image = sitk.ReadImage(str(path))
    renumbered = sitk.ChangeLabel(image, {3: 1, 300: 2})
    for key in image.GetMetaDataKeys():
        renumbered.SetMetaData(key, image.GetMetaData(key))
    for index in range(3):
        renumbered.SetMetaData(f"Segment{index}_LabelValue", str(index + 1))
    sitk.WriteImage(renumbered, str(path))
    back = read_label(path)
    np.testing.assert_array_equal(back.array, labels())
    assert back.segments == SEGMENTS


def test_names_and_codes_cannot_break_the_header(tmp_path: Path) -> None:
    odd = Segment(id=1, name="a\nb:=c | d", color=(0, 0, 0), terminology="x|y\nz")
    write_label(tmp_path / "a.seg.nrrd", (labels() > 0).astype(np.uint8), OBLIQUE, (odd,))
    (segment,) = read_label(tmp_path / "a.seg.nrrd").segments
    assert segment.name == "a b:=c | d"
    assert segment.terminology == "x y z"


# ---- what Slicer and others write --------------------------------------------------------------


def test_layers_that_do_not_overlap_are_merged(tmp_path: Path) -> None:
    path = layered(tmp_path / "a.seg.nrrd", two_layers(overlap=False), LAYER_FIELDS)
    back = read_label(path)
    assert [(s.id, s.name) for s in back.segments] == [(1, "liver"), (2, "tumour")]
    assert back.segments[0].color == (128, 64, 255)
    assert back.segments[1].terminology == ENTRY
    expected = two_layers(overlap=False)[..., 0] + 2 * two_layers(overlap=False)[..., 1]
    np.testing.assert_array_equal(back.array, expected)


def test_overlapping_segments_are_refused_by_name(tmp_path: Path) -> None:
    path = layered(tmp_path / "a.seg.nrrd", two_layers(overlap=True), LAYER_FIELDS)
    with pytest.raises(LabelError, match="tumour overlaps liver in 1 voxels"):
        read_label(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Segment1_Layer": "2"}, "names layer 2"),
        ({"Segment1_LabelValue": "one"}, "Segment1_LabelValue is 'one'"),
        ({"Segment1_LabelValue": "0"}, "from 1 to 65535"),
        ({"Segment1_LabelValue": "70000"}, "from 1 to 65535"),
        ({"Segment1_LabelValue": "4"}, "no segment has the label value 1"),
    ],
)
def test_inconsistent_segmentation_is_refused(
    change: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    fields = LAYER_FIELDS | change
    path = layered(tmp_path / "a.seg.nrrd", two_layers(overlap=False), fields)
    with pytest.raises(LabelError, match=sentence):
        read_label(path)


def test_segment_without_layer_colour_or_name_is_still_read(tmp_path: Path) -> None:
    fields = {"Segment0_ID": "a", "Segment0_Color": "red", "Segment1_ID": "b", "Segment1_Name": "B"}
    path = layered(tmp_path / "a.seg.nrrd", two_layers(overlap=False), fields)
    back = read_label(path)
    assert [(s.id, s.name) for s in back.segments] == [(1, "a"), (2, "B")]
    assert back.segments[0].color == (128, 128, 128)


def test_layers_without_segments_are_no_label_map(tmp_path: Path) -> None:
    path = layered(tmp_path / "a.nrrd", two_layers(overlap=False), {})
    with pytest.raises(LabelError, match="2 values per voxel and names no segments"):
        read_label(path)


def test_whole_numbers_stored_as_float_are_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz", labels().astype(np.float32), OBLIQUE)
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii.gz").array, labels())


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
@pytest.mark.parametrize(
    ("value", "dtype", "sentence"),
    [
        (0.5, np.float32, "not whole numbers"),
        (np.nan, np.float32, "not whole numbers"),
        (np.inf, np.float32, "from 0 to inf"),
        (-1, np.int16, "values from -1"),
        (70000, np.int32, "to 70000"),
    ],
)
def test_values_that_are_no_labels_are_refused(
    value: float, dtype: type, sentence: str, suffix: str, tmp_path: Path
) -> None:
    array = np.zeros(OBLIQUE.shape_zyx, dtype)
    array[1, 2, 3] = value
    write_image(tmp_path / f"a{suffix}", array, OBLIQUE)
    with pytest.raises(LabelError, match=sentence):
        read_label(tmp_path / f"a{suffix}")


def test_complex_and_4d_files_are_no_label_maps(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([3, 3, 3], sitk.sitkComplexFloat32), str(tmp_path / "c.nii.gz"))
    series = sitk.JoinSeries([sitk.Image([3, 3, 3], sitk.sitkUInt8)] * 2)
    sitk.WriteImage(series, str(tmp_path / "t.nrrd"))
    for name in ("c.nii.gz", "t.nrrd"):
        with pytest.raises(LabelError, match="not a label map"):
            read_label(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "segments", "sentence"),
    [
        (labels(), SEGMENTS[:1], "no segment has the label value 300"),
        (labels(), SEGMENTS + SEGMENTS[:1], "must be positive and differ"),
        (labels().astype(np.int32) - 1, SEGMENTS, "between 0 and 65535"),
        (labels().astype(np.int32) * 300, SEGMENTS, "between 0 and 65535"),
    ],
)
def test_labels_that_cannot_be_written_leave_no_file(
    array: NDArray[np.integer], segments: tuple[Segment, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(LabelError, match=sentence):
        write_label(tmp_path / "a.seg.nrrd", array, OBLIQUE, segments)
    assert list(tmp_path.iterdir()) == []


def test_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryMismatchError, match="does not fit"):
        write_label(tmp_path / "a.nii.gz", labels()[1:], OBLIQUE)
    with pytest.raises(ImageError, match="expected one of"):
        write_label(tmp_path / "a.stl", labels(), OBLIQUE)


# ---- placing on a grid ------------------------------------------------------------------------


def test_cropped_label_is_placed_exactly(tmp_path: Path) -> None:
    image = to_sitk(labels(), OBLIQUE)[2:, 1:7, 1:6]
    cropped = LabelMap(
        array=sitk.GetArrayFromImage(image), grid=Grid.from_sitk(image), segments=SEGMENTS
    )
    lost = labels()
    lost[5, 7:] = 0
    placed = place_on(cropped, OBLIQUE)
    np.testing.assert_array_equal(placed.array, lost)
    assert placed.grid == OBLIQUE
    assert placed.segments == SEGMENTS


def test_label_stored_with_turned_axes_is_placed_exactly() -> None:
    turn = canonical(OBLIQUE)
    turned = LabelMap(array=turn.apply(labels()), grid=turn.grid)
    np.testing.assert_array_equal(place_on(turned, OBLIQUE).array, labels())


def test_label_on_the_same_grid_is_itself() -> None:
    label = LabelMap(array=labels(), grid=OBLIQUE)
    assert place_on(label, OBLIQUE).array is label.array


def test_drawing_outside_the_image_is_refused() -> None:
    image = to_sitk(labels(), OBLIQUE)[5:, :, :]
    with pytest.raises(GeometryMismatchError, match="drawn voxels outside the image"):
        place_on(LabelMap(array=labels(), grid=OBLIQUE), Grid.from_sitk(image))


def test_label_that_misses_the_image_altogether_is_refused() -> None:
    far = Grid(
        size_xyz=OBLIQUE.size_xyz,
        spacing_mm_xyz=OBLIQUE.spacing_mm_xyz,
        origin_mm_lps=tuple(float(v) for v in OBLIQUE.to_world(np.array([50.0, -40, 30]))),
        direction=OBLIQUE.direction,
    )
    with pytest.raises(GeometryMismatchError, match="outside the image"):
        place_on(LabelMap(array=labels(), grid=far), OBLIQUE)
    empty = LabelMap(array=np.zeros_like(labels()), grid=far)
    assert not place_on(empty, OBLIQUE).array.any()


@pytest.mark.parametrize("change", ["shift", "spacing"])
def test_label_between_the_voxels_of_the_image_is_refused(change: str) -> None:
    x, y, z = OBLIQUE.origin_mm_lps
    sx, sy, sz = OBLIQUE.spacing_mm_xyz
    other = Grid(
        size_xyz=OBLIQUE.size_xyz,
        spacing_mm_xyz=(sx, sy, sz * (2 if change == "spacing" else 1)),
        origin_mm_lps=(x + (0.4 if change == "shift" else 0), y, z),
        direction=OBLIQUE.direction,
    )
    with pytest.raises(GeometryMismatchError, match="ct1: the grids differ"):
        place_on(LabelMap(array=labels(), grid=other), OBLIQUE, "ct1")
