"""A dialog that lists the series of Slicer's DICOM database, by patient and study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.dicom_database import Series, grouped
from SemiSegModuleLib.qt_helpers import label

_GREY = (122, 122, 122)
_SERIES, _MODALITY, _IMAGES = range(3)


class SeriesChooser:
    """Opens without blocking; `on_chosen(uids)` gets the checked series after "Add"."""

    def __init__(
        self, parent: Any, rows: Sequence[Series], on_chosen: Callable[[list[str]], None]
    ) -> None:
        self._on_chosen = on_chosen
        self._items: list[tuple[Series, Any]] = []
        self._groups: list[tuple[Any, list[tuple[Series, Any]]]] = []
        self.dialog = qt.QDialog(parent)
        self.dialog.windowTitle = _("Add series of the DICOM database")
        self._build(rows)
        self._show_count()

    def open(self) -> None:
        """Show the dialog over the window."""
        self.dialog.open()

    def close(self) -> None:
        """Delete the dialog."""
        self.dialog.deleteLater()

    def chosen(self) -> list[str]:
        """The unique ids of those that are checked, filtered out or not."""
        return [
            series.uid
            for series, item in self._items
            if not series.refusal and item.checkState(_SERIES) == qt.Qt.Checked
        ]

    def _build(self, rows: Sequence[Series]) -> None:
        self.filterEdit = qt.QLineEdit()
        self.filterEdit.placeholderText = _("Filter: patient, date, modality, description ...")
        self.filterEdit.clearButtonEnabled = True
        self.filterEdit.connect("textChanged(QString)", self._on_filter)
        self.tree = qt.QTreeWidget()
        self.tree.columnCount = 4
        self.tree.setHeaderLabels([_("Series"), _("Type"), _("Images"), _("Remark")])
        self.tree.alternatingRowColors = True
        self.tree.rootIsDecorated = True
        for title, members in grouped(rows):
            self._add_group(title, members)
        self.tree.expandAll()
        for column in (_SERIES, _MODALITY, _IMAGES):
            self.tree.resizeColumnToContents(column)
        self.tree.itemChanged.connect(self._show_count)
        self.tree.accessibleName = _("Series of the DICOM database")
        self._build_frame()

    def _build_frame(self) -> None:
        note = _("Names are shown here only; the study keeps none of them.")
        self.buttons = qt.QDialogButtonBox()
        self.buttons.standardButtons = qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.dialog.reject)
        layout = qt.QVBoxLayout(self.dialog)
        for part in (self.filterEdit, self.tree, label(note), self.buttons):
            layout.addWidget(part)
        self.dialog.resize(720, 480)

    def _add_group(self, title: str, members: Sequence[Series]) -> None:
        group = qt.QTreeWidgetItem()
        group.setText(_SERIES, title)
        group.setFlags(qt.Qt.ItemIsEnabled)
        self.tree.addTopLevelItem(group)
        group.setFirstColumnSpanned(True)
        rows = [(series, _item(series)) for series in members]
        for _series, item in rows:
            group.addChild(item)
        self._items += rows
        self._groups.append((group, rows))

    def _on_filter(self, text: str) -> None:
        words = text.lower().split()
        for group, rows in self._groups:
            shown = 0
            for series, item in rows:
                fits = all(word in _searchable(series) for word in words)
                item.setHidden(not fits)
                shown += fits
            group.setHidden(shown == 0)

    def _show_count(self, *_args: Any) -> None:
        count = len(self.chosen())
        ok = self.buttons.button(qt.QDialogButtonBox.Ok)
        ok.text = _("Add {count}").format(count=count) if count else _("Add")
        ok.enabled = count > 0

    def _accept(self) -> None:
        chosen = self.chosen()
        self.dialog.accept()
        self._on_chosen(chosen)


def _item(series: Series) -> Any:
    name = "  ".join(part for part in (series.number, series.description) if part)
    values = [name or _("(no description)"), series.modality, str(series.images), series.refusal]
    item = qt.QTreeWidgetItem()
    for column, value in enumerate(values):
        item.setText(column, value)
    if series.refusal:
        item.setFlags(qt.Qt.ItemIsEnabled)
        for column in range(len(values)):
            item.setForeground(column, qt.QBrush(qt.QColor(*_GREY)))
            item.setToolTip(column, series.refusal)
    else:
        item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
        item.setCheckState(_SERIES, qt.Qt.Unchecked)
    return item


def _searchable(series: Series) -> str:
    parts = (series.patient, series.date, series.study, series.modality, series.description)
    return " ".join((*parts, series.number)).lower()
