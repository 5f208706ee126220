"""The keys of the Annotate section, active only while the module is shown.

Checked against what Slicer itself binds. Segment Editor: 0-9, Shift+0-9, Esc, Space, Z, Y, Ctrl+Z,
Ctrl+Y, Q, W, I, / * , . < >; its effects add X, A, Enter and Backspace, and Shift with the mouse
wheel. Slice views: arrows without Shift, B, F, V, R, G, T, [ ] { }. Application: Ctrl with a
letter or digit. Shift+Left and Shift+Right pan a 3-D view; while this module is shown they go to
done slices instead, and dragging with the middle button still pans.
Letters with Shift that are typed into a text field stay text: Qt offers them to the field first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import qt
from slicer.i18n import tr as _


@dataclass(frozen=True)
class Key:
    """One key: the action's name, the keys as Qt writes them, and what it does in words."""

    action: str
    sequence: str
    text: str


def keys() -> tuple[Key, ...]:
    """All keys of the section, in the order of its buttons."""
    return (
        Key("done", "Shift+D", _("Slice done: what is drawn here is right for all structures")),
        Key("empty", "Shift+E", _("Slice empty: none of the structures is in this slice")),
        Key("not_done", "Shift+U", _("Not done: take the mark off this slice")),
        Key("previous", "Shift+Left", _("Go to the nearest done slice on the left of the strip")),
        Key("next", "Shift+Right", _("Go to the nearest done slice on the right of the strip")),
        Key("next_slice", "Shift+N", _("Go to the slice where drawing pays most, in any case")),
        Key("take_over", "Shift+T", _("Take over this slice's suggestion, to correct it")),
    )


class Shortcuts:
    """QShortcuts on `parent` (the main window) for the actions that `slots` names."""

    def __init__(self, parent: object, slots: Mapping[str, Callable[[], None]]) -> None:
        self._shortcuts = []
        for key in keys():
            shortcut = qt.QShortcut(parent)
            shortcut.setKey(qt.QKeySequence(key.sequence))
            shortcut.autoRepeat = key.action in ("previous", "next")
            shortcut.enabled = False
            shortcut.connect("activated()", slots[key.action])
            self._shortcuts.append(shortcut)

    def enable(self, *, on: bool) -> None:
        """Listen to the keys, or leave them to others."""
        for shortcut in self._shortcuts:
            shortcut.enabled = on

    def close(self) -> None:
        """Take the keys off the main window, which outlives the module's panel."""
        for shortcut in self._shortcuts:
            shortcut.enabled = False
            shortcut.deleteLater()
        self._shortcuts = []
