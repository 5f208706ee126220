"""Slicer's own Segment Editor inside the panel, on the drawn segmentation of the shown case."""

from __future__ import annotations

from typing import Any

import slicer

from SemiSegModuleLib.mrml.layers import structure_id_of
from SemiSegModuleLib.mrml.structures import ROLE

SINGLETON_TAG = "SemiSeg"
_UNDO_STATES = 10
_FIRST = 100.0
# Tools that draw at once. Others open a preview of the whole volume, which nobody asked for in the
# next case.
_CARRIED_OVER = frozenset({"Paint", "Draw", "Erase", "Level tracing", "Scissors"})


class EmbeddedEditor:
    """The editor widget with a parameter node of its own.

    The Segment Editor module keeps its own choices, and the two never share an active tool.
    """

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._effect = ""
        self._structure = 0
        self._entered = False
        self.widget = slicer.qMRMLSegmentEditorWidget()
        # When a segmentation goes, the editor turns to the next that its selector lists, also when
        # that selector is hidden: never to a suggestion, nor to what belongs to no study.
        kind = "vtkMRMLSegmentationNode"
        self.widget.segmentationNodeSelectorAddAttribute(kind, ROLE, "drawn")
        self.widget.setMRMLScene(scene)
        self.widget.segmentationNodeSelectorVisible = False
        self.widget.sourceVolumeNodeSelectorVisible = False
        self.widget.switchToSegmentationsButtonVisible = False
        self.widget.maximumNumberOfUndoStates = _UNDO_STATES
        # The panel shows volumes itself; the editor would take the uncertainty off the views.
        self.widget.autoShowSourceVolumeNode = False
        # Before Slicer's own logics, which take nodes away as soon as they hear of it.
        event = slicer.vtkMRMLScene.StartCloseEvent
        self._tag = scene.AddObserver(event, self._on_scene_closing, _FIRST)

    def show(self, drawn: Any, volume: Any) -> None:
        """Work on `drawn` over `volume`; both None releases all nodes.

        The tool and the structure in use are taken along to another case.
        """
        if self._scene.IsClosing():
            drawn = volume = None  # they are still there, but not for long
        if self.widget.segmentationNode() is drawn and self.widget.sourceVolumeNode() is volume:
            return
        self._remember()
        self._drop_effect()
        if drawn is None:
            self._release()
            return
        self.widget.setMRMLSegmentEditorNode(self._parameter_node())
        self.widget.setSegmentationNode(drawn)
        self.widget.setSourceVolumeNode(volume)
        self._restore(drawn)

    def enter(self) -> None:
        """The module is shown: its keys and its tool work again."""
        self._entered = True
        self.widget.setupViewObservations()
        self.widget.installKeyboardShortcuts()
        drawn = self.widget.segmentationNode()
        if drawn is not None:
            self._restore(drawn)

    def leave(self) -> None:
        """Another module is shown: no tool may draw in its views, no key be taken from it."""
        self._remember()
        self._entered = False
        self._drop_effect()
        self.widget.uninstallKeyboardShortcuts()
        self.widget.removeViewObservations()

    def save_undo(self) -> None:
        """Make what a program writes next one step of the editor's undo."""
        if self.widget.segmentationNode() is not None:
            self.widget.saveStateForUndo()

    def choose(self, structure: int) -> None:
        """Draw this structure next, where the case has it."""
        drawn = self.widget.segmentationNode()
        if drawn is not None:
            self._structure = structure
            self._restore(drawn)

    def close(self) -> None:
        """Give back all nodes and the widget."""
        self._scene.RemoveObserver(self._tag)
        self.leave()
        self._release()
        self.widget.deleteLater()
        self.widget = None

    def _on_scene_closing(self, *_args: Any) -> None:
        """A tool that is still active would work on nodes that are gone."""
        self.show(None, None)

    def _release(self) -> None:
        """Hold no node; the editor complains of nodes that it is given without its own."""
        if self.widget.mrmlSegmentEditorNode() is None:
            return
        self.widget.setSegmentationNode(None)
        self.widget.setSourceVolumeNode(None)
        self.widget.setMRMLSegmentEditorNode(None)

    def _drop_effect(self) -> None:
        if self.widget.activeEffect() is not None:
            self.widget.setActiveEffectByName("")

    def _remember(self) -> None:
        """Note tool and structure in use, to have them in the next case again."""
        drawn = self.widget.segmentationNode()
        if drawn is None or not self._entered:
            return
        self._effect = self.widget.mrmlSegmentEditorNode().GetActiveEffectName() or ""
        segment_id = self.widget.currentSegmentID()
        if segment_id:
            self._structure = _structure_of(drawn, segment_id) or self._structure

    def _restore(self, drawn: Any) -> None:
        for segment_id in drawn.GetSegmentation().GetSegmentIDs():
            if self._structure and _structure_of(drawn, segment_id) == self._structure:
                self.widget.setCurrentSegmentID(segment_id)
        has_segments = drawn.GetSegmentation().GetNumberOfSegments() > 0
        if self._entered and has_segments and self._effect in _CARRIED_OVER:
            self.widget.setActiveEffectByName(self._effect)

    def _parameter_node(self) -> Any:
        """Our own settings of the editor; they stay with the scene."""
        kind = "vtkMRMLSegmentEditorNode"
        node = self._scene.GetSingletonNode(SINGLETON_TAG, kind)
        if node is not None:
            return node
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(SINGLETON_TAG)
        # Structures do not overlap in a label map; the user may allow it all the same.
        node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments)
        return self._scene.AddNode(node)


def _structure_of(node: Any, segment_id: str) -> int:
    """The id of the structure that the segment stands for; 0 for none."""
    segment = node.GetSegmentation().GetSegment(segment_id)
    return 0 if segment is None else int(structure_id_of(segment))
