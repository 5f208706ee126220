"""`slicer.ScriptedLoadableModule`, `slicer.i18n`, `slicer.packaging`."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtWidgets

from host import parameters


class ScriptedLoadableModule:
    """What describes a module to the application."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, filename: str) -> str:  # noqa: N802
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self) -> str:  # noqa: N802
        return ""

    def runTest(self, **_arguments: Any) -> None:  # noqa: N802
        """Nothing to run here."""


class ScriptedLoadableModuleWidget:
    """The shell of a module's panel: `parent` with a layout, or a window of its own."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(QtWidgets.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()

    def resourcePath(self, filename: str) -> str:  # noqa: N802
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        self.setupDeveloperSection()

    def setupDeveloperSection(self) -> None:  # noqa: N802
        """Shown in developer mode only."""

    def enter(self) -> None:
        """The panel was chosen; overridden by modules."""

    def exit(self) -> None:
        """Another panel was chosen; overridden by modules."""

    def cleanup(self) -> None:
        """The module is about to go; overridden by modules."""

    def onReload(self) -> None:  # noqa: N802
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """A logic with one parameter node per scene."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:  # noqa: N802
        found = self.getAllParameterNodes()
        return found[0] if found else slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:  # noqa: N802
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [n for n in nodes if n.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:  # noqa: N802
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's self-test."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(arguments or ("runTest",)))
        self.messageDelay = 0

    def delayDisplay(self, message: str, *_ignored: Any) -> None:  # noqa: N802
        """Shown for a while in the application."""

    def runTest(self) -> None:  # noqa: N802
        """Overridden by modules."""


class Packaging:
    """A recorder in place of pip: `asked` are the calls, nothing is installed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def _record(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.asked.append((name, arguments, options))

        return call


def modules() -> dict[str, dict[str, Any]]:
    """The contents of the Python modules of the application, by name without `slicer.`."""
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    packaging = Packaging()
    return {
        "ScriptedLoadableModule": {c.__name__: c for c in classes},
        "i18n": {
            "tr": lambda text, *_context: text,
            "translate": lambda _context, text: text,
            "getContext": lambda *_: "",
        },
        "parameterNodeWrapper": parameters.content(),
        "packaging": {
            "asked": packaging.asked,
            "pip_ensure": packaging._record("pip_ensure"),
            "pip_install": packaging._record("pip_install"),
            "pip_check": packaging._record("pip_check"),
            "load_requirements": lambda path: Path(path).read_text().splitlines(),
        },
    }
