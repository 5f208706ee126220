"""The segments of a node and the structures of the protocol, kept in step by a tag.

A segment belongs to the structure whose id its tag names, whatever its ID, name or label value
is: Slicer renumbers values when it saves, and users rename. Of two segments with one tag (a copy
in the Segmentations module copies tags) the first belongs to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import vtk

import slicer
from semiseg.study.protocol import LARGEST_ID, Protocol, Structure
from semiseg.study.terminology import Code
from SemiSegModuleLib.mrml.layers import LABELMAP, STRUCTURE_TAG, structure_id_of

ROLE = "SemiSeg.Role"
_SUGGESTED = " (suggested)"


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """What a segment says; `structure_id` is None for one that is no structure (yet)."""

    segment_id: str
    structure_id: int | None
    name: str
    color: tuple[int, int, int]
    terminology: str

    def structure(self, structure_id: int) -> Structure:
        """The structure that this segment describes."""
        code, modifier = _codes(self.terminology)
        return Structure(
            id=structure_id, name=self.name, color=self.color, code=code, modifier=modifier
        )


def structures_in(node) -> tuple[SegmentInfo, ...]:
    """The segments of `node` in their order."""
    segmentation = node.GetSegmentation()
    suffix = _suffix(node)
    seen: set[int] = set()
    found = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        structure_id = structure_id_of(segment)
        if structure_id in seen:
            structure_id = 0
        seen.add(structure_id)
        found.append(_info(segmentation.GetNthSegmentID(index), segment, structure_id, suffix))
    return tuple(found)


def add_segment(node, structure: Structure, image, value: int) -> None:
    """A segment for `structure` in the labelmap `image`, with that label value."""
    segment = slicer.vtkSegment()
    segment.SetName(structure.name + _suffix(node))
    segment.SetColor(*(channel / 255 for channel in structure.color))
    segment.SetTag(STRUCTURE_TAG, str(structure.id))
    if structure.terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology)
    segment.SetLabelValue(value)
    segment.AddRepresentation(LABELMAP, image)
    segmentation = node.GetSegmentation()
    segment_id = f"SemiSeg_{structure.id}"
    if segmentation.GetSegment(segment_id) is not None:
        segment_id = segmentation.GenerateUniqueSegmentID(segment_id)
    segmentation.AddSegment(segment, segment_id)


def sync_segments(node, protocol: Protocol) -> bool:
    """Give `node` the protocol's structures: names, colours, codes, order; whether it changed.

    Missing segments are added empty, those of removed structures go, others stay as they are.
    """
    segmentation = node.GetSegmentation()
    infos = {info.structure_id: info for info in structures_in(node) if info.structure_id}
    changed = False
    for structure_id in infos.keys() - set(protocol.ids):
        segmentation.RemoveSegment(infos[structure_id].segment_id)
        changed = True
    for structure in protocol.structures:
        info = infos.get(structure.id)
        if info is None:
            _add_empty(node, structure)
            changed = True
        else:
            segment = segmentation.GetSegment(info.segment_id)
            changed |= _describe(segment, info, structure, _suffix(node))
    return _order(node, protocol) or changed


def protocol_from(node, protocol: Protocol) -> Protocol:
    """`protocol` with what the user changed in `node`: new segments, names, colours, codes.

    A new segment gets the next free id as its tag. Structures without a segment stay: whether
    they may go is the user's to say. A name that is taken gets a number, in the node too.
    """
    for info in structures_in(node):
        known = info.structure_id in protocol.ids
        structure_id = info.structure_id if known else _next_id(node, protocol)
        if structure_id is None:
            continue
        segment = node.GetSegmentation().GetSegment(info.segment_id)
        name = _free_name(info.name, structure_id, protocol)
        if name != info.name:
            segment.SetName(name + _suffix(node))
        if not known:
            segment.SetTag(STRUCTURE_TAG, str(structure_id))
        protocol = _with(protocol, replace(info, name=name).structure(structure_id))
    return protocol


def _suffix(node) -> str:
    return _SUGGESTED if node.GetAttribute(ROLE) == "suggestion" else ""


def _info(segment_id: str, segment, structure_id: int, suffix: str) -> SegmentInfo:
    text = vtk.reference("")
    has = segment.GetTag(segment.GetTerminologyEntryTagName(), text)
    red, green, blue = (round(255 * channel) for channel in segment.GetColor())
    return SegmentInfo(
        segment_id=segment_id,
        structure_id=structure_id or None,
        name=(segment.GetName() or segment_id).removesuffix(suffix),
        color=(red, green, blue),
        terminology=str(text) if has else "",
    )


def _add_empty(node, structure: Structure) -> None:
    """An empty segment in the first layer, so that it cannot overlap by accident."""
    segmentation = node.GetSegmentation()
    segment_id = f"SemiSeg_{structure.id}"
    if segmentation.GetSegment(segment_id) is not None:
        segment_id = segmentation.GenerateUniqueSegmentID(segment_id)
    color = [channel / 255 for channel in structure.color]
    segment_id = segmentation.AddEmptySegment(segment_id, structure.name + _suffix(node), color)
    segment = segmentation.GetSegment(segment_id)
    if structure.terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology)
    segment.SetTag(STRUCTURE_TAG, str(structure.id))


def _describe(segment, info: SegmentInfo, structure: Structure, suffix: str) -> bool:
    """Give the segment the structure's name, colour and code where they differ."""
    if (info.name, info.color) != (structure.name, structure.color) or _codes(info.terminology) != (
        structure.code,
        structure.modifier,
    ):
        segment.SetName(structure.name + suffix)
        segment.SetColor(*(channel / 255 for channel in structure.color))
        if structure.terminology:
            segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology)
        else:
            segment.RemoveTag(segment.GetTerminologyEntryTagName())
        return True
    return False


