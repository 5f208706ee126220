"""Tables of the History section: plain rows of text, chosen as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

_PADDING = 8
_LAST_WIDTH = 50


class PlainTable:
    """`widget` shows rows of text; the last column takes what is left of the width.

    `on_select()` is called when the user chooses other rows.
    """

    def __init__(
        self,
        headings: Sequence[tuple[str, str]],
        on_select: Callable[[], None] = lambda: None,
        *,
        numbers: Sequence[int] = (),
        most_rows: int = 6,
    ) -> None:
        self._on_select, self._numbers, self._most = on_select, frozenset(numbers), most_rows
        self._quiet = False
        self._rows: tuple[tuple[str, ...], ...] = ()
        table = self.widget = qt.QTableWidget()
        table.columnCount = len(headings)
        table.setHorizontalHeaderLabels([name for name, _tip in headings])
        for column, (_name, tip) in enumerate(headings):
            table.horizontalHeaderItem(column).setToolTip(tip)
        table.selectionBehavior = qt.QAbstractItemView.SelectRows
        table.selectionMode = qt.QAbstractItemView.ExtendedSelection
        table.editTriggers = qt.QAbstractItemView.NoEditTriggers
        table.horizontalScrollMode = qt.QAbstractItemView.ScrollPerPixel
        table.showGrid, table.wordWrap, table.tabKeyNavigation = False, False, False
        table.verticalHeader().setVisible(False)
        table.verticalHeader().defaultSectionSize = table.fontMetrics().height() + 8
        table.horizontalHeader().highlightSections = False
        table.horizontalHeader().stretchLastSection = True
        table.horizontalHeader().minimumSectionSize = 24
        table.connect("itemSelectionChanged()", self._selected)
        self._fit_height()

    def show(
        self, rows: Sequence[Sequence[str]], tips: Sequence[str] = (), bold: Sequence[int] = ()
    ) -> None:
        """Show these rows; what was chosen stays chosen where as many rows are left."""
        shown = tuple(tuple(one) for one in rows)
        if shown == self._rows:
            return
        kept = self.chosen() if len(shown) == len(self._rows) else ()
        self._rows, self._quiet = shown, True
        self.widget.rowCount = len(shown)
        for number, cells in enumerate(shown):
            tip = tips[number] if number < len(tips) else ""
            for column, text in enumerate(cells):
                self.widget.setItem(number, column, self._item(text, column, tip, number in bold))
        self.widget.resizeColumnsToContents()
        # What does not fit is cut off with dots, and whole in the tool tip.
        self.widget.setColumnWidth(self.widget.columnCount - 1, _LAST_WIDTH)
        self._fit_height()
        self.widget.clearSelection()
        self._quiet = False
        for number in kept[:1]:
            self.widget.selectRow(number)
        self._on_select()

    def chosen(self) -> tuple[int, ...]:
        """The numbers of the chosen rows, rising."""
        rows = {index.row() for index in self.widget.selectionModel().selectedRows()}
        return tuple(sorted(rows))

    def _item(self, text: str, column: int, tip: str, bold: bool) -> Any:
        item = qt.QTableWidgetItem(text)
        side = qt.Qt.AlignRight if column in self._numbers else qt.Qt.AlignLeft
        item.setTextAlignment(side | qt.Qt.AlignVCenter)
        item.setToolTip(tip or text)
        if bold and column == 0:
            font = item.font()
            font.setBold(True)
            item.setFont(font)
        return item

    def _fit_height(self) -> None:
        """As high as its rows, up to a limit; more are scrolled to."""
        count = min(max(len(self._rows), 1), self._most)
        row = self.widget.fontMetrics().height() + 8
        self.widget.setFixedHeight((count + 1) * row + _PADDING)

    def _selected(self, *_args: Any) -> None:
        if not self._quiet:
            self._on_select()
