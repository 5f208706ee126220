"""The nodes behind the live plot: a table of loss and one of Dice, their series, one chart."""

from __future__ import annotations

from collections.abc import Iterable

import slicer
import vtk
from slicer.i18n import tr as _

_CURVES = {
    "loss": (0.85, 0.37, 0.01),
    "dice": (0.11, 0.62, 0.47),
}


class CurveNodes:
    """Tables, plot series and charts of one training; made once, emptied for the next.

    They are hidden from choosers and saved with no scene; after the scene was closed they are
    made anew when they are needed.
    """

    def __init__(self, scene) -> None:
        self._scene = scene
        self._nodes: dict[str, object] = {}

    @property
    def chart_node(self):
        """The chart of the loss."""
        return self.chart("loss")

    def chart(self, name: str):
        """The chart of "loss" or "dice"."""
        table = self.table(name)
        title = {"loss": _("Loss"), "dice": _("Dice")}[name]
        series, is_new = self._node("vtkMRMLPlotSeriesNode", "series", name)
        if is_new:
            series.SetName(title)
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName("step")
            series.SetYColumnName(name)
            series.SetPlotType(series.PlotTypeScatter)
            series.SetMarkerStyle(series.MarkerStyleNone)
            series.SetColor(*_CURVES[name])
        chart, is_new = self._node("vtkMRMLPlotChartNode", "chart", name)
        if is_new:
            chart.SetAndObservePlotSeriesNodeID(series.GetID())
            chart.SetTitle(title)
            chart.SetXAxisTitle(_("Step"))
            chart.SetYAxisTitle(title)
            chart.SetLegendVisibility(False)
        return chart

    def table(self, name: str):
        """The table of "loss" or "dice", with the columns step and that name."""
        node, is_new = self._node("vtkMRMLTableNode", "table", name)
        if is_new:
            rows = vtk.vtkTable()
            for column in ("step", name):
                array = vtk.vtkDoubleArray()
                array.SetName(column)
                rows.AddColumn(array)
            node.SetAndObserveTable(rows)
        return node

    def append(self, name: str, step: float, value: float) -> None:
        """One point more in the curve "loss" or "dice"."""
        self.extend(name, [(step, value)])

    def extend(self, name: str, points: Iterable[tuple[float, float]]) -> None:
        """Points (step, value) more, told to the views once."""
        table = self.table(name)
        rows = table.GetTable()
        modifying = table.StartModify()
        for step, value in points:
            rows.GetColumn(0).InsertNextValue(float(step))
            rows.GetColumn(1).InsertNextValue(float(value))
        rows.Modified()
        table.EndModify(modifying)

    def clear(self) -> None:
        """No points, for a new training."""
        for name in _CURVES:
            rows = self.table(name).GetTable()
            for column in (0, 1):
                rows.GetColumn(column).SetNumberOfTuples(0)
            rows.Modified()

    def close(self) -> None:
        """Take the nodes out of the scene."""
        for node in reversed(self._nodes.values()):
            if self._scene.IsNodePresent(node):
                self._scene.RemoveNode(node)
        self._nodes = {}

    def _node(self, class_name: str, kind: str, name: str):
        """A node of ours, and whether it was made just now."""
        key = f"{kind}.{name}"
        node = self._nodes.get(key)
        if node is not None and self._scene.IsNodePresent(node):
            return node, False
        node = getattr(slicer, class_name)()
        node.SetName(f"SemiSeg {name}")
        node.SetHideFromEditors(True)  # before it is added, so that no tree ever lists it
        node.SetSaveWithScene(False)
        self._scene.AddNode(node)
        self._nodes[key] = node
        return node, True
