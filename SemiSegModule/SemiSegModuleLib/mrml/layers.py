"""The labelmaps behind a segmentation node, as arrays on a grid of the engine.

Slicer keeps segments that do not overlap in one shared labelmap (a layer), told apart by label
values, and cuts labelmaps to where something is drawn. A layer's array is written in place, so
that a change costs what it changes; it grows, with some room to spare, only when it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.images.grid import Grid
from SemiSegModuleLib.mrml.geometry import (
    Placement,
    SceneError,
    affine_ras,
    lies_on,
    placement,
    require_same_transform,
    to_numpy,
    to_vtk,
)

LABELMAP = "Binary labelmap"
STRUCTURE_TAG = "SemiSeg.StructureId"
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # half-open, z y x
NOTHING: Box = ((0, 0), (0, 0), (0, 0))
_ROOM = 8  # a layer that must grow gets an eighth of the grid more


@dataclass(frozen=True, kw_only=True)
class Part:
    """A segment in a layer; `structure_id` is 0 for one that is no structure of the study."""

    segment_id: str
    name: str
    value: int
    structure_id: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A shared labelmap on a grid; `where` is None while it is empty."""

    node: object
    image: object
    parts: tuple[Part, ...]
    where: Placement | None

    @property
    def array(self) -> NDArray:
        """Label values in the grid's axes, in the image's memory; call `tell` after writing."""
        if self.where is None:
            return np.zeros((0, 0, 0), np.uint8)
        scalars = self.image.GetPointData().GetScalars()
        flat = vtk.util.numpy_support.vtk_to_numpy(scalars)
        return self.where.view(flat.reshape(self.image.GetDimensions()[::-1]))

    @property
    def box(self) -> Box:
        """Where `array` lies on the grid."""
        start = (0, 0, 0) if self.where is None else self.where.offset_zyx
        ends = (n + s for n, s in zip(self.array.shape, start, strict=True))
        return tuple(zip(start, ends, strict=True))

    def ids_table(self) -> NDArray[np.uint16]:
        """Structure id by label value; 0 for values of no structure."""
        return self._table({part.value: part.structure_id for part in self.parts}, np.uint16)

    def values_table(self) -> NDArray:
        """Label value by structure id; 0 for structures that live in other layers."""
        values = {part.structure_id: part.value for part in self.parts if part.structure_id}
        return self._table(values, np.uint8 if max(values.values(), default=0) < 256 else np.uint16)

    def strange_table(self) -> NDArray[np.bool_]:
        """Whether a label value belongs to a segment that is no structure."""
        strange = {part.value: True for part in self.parts if not part.structure_id}
        return self._table(strange, np.bool_)

    def tell(self) -> None:
        """Say once that the voxels changed."""
        self.image.GetPointData().GetScalars().Modified()
        self.image.Modified()
        self.node.GetSegmentation().GetSegment(self.parts[0].segment_id).Modified()

    @staticmethod
    def _table(entries: dict[int, int], dtype) -> NDArray:
        table = np.zeros(65536, dtype)
        for key, value in entries.items():
            table[key] = value
        return table


def layers_of(node, grid: Grid) -> tuple[Layer, ...]:
    """The layers of a segmentation node, on `grid`.

    SceneError when it is made of surfaces, when it or its volume was moved away from the other,
    or when its voxels do not coincide with the grid's.
    """
    _require_in_place(node, grid)
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and (
        segmentation.GetSourceRepresentationName() != LABELMAP
    ):
        raise SceneError(
            _(
                "{name} is made of surfaces; in Segmentations, Representations, create its binary "
                "labelmap and make it the source."
            ).format(name=node.GetName())
        )
    grouped: dict[object, list[Part]] = {}
    seen: set[int] = set()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        part = _part(segmentation.GetNthSegmentID(index), segment, seen)
        grouped.setdefault(segment.GetRepresentation(LABELMAP), []).append(part)
    return tuple(
        Layer(node=node, image=image, parts=tuple(parts), where=_where(node, image, grid, parts))
        for image, parts in grouped.items()
        if image is not None
    )


