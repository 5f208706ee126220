"""The module `qt`: PySide6's classes by the names and habits of PythonQt."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtTest, QtUiTools, QtWidgets

from host import api

_SOURCES = (QtWidgets, QtGui, QtCore, QtUiTools, QtTest, QtNetwork)


class QFileDialog(QtWidgets.QFileDialog):
    """PythonQt's static functions give the path alone, without the chosen filter."""

    @staticmethod
    def getOpenFileName(*arguments: Any) -> str:  # noqa: N802
        return QtWidgets.QFileDialog.getOpenFileName(*arguments)[0]

    @staticmethod
    def getOpenFileNames(*arguments: Any) -> list[str]:  # noqa: N802
        return QtWidgets.QFileDialog.getOpenFileNames(*arguments)[0]

    @staticmethod
    def getSaveFileName(*arguments: Any) -> str:  # noqa: N802
        return QtWidgets.QFileDialog.getSaveFileName(*arguments)[0]


_OWN = {"QFileDialog": QFileDialog}


class _QtModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if api.class_api(name) is None or name not in api.load()["qt"]:
            raise AttributeError(f"Slicer's qt module has no {name}")
        for source in _SOURCES:
            if hasattr(source, name):
                value = _OWN.get(name, getattr(source, name))
                setattr(self, name, value)
                return value
        raise AttributeError(f"Slicer's qt module has {name}, but this stand-in's Qt has not")


def build() -> ModuleType:
    """A new module; settings go to a temporary .ini file."""
    folder = Path(tempfile.mkdtemp(prefix="slicer-settings-"))
    settings = QtCore.QSettings
    settings.setDefaultFormat(settings.Format.IniFormat)
    for scope in (settings.Scope.UserScope, settings.Scope.SystemScope):
        settings.setPath(settings.Format.IniFormat, scope, str(folder))
    return _QtModule("qt")
