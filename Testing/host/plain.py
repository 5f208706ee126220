"""What must see PySide6 without its `true_property` feature, which acts per module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from shibokensupport import feature

# Said outright: a module that PySide6 does not know sees whatever its caller chose.
feature.set_selection(0, __name__)


def classes() -> list[type[QtCore.QObject]]:
    """All QObject classes of the three modules."""
    found = []
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        members = (getattr(module, name) for name in dir(module))
        found += [m for m in members if isinstance(m, type) and issubclass(m, QtCore.QObject)]
    return found


def method(kind: type, name: str) -> Any:
    """A class's own method, also one that the feature hides; None where there is none."""
    # Looking an attribute up makes PySide6 choose this module's variant of the class; the classes
    # are walked here because Python's cache of look-ups may remember the other variant.
    _ = kind.objectName  # type: ignore[attr-defined]
    found = next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None)
    return None if isinstance(found, (staticmethod, classmethod, type)) else found


def hook(kinds: list[type], get: Callable[..., Any], set_: Callable[..., Any]) -> None:
    """Let attributes be read and set through two functions, where a class reads and sets itself."""
    for kind in kinds:
        # Looking an attribute up makes PySide6 choose this module's variant of the class.
        _ = kind.objectName  # type: ignore[attr-defined]
        if "__getattribute__" in vars(kind):
            kind.__getattribute__ = get  # type: ignore[method-assign]
        if "__setattr__" in vars(kind):
            kind.__setattr__ = set_  # type: ignore[method-assign,assignment]
