"""Damaged headers and packed pixels: refused in a sentence, never a crash or an endless wait."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from semiseg.dicom.codestreams import Announced, announced
from semiseg.dicom.elements import first, integer, items, number, numbers, text, texts
from semiseg.dicom.loading import load
from semiseg.dicom.scan import scan
from semiseg.errors import ImageError, SemiSegError
from semiseg.images.grid import Grid
from semiseg.images.reading import read_image, write_image

SeriesMaker = Callable[..., list[Path]]


def _mutated(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    kind = int(rng.integers(4))
    if kind == 0:
        return bytes(changed[: int(rng.integers(132, len(changed)))])
    for place in rng.integers(132, min(1500, len(changed)), size=int(rng.integers(1, 9))):
        if kind == 1:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            changed[place : place + 4] = b"\xff\xff\xff\xff"
        else:
            changed[place:place] = rng.bytes(3)
    return bytes(changed)


@pytest.mark.timeout(60)
def test_mutated_headers_load_or_are_refused_in_a_sentence(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path, n=3)
    good = paths[1].read_bytes()
    rng = np.random.default_rng(7)
    loaded, sentences = 0, []
    for _ in range(150):
        paths[1].write_bytes(_mutated(good, rng))
        for volume in scan(tmp_path).volumes:
            try:
                load(tmp_path, volume)
                loaded += 1
            except SemiSegError as error:
                sentences.append(str(error))
    assert loaded > 20
    assert len(sentences) > 3
    assert min(map(len, sentences)) > 20
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".nrrd", ".nii"])
def test_mutated_volumes_load_or_are_refused_in_a_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_image(path, array, Grid(size_xyz=(5, 4, 3), spacing_mm_xyz=(1.0, 2.0, 3.0)))
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    loaded, sentences = 0, []
    for _ in range(100):
        changed = bytearray(good)
        for place in rng.integers(0, min(350, len(good)), size=int(rng.integers(1, 4))):
            changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        try:
            read_image(path)
            loaded += 1
        except SemiSegError as error:
            sentences.append(str(error))
    assert loaded > 5
    assert min(map(len, sentences)) > 20


def _packed_series(folder: Path, name: str, frame: bytes | None = None) -> None:
    for k in range(2):
        dataset = dcmread(str(get_testdata_file(name)))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.Modality = "MR"
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.ImagePositionPatient = [0, 0, 3 * k]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [1, 1]
        dataset.SeriesInstanceUID = "1.2.3"
        if frame is not None:
            dataset.PixelData = encapsulate([frame])
        dataset.save_as(folder / f"{k}.dcm")


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_packed_pixels_are_the_plain_ones(tmp_path: Path, name: str) -> None:
    _packed_series(tmp_path, name)
    (volume,) = scan(tmp_path).volumes
    plain = dcmread(str(get_testdata_file("MR_small.dcm"))).pixel_array
    assert np.array_equal(load(tmp_path, volume).array[0], plain)


def test_lossy_jpeg_of_12_bits_is_unpacked(tmp_path: Path) -> None:
    _packed_series(tmp_path, "JPGExtended.dcm")
    (volume,) = scan(tmp_path).volumes
    assert load(tmp_path, volume).array.shape == (2, 1024, 256)


def _frame(name: str) -> bytes:
    content: bytes = dcmread(str(get_testdata_file(name))).PixelData
    return content[content.index(b"\xff\x4f\xff\x51") :]


def test_packed_picture_that_announces_another_size_is_refused(tmp_path: Path) -> None:
    frame = bytearray(_frame("MR_small_jp2klossless.dcm"))
    frame[8:12] = struct.pack(">I", 200_000)
    _packed_series(tmp_path, "MR_small_jp2klossless.dcm", bytes(frame))
    (volume,) = scan(tmp_path).volumes
    with pytest.raises(ImageError, match="not 64 x 64"):
        load(tmp_path, volume)


def test_packed_picture_that_is_broken_names_its_packing(tmp_path: Path) -> None:
    frame = _frame("MR_small_jp2klossless.dcm")[:60]
    _packed_series(tmp_path, "MR_small_jp2klossless.dcm", frame)
    (volume,) = scan(tmp_path).volumes
    with pytest.raises(ImageError, match="JPEG 2000"):
        load(tmp_path, volume)


def test_packing_that_nobody_here_unpacks_is_named(tmp_path: Path) -> None:
    _packed_series(tmp_path, "MR_small_jp2klossless.dcm")
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        dataset.save_as(path)
    (volume,) = scan(tmp_path).volumes
    with pytest.raises(ImageError, match="High-Throughput JPEG 2000"):
        load(tmp_path, volume)


_SIZ = struct.pack(">HHHH8IH", 0xFF4F, 0xFF51, 41, 0, 10, 20, 0, 0, 10, 20, 0, 0, 1)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (_SIZ, Announced(20, 10, 1)),
        (_SIZ[:20], None),
        (_SIZ[:24] + bytes(8) + _SIZ[32:], None),
        (_SIZ[:8] + b"\xff" * 8 + bytes(8) + struct.pack(">II", 1, 1) + _SIZ[32:], None),
        (b"\xff\xd8" + struct.pack(">HHHHBHHB", 0xFFE0, 4, 0, 0xFFC3, 8, 5, 6, 1), None),
        (
            b"\xff\xd8" + struct.pack(">HHHHHBHHB", 0xFFE0, 4, 0, 0xFFC3, 11, 8, 5, 6, 1),
            Announced(5, 6, 1),
        ),
        (b"\xff\xd8" + struct.pack(">HHH", 0xFFDA, 8, 0), None),
        (b"\xff\xd8" + bytes(8), None),
        (b"\xff\xd8\xff", None),
        (b"something else", None),
    ],
)
def test_announced_sizes_are_read_from_the_stream(content: bytes, size: Announced | None) -> None:
    assert announced(content) == size


def test_values_that_are_damaged_count_as_missing(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    dataset = dcmread(dicom_series(tmp_path, n=1)[0])
    dataset.ImageComments = "x" * 300
    assert text(dataset, "ImageComments") == ""
    assert integer(dataset, "SliceThickness") is None
    assert number(dataset, "WindowCenter") is None
    assert numbers(dataset, "PixelSpacing", 3) == ()
    assert texts(dataset, "StudyID") == ("1",)
    assert texts(dataset, "WindowCenter") == ()
    assert items(dataset, "PatientName") == []
    assert list(first(dataset, "ReferencedImageSequence")) == []
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    for keyword, vr, value in (
        ("StudyID", "UL", b"\1"),
        ("PixelSpacing", "DS", b"x\\y"),
        ("ImageType", "US", b"\1"),
        ("ReferencedImageSequence", "US", b"\1"),
    ):
        dataset[keyword] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
    assert text(dataset, "StudyID") == ""
    assert numbers(dataset, "PixelSpacing") == ()
    assert texts(dataset, "ImageType") == ()
    assert items(dataset, "ReferencedImageSequence") == []
