"""qMRMLSegmentEditorWidget, thin, over Slicer's own segment editor logic and node.

It does with nodes what the real one does, also what a module may not expect: `segmentationNode()`
is what the (perhaps hidden) selector shows, which chooses a neighbour when its node goes; another
segmentation brings its reference volume and its first segment along; nothing is updated while the
scene is closed or loaded, and everything afterwards. Strokes are made by tests (see strokes.py).
"""

from __future__ import annotations

import logging
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from host.layout_manager import qMRMLWidget
from host.node_widgets import qMRMLNodeComboBox
from host.observations import Observations

_LOG = logging.getLogger(__name__)
_EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Scissors")
_NO_NODE = "qMRMLSegmentEditorWidget.%s needs the segment editor node (and segmentation) first"
_TERMINOLOGY = "TerminologyEntry"


class qSlicerSegmentEditorAbstractEffect(QtCore.QObject):  # noqa: N801
    """A tool; only its name is known here."""

    def __init__(self, name: str) -> None:
        QtCore.QObject.__init__(self)
        self._name = name

    @property
    def name(self) -> str:
        return self._name


class qMRMLSegmentEditorWidget(qMRMLWidget):  # noqa: N801
    """Node selectors, segment list, effect buttons, undo and redo."""

    currentSegmentIDChanged = QtCore.Signal(str)  # noqa: N815
    segmentationNodeChanged = QtCore.Signal(object)  # noqa: N815
    sourceVolumeNodeChanged = QtCore.Signal(object)  # noqa: N815
    switchToSegmentationsButtonVisible, specifyGeometryButtonVisible = True, True  # noqa: N815
    show3DButtonVisible, maskingSectionVisible = True, True  # noqa: N815
    addRemoveSegmentButtonsVisible, unorderedEffectsVisible = True, True  # noqa: N815
    autoShowSourceVolumeNode, jumpToSelectedSegmentEnabled = True, False  # noqa: N815
    effectButtonStyle, effectColumnCount, undoEnabled = 0, 2, True  # noqa: N815
    defaultTerminologyEntry, defaultTerminologyEntrySettingsKey = "", ""  # noqa: N815

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        qMRMLWidget.__init__(self, parent)
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._node: Any = None
        self._observed = Observations(self)
        self._segmentation: Any = None
        self._source: Any = None
        self._effects = [qSlicerSegmentEditorAbstractEffect(name) for name in _EFFECTS]
        self._order, self._read_only, self._shown_id = list(_EFFECTS), False, ""
        self._build()

    def _build(self) -> None:
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._segmentations, self._volumes = qMRMLNodeComboBox(), qMRMLNodeComboBox()
        self._segmentations.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._volumes.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self._volumes.noneEnabled, self._volumes.showChildNodeTypes = True, False
        layout.addWidget(self._segmentations)
        layout.addWidget(self._volumes)
        self._add, self._remove = QtWidgets.QPushButton("Add"), QtWidgets.QPushButton("Remove")
        self._undo, self._redo = QtWidgets.QPushButton("Undo"), QtWidgets.QPushButton("Redo")
        actions = (self._add_segment, self._remove_segment, self.undo, self.redo)
        buttons = (self._add, self._remove, self._undo, self._redo)
        first = QtWidgets.QHBoxLayout()
        for button, action in zip(buttons, actions, strict=True):
            button.clicked.connect(lambda *_, action=action: action())
            first.addWidget(button)
        layout.addLayout(first)
        self._list = QtWidgets.QListWidget()
        self._list.maximumHeight = 140
        self._list.currentRowChanged.connect(self._on_row)
        layout.addWidget(self._list)
        self._grid = QtWidgets.QGridLayout()
        layout.addLayout(self._grid)
        self._effect_buttons: dict[str, QtWidgets.QPushButton] = {}
        self._build_effects()
        self._segmentations.currentNodeChanged.connect(self._on_segmentation_chosen)
        self._volumes.currentNodeChanged.connect(self._on_volume_chosen)

    def _build_effects(self) -> None:
        for button in self._effect_buttons.values():
            self._grid.removeWidget(button)
            button.deleteLater()
        self._effect_buttons = {}
        for index, name in enumerate(self._order):
            button = QtWidgets.QPushButton(name)
            button.checkable = True
            button.clicked.connect(lambda checked, name=name: self._choose(name, checked))
            self._effect_buttons[name] = button
            self._grid.addWidget(button, index // 3, index % 3)

    def _choose(self, name: str, checked: bool) -> None:
        self.setActiveEffectByName(name if checked else "")

    # Scene and nodes -------------------------------------------------------------------------

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        self._logic.SetMRMLScene(scene)
        for selector in (self._segmentations, self._volumes):
            blocked = selector.blockSignals(True)
            selector.setMRMLScene(scene)
            selector.blockSignals(blocked)
        qMRMLWidget.setMRMLScene(self, scene)
        for event in (scene.EndCloseEvent, scene.EndBatchProcessEvent):
            self._observed.add(scene, event, self._on_scene_ready)
        self.updateWidgetFromMRML()

    def _on_scene_ready(self, *_values: Any) -> None:
        if self._node is not None:
            if self._node.GetSegmentationNode() is not self._segmentations.currentNode():
                self.setSegmentationNode(self._segmentations.currentNode())
            if self._node.GetSourceVolumeNode() is not self._volumes.currentNode():
                self.setSourceVolumeNode(self._volumes.currentNode())
        self.updateWidgetFromMRML()

    def _on_segmentation_chosen(self, node: Any) -> None:
        if self._scene is not None and not self._scene.IsBatchProcessing():
            self.setSegmentationNode(node)

    def _on_volume_chosen(self, node: Any) -> None:
        if self._scene is not None and not self._scene.IsBatchProcessing():
            self.setSourceVolumeNode(node)

    def mrmlSegmentEditorNode(self) -> Any:  # noqa: N802
        return self._node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:  # noqa: N802
        if node is self._node:
            return
        self._observed.drop(self._node)
        if node is not None:
            self._observed.add(node, "ModifiedEvent", self._on_node)
        self._node = node
        self._logic.SetSegmentEditorNode(node)
        if node is not None:
            self.updateWidgetFromMRML()

    def _on_node(self, *_values: Any) -> None:
        self.updateWidgetFromMRML()

    def segmentationNode(self) -> Any:  # noqa: N802
        return self._segmentations.currentNode()

    def setSegmentationNode(self, node: Any) -> None:  # noqa: N802
        if self._node is None:
            if node is not None:
                _LOG.error(_NO_NODE, "setSegmentationNode")
            return
        if self._node.GetSegmentationNode() is not node:
            self.setActiveEffect(None)
            self._node.SetAndObserveSegmentationNode(node)

    def segmentationNodeSelectorAddAttribute(  # noqa: N802
        self, node_type: str, name: str, value: Any = None
    ) -> None:
        self._segmentations.addAttribute(node_type, name, value)

    @property
    def segmentationNodeSelectorVisible(self) -> bool:  # noqa: N802
        return not self._segmentations.isHidden()

    @segmentationNodeSelectorVisible.setter
    def segmentationNodeSelectorVisible(self, value: bool) -> None:  # noqa: N802
        self._segmentations.setVisible(value)

    @property
    def sourceVolumeNodeSelectorVisible(self) -> bool:  # noqa: N802
        return not self._volumes.isHidden()

    @sourceVolumeNodeSelectorVisible.setter
    def sourceVolumeNodeSelectorVisible(self, value: bool) -> None:  # noqa: N802
        self._volumes.setVisible(value)

    def sourceVolumeNode(self) -> Any:  # noqa: N802
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setSourceVolumeNode(self, node: Any) -> None:  # noqa: N802
        if self._node is None or self.segmentationNode() is None:
            if node is not None:
                _LOG.error(_NO_NODE, "setSourceVolumeNode")
        elif self._node.GetSourceVolumeNode() is not node:
            self._node.SetAndObserveSourceVolumeNode(node)

    # Segments --------------------------------------------------------------------------------

    def currentSegmentID(self) -> str:  # noqa: N802
        return (self._node.GetSelectedSegmentID() or "") if self._node is not None else ""

    def setCurrentSegmentID(self, segment_id: str) -> None:  # noqa: N802
        if self._node is not None:
            self._node.SetSelectedSegmentID(segment_id)

    def _segment_ids(self) -> tuple[str, ...]:
        node = self._segmentation
        return node.GetSegmentation().GetSegmentIDs() if node is not None else ()

    def _add_segment(self) -> None:
        """The new segment gets the terminology of the one before it, as in the application."""
        self.saveStateForUndo()
        segmentation = self._segmentation.GetSegmentation()
        before = self._segment_ids()
        added = segmentation.AddEmptySegment()
        self.setCurrentSegmentID(added)
        if before:
            entry = _terminology(segmentation, before[-1])
            segmentation.GetSegment(added).SetTag(_TERMINOLOGY, entry)

    def _remove_segment(self) -> None:
        """The next segment is chosen before, or the last but one."""
        ids, current = list(self._segment_ids()), self.currentSegmentID()
        if current not in ids:
            return
        self.saveStateForUndo()
        place = ids.index(current)
        rest = ids[place + 1 :] or ids[:place][-1:]
        self.setCurrentSegmentID(rest[0] if rest else "")
        self._segmentation.GetSegmentation().RemoveSegment(current)

    def _on_row(self, row: int) -> None:
        if row >= 0:
            self.setCurrentSegmentID(self._list.item(row).data(QtCore.Qt.ItemDataRole.UserRole))

    # Effects, undo ---------------------------------------------------------------------------

    def effectByName(self, name: str) -> Any:  # noqa: N802
        return next((effect for effect in self._effects if effect.name == name), None)

    def setEffectNameOrder(self, names: list[str]) -> None:  # noqa: N802
        rest = [] if not self.unorderedEffectsVisible else [n for n in _EFFECTS if n not in names]
        self._order = [n for n in names if n in _EFFECTS] + rest
        self._build_effects()

    def setActiveEffectByName(self, name: str) -> None:  # noqa: N802
        self.setActiveEffect(self.effectByName(name))

    def setActiveEffect(self, effect: Any) -> None:  # noqa: N802
        if self._node is not None:
            self._node.SetActiveEffectName("" if effect is None else effect.name)
        elif effect is not None:
            _LOG.error(_NO_NODE, "setActiveEffect")

    def activeEffect(self) -> Any:  # noqa: N802
        return self.effectByName(self._node.GetActiveEffectName() if self._node else "")

    def saveStateForUndo(self) -> None:  # noqa: N802
        self._logic.SaveStateForUndo()
        self._show_undo()

    def undo(self) -> None:
        self._logic.Undo()
        self._show_undo()

    def redo(self) -> None:
        self._logic.Redo()
        self._show_undo()

    @property
    def maximumNumberOfUndoStates(self) -> int:  # noqa: N802
        return int(self._logic.GetMaximumNumberOfUndoStates())

    @maximumNumberOfUndoStates.setter
    def maximumNumberOfUndoStates(self, count: int) -> None:  # noqa: N802
        self._logic.SetMaximumNumberOfUndoStates(count)

    @property
    def readOnly(self) -> bool:  # noqa: N802
        return self._read_only

    @readOnly.setter
    def readOnly(self, value: bool) -> None:  # noqa: N802
        self._read_only = value
        self.updateWidgetFromMRML()

    def installKeyboardShortcuts(self, _parent: Any = None) -> None:  # noqa: N802
        """Keys are for hands."""

    def uninstallKeyboardShortcuts(self) -> None:  # noqa: N802
        """Keys are for hands."""

    def setupViewObservations(self) -> None:  # noqa: N802
        """Nothing is drawn with the mouse."""

    def removeViewObservations(self) -> None:  # noqa: N802
        """Nothing is drawn with the mouse."""

    # Keeping up with the scene ---------------------------------------------------------------

    def updateWidgetFromMRML(self) -> None:  # noqa: N802
        scene = self._scene
        if scene is None or scene.IsClosing() or scene.IsBatchProcessing() or self._node is None:
            return
        self._take_segmentation(self._node.GetSegmentationNode())
        self._take_source(self._node.GetSourceVolumeNode())
        self._fill_list()
        usable = self._source is not None and not self._read_only
        for name, button in self._effect_buttons.items():
            button.checked = name == self._node.GetActiveEffectName()
            button.enabled = usable
        self._add.enabled = self._remove.enabled = usable
        self._show_undo()
        if self.currentSegmentID() != self._shown_id:
            self._shown_id = self.currentSegmentID()
            self.currentSegmentIDChanged.emit(self._shown_id)

    def _take_segmentation(self, node: Any) -> None:
        _show_silently(self._segmentations, node)
        if node is self._segmentation:
            return
        self._observe_segments(node)
        self._segmentation = node
        if node is not None:
            role = node.GetReferenceImageGeometryReferenceRole()
            self.setSourceVolumeNode(node.GetNodeReference(role))
            node.CreateDefaultDisplayNodes()
            ids = self._segment_ids()
            if ids:
                self.setCurrentSegmentID(ids[0])
        self.segmentationNodeChanged.emit(node)

    def _take_source(self, node: Any) -> None:
        if self._segmentation is None or node is self._source:
            return
        self._source = node
        _show_silently(self._volumes, node)
        if node is not None and self.autoShowSourceVolumeNode:
            self._show_source(node)
        self.sourceVolumeNodeChanged.emit(node)

    def _show_source(self, node: Any) -> None:
        """Into the background, taking other volumes off, where it is not shown yet."""
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", self._scene):
            shown = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
            if node.GetID() not in shown:
                composite.SetBackgroundVolumeID(node.GetID())
                composite.SetForegroundVolumeID(None)
                composite.SetLabelVolumeID(None)

    def _show_undo(self) -> None:
        self._undo.enabled = bool(self._node is not None and self._logic.CanUndo())
        self._redo.enabled = bool(self._node is not None and self._logic.CanRedo())

    def _fill_list(self) -> None:
        blocked = self._list.blockSignals(True)
        self._list.clear()
        for segment_id in self._segment_ids():
            segment = self._segmentation.GetSegmentation().GetSegment(segment_id)
            picture = QtGui.QPixmap(14, 14)
            picture.fill(QtGui.QColor.fromRgbF(*segment.GetColor()))
            item = QtWidgets.QListWidgetItem(QtGui.QIcon(picture), segment.GetName())
            item.setData(QtCore.Qt.ItemDataRole.UserRole, segment_id)
            self._list.addItem(item)
            if segment_id == self.currentSegmentID():
                self._list.setCurrentItem(item)
        self._list.blockSignals(blocked)

    def _observe_segments(self, node: Any) -> None:
        if self._segmentation is not None:
            self._observed.drop(self._segmentation.GetSegmentation())
        if node is not None:
            kind, segmentation = slicer.vtkSegmentation, node.GetSegmentation()
            for event in (kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified):
                self._observed.add(segmentation, event, self._on_segments)

    def _on_segments(self, *_values: Any) -> None:
        self._fill_list()


def _show_silently(selector: qMRMLNodeComboBox, node: Any) -> None:
    if selector.currentNode() is not node:
        blocked = selector.blockSignals(True)
        selector.setCurrentNode(node)
        selector.blockSignals(blocked)


def _terminology(segmentation: Any, segment_id: str) -> str:
    found = vtk.reference("")
    segmentation.GetSegment(segment_id).GetTag(_TERMINOLOGY, found)
    return str(found)
