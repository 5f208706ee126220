"""Segmentation nodes of a case: made from the protocol, read and written as label maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import slicer
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.images.grid import Grid, Plane, plane_axis
from semiseg.study.protocol import Protocol
from SemiSegModuleLib.mrml.geometry import SceneError, affine_ras, grid_of, to_vtk
from SemiSegModuleLib.mrml.layers import (
    LABELMAP,
    NOTHING,
    Box,
    Layer,
    around,
    box_of,
    busy_rows,
    common,
    grid_box,
    is_empty,
    layers_of,
    within,
    write_ids,
)
from SemiSegModuleLib.mrml.structures import (
    ROLE,
    SegmentInfo,
    add_segment,
    protocol_from,
    structures_in,
    sync_segments,
)

__all__ = [
    "Layers",
    "SegmentInfo",
    "create_drawn",
    "create_suggestion",
    "occupied",
    "protocol_from",
    "read_layers",
    "set_layers",
    "set_map",
    "structures_in",
    "sync_segments",
    "take_over",
    "write_region",
]

Ids = NDArray[np.uint16]
_SURFACE = "Closed surface"


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What is drawn, cropped to its box: one array of structure ids where nothing overlaps.

    `overlaps` are pairs of structures with the number of voxels that both have; `strangers` are
    the names of segments that hold voxels but are no structure of the protocol.
    """

    arrays: tuple[Ids, ...]
    offset_zyx: tuple[int, int, int]
    overlaps: tuple[tuple[int, int, int], ...] = ()
    strangers: tuple[str, ...] = ()

    def flat(self, grid: Grid) -> Ids:
        """The map of the whole grid, of the first layer where several have a voxel."""
        full = np.zeros(grid.shape_zyx, np.uint16)
        for array in reversed(self.arrays):
            box = _box(self.offset_zyx, array.shape)
            part = full[within(box, grid_box(grid))]
            np.copyto(part, array, where=array != 0)
        return full


def create_drawn(scene, volume_node, protocol: Protocol, name: str):
    """A new segmentation node on the volume's grid, one empty segment per structure."""
    node = _create(scene, volume_node, name, "drawn")
    _add_all(node, volume_node, protocol)
    return node


def create_suggestion(scene, volume_node, protocol: Protocol, name: str):
    """As `create_drawn`, for what programs say: lighter, and in no chooser of the editor."""
    name = _("{name} (suggested)").format(name=name)
    node = _create(scene, volume_node, name, "suggestion", hidden=True)
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.2)
    display.SetOpacity2DOutline(0.8)
    _add_all(node, volume_node, protocol)
    return node


def read_layers(node, grid: Grid, protocol: Protocol) -> Layers:
    """The structures drawn in `node` on `grid`; nothing is flattened or left out silently.

    SceneError when something is drawn outside the volume or off its voxels.
    """
    found = []
    strangers: list[str] = []
    for layer in layers_of(node, grid):
        table = _known(layer.ids_table(), protocol)
        strangers += _strangers(layer, table)
        array, box = _cropped(layer, table, grid)
        if not is_empty(box):
            found.append((array, box))
    frame: Box = NOTHING
    for _array, box in found:
        frame = around(frame, box)
    arrays = _joined([_on(array, box, frame) for array, box in found])
    return Layers(
        arrays=arrays or (np.zeros((0, 0, 0), np.uint16),),
        offset_zyx=tuple(low for low, _high in frame),
        overlaps=_overlaps(arrays),
        strangers=tuple(strangers),
    )


def write_region(
    node,
    grid: Grid,
    array: Ids,
    offset_zyx: tuple[int, int, int],
    where: NDArray[np.bool_] | None = None,
) -> int:
    """Make the node say `array` (ids, z, y, x) in the box at `offset_zyx`, only where `where`.

    Segments that are no structure keep their voxels. Returns how many voxels changed; only
    those are written. SceneError when the box leaves the grid or an id has no segment.
    """
    box = _box(offset_zyx, array.shape)
    if common(box, grid_box(grid)) != box:
        raise SceneError(_("The region to be written reaches beyond the volume."))
    _require_segments(node, array, where)
    _set_strangers_apart(node, grid, box, where)
    with _keeping_surfaces(node):
        return sum(write_ids(layer, grid, array, box, where) for layer in _own_layers(node, grid))


def set_map(node, grid: Grid, array: Ids) -> int:
    """Make the node say `array` (ids on the whole grid); how many voxels differed."""
    return write_region(node, grid, array, (0, 0, 0))


