"""Where DICOM files come from: a folder or a ZIP file, which is read in place, never unpacked."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, Protocol

from semiseg.errors import ImageError
from semiseg.images.packing import DAMAGED_ZIP

SourceKind = Literal["folder", "zip", "files"]
LARGEST_FILE = 4 * 2**30
_MOST_MEMBERS = 1_000_000
_MOST_SWELLING = 1100  # deflate cannot do more; a claim beyond is a forgery
_LARGEST_SWOLLEN = 64 * 2**30
_HEAD_BYTES = 4 * 2**20


class Source(Protocol):
    """A set of files by name (with forward slashes)."""

    kind: SourceKind
    root: Path

    def names(self) -> Iterator[str]: ...
    def head(self, name: str) -> BinaryIO: ...
    def read(self, name: str) -> bytes: ...
    def close(self) -> None: ...


class FolderSource:
    """All ordinary files below a folder, or those in `only`; links to folders are not followed."""

    kind: SourceKind = "folder"

    def __init__(self, root: Path, only: Sequence[str] = ()) -> None:
        self.root, self._only = root, tuple(only)

    def names(self) -> Iterator[str]:
        """Names in a fixed order."""
        if self._only:
            yield from self._only
            return
        for folder, below, files in os.walk(self.root):
            below.sort()
            here = Path(folder)
            for name in sorted(files):
                yield (here / name).relative_to(self.root).as_posix()

    def head(self, name: str) -> BinaryIO:
        """The file, opened; ImageError when it is not an ordinary one."""
        return self._open(name)

    def read(self, name: str) -> bytes:
        """All bytes of the file."""
        with self._open(name) as file:
            try:
                return file.read()
            except OSError as error:  # a scratched disc opens, and fails on the way
                raise _unreadable(name, error) from error

    def close(self) -> None:
        """Nothing is held open."""

    def path(self, name: str) -> Path:
        """Where the file lies; ImageError when the name leads out of the folder."""
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ImageError(f"{name!r} leads out of the folder {self.root}")
        return self.root / name

    def _open(self, name: str) -> BinaryIO:
        path = self.path(name)
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise ImageError(f"{name} is not an ordinary file")
            if found.st_size > LARGEST_FILE:
                raise ImageError(f"{name} is larger than {LARGEST_FILE // 2**30} GiB")
            return path.open("rb")
        except (OSError, ValueError) as error:
            raise _unreadable(name, error) from error


class FilesSource(FolderSource):
    """Exactly these files, which may lie in many folders; `root` is the folder above them all."""

    kind: SourceKind = "files"


class ZipSource:
    """The members of a ZIP file; ImageError when one leads out of it, is a link or swells."""

    kind: SourceKind = "zip"

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._zip = zipfile.ZipFile(root)
        except (OSError, *DAMAGED_ZIP) as error:
            raise ImageError(f"{root.name} is not a readable ZIP file; copy it anew") from error
        try:
            self._members = {m.filename: m for m in self._checked()}
        except BaseException:
            self._zip.close()
            raise

    def names(self) -> Iterator[str]:
        """Names in a fixed order."""
        yield from sorted(self._members)

    def head(self, name: str) -> BinaryIO:
        """The first 4 MiB, which hold all of a usual header."""
        return io.BytesIO(self._read(name, _HEAD_BYTES))

    def read(self, name: str) -> bytes:
        """All bytes of the member."""
        return self._read(name, None)

    def close(self) -> None:
        """Lets go of the file."""
        self._zip.close()

    def _read(self, name: str, limit: int | None) -> bytes:
        if name not in self._members:
            raise ImageError(f"{self.root.name} has no file {name!r}")
        try:
            with self._zip.open(self._members[name]) as file:
                return file.read() if limit is None else file.read(limit)
        except (OSError, *DAMAGED_ZIP) as bad:
            raise ImageError(f"{name} in {self.root.name} is damaged: {bad}") from bad

    def _checked(self) -> list[zipfile.ZipInfo]:
        members = [m for m in self._zip.infolist() if not m.is_dir()]
        for member in members:
            reason = _refusal(member)
            if reason:
                raise ImageError(
                    f"{self.root.name} is refused: {member.filename[:80]!r} {reason}; "
                    "unpack it yourself, look at what is in it, and give the folder"
                )
        packed = sum(m.compress_size for m in members)
        swollen = sum(m.file_size for m in members)
        if len(members) > _MOST_MEMBERS or swollen > max(_LARGEST_SWOLLEN, 20 * packed):
            raise ImageError(
                f"{self.root.name} is refused: it would unpack to {len(members)} files of "
                f"{swollen / 2**30:.0f} GiB; give the folder with the series instead"
            )
        return members


def open_source(path: Path) -> FolderSource | ZipSource:
    """The folder, ZIP file or single DICOM file at `path`; ImageError when it is none of them."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise ImageError(f"{path} is not there; check the path, or reconnect its drive")
    if path.is_file() and zipfile.is_zipfile(path):
        return ZipSource(path)
    if is_dicom(path):
        return FolderSource(path.parent, only=(path.name,))
    raise ImageError(
        f"{path} is neither a folder nor a ZIP file; give the folder that holds the series"
    )


def files_source(paths: Sequence[Path]) -> FilesSource:
    """The files at `paths`; ImageError when there are none, or no folder is above them all."""
    whole = sorted({os.path.abspath(path) for path in paths})  # noqa: PTH100 - keeps links
    if not whole:
        raise ImageError("the list of DICOM files is empty; choose a series with images")
    try:
        root = Path(os.path.commonpath([os.path.dirname(path) for path in whole]))  # noqa: PTH120
    except ValueError as error:
        raise ImageError(
            "the files of the series lie on several drives; copy them into one folder first"
        ) from error
    return FilesSource(root, only=[Path(path).relative_to(root).as_posix() for path in whole])


def is_dicom(path: Path) -> bool:
    """Whether the file at `path` bears DICOM's mark; False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False


def _unreadable(name: str, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or error
    return ImageError(f"{name} cannot be read: {reason}")


def _refusal(member: zipfile.ZipInfo) -> str:
    """Why a member of a ZIP file makes it dangerous; empty when it does not."""
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        return "leads out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > LARGEST_FILE:
        return f"is larger than {LARGEST_FILE // 2**30} GiB"
    if member.file_size > _MOST_SWELLING * max(member.compress_size, 1) + 2**20:
        return "announces more than it can hold"
    return ""
