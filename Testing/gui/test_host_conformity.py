"""The stand-in offers, and the module uses, only what the real application has."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import pytest

from host import api
from host.product_names import Program, Use

ROOT = Path(__file__).parents[2]
PRODUCT = sorted((ROOT / "SemiSegModule").rglob("*.py"))
PARAMETERS_OF_WRAPPER = ("parameterNode", "StartModify", "EndModify")
ALLOWED = {"called": {"method"}, "set": {"property"}, "tested": {"property", "constant"}}
# Slicer's own ScriptedLoadableModule sets it as an attribute, though it is listed as a method.
ALSO_PROPERTIES = {("qSlicerScriptedLoadableModule", "icon")}
LACKING = "Testing/host/slicer_api.json lacks it: run trim_api.py with a full reading"
OTHER_EXTENSIONS = {"PyTorchUtilsLogic", "installTorch", "registerCustomSampleDataSource"}


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(PRODUCT)


def complaint(use: Use) -> str:
    """Why a use would fail in the real application; empty when it would not."""
    receiver = use.receiver.split(" ")[-1]
    if use.name.startswith("_") or use.name in api.PYTHONQT_METHODS:
        return ""
    if receiver in ("qt", "ctk"):
        return qt_complaint(use, receiver)
    if receiver == "slicer":
        known = use.name in api.names("slicer") or f"slicer.{use.name}" in api.NEWER
        return "" if known else f"{use}: slicer has no such name"
    if receiver.startswith("slicer."):
        return module_complaint(use, receiver)
    is_own = use.receiver.startswith("own ")
    return "" if is_own or api.class_api(receiver) is None else class_complaint(use, receiver)


def qt_complaint(use: Use, module: str) -> str:
    if use.how == "called with names":
        return f"{use}, which PythonQt's classes are not"
    known = use.name in api.load()[module]
    return "" if known else f"{use}: no such class, or {LACKING}"


def module_complaint(use: Use, receiver: str) -> str:
    if receiver in api.NEWER or not api.names(receiver):
        return vtk_complaint(use, receiver)
    return "" if use.name in api.names(receiver) else f"{use}: {receiver} has no such name"


def vtk_complaint(use: Use, receiver: str) -> str:
    """slicer_api.json lists VTK classes by name alone; the real ones say the rest."""
    import slicer

    name = "vtkMRMLScene" if receiver == "slicer.mrmlScene" else receiver.split(".")[1]
    kind = getattr(slicer, name, None)
    if isinstance(kind, type) and receiver.count(".") == 1 and not hasattr(kind, use.name):
        return f"{use}: the class has no such name"
    return ""


def class_complaint(use: Use, receiver: str) -> str:
    if use.how == "called with names":
        return f"{use}, which PythonQt's functions are not"
    kinds = api.kinds(receiver, use.name)
    if not kinds:
        return f"{use}: {receiver} has no such name"
    if use.receiver.startswith("class ") or use.how == "read" or kinds & ALLOWED[use.how]:
        return ""
    return f"{use}, but it is a {' or '.join(sorted(kinds))}"


def test_what_the_module_uses_exists_in_the_application(program: Program) -> None:
    complaints = [text for use in program.uses() if (text := complaint(use))]
    assert not complaints, "\n".join(complaints)


def test_names_on_values_of_unknown_type_exist_somewhere(program: Program) -> None:
    """Only names in camelCase, as Qt's are; Python's own and the module's names are not."""
    known = set(program.defined) | set(PARAMETERS_OF_WRAPPER) | OTHER_EXTENSIONS | _all_names()
    strange = [
        str(use)
        for use in program.uses()
        if not use.receiver and re.match(r"[a-z]+[A-Z]", use.name) and use.name not in known
    ]
    assert not strange, "\n".join(strange)


def test_vtk_names_on_values_of_unknown_type_exist_on_some_class(program: Program) -> None:
    import slicer
    from vtkmodules import vtkCommonCore, vtkCommonDataModel, vtkCommonMath

    known = set(program.defined) | OTHER_EXTENSIONS
    for module in (slicer, vtkCommonCore, vtkCommonDataModel, vtkCommonMath):
        kinds = (getattr(module, n) for n in dir(module) if n.startswith("vtk"))
        known.update(name for kind in kinds for name in dir(kind))
    strange = [
        str(use)
        for use in program.uses()
        if not use.receiver and re.match(r"[A-Z][a-z]+[A-Z]", use.name) and use.name not in known
    ]
    assert not strange, "\n".join(strange)