def structure_id_of(segment) -> int:
    """The id in the segment's tag; 0 without one."""
    text = vtk.reference("")
    if not segment.GetTag(STRUCTURE_TAG, text):
        return 0
    number = str(text)
    return int(number) if number.isdecimal() and 0 < int(number) < 65536 else 0


def box_of(array: NDArray, start_zyx: tuple[int, int, int] = (0, 0, 0)) -> Box:
    """The smallest box around what is not 0 in an array that begins there; empty if nothing is."""
    return _moved(_ends(_lines(array)), start_zyx)


def within(box: Box, frame: Box) -> tuple[slice, slice, slice]:
    """The slices that cut `box` out of an array that covers `frame`."""
    return tuple(
        slice(max(low - start, 0), max(high - start, 0))
        for (low, high), (start, _end) in zip(box, frame, strict=True)
    )


def common(one: Box, other: Box) -> Box:
    """The box that both share; empty where they do not meet."""
    pairs = zip(one, other, strict=True)
    return tuple((max(a, c), max(min(b, d), a, c)) for (a, b), (c, d) in pairs)


def around(one: Box, other: Box) -> Box:
    """The box around both; an empty one does not count."""
    if is_empty(one) or is_empty(other):
        return other if is_empty(one) else one
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def is_empty(box: Box) -> bool:
    """Whether the box has no voxel."""
    return any(low >= high for low, high in box)


def grid_box(grid: Grid) -> Box:
    """The box of the whole grid."""
    return tuple((0, size) for size in grid.shape_zyx)


def busy_rows(*planes: NDArray) -> slice:
    """The rows from the first to the last in which any of the planes (y, x) is not 0."""
    # The largest value is found many voxels at a time, other than any value that is not 0.
    busy = np.logical_or.reduce([plane.max(axis=1, initial=0) for plane in planes])
    found = np.flatnonzero(busy)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def write_ids(
    layer: Layer, grid: Grid, ids: NDArray, box: Box, mask: NDArray[np.bool_] | None = None
) -> int:
    """Make the layer's structures say `ids` in `box`, where `mask`; how many voxels changed.

    Ids of other layers count as empty here. Works plane by plane, so that it stays in the
    processor's cache. Tells the scene once if anything changed.
    """
    table = layer.values_table()
    layer = _with_room(layer, grid, _needed(table, ids, box, mask))
    shared = common(box, layer.box)
    if is_empty(shared):
        return 0
    target = layer.array[within(shared, layer.box)]
    source = ids[within(shared, box)]
    wanted = None if mask is None else mask[within(shared, box)]
    changed = 0
    for number, plane in enumerate(target):
        rows = busy_rows(source[number], plane)
        old, new = plane[rows], table[source[number, rows]]
        differs = old != new
        if wanted is not None:
            differs &= wanted[number, rows]
        count = int(np.count_nonzero(differs))
        if count:
            old[differs] = new[differs]
            changed += count
    if changed:
        layer.tell()
    return changed


def _needed(table: NDArray, ids: NDArray, box: Box, mask: NDArray | None) -> Box:
    """The box, on the grid, around the ids that this layer must hold."""
    lines = [np.zeros(size, np.bool_) for size in ids.shape]
    holds = table != 0
    for number, plane in enumerate(ids):
        rows = busy_rows(plane)
        held = holds[plane[rows]]
        if mask is not None:
            held &= mask[number, rows]
        lines[1][rows] |= held.any(axis=1)
        across = held.any(axis=0)
        lines[2] |= across
        lines[0][number] = across.any()
    starts = tuple(low for low, _high in box)
    return _moved(_ends(lines), starts)


def _with_room(layer: Layer, grid: Grid, needed: Box) -> Layer:
    """`layer`, grown where it does not hold the box `needed`."""
    if is_empty(needed):
        return layer
    largest = max(part.value for part in layer.parts)
    fits = layer.where is not None and layer.array.dtype.itemsize * 8 >= largest.bit_length()
    if fits and common(needed, layer.box) == needed:
        return layer
    return _grown(layer, grid, needed, largest)


