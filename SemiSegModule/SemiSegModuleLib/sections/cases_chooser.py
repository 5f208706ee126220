"""A dialog that offers the scene's volumes; those that cannot be used say why."""

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.sections.cases_sources import Candidate

_GREY = (122, 122, 122)


class VolumeChooser:
    """Opens without blocking; `on_chosen(candidates)` gets the checked ones after "Add"."""

    def __init__(
        self,
        parent,
        title: str,
        offered: Sequence[Candidate],
        on_chosen: Callable[[list[Candidate]], None],
    ) -> None:
        self._offered, self._on_chosen = offered, on_chosen
        self.dialog = qt.QDialog(parent)
        self.dialog.windowTitle = title
        self._build()
        self._show_count()

    def open(self) -> None:
        """Show the dialog over the window."""
        self.dialog.open()

    def close(self) -> None:
        """Delete the dialog."""
        self.dialog.deleteLater()

    def chosen(self) -> list[Candidate]:
        """Those that are checked."""
        return [
            offer
            for row, offer in enumerate(self._offered)
            if self.list.item(row).checkState() == qt.Qt.Checked and not offer.refusal
        ]

    def _build(self) -> None:
        self.list = qt.QListWidget()
        self.list.wordWrap = True
        self.list.alternatingRowColors = True
        self._items = [self._item(offer) for offer in self._offered]
        for item in self._items:
            self.list.addItem(item)
        self.list.itemChanged.connect(self._show_count)
        self.buttons = qt.QDialogButtonBox()
        self.buttons.standardButtons = qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.dialog.reject)
        layout = qt.QVBoxLayout(self.dialog)
        layout.addWidget(self.list)
        layout.addWidget(self.buttons)
        self.dialog.resize(420, 320)

    def _item(self, offer: Candidate):
        item = qt.QListWidgetItem(_line(offer))
        if offer.refusal:
            # Grey, but darker than what is disabled: the reason is there to be read.
            item.setFlags(qt.Qt.ItemIsEnabled)
            item.setForeground(qt.QBrush(qt.QColor(*_GREY)))
        else:
            item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
            item.setCheckState(qt.Qt.Checked)
        item.setToolTip(offer.refusal or offer.name)
        return item

    def _show_count(self, *_args) -> None:
        count = len(self.chosen())
        button = self.buttons.button(qt.QDialogButtonBox.Ok)
        button.text = _("Add {count}").format(count=count) if count else _("Add")
        button.enabled = count > 0

    def _accept(self) -> None:
        chosen = self.chosen()
        self.dialog.accept()
        self._on_chosen(chosen)


def _line(offer: Candidate) -> str:
    if offer.refusal:
        return offer.refusal if offer.name in offer.refusal else f"{offer.name}: {offer.refusal}"
    hints = [offer.modality or "", "DICOM" if offer.from_dicom else ""]
    known = ", ".join(hint for hint in hints if hint)
    return f"{offer.name} ({known})" if known else offer.name
