"""What a hand does with the mouse in the Segment Editor, in code; works in the real Slicer too."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk


def oriented_image(volume: Any, voxels: NDArray[np.bool_]) -> Any:
    """A label map (zyx, 1 where `voxels`) with the geometry of a volume node."""
    image = slicer.vtkOrientedImageData()
    depth, height, width = voxels.shape
    image.SetDimensions(width, height, depth)
    values = np.ascontiguousarray(voxels, dtype=np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(values, deep=1))
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def stroke(
    segmentation: Any,
    segment_id: str,
    volume: Any,
    voxels: NDArray[np.bool_],
    *,
    erase: bool = False,
    editor: Any = None,
    others: str = "overwrite",
) -> None:
    """Add `voxels` (zyx, the volume's grid) to a segment, or take them away.

    `editor`: the qMRMLSegmentEditorWidget that keeps an undo state first. `others`: "overwrite"
    takes the voxels from other segments as the editor does by default, "allow" lets them overlap.
    """
    if editor is not None:
        editor.saveStateForUndo()
    scene, logic = segmentation.GetScene(), slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    node.SetOverwriteMode(
        node.OverwriteAllSegments if others == "overwrite" else node.OverwriteNone
    )
    logic.SetSegmentEditorNode(node)
    logic.SetSegmentationNode(segmentation)
    logic.SetSourceVolumeNode(volume)
    node.SetSelectedSegmentID(segment_id)
    mode = logic.ModificationModeRemove if erase else logic.ModificationModeAdd
    image = oriented_image(volume, voxels)
    logic.ModifySegmentByLabelmap(segmentation, segment_id, image, mode, False, False)
    logic.SetSegmentEditorNode(None)
    scene.RemoveNode(node)


def voxels_of(segmentation: Any, segment_id: str, volume: Any) -> NDArray[np.bool_]:
    """Where a segment is, on the volume's grid (zyx)."""
    array = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)
    if array is None:
        return np.zeros(slicer.util.arrayFromVolume(volume).shape, dtype=bool)
    return np.asarray(array) > 0
