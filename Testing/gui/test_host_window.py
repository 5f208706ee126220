"""The picture of the whole application: sides of the patient, segments, palettes, text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture
def volume(scene: Any) -> Any:
    """An oblique-free 24 x 20 x 16 volume (xyz) in LPS order with a bright corner: R, A, S."""
    import slicer
    import vtk

    array = np.full((16, 20, 24), 10, np.int16)
    array[12:, :5, :6] = 100  # rows go to the back, columns to the left of the patient
    node = slicer.util.addVolumeFromArray(array)
    matrix = vtk.vtkMatrix4x4()
    for axis, step in enumerate((-2.0, -2.0, 3.0)):
        matrix.SetElement(axis, axis, step)
    node.SetIJKToRASMatrix(matrix)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 100)
    display.InterpolateOff()
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


@pytest.fixture
def window(application: Any) -> Iterator[Any]:
    from host.window import MainWindow

    made = MainWindow(900, 600)
    made.show()
    application.processEvents()
    yield made
    made.release()


def view_picture(name: str, ras: tuple[float, float, float]) -> NDArray[np.uint8]:
    """What a view shows around its middle, with the slice moved to a point."""
    import slicer

    from host.painting import picture

    widget = slicer.app.layoutManager().sliceWidget(name)
    widget.fitSliceToBackground()
    widget.mrmlSliceNode().JumpSliceByOffsetting(*ras)
    return picture(widget.sliceLogic(), 1.0)


def bright_side(pixels: NDArray[np.uint8]) -> tuple[str, str]:
    """In which quarter of the shown volume the bright voxels are."""
    grey = pixels[..., 0].astype(int)
    rows, columns = np.nonzero(grey > 200)
    shown_rows, shown_columns = np.nonzero(grey > 10)
    vertical = "top" if rows.mean() < shown_rows.mean() else "bottom"
    return vertical, "left" if columns.mean() < shown_columns.mean() else "right"


@pytest.mark.parametrize(
    ("name", "expected", "letters"),
    [
        ("Red", ("top", "left"), ("R", "L", "A", "P")),
        ("Green", ("top", "left"), ("R", "L", "S", "I")),
        ("Yellow", ("top", "left"), ("A", "P", "S", "I")),
    ],
)
def test_views_show_the_patient_as_slicer_does(
    window: Any, volume: Any, name: str, expected: tuple[str, str], letters: tuple[str, ...]
) -> None:
    import slicer

    from host import painting

    pixels = view_picture(name, (-4.0, -4.0, 39.0))
    assert bright_side(pixels) == expected
    node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
    assert painting.letters(node) == letters


def test_segments_are_laid_over_with_their_color_and_visibility(window: Any, volume: Any) -> None:
    import slicer

    from host.strokes import stroke

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("a", "a", (1.0, 0.0, 0.0))
    voxels = np.zeros((16, 20, 24), bool)
    voxels[12:, :5, :6] = True
    stroke(node, "a", volume, voxels)
    pixels = view_picture("Red", (-4.0, -4.0, 39.0)).astype(int)
    red = (pixels[..., 0] > pixels[..., 1] + 50) & (pixels[..., 1] > 60)
    assert bright_side(np.where(red[..., None], 255, pixels).astype(np.uint8)) == ("top", "left")
    assert red.sum() > 100
    node.GetDisplayNode().SetVisibility(False)
    hidden = view_picture("Red", (-4.0, -4.0, 39.0)).astype(int)
    assert not (hidden[..., 0] > hidden[..., 1] + 50).any()


@pytest.mark.parametrize(("size", "scale"), [((1280, 800), 1.0), ((3840, 2160), 2.0)])
def test_a_picture_has_the_size_that_was_asked_for(
    application: Any, tmp_path: Path, size: tuple[int, int], scale: float
) -> None:
    from host.window import MainWindow

    window = MainWindow(*size, scale)
    window.show()
    image = window.grab(tmp_path / "window.png")
    window.release()
    assert (image.width(), image.height()) == size
    assert (tmp_path / "window.png").stat().st_size > 1000


def test_palettes_change_the_background_and_text_stays_readable(application: Any) -> None:
    import qt

    from host.window import set_palette

    greys = []
    for dark in (True, False):
        set_palette(dark=dark)
        palette = application.palette()
        back, text = palette.color(qt.QPalette.Window), palette.color(qt.QPalette.WindowText)
        assert abs(back.lightness() - text.lightness()) > 100
        greys.append(back.lightness())
    assert greys[0] < 100 < greys[1]


def test_letters_are_drawn_and_differ(application: Any) -> None:
    import qt

    pictures = []
    for text in ("AAAA", "IIII"):
        label = qt.QLabel(text)
        label.resize(80, 30)
        pictures.append(label.grab().toImage())
    assert pictures[0] != pictures[1]
