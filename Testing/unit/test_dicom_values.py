"""Values of DICOM series: rescaled, padded, packed; wrong ones refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from semiseg.dicom.loading import Loaded, load
from semiseg.dicom.scan import scan
from semiseg.errors import ImageError

SeriesMaker = Callable[..., list[Path]]


def grey(world: np.ndarray) -> np.ndarray:
    return world @ np.array([10.0, 3.0, 7.0]) - 1000.0


def only(folder: Path, **options: bool) -> Loaded:
    (volume,) = scan(folder, **options).volumes
    return load(folder, volume, **options)


def world_of(loaded: Loaded) -> np.ndarray:
    z, y, x = np.indices(loaded.grid.shape_zyx)
    return loaded.grid.to_world(np.stack([x, y, z], axis=-1))


def test_rescaling_of_each_slice_counts(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    def halved(dataset: Dataset, k: int) -> None:
        stored = np.frombuffer(dataset.PixelData, "<i2").astype(float) - 1024
        slope = 1 + k
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, -100 * k
        dataset.PixelData = np.rint((stored + 100 * k) / slope).astype("<i2").tobytes()

    dicom_series(tmp_path, change=halved)
    loaded = only(tmp_path)
    assert np.abs(loaded.array - grey(world_of(loaded))).max() <= 3.1


def test_fractional_values_are_kept_as_they_are(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, change=lambda d, k: setattr(d, "RescaleSlope", 0.5))
    assert only(tmp_path).array.dtype == np.float32


def test_large_values_are_kept_as_they_are(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, change=lambda d, k: setattr(d, "RescaleSlope", 100))
    assert only(tmp_path).array.max() > 32767


def test_unsigned_pixels_are_read_as_such(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, change=lambda d, k: setattr(d, "PixelRepresentation", 0))
    loaded = only(tmp_path)
    assert np.abs(loaded.array - grey(world_of(loaded))).max() <= 0.51


@pytest.mark.parametrize("signed", [0, 1])
def test_padding_becomes_the_lowest_value(
    tmp_path: Path, dicom_series: SeriesMaker, signed: int
) -> None:
    def pad(dataset: Dataset, k: int) -> None:
        stored = np.frombuffer(dataset.PixelData, "<i2").copy()
        stored[:3] = -2000 if signed else 0xF800 - 65536
        dataset.PixelRepresentation = signed
        dataset.PixelData = stored.tobytes()
        dataset.PixelPaddingValue = -2000 if signed else 0xF800
        dataset.PixelPaddingRangeLimit = -1999 if signed else 0xF801

    dicom_series(tmp_path, change=pad)
    loaded = only(tmp_path)
    assert "15 voxels of padding" in loaded.notes[-1]
    assert loaded.array[:, 0, :3].max() == loaded.array.min() >= -1024


def test_padding_of_unsigned_pixels_may_be_written_as_a_negative_number(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def mark(dataset: Dataset, _k: int) -> None:
        dataset.PixelRepresentation = 0
        pixels = np.full((dataset.Rows, dataset.Columns), 1000, np.uint16)
        pixels[:, 0], pixels[0, 1] = 0xF800, 1200
        dataset.PixelData = pixels.tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -2048)

    dicom_series(tmp_path, change=mark)
    (volume,) = scan(tmp_path).volumes
    array = load(tmp_path, volume).array
    assert np.array_equal(array[:, :, 0], array[:, :, 2])


def test_unmarked_padding_of_a_ct_is_cut_at_air(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, values=lambda world: np.minimum(grey(world), 0) * 3)
    loaded = only(tmp_path)
    assert loaded.array.min() == -1024
    assert "below -1024 HU" in loaded.notes[0]


def test_nothing_but_padding_is_refused(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    def pad(dataset: Dataset, k: int) -> None:
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = -32768, 32767

    dicom_series(tmp_path, change=pad)
    with pytest.raises(ImageError, match="padding only"):
        only(tmp_path)


def test_a_negative_mr_is_turned_round_and_a_ct_keeps_its_hu(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def negative(dataset: Dataset, k: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    dicom_series(tmp_path / "mr", modality="MR", change=negative)
    plain = dicom_series(tmp_path / "plain", modality="MR")
    dicom_series(tmp_path / "ct", change=negative)
    turned, straight = only(tmp_path / "mr").array, only(tmp_path / "plain").array
    assert len(plain) == 5
    assert np.array_equal(turned - turned.min(), straight.max() - straight)
    assert np.array_equal(only(tmp_path / "ct").array, straight)


def test_half_negative_series_is_refused(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    def some(dataset: Dataset, k: int) -> None:
        dataset.PhotometricInterpretation = f"MONOCHROME{1 + k % 2}"

    dicom_series(tmp_path, modality="MR", change=some)
    with pytest.raises(ImageError, match="inverted"):
        only(tmp_path)


def test_ct_without_rescaling_is_taken_as_hu_and_says_so(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def without(dataset: Dataset, k: int) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept

    dicom_series(tmp_path, change=without)
    assert "taken as HU" in only(tmp_path).notes[0]


def test_slope_zero_and_tables_are_refused(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path / "a", change=lambda d, k: setattr(d, "RescaleSlope", 0))
    with pytest.raises(ImageError, match="slope 0"):
        only(tmp_path / "a")
    table = Sequence([Dataset()])
    dicom_series(tmp_path / "b", change=lambda d, k: setattr(d, "ModalityLUTSequence", table))
    with pytest.raises(ImageError, match="by a table"):
        only(tmp_path / "b")


def test_constant_volume_is_refused(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, values=lambda world: np.zeros(world.shape[:-1]))
    with pytest.raises(ImageError, match="every voxel"):
        only(tmp_path)


def test_volume_larger_than_memory_is_refused(
    tmp_path: Path, dicom_series: SeriesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_series(tmp_path)
    monkeypatch.setattr("semiseg.dicom.loading._BYTES_PER_VOXEL", 2**60)
    with pytest.raises(ImageError, match="GiB of memory"):
        only(tmp_path)


@pytest.mark.parametrize("syntax", [RLELossless, ExplicitVRBigEndian])
def test_other_transfer_syntaxes_give_the_same_voxels(
    tmp_path: Path, dicom_series: SeriesMaker, syntax: str
) -> None:
    paths = dicom_series(tmp_path)
    plain = only(tmp_path).array
    for path in paths:
        dataset = dcmread(path)
        if syntax == RLELossless:
            dataset.compress(RLELossless)
        else:
            swapped = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            dataset.PixelData = swapped
            list(dataset)  # decodes the values, else their bytes would be copied as they are
            dataset.file_meta.TransferSyntaxUID = syntax
        dcmwrite(path, dataset, little_endian=syntax == RLELossless, implicit_vr=False)
    assert np.array_equal(only(tmp_path).array, plain)


@pytest.mark.parametrize("content", [b"\x00\x01garbage", None])
def test_pixels_that_cannot_be_unpacked_are_refused(
    tmp_path: Path, dicom_series: SeriesMaker, content: bytes | None
) -> None:
    paths = dicom_series(tmp_path, n=2)
    dataset = dcmread(paths[0])
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    if content is not None:
        dataset.PixelData = encapsulate([content])
    dataset.save_as(paths[0], enforce_file_format=False)
    with pytest.raises(ImageError, match=r"JPEG 2000|cannot be read"):
        only(tmp_path)


def test_cut_off_and_missing_pixels_are_refused(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    paths = dicom_series(tmp_path, n=3)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-40])
    with pytest.raises(ImageError, match="cut off"):
        only(tmp_path)
    paths[1].unlink()
    dataset = dcmread(paths[0])
    del dataset.PixelData
    dataset.save_as(paths[0])
    with pytest.raises(ImageError, match="no pixels"):
        only(tmp_path)


def test_file_that_vanishes_after_the_scan_is_told(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path)
    (volume,) = scan(tmp_path).volumes
    paths[0].unlink()
    with pytest.raises(ImageError, match=r"slice0.dcm cannot be read"):
        load(tmp_path, volume)


def test_file_that_shrinks_after_the_scan_is_told(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path)
    (volume,) = scan(tmp_path).volumes
    dataset = dcmread(paths[0])
    dataset.Rows = 6
    dataset.PixelData = dataset.PixelData[: 6 * 10 * 2]
    dataset.save_as(paths[0])
    with pytest.raises(ImageError, match="header announces"):
        load(tmp_path, volume)
