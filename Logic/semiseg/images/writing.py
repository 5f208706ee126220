"""Image files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from semiseg.errors import ImageError, SemiSegError, StorageError
from semiseg.images.payload import check_payload

if TYPE_CHECKING:
    import SimpleITK as sitk

SUFFIXES = {
    ".seg.nrrd": "NrrdImageIO",
    ".nrrd": "NrrdImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
}


def suffix_of(path: Path) -> str:
    """The image suffix of `path`, e.g. `.nii.gz`; ImageError when SemiSeg does not know it."""
    name = path.name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise ImageError(
        f"{path.name} is of a kind that SemiSeg does not know; "
        f"expected one of {', '.join(SUFFIXES)}: save it as one of these first"
    )


def save(path: Path, image: sitk.Image) -> None:
    """Write `image` to `path`: a temporary file beside it, read through, synced, renamed.

    StorageError when the disk is full or will not be written; the old file then stays.
    """
    import SimpleITK as sitk  # noqa: PLC0415 - a tenth of a second, only where it is needed

    voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
    with replacing(path) as temporary:
        try:
            writer = sitk.ImageFileWriter()
            writer.SetImageIO(SUFFIXES[suffix_of(path)])
            writer.SetFileName(str(temporary))
            writer.SetUseCompression(not path.name.lower().endswith(".nii"))
            writer.SetCompressionLevel(4)
            writer.Execute(image)
            check_payload(temporary, voxels * image.GetSizeOfPixelComponent())
        except (RuntimeError, ImageError) as error:
            raise StorageError(
                f"{path.name} could not be written whole to {path.parent}; is the disk full? "
                "Free some space there or choose another folder"
            ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    On any error the temporary file goes and `path` stays as it was; OSError becomes StorageError.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=".writing-", suffix=f"-{path.name[-40:]}", dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        _adopt_mode(temporary)
        temporary.replace(path)
        temporary = None
        _sync(path.parent)
    except SemiSegError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def storage_error(path: Path, error: OSError) -> StorageError:
    """`error`, met while writing `path`, in a sentence with the remedy."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or choose another folder",
        errno.EDQUOT: "the quota is used up; free some space or choose another folder",
        errno.EROFS: "the folder is read-only; choose another folder",
        errno.EACCES: "writing there is not permitted; choose another folder or ask its owner",
        errno.EPERM: "writing there is not permitted; choose another folder or ask its owner",
        errno.ENOENT: f"the folder {path.parent} is not there; make it first",
        errno.ENOTDIR: f"{path.parent} is not a folder; choose another folder",
        errno.EISDIR: "a folder of that name is in the way; choose another name",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }
    reason = remedies.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
    return StorageError(f"{path.name} could not be written: {reason}")


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder to sync it
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _adopt_mode(path: Path) -> None:
    """mkstemp makes files that only their owner reads; give them the usual mode."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
