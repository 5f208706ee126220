"""Texts without the places of the author's disk: a report is handed to others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# An absolute path of more than one part: only its last part is of use to a reader elsewhere.
_POSIX = re.compile(r"(?<![\w./:])/(?:[^\s/'\",;:()<>]+/)+([^\s/'\",;:()<>]*)")
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/'\",;:()<>]+[\\/])*([^\s\\/'\",;:()<>]*)")


class Scrubber:
    """Makes paths relative to the study folder, and shortens all others to their last part."""

    def __init__(self, folder: Path, known: Iterable[str] = ()) -> None:
        self._known = {name: _last_part(name) for name in known}
        for root in {folder, folder.absolute(), folder.resolve()}:
            self._known[f"{root}/"] = self._known[f"{root}\\"] = ""
            self._known[str(root)] = "the study folder"
        self._known[str(Path.home())] = "~"

    def __call__(self, text: str) -> str:
        """`text` with its absolute paths shortened."""
        for place in sorted(self._known, key=len, reverse=True):
            text = text.replace(place, self._known[place])
        return _WINDOWS.sub(r"…/\1", _POSIX.sub(r"…/\1", text))


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
