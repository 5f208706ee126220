"""The application's main window: module panel at the left, four views at the right."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from host import painting

_BARS = {"Red": ("R", "#f34a33"), "Green": ("G", "#6eb04b"), "Yellow": ("Y", "#edd54c")}
_PANEL_WIDTH = 500


class _Bar(QtWidgets.QWidget):
    """The coloured bar above a slice view: its letter, a slider and where the slice is."""

    def __init__(self, logic: Any, name: str) -> None:
        QtWidgets.QWidget.__init__(self)
        self._logic, (self._letter, self._color) = logic, _BARS[name]
        self.setFixedHeight(22)

    def paintEvent(self, _event: Any) -> None:  # noqa: N802
        painter = QtGui.QPainter(self)
        painter.fillRect(self.rect(), QtGui.QColor(self._color))
        painter.setPen(QtGui.QColor("black"))
        inside = self.rect().adjusted(8, 0, -8, 0)
        flags = QtCore.Qt.AlignmentFlag
        painter.drawText(inside, flags.AlignVCenter | flags.AlignLeft, self._letter)
        text = painting.offset_text(self._logic.GetSliceNode())
        painter.drawText(inside, flags.AlignVCenter | flags.AlignRight, text)
        line = inside.adjusted(20, 10, -90, -10)
        painter.fillRect(line, QtGui.QColor(0, 0, 0, 60))
        x = line.left() + round(line.width() * self._position())
        painter.fillRect(QtCore.QRect(x - 3, 4, 6, 14), QtGui.QColor(40, 40, 40))
        painter.end()

    def _position(self) -> float:
        low, high = self._bounds()
        offset = self._logic.GetSliceOffset()
        return min(1.0, max(0.0, (offset - low) / (high - low))) if high > low else 0.5

    def _bounds(self) -> tuple[float, float]:
        bounds = [0.0] * 6
        self._logic.GetSliceBounds(bounds)
        return bounds[4], bounds[5]


class _NoView(QtWidgets.QWidget):
    """In place of the 3-D view."""

    def paintEvent(self, _event: Any) -> None:  # noqa: N802
        painter = QtGui.QPainter(self)
        sky = QtGui.QLinearGradient(0, 0, 0, self.height)
        sky.setColorAt(0, QtGui.QColor(193, 195, 232))
        sky.setColorAt(1, QtGui.QColor(116, 120, 190))
        painter.fillRect(self.rect(), sky)
        painter.setPen(QtGui.QColor(60, 62, 110))
        painter.drawText(self.rect(), QtCore.Qt.AlignmentFlag.AlignCenter, "3-D view (not drawn)")
        painter.end()


class _Selector(QtWidgets.QToolBar):
    """The module selector: what `slicer.util.selectModule` asks for."""

    def __init__(self, window: MainWindow) -> None:
        QtWidgets.QToolBar.__init__(self)
        self._window = window

    @property
    def selectedModule(self) -> str:  # noqa: N802
        return self._window._shown

    def selectModule(self, name: str) -> None:  # noqa: N802
        self._window._show_module(name)


class MainWindow(QtWidgets.QMainWindow):
    """A window to take pictures of.

    `scale`: device pixels per logical pixel; a 3840 x 2160 picture at scale 2 shows what a window
    of 1920 x 1080 does.
    """

    def __init__(self, width: int = 1280, height: int = 800, scale: float = 1.0) -> None:
        QtWidgets.QMainWindow.__init__(self)
        self.objectName, self.windowTitle = "qSlicerMainWindow", "3D Slicer (stand-in)"
        self._scale, self._shown = scale, ""
        self._selector = _Selector(self)
        self._title = QtWidgets.QLabel()
        self._scroll = QtWidgets.QScrollArea()
        self._scroll.widgetResizable = True
        self._scroll.frameShape = QtWidgets.QFrame.Shape.NoFrame
        self._scroll.horizontalScrollBarPolicy = QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        left = QtWidgets.QWidget()
        left.setFixedWidth(_PANEL_WIDTH)
        column = QtWidgets.QVBoxLayout(left)
        column.setContentsMargins(6, 6, 0, 0)
        column.addWidget(self._title)
        column.addWidget(self._scroll, 1)
        whole = QtWidgets.QWidget()
        row = QtWidgets.QHBoxLayout(whole)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(left)
        row.addLayout(self._views(), 1)
        self.setCentralWidget(whole)
        self.resize(round(width / scale), round(height / scale))

    def moduleSelector(self) -> _Selector:  # noqa: N802
        return self._selector

    def _views(self) -> QtWidgets.QGridLayout:
        """Red and 3-D above Green and Yellow, as Slicer's four-up layout has them."""
        grid = QtWidgets.QGridLayout()
        grid.spacing = 2
        for name, place in (("Red", (0, 0)), ("Green", (1, 0)), ("Yellow", (1, 1))):
            grid.addWidget(self._slice_view(name), *place)
        grid.addWidget(_NoView(), 0, 1)
        for number in range(2):
            grid.setRowStretch(number, 1)
            grid.setColumnStretch(number, 1)
        return grid

    def _slice_view(self, name: str) -> QtWidgets.QWidget:
        widget = slicer.app.layoutManager().sliceWidget(name)
        view, logic = widget.sliceView(), widget.sliceLogic()
        view._scale = self._scale
        view._painter = functools.partial(painting.paint_view, scale=self._scale)
        holder = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.spacing = 0
        column.addWidget(_Bar(logic, name))
        column.addWidget(widget, 1)
        return holder

    def _show_module(self, name: str) -> None:
        """Leave the module that is shown and enter another; "" shows none."""
        old = self._scroll.takeWidget()
        if old is not None:
            old.exit()
            old.setParent(None)
        self._shown = name
        self._title.text = f"Modules:  {slicer.util.getModule(name).title}" if name else ""
        if name:
            widget = slicer.util.getModule(name).widgetRepresentation()
            self._scroll.setWidget(widget)
            widget.enter()

    def grab(self, path: Path | None = None) -> QtGui.QImage:
        """A picture of the window in device pixels; written as PNG where `path` says."""
        size = self.size() * self._scale
        image = QtGui.QImage(size, QtGui.QImage.Format.Format_RGB32)
        image.setDevicePixelRatio(self._scale)
        slicer.app.processEvents()
        self.render(image)
        if path is not None and not image.save(str(path)):
            raise OSError(f"the picture could not be written to {path}")
        return image

    def release(self) -> None:
        """Give the views and the module's panel back before the window goes."""
        self._show_module("")
        for name in _BARS:
            widget = slicer.app.layoutManager().sliceWidget(name)
            widget.setParent(None)
            widget.sliceView()._painter = None
        self.objectName = ""  # nobody shall find it any more
        self.close()
        self.deleteLater()


def set_palette(*, dark: bool) -> None:
    """Slicer's own light or dark look: Qt's Fusion style with a palette."""
    slicer.app.setStyle("Fusion")
    roles = QtGui.QPalette.ColorRole
    window, text = (QtGui.QColor(50, 50, 50), "white") if dark else ("#efefef", "black")
    base = QtGui.QColor(30, 30, 30) if dark else "white"
    palette = QtGui.QPalette(QtGui.QColor(window))
    for role in (roles.WindowText, roles.Text, roles.ButtonText, roles.ToolTipText):
        palette.setColor(role, QtGui.QColor(text))
    palette.setColor(roles.Base, QtGui.QColor(base))
    palette.setColor(roles.AlternateBase, QtGui.QColor(window))
    palette.setColor(roles.Highlight, QtGui.QColor(61, 120, 190))
    palette.setColor(roles.PlaceholderText, QtGui.QColor(128, 128, 128))
    grey = QtGui.QColor(127, 127, 127)
    for role in (roles.WindowText, roles.Text, roles.ButtonText):
        palette.setColor(QtGui.QPalette.ColorGroup.Disabled, role, grey)
    slicer.app.setPalette(palette)
