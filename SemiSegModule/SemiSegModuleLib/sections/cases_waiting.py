"""A dialog for volumes that only the user can decide on: time points, echoes, gaps to fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.additions import Waiting
from SemiSegModuleLib.qt_helpers import label


class WaitingChooser:
    """Opens without blocking; `on_chosen(waiting)` gets the checked ones after "Add"."""

    def __init__(
        self,
        parent: Any,
        offered: Sequence[Waiting],
        on_chosen: Callable[[list[Waiting]], None],
    ) -> None:
        self._offered, self._on_chosen = list(offered), on_chosen
        self.dialog = qt.QDialog(parent)
        self.dialog.windowTitle = _("Which volumes are to be added?")
        self._build()
        self._show_count()

    def open(self) -> None:
        """Show the dialog over the window."""
        self.dialog.open()

    def close(self) -> None:
        """Delete the dialog."""
        self.dialog.deleteLater()

    def chosen(self) -> list[Waiting]:
        """Those that are checked."""
        pairs = zip(self._offered, self._items, strict=True)
        return [one for one, item in pairs if item.checkState() == qt.Qt.Checked]

    def _build(self) -> None:
        self.list = qt.QListWidget()
        self.list.wordWrap = True
        self.list.alternatingRowColors = True
        self._items = [self._item(one) for one in self._offered]
        for item in self._items:
            self.list.addItem(item)
        self.list.itemChanged.connect(self._show_count)
        self.buttons = qt.QDialogButtonBox()
        self.buttons.standardButtons = qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.dialog.reject)
        layout = qt.QVBoxLayout(self.dialog)
        for part in (label(self._why()), self.list, self.buttons):
            layout.addWidget(part)
        self.dialog.resize(480, 320)

    def _why(self) -> str:
        several = any(not one.gaps for one in self._offered)
        gaps = any(one.gaps for one in self._offered)
        parts = []
        if several:
            parts.append(
                _(
                    "A series holds several volumes (time points, echoes, directions): check those"
                    " to add."
                )
            )
        if gaps:
            parts.append(
                _(
                    "In a series slices are missing. Fetch the whole series if you can; checked,"
                    " the gaps are filled from the neighboring slices."
                )
            )
        return " ".join(parts)

    @staticmethod
    def _item(one: Waiting) -> Any:
        text = _("{name}, {slices} slices").format(name=one.name, slices=one.slices)
        if one.gaps:
            text = _("{name}: fill its gaps").format(name=text)
        item = qt.QListWidgetItem(text)
        item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
        item.setCheckState(qt.Qt.Unchecked)
        return item

    def _show_count(self, *_args: Any) -> None:
        count = len(self.chosen())
        ok = self.buttons.button(qt.QDialogButtonBox.Ok)
        ok.text = _("Add {count}").format(count=count) if count else _("Add")
        ok.enabled = count > 0

    def _accept(self) -> None:
        chosen = self.chosen()
        self.dialog.accept()
        self._on_chosen(chosen)
