"""Pieces by content: packages that carry them to a cluster, and the store that keeps them there."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semiseg.remote.manifest import Piece
from semiseg.study.storage import make_folder, on_disk, write_bytes_atomic

# Ray's dashboard refuses more than 100 MiB in one request; a part that is lost is sent again.
PART_BYTES = 32 << 20
FOLDER = "semiseg_pieces"
KEPT_DAYS = 30.0


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A package as Ray takes it: its name is its digest."""

    name: str
    content: bytes


def parcels(piece: Piece, path: Path, *, attempt: int = 0) -> Iterator[Parcel]:
    """The packages that carry a piece; another `attempt` gives them other names.

    A cluster keeps what it once unpacked under a name, also where it was damaged on the way.
    """
    count = max(1, -(-piece.size_bytes // PART_BYTES))
    with path.open("rb") as file:
        for number in range(count):
            name = f"{FOLDER}/{piece.sha256}.{number:04d}.{count:04d}"
            yield parcel({name: file.read(PART_BYTES)}, attempt=attempt)


def parcel(files: dict[str, bytes], *, attempt: int = 0) -> Parcel:
    """A package of `files`, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, not compressed
        archive.comment = str(attempt).encode()
    content = buffer.getvalue()
    return Parcel(name=f"_ray_pkg_{hashlib.sha256(content).hexdigest()}.zip", content=content)


class Store:
    """Pieces in a folder of the cluster, each under its digest, checked when it comes in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, piece: Piece) -> Path:
        """Where a piece lies, if it does."""
        return self._folder / piece.sha256[:2] / piece.sha256

    def missing(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Those that are not here whole; the others count as used now."""
        absent = []
        for piece in pieces:
            path = self.path(piece)
            try:
                whole = path.stat().st_size == piece.size_bytes
                path.touch()
            except OSError:
                whole = False
            if not whole:
                absent.append(piece)
        return absent

    def take(self, pieces: Iterable[Piece], folders: Sequence[Path]) -> list[Piece]:
        """Puts pieces together from the parts that lie in `folders`; those that are damaged."""
        damaged = []
        for piece in pieces:
            found = {
                path.name: path
                for folder in folders
                for path in (folder / FOLDER).glob(f"{piece.sha256}.*")
            }
            parts = [found[name] for name in sorted(found)]
            if not parts or len(parts) != int(parts[0].suffix[1:]):
                continue
            content = b"".join(part.read_bytes() for part in parts)
            if Piece.of(content) != piece:
                damaged.append(piece)
                continue
            make_folder(self.path(piece).parent)
            write_bytes_atomic(self.path(piece), content)
        return damaged

    def sweep(self, days: float = KEPT_DAYS) -> None:
        """Removes what nobody used for `days`."""
        sweep(self._folder.glob("*/*"), days)


def sweep(paths: Iterable[Path], days: float) -> None:
    """Removes those of `paths` that nobody used for `days`; what resists stays."""
    before = time.time() - days * 86_400
    for path in paths:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= before:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def copy_piece(source: Path, target: Path) -> None:
    """A copy of a piece under a name of its own."""
    with on_disk("copy", target):
        shutil.copyfile(source, target)
