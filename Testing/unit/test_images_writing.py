"""Image files appear whole or not at all, and the disk's refusals are told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from semiseg.errors import GeometryMismatchError, ImageError, StorageError
from semiseg.images.grid import Grid
from semiseg.images.reading import read_map, sha256_file, write_image
from semiseg.images.writing import replacing, storage_error

GRID = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1.0, 2.0, 3.5), origin_mm_lps=(9, -8, 7))
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


def noise(dtype: type = np.float32) -> NDArray[np.generic]:
    return np.random.default_rng(0).normal(50, 30, GRID.shape_zyx).astype(dtype)


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_full_disk_keeps_the_old_file_and_leaves_nothing(
    suffix: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / f"a{suffix}", b"old")

    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="could not be written: "):
        write_image(path, noise(), GRID)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_short_write_that_nobody_reports_is_noticed(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = sitk.ImageFileWriter.Execute

    def execute_and_lose(writer: sitk.ImageFileWriter, image: sitk.Image) -> None:
        execute(writer, image)
        name = Path(writer.GetFileName())
        os.truncate(name, name.stat().st_size // 2)

    monkeypatch.setattr(sitk.ImageFileWriter, "Execute", execute_and_lose)
    with pytest.raises(StorageError, match="is the disk full"):
        write_image(tmp_path / f"a{suffix}", noise(), GRID)
    assert list(tmp_path.iterdir()) == []


def test_writing_to_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the folder .* is not there"):
        write_image(tmp_path / "no" / "a.nii.gz", noise(), GRID)
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(StorageError, match=r"folder of that name|directory"):
        write_image(tmp_path / "a.nii.gz", noise(), GRID)
    with pytest.raises(StorageError, match="is not a folder"):
        write_image(put(tmp_path / "file", b"") / "a.nii.gz", noise(), GRID)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes all")
def test_writing_to_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="not permitted"):
        write_image(tmp_path / "a.nii.gz", noise(), GRID)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.EBUSY])
def test_every_refusal_of_the_disk_has_a_remedy(number: int) -> None:
    sentence = str(storage_error(Path("a.nii.gz"), OSError(number, os.strerror(number))))
    assert sentence.startswith("a.nii.gz could not be written: ")
    assert "choose" in sentence


def test_errors_of_the_caller_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "stored"), [(bool, np.uint8), (np.float16, np.float32), (np.int64, np.int64)]
)
def test_types_without_a_file_type_are_widened(dtype: type, stored: type, tmp_path: Path) -> None:
    write_image(tmp_path / "a.nrrd", noise(dtype), GRID)
    back, _ = read_map(tmp_path / "a.nrrd")
    assert back.dtype == stored
    np.testing.assert_array_equal(back, noise(dtype))


def test_arrays_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="real numbers"):
        write_image(tmp_path / "a.nrrd", noise(np.complex64), GRID)
    with pytest.raises(GeometryMismatchError, match="does not fit"):
        write_image(tmp_path / "a.nrrd", noise()[1:], GRID)
    assert list(tmp_path.iterdir()) == []


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nrrd", noise(), GRID)
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.nrrd").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_file(put(tmp_path / "a", b"")) == empty
