"""Which nodes of the scene belong to which case of the study, and what happens to them.

Nodes carry the study's id, the case's id and their role as attributes, which scenes keep. A copy
of a node copies them too: the node that was bound first stays, the copy loses them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import slicer
import vtk

from SemiSegModuleLib.mrml.structures import ROLE

Role = Literal["volume", "drawn", "suggestion", "uncertainty"]
ROLES: tuple[Role, ...] = ("volume", "drawn", "suggestion", "uncertainty")
STUDY, CASE = "SemiSeg.StudyId", "SemiSeg.CaseId"
_CLASSES = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")


def _nothing(*_args) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class CaseNodes:
    """The nodes of one case; None where it has none."""

    volume: object | None = None
    drawn: object | None = None
    suggestion: object | None = None
    uncertainty: object | None = None

    def all(self) -> tuple:
        """Those that exist."""
        nodes = (self.volume, self.drawn, self.suggestion, self.uncertainty)
        return tuple(node for node in nodes if node is not None)


@dataclass(kw_only=True)
class Callbacks:
    """What the binding tells; each may be replaced by a function of the same arguments.

    `on_drawn_modified(case_id)`: voxels or segments of the drawn node changed, several times per
    stroke. `on_segments_changed(case_id)`: a segment was added, removed, renamed, recoloured.
    `on_node_removed(case_id, role)`: the node is about to go, but still whole.
    `on_scene_closing()`: all nodes are still there. `on_scene_closed()`: they are gone.
    `on_scene_loaded()`: a scene was read; bound nodes may have come with it.
    """

    on_drawn_modified: Callable[[str], None] = _nothing
    on_segments_changed: Callable[[str], None] = _nothing
    on_node_removed: Callable[[str, str], None] = _nothing
    on_scene_closing: Callable[[], None] = _nothing
    on_scene_closed: Callable[[], None] = _nothing
    on_scene_loaded: Callable[[], None] = _nothing


class SceneBinding:
    """Finds, binds and watches the nodes of one study; `close` undoes the watching."""

    def __init__(self, scene, study_id: str, callbacks: Callbacks | None = None) -> None:
        self.callbacks = callbacks or Callbacks()
        self._scene, self._study_id = scene, study_id
        self._bound: dict[tuple[str, str], str] = {}
        self._watched: dict[str, list[int]] = {}
        self._quiet: dict[str, int] = {}
        self._tags: list[int] = []
        self._watch_scene()
        self.find()

    def nodes_of(self, case_id: str) -> CaseNodes:
        """The nodes bound to `case_id`."""
        return CaseNodes(**{role: self._node(case_id, role) for role in ROLES})

    def case_ids(self) -> tuple[str, ...]:
        """The cases that have a node in the scene."""
        return tuple(sorted({case_id for case_id, _role in self._bound}))

    def case_of(self, node) -> tuple[str, str] | None:
        """Case and role of a bound node; None for any other."""
        for key, node_id in self._bound.items():
            if node is not None and node_id == node.GetID():
                return key
        return None

    def bind(self, case_id: str, role: Role, node) -> None:
        """Make `node` the one of that role; a node that was it before is unbound."""
        before = self._node(case_id, role)
        if before is not None and before is not node:
            self.unbind(before)
        for name, value in ((STUDY, self._study_id), (CASE, case_id), (ROLE, role)):
            node.SetAttribute(name, value)
        self._adopt(case_id, role, node)

    def unbind(self, node) -> None:
        """`node` is an ordinary node again."""
        key = self.case_of(node)
        if key is not None:
            self._forget(key)
        _strip(node)

    def find(self) -> tuple[str, ...]:
        """Bind what the scene holds of this study; the names of copies that lost their binding."""
        copies = []
        for node in _candidates(self._scene):
            if node.GetAttribute(STUDY) == self._study_id and not self._take(node):
                copies.append(node.GetName())
        return tuple(copies)

    @contextlib.contextmanager
    def quiet(self, case_id: str) -> Iterator[None]:
        """While it lasts, changes of the case's drawn node are our own and are not told."""
        self._quiet[case_id] = self._quiet.get(case_id, 0) + 1
        try:
            yield
        finally:
            self._quiet[case_id] -= 1

    def close(self) -> None:
        """Watch nothing any more; nodes and their attributes stay."""
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []
        for key in list(self._bound):
            self._forget(key)
        self.callbacks = Callbacks()

    def _node(self, case_id: str, role: str):
        node_id = self._bound.get((case_id, role))
        return self._scene.GetNodeByID(node_id) if node_id else None

    def _take(self, node) -> bool:
        """Bind a node by its attributes; False for a copy, which loses them."""
        case_id, role = node.GetAttribute(CASE), node.GetAttribute(ROLE)
        if not case_id or role not in ROLES:
            return True
        holder = self._node(case_id, role)
        if holder is not None and holder is not node:
            _strip(node)
            return False
        self._adopt(case_id, role, node)
        return True

    def _adopt(self, case_id: str, role: str, node) -> None:
        if self._bound.get((case_id, role)) == node.GetID():
            return
        self._bound[case_id, role] = node.GetID()
        if role == "drawn":
            self._watched[node.GetID()] = _watch_drawn(node, case_id, weakref.ref(self))
        elif role == "volume":
            self._watched[node.GetID()] = _watch_volume(node, case_id, weakref.ref(self))
        self._follow_volume(case_id)
        self._refer_to_volume(case_id)

    def _forget(self, key: tuple[str, str]) -> None:
        node_id = self._bound.pop(key)
        node = self._scene.GetNodeByID(node_id)
        for tag in self._watched.pop(node_id, ()):
            if node is not None:
                node.RemoveObserver(tag)

    def _watch_scene(self) -> None:
        me = weakref.ref(self)
        events = {
            slicer.vtkMRMLScene.NodeAddedEvent: SceneBinding._node_added,
            slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent: SceneBinding._node_goes,
            slicer.vtkMRMLScene.StartCloseEvent: SceneBinding._closing,
            slicer.vtkMRMLScene.EndCloseEvent: SceneBinding._closed,
            slicer.vtkMRMLScene.EndImportEvent: SceneBinding._imported,
            slicer.vtkMRMLScene.StartSaveEvent: SceneBinding._saving,
        }
        for event, method in events.items():
            self._tags.append(self._scene.AddObserver(event, _weak(me, method)))

    def _node_added(self, node) -> None:
        if node is None or self._scene.IsImporting() or self._scene.IsClosing():
            return
        if node.GetAttribute(STUDY) == self._study_id:
            self._take(node)

    def _node_goes(self, node) -> None:
        key = self.case_of(node)
        if key is None or self._scene.IsClosing():
            return
        self.callbacks.on_node_removed(*key)
        if key in self._bound:
            self._forget(key)

    def _closing(self, _node) -> None:
        self.callbacks.on_scene_closing()

    def _closed(self, _node) -> None:
        for key in list(self._bound):
            self._forget(key)
        self.callbacks.on_scene_closed()

    def _imported(self, _node) -> None:
        self.find()
        self.callbacks.on_scene_loaded()

    def _saving(self, _node) -> None:
        self.find()

    def _follow_volume(self, case_id: str) -> None:
        """Nodes that the user cannot choose go along into the volume's transform."""
        nodes = self.nodes_of(case_id)
        if nodes.volume is None or self._scene.IsImporting():
            return
        for node in (nodes.suggestion, nodes.uncertainty):
            if node is not None and node.GetTransformNodeID() != nodes.volume.GetTransformNodeID():
                node.SetAndObserveTransformNodeID(nodes.volume.GetTransformNodeID())

    def _refer_to_volume(self, case_id: str) -> None:
        """A volume that took another's place is the one that is drawn on from now on."""
        nodes = self.nodes_of(case_id)
        if nodes.volume is None or nodes.volume.GetImageData() is None:
            return
        for node in (nodes.drawn, nodes.suggestion):
            if node is None:
                continue
            role = node.GetReferenceImageGeometryReferenceRole()
            if node.GetNodeReference(role) is not nodes.volume:
                node.SetReferenceImageGeometryParameterFromVolumeNode(nodes.volume)

    def _drawn_changed(self, case_id: str, *, segments: bool) -> None:
        if self._quiet.get(case_id) or self._scene.IsClosing():
            return
        self.callbacks.on_drawn_modified(case_id)
        if segments:
            self.callbacks.on_segments_changed(case_id)


