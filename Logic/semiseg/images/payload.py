"""Is the voxel data of an image file all there, and no more? Counted without keeping it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from semiseg.errors import ImageError
from semiseg.images.nifti import read_nifti_header
from semiseg.images.packing import SLACK_BYTES, Codec, require_length, sniff, unpacked

_HEADER_LIMIT = 1 << 24
_LINE_LIMIT = 4096
_META_FIELD = re.compile(rb"(?m)^(\w+)[ \t]*=(.*)$")


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


def check_meta_header(path: Path) -> None:
    """ImageError unless the MetaImage header has as many numbers as its dimension asks for.

    The usual library trusts these counts and writes beyond its memory where they are wrong.
    """
    with path.open("rb") as file:
        head = _header_until(path, file, b"ElementDataFile")
    fields = dict(_META_FIELD.findall(head))
    text = fields.get(b"NDims", b"").strip()
    dimension = int(text) if text in (b"1", b"2", b"3", b"4", b"5") else 0
    counts = {b"DimSize": dimension, b"ElementSpacing": dimension, b"TransformMatrix": dimension**2}
    sound = all(len(fields[k].split()) == n for k, n in counts.items() if k in fields)
    if dimension == 0 or not sound or max(map(len, head.splitlines())) > _LINE_LIMIT:
        raise ImageError(
            f"{path.name} is not a readable MetaImage file: its header is damaged, or it "
            "is another kind of file under that name; copy or export it anew"
        )


def check_nrrd_header(path: Path) -> None:
    """ImageError when a field is so long that the usual library writes beyond its memory."""
    with path.open("rb") as file:
        head = _header_until(path, file, b"\n\n", b"\r\n\r\n")
    if any(len(line) > _LINE_LIMIT and b":=" not in line for line in head.splitlines()):
        raise ImageError(
            f"{path.name} is not a readable NRRD file: its header is damaged, or it "
            "is another kind of file under that name; copy or export it anew"
        )


def _skip_meta_header(path: Path, file: BinaryIO) -> Codec:
    head = _header_until(path, file, b"ElementDataFile")
    if file.readline(_HEADER_LIMIT).split(b"=")[-1].strip().upper() != b"LOCAL":
        raise ImageError(
            f"{path.name} keeps its voxels in another file; save it as one .mha file first"
        )
    fields = dict(_META_FIELD.findall(head))
    return "zlib" if fields.get(b"CompressedData", b"").strip().lower() == b"true" else "raw"


def _header_until(path: Path, file: BinaryIO, *ends: bytes) -> bytes:
    """Everything up to and including the first of `ends`; the file is left just behind it."""
    head = bytearray()
    while len(head) < _HEADER_LIMIT:
        searched = max(len(head) - max(map(len, ends)), 0)
        piece = file.read(1 << 16)
        head += piece
        found = [(head.find(end, searched), len(end)) for end in ends]
        stops = [place + length for place, length in found if place >= 0]
        if stops:
            file.seek(min(stops))
            return bytes(head[: min(stops)])
        if not piece:
            break
    raise ImageError(f"{path.name} has a header without an end; export the file anew")
