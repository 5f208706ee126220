"""The Annotate section's keys: only while the module is shown, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

# What Slicer binds itself: Segment Editor, slice views, application (see shortcuts.py).
SLICERS_KEYS = {
    *"0123456789",
    *(f"Shift+{digit}" for digit in "0123456789"),
    *("Esc", "Space", "Z", "Y", "Ctrl+Z", "Ctrl+Y", "Ctrl+Shift+Z", "Q", "W", "I"),
    *("/", "*", ",", ".", "<", ">"),
    *("X", "A", "Return", "Enter", "Backspace"),
    *("Left", "Right", "Up", "Down", "B", "F", "V", "R", "G", "T", "[", "]", "{", "}"),
    *(f"Ctrl+{key}" for key in "FOSW01234BHG5"),
    *("Shift+PgUp", "Shift+PgDown", "Del"),  # the table of cases
}


@pytest.fixture
def window(application: Any, scene: Any) -> Iterator[Any]:
    """An active window with a line edit in it."""
    import qt

    widget = qt.QWidget()
    made = SimpleNamespace(widget=widget, field=qt.QLineEdit(widget), view=qt.QPushButton(widget))
    widget.resize(200, 100)
    widget.show()
    widget.activateWindow()
    application.processEvents()
    yield made
    widget.hide()


@pytest.fixture
def pressed(window: Any) -> Iterator[tuple[Any, list[str]]]:
    """Shortcuts on the window, and the actions that were asked for."""
    from SemiSegModuleLib.shortcuts import Shortcuts, keys

    told: list[str] = []

    def slot(action: str) -> Any:
        return lambda: told.append(action)

    made = Shortcuts(window.widget, {key.action: slot(key.action) for key in keys()})
    yield made, told
    made.close()


def _type(application: Any, widget: Any, sequence: str) -> None:
    from PySide6 import QtGui
    from PySide6.QtTest import QTest

    widget.setFocus()
    combination = QtGui.QKeySequence(sequence)[0]
    QTest.keyClick(widget, combination.key(), combination.keyboardModifiers())
    application.processEvents()


def test_keys_are_unique_and_not_slicers_own() -> None:
    from SemiSegModuleLib.shortcuts import keys

    ours = [key.sequence for key in keys()]
    assert len(ours) == len(set(ours)) == 7
    assert not set(ours) & SLICERS_KEYS


def test_every_key_calls_its_action(application: Any, window: Any, pressed: Any) -> None:
    from SemiSegModuleLib.shortcuts import keys

    shortcuts, told = pressed
    shortcuts.enable(on=True)
    for key in keys():
        _type(application, window.view, key.sequence)
    assert told == ["done", "empty", "not_done", "previous", "next", "next_slice", "take_over"]


def test_keys_sleep_until_the_module_is_shown_and_after_it_is_left(
    application: Any, window: Any, pressed: Any
) -> None:
    shortcuts, told = pressed
    _type(application, window.view, "Shift+D")
    shortcuts.enable(on=True)
    shortcuts.enable(on=False)
    _type(application, window.view, "Shift+D")
    assert told == []


def test_capital_letters_typed_into_a_field_stay_text(
    application: Any, window: Any, pressed: Any
) -> None:
    shortcuts, told = pressed
    shortcuts.enable(on=True)
    for letter in "DEUT":
        _type(application, window.field, f"Shift+{letter}")
    assert told == []
    assert window.field.text.upper() == "DEUT"


def test_closing_takes_the_keys_off_the_window(application: Any, window: Any, pressed: Any) -> None:
    shortcuts, told = pressed
    shortcuts.enable(on=True)
    shortcuts.close()
    _type(application, window.view, "Shift+D")
    shortcuts.enable(on=True)
    assert told == []