def _order(node, protocol: Protocol) -> bool:
    """Structures first, in the protocol's order, then the rest."""
    infos = structures_in(node)
    place = {structure_id: number for number, structure_id in enumerate(protocol.ids)}
    wanted = sorted(infos, key=lambda info: place.get(info.structure_id, len(place)))
    if list(infos) == wanted:
        return False
    node.GetSegmentation().ReorderSegments([info.segment_id for info in wanted])
    return True


def _next_id(node, protocol: Protocol) -> int | None:
    taken = {*protocol.ids, *(info.structure_id or 0 for info in structures_in(node))}
    number = max(taken, default=0) + 1
    if number <= LARGEST_ID:
        return number
    return next((free for free in range(1, LARGEST_ID + 1) if free not in taken), None)


def _free_name(name: str, structure_id: int, protocol: Protocol) -> str:
    visible = "".join(c for c in name if ord(c) >= 32).strip() or f"structure {structure_id}"
    taken = {s.name.casefold() for s in protocol.structures if s.id != structure_id}
    free, number = visible, 2
    while free.casefold() in taken:
        free, number = f"{visible} {number}", number + 1
    return free


def _with(protocol: Protocol, structure: Structure) -> Protocol:
    if structure.id not in protocol.ids:
        return protocol.add(structure)
    if protocol.by_id(structure.id) == structure:
        return protocol
    return Protocol(tuple(structure if s.id == structure.id else s for s in protocol.structures))


def _codes(terminology: str) -> tuple[Code | None, Code | None]:
    """Type and modifier of Slicer's entry `context~category~type~modifier~...`."""
    parts = terminology.split("~")
    return (_code(parts[2]), _code(parts[3])) if len(parts) > 3 else (None, None)


def _code(text: str) -> Code | None:
    fields = re.split(r"\^", text)
    if len(fields) != 3 or not all(fields):
        return None
    return Code(scheme=fields[0], value=fields[1], meaning=fields[2])
