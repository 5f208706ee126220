"""The stand-in's Qt behaves as PythonQt."""

from __future__ import annotations

from typing import Any

import pytest


def test_properties_are_attributes(application: Any) -> None:
    import qt

    button = qt.QPushButton("x")
    button.text = "y"
    assert button.text == "y"
    button.setText("z")
    assert button.text == "z"


def test_scene_has_slice_views(application: Any, scene: Any) -> None:
    import slicer

    names = slicer.app.layoutManager().sliceViewNames()
    assert set(names) == {"Red", "Green", "Yellow"}
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert volume.GetID()


def test_a_mistyped_property_is_an_error(application: Any) -> None:
    import qt

    with pytest.raises(AttributeError):
        qt.QPushButton().txet = "y"
