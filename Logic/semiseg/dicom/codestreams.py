"""The size that a packed picture announces in itself, read before anything unpacks it."""

from __future__ import annotations

import struct
from typing import NamedTuple

_LARGEST_TILE_COUNT = 65535
_SOI, _SOC, _SIZ = b"\xff\xd8", b"\xff\x4f", 0xFF51
_FRAME_STARTS = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}
_SCAN_START = 0xFFDA


class Announced(NamedTuple):
    """Rows, columns and samples per pixel of a packed picture."""

    rows: int
    columns: int
    samples: int


def announced(content: bytes) -> Announced | None:
    """What a JPEG, JPEG-LS or JPEG 2000 stream says of its size; None where it cannot be read.

    A decoder believes this more than the DICOM header, and takes memory and time accordingly.
    """
    try:
        if content[:2] == _SOC:
            return _of_jpeg2000(content)
        return _of_jpeg(content) if content[:2] == _SOI else None
    except struct.error:
        return None


def _of_jpeg2000(content: bytes) -> Announced | None:
    marker, _, _, *sizes, samples = struct.unpack_from(">HHH8IH", content, 2)
    width, height, left, top, tile_width, tile_height, _, _ = sizes
    if marker != _SIZ or min(tile_width, tile_height) < 1:
        return None
    tiles = -(-width // tile_width) * -(-height // tile_height)
    if tiles > _LARGEST_TILE_COUNT:
        return None
    return Announced(height - top, width - left, samples)


def _of_jpeg(content: bytes) -> Announced | None:
    place = 2
    while True:
        marker, length = struct.unpack_from(">HH", content, place)
        if marker in _FRAME_STARTS:
            _, rows, columns, samples = struct.unpack_from(">BHHB", content, place + 4)
            return Announced(rows, columns, samples)
        if marker < 0xFF01 or marker == _SCAN_START or length < 2:
            return None
        place += 2 + length
