"""Scans that were taken out of the study, and the way back for each."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

_STAMP = "%Y%m%dT%H%M%S"


class RestoreMenu:
    """A button with a menu, which looks for removed scans only when it is opened."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.button = qt.QPushButton(_("Restore"))
        self.button.toolTip = _("Put scans back that were removed, with all that was drawn in them")
        self.menu = qt.QMenu(self.button)
        self.menu.connect("aboutToShow()", self.onFill)
        self.button.setMenu(self.menu)

    def onFill(self, *_args: Any) -> None:
        """List what can be put back, the latest first."""
        self.menu.clear()
        study = self._session.study
        found = () if study is None else study.removed_cases()
        for folder in reversed(found):
            action = self.menu.addAction(_in_words(folder))
            action.connect("triggered()", partial(self._session.restore_case, folder))
        if not found:
            self.menu.addAction(_("No scan was removed")).enabled = False


def _in_words(folder: Path) -> str:
    """Which scan lies in `folder`, and since when: "NAME-STAMP" or, in a second, "...-2"."""
    name, stamp = folder.name, ""
    for part in reversed(folder.name.split("-")):
        try:
            at = datetime.strptime(part, _STAMP).replace(tzinfo=UTC)
        except ValueError:
            continue
        stamp = at.astimezone().strftime("%Y-%m-%d %H:%M")
        name = folder.name.rpartition(f"-{part}")[0]
        break
    return _("{case}   (removed {time})").format(case=name, time=stamp) if stamp else name
