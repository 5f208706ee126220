"""NIfTI-1 voxels as they are stored: the usual library turns NaN and infinity into 0 unasked.

Offsets and codes: nifti1.h of the NIfTI-1.1 data format.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import ImageError
from semiseg.images.packing import SLACK_BYTES, require_length, sniff, unpacked

_HEADER_BYTES = 348
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """What is needed to find and scale the voxels; `dtype` is None for colour and complex."""

    dtype: np.dtype[np.generic] | None
    voxel_offset: int
    slope: float
    intercept: float
    spacing: tuple[float, ...]


def read_nifti_header(path: Path) -> NiftiHeader:
    """ImageError, with the reason, when `path` is no NIfTI-1 file that holds its voxels itself."""
    head = _first_bytes(path, _HEADER_BYTES)
    order = next((o for o in "<>" if struct.unpack_from(f"{o}i", head)[0] == 348), None)
    if order is None or head[344:348] != b"n+1\0":
        raise ImageError(f"{path.name} {_what_it_is(head)}; save it as .nii.gz (NIfTI-1) first")
    (code,) = struct.unpack_from(f"{order}h", head, 70)
    spacing = struct.unpack_from(f"{order}3f", head, 80)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
    scaled = math.isfinite(slope) and slope != 0
    return NiftiHeader(
        dtype=np.dtype(order + _TYPES[code]) if code in _TYPES else None,
        voxel_offset=max(int(offset) if math.isfinite(offset) else 0, 352),
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled and math.isfinite(intercept) else 0.0,
        spacing=spacing,
    )


def read_nifti_voxels(path: Path, shape_zyx: tuple[int, int, int]) -> NDArray[np.generic]:
    """The voxels (z, y, x): float32 where the header scales them, else in the stored type."""
    header = read_nifti_header(path)
    if header.dtype is None:
        raise ImageError(f"{path.name} has a voxel type that is not a real number; export it anew")
    raw = np.empty(math.prod(shape_zyx) * header.dtype.itemsize, dtype=np.uint8)
    _fill(path, raw, header.voxel_offset)
    native = header.dtype.newbyteorder("=")
    voxels = raw.view(header.dtype).astype(native, copy=False).reshape(shape_zyx)
    if (header.slope, header.intercept) == (1.0, 0.0):
        return voxels
    scaled = voxels.astype(np.float32)
    scaled *= np.float32(header.slope)
    scaled += np.float32(header.intercept)
    return scaled


def _fill(path: Path, raw: NDArray[np.uint8], skip: int) -> None:
    """Fill `raw` with what follows `skip` bytes; stops soon where there is more."""
    found = 0
    with path.open("rb") as file:
        for piece in unpacked(path, file, sniff(file)):
            begin = max(skip - found, 0)
            target = max(found - skip, 0)
            part = np.frombuffer(piece, dtype=np.uint8)[begin:][: max(raw.size - target, 0)]
            raw[target : target + part.size] = part
            found += len(piece)
            if found > skip + raw.size + SLACK_BYTES:
                break
    require_length(path, found, skip + raw.size)


def _first_bytes(path: Path, count: int) -> bytes:
    head = b""
    with path.open("rb") as file:
        for piece in unpacked(path, file, sniff(file)):
            head += piece
            if len(head) >= count:
                return head[:count]
    raise ImageError(
        f"{path.name} is cut off or no image: {len(head)} bytes are too few for a header; "
        "copy or export the file anew"
    )


def _what_it_is(head: bytes) -> str:
    if 540 in struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4]):
        return "is in the NIfTI-2 format, which is not read"
    if head[344:348] == b"ni1\0":
        return "keeps its voxels in another file"
    if head.startswith(b"\x1f\x8b"):
        return "is compressed twice"
    return "is not a NIfTI file, whatever its name says"