def bound_to(node) -> tuple[str, str, str] | None:
    """Study, case and role that a node's attributes name; None where one is missing."""
    values = tuple(node.GetAttribute(name) for name in (STUDY, CASE, ROLE))
    return values if all(values) else None


def studies_in(scene) -> tuple[str, ...]:
    """The ids of the studies that nodes of the scene name."""
    return tuple(sorted({node.GetAttribute(STUDY) or "" for node in _candidates(scene)} - {""}))


def _candidates(scene) -> Iterator:
    for class_name in _CLASSES:
        for number in range(scene.GetNumberOfNodesByClass(class_name)):
            yield scene.GetNthNodeByClass(number, class_name)


def _strip(node) -> None:
    for name in (STUDY, CASE, ROLE):
        node.RemoveAttribute(name)


def _weak(me: weakref.ref, method: Callable):
    """An observer that does not keep the binding alive; it hands over the node, if any."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def call(_caller, _event, node=None):
        binding = me()
        if binding is not None:
            method(binding, node)

    return call


def _watch_volume(node, case_id: str, me: weakref.ref) -> list[int]:
    def call(_caller, _event):
        binding = me()
        if binding is not None:
            binding._follow_volume(case_id)

    return [node.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, call)]


def _watch_drawn(node, case_id: str, me: weakref.ref) -> list[int]:
    """Observe on the node, which passes on its segmentation's events also after it was replaced."""

    def tell(segments: bool):
        def call(_caller, _event):
            binding = me()
            if binding is not None:
                binding._drawn_changed(case_id, segments=segments)

        return call

    segmentation = slicer.vtkSegmentation
    events = {
        segmentation.SourceRepresentationModified: False,
        segmentation.SegmentAdded: True,
        segmentation.SegmentRemoved: True,
        segmentation.SegmentModified: True,
        segmentation.SegmentsOrderModified: True,
        slicer.vtkMRMLSegmentationNode.SegmentationChangedEvent: True,
    }
    return [node.AddObserver(event, tell(segments)) for event, segments in events.items()]
