"""The ledger strip: one cell per slice of the active axis; click or drag to go there.

It is drawn with QPainter into the pixmap of a QLabel, and listens with an event filter. Both are
plain calls in PythonQt, whereas a Python subclass of QWidget with its own paintEvent depends on
how long PythonQt keeps the Python half of the widget alive.
"""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from semiseg.study.ledger import FINISHED, SliceState
from SemiSegModuleLib.sections.slice_words import state_in_words
from SemiSegModuleLib.sections.strip_layout import (
    Cell,
    StripContent,
    cells,
    index_at,
    span_of,
    ticks,
)

_MARKER = 6
_BAND = 16
_TICK = 3
# Middle tones that stand out from white and from dark grey alike, and that remain apart under
# the common kinds of colour blindness. The shapes differ too, see _fill.
DONE = (0, 152, 110)
SUGGESTED = (70, 140, 214)
PENDING = (200, 112, 0)
UNTOUCHED = (136, 136, 136)


class LedgerStrip:
    """Shows a StripContent; calls `on_jump(index)` when a slice is clicked or dragged to."""

    def __init__(self, on_jump: Callable[[int], None]) -> None:
        self._on_jump = on_jump
        self.content = StripContent()
        self.widget = qt.QLabel()
        self.widget.minimumWidth = 160
        self.widget.mouseTracking = True
        self.widget.accessibleName = _("Slice ledger")
        self.measure()
        self._filter = _MouseFilter(self)
        self.widget.installEventFilter(self._filter)

    def close(self) -> None:
        """Stop listening; the label belongs to its layout."""
        self.widget.removeEventFilter(self._filter)
        self._filter.strip = None

    def measure(self) -> None:
        """Make room for the letters at both ends and the numbers below, in the present font."""
        metrics = self.widget.fontMetrics()
        self._margin = metrics.horizontalAdvance("W") + 6
        self.height = _MARKER + _BAND + _TICK + metrics.height()
        self.widget.minimumHeight = self.height
        self.widget.maximumHeight = self.height

    def show(self, content: StripContent) -> None:
        """Draw `content` unless it is shown already."""
        if content != self.content:
            self.content = content
            self.redraw()

    def redraw(self) -> None:
        """Draw anew, at the label's present width and palette."""
        ratio = self.widget.devicePixelRatioF()
        width = self._width() + 2 * self._margin
        pixmap = qt.QPixmap(round(width * ratio), round(self.height * ratio))
        pixmap.setDevicePixelRatio(ratio)
        pixmap.fill(qt.QColor(0, 0, 0, 0))
        painter = qt.QPainter()
        painter.begin(pixmap)
        try:
            painter.translate(self._margin, 0)
            self._draw(painter, self._width())
        finally:
            painter.end()
        self.widget.setPixmap(pixmap)

    def hover(self, x: float) -> None:
        """Tell in the tool tip what lies under `x`."""
        self.widget.toolTip = self.words_at(x)

    def jump(self, x: float) -> None:
        """Go to the slice under `x`."""
        if self.content.states:
            self._on_jump(index_at(x - self._margin, self.content, self._width()))

    def words_at(self, x: float) -> str:
        """Slice number and state under `x`, in words."""
        if not self.content.states:
            return ""
        index = index_at(x - self._margin, self.content, self._width())
        pending = index in self.content.pending
        words = _("Slice {index}: {state}. Click to go there.").format(
            index=index, state=state_in_words(self.content.states[index], pending=pending)
        )
        if index in self.content.proposed:
            return words + " " + _("Drawing pays here.")
        return words

    def x_of(self, index: int) -> int:
        """The middle of slice `index` in the label's pixels."""
        left, right = span_of(index, self.content, self._width())
        return self._margin + (left + right) // 2

    def _width(self) -> int:
        return max(int(self.widget.width) - 2 * self._margin, 2)

    def _draw(self, painter: object, width: int) -> None:
        palette = self.widget.palette()
        text = palette.color(qt.QPalette.WindowText)
        painter.setPen(text)
        self._draw_band(painter, width, palette.color(qt.QPalette.Mid))
        if not self.content.states:
            return
        for cell in sorted(cells(self.content, width), key=_is_finished):
            _fill(painter, cell)
        painter.setPen(text)
        self._draw_ticks(painter, width)
        self._draw_proposed(painter, width)
        if self.content.current is not None:
            self._draw_marker(painter, width, text)

    def _draw_band(self, painter: object, width: int, frame: object) -> None:
        middle = _MARKER + _BAND - 3
        painter.drawText(2 - self._margin, middle, self.content.low)
        painter.drawText(width + 4, middle, self.content.high)
        painter.fillRect(0, _MARKER - 1, width, 1, frame)
        painter.fillRect(0, _MARKER + _BAND, width, 1, frame)

    def _draw_ticks(self, painter: object, width: int) -> None:
        metrics = self.widget.fontMetrics()
        count = len(self.content.states)
        top = _MARKER + _BAND + 1
        for index in ticks(count, width, metrics.horizontalAdvance(str(count - 1))):
            left, right = span_of(index, self.content, width)
            middle = (left + right) // 2
            painter.drawLine(middle, top, middle, top + _TICK)
            half = metrics.horizontalAdvance(str(index)) // 2
            painter.drawText(middle - half, self.height - metrics.descent(), str(index))

    def _draw_proposed(self, painter: object, width: int) -> None:
        """A dot in the middle of each slice that is worth drawing."""
        painter.setBrush(qt.QBrush(qt.QColor(*PENDING)))
        for index in self.content.proposed:
            left, right = span_of(index, self.content, width)
            painter.drawEllipse((left + right) // 2 - 3, _MARKER + _BAND // 2 - 3, 6, 6)

    def _draw_marker(self, painter: object, width: int, color: object) -> None:
        """A frame around the shown slice, and a triangle above that is seen at any width."""
        left, right = span_of(self.content.current, self.content, width)
        middle = (left + right - 1) // 2
        for row in range(_MARKER - 1):
            half = _MARKER - 2 - row
            painter.fillRect(middle - half, row, 2 * half + 1, 1, color)
        if right - left < 5:
            painter.fillRect(middle, _MARKER - 1, 1, _BAND + 2, color)
            return
        painter.fillRect(left - 1, _MARKER - 2, 2, _BAND + 4, color)
        painter.fillRect(right - 2, _MARKER - 2, 2, _BAND + 4, color)
        painter.fillRect(left - 1, _MARKER - 2, right - left + 1, 2, color)
        painter.fillRect(left - 1, _MARKER + _BAND, right - left + 1, 2, color)


class _MouseFilter(qt.QObject):
    """Hands the label's mouse, size and palette events to the strip."""

    strip: LedgerStrip | None = None

    def __init__(self, strip: LedgerStrip) -> None:
        qt.QObject.__init__(self)
        self.strip = strip

    def eventFilter(self, _watched: object, event: object) -> bool:
        """True where the event was a click or a drag on the strip."""
        strip = self.strip
        if strip is None:
            return False
        kind = event.type()
        if kind == qt.QEvent.FontChange:
            strip.measure()
        if kind in (qt.QEvent.Resize, qt.QEvent.PaletteChange, qt.QEvent.FontChange):
            strip.redraw()
        elif kind == qt.QEvent.MouseMove:
            return _moved(strip, event)
        elif kind == qt.QEvent.MouseButtonPress and event.button() == qt.Qt.LeftButton:
            strip.jump(_x_of(event))
            return True
        return False


def _moved(strip: LedgerStrip, event: object) -> bool:
    x = _x_of(event)
    strip.hover(x)
    if event.buttons() != qt.Qt.LeftButton:
        return False
    strip.jump(x)
    return True


def _x_of(event: object) -> float:
    """Pixels from the label's left edge; Qt 6 has `position` in place of Qt 5's `localPos`."""
    point = event.position() if hasattr(event, "position") else event.localPos()
    return float(point.x())


def _fill(painter: object, cell: Cell) -> None:
    """One cell. Height and filling tell the state without its colour.

    Untouched: a low line. Suggested: half as high, filled. Done: full height, filled. Done and
    empty: full height, hollow. Being saved: the same, but striped.
    """
    # A single done slice among a thousand must not be missed.
    least = 2 if _is_finished(cell) else 1
    left, width = cell.left, max(cell.right - cell.left, least)
    color = _color(cell)
    if cell.state is SliceState.UNTOUCHED:
        _rows(painter, left, width, (_BAND - 2, _BAND), color, striped=cell.pending)
    elif cell.state is SliceState.SUGGESTED:
        _rows(painter, left, width, (_BAND // 2, _BAND), color, striped=cell.pending)
    elif cell.state is SliceState.DONE:
        _rows(painter, left, width, (1, _BAND), color, striped=cell.pending)
    else:
        _rows(painter, left, width, (1, 4), color, striped=cell.pending)
        _rows(painter, left, width, (_BAND - 3, _BAND), color, striped=cell.pending)
        _sides(painter, left, width, color)


def _is_finished(cell: Cell) -> bool:
    return cell.state in FINISHED or cell.pending


def _color(cell: Cell) -> object:
    if cell.pending:
        return qt.QColor(*PENDING)
    colors = {SliceState.UNTOUCHED: UNTOUCHED, SliceState.SUGGESTED: SUGGESTED}
    return qt.QColor(*colors.get(cell.state, DONE))


def _rows(
    painter: object, left: int, width: int, rows: tuple[int, int], color: object, *, striped: bool
) -> None:
    top, bottom = rows
    if not striped:
        painter.fillRect(left, _MARKER + top, width, bottom - top, color)
        return
    for row in range(top, bottom, 4):
        painter.fillRect(left, _MARKER + row, width, min(2, bottom - row), color)


def _sides(painter: object, left: int, width: int, color: object) -> None:
    if width >= 4:
        painter.fillRect(left, _MARKER + 1, 1, _BAND - 1, color)
        painter.fillRect(left + width - 1, _MARKER + 1, 1, _BAND - 1, color)
