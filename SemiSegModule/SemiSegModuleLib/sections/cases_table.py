"""The table of cases: sorted and filtered by Qt, filled cell by cell from the study's overview."""

from collections.abc import Callable, Collection, Sequence

import qt

from semiseg.study.overview import CaseOverview
from SemiSegModuleLib.sections.cases_cells import (
    MODALITY,
    NAME,
    NOTHING,
    SCORE,
    STATE,
    TRUST,
    UNCERTAINTY,
    Cell,
    cells,
    headings,
    matches,
    searchable,
)
from SemiSegModuleLib.sections.cases_icons import Icons

_TEXT, _ICON, _TIP = qt.Qt.DisplayRole, qt.Qt.DecorationRole, qt.Qt.ToolTipRole
_FONT, _TINT, _ALIGNMENT = qt.Qt.FontRole, qt.Qt.BackgroundRole, qt.Qt.TextAlignmentRole
_SPOKEN = qt.Qt.AccessibleTextRole
# Two roles of our own: what a cell is sorted by, and whether its row passes the filter.
_ORDER = 257
_PASSES = 258
_PADDING = 10
_ICON_WIDTH = 20
_WITH_ICON = (NAME, STATE, TRUST)
_SORT_MARK = 16
_READABLE_NAME = 120
_FEWEST_ROWS, _MOST_ROWS = 3, 10


