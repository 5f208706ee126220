"""Loads a scripted module from its file as the application does, and shows modules in a panel."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets


class qSlicerScriptedLoadableModuleWidget(QtWidgets.QWidget):  # noqa: N801
    """The application's side of a scripted module's panel."""

    mrmlSceneChanged = QtCore.Signal(object)  # noqa: N815

    def __init__(self, module: qSlicerScriptedLoadableModule, python_class: type) -> None:
        QtWidgets.QWidget.__init__(self)
        self._module, self._entered = module, False
        self.setLayout(QtWidgets.QVBoxLayout())
        self._python = python_class(self)
        self._python.setup()

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        self.mrmlSceneChanged.emit(scene)

    def self(self) -> Any:
        return self._python

    def module(self) -> Any:
        return self._module

    @property
    def moduleName(self) -> str:  # noqa: N802
        return str(self._module.name)

    @property
    def isEntered(self) -> bool:  # noqa: N802
        return self._entered

    def enter(self) -> None:
        self._entered = True
        if hasattr(self._python, "enter"):
            self._python.enter()

    def exit(self) -> None:
        self._entered = False
        if hasattr(self._python, "exit"):
            self._python.exit()


class qSlicerScriptedLoadableModule(QtCore.QObject):  # noqa: N801
    """The application's side of a scripted module."""

    title, helpText, acknowledgementText = "", "", ""  # noqa: N815
    hidden, index, isInstalled, isBuiltIn = False, -1, True, False  # noqa: N815
    categories: Any = ()
    dependencies: Any = ()
    contributors: Any = ()
    widgetRepresentationCreationEnabled = True  # noqa: N815
    icon: Any = None

    def __init__(self, path: Path) -> None:
        QtCore.QObject.__init__(self)
        self.icon = QtGui.QIcon()
        self._path, self._name = path, path.stem
        self._widget: Any = None
        self._python = self._execute()

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> str:
        return str(self._path)

    def _execute(self) -> Any:
        """Run the script and describe the module with its class."""
        folder = str(self._path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(self._name, self._path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self._path} is no Python file")
        script = importlib.util.module_from_spec(spec)
        sys.modules[self._name] = script
        spec.loader.exec_module(script)
        self._script = script
        return getattr(script, self._name)(self)

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:  # noqa: N802
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:  # noqa: N802
        python_class = getattr(self._script, f"{self._name}Widget")
        return qSlicerScriptedLoadableModuleWidget(self, python_class)


class qSlicerModuleFactoryManager(QtCore.QObject):  # noqa: N801
    """Which modules are loaded."""

    def __init__(self, modules: dict[str, Any]) -> None:
        QtCore.QObject.__init__(self)
        self._modules = modules

    def loadedModuleNames(self) -> list[str]:  # noqa: N802
        return list(self._modules)


class qSlicerModuleManager(QtCore.QObject):  # noqa: N801
    """Modules by name."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)  # noqa: N815
    moduleLoaded = QtCore.Signal(str)  # noqa: N815

    def __init__(self) -> None:
        QtCore.QObject.__init__(self)
        self._modules: dict[str, Any] = {}
        self._factory = qSlicerModuleFactoryManager(self._modules)

    def module(self, name: str) -> Any:
        return self._modules.get(name)

    def modulesNames(self) -> list[str]:  # noqa: N802
        return list(self._modules)

    def factoryManager(self) -> qSlicerModuleFactoryManager:  # noqa: N802
        return self._factory


def load_module(path: Path) -> qSlicerScriptedLoadableModule:
    """Load a scripted module, once, and make it known as `slicer.modules.<name in lower case>`."""
    manager = slicer.app.moduleManager()
    if manager.module(path.stem) is None:
        module = qSlicerScriptedLoadableModule(path)
        manager._modules[path.stem] = module
        setattr(slicer.modules, path.stem.lower(), module)
        manager.moduleLoaded.emit(path.stem)
    return manager.module(path.stem)


def unload_module(name: str) -> None:
    """Close a module as the application does when it ends."""
    manager = slicer.app.moduleManager()
    module = manager._modules.pop(name, None)
    if module is None:
        return
    if module._widget is not None:
        module._widget.self().cleanup()
        module._widget.deleteLater()
    manager.moduleAboutToBeUnloaded.emit(name)
    delattr(slicer.modules, name.lower())
