"""Label maps and the names, colours and codes of their segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import GeometryMismatchError, LabelError
from semiseg.images import segmentation_header as slicer
from semiseg.images.grid import Grid, canonical
from semiseg.images.reading import Header, read_header, read_voxels, to_sitk
from semiseg.images.segmentation_header import LARGEST_ID, FileSegment, Segment
from semiseg.images.writing import save, suffix_of

__all__ = ["LabelMap", "Segment", "place_on", "read_label", "write_label"]


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Segment ids per voxel (z, y, x), 0 where none; `segments` is () where a file has no names."""

    array: NDArray[np.uint16]
    grid: Grid
    segments: tuple[Segment, ...] = ()


def read_label(path: Path, *, verified: bool = False) -> LabelMap:
    """The label map in `path`; names, colours and terminology from `.seg.nrrd`.

    `verified` says that the file's bytes are known to be right, by a checksum.

    Layers of a Slicer segmentation are merged. Segments whose label value another one has too
    (usual with layers) get the next free id, so go by name. ImageError as `read_image`;
    LabelError: overlapping segments, values that are negative, fractional, above 65535 or that
    no segment names.
    """
    header = read_header(path)
    if "complex" in header.pixel_type or header.frames > 1:
        raise LabelError(f"{path.name} is not a label map; whole numbers on one volume expected")
    found = slicer.parse(header.metadata, path.name)
    if header.components > 1 and not found:
        raise LabelError(
            f"{path.name} has {header.components} values per voxel and names no segments; "
            "a label map with one whole number per voxel is expected"
        )
    layers = _layers(path, header, verified=verified)
    if not found:
        return LabelMap(array=layers[0], grid=header.grid)
    return _merge(path, layers, found, header.grid)


def write_label(
    path: Path, array: NDArray[np.integer], grid: Grid, segments: tuple[Segment, ...] = ()
) -> None:
    """Write ids (z, y, x) to `path`: as a Slicer segmentation when it ends in `.seg.nrrd`.

    Other kinds hold no names, so `segments` are left out there. The file appears whole or not
    at all. LabelError when a value is out of range or, in `.seg.nrrd`, has no segment.
    """
    top = int(array.max(initial=0))
    if array.min(initial=0) < 0 or top > LARGEST_ID:
        raise LabelError(f"label values must lie between 0 and {LARGEST_ID}, found {top}")
    image = to_sitk(array.astype(np.uint8 if top < 256 else np.uint16, copy=False), grid)
    if suffix_of(path) == ".seg.nrrd":
        _require_named(path.name, array, segments)
        for key, value in slicer.compose(segments, grid).items():
            image.SetMetaData(key, value)
    save(path, image)


def place_on(label: LabelMap, grid: Grid, what: str = "the label") -> LabelMap:
    """`label` on `grid`, exactly, where both have the same voxels in space.

    The label may be cropped, padded or stored with turned axes, as other programs do; nothing
    is interpolated. GeometryMismatchError when voxels do not coincide or drawn voxels lie
    outside `grid`.
    """
    if label.grid.difference(grid) is None:
        return LabelMap(array=label.array, grid=grid, segments=label.segments)
    turn, back = canonical(label.grid), canonical(grid)
    shift = _lattice_shift(turn.grid, back.grid)
    if shift is None:
        label.grid.require_same(grid, what)
    source = turn.apply(label.array)
    placed = np.zeros(back.grid.shape_zyx, dtype=source.dtype)
    inside_from, inside_to = _overlap(source.shape, placed.shape, cast("tuple[int, ...]", shift))
    placed[inside_to] = source[inside_from]
    if np.count_nonzero(placed) != np.count_nonzero(source):
        raise GeometryMismatchError(
            f"{what} has drawn voxels outside the image; is it a label of another image?"
        )
    return LabelMap(array=back.invert(placed), grid=grid, segments=label.segments)


