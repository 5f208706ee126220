"""qMRMLPlotWidget and qMRMLPlotView: the chart node's series, drawn with QPainter."""

from __future__ import annotations

import math
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from host.layout_manager import qMRMLWidget
from host.observations import Observations

Point = tuple[float, float]


def points_of(series: Any) -> list[Point]:
    """The rows of a series' table: x and y."""
    table = series.GetTableNode()
    if table is None:
        return []
    names = (series.GetXColumnName(), series.GetYColumnName())
    columns = [table.GetTable().GetColumnByName(name) for name in names]
    if columns[1] is None:
        return []
    count = columns[1].GetNumberOfTuples()
    xs = [columns[0].GetTuple1(i) if columns[0] is not None else i for i in range(count)]
    return [(x, columns[1].GetTuple1(i)) for i, x in enumerate(xs)]


class qMRMLPlotView(QtWidgets.QWidget):  # noqa: N801
    """Lines with axes and a legend, kept up with the chart node."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._view_node: Any = None
        self._observed = Observations(self)
        self.setMinimumHeight(120)

    def setMRMLScene(self, _scene: Any) -> None:  # noqa: N802
        """The nodes know theirs."""

    def setMRMLPlotViewNode(self, node: Any) -> None:  # noqa: N802
        self._view_node = node
        self._observe()

    def fitToContent(self) -> None:  # noqa: N802
        self.update()

    def _chart(self) -> Any:
        return self._view_node.GetPlotChartNode() if self._view_node is not None else None

    def _series(self) -> list[Any]:
        chart = self._chart()
        count = chart.GetNumberOfPlotSeriesNodes() if chart is not None else 0
        found = [chart.GetNthPlotSeriesNode(i) for i in range(count)]
        return [series for series in found if series is not None]

    def _observe(self, *_values: Any) -> None:
        self._observed.clear()
        tables = [s.GetTableNode() for s in self._series()]
        for node in (self._view_node, self._chart(), *self._series()):
            if node is not None:
                self._observed.add(node, "ModifiedEvent", self._observe)
        for table in tables:
            if table is not None:
                self._observed.add(table, "ModifiedEvent", self._on_table)
        self.update()

    def _on_table(self, *_values: Any) -> None:
        self.update()

    def paintEvent(self, _event: Any) -> None:  # noqa: N802
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), self.palette().base())
        frame = self.rect().adjusted(44, 22, -12, -34)
        painter.setPen(self.palette().color(QtGui.QPalette.ColorRole.Mid))
        painter.drawRect(frame)
        series = self._series()
        values = [p for s in series for p in points_of(s) if all(map(math.isfinite, p))]
        if values:
            box = _bounds(values)
            self._draw_axes(painter, frame, box)
            for number, one in enumerate(series):
                self._draw_series(painter, frame, box, one, number)
        painter.end()

    def _draw_axes(self, painter: QtGui.QPainter, frame: QtCore.QRect, box: QtCore.QRectF) -> None:
        painter.setPen(self.palette().color(QtGui.QPalette.ColorRole.Text))
        x, y = frame.left(), frame.bottom()
        painter.drawText(2, frame.top() + 10, f"{box.bottom():.3g}")
        painter.drawText(2, y, f"{box.top():.3g}")
        painter.drawText(x, y + 14, f"{box.left():.4g}")
        painter.drawText(frame.right() - 40, y + 14, f"{box.right():.4g}")
        chart = self._chart()
        painter.drawText(x, y + 28, chart.GetXAxisTitle() or "")
        painter.drawText(x, 14, chart.GetTitle() or "")

    def _draw_series(
        self, painter: QtGui.QPainter, frame: QtCore.QRect, box: QtCore.QRectF, series: Any, n: int
    ) -> None:
        painter.setPen(QtGui.QPen(QtGui.QColor.fromRgbF(*series.GetColor()), 2))
        line = QtGui.QPolygonF()
        for x, y in points_of(series):
            right = frame.left() + frame.width() * (x - box.left()) / (box.width() or 1)
            up = frame.bottom() - frame.height() * (y - box.top()) / (box.height() or 1)
            line.append(QtCore.QPointF(right, up))
        painter.drawPolyline(line)
        painter.drawText(frame.right() - 110, frame.top() + 16 * (n + 1), series.GetName() or "")


def _bounds(values: list[Point]) -> QtCore.QRectF:
    xs, ys = [v[0] for v in values], [v[1] for v in values]
    return QtCore.QRectF(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


class qMRMLPlotWidget(qMRMLWidget):  # noqa: N801
    """A plot view with its controller bar left out."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        qMRMLWidget.__init__(self, parent)
        self._view, self._controller = qMRMLPlotView(), QtWidgets.QWidget(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)

    def plotController(self) -> QtWidgets.QWidget:  # noqa: N802
        return self._controller

    def plotView(self) -> qMRMLPlotView:  # noqa: N802
        return self._view

    def mrmlPlotViewNode(self) -> Any:  # noqa: N802
        return self._view._view_node

    def setMRMLPlotViewNode(self, node: Any) -> None:  # noqa: N802
        self._view.setMRMLPlotViewNode(node)
