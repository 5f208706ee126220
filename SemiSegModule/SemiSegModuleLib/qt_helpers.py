"""Small helpers that keep the sections short and alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt


def set_margins(layout: Any, left: int, top: int, right: int, bottom: int) -> None:
    """Set a layout's margins in pixels; the one place that decides how."""
    layout.setContentsMargins(left, top, right, bottom)


def button(text: str, slot: Callable[..., Any], tool_tip: str = "") -> Any:
    """A push button that calls `slot()` when clicked."""
    result = qt.QPushButton(text)
    result.toolTip = tool_tip
    result.connect("clicked()", slot)
    return result


def label(text: str = "", *, word_wrap: bool = True) -> Any:
    result = qt.QLabel(text)
    result.wordWrap = word_wrap
    return result


def row(*widgets: Any) -> Any:
    """A horizontal layout without margins; an int in place of a widget is a stretch."""
    layout = qt.QHBoxLayout()
    set_margins(layout, 0, 0, 0, 0)
    for widget in widgets:
        if isinstance(widget, int):
            layout.addStretch(widget)
        else:
            layout.addWidget(widget)
    return layout


def column(widget: Any, *parts: Any) -> Any:
    """Give `widget` a vertical layout without margins that holds widgets and layouts."""
    layout = qt.QVBoxLayout(widget)
    set_margins(layout, 0, 0, 0, 0)
    for part in parts:
        if part.isWidgetType():
            layout.addWidget(part)
        else:
            layout.addLayout(part)
    return layout
