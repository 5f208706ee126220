"""qMRMLNodeComboBox: a node selector over the real scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from host.observations import Observations


class qMRMLNodeComboBox(QtWidgets.QWidget):  # noqa: N801
    """Lists the scene's nodes of some classes and keeps up with it."""

    currentNodeChanged = QtCore.Signal(object)  # noqa: N815
    currentNodeIDChanged = QtCore.Signal(str)  # noqa: N815
    nodeActivated = QtCore.Signal(object)  # noqa: N815
    nodeAdded = QtCore.Signal(object)  # noqa: N815
    nodeAddedByUser = QtCore.Signal(object)  # noqa: N815
    nodeAboutToBeRemoved = QtCore.Signal(object)  # noqa: N815
    addEnabled, removeEnabled, editEnabled, renameEnabled = True, True, False, False  # noqa: N815
    selectNodeUponCreation, showHidden = True, False  # noqa: N815
    baseName = ""  # noqa: N815
    _EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent")

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._combo = QtWidgets.QComboBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._scene: Any = None
        self._observed = Observations(self)
        self._types: list[str] = []
        self._attributes: list[tuple[str, str, Any]] = []
        self._none_enabled, self._none_text, self._children_too = False, "None", True
        self._current: str | None = None
        self._place = 0
        self._combo.activated.connect(self._on_activated)

    @property
    def nodeTypes(self) -> list[str]:  # noqa: N802
        return self._types

    @nodeTypes.setter
    def nodeTypes(self, types: list[str]) -> None:  # noqa: N802
        self._types = list(types)
        self._fill()

    @property
    def noneEnabled(self) -> bool:  # noqa: N802
        return self._none_enabled

    @noneEnabled.setter
    def noneEnabled(self, value: bool) -> None:  # noqa: N802
        self._none_enabled = value
        self._fill()

    @property
    def noneDisplay(self) -> str:  # noqa: N802
        return self._none_text

    @noneDisplay.setter
    def noneDisplay(self, text: str) -> None:  # noqa: N802
        self._none_text = text
        self._fill()

    @property
    def showChildNodeTypes(self) -> bool:  # noqa: N802
        return self._children_too

    @showChildNodeTypes.setter
    def showChildNodeTypes(self, value: bool) -> None:  # noqa: N802
        self._children_too = value
        self._fill()

    def mrmlScene(self) -> Any:  # noqa: N802
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        self._observed.clear()
        self._scene = scene
        for name in self._EVENTS if scene is not None else ():
            self._observed.add(scene, getattr(scene, name), self._on_scene)
        self._fill()
        if self._current is None and not self._none_enabled and self._nodes():
            self.setCurrentNode(self._nodes()[0])  # only now: nodes that come later are not chosen

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:  # noqa: N802
        self._attributes.append((node_type, name, value))
        self._fill()

    def currentNode(self) -> Any:  # noqa: N802
        return self._scene.GetNodeByID(self._current) if self._current and self._scene else None

    def setCurrentNode(self, node: Any) -> None:  # noqa: N802
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    @property
    def currentNodeID(self) -> str:  # noqa: N802
        return self._current or ""

    @currentNodeID.setter
    def currentNodeID(self, node_id: str) -> None:  # noqa: N802
        self.setCurrentNodeID(node_id)

    def setCurrentNodeID(self, node_id: str) -> None:  # noqa: N802
        self._fill()
        index = self._combo.findData(node_id or "")
        self._combo.currentIndex = index
        self._take(self._combo.itemData(index) if index >= 0 else None)
        self._place = max(index - int(self._none_enabled), 0)

    def nodeCount(self) -> int:  # noqa: N802
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:  # noqa: N802
        return self._nodes()[index]

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = [n for t in self._types for n in slicer.util.getNodesByClass(t, self._scene)]
        return [n for n in nodes if self._accepts(n)]

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if not self._children_too and node.GetClassName() not in self._types:
            return False
        wanted = [(n, v) for t, n, v in self._attributes if node.IsA(t)]
        return all(
            node.GetAttribute(name) is not None
            and (value is None or node.GetAttribute(name) == str(value))
            for name, value in wanted
        )

    def _fill(self) -> None:
        """List the nodes again; a node that was lost gives way to the next one, as in Slicer."""
        nodes, place = self._nodes(), self._place
        self._combo.clear()
        if self._none_enabled:
            self._combo.addItem(self._none_text, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        ids = [n.GetID() for n in nodes]
        kept = self._current if self._current in ids else None
        if kept is None and self._current is not None and not self._none_enabled:
            kept = ids[place] if place < len(ids) else None
        self._place = ids.index(kept) if kept in ids else 0
        self._combo.currentIndex = self._combo.findData(kept or "")
        self._take(kept)

    def _take(self, node_id: str | None) -> None:
        node_id = node_id or None
        if node_id == self._current:
            return
        self._current = node_id
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(node_id or "")

    def _on_activated(self, index: int) -> None:
        self._take(self._combo.itemData(index))
        self.nodeActivated.emit(self.currentNode())

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_scene(self, scene: Any, _event: str, node: Any = None) -> None:
        if node is None or self._is_listed(node):
            self._fill()

    def _is_listed(self, node: Any) -> bool:
        return any(node.IsA(t) for t in self._types)