def _all_names() -> set[str]:
    found = set(dir(builtins)) | set(api.names("slicer.app.layoutManager()"))
    for where in api.load()["python"].values():
        found |= set(where)
    for namespace in api.NAMESPACES:
        for entry in api.load()[namespace].values():
            for kind in ("property", "method", "signal", "constant"):
                found |= set(entry.get(kind, ()))
    return found | set(api.PYTHONQT_METHODS)


def test_the_module_does_nothing_that_only_one_of_the_two_worlds_allows() -> None:
    text = {path.name: path.read_text(encoding="utf-8") for path in PRODUCT}
    forbidden = r"processEvents|QRegExp\b|qt\.Signal|from PySide|import host\b|isinstance\(.*qt\."
    found = {name: re.findall(forbidden, content) for name, content in text.items()}
    assert not {name: names for name, names in found.items() if names}


def test_a_misuse_is_found(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    lines = (
        "import qt, slicer",
        "class Panel:",
        "    def __init__(self):",
        "        self.button = qt.QPushButton('x')",
        "        self.button.text('y')",
        "        self.button.setText = 'y'",
        "        if self.button.isEnabled: pass",
        "        self.button.connect('klicked()', print)",
        "        self.button.txet = 'x'",
        "        qt.QNothing()",
        "        qt.QLabel(text='x')",
        "        self.button.resize(w=1, h=2)",
        "        slicer.vtkMRMLModelNode().GetNothing()",
        "        slicer.mrmlScene.GetNothing()",
    )
    path.write_text("\n".join(lines))
    complaints = [use.line for use in Program([path]).uses() if complaint(use)]
    assert sorted(complaints) == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


def _offered(kind: type) -> list[tuple[str, str, str]]:
    """Public names that classes of the stand-in add: (class, name, kind)."""
    found = []
    for owner in kind.__mro__:
        if not owner.__module__.startswith("host."):
            continue
        for name, value in vars(owner).items():
            if not name.startswith("_") and name != "staticMetaObject":
                found.append((kind.__name__, name, _kind_of(value)))
    return found


def _kind_of(value: Any) -> str:
    if type(value).__name__ in ("Signal", "SignalInstance"):
        return "signal"
    return "method" if callable(value) else "property"


def test_what_the_stand_in_offers_exists_in_the_application(application: Any) -> None:
    import ctk
    import slicer

    kinds = [k for k in vars(ctk).values() if isinstance(k, type)]
    kinds += [
        k for n, k in vars(slicer).items() if n.startswith("qMRML") or n.startswith("qSlicer")
    ]
    wrong = []
    for kind in kinds:
        for owner, name, what in _offered(kind):
            real = set(api.kinds(owner, name))
            real |= {"property"} if (owner, name) in ALSO_PROPERTIES else set()
            constant = isinstance(getattr(kind, name), int) and "method" in real
            if what not in real and not constant:
                wrong.append(f"{owner}.{name} is a {what} here, in the application: {real}")
    assert not wrong, "\n".join(wrong)


def test_the_application_object_offers_nothing_of_its_own(application: Any) -> None:
    manager = application.layoutManager()
    for where, thing in (("slicer.app", application), ("slicer.app.layoutManager()", manager)):
        names = {name for _, name, _ in _offered(type(thing))}
        assert names <= api.names(where), names - api.names(where)


def test_python_modules_offer_only_real_names(application: Any) -> None:
    import slicer

    wrapper = vars(slicer.parameterNodeWrapper)
    names = {n for n in wrapper if not n.startswith("_")}
    assert names <= api.names("slicer.parameterNodeWrapper")
    for kind in ("", "Widget", "Logic"):
        name = f"ScriptedLoadableModule{kind}"
        own = {n for n in vars(getattr(slicer.ScriptedLoadableModule, name)) if n[0] != "_"}
        extra = own - api.names(f"ScriptedLoadableModule.{name}") - {"enter", "exit", "setup"}
        assert not extra
