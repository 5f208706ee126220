"""Is the voxel data of an image file all there, and no more? Counted without keeping it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from semiseg.errors import ImageError
from semiseg.images.nifti import read_nifti_header
from semiseg.images.packing import SLACK_BYTES, Codec, require_length, sniff, unpacked

_HEADER_LIMIT = 1 << 24


def check_payload(path: Path, voxel_bytes: int) -> None:
    """ImageError unless `path` holds `voxel_bytes` of voxels, undamaged.

    Unpacks in small pieces and stops once there is more than the header promised, so that a
    file which swells without end costs neither memory nor time.
    """
    with path.open("rb") as file:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            codec: Codec | None = sniff(file)
            voxel_bytes += read_nifti_header(path).voxel_offset
        elif path.name.lower().endswith(".nrrd"):
            codec = _skip_nrrd_header(path, file)
        else:
            codec = _skip_meta_header(path, file)
        if codec is not None:
            require_length(path, _count(path, file, codec, voxel_bytes), voxel_bytes)


def _count(path: Path, file: BinaryIO, codec: Codec, expected: int) -> int:
    if codec == "raw":
        start = file.tell()
        return file.seek(0, 2) - start
    found = 0
    for piece in unpacked(path, file, codec):
        found += len(piece)
        if found > expected + SLACK_BYTES:
            break
    return found


def _skip_nrrd_header(path: Path, file: BinaryIO) -> Codec | None:
    """How the voxels behind the header are packed; None for text, which is counted on reading."""
    head = _header_until(path, file, b"\n\n", b"\r\n\r\n")
    if re.search(rb"(?im)^data ?file *:", head):
        raise ImageError(
            f"{path.name} keeps its voxels in another file; save it as one .nrrd file first"
        )
    encoding = re.search(rb"(?im)^encoding *: *(\S+)", head)
    kind = encoding.group(1).lower() if encoding else b"raw"
    codecs: dict[bytes, Codec] = {b"gzip": "gzip", b"gz": "gzip", b"raw": "raw"}
    return codecs.get(kind)


def _skip_meta_header(path: Path, file: BinaryIO) -> Codec:
    head = _header_until(path, file, b"ElementDataFile")
    if file.readline(_HEADER_LIMIT).split(b"=")[-1].strip().upper() != b"LOCAL":
        raise ImageError(
            f"{path.name} keeps its voxels in another file; save it as one .mha file first"
        )
    return "zlib" if re.search(rb"(?im)^CompressedData *= *True", head) else "raw"


def _header_until(path: Path, file: BinaryIO, *ends: bytes) -> bytes:
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
