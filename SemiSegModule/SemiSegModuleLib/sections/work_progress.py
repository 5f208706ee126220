"""How far the long work is: bar, phase, time left, Cancel, curves while learning."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SemiSegModuleLib.mrml.curves import CurveNodes
from SemiSegModuleLib.progress_words import progress_in_words
from SemiSegModuleLib.qt_helpers import button, column, row

_PLOT_HEIGHT = 125
_FONT_POINTS = 10
_CURVES = ("loss", "dice")


class ProgressArea:
    """Shows `session.task`; gone while nothing runs, but the last curves stay."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._curves: CurveNodes | None = None
        self._plots: dict[str, Any] = {}
        self._nodes: list[Any] = []
        self._drawn = dict.fromkeys(_CURVES, 0)
        self._task: Any = None
        self.bar = qt.QProgressBar()
        self.textLabel = qt.QLabel()
        self.textLabel.wordWrap = True
        self.cancelButton = button(_("Cancel"), self.onCancel)
        self.leaveButton = button(
            _("Leave it running"),
            self.onLeave,
            _("The work goes on on the cluster; follow it again in the section Where to compute"),
        )
        self.barArea, self.plotArea, self.widget = qt.QWidget(), qt.QWidget(), qt.QWidget()
        line = row(self.bar, self.leaveButton, self.cancelButton)
        line.setStretch(0, 1)
        column(self.barArea, line, self.textLabel)
        column(self.plotArea)
        column(self.widget, self.barArea, self.plotArea)
        self.plotArea.setVisible(False)
        self.show()

    def show(self) -> None:
        """Bring bar, text and curves to what the task says."""
        task = self._session.task
        self.barArea.setVisible(task is not None)
        if task is None:
            return
        known = task.total > 0 and not task.cancelling
        self.bar.maximum = task.total if known else 0
        self.bar.value = min(task.step, task.total) if known else 0
        self.textLabel.text = progress_in_words(task)
        self.cancelButton.enabled = not task.cancelling
        self.leaveButton.visible = self._session.can_leave()
        self.cancelButton.toolTip = (
            _("Stop; everything finished so far is kept")
            if self._session.remote is None
            else _("End the work on the cluster, too")
        )
        if task.kind == "learn":
            self._show_curves(task)
        else:
            self.plotArea.setVisible(False)

    def close(self) -> None:
        """Delete Slicer's plot widgets, then their nodes."""
        for plot in self._plots.values():
            plot.setMRMLScene(None)
            plot.deleteLater()
        self._plots.clear()
        self._remove_nodes()

    def _remove_nodes(self) -> None:
        scene = self._session.scene
        for node in self._nodes:
            if scene.IsNodePresent(node):
                scene.RemoveNode(node)
        self._nodes.clear()
        if self._curves is not None:
            self._curves.close()
            self._curves = None

    def onCancel(self, *_args: Any) -> None:
        self._session.cancel()

    def onLeave(self, *_args: Any) -> None:
        self._session.leave()

    def _show_curves(self, task: Any) -> None:
        if task is not self._task:
            self._task = task
            self._drawn = dict.fromkeys(_CURVES, 0)
            if self._curves is not None:
                self._curves.clear()
        if not any(task.curve.values()):
            return
        self._make_plots()
        self.plotArea.setVisible(True)
        curves = self._curves_now()
        if any(len(task.curve[name]) < self._drawn[name] for name in _CURVES):
            curves.clear()  # the task thinned its points
            self._drawn = dict.fromkeys(_CURVES, 0)
        for name, plot in self._plots.items():
            fresh = task.curve[name][self._drawn[name] :]
            if fresh:
                curves.extend(name, fresh)
                self._drawn[name] += len(fresh)
            plot.setVisible(bool(task.curve[name]))

    def _curves_now(self) -> CurveNodes:
        if self._curves is None:
            self._curves = CurveNodes(self._session.scene)
        return self._curves

    def _make_plots(self) -> None:
        """The plots exist from the first learning on; most visits to the panel need none."""
        scene = self._session.scene
        if self._nodes and all(scene.IsNodePresent(node) for node in self._nodes):
            return
        self._remove_nodes()  # the scene was closed meanwhile
        curves = self._curves_now()
        for name in _CURVES:
            if name not in self._plots:
                plot = self._plots[name] = slicer.qMRMLPlotWidget()
                plot.setMRMLScene(scene)
                plot.setFixedHeight(_PLOT_HEIGHT)
                plot.plotController().setVisible(False)
                self.plotArea.layout().addWidget(plot)
            view_node = self._view_node(name, curves.chart(name))
            self._plots[name].setMRMLPlotViewNode(view_node)

    def _view_node(self, name: str, chart: Any) -> Any:
        scene = self._session.scene
        _make_small(chart)
        node = slicer.vtkMRMLPlotViewNode()
        node.SetName(f"SemiSeg {name}")
        node.SetLayoutName(f"SemiSeg {name}")
        node.SetLayoutLabel("")
        node.SetSaveWithScene(False)
        # With a parent of its own, the application's layout does not show it as one of its views.
        node.SetAndObserveParentLayoutNodeID(chart.GetID())
        node = scene.AddNode(node)
        node.SetPlotChartNodeID(chart.GetID())
        self._nodes.append(node)
        return node


def _make_small(chart: Any) -> None:
    """Slicer's letters are for a whole view; these plots are as wide as the panel."""
    chart.SetXAxisTitleVisibility(False)
    chart.SetYAxisTitleVisibility(False)
    chart.SetTitleFontSize(_FONT_POINTS)
    chart.SetAxisLabelFontSize(_FONT_POINTS)