class CaseTable:
    """`view` shows one row per case; ids, never row numbers, say which case is meant.

    `on_select()` is called when the user selects other rows, `on_show(case_id)` on a double
    click or Return.
    """

    def __init__(self, on_select: Callable[[], None], on_show: Callable[[str], None]) -> None:
        self._on_select, self._on_show = on_select, on_show
        self._ids: list[str] = []
        self._seen: dict[str, tuple[CaseOverview, bool, bool]] = {}
        self._cells: dict[str, tuple[Cell, ...]] = {}
        self._texts: dict[str, str] = {}
        self._wanted: list[str] = []
        self._filter, self._quiet = "", False
        self._advances: dict[str, int] = {}
        self._full_widths: dict[int, int] = {}
        self._fitting = self._user_width = self._narrow = False
        self._icons = Icons()
        self._bold = qt.QFontMetrics(_font(bold=True))
        self._build()

    def _build(self) -> None:
        self._model = qt.QStandardItemModel()
        self._proxy = qt.QSortFilterProxyModel()
        # Re-sorted once per refresh, not once per changed cell.
        self._proxy.dynamicSortFilter = False
        self._proxy.sortRole = _ORDER
        self._proxy.filterRole = _PASSES
        self._proxy.filterKeyColumn = NAME
        self._proxy.setSourceModel(self._model)
        self._proxy.setFilterFixedString("1")
        self._head()
        self.view = qt.QTableView()
        self.view.setModel(self._proxy)
        self._style()
        self._selection = self.view.selectionModel()
        self._selection.selectionChanged.connect(self._on_selection)
        self.view.doubleClicked.connect(self._on_double_click)

    def _head(self) -> None:
        names = headings()
        self._model.setColumnCount(len(names))
        for column, (name, meaning) in enumerate(names):
            self._model.setHeaderData(column, qt.Qt.Horizontal, name, _TEXT)
            self._model.setHeaderData(column, qt.Qt.Horizontal, meaning, _TIP)

    def _style(self) -> None:
        view = self.view
        view.selectionBehavior = qt.QAbstractItemView.SelectRows
        view.selectionMode = qt.QAbstractItemView.ExtendedSelection
        view.editTriggers = qt.QAbstractItemView.NoEditTriggers
        view.horizontalScrollMode = qt.QAbstractItemView.ScrollPerPixel
        view.textElideMode = qt.Qt.ElideMiddle
        view.showGrid = False
        view.wordWrap = False
        # Tab leaves the table for the next button; arrows move inside it.
        view.tabKeyNavigation = False
        view.verticalHeader().setVisible(False)
        view.verticalHeader().defaultSectionSize = view.fontMetrics().height() + 8
        header = view.horizontalHeader()
        header.highlightSections = False
        header.minimumSectionSize = 24
        header.stretchLastSection = True
        header.sectionResized.connect(self._on_resized)
        header.sortIndicatorChanged.connect(self._fit)
        view.horizontalScrollBar().rangeChanged.connect(self._fit)
        view.sortingEnabled = True
        view.sortByColumn(NAME, qt.Qt.AscendingOrder)

    def update(
        self, rows: Sequence[CaseOverview], shown: str | None, loaded: Collection[str]
    ) -> None:
        """Show `rows`; only cells that say something else than before are touched."""
        self._quiet = True
        try:
            place = self._place()
            changed = self._drop({row.id for row in rows}) + self._append(rows)
            self._model.blockSignals(True)
            for row in rows:
                changed += self._fill(row, shown=row.id == shown, loaded=row.id in loaded)
            self._model.blockSignals(False)
            if changed:
                self._arrange()
                self._restore(place)
        finally:
            self._model.blockSignals(False)
            self._quiet = False

    def filter(self, text: str) -> None:
        """Show only the cases in which each word of `text` occurs."""
        self._filter = text
        self._quiet = True
        self._model.blockSignals(True)
        for number, case_id in enumerate(self._ids):
            self._pass(number, case_id)
        self._model.blockSignals(False)
        self._proxy.invalidate()
        self._restore(0)
        self._quiet = False
        self._on_select()

    @property
    def count(self) -> int:
        """How many cases there are, filtered out or not."""
        return len(self._ids)

    def visible(self) -> list[str]:
        """The ids of the rows that pass the filter, from top to bottom."""
        rows = range(self._proxy.rowCount())
        return [self._id_at(self._proxy.index(row, NAME)) for row in rows]

    def selected(self) -> list[str]:
        """The ids of the selected visible rows, from top to bottom."""
        indexes = sorted(self._selection.selectedRows(), key=lambda index: index.row())
        return [self._id_at(index) for index in indexes]

    def select(self, case_ids: Sequence[str]) -> None:
        """Select these rows and bring the first into sight."""
        self._wanted = list(case_ids)
        self._quiet = True
        self._restore(0)
        self._quiet = False
        self._on_select()

    def close(self) -> None:
        """Let go of Qt's objects."""
        self._selection = None
        self.view.setModel(None)

    def _drop(self, kept: set[str]) -> int:
        gone = [number for number, case_id in enumerate(self._ids) if case_id not in kept]
        for number in reversed(gone):
            case_id = self._ids.pop(number)
            self._model.removeRow(number)
            for store in (self._seen, self._cells, self._texts):
                store.pop(case_id, None)
        return len(gone)

    def _append(self, rows: Sequence[CaseOverview]) -> int:
        known = set(self._ids)
        new = [row.id for row in rows if row.id not in known]
        self._ids.extend(new)
        self._model.setRowCount(len(self._ids))
        self._numbers = {case_id: number for number, case_id in enumerate(self._ids)}
        return len(new)

    def _fill(self, row: CaseOverview, *, shown: bool, loaded: bool) -> int:
        if self._seen.get(row.id) == (row, shown, loaded):
            return 0
        self._seen[row.id] = (row, shown, loaded)
        before = self._cells.get(row.id, ())
        self._cells[row.id] = now = cells(row, shown=shown, loaded=loaded)
        self._texts[row.id] = searchable(row)
        number = self._numbers[row.id]
        for column, cell in enumerate(now):
            if not before or before[column] != cell:
                self._write(number, column, cell, before[column] if before else None)
        self._pass(number, row.id)
        return 1

    def _write(self, number: int, column: int, cell: Cell, before: Cell | None) -> None:
        index, put = self._model.index(number, column), self._model.setData
        self._write_text(index, column, cell.text)
        put(index, cell.order, _ORDER)
        put(index, cell.tip, _TIP)
        if cell.tint or (before and before.tint):
            put(index, self._icons.tint(cell.tint), _TINT)
        if cell.icon or (before and before.icon):
            put(index, self._icons.icon(cell.icon) if cell.icon else None, _ICON)
        if cell.bold or (before and before.bold):
            put(index, _font(bold=cell.bold), _FONT)
        if before is None and column in (MODALITY, UNCERTAINTY, SCORE):
            put(index, qt.Qt.AlignCenter, _ALIGNMENT)

    def _write_text(self, index, column: int, text: str) -> None:
        hidden = column == TRUST and self._narrow and text != NOTHING
        self._model.setData(index, "" if hidden else text, _TEXT)
        if column == TRUST:
            self._model.setData(index, text, _SPOKEN)

    def _pass(self, number: int, case_id: str) -> None:
        passes = "1" if matches(self._texts[case_id], self._filter) else "0"
        self._model.setData(self._model.index(number, NAME), passes, _PASSES)

    def _arrange(self) -> None:
        self._proxy.invalidate()
        for column, (name, _meaning) in enumerate(headings()):
            heading = self._advance(name) + _PADDING
            texts = {found[column].text for found in self._cells.values()}
            wide = max(map(self._advance, texts), default=0) + _PADDING
            wide += _ICON_WIDTH * (column in _WITH_ICON)
            self._full_widths[column] = max(heading, wide)
        self._short_trust = self._advance(headings()[TRUST][0]) + _PADDING
        self._fit()

    def _advance(self, text: str) -> int:
        if text not in self._advances:
            # The shown case is bold: room for that, or its name would be cut.
            self._advances[text] = self._bold.horizontalAdvance(text)
        return self._advances[text]

    def _fit(self, *_args) -> None:
        """Share out the width: names get what the others leave, but enough to be read."""
        if self._fitting or not self._full_widths:
            return
        self._fitting = True
        wide = dict(self._full_widths)
        mark = self.view.horizontalHeader().sortIndicatorSection()
        heading = self._advance(headings()[mark][0]) + _PADDING + _SORT_MARK
        wide[mark] = max(wide[mark], heading)
        least = min(_READABLE_NAME, wide[NAME])
        room = self.view.viewport().width - sum(wide.values()) + wide[NAME]
        self._show_words(show=room >= least)
        if self._narrow:
            room += wide[TRUST] - self._short_trust
            wide[TRUST] = self._short_trust
        if room < least:
            # The figures begin exactly at the edge, where scrolling finds them whole.
            room += wide[UNCERTAINTY] + wide[SCORE]
        wide[NAME] = min(max(room, least), wide[NAME])
        for column, width in wide.items():
            if column != NAME or not self._user_width:
                self.view.setColumnWidth(column, width)
        fit_height(self.view, self.count, _FEWEST_ROWS, _MOST_ROWS)
        self._fitting = False

    def _show_words(self, *, show: bool) -> None:
        """In a narrow panel the trust is told by its icon and tooltip alone."""
        if self._narrow != show:
            return
        self._narrow = not show
        before = self._model.blockSignals(True)
        for number, case_id in enumerate(self._ids):
            text = self._cells[case_id][TRUST].text
            self._write_text(self._model.index(number, TRUST), TRUST, text)
        self._model.blockSignals(before)
        self.view.viewport().update()

    def _on_resized(self, column: int, _before: int, _now: int) -> None:
        if column == NAME and not self._fitting:
            self._user_width = True
        self._fit()

    def _place(self) -> int:
        """The row to select when the selected cases go."""
        indexes = self._selection.selectedRows()
        return min((index.row() for index in indexes), default=0)

    def _restore(self, place: int) -> None:
        """Select what the user had selected, or the row at `place` when that is gone."""
        visible = {case_id: row for row, case_id in enumerate(self.visible())}
        known = [case_id for case_id in self._wanted if case_id in self._numbers]
        if self._wanted and not known and visible:
            known = [self.visible()[min(place, len(visible) - 1)]]
        self._wanted = known
        rows = [visible[case_id] for case_id in known if case_id in visible]
        if set(rows) == {index.row() for index in self._selection.selectedRows()}:
            return
        self.view.clearSelection()
        flags = qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows
        for row in rows:
            self._selection.select(self._proxy.index(row, NAME), flags)
        if rows:
            index = self._proxy.index(rows[0], NAME)
            self._selection.setCurrentIndex(index, qt.QItemSelectionModel.NoUpdate)
            self.view.scrollTo(index)

    def _id_at(self, index) -> str:
        return self._ids[self._proxy.mapToSource(index).row()]

    def _on_selection(self, *_args) -> None:
        if not self._quiet:
            self._wanted = self.selected()
            self._on_select()

    def _on_double_click(self, index) -> None:
        self._on_show(self._id_at(index))


def fit_height(view, rows: int, fewest: int, most: int) -> None:
    """Make the table as high as its rows, within bounds, so that the panel stays short."""
    row_height = view.verticalHeader().defaultSectionSize
    scroll_bar = view.horizontalScrollBar()
    room = scroll_bar.height if scroll_bar.maximum > 0 else 0
    height = (min(max(rows, fewest), most) + 1) * row_height + room + 2 * view.frameWidth
    if view.minimumHeight != height:
        view.minimumHeight = view.maximumHeight = height


def _font(*, bold: bool):
    font = qt.QFont()
    font.setBold(bold)
    return font
