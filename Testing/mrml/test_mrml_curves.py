"""The plot's nodes: filled point by point, hidden, used again, gone at the end."""

from __future__ import annotations

import pytest

from SemiSegModuleLib.mrml.curves import CurveNodes

_CLASSES = ("vtkMRMLTableNode", "vtkMRMLPlotSeriesNode", "vtkMRMLPlotChartNode")


@pytest.fixture
def curves(world):
    """Curves in the scene."""
    made = CurveNodes(world.scene)
    yield made
    made.close()


def _count(world) -> list[int]:
    return [world.scene.GetNumberOfNodesByClass(name) for name in _CLASSES]


def _points(curves, name: str) -> list[tuple[float, float]]:
    rows = curves.table(name).GetTable()
    count = rows.GetNumberOfRows()
    return [(rows.GetValue(i, 0).ToDouble(), rows.GetValue(i, 1).ToDouble()) for i in range(count)]


def test_points_are_kept_in_their_order(curves):
    curves.append("loss", 1, 2.5)
    curves.extend("loss", [(2, 2.0), (3, 1.75)])
    curves.append("dice", 10, 0.5)
    assert _points(curves, "loss") == [(1, 2.5), (2, 2.0), (3, 1.75)]
    assert _points(curves, "dice") == [(10, 0.5)]


def test_a_chart_shows_its_table(curves):
    series = curves.chart_node.GetNthPlotSeriesNode(0)
    assert curves.chart_node.GetNumberOfPlotSeriesNodes() == 1
    assert series.GetTableNode() is curves.table("loss")
    assert (series.GetXColumnName(), series.GetYColumnName()) == ("step", "loss")


def test_a_new_training_starts_empty_in_the_same_nodes(world, curves):
    curves.append("loss", 1, 2.5)
    chart, count = curves.chart("dice"), _count(world)
    curves.clear()
    assert _points(curves, "loss") == []
    curves.append("loss", 1, 9.0)
    assert _points(curves, "loss") == [(1, 9.0)]
    assert curves.chart("dice") is chart
    assert _count(world) == count or _count(world) == [2, 1, 1]


def test_the_nodes_are_in_no_chooser_and_in_no_saved_scene(world, curves):
    curves.append("loss", 1, 2.5)
    for node in (curves.chart("loss"), curves.chart("dice"), curves.table("dice")):
        assert node.GetHideFromEditors()
        assert not node.GetSaveWithScene()


def test_closing_takes_the_nodes_away(world, curves):
    curves.chart("loss")
    curves.chart("dice")
    assert _count(world) == [2, 2, 2]
    curves.close()
    assert _count(world) == [0, 0, 0]
    curves.close()


def test_after_the_scene_was_closed_the_nodes_are_made_anew(world, curves):
    curves.append("loss", 1, 2.5)
    world.scene.Clear(0)
    curves.append("loss", 2, 2.0)
    assert _points(curves, "loss") == [(2, 2.0)]
    assert curves.chart_node.GetNthPlotSeriesNode(0).GetTableNode() is curves.table("loss")
