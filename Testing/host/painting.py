"""Draws a slice view with QPainter: the slice logic's own picture, segments, letters."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from PySide6 import QtCore, QtGui
from vtk.util.numpy_support import vtk_to_numpy

Pixels = NDArray[np.uint8]
_DIRECTIONS = (("R", "L"), ("A", "P"), ("S", "I"))
_OUTLINE_PIXELS = 1.5


def picture(logic: Any, scale: float) -> Pixels:
    """The slice as (height, width, 4) RGBA, top row first, with the segments of the scene.

    `scale`: device pixels per logical pixel, for the width of outlines.
    """
    width, height, _ = logic.GetSliceNode().GetDimensions()
    image = np.zeros((height, width, 4), np.uint8)
    image[..., 3] = 255
    _lay_volumes(image, logic)
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        _lay_segments(image, node, logic.GetSliceNode(), scale)
    return np.ascontiguousarray(image[::-1])


def _lay_volumes(image: Pixels, logic: Any) -> None:
    """Background and foreground as Slicer's own pipeline blends them."""
    connection = logic.GetImageDataConnection()
    if connection is None:
        return
    connection.GetProducer().Update()
    data = connection.GetProducer().GetOutputDataObject(connection.GetIndex())
    scalars = data.GetPointData().GetScalars() if data is not None else None
    if scalars is None or data.GetDimensions()[:2] != image.shape[1::-1]:
        return
    values = vtk_to_numpy(scalars).reshape(*image.shape[:2], -1)
    opacity = values[..., 3:4] / 255.0 if values.shape[2] == 4 else 1.0
    image[..., :3] = (values[..., :3] * opacity).astype(np.uint8)


def _lay_segments(image: Pixels, node: Any, slice_node: Any, scale: float) -> None:
    display = node.GetDisplayNode()
    if display is None or not display.GetVisibility() or not display.GetVisibility2D():
        return
    if not display.IsDisplayableInView(slice_node.GetID()):
        return
    segmentation, sampled = node.GetSegmentation(), {}
    for segment_id in segmentation.GetSegmentIDs():
        if not display.GetSegmentVisibility(segment_id):
            continue
        segment = segmentation.GetSegment(segment_id)
        labels = segment.GetRepresentation("Binary labelmap")
        if labels is None or not labels.GetPointData().GetScalars():
            continue
        if labels not in sampled:
            sampled[labels] = _sample(labels, slice_node, image.shape[:2])
        mask = sampled[labels] == segment.GetLabelValue()
        if mask.any():
            _lay_mask(image, mask, display, segment_id, scale)


def _lay_mask(
    image: Pixels, mask: NDArray[np.bool_], display: Any, segment_id: str, scale: float
) -> None:
    own = display.GetSegmentColor(segment_id)
    color = np.array([255 * own[i] for i in range(3)])
    if display.GetVisibility2DFill() and display.GetSegmentVisibility2DFill(segment_id):
        opacity = display.GetOpacity2DFill() * display.GetSegmentOpacity2DFill(segment_id)
        _blend(image, mask, color, opacity * display.GetOpacity())
    if display.GetVisibility2DOutline() and display.GetSegmentVisibility2DOutline(segment_id):
        opacity = display.GetOpacity2DOutline() * display.GetSegmentOpacity2DOutline(segment_id)
        _blend(image, _outline(mask, scale), color, opacity * display.GetOpacity())


def _blend(
    image: Pixels, mask: NDArray[np.bool_], color: NDArray[np.float64], opacity: float
) -> None:
    image[mask, :3] = (image[mask, :3] * (1 - opacity) + color * opacity).astype(np.uint8)


def _outline(mask: NDArray[np.bool_], scale: float) -> NDArray[np.bool_]:
    inner = mask
    for _ in range(max(1, round(_OUTLINE_PIXELS * scale))):
        padded = np.pad(inner, 1)
        up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
        inner = inner & up & down & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _sample(labels: Any, slice_node: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Label values (height, width), bottom row first; 0 outside."""
    to_image = vtk.vtkMatrix4x4()
    labels.GetWorldToImageMatrix(to_image)
    chain = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Multiply4x4(to_image, slice_node.GetXYToRAS(), chain)
    matrix = slicer.util.arrayFromVTKMatrix(chain)
    x, y = np.arange(shape[1])[None, :], np.arange(shape[0])[:, None]
    extent = labels.GetExtent()
    size = [extent[2 * a + 1] - extent[2 * a] + 1 for a in range(3)]
    index, inside = [], np.ones(shape, dtype=bool)
    for axis in range(3):
        place = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 3]
        whole = np.floor(place + 0.5).astype(np.int32) - extent[2 * axis]
        inside &= (whole >= 0) & (whole < size[axis])
        index.append(np.clip(whole, 0, max(size[axis] - 1, 0)))
    values = vtk_to_numpy(labels.GetPointData().GetScalars()).reshape(size[::-1])
    return np.where(inside, values[index[2], index[1], index[0]], 0)


def letters(slice_node: Any) -> tuple[str, str, str, str]:
    """What is at the left, right, top and bottom edge: R or L, A or P, S or I."""
    matrix = slice_node.GetSliceToRAS()
    right = [matrix.GetElement(row, 0) for row in range(3)]
    up = [matrix.GetElement(row, 1) for row in range(3)]
    return _letter(right, -1), _letter(right, 1), _letter(up, 1), _letter(up, -1)


def _letter(direction: list[float], sign: int) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return _DIRECTIONS[axis][0 if direction[axis] * sign > 0 else 1]


def offset_text(slice_node: Any) -> str:
    """Where the slice is, as the slice view's bar says it."""
    letter = {"Axial": "S", "Sagittal": "R", "Coronal": "A"}.get(slice_node.GetOrientation(), "")
    return f"{letter}: {slice_node.GetSliceOffset():.1f} mm" if letter else ""


def paint_view(view: Any, logic: Any, scale: float) -> None:
    """Paint a slice view's widget: picture, then letters at the edges."""
    pixels = picture(logic, scale)
    painter = QtGui.QPainter(view)
    height, width = pixels.shape[:2]
    image = QtGui.QImage(pixels.data, width, height, QtGui.QImage.Format.Format_RGBX8888)
    painter.drawImage(view.rect(), image)
    painter.setPen(QtGui.QColor(230, 200, 60))
    edge = view.rect().adjusted(6, 4, -6, -4)
    flags = QtCore.Qt.AlignmentFlag
    sides = (
        flags.AlignLeft | flags.AlignVCenter,
        flags.AlignRight | flags.AlignVCenter,
        flags.AlignTop | flags.AlignHCenter,
        flags.AlignBottom | flags.AlignHCenter,
    )
    for side, letter in zip(sides, letters(logic.GetSliceNode()), strict=True):
        painter.drawText(edge, side, letter)
    painter.end()
