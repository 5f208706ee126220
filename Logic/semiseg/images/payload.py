"""Is the voxel data of an image file all there, and no more? Counted without keeping it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from semiseg.errors import ImageError

_CHUNK = 1 << 20
_SLACK_BYTES = 1 << 20
_HEADER_LIMIT = 1 << 24
_GZIP = b"\x1f\x8b"
Codec = Literal["raw", "gzip", "zlib"]


@dataclass(frozen=True, kw_only=True)
class _Payload:
    """`skip` bytes lead up to the voxels: counted before unpacking for text headers."""

    codec: Codec
    skip_packed: int
    skip_unpacked: int


def check_payload(path: Path, voxel_bytes: int) -> None:
    """ImageError unless `path` holds `voxel_bytes` of voxels, undamaged.

    Unpacks in small pieces and stops once there is more than the header promised, so that a
    file which swells without end costs neither memory nor time.
    """
    with path.open("rb") as file:
        payload = _locate(path, file)
        if payload is None:
            return
        expected = voxel_bytes + payload.skip_unpacked
        file.seek(payload.skip_packed)
        found = _count(path, file, payload.codec, expected + _SLACK_BYTES)
    if found < expected:
        raise ImageError(
            f"{path.name} is cut off: its header announces {expected} bytes, {found} are there; "
            "copy or export the file anew"
        )
    if found > expected + _SLACK_BYTES:
        raise ImageError(
            f"{path.name} holds far more data than the {expected} bytes that its header "
            "announces; the file is damaged or not an image, export it anew"
        )


def _locate(path: Path, file: BinaryIO) -> _Payload | None:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        packed = file.read(2) == _GZIP
        file.seek(0)
        start = _nifti_start(_first_bytes(path, file, 352, packed=packed))
        codec: Codec = "gzip" if packed else "raw"
        return _Payload(codec=codec, skip_packed=0, skip_unpacked=start)
    if name.endswith(".nrrd"):
        return _nrrd(path, file)
    return _meta_image(path, file)


def _nifti_start(header: bytes) -> int:
    """Where the voxels begin: `vox_offset`, a float32 (NIfTI-1) or int64 (NIfTI-2)."""
    import struct  # noqa: PLC0415

    for order in "<", ">":
        (size,) = struct.unpack_from(order + "i", header)
        if size == 348:
            return max(352, int(struct.unpack_from(order + "f", header, 108)[0]))
        if size == 540:
            return max(544, int(struct.unpack_from(order + "q", header, 168)[0]))
    return 0


def _nrrd(path: Path, file: BinaryIO) -> _Payload | None:
    head = _text_header(path, file, b"\n\n", b"\r\n\r\n")
    if re.search(rb"(?im)^data ?file *:", head):
        raise ImageError(
            f"{path.name} keeps its voxels in another file; save it as one .nrrd file first"
        )
    encoding = re.search(rb"(?im)^encoding *: *(\S+)", head)
    kind = encoding.group(1).lower() if encoding else b"raw"
    if kind in (b"gzip", b"gz"):
        return _Payload(codec="gzip", skip_packed=len(head), skip_unpacked=0)
    if kind == b"raw":
        return _Payload(codec="raw", skip_packed=len(head), skip_unpacked=0)
    return None


def _meta_image(path: Path, file: BinaryIO) -> _Payload | None:
    head = _text_header(path, file, b"ElementDataFile")
    rest = file.readline(_CHUNK)
    if rest.split(b"=")[-1].strip().upper() != b"LOCAL":
        raise ImageError(
            f"{path.name} keeps its voxels in another file; save it as one .mha file first"
        )
    packed = re.search(rb"(?im)^CompressedData *= *True", head)
    codec: Codec = "zlib" if packed else "raw"
    return _Payload(codec=codec, skip_packed=file.tell(), skip_unpacked=0)


def _text_header(path: Path, file: BinaryIO, *ends: bytes) -> bytes:
    """Everything up to and including the first of `ends`; the file is left just behind it."""
    head = b""
    while len(head) < _HEADER_LIMIT:
        piece = file.read(4096)
        head += piece
        stops = [head.find(end) + len(end) for end in ends if end in head]
        if stops:
            file.seek(min(stops))
            return head[: min(stops)]
        if not piece:
            break
    raise ImageError(f"{path.name} has a header without an end; export the file anew")


def _first_bytes(path: Path, file: BinaryIO, count: int, *, packed: bool) -> bytes:
    codec: Codec = "gzip" if packed else "raw"
    head = b""
    for piece in _unpacked(path, file, codec):
        head += piece
        if len(head) >= count:
            break
    file.seek(0)
    if len(head) < count:
        raise ImageError(
            f"{path.name} is cut off: {len(head)} bytes are too few for a header; "
            "copy or export the file anew"
        )
    return head


def _count(path: Path, file: BinaryIO, codec: Codec, limit: int) -> int:
    if codec == "raw":
        start = file.tell()
        return file.seek(0, 2) - start
    found = 0
    for piece in _unpacked(path, file, codec):
        found += len(piece)
        if found > limit:
            break
    return found


def _unpacked(path: Path, file: BinaryIO, codec: Codec) -> Iterator[bytes]:
    """The content in pieces of at most 1 MiB; ends early, without error, where data is missing."""
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
                if not inflate.unused_data.startswith(_GZIP):
                    return
                file.seek(-len(inflate.unused_data), 1)
                inflate = zlib.decompressobj(wbits=window)
    except zlib.error as error:
        raise ImageError(
            f"{path.name} is damaged: its compressed data cannot be unpacked ({error}); "
            "copy or export the file anew"
        ) from error
