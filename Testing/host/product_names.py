"""Reads which names of Qt, CTK and Slicer a program uses, and as what, without running it.

Types are inferred from what assignments, calls and loops show: `qt.X(...)`, names and `self`
attributes assigned from such, what functions of the program return, what known methods return.
What cannot be typed is checked more weakly: a name in camelCase must exist on some class, unless
the program defines it. Not seen: names made at run time (`getattr`), values handed over in
parameters without a Qt type, containers filled in several places. Those are seen when the program
runs in the stand-in, which refuses them too (`pythonqt.checked_modules`).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from host import api

# "tested": its truth or value decides something at once; "read": anything else, also handing over.
How = Literal["called", "called with names", "read", "tested", "set"]
RETURNS = {
    ("QTableWidget", "horizontalHeader"): "QHeaderView",
    ("QTableWidget", "verticalHeader"): "QHeaderView",
    ("QTableView", "horizontalHeader"): "QHeaderView",
    ("QTableView", "verticalHeader"): "QHeaderView",
    ("QTableView", "selectionModel"): "QItemSelectionModel",
    ("QTableWidget", "item"): "QTableWidgetItem",
    ("QListWidget", "item"): "QListWidgetItem",
    ("QComboBox", "lineEdit"): "QLineEdit",
    ("QDialogButtonBox", "button"): "QPushButton",
    ("QMenu", "addAction"): "QAction",
    ("QFileDialog", "getOpenFileName"): "str",
    ("QWidget", "style"): "QStyle",
    ("qMRMLSliceWidget", "sliceController"): "qMRMLSliceControllerWidget",
    ("qMRMLSliceWidget", "sliceView"): "qMRMLSliceView",
    ("qMRMLPlotWidget", "plotView"): "qMRMLPlotView",
    ("slicer.app", "layoutManager"): "slicer.app.layoutManager()",
    ("slicer.app.layoutManager()", "sliceWidget"): "qMRMLSliceWidget",
    ("slicer.app.layoutManager()", "threeDWidget"): "qMRMLThreeDWidget",
    ("slicer.util", "mainWindow"): "qSlicerMainWindow",
}


@dataclass(frozen=True)
class Use:
    """One use of a name; `receiver` is in the words of `Program`, "" if unknown."""

    file: Path
    line: int
    receiver: str
    name: str
    how: How

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}: {self.receiver or '?'}.{self.name} is {self.how}"


class Program:
    """All Python files of a program, with the types of its attributes and functions.

    Types: a class of Qt, CTK or Slicer; `class X` for the class itself; `module x`; `slicer.util`
    and the like; `object slicer.vtkX`; `own X` for an object of one of the program's classes.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
        self.classes = {
            node.name
            for tree in self.trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        self.defined: set[str] = set()
        for tree in self.trees.values():
            self.defined |= _definitions(tree)
        self.known: dict[tuple[str, str], str] = {}
        for _ in range(3):  # types known from one round make others known in the next
            for tree in self.trees.values():
                self._learn(tree)

    def uses(self) -> Iterator[Use]:
        for file, tree in self.trees.items():
            for scope in _scopes(tree):
                yield from _Reader(self, file, scope).read()

    def _learn(self, tree: ast.Module) -> None:
        for scope in _scopes(tree):
            reader = _Reader(self, Path(), scope)
            for node in _walk(scope.node):
                reader.learn(node)
                if isinstance(node, ast.Return) and isinstance(scope.node, ast.FunctionDef):
                    self._note((scope.owner, scope.node.name), reader.type_of(node.value))
                for target, value in _assignments(node):
                    if isinstance(target, ast.Attribute):
                        owner = reader.type_of(target.value).removeprefix("own ")
                        self._note((owner, target.attr), reader.type_of(value))

    def _note(self, name: tuple[str, str], kind: str) -> None:
        """Two different types make a name unknown."""
        if kind and name[0] is not None:
            self.known[name] = kind if self.known.get(name, kind) == kind else "?"

    def type_inside(self, owner: str, name: str) -> str:
        found = self.known.get((owner, name), "")
        return "" if found == "?" else found


@dataclass(frozen=True)
class _Scope:
    """A module, class or function, the class that it belongs to, the modules imported."""

    node: ast.AST
    owner: str
    modules: dict[str, str]


class _Reader:
    """Types of the names in one function, in the order of its statements."""

    def __init__(self, program: Program, file: Path, scope: _Scope) -> None:
        self.program, self.file, self.scope = program, file, scope
        self.types = dict(scope.modules)
        if scope.owner:
            self.types["self"] = f"own {scope.owner}"

    def read(self) -> Iterator[Use]:
        nodes = list(_walk(self.scope.node))
        for node in nodes:
            self.learn(node)
        called = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
        tested = {id(part) for node in nodes for part in _tested(node)}
        for node in nodes:
            if isinstance(node, ast.Attribute):
                how: How = "tested" if id(node) in tested else "read"
                if id(node) in called:
                    how = "called with names" if called[id(node)].keywords else "called"
                how = "set" if isinstance(node.ctx, ast.Store) else how
                yield Use(self.file, node.lineno, self.type_of(node.value), node.attr, how)
            elif isinstance(node, ast.Call):
                yield from self._signals(node)

    def _signals(self, node: ast.Call) -> Iterator[Use]:
        """`object.connect("clicked()", ...)`."""
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "connect":
            return
        if node.args and isinstance(node.args[0], ast.Constant):
            name = str(node.args[0].value).split("(")[0]
            yield Use(self.file, node.lineno, self.type_of(node.func.value), name, "read")

    def learn(self, node: ast.AST) -> None:
        for target, value in _assignments(node):
            if isinstance(target, ast.Name):
                self.types[target.id] = self.type_of(value)

    def type_of(self, node: ast.AST | None) -> str:
        """What an expression is, in the words of `Program`; "" when it is not known."""
        if isinstance(node, ast.Name):
            return self.types.get(node.id, "")
        if isinstance(node, ast.Attribute):
            return self._type_of_attribute(node)
        if isinstance(node, ast.Call):
            return self._type_of_call(node)
        if isinstance(node, (ast.Tuple, ast.List)) and node.elts:
            kinds = {self.type_of(e) for e in node.elts}
            return kinds.pop() if len(kinds) == 1 else ""
        return ""

    def _type_of_attribute(self, node: ast.Attribute) -> str:
        inside = self.type_of(node.value)
        if inside in ("module qt", "module ctk", "module slicer"):
            if api.class_api(node.attr) is not None:
                return f"class {node.attr}"
            return f"{inside.split()[1]}.{node.attr}"
        if inside.startswith(("slicer.", "module ")):
            return f"{inside}.{node.attr}"
        return self.program.type_inside(inside[4:], node.attr) if inside[:4] == "own " else ""

    def _type_of_call(self, node: ast.Call) -> str:
        if isinstance(node.func, ast.Name):
            own = node.func.id in self.program.classes
            return f"own {node.func.id}" if own else self.program.type_inside("", node.func.id)
        kind = self.type_of(node.func)
        if kind.startswith(("class ", "slicer.vtk")):
            return kind[6:] if kind.startswith("class ") else f"object {kind}"
        if not isinstance(node.func, ast.Attribute):
            return ""
        receiver, name = self.type_of(node.func.value), node.func.attr
        if receiver.startswith("own "):
            return self.program.type_inside(receiver[4:], name)
        return RETURNS.get((receiver, name), "")


def _tested(node: ast.AST) -> list[ast.AST]:
    """Expressions whose value is used there and then: a method without its call is a mistake."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        return [node.test]
    if isinstance(node, ast.BoolOp):
        return list(node.values)
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    return [node.operand] if isinstance(node, ast.UnaryOp) else []


def _assignments(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Targets with their values; a loop's variable gets the type of what the loop runs over."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            same = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            if same and len(target.elts) == len(node.value.elts):  # type: ignore[attr-defined]
                yield from zip(target.elts, node.value.elts, strict=True)  # type: ignore[attr-defined]
            else:
                yield target, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, (ast.For, ast.comprehension)):
        yield node.target, node.iter


def _walk(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or module without those of functions inside it, in order."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield from _walk(child)


def _scopes(tree: ast.Module) -> Iterator[_Scope]:
    """The module, its classes and functions."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) or _is_standard(node):
            names = (a.asname or a.name.split(".")[0] for a in node.names)
            modules |= {name: f"module {name}" for name in names}

    def inside(node: ast.AST, owner: str) -> Iterator[_Scope]:
        yield _Scope(node, owner, modules)
        for child in _walk(node):
            if isinstance(child, ast.ClassDef):
                yield from inside(child, child.name)
            elif isinstance(child, ast.FunctionDef):
                yield from inside(child, owner)

    yield from inside(tree, "")


def _is_standard(node: ast.AST) -> bool:
    """Whether a node imports names, such as modules, from Python's own library."""
    return isinstance(node, ast.ImportFrom) and (node.module or "") in sys.stdlib_module_names


def _definitions(tree: ast.Module) -> set[str]:
    """Names that the program itself gives to attributes, functions and classes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            found |= {node.attr} if is_self else set()
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found
