"""Slice and 3-D views of the layout, over real slice nodes and logics."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets


class qMRMLWidget(QtWidgets.QWidget):  # noqa: N801
    """A widget that knows a scene."""

    mrmlSceneChanged = QtCore.Signal(object)  # noqa: N815

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:  # noqa: N802
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qMRMLSliceView(QtWidgets.QWidget):  # noqa: N801
    """The picture of one slice; a painter may be hung in (see window.py)."""

    def __init__(self, logic: Any) -> None:
        QtWidgets.QWidget.__init__(self)
        self._logic = logic
        self._painter: Any = None
        self._scale = 1.0

    def mrmlSliceNode(self) -> Any:  # noqa: N802
        return self._logic.GetSliceNode()

    def scheduleRender(self) -> None:  # noqa: N802
        self.update()

    def forceRender(self) -> None:  # noqa: N802
        self.repaint()

    def paintEvent(self, _event: Any) -> None:  # noqa: N802
        if self._painter is not None:
            self._painter(self, self._logic)

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        size = event.size() * self._scale
        self._logic.ResizeSliceNode(size.width(), size.height())


class qMRMLSliceControllerWidget(qMRMLWidget):  # noqa: N801
    """The bar above a slice view: its name and where it is."""

    def __init__(self, logic: Any) -> None:
        qMRMLWidget.__init__(self)
        self._logic = logic

    def mrmlSliceNode(self) -> Any:  # noqa: N802
        return self._logic.GetSliceNode()

    def sliceLogic(self) -> Any:  # noqa: N802
        return self._logic

    def setSliceOffsetValue(self, offset: float) -> None:  # noqa: N802
        self._logic.SetSliceOffset(offset)

    def fitSliceToBackground(self) -> None:  # noqa: N802
        self._logic.FitSliceToBackground()


class qMRMLSliceWidget(qMRMLWidget):  # noqa: N801
    """One slice view with its real logic and nodes."""

    def __init__(self, logic: Any) -> None:
        qMRMLWidget.__init__(self)
        self._logic = logic
        self._view = qMRMLSliceView(logic)
        self._controller = qMRMLSliceControllerWidget(logic)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.spacing = 0
        layout.addWidget(self._controller)
        layout.addWidget(self._view, 1)

    def sliceLogic(self) -> Any:  # noqa: N802
        return self._logic

    def mrmlSliceNode(self) -> Any:  # noqa: N802
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:  # noqa: N802
        return self._logic.GetSliceCompositeNode()

    def sliceView(self) -> qMRMLSliceView:  # noqa: N802
        return self._view

    def sliceController(self) -> qMRMLSliceControllerWidget:  # noqa: N802
        return self._controller

    def fitSliceToBackground(self) -> None:  # noqa: N802
        self._logic.FitSliceToBackground()

    @property
    def sliceViewName(self) -> str:  # noqa: N802
        return str(self._logic.GetSliceNode().GetLayoutName())


class qMRMLThreeDView(QtWidgets.QWidget):  # noqa: N801
    """A 3-D view that shows nothing."""

    def __init__(self, node: Any) -> None:
        QtWidgets.QWidget.__init__(self)
        self._node = node

    def mrmlViewNode(self) -> Any:  # noqa: N802
        return self._node

    def resetFocalPoint(self) -> None:  # noqa: N802
        """Nothing to move."""

    def resetCamera(self) -> None:  # noqa: N802
        """Nothing to move."""

    def scheduleRender(self) -> None:  # noqa: N802
        self.update()


class qMRMLThreeDWidget(qMRMLWidget):  # noqa: N801
    """The place of a 3-D view, with its real node."""

    def __init__(self, node: Any) -> None:
        qMRMLWidget.__init__(self)
        self._view = qMRMLThreeDView(node)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)

    def mrmlViewNode(self) -> Any:  # noqa: N802
        return self._view.mrmlViewNode()

    def threeDView(self) -> qMRMLThreeDView:  # noqa: N802
        return self._view


class qSlicerLayoutManager(QtCore.QObject):  # noqa: N801
    """Three slice views and one 3-D view, whatever the layout asks for."""

    layoutChanged = QtCore.Signal(int)  # noqa: N815
    _ORIENTATIONS = (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal"))

    def __init__(self, scene: Any, application_logic: Any) -> None:
        QtCore.QObject.__init__(self)
        self._scene = scene
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLScene(scene)
        self._logics = vtk.vtkCollection()
        self._slices = {name: self._slice_widget(name) for name, _ in self._ORIENTATIONS}
        application_logic.SetSliceLogics(self._logics)
        view = scene.GetFirstNodeByClass("vtkMRMLViewNode")
        self._three_d = qMRMLThreeDWidget(view)
        self._viewport: QtWidgets.QWidget | None = None

    def _slice_widget(self, name: str) -> qMRMLSliceWidget:
        node = self._scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(self._scene)
        if node is None:
            node = logic.AddSliceNode(name)
            node.SetOrientation(dict(self._ORIENTATIONS)[name])
        else:
            logic.SetSliceNode(node)
        self._logics.AddItem(logic)
        return qMRMLSliceWidget(logic)

    def mrmlScene(self) -> Any:  # noqa: N802
        return self._scene

    def sliceViewNames(self) -> tuple[str, ...]:  # noqa: N802
        return tuple(self._slices)

    def sliceWidget(self, name: str) -> qMRMLSliceWidget | None:  # noqa: N802
        return self._slices.get(name)

    def mrmlSliceLogics(self) -> Any:  # noqa: N802
        return self._logics

    @property
    def threeDViewCount(self) -> int:  # noqa: N802
        return 1

    def threeDWidget(self, _index: int) -> qMRMLThreeDWidget:  # noqa: N802
        return self._three_d

    @property
    def plotViewCount(self) -> int:  # noqa: N802
        return 0

    @property
    def tableViewCount(self) -> int:  # noqa: N802
        return 0

    def layoutLogic(self) -> Any:  # noqa: N802
        return self._layout_logic

    @property
    def layout(self) -> int:
        return int(self._layout_logic.GetLayoutNode().GetViewArrangement())

    @layout.setter
    def layout(self, arrangement: int) -> None:
        self.setLayout(arrangement)

    def setLayout(self, arrangement: int) -> None:  # noqa: N802
        self._layout_logic.GetLayoutNode().SetViewArrangement(arrangement)
        self.layoutChanged.emit(arrangement)

    def resetSliceViews(self) -> None:  # noqa: N802
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:  # noqa: N802
        """Nothing is drawn in 3-D."""

    def pauseRender(self) -> None:  # noqa: N802
        """Pictures are drawn when they are asked for."""

    def resumeRender(self) -> None:  # noqa: N802
        """Pictures are drawn when they are asked for."""
