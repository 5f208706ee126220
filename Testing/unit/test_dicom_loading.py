"""DICOM series in: exact geometry and values, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from semiseg.dicom.loading import Loaded, load
from semiseg.dicom.scan import Scan, scan
from semiseg.errors import ImageError

SeriesMaker = Callable[..., list[Path]]
TILT = (1.0, 0.0, 0.0, 0.0, 0.9483237, -0.3173047)


def grey(world: np.ndarray) -> np.ndarray:
    return world @ np.array([10.0, 3.0, 7.0]) - 1000.0


def only(folder: Path, **options: bool) -> Loaded:
    (volume,) = scan(folder, **options).volumes
    return load(folder, volume, **options)


def problem(folder: Path) -> str:
    found = scan(folder)
    (volume,) = found.volumes
    assert not volume.ready
    with pytest.raises(ImageError):
        load(folder, volume)
    return volume.problem


def world_of(loaded: Loaded) -> np.ndarray:
    z, y, x = np.indices(loaded.grid.shape_zyx)
    return loaded.grid.to_world(np.stack([x, y, z], axis=-1))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_voxels_lie_where_the_tags_say(
    tmp_path: Path, dicom_series: SeriesMaker, modality: str
) -> None:
    turned = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
    direction = np.reshape(turned, (3, 3))
    dicom_series(tmp_path, modality=modality, orientation=(*direction[:, 0], *direction[:, 1]), n=4)
    loaded = only(tmp_path)
    assert np.abs(loaded.array - grey(world_of(loaded))).max() <= 0.51
    assert loaded.modality_tag == modality
    assert loaded.array.dtype == np.int16
    assert loaded.grid.spacing_mm_xyz == pytest.approx((1.25, 1.5, 2.5), abs=1e-5)


def test_same_geometry_as_simpleitk(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, orientation=(0, 1, 0, 0, 0, -1), n=6)
    loaded = only(tmp_path)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    other = sitk.ReadImage(names)
    assert np.allclose(other.GetOrigin(), loaded.grid.origin_mm_lps, atol=1e-4)
    assert np.allclose(other.GetDirection(), loaded.grid.direction, atol=1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(other), loaded.array)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    flip=st.booleans(),
    order=st.permutations(range(4)),
)
def test_any_orientation_and_file_order_gives_the_tags_positions(
    tmp_path_factory: pytest.TempPathFactory,
    dicom_series: SeriesMaker,
    angles: tuple[float, float, float],
    flip: bool,
    order: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("series")
    direction = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3))
    column = direction[:, 1] * (-1 if flip else 1)
    heights = [3.0 * k for k in order]
    dicom_series(folder, orientation=(*direction[:, 0], *column), heights=heights)
    loaded = only(folder)
    assert np.abs(loaded.array - grey(world_of(loaded))).max() <= 0.52
    for (file, _), place in zip(
        loaded.reference.slices, loaded.reference.positions_mm_lps, strict=True
    ):
        tags = dcmread(folder / loaded.reference.files[file].name)
        assert np.allclose([float(v) for v in tags.ImagePositionPatient], place)


def test_tilted_gantry_is_straightened_to_its_true_places(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    places = [(-20.0, 30.0, 100.0 + 4.0 * k) for k in range(6)]
    dicom_series(tmp_path, orientation=TILT, positions=places)
    loaded = only(tmp_path)
    inside = loaded.array > loaded.array.min()
    assert inside.mean() > 0.5
    error = np.abs(loaded.array - grey(world_of(loaded)))[inside]
    assert np.median(error) < 0.6
    assert (error < 1.5).mean() > 0.95
    assert "18.5 degrees" in " ".join(loaded.notes)
    assert not loaded.reference.exact


def test_uneven_slices_are_resampled_to_an_even_spacing(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dicom_series(tmp_path, heights=[0, 4, 8, 12, 13.08, 20, 27])
    loaded = only(tmp_path)
    assert loaded.grid.size_xyz == (10, 12, 8)
    assert np.abs(loaded.array - grey(world_of(loaded))).max() < 0.6
    assert "resampled" in " ".join(loaded.notes)
    assert not loaded.reference.exact


def test_missing_slices_are_refused_unless_gaps_may_be_bridged(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path, n=9)
    paths[3].unlink()
    paths[4].unlink()
    assert "2 slices are missing" in problem(tmp_path)
    loaded = only(tmp_path, bridge_gaps=True)
    assert loaded.grid.size_xyz == (10, 12, 9)
    assert np.abs(loaded.array - grey(world_of(loaded))).max() < 0.6
    assert "2 slices are missing" in loaded.notes[0]


def test_wide_gap_with_numbers_that_go_on_is_uneven_spacing_not_loss(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dicom_series(tmp_path, heights=[0, 2, 4, 6, 10])
    assert "resampled" in only(tmp_path).notes[0]


def test_two_scans_in_one_series_are_refused(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, heights=[0, 2, 4.1, 6, 300, 302])
    assert "two scans" in problem(tmp_path)


def test_slightly_uneven_slices_are_kept_with_a_note(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dicom_series(tmp_path, heights=[0, 2.5, 5.02, 7.5, 10])
    loaded = only(tmp_path)
    assert loaded.reference.exact
    assert "0.020 mm beside" in loaded.notes[0]


def test_slices_slightly_off_a_straight_stack_are_kept_with_a_note(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dicom_series(tmp_path, positions=[(0.02 * k, 0, 3 * k) for k in range(4)])
    loaded = only(tmp_path)
    assert loaded.reference.exact
    assert "beside a straight stack" in loaded.notes[0]


def test_single_slice_is_no_volume(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, n=1)
    assert "single slice" in problem(tmp_path)


def test_copies_of_slices_count_once(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    paths = dicom_series(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(paths[2].read_bytes())
    loaded = only(tmp_path)
    assert loaded.grid.size_xyz[2] == 5
    assert "1 copies" in loaded.notes[0]


def test_twins_with_other_ids_count_once_and_different_ones_are_refused(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path)
    twin = dcmread(paths[2])
    twin.SOPInstanceUID = generate_uid()
    twin.file_meta.MediaStorageSOPInstanceUID = twin.SOPInstanceUID
    twin.save_as(tmp_path / "twin.dcm")
    assert "1 copies" in only(tmp_path).notes[0]
    twin.PixelData = bytes(len(twin.PixelData))
    twin.save_as(tmp_path / "twin.dcm")
    assert "several slices that differ" in problem(tmp_path)
    twin.PixelData = b"\0\0"
    twin.save_as(tmp_path / "twin.dcm")
    assert "several slices that differ" in problem(tmp_path)


def _parts(found: Scan) -> list[str]:
    assert all(v.siblings == len(found.volumes) for v in found.volumes)
    return [volume.part for volume in found.volumes]


@pytest.mark.parametrize(
    ("keyword", "values", "parts"),
    [
        ("EchoTime", (4.6, 9.2), ["echo 4.6 ms", "echo 9.2 ms"]),
        ("InversionTime", (4.0, 9.0), ["inversion 4 ms", "inversion 9 ms"]),
        ("DiffusionBValue", (0.0, 800.0), ["b 0", "b 800"]),
        ("TemporalPositionIdentifier", (1, 2), ["time point 1 of 2", "time point 2 of 2"]),
        ("AcquisitionNumber", (3, 4), ["acquisition 3", "acquisition 4"]),
        ("TriggerTime", (10, 50), ["trigger time 10 ms", "trigger time 50 ms"]),
        ("AcquisitionTime", ("101010", "101020"), ["time point 1 of 2", "time point 2 of 2"]),
        ("ContentTime", ("101010", "101020"), ["time point 1 of 2", "time point 2 of 2"]),
        (
            "InstanceNumber",
            (5, 6),
            ["image 1 of 2 of each place", "image 2 of 2 of each place"],
        ),
    ],
)
def test_images_of_one_place_become_volumes_of_their_own(
    tmp_path: Path, dicom_series: SeriesMaker, keyword: str, values: tuple, parts: list[str]
) -> None:
    for turn, value in enumerate(values):

        def change(dataset: Dataset, k: int, turn: int = turn, value: object = value) -> None:
            dataset.SOPInstanceUID = generate_uid()
            dataset.InstanceNumber = turn * 10 + k
            setattr(dataset, keyword, value)

        dicom_series(tmp_path, modality="MR", change=change, prefix=f"t{turn}-")
    found = scan(tmp_path)
    assert _parts(found) == parts
    assert {len(v.frames) for v in found.volumes} == {5}


def test_two_directions_in_one_series_are_two_volumes(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dicom_series(tmp_path / "one")
    dicom_series(tmp_path / "two", orientation=(0, 1, 0, 0, 0, -1), change=_fresh_uid)
    assert _parts(scan(tmp_path)) == ["direction 1", "direction 2"]


def _fresh_uid(dataset: Dataset, k: int) -> None:
    dataset.SOPInstanceUID = generate_uid()


def test_series_without_ids_belong_together_by_folder(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def strip(dataset: Dataset, k: int) -> None:
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            setattr(dataset, keyword, "")

    dicom_series(tmp_path / "a", change=strip)
    dicom_series(tmp_path / "b", change=strip)
    found = scan(tmp_path)
    assert [len(v.frames) for v in found.volumes] == [5, 5]
    assert all(v.ready and v.first.sop_instance_uid for v in found.volumes)


def test_mixed_series_in_one_folder_are_told_apart(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dicom_series(tmp_path, prefix="x", key="x", n=3)
    dicom_series(tmp_path, prefix="y", key="y", n=4, modality="MR")
    (tmp_path / "notes.txt").write_text("hello")
    found = scan(tmp_path)
    assert sorted(len(v.frames) for v in found.volumes) == [3, 4]
    assert found.reasons == {"is not a DICOM file": 1}
    assert found.to_json()["files"] == 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser"),
        (lambda d: setattr(d, "ImageType", ["DERIVED", "SECONDARY", "MIP"]), "projection"),
        (lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), "secondary capture"),
        (lambda d: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.128"), "Positron"),
        (lambda d: setattr(d, "SOPClassUID", "1.2.3"), "not a CT or MR image"),
        (lambda d: setattr(d, "SamplesPerPixel", 3), "colour"),
        (lambda d: setattr(d, "NumberOfFrames", 3), "3 frames"),
        (lambda d: delattr(d, "PixelSpacing"), "Pixel Spacing"),
        (lambda d: delattr(d, "ImagePositionPatient"), "where it lies"),
        (lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0]), "where it lies"),
        (lambda d: delattr(d, "Rows"), "rows and columns"),
        (lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "right angles"),
    ],
)
def test_files_that_are_no_slices_are_left_out_with_the_reason(
    tmp_path: Path,
    dicom_series: SeriesMaker,
    change: Callable[[Dataset], None],
    reason: str,
) -> None:
    dicom_series(tmp_path, n=2, change=lambda dataset, k: change(dataset))
    found = scan(tmp_path)
    assert found.volumes == ()
    assert reason in " ".join(found.reasons)


def _write_without_class(path: Path, modality: str, *, rows: bool = True) -> None:
    dataset = dcmread(path)
    del dataset.SOPClassUID
    del dataset.file_meta.MediaStorageSOPClassUID
    dataset.Modality = modality
    if not rows:
        del dataset.Rows
    dataset.save_as(path, enforce_file_format=False)


def test_files_without_a_class_count_by_modality(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    paths = dicom_series(tmp_path, n=4)
    _write_without_class(paths[0], "US")
    _write_without_class(paths[1], "CT", rows=False)
    _write_without_class(paths[2], "CT")
    found = scan(tmp_path)
    assert sorted(found.reasons) == [
        "is DICOM, but no image",
        "is not a CT or MR image but of modality US",
    ]
    assert len(found.volumes[0].frames) == 2


def test_stacks_of_other_sizes_in_one_series_are_named_by_size(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def smaller(dataset: Dataset, k: int) -> None:
        dataset.SOPInstanceUID = generate_uid()
        dataset.Rows = 6
        dataset.PixelData = dataset.PixelData[: 6 * 10 * 2]

    dicom_series(tmp_path, prefix="a")
    dicom_series(tmp_path, prefix="b", change=smaller)
    assert _parts(scan(tmp_path)) == ["10 x 12 pixels", "10 x 6 pixels"]
