"""Every string that the user of the panel sees goes through the translator."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "SemiSegModule"

_SHOWN_PROPERTIES = {
    "text",
    "title",
    "toolTip",
    "windowTitle",
    "placeholderText",
    "suffix",
    "prefix",
    "statusTip",
    "helpText",
    "acknowledgementText",
}
_SHOWN_BY_CALL = {
    "QLabel",
    "QPushButton",
    "QToolButton",
    "QCheckBox",
    "QRadioButton",
    "QGroupBox",
    "QAction",
    "QTableWidgetItem",
    "addRow",
    "addItem",
    "addItems",
    "addAction",
    "setHorizontalHeaderLabels",
    "setToolTip",
    "setText",
    "button",
    "label",
    "say",
    "errorDisplay",
    "warningDisplay",
    "infoDisplay",
    "confirmOkCancelDisplay",
    "confirmYesNoDisplay",
    "showStatusMessage",
}
_WORD = re.compile(r"[A-Za-z]{2,}")
_SENTENCE = re.compile(r"\s*[A-Z][a-z]* ([^ ]+ )+[^ ]+")
_NOT_SHOWN = {
    "_",
    "translate",
    "logging.info",
    "logging.warning",
    "logging.exception",
    "re.compile",
}


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _plain(node: ast.AST) -> Iterator[str]:
    """Words in `node` that no translator sees; what only chooses between texts is skipped."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and _WORD.search(node.value):
            yield node.value
        return
    for child in _parts(node):
        yield from _plain(child)


def _parts(node: ast.AST) -> list[ast.AST]:
    """The parts of `node` that become part of its text."""
    if isinstance(node, ast.JoinedStr):
        return [part for part in node.values if isinstance(part, ast.Constant)]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.List | ast.Tuple | ast.Starred):
        return list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        # _("... {name}").format(name=...): the frame is translated, the values are data.
        return [node.func.value] if node.func.attr in ("format", "join") else []
    return []


def _shown(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions that the user sees: texts of widgets, messages, and sentences of errors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Attribute) and t.attr in _SHOWN_PROPERTIES for t in node.targets
        ):
            yield node.value
        elif isinstance(node, ast.Call) and _name(node.func) in _SHOWN_BY_CALL:
            yield from node.args
            yield from (
                keyword.value for keyword in node.keywords if keyword.arg in ("text", "windowTitle")
            )
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from node.exc.args


def _sentences(node: ast.AST) -> Iterator[ast.Constant]:
    """Constants that read as sentences, but for docstrings, the log, and what is translated."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _NOT_SHOWN:
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Constant):
            docstring = isinstance(node, ast.Expr)
            if not docstring and isinstance(child.value, str) and _SENTENCE.match(child.value):
                yield child
        else:
            yield from _sentences(child)


def untranslated(source: str) -> list[tuple[int, str]]:
    tree = ast.parse(source)
    found = {(shown.lineno, words) for shown in _shown(tree) for words in _plain(shown)}
    found |= {(constant.lineno, str(constant.value)) for constant in _sentences(tree)}
    return sorted(found)


def test_untranslated_strings_are_found() -> None:
    assert untranslated('label.text = "Hello"') == [(1, "Hello")]
    assert untranslated('QPushButton(f"{n} slices")') == [(1, " slices")]
    assert untranslated('w.toolTip = _("A") if a else "Bc"') == [(1, "Bc")]
    assert untranslated('raise SceneError("no " + x)') == [(1, "no ")]
    assert untranslated('"""A b c."""\nx = "Say this now"') == [(2, "Say this now")]
    assert untranslated('say(_("{n} slices").format(n="ab"), error=True)') == []
    assert untranslated("label.text = f\"{_('Name')}: {name} %\"") == []


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=str(p.relative_to(MODULE))) for p in sorted(MODULE.rglob("*.py"))]
)
def test_every_string_that_the_user_sees_can_be_translated(path: Path) -> None:
    assert untranslated(path.read_text(encoding="utf-8")) == []
