"""qMRMLSegmentEditorWidget, thin, over Slicer's own segment editor logic and node."""

from __future__ import annotations

import logging
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

import slicer
from host.layout_manager import qMRMLWidget

_LOG = logging.getLogger(__name__)
_EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Scissors")


class qMRMLSegmentEditorWidget(qMRMLWidget):  # noqa: N801
    """Segment list, effect buttons, undo and redo; strokes are made by tests (see strokes.py)."""

    currentSegmentIDChanged = QtCore.Signal(str)  # noqa: N815
    segmentationNodeChanged = QtCore.Signal(object)  # noqa: N815
    sourceVolumeNodeChanged = QtCore.Signal(object)  # noqa: N815
    segmentationNodeSelectorVisible, sourceVolumeNodeSelectorVisible = True, True  # noqa: N815
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
        self._node_tag: int | None = None
        self._observed: Any = None
        self._segmentation_tags: list[int] = []
        self._shown: tuple[Any, Any, str] = (None, None, "")
        self._order, self._read_only = list(_EFFECTS), False
        self._build()
        self.destroyed.connect(self._let_go)

    def _build(self) -> None:
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
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
        self._effects = QtWidgets.QGridLayout()
        layout.addLayout(self._effects)
        self._effect_buttons: dict[str, QtWidgets.QPushButton] = {}
        self._build_effects()

    def _build_effects(self) -> None:
        for button in self._effect_buttons.values():
            self._effects.removeWidget(button)
            button.deleteLater()
        self._effect_buttons = {}
        for index, name in enumerate(self._order):
            button = QtWidgets.QPushButton(name)
            button.checkable = True
            button.clicked.connect(lambda checked, name=name: self._choose(name, checked))
            self._effect_buttons[name] = button
            self._effects.addWidget(button, index // 3, index % 3)

    def _choose(self, name: str, checked: bool) -> None:
        self.setActiveEffectByName(name if checked else "")

    # Scene and nodes -------------------------------------------------------------------------

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        self._logic.SetMRMLScene(scene)
        qMRMLWidget.setMRMLScene(self, scene)

    def mrmlSegmentEditorNode(self) -> Any:  # noqa: N802
        return self._node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:  # noqa: N802
        if self._node is not None and self._node_tag is not None:
            self._node.RemoveObserver(self._node_tag)
        self._node = node
        self._logic.SetSegmentEditorNode(node)
        if node is not None:
            self._node_tag = node.AddObserver("ModifiedEvent", self._on_node)
        self.updateWidgetFromMRML()

    def segmentationNode(self) -> Any:  # noqa: N802
        return self._node.GetSegmentationNode() if self._node is not None else None

    def setSegmentationNode(self, node: Any) -> None:  # noqa: N802
        """Also chooses the first segment, as the application does."""
        if self._node is None:
            _LOG.error("setSegmentationNode needs a segment editor node first")
            return
        self._logic.SetSegmentationNode(node)
        self._select_first()
        self.updateWidgetFromMRML()

    def setSegmentationNodeID(self, node_id: str) -> None:  # noqa: N802
        self.setSegmentationNode(self._scene.GetNodeByID(node_id))

    def segmentationNodeID(self) -> str:  # noqa: N802
        node = self.segmentationNode()
        return node.GetID() if node is not None else ""

    def sourceVolumeNode(self) -> Any:  # noqa: N802
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setSourceVolumeNode(self, node: Any) -> None:  # noqa: N802
        if self._node is None:
            _LOG.error("setSourceVolumeNode needs a segment editor node first")
            return
        self._logic.SetSourceVolumeNode(node)
        self.updateWidgetFromMRML()

    def setSourceVolumeNodeID(self, node_id: str) -> None:  # noqa: N802
        self.setSourceVolumeNode(self._scene.GetNodeByID(node_id))

    # Segments --------------------------------------------------------------------------------

    def currentSegmentID(self) -> str:  # noqa: N802
        return (self._node.GetSelectedSegmentID() or "") if self._node is not None else ""

    def setCurrentSegmentID(self, segment_id: str) -> None:  # noqa: N802
        self._logic.SetCurrentSegmentID(segment_id)
        self.updateWidgetFromMRML()

    def _add_segment(self) -> None:
        segmentation = self.segmentationNode().GetSegmentation()
        self.setCurrentSegmentID(segmentation.AddEmptySegment())

    def _remove_segment(self) -> None:
        self.saveStateForUndo()
        segmentation = self.segmentationNode().GetSegmentation()
        segmentation.RemoveSegment(self.currentSegmentID())
        self._select_first()
        self.updateWidgetFromMRML()

    def _select_first(self) -> None:
        node = self.segmentationNode()
        ids = node.GetSegmentation().GetSegmentIDs() if node is not None else ()
        if self.currentSegmentID() not in ids:
            self._logic.SetCurrentSegmentID(ids[0] if ids else "")

    def _on_row(self, row: int) -> None:
        if row >= 0:
            self.setCurrentSegmentID(self._list.item(row).data(QtCore.Qt.ItemDataRole.UserRole))

    # Effects, undo ---------------------------------------------------------------------------

    def availableEffectNames(self) -> tuple[str, ...]:  # noqa: N802
        return _EFFECTS

    def effectNameOrder(self) -> list[str]:  # noqa: N802
        return self._order

    def setEffectNameOrder(self, names: list[str]) -> None:  # noqa: N802
        rest = [] if not self.unorderedEffectsVisible else [n for n in _EFFECTS if n not in names]
        self._order = [n for n in names if n in _EFFECTS] + rest
        self._build_effects()

    def setActiveEffectByName(self, name: str) -> None:  # noqa: N802
        self._node.SetActiveEffectName(name)
        self.updateWidgetFromMRML()

    def setActiveEffect(self, effect: Any) -> None:  # noqa: N802
        """Only None, no effect, is known here."""
        self.setActiveEffectByName("" if effect is None else effect.name)

    def activeEffect(self) -> Any:  # noqa: N802
        name = self._node.GetActiveEffectName() if self._node is not None else ""
        return self._effect_buttons.get(name) if name else None

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

    def setMaximumNumberOfUndoStates(self, count: int) -> None:  # noqa: N802
        self.maximumNumberOfUndoStates = count

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
        self._observe(self.segmentationNode())
        self._fill_list()
        active = self._node.GetActiveEffectName() if self._node is not None else ""
        usable = self.segmentationNode() is not None and not self._read_only
        for name, button in self._effect_buttons.items():
            button.checked, button.enabled = name == active, usable
        self._add.enabled = self._remove.enabled = usable
        self._show_undo()
        self._tell_changes()

    def _show_undo(self) -> None:
        self._undo.enabled = bool(self._node is not None and self._logic.CanUndo())
        self._redo.enabled = bool(self._node is not None and self._logic.CanRedo())

    def _tell_changes(self) -> None:
        before = self._shown
        now = (self.segmentationNode(), self.sourceVolumeNode(), self.currentSegmentID())
        self._shown = now
        signals = (self.segmentationNodeChanged, self.sourceVolumeNodeChanged)
        for signal, old, new in zip(signals, before[:2], now[:2], strict=True):
            if old is not new:
                signal.emit(new)
        if before[2] != now[2]:
            self.currentSegmentIDChanged.emit(now[2])

    def _fill_list(self) -> None:
        blocked = self._list.blockSignals(True)
        self._list.clear()
        node = self.segmentationNode()
        segmentation = node.GetSegmentation() if node is not None else None
        for segment_id in segmentation.GetSegmentIDs() if segmentation is not None else ():
            segment = segmentation.GetSegment(segment_id)
            picture = QtGui.QPixmap(14, 14)
            picture.fill(QtGui.QColor.fromRgbF(*segment.GetColor()))
            item = QtWidgets.QListWidgetItem(QtGui.QIcon(picture), segment.GetName())
            item.setData(QtCore.Qt.ItemDataRole.UserRole, segment_id)
            self._list.addItem(item)
            if segment_id == self.currentSegmentID():
                self._list.setCurrentItem(item)
        self._list.blockSignals(blocked)

    def _observe(self, node: Any) -> None:
        segmentation = node.GetSegmentation() if node is not None else None
        if segmentation is self._observed:
            return
        for tag in self._segmentation_tags:
            self._observed.RemoveObserver(tag)
        self._observed, self._segmentation_tags = segmentation, []
        if segmentation is not None:
            kind = slicer.vtkSegmentation
            events = (kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified)
            add = segmentation.AddObserver
            self._segmentation_tags = [add(e, self._on_segments) for e in events]

    def _on_segments(self, *_values: Any) -> None:
        self._fill_list()

    def _on_node(self, *_values: Any) -> None:
        self.updateWidgetFromMRML()

    def _let_go(self, *_values: Any) -> None:
        if self._node is not None and self._node_tag is not None:
            self._node.RemoveObserver(self._node_tag)
        for tag in self._segmentation_tags:
            self._observed.RemoveObserver(tag)
        self._node, self._segmentation_tags = None, []
