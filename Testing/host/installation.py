"""Puts the stand-ins `qt`, `ctk` and `slicer` into `sys.modules`."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def install(scene: Any = None) -> Any:
    """The application object; the stand-ins are made at the first call and kept.

    `scene`: the vtkMRMLScene to stand on, a new one by default.
    """
    slicer = _import_slicer()
    if hasattr(slicer, "app"):
        return slicer.app
    _spare_none()
    from host import pythonqt

    pythonqt.checked_modules.append("SemiSegModule")
    pythonqt.switch_on()
    from host import ctk_module, qt_module

    sys.modules["qt"] = qt_module.build()
    sys.modules["ctk"] = ctk_module.build()
    # The application's DICOM module sets it, from Python.
    slicer.dicomDatabase = ctk_module.ctkDICOMDatabase()
    slicer.mrmlScene = scene if scene is not None else slicer.vtkMRMLScene()
    from host.application import load_modules, qSlicerApplication

    _add_widgets(slicer)

    application = qSlicerApplication(slicer.mrmlScene)
    slicer.app = application
    slicer.modules = load_modules(slicer.mrmlScene, application.applicationLogic())
    application._complete(slicer.qSlicerCoreIOManager(), slicer.qSlicerModuleManager())
    _add_python_modules(slicer)
    return application


def _spare_none() -> None:
    """PySide6 6.12 takes a reference to None away with each call that returns it.

    Before Python 3.12, where None lives forever, the interpreter would end when none is left.
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def _import_slicer() -> Any:
    """slicer-core takes any folder named slicer on the path, also ours, for a part of itself."""
    own, kept = str(Path(__file__).resolve().parents[1]), sys.path[:]
    sys.path[:] = [folder for folder in kept if folder != own]
    try:
        import slicer
    finally:
        sys.path[:] = kept
    return slicer


def _add_python_modules(slicer: Any) -> None:
    import slicer.util

    from host import scripted_module

    for name, content in scripted_module.modules().items():
        module = ModuleType(f"slicer.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
        setattr(slicer, name, module)


def _add_widgets(slicer: Any) -> None:
    from host import (
        io_manager,
        layout_manager,
        module_manager,
        node_widgets,
        plots,
        segment_editor,
        terminology_widgets,
    )

    modules = (io_manager, layout_manager, module_manager, node_widgets, plots, segment_editor)
    for module in (*modules, terminology_widgets):
        for name, value in vars(module).items():
            if name.startswith(("qMRML", "qSlicer")):
                setattr(slicer, name, value)
