"""Makes PySide6 objects behave as PythonQt's: properties as attributes, both connect styles.

PySide6's `true_property` feature acts for the module whose code looks an attribute up. All look-ups
on QObjects go through two functions of this module, so the feature holds for every caller.
"""

from __future__ import annotations

import inspect
import linecache
import re
import types
from collections.abc import Callable
from typing import Any

import shiboken6
from __feature__ import true_property  # noqa: F401
from PySide6 import QtCore

from host import api, plain

Slot = Callable[..., Any]
_plain_get = QtCore.QObject.__getattribute__
_plain_set = shiboken6.Object.__setattr__


def connect(self: QtCore.QObject, signature: str, slot: Slot, *more: Any) -> bool:
    """`object.connect("clicked(bool)", slot)`: the slot gets as many values as the signature says.

    `more`: the form `object.connect("signal()", receiver, "slot()")`. ValueError where the signal
    does not exist with these types: PythonQt only writes a line that nobody reads.
    """
    if more:
        slot = getattr(slot, more[0].split("(")[0])
    name, types_inside = _split(signature)
    count = len(types_inside)

    def relay(*values: Any) -> None:
        slot(*values[:count])

    if _made_here(type(self), name):
        getattr(self, name).connect(relay)
    elif self.metaObject().indexOfSignal(signature.replace(" ", "")) >= 0:
        QtCore.QObject.connect(self, QtCore.SIGNAL(signature), relay)  # type: ignore[call-overload]
    else:
        raise ValueError(f"{class_name(self)} has no signal {signature}")
    if not hasattr(self, "_connected"):
        self._connected = []
    self._connected.append((signature, slot, relay))
    return True


def disconnect(self: QtCore.QObject, signature: str, slot: Slot) -> bool:
    """Undoes `connect` with the same signature and slot; False where there was none."""
    for entry in getattr(self, "_connected", ()):
        if entry[0] == signature and entry[1] == slot:
            getattr(self, _split(signature)[0]).disconnect(entry[2])
            self._connected.remove(entry)
            return True
    return False


def _split(signature: str) -> tuple[str, list[str]]:
    match = re.fullmatch(r"(\w+)\((.*)\)", signature)
    if match is None:
        raise ValueError(f"a signal is named with its types, such as clicked(bool): {signature}")
    return match[1], [part for part in match[2].split(",") if part]


def delete(self: QtCore.QObject) -> None:
    shiboken6.delete(self)


def class_name(self: QtCore.QObject) -> str:
    return next(c.__name__ for c in type(self).__mro__ if not c.__name__.startswith("_"))


def execute(self: Any) -> Any:
    return self.exec()


_EXTRA: dict[str, Slot] = {
    "connect": connect,
    "disconnect": disconnect,
    "delete": delete,
    "className": class_name,
    "exec_": execute,
}


# Modules that may use only what the real application has, by the start of their names.
checked_modules: list[str] = []
_decisions: dict[tuple[type, str], Slot | None] = {}
_foreign_names: set[tuple[type, str]] = set()


def get_attribute(self: QtCore.QObject, name: str) -> Any:
    """What the real application gives for `self.name`: AttributeError where it has no such name."""
    key = (type(self), name)
    if key not in _decisions or key in _foreign_names:
        if _foreign(*key):
            _foreign_names.add(key)
            _refuse(type(self), name, inspect.currentframe())
        _decisions[key] = _decide(*key)
    method = _decisions[key]
    return _plain_get(self, name) if method is None else method.__get__(self, type(self))


def _foreign(kind: type, name: str) -> bool:
    """Whether only PySide6 has the name; it looks some up by itself, such as protected ones."""
    if name in _EXTRA or name.startswith("_") or _made_here(kind, name):
        return False
    return not api.kinds(_described(kind), name)


def _refuse(kind: type, name: str, frame: types.FrameType | None) -> None:
    frame = frame.f_back if frame is not None else None
    # No frame: Qt itself asks, at exit.
    if frame is None or not str(frame.f_globals.get("__name__")).startswith(tuple(checked_modules)):
        return
    if f".{name}" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
        raise AttributeError(f"Slicer's {_described(kind)} has no {name}{_untold(kind)}")


def _untold(kind: type) -> str:
    first = next(c.__name__ for c in kind.__mro__ if c.__module__.startswith("PySide6."))
    if api.class_api(first) is not None:
        return ""
    return f", or slicer_api.json lacks {first}: run trim_api.py with a full reading"


def _described(kind: type) -> str:
    return next(c.__name__ for c in kind.__mro__ if api.class_api(c.__name__))


def _decide(kind: type, name: str) -> Slot | None:
    """The function to call for `name`; None where PySide6 gives the right thing by itself."""
    if name in _EXTRA:
        return _EXTRA[name]
    if name.startswith("_") or _made_here(kind, name):
        return None
    found = api.kinds(_described(kind), name)
    if "property" in found or "signal" in found:
        return None
    # Getters and setters that true_property hides exist in PythonQt, beside the property or alone.
    method = plain.method(kind, name)
    return method if callable(method) else None


def _made_here(kind: type, name: str) -> bool:
    """Whether a Python subclass, not PySide6, defines `name`."""
    return any(name in vars(c) for c in kind.__mro__ if not c.__module__.startswith("PySide6."))


def set_attribute(self: QtCore.QObject, name: str, value: Any) -> None:
    """PythonQt lets nobody invent attributes on its objects: a mistyped property is an error."""
    kind = type(self)
    if not name.startswith("_") and not _made_here(kind, name):
        # PySide6 itself sets a signal once, to remember it.
        described = _described(kind)
        if not api.kinds(described, name) & {"property", "signal"}:
            raise AttributeError(
                f"Slicer's {described} has no property {name}, and new attributes cannot be made"
            )
        # Looking the name up makes PySide6 choose the variant of the class with properties.
        _ = getattr(kind, name, None)
    _plain_set(self, name, value)


def switch_on() -> None:
    """Change PySide6's QObject; safe to call again.

    The feature keeps one dictionary of a class for modules with it and one for those without:
    both get the two functions.
    """
    kinds = plain.classes()
    plain.hook(kinds, get_attribute, set_attribute)
    for kind in kinds:
        _ = kind.objectName
        if "__getattribute__" in vars(kind):
            kind.__getattribute__ = get_attribute
        if "__setattr__" in vars(kind):
            kind.__setattr__ = set_attribute
