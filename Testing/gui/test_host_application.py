"""The stand-in's Qt behaves as PythonQt does, its scene as the application's."""

from __future__ import annotations

from pathlib import Path
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


def test_connected_slots_get_what_the_signature_says(application: Any) -> None:
    import qt

    got: list[tuple[Any, ...]] = []
    box = qt.QCheckBox()

    def slot(*values: Any) -> None:
        got.append(values)

    box.connect("clicked()", slot)
    box.connect("toggled(bool)", slot)
    box.click()
    assert sorted(got) == [(), (True,)]
    assert box.disconnect("clicked()", slot)
    assert not box.disconnect("clicked()", slot)
    box.click()
    assert got[2:] == [(False,)]


def test_an_overloaded_signal_is_chosen_by_its_types(application: Any) -> None:
    import qt

    got: list[Any] = []
    completer = qt.QCompleter(["liver", "spleen"])
    completer.connect("activated(QString)", got.append)
    completer.activated[str].emit("liver")
    assert got == ["liver"]


@pytest.mark.parametrize("signature", ["klicked()", "clicked(QString)", "clicked"])
def test_a_signal_that_does_not_exist_is_an_error(application: Any, signature: str) -> None:
    import qt

    with pytest.raises(ValueError, match="signal"):
        qt.QPushButton().connect(signature, print)


def test_methods_that_pyside_makes_properties_stay_methods(application: Any) -> None:
    import qt

    label = qt.QLabel("x")
    assert label.sizeHint().width() > 0
    layout = qt.QVBoxLayout(label)
    layout.setContentsMargins(1, 2, 3, 4)
    assert layout.contentsMargins().right() == 3
    assert label.isEnabled() is label.enabled is True


def test_settings_are_written_to_a_file_of_the_test_run(application: Any) -> None:
    import qt

    qt.QSettings().setValue("SemiSeg/x", "1")
    assert qt.QSettings().value("SemiSeg/x") == "1"
    assert "slicer-settings" in qt.QSettings().fileName()


def test_a_name_that_slicer_lacks_is_refused(application: Any) -> None:
    import ctk
    import qt

    for module in (qt, ctk):
        with pytest.raises(AttributeError):
            _ = module.QNothing
    with pytest.raises(AttributeError, match="no Signal"):
        _ = qt.Signal


def test_collapsed_areas_hide_what_is_put_into_them_later(application: Any) -> None:
    import ctk
    import qt

    area = ctk.ctkCollapsibleButton()
    area.text, area.collapsed = "Area", True
    layout, label = qt.QVBoxLayout(area), qt.QLabel("inside")
    layout.addWidget(label)
    area.show()
    application.processEvents()
    assert not label.visible
    area.collapsed = False
    assert label.visible
    area.close()


def test_parameters_are_kept_in_the_node_under_their_names(application: Any, scene: Any) -> None:
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Plain:
        name, minutes = "x", 2.5

    Plain.__annotations__ = {"name": str, "minutes": float, "folder": Path, "names": list[str]}
    Plain.__annotations__["volume"] = slicer.vtkMRMLScalarVolumeNode
    wrapped: Any = parameterNodeWrapper(Plain)
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = wrapped(node)
    parameters.minutes, parameters.folder = 3, Path("/a/b")
    parameters.names = ["a", "b"]
    parameters.names.append("c")
    parameters.volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    again = wrapped(node)
    assert (again.name, again.minutes, again.folder) == ("x", 3.0, Path("/a/b"))
    assert again.names == ["a", "b", "c"]
    assert again.volume is parameters.volume
    assert (node.GetParameter("minutes"), node.GetParameter("names_len")) == ("3", "3")
    with pytest.raises(TypeError):
        again.name = 3


def test_a_scene_comes_back_from_a_bundle(application: Any, scene: Any, tmp_path: Any) -> None:
    import numpy as np
    import slicer

    slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), name="scan")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert slicer.util.arrayFromVolume(slicer.util.getNode("scan")).sum() == 276
    assert len(slicer.app.layoutManager().sliceViewNames()) == 3
