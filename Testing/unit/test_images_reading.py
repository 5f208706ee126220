"""Image files that cannot be used: each is refused, before memory is taken, with a sentence."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import semiseg.images.reading as reading_module
from semiseg.errors import ImageError, SemiSegError
from semiseg.images.grid import Grid
from semiseg.images.labels import read_label
from semiseg.images.nifti import read_nifti_header
from semiseg.images.reading import read_grid, read_image, read_map, sha256_file, write_image
from semiseg.resources import Memory

GRID = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1.0, 2.0, 3.5), origin_mm_lps=(9, -8, 7))
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
NRRD = (
    b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
    b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    b"space origin: (0,0,0)\n\n12345678"
)
META = (
    b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementSpacing = 1 1 1\n"
    b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n12345678"
)


def packed(content: bytes) -> bytes:
    """Gzip without the time, which would be part of a test's name and differ between workers."""
    return gzip.compress(content, mtime=0)


def noise(dtype: type = np.float32) -> NDArray[np.generic]:
    return np.random.default_rng(0).normal(50, 30, GRID.shape_zyx).astype(dtype)


def nifti(
    dims: tuple[int, ...] = (4, 4, 4),
    *,
    kind: tuple[int, int] = (2, 8),
    spacing: tuple[float, float, float] = (1, 1, 1),
    scale: tuple[float, float] = (0, 0),
    body: bytes | None = None,
    order: str = "<",
) -> bytes:
    """A NIfTI-1 file by hand: `kind` is (datatype, bitpix)."""
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, len(dims), *dims, *[1] * (7 - len(dims)))
    struct.pack_into(f"{order}2h", head, 70, *kind)
    struct.pack_into(f"{order}4f", head, 76, 1, *spacing)
    struct.pack_into(f"{order}3f", head, 108, 352, *scale)
    struct.pack_into(f"{order}2h", head, 252, 1, 0)
    head[344:348] = b"n+1\0"
    count = int(np.prod(dims)) * kind[1] // 8
    return bytes(head) + (bytes(n % 251 for n in range(count)) if body is None else body)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def good(folder: Path, suffix: str) -> bytes:
    write_image(folder / f"good{suffix}", noise(), GRID)
    return (folder / f"good{suffix}").read_bytes()


# ---- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_image_is_float_on_its_grid_without_notes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ein Bild größer 医{suffix}"
    write_image(path, noise(np.int16), GRID)
    image = read_image(path)
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array, noise(np.int16))
    assert (image.notes, image.modality_tag) == ((), None)
    assert image.grid.difference(GRID) is None
    assert read_grid(path).difference(GRID) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_and_infinity_are_mended_and_noted(suffix: str, tmp_path: Path) -> None:
    array = noise()
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    write_image(tmp_path / f"a{suffix}", array, GRID)
    image = read_image(tmp_path / f"a{suffix}")
    low, high = np.float32(noise()[0, 0, 3:].min()), image.array.max()
    assert np.isfinite(image.array).all()
    assert image.array[0, 0, 0] == image.array[0, 0, 2] == image.array.min() <= low
    assert image.array[0, 0, 1] == high
    assert image.notes[0].startswith("3 voxels were not finite")
    np.testing.assert_array_equal(read_map(tmp_path / f"a{suffix}")[0], array)


def test_values_beyond_float32_are_mended_and_noted(tmp_path: Path) -> None:
    array = noise(np.float64)
    array[0, 0, 0] = 1e300
    write_image(tmp_path / "a.nii.gz", array, GRID)
    image = read_image(tmp_path / "a.nii.gz")
    assert image.array[0, 0, 0] == np.float32(array[0, 0, 1:].max()) or image.array.max() < 1e4
    assert "1 voxels" in image.notes[0]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("code", "dtype"), [(2, "u1"), (4, "i2"), (8, "i4"), (16, "f4"), (64, "f8"), (512, "u2")]
)
def test_nifti_of_either_byte_order_is_scaled(
    order: str, code: int, dtype: str, tmp_path: Path
) -> None:
    stored = np.arange(64).reshape(4, 4, 4).astype(f"{order}{dtype}")
    kind = (code, stored.dtype.itemsize * 8)
    content = nifti(kind=kind, scale=(0.5, -10), body=stored.tobytes(), order=order)
    image = read_image(put(tmp_path / "a.nii", content))
    np.testing.assert_array_equal(image.array, np.arange(64).reshape(4, 4, 4) * 0.5 - 10)


@pytest.mark.parametrize("scale", [(0, 5), (np.nan, 5), (1, 0)])
def test_nifti_without_a_scale_is_taken_as_stored(
    scale: tuple[float, float], tmp_path: Path
) -> None:
    path = put(tmp_path / "a.nii.gz", packed(nifti(scale=scale)))
    assert read_map(path)[0].dtype == np.uint8
    np.testing.assert_array_equal(read_map(path)[0].ravel(), np.arange(64))


