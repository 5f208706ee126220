"""`slicer.app`: the application object, and `slicer.modules`."""

from __future__ import annotations

import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from host.layout_manager import qSlicerLayoutManager


class qSlicerApplication(QtWidgets.QApplication):  # noqa: N801
    """What scripted modules ask the application for; other names come from QApplication."""

    mrmlSceneChanged = QtCore.Signal(object)  # noqa: N815
    startupCompleted = QtCore.Signal()  # noqa: N815

    def __init__(self, scene: Any) -> None:
        QtWidgets.QApplication.__init__(self, [sys.argv[0]])
        self.applicationName = "Slicer"
        self.organizationName = "slicer-stand-in"
        _ensure_font()
        self._scene = scene
        self._testing = True
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        self._folder = tempfile.mkdtemp(prefix="slicer-")
        self._logic.SetTemporaryPath(self._folder)
        _give_cache(scene, self._folder)
        self._layout_manager: Any = None
        self._io_manager: Any = None
        self._module_manager: Any = None

    def _complete(self, io_manager: Any, module_manager: Any) -> None:
        self._layout_manager = qSlicerLayoutManager(self._scene, self._logic)
        self._io_manager, self._module_manager = io_manager, module_manager

    def mrmlScene(self) -> Any:  # noqa: N802
        return self._scene

    def applicationLogic(self) -> Any:  # noqa: N802
        return self._logic

    def layoutManager(self) -> Any:  # noqa: N802
        return self._layout_manager

    def coreIOManager(self) -> Any:  # noqa: N802
        return self._io_manager

    def ioManager(self) -> Any:  # noqa: N802
        return self._io_manager

    def moduleManager(self) -> Any:  # noqa: N802
        return self._module_manager

    def moduleLogic(self, name: str) -> Any:  # noqa: N802
        return getattr(slicer.modules, name.lower()).logic()

    def testingEnabled(self) -> bool:  # noqa: N802
        return self._testing

    @property
    def temporaryPath(self) -> str:  # noqa: N802
        return self._folder

    @property
    def slicerHome(self) -> str:  # noqa: N802
        return self._folder

    @property
    def majorVersion(self) -> int:  # noqa: N802
        return 5

    @property
    def minorVersion(self) -> int:  # noqa: N802
        return 12

    def userSettings(self) -> QtCore.QSettings:  # noqa: N802
        return QtCore.QSettings()

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def pauseRender(self) -> None:  # noqa: N802
        """Pictures are drawn when they are asked for."""

    def resumeRender(self) -> None:  # noqa: N802
        """Pictures are drawn when they are asked for."""


def _ensure_font() -> None:
    """A machine without fonts shows no text: Pillow brings one."""
    if not QtGui.QFontInfo(QtWidgets.QApplication.font()).family():
        from PIL import ImageFont

        data = ImageFont.load_default(size=10).font_bytes  # type: ignore[union-attr]
        number = QtGui.QFontDatabase.addApplicationFontFromData(QtCore.QByteArray(data))
        families = QtGui.QFontDatabase.applicationFontFamilies(number)
        QtWidgets.QApplication.setFont(QtGui.QFont(families[0], 9))


def _give_cache(scene: Any, folder: str) -> None:
    """Where the scene unpacks bundles."""
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(folder)
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)


_LOGICS = {
    "colors": "vtkMRMLColorLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "terminologies": "vtkSlicerTerminologiesModuleLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "volumes": "vtkSlicerVolumesLogic",
    "tables": "vtkSlicerTablesLogic",
    "plots": "vtkSlicerPlotsLogic",
    "transforms": "vtkSlicerTransformLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "models": "vtkSlicerModelsLogic",
    "units": "vtkSlicerUnitsLogic",
}


class Module:
    """One loaded C++ module: its real logic on the scene."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name, self._logic = name, logic

    def logic(self) -> Any:
        return self._logic


def load_modules(scene: Any, application_logic: Any) -> SimpleNamespace:
    """`slicer.modules`, with the modules whose logics come with slicer-core."""
    modules = SimpleNamespace()
    for name, class_name in _LOGICS.items():
        logic = getattr(slicer, class_name)()
        if hasattr(logic, "SetMRMLApplicationLogic"):
            logic.SetMRMLApplicationLogic(application_logic)
        # The wheel comes without the terminology files, and the logic complains of it.
        logic.GlobalWarningDisplayOff()
        logic.SetMRMLScene(scene)
        logic.GlobalWarningDisplayOn()
        if hasattr(application_logic, "SetModuleLogic"):
            application_logic.SetModuleLogic(name.capitalize(), logic)
        setattr(modules, name, Module(name, logic))
    return modules
