"""Unpacking compressed files in small pieces, so that none can fill the memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from semiseg.errors import ImageError

try:
    import lzma

    _LZMA_ERROR: type[Exception] = lzma.LZMAError
except ImportError:  # some builds of Python have none; zipfile refuses such members there
    _LZMA_ERROR = zlib.error

Codec = Literal["raw", "gzip", "zlib"]
GZIP = b"\x1f\x8b"
SLACK_BYTES = 1 << 20
_CHUNK = 1 << 20
# What zipfile raises over an archive that is damaged: RuntimeError stands for an encrypted one,
# too, and, as NotImplementedError, for one of an unknown kind; ValueError for names that are no
# text. Members packed by bzip2 raise OSError, as a disk does, which callers tell in their words.
DAMAGED_ZIP = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, zlib.error, _LZMA_ERROR)


def sniff(file: BinaryIO) -> Codec:
    """gzip or raw, by the first two bytes; the file is left at its start."""
    packed = file.read(2) == GZIP
    file.seek(0)
    return "gzip" if packed else "raw"


def unpacked(path: Path, file: BinaryIO, codec: Codec) -> Iterator[bytes]:
    """The rest of `file` in pieces of at most 1 MiB; ends early, silently, where data is missing.

    ImageError when the packed data is damaged; gzip's own checksum is looked at too.
    """
    if codec == "raw":
        while piece := file.read(_CHUNK):
            yield piece
        return
    window = 31 if codec == "gzip" else 15
    inflate = zlib.decompressobj(wbits=window)
    try:
        while packed := inflate.unconsumed_tail or file.read(_CHUNK):
            yield inflate.decompress(packed, _CHUNK)
            if inflate.eof:
                if not inflate.unused_data.startswith(GZIP):
                    return
                file.seek(-len(inflate.unused_data), 1)
                inflate = zlib.decompressobj(wbits=window)
    except zlib.error as error:
        raise ImageError(
            f"{path.name} is damaged: its compressed data cannot be unpacked; "
            "copy or export the file anew"
        ) from error


def require_length(path: Path, found: int, expected: int) -> None:
    """ImageError when fewer than `expected` bytes are there, or over 1 MiB more."""
    if found < expected:
        raise ImageError(
            f"{path.name} is cut off: its header announces {expected} bytes, {found} are there; "
            "copy or export the file anew"
        )
    if found > expected + SLACK_BYTES:
        raise ImageError(
            f"{path.name} holds far more data than the {expected} bytes that its header "
            "announces; the file is damaged or not an image: export it anew"
        )
