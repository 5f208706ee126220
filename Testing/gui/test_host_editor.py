"""The stand-in's Segment Editor treats nodes as Slicer's does, also where that surprises."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def bench(scene: Any) -> Iterator[SimpleNamespace]:
    """A volume, two segmentations on it with a segment each, an editor widget with its node."""
    import slicer

    volume = slicer.util.addVolumeFromArray(np.zeros((6, 8, 10), np.int16), name="scan")
    nodes = []
    for name in ("first", "second"):
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.GetSegmentation().AddEmptySegment(f"{name}1", f"{name} 1")
        nodes.append(node)
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(scene)
    editor.setMRMLSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    yield SimpleNamespace(volume=volume, first=nodes[0], second=nodes[1], editor=editor)
    editor.delete()


def test_another_segmentation_brings_its_volume_and_first_segment(bench: SimpleNamespace) -> None:
    bench.editor.setActiveEffectByName("Paint")
    bench.editor.setSegmentationNode(bench.second)
    assert bench.editor.sourceVolumeNode() is bench.volume
    assert bench.editor.currentSegmentID() == "second1"
    assert bench.editor.activeEffect() is None


def test_a_removed_segmentation_gives_way_to_its_neighbour(
    bench: SimpleNamespace, scene: Any
) -> None:
    bench.editor.setSegmentationNode(bench.first)
    scene.RemoveNode(bench.first)
    assert bench.editor.segmentationNode() is bench.second


def test_an_attribute_keeps_other_segmentations_out(bench: SimpleNamespace, scene: Any) -> None:
    bench.first.SetAttribute("Mine", "yes")
    bench.editor.segmentationNodeSelectorAddAttribute("vtkMRMLSegmentationNode", "Mine", "yes")
    bench.editor.setSegmentationNode(bench.first)
    scene.RemoveNode(bench.first)
    assert bench.editor.segmentationNode() is None


def test_an_added_segment_repeats_the_terminology_of_the_one_before(bench: SimpleNamespace) -> None:
    import vtk

    bench.editor.setSegmentationNode(bench.first)
    segmentation = bench.first.GetSegmentation()
    segmentation.GetSegment("first1").SetTag("TerminologyEntry", "a~b")
    bench.editor._add.click()
    found = vtk.reference("")
    segmentation.GetSegment(bench.editor.currentSegmentID()).GetTag("TerminologyEntry", found)
    assert str(found) == "a~b"
    assert segmentation.GetNumberOfSegments() == 2


def test_undo_and_redo_restore_strokes(bench: SimpleNamespace) -> None:
    from host.strokes import stroke, voxels_of

    bench.editor.setSegmentationNode(bench.first)
    voxels = np.zeros((6, 8, 10), bool)
    voxels[2:4, 2:5, 3:7] = True
    stroke(bench.first, "first1", bench.volume, voxels, editor=bench.editor)
    assert (voxels_of(bench.first, "first1", bench.volume) == voxels).all()
    bench.editor.undo()
    assert not voxels_of(bench.first, "first1", bench.volume).any()
    bench.editor.redo()
    assert (voxels_of(bench.first, "first1", bench.volume) == voxels).all()


def test_closing_the_scene_leaves_no_segmentation(bench: SimpleNamespace, scene: Any) -> None:
    bench.editor.setSegmentationNode(bench.first)
    scene.Clear(0)
    assert bench.editor.segmentationNode() is None
    assert bench.editor.sourceVolumeNode() is None