def test_single_slice_and_single_time_point_are_volumes(tmp_path: Path) -> None:
    thin = put(tmp_path / "thin.nii", nifti((4, 4, 1), spacing=(1, 1, 7)))
    assert read_image(thin).grid.size_xyz == (4, 4, 1)
    assert read_image(thin).grid.spacing_mm_xyz == (1, 1, 7)
    assert read_image(put(tmp_path / "t.nii", nifti((4, 4, 4, 1)))).array.shape == (4, 4, 4)
    series = sitk.JoinSeries([sitk.GetImageFromArray(noise())])
    sitk.WriteImage(series, str(tmp_path / "t.nrrd"))
    np.testing.assert_array_equal(read_image(tmp_path / "t.nrrd").array, noise())


@pytest.mark.parametrize(
    ("suffix", "key", "value", "tag"),
    [
        (".nrrd", "Modality", "CT", "CT"),
        (".nrrd", "DICOM_0008_0060", "mr ", "MR"),
        (".mha", "modality", "MR", "MR"),
        (".nrrd", "Modality", "PT", None),
    ],
)
def test_modality_tag_is_read(
    suffix: str, key: str, value: str, tag: str | None, tmp_path: Path
) -> None:
    image = sitk.GetImageFromArray(noise())
    image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert read_image(tmp_path / f"a{suffix}").modality_tag == tag


def test_header_text_that_is_not_unicode_does_no_harm(tmp_path: Path) -> None:
    fields = b"Segment0_ID:=a\nSegment0_Name:=Gef\xe4\xdf\nSegment0_Layer:=0\nK\xff:=1\n\n"
    content = NRRD.replace(b"\n\n", b"\n" + fields).replace(b"12345678", b"\1\1\1\1\0\0\0\0")
    label = read_label(put(tmp_path / "a.seg.nrrd", content))
    assert label.segments[0].name == "Gefäß"


