"""Small drawn icons and tints that read on light and on dark backgrounds."""

from typing import Any

import qt

_SCALE = 3
# Middle greys and hues: enough contrast on white as well as on the dark palette's grey.
_COLORS = {
    "grey": (128, 128, 128),
    "blue": (45, 125, 210),
    "green": (40, 150, 80),
    "amber": (205, 130, 0),
    "red": (215, 60, 50),
    "violet": (150, 100, 200),
    "white": (255, 255, 255),
}
_TINTS = {
    "CT": ("blue", 70),
    "MR": ("violet", 80),
    "accept": ("green", 70),
    "down_weight": ("amber", 80),
    "reject": ("red", 80),
    "problem": ("red", 50),
}
# name: color and points joined by lines on a field of 16 x 16, several lines apart by "/"; the
# shapes differ, so that color only helps.
_STROKES = {
    "shown": ("blue", "5 3 12 8 5 13 5 3 / 7 6 7 10 / 9 7 9 9"),
    "annotated": ("amber", "3 13 5 9 12 2 14 4 7 11 3 13"),
    "propagated": ("violet", "2 5 13 5 / 10 2 13 5 10 8 / 14 11 3 11 / 6 8 3 11 6 14"),
    "problem": ("red", "8 2 15 14 1 14 8 2 / 8 6 8 10 / 8 11 8 12"),
    "accept": ("green", "2 8 6 13 14 3"),
    "down_weight": ("amber", "8 2 8 9 / 8 13 8 14"),
    "reject": ("red", "3 3 13 13 / 13 3 3 13"),
}
_ROUND = {"new": ("grey", False), "segmented": ("green", True), "loaded": ("grey", False)}


class Icons:
    """Makes each icon and brush once; an object, for none of them may outlive the application."""

    def __init__(self) -> None:
        self._icons: dict[str, Any] = {}
        self._tints: dict[str, Any] = {}

    def icon(self, name: str) -> Any:
        """The icon `name`; "blank" is as wide as the others. White where its row is selected."""
        if name not in self._icons:
            made = qt.QIcon(_picture(name, None))
            made.addPixmap(_picture(name, "white"), qt.QIcon.Selected)
            self._icons[name] = made
        return self._icons[name]

    def tint(self, name: str) -> Any:
        """A see-through brush over the row's own color; "" is no brush."""
        if name not in self._tints:
            color, strength = _TINTS.get(name, ("grey", 0))
            self._tints[name] = qt.QBrush(qt.QColor(*_COLORS[color], strength))
        return self._tints[name]


def swatch(red: int, green: int, blue: int):
    """An icon full of one color, with a rim that shows on every background."""
    picture = _canvas()
    painter = qt.QPainter(picture)
    side, rim = 16 * _SCALE, _SCALE
    painter.fillRect(0, 0, side, side, qt.QColor(*_COLORS["grey"]))
    inside = side - 2 * rim
    painter.fillRect(rim, rim, inside, inside, qt.QColor(red, green, blue))
    painter.end()
    picture.setDevicePixelRatio(_SCALE)
    result = qt.QIcon(picture)
    # Without this Qt would tint the color where the row is selected.
    result.addPixmap(picture, qt.QIcon.Selected)
    return result


def _canvas():
    picture = qt.QPixmap(16 * _SCALE, 16 * _SCALE)
    picture.fill(qt.QColor(0, 0, 0, 0))
    return picture


def _picture(name: str, color: str | None):
    """Drawn larger than shown, so that it stays sharp on screens of high resolution."""
    picture = _canvas()
    if name in _STROKES:
        own, strokes = _STROKES[name]
        _draw_strokes(picture, color or own, strokes)
    elif name in _ROUND:
        own, filled = _ROUND[name]
        _draw_round(picture, color or own, filled=filled, small=name == "loaded")
    picture.setDevicePixelRatio(_SCALE)
    return picture


def _draw_strokes(picture, color: str, strokes: str) -> None:
    painter = _painter(picture, color)
    for stroke in strokes.split("/"):
        points = [int(part) * _SCALE for part in stroke.split()]
        for start in range(0, len(points) - 2, 2):
            painter.drawLine(*points[start : start + 4])
    painter.end()


def _draw_round(picture, color: str, *, filled: bool, small: bool) -> None:
    painter = _painter(picture, color)
    if filled:
        painter.setBrush(qt.QBrush(qt.QColor(*_COLORS[color])))
    start, size = (5, 6) if small else (3, 10)
    painter.drawEllipse(start * _SCALE, start * _SCALE, size * _SCALE, size * _SCALE)
    painter.end()


def _painter(picture, color: str):
    painter = qt.QPainter(picture)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    pen = qt.QPen(qt.QColor(*_COLORS[color]))
    pen.setWidth(2 * _SCALE)
    pen.setCapStyle(qt.Qt.RoundCap)
    painter.setPen(pen)
    return painter
