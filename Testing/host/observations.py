"""VTK observers that end with the widget that they belong to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore


class Observations:
    """What `owner` observes; nothing of it keeps `owner` alive."""

    def __init__(self, owner: QtCore.QObject) -> None:
        self._entries: list[tuple[Any, int]] = []
        # A lambda: PySide6 would not call a method of what is being destroyed.
        owner.destroyed.connect(lambda *_: self.clear())

    def add(self, thing: Any, event: Any, method: Callable[..., Any]) -> None:
        """Call a bound `method` with (caller, event, ...) whenever `thing` invokes `event`."""
        reference = weakref.WeakMethod(method)

        def relay(*values: Any) -> None:
            found = reference()
            if found is not None:
                found(*values)

        if hasattr(method, "CallDataType"):
            relay.CallDataType = method.CallDataType  # type: ignore[attr-defined]
        self._entries.append((thing, thing.AddObserver(event, relay)))

    def drop(self, thing: Any) -> None:
        """Stop observing `thing`."""
        for entry in [entry for entry in self._entries if entry[0] is thing]:
            thing.RemoveObserver(entry[1])
            self._entries.remove(entry)

    def clear(self) -> None:
        for thing, tag in self._entries:
            thing.RemoveObserver(tag)
        self._entries = []