def _grown(layer: Layer, grid: Grid, needed: Box, largest: int) -> Layer:
    """`layer` in a larger labelmap on the grid's own axes; the scene keeps the same object."""
    old = layer.box
    (z0, z1), (y0, y1), (x0, x1) = _with_margin(old, around(old, needed), grid_box(grid))
    image = slicer.vtkOrientedImageData()
    image.SetExtent(x0, x1 - 1, y0, y1 - 1, z0, z1 - 1)
    image.SetImageToWorldMatrix(to_vtk(affine_ras(grid)))
    wide = largest > 255 or layer.array.dtype.itemsize > 1
    image.AllocateScalars(vtk.VTK_UNSIGNED_SHORT if wide else vtk.VTK_UNSIGNED_CHAR, 1)
    where = Placement(axes=(0, 1, 2), flips=(False, False, False), offset_zyx=(z0, y0, x0))
    grown = Layer(node=layer.node, image=image, parts=layer.parts, where=where)
    grown.array[...] = 0
    if not is_empty(old):
        grown.array[within(old, grown.box)] = layer.array
    layer.image.ShallowCopy(image)
    return Layer(node=layer.node, image=layer.image, parts=layer.parts, where=where)


def _with_margin(old: Box, new: Box, frame: Box) -> Box:
    """`new` with room on the sides where it goes beyond `old`, inside `frame`."""
    if is_empty(old):
        return new
    found = []
    for (a, b), (c, d), (low, high) in zip(old, new, frame, strict=True):
        room = (high - low) // _ROOM
        found.append((max(c - room, low) if c < a else c, min(d + room, high) if d > b else d))
    return tuple(found)


def _require_in_place(node, grid: Grid) -> None:
    """What is drawn on a volume that was moved would miss the scan that the study has."""
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if volume is None or volume.GetImageData() is None:
        return
    require_same_transform(volume, node)
    if not lies_on(volume, grid):
        raise SceneError(
            _(
                "{volume}, on which {name} is drawn, was moved or resampled: it no longer lies "
                "where the study has the scan. Undo that (Volumes, Volume Information), or unload "
                "the case and open it again."
            ).format(volume=volume.GetName(), name=node.GetName())
        )


def _part(segment_id: str, segment, seen: set[int]) -> Part:
    """The first segment of a structure counts; a copy of it is a segment of no structure yet."""
    structure_id = structure_id_of(segment)
    if structure_id in seen:
        structure_id = 0
    seen.add(structure_id)
    return Part(
        segment_id=segment_id,
        name=segment.GetName() or segment_id,
        value=int(segment.GetLabelValue()),
        structure_id=structure_id,
    )


def _where(node, image, grid: Grid, parts: list[Part]) -> Placement | None:
    extent = image.GetExtent()
    if extent[0] > extent[1] or extent[2] > extent[3] or extent[4] > extent[5]:
        return None
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    found = placement(to_numpy(matrix), extent, grid)
    if found is None:
        raise SceneError(
            _(
                "The voxels of {segment} in {name} do not coincide with those of the volume, so "
                "they cannot be taken over exactly; in Segmentations, choose the volume as source "
                "geometry and resample, then try again."
            ).format(segment=parts[0].name, name=node.GetName())
        )
    return found


def _ends(lines: Sequence[NDArray[np.bool_]]) -> Box:
    if not all(line.any() for line in lines):
        return NOTHING
    ends = (np.flatnonzero(line)[[0, -1]] for line in lines)
    return tuple((int(first), int(last) + 1) for first, last in ends)


def _moved(box: Box, by_zyx: tuple[int, int, int]) -> Box:
    if is_empty(box):
        return NOTHING
    return tuple((low + by, high + by) for (low, high), by in zip(box, by_zyx, strict=True))


def _lines(array: NDArray) -> tuple[NDArray[np.bool_], ...]:
    """For each axis, which of its slices hold something."""
    if array.size == 0:
        return tuple(np.zeros(size, np.bool_) for size in array.shape)
    in_plane = array.max(axis=0) != 0
    return array.max(axis=(1, 2)) != 0, in_plane.any(axis=1), in_plane.any(axis=0)