def _lattice_shift(source: Grid, target: Grid) -> tuple[int, int, int] | None:
    """Where voxel 0 of `source` lies in `target` (z, y, x), if their voxels coincide."""
    corners = source.to_world(np.array([[0, 0, 0], np.asarray(source.size_xyz) - 1]))
    first, last = target.to_voxel(corners)
    shift = np.rint(first)
    expected = shift + np.asarray(source.size_xyz) - 1
    tolerance = 1e-3 / np.asarray(target.spacing_mm_xyz)
    same_axes = np.allclose(source.affine_lps[:3, :3], target.affine_lps[:3, :3], atol=1e-4)
    off = np.maximum(np.abs(first - shift), np.abs(last - expected))
    if not same_axes or np.any(off > tolerance):
        return None
    return int(shift[2]), int(shift[1]), int(shift[0])


def _overlap(
    source: tuple[int, ...], target: tuple[int, ...], shift: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    pairs = list(zip(source, target, shift, strict=True))
    low = [max(0, s) for _, _, s in pairs]
    high = [max(min(t, n + s), begin) for (n, t, s), begin in zip(pairs, low, strict=True)]
    ends = list(zip(low, high, shift, strict=True))
    return tuple(slice(a - s, b - s) for a, b, s in ends), tuple(slice(a, b) for a, b, _ in ends)


def _layers(path: Path, header: Header, *, verified: bool) -> list[NDArray[np.uint16]]:
    voxels = read_voxels(path, header, verified=verified)
    stack = np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]
    return [_whole_numbers(path, layer) for layer in stack]


def _whole_numbers(path: Path, layer: NDArray[np.generic]) -> NDArray[np.uint16]:
    values = cast("NDArray[np.floating]", layer)
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise LabelError(
            f"{path.name} has values that are not whole numbers, so it is not a label map; "
            "is it an image or a probability map? If it was resampled, do so with nearest neighbour"
        )
    low, high = values.min(), values.max()
    if low < 0 or high > LARGEST_ID:
        raise LabelError(
            f"{path.name} has values from {low:g} to {high:g}; "
            f"label values must lie between 0 and {LARGEST_ID}"
        )
    return values.astype(np.uint16)


def _merge(
    path: Path, layers: list[NDArray[np.uint16]], found: tuple[FileSegment, ...], grid: Grid
) -> LabelMap:
    for item in found:
        if item.layer >= len(layers):
            raise LabelError(
                f"{path.name}: segment {item.segment.name} names layer {item.layer}, but the file "
                f"has {len(layers)}; save it anew"
            )
    for index, layer in enumerate(layers):
        _require_named(path.name, layer, [s for s in found if s.layer == index])
    segments = tuple(item.segment for item in found)
    if len(layers) == 1 and all(item.value == item.segment.id for item in found):
        return LabelMap(array=layers[0], grid=grid, segments=segments)
    merged = np.zeros(grid.shape_zyx, dtype=np.uint16)
    for item in found:
        drawn = layers[item.layer] == item.value
        if merged[drawn].any():
            _refuse_overlap(path, merged[drawn], item, found)
        merged[drawn] = item.segment.id
    return LabelMap(array=merged, grid=grid, segments=segments)


def _refuse_overlap(
    path: Path, under: NDArray[np.uint16], item: FileSegment, found: tuple[FileSegment, ...]
) -> None:
    ids = {int(value) for value in np.unique(under)}
    names = ", ".join(s.segment.name for s in found if s.segment.id in ids)
    raise LabelError(
        f"{path.name}: segment {item.segment.name} overlaps {names} in "
        f"{np.count_nonzero(under)} voxels; a voxel can belong to one structure only. In Slicer, "
        "remove the overlap (Segment Editor, Logical operators, Subtract) and save again"
    )


def _require_named(
    name: str, array: NDArray[np.integer], segments: tuple[Segment, ...] | list[FileSegment]
) -> None:
    known = [s.value if isinstance(s, FileSegment) else s.id for s in segments]
    seen = np.zeros(LARGEST_ID + 1, dtype=np.bool_)
    for values in array:  # by slice, to spare memory
        seen[values[values != 0]] = True
    strange = [int(v) for v in np.flatnonzero(seen) if v not in known]
    if strange:
        listed = ", ".join(map(str, strange[:5]))
        raise LabelError(
            f"{name}: no segment has the label value {listed}; name a structure for it or erase it"
        )