def set_layers(node, grid: Grid, arrays: Sequence[Ids], offset_zyx: tuple[int, int, int]) -> int:
    """Make the node say all of `arrays`, which may overlap; how many voxels changed.

    Structures of the second and further arrays get a layer of their own.
    """
    full = [_on_grid(array, offset_zyx, grid) for array in arrays]
    base = full[0] if full else np.zeros(grid.shape_zyx, np.uint16)
    for array in full:
        _require_segments(node, array, None)
    apart = {int(i) for array in full[1:] for i in np.unique(array)} - {0}
    _set_strangers_apart(node, grid, grid_box(grid), None)
    _set_apart(node, grid, apart)
    changed = 0
    with _keeping_surfaces(node):
        for layer in _own_layers(node, grid):
            said = base
            for part in layer.parts:
                if part.structure_id in apart:
                    said = np.where(_anywhere(full, part.structure_id), part.structure_id, 0)
            changed += write_ids(layer, grid, said, grid_box(grid))
    return changed


def take_over(
    drawn,
    suggestion,
    grid: Grid,
    protocol: Protocol,
    *,
    ids: Iterable[int] | None = None,
    plane: Plane | None = None,
    index: int | None = None,
) -> int:
    """Copy what `suggestion` says to `drawn` where nothing is drawn; the number of voxels.

    `ids`: only these structures; `plane` and `index`: only that slice.
    """
    frame = list(grid_box(grid))
    if plane is not None and index is not None:
        frame[plane_axis(grid, plane)] = (index, index + 1)
    said, box = _said_in(suggestion, grid, protocol, tuple(frame))
    if is_empty(box):
        return 0
    where = (said != 0) & ~occupied(drawn, grid, box)
    if ids is not None:
        where &= np.isin(said, list(ids))
    return write_region(drawn, grid, said, tuple(low for low, _high in box), where)


def occupied(node, grid: Grid, box: Box) -> NDArray[np.bool_]:
    """Where any segment of the node, structure or not, has a voxel in `box` of the grid."""
    found = np.zeros([high - low for low, high in box], np.bool_)
    for layer in layers_of(node, grid):
        shared = common(box, layer.box)
        if not is_empty(shared):
            found[within(shared, box)] |= layer.array[within(shared, layer.box)] != 0
    return found


def _create(scene, volume_node, name: str, role: str, *, hidden: bool = False):
    """An empty segmentation node; hidden before it is added, so that no tree ever lists it."""
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(name)
    node.SetAttribute(ROLE, role)
    node.SetHideFromEditors(hidden)
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    return node


def _add_all(node, volume_node, protocol: Protocol) -> None:
    """One shared, empty labelmap for all structures: they cannot overlap until a user says so."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, -1, 0, -1, 0, -1)
    image.SetImageToWorldMatrix(to_vtk(affine_ras(grid_of(volume_node))))
    node.GetSegmentation().SetSourceRepresentationName(LABELMAP)
    for structure in protocol.structures:
        add_segment(node, structure, image)
    sync_segments(node, protocol)


def _known(table: Ids, protocol: Protocol) -> Ids:
    known = np.zeros(65536, np.bool_)
    known[list(protocol.ids)] = True
    return np.where(known[table], table, 0).astype(np.uint16)


def _strangers(layer: Layer, table: Ids) -> list[str]:
    unknown = [part for part in layer.parts if table[part.value] == 0]
    return [part.name for part in unknown if (layer.array == part.value).any()]


def _cropped(layer: Layer, table: Ids, grid: Grid) -> tuple[Ids, Box]:
    """The layer's structures in the box around what is drawn."""
    frame = layer.box
    drawn = box_of(layer.array, tuple(low for low, _high in frame))
    inside = common(drawn, grid_box(grid))
    found = table[layer.array[within(drawn, frame)]]
    if inside != drawn:
        found = _without_outside(layer, found, drawn, inside)
    return found, inside


def _said_in(node, grid: Grid, protocol: Protocol, frame: Box) -> tuple[Ids, Box]:
    """What the node says inside `frame`, of its first layer where several have a voxel."""
    found = []
    for layer in layers_of(node, grid):
        box = common(frame, layer.box)
        table = _known(layer.ids_table(), protocol)
        found.append((table[layer.array[within(box, layer.box)]], box))
    whole = NOTHING
    for _array, box in found:
        whole = around(whole, box)
    said = np.zeros([high - low for low, high in whole], np.uint16)
    for array, box in reversed(found):
        np.copyto(said[within(box, whole)], array, where=array != 0)
    return said, whole


def _without_outside(layer: Layer, found: Ids, drawn: Box, inside: Box) -> Ids:
    """The part inside the volume; SceneError when something of a structure is outside."""
    kept = found[within(inside, drawn)]
    lost = int(np.count_nonzero(found)) - int(np.count_nonzero(kept))
    if lost:
        raise SceneError(
            _(
                "{count} voxels of {name} lie outside the volume, where they cannot be kept; "
                "erase them there (Segment Editor, Scissors, or Undo) and go on."
            ).format(count=lost, name=layer.node.GetName())
        )
    return kept