def test_gzip_members_are_joined(tmp_path: Path) -> None:
    whole = nifti()
    content = packed(whole[:200]) + packed(whole[200:])
    assert read_image(put(tmp_path / "a.nii.gz", content)).array[0, 0, 1] == 1


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lost", [0.02, 0.5, 0.9])
def test_file_that_is_cut_off_is_refused(suffix: str, lost: float, tmp_path: Path) -> None:
    content = good(tmp_path, suffix)
    path = put(tmp_path / f"cut{suffix}", content[: int(len(content) * (1 - lost))])
    with pytest.raises(ImageError, match=r"cut off|damaged|not a readable|without an end"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_file_with_corrupt_compression_is_refused(suffix: str, tmp_path: Path) -> None:
    content = bytearray(good(tmp_path, suffix))
    for index in range(len(content) * 3 // 4, len(content) * 3 // 4 + 8):
        content[index] ^= 0xFF
    with pytest.raises(ImageError, match="damaged"):
        read_image(put(tmp_path / f"bad{suffix}", bytes(content)))


def test_wrong_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(good(tmp_path, ".nii.gz"))
    content[-6] ^= 0xFF
    with pytest.raises(ImageError, match="damaged"):
        read_image(put(tmp_path / "crc.nii.gz", bytes(content)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_under_the_name_of_an_image_is_refused(suffix: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"text{suffix}", b"dear colleague, please find attached\n" * 20)
    with pytest.raises(ImageError, match=r"whatever its name says|without an end"):
        read_image(path)


HUGE = b"99999 99999 99999"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("huge.nii.gz", packed(nifti((32000, 32000, 32000), body=b"")), "GiB"),
        ("huge.nrrd", NRRD.replace(b"2 2 2", HUGE), "GiB"),
        ("huge.mha", META.replace(b"2 2 2", HUGE), "GiB"),
        ("wrap.nrrd", NRRD.replace(b"2 2 2", b"4294967296 4294967296 2"), "GiB|readable"),
        ("negative.mha", META.replace(b"2 2 2", b"-2 2 2"), "GiB|readable"),
        ("negative.nii", nifti((-4, 4, 4), body=bytes(64)), "readable"),
        ("none.nii", nifti((0, 4, 4), body=bytes(64)), "readable"),
        ("bomb.nii.gz", packed(nifti() + bytes(30_000_000)), "far more data"),
        ("bomb.mha", META[:-8].replace(b"\nNDims", b"\nCompressedData = True\nNDims")
         + zlib.compress(bytes(30_000_000)), "far more data"),
        ("bomb.nrrd", NRRD[:-8].replace(b"raw", b"gzip") + packed(bytes(30_000_000)),
         "far more data"),
        ("few.nii.gz", packed(nifti((200, 200, 200), body=bytes(9))), "cut off"),
        ("detached.nrrd", NRRD.replace(b"\n\n", b"\ndata file: /etc/passwd\n\n"), "another file"),
        ("detached.mha", META.replace(b"LOCAL", b"/etc/passwd"), "another file"),
        ("pair.nii", nifti().replace(b"n+1\0", b"ni1\0"), "another file"),
        ("nifti2.nii", struct.pack("<i", 540) + bytes(600), "NIfTI-2"),
        ("twice.nii.gz", packed(packed(np.random.default_rng(0).bytes(400))), "compressed twice"),
        ("flat.nii", nifti((4, 4)), "2-D"),
        ("long.nii", nifti((2, 2, 2, 2, 2)), "5-D"),
        ("series.nii", nifti((4, 4, 4, 3)), "3 time points"),
        ("colour.nii", nifti(kind=(128, 24)), "3 values per voxel"),
        ("complex.nii", nifti(kind=(32, 64)), "complex"),
        ("zero.nii", nifti(spacing=(1, 0, 1)), "spacing is 1 x 0 x 1"),
        ("nan.nii", nifti(spacing=(1, np.nan, 1)), "spacing is 1 x nan x 1"),
        ("zero.mha", META.replace(b"1 1 1", b"0 1 1"), "spacing is 0 x 1 x 1"),
        ("minus.mha", META.replace(b"1 1 1", b"-1 1 1"), "spacing is -1 x 1 x 1"),
        ("zero.nrrd", NRRD.replace(b"(1,0,0)", b"(0,0,0)"), "spacing is 0 x 1 x 1"),
        ("tilt.nrrd", NRRD.replace(b"(0,0,1)", b"(0,0.4,1)"), "right angles"),
        ("many.mha", META.replace(b"NDims = 3", b"NDims = 973"), "MetaImage"),
        ("odd.mha", META.replace(b"DimSize = 2", b"DimSize = 2 2"), "MetaImage"),
        ("line.mha", b"Comment = " + b"x" * 9000 + b"\n" + META, "MetaImage"),
        ("line.nrrd", NRRD.replace(b"raw", b"r" * 2_000_000), "NRRD"),
        ("endless.mha", b"ObjectType = Image\n" * 9, "without an end"),
        ("empty.nii.gz", b"", "0 bytes"),
        ("short.nii", b"\0" * 99, "too few for a header"),
        ("scan.dcm", b"DICM", "expected one of"),
    ],
)  # fmt: skip
def test_unusable_file_is_refused_with_its_reason(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=sentence) as caught:
        read_image(put(tmp_path / name, content))
    assert name in str(caught.value)


def test_sheared_nifti_is_refused(tmp_path: Path) -> None:
    content = bytearray(nifti())
    struct.pack_into("<2h", content, 252, 0, 1)
    struct.pack_into("<12f", content, 280, 1, 0.4, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    with pytest.raises(ImageError, match="right angles"):
        read_image(put(tmp_path / "tilt.nii", bytes(content)))


@pytest.mark.parametrize("value", [np.nan, 5.0])
def test_image_without_contrast_is_refused_but_is_a_sound_map(value: float, tmp_path: Path) -> None:
    array = np.full(GRID.shape_zyx, value, np.float32)
    write_image(tmp_path / "a.nii.gz", array, GRID)
    with pytest.raises(ImageError, match=r"no finite value|has the value 5 in every voxel"):
        read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_map(tmp_path / "a.nii.gz")[0], array)


def test_image_larger_than_free_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.nii", nifti())
    little = Memory(total_bytes=1000, free_bytes=300)
    monkeypatch.setattr(reading_module, "usable_memory", lambda: little)
    with pytest.raises(ImageError, match="4 x 4 x 4 voxels"):
        read_image(path)
    assert read_grid(path).size_xyz == (4, 4, 4)


def test_voxels_that_the_library_cannot_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.nrrd", NRRD.replace(b"raw", b"hex"))
    with pytest.raises(ImageError, match="its voxels do not"):
        read_image(path)


def test_colour_type_has_no_voxels_of_its_own(tmp_path: Path) -> None:
    from semiseg.images.nifti import read_nifti_voxels

    path = put(tmp_path / "a.nii", nifti(kind=(128, 24)))
    assert read_nifti_header(path).dtype is None
    with pytest.raises(ImageError, match="not a real number"):
        read_nifti_voxels(path, (4, 4, 4))


def test_missing_folder_link_and_pipe_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    (tmp_path / "broken.nii.gz").symlink_to(tmp_path / "nowhere")
    for name, sentence in {
        "missing.nii.gz": "is not there",
        "broken.nii.gz": "is not there",
        "folder.nii.gz": "is a folder",
        "loop.nii.gz": "cannot be read",
        "nul\0.nii.gz": "cannot be read",
        "x" * 300 + ".nii.gz": "cannot be read",
    }.items():
        with pytest.raises(ImageError, match=sentence):
            read_image(tmp_path / name)
        with pytest.raises(ImageError, match=sentence):
            sha256_file(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_image(tmp_path / "pipe.nii.gz")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "secret.nii", nifti())
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    which=st.integers(0, 2),
    edits=st.lists(st.tuples(st.integers(0, 430), st.binary(max_size=6)), min_size=1, max_size=6),
)
def test_any_damage_gives_a_sentence_or_an_image(
    which: int, edits: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    suffix, content = [(".nii", nifti()), (".nrrd", NRRD), (".mha", META)][which]
    for place, piece in edits:
        content = content[: place % len(content)] + piece + content[place % len(content) + 2 :]
    path = put(tmp_path / f"a{suffix}", content)
    sentence = ""
    try:
        image = read_image(path)
    except SemiSegError as error:
        sentence = str(error)
    assert path.name in sentence or image.array.shape == image.grid.shape_zyx