def _joined(arrays: list[Ids]) -> tuple[Ids, ...]:
    """As few arrays as may be: Slicer also keeps segments apart that nowhere overlap."""
    kept: list[Ids] = []
    for array in arrays:
        drawn = array != 0
        for target in kept:
            if not target[drawn].any():
                target[drawn] = array[drawn]
                break
        else:
            kept.append(array)
    return tuple(kept)


def _on(array: Ids, box: Box, frame: Box) -> Ids:
    if box == frame:
        return array
    full = np.zeros([high - low for low, high in frame], np.uint16)
    full[within(box, frame)] = array
    return full


def _on_grid(array: Ids, offset_zyx: tuple[int, int, int], grid: Grid) -> Ids:
    box = _box(offset_zyx, array.shape)
    if not is_empty(box) and common(box, grid_box(grid)) != box:
        raise SceneError(_("the region to be written reaches beyond the volume"))
    return _on(array, box, grid_box(grid))


def _overlaps(arrays: tuple[Ids, ...]) -> tuple[tuple[int, int, int], ...]:
    counts: dict[tuple[int, int], int] = {}
    for number, one in enumerate(arrays):
        for other in arrays[number + 1 :]:
            both = (one != 0) & (other != 0) & (one != other)
            pairs = np.sort(np.stack([one[both], other[both]]), axis=0).astype(np.int64)
            codes, found = np.unique(pairs[0] * 65536 + pairs[1], return_counts=True)
            for code, count in zip(codes.tolist(), found.tolist(), strict=True):
                pair = divmod(code, 65536)
                counts[pair] = counts.get(pair, 0) + count
    return tuple((a, b, count) for (a, b), count in sorted(counts.items()))


@contextlib.contextmanager
def _keeping_surfaces(node) -> Iterator[None]:
    """Slicer drops the surfaces when labelmaps change; who looks at them in 3-D wants new ones."""
    shown = node.GetSegmentation().ContainsRepresentation(_SURFACE)
    yield
    if shown and not node.GetSegmentation().ContainsRepresentation(_SURFACE):
        node.CreateClosedSurfaceRepresentation()


def _own_layers(node, grid: Grid) -> list[Layer]:
    """The layers that hold structures."""
    layers = layers_of(node, grid)
    return [layer for layer in layers if any(part.structure_id for part in layer.parts)]


def _anywhere(arrays: list[Ids], structure_id: int) -> NDArray[np.bool_]:
    return np.logical_or.reduce([array == structure_id for array in arrays])


def _require_segments(node, array: Ids, where: NDArray[np.bool_] | None) -> None:
    """SceneError when an id that is to be written has no segment."""
    unknown = np.ones(65536, np.bool_)
    unknown[[0, *(info.structure_id or 0 for info in structures_in(node))]] = False
    missing: set[int] = set()
    for number, plane in enumerate(array):
        rows = busy_rows(plane)
        bad = unknown[plane[rows]]
        if where is not None:
            bad &= where[number, rows]
        if bad.any():
            missing |= set(np.unique(plane[rows][bad]).tolist())
    if missing:
        raise SceneError(
            _("{name} has no segment for structure {ids}; add it to the structures first.").format(
                name=node.GetName(), ids=", ".join(map(str, sorted(missing)))
            )
        )


def _set_strangers_apart(node, grid: Grid, box: Box, where: NDArray[np.bool_] | None) -> None:
    """Give segments that are no structure their own layers where they would be written over."""
    for layer in layers_of(node, grid):
        shared = common(box, layer.box)
        strangers = [part for part in layer.parts if not part.structure_id]
        if not strangers or len(strangers) == len(layer.parts) or is_empty(shared):
            continue
        met = layer.strange_table()[layer.array[within(shared, layer.box)]]
        if where is not None:
            met &= where[within(shared, box)]
        if met.any():
            for part in strangers:
                node.GetSegmentation().SeparateSegmentLabelmap(part.segment_id)


def _set_apart(node, grid: Grid, ids: set[int]) -> None:
    """Give each of these structures a layer of its own."""
    for layer in layers_of(node, grid):
        for part in layer.parts:
            if part.structure_id in ids and len(layer.parts) > 1:
                node.GetSegmentation().SeparateSegmentLabelmap(part.segment_id)


def _box(offset_zyx: tuple[int, int, int], shape: tuple[int, ...]) -> Box:
    return tuple((start, start + size) for start, size in zip(offset_zyx, shape, strict=True))
