"""The ledger strip: what its cells show, where a click leads, and that its picture says it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from semiseg.images.grid import PLANES, Grid
from semiseg.study.ledger import SliceState
from SemiSegModuleLib.sections.strip_layout import (
    StripContent,
    cells,
    ends,
    index_at,
    most_important,
    place_of,
    span_of,
    ticks,
)

U, S, D, E = SliceState.UNTOUCHED, SliceState.SUGGESTED, SliceState.DONE, SliceState.EMPTY


def _content(*states: SliceState, **more: Any) -> StripContent:
    return StripContent(states=states, low="I", high="S", **more)


@pytest.fixture
def strip(application: Any, scene: Any) -> Any:
    """A shown strip 432 pixels wide; `strip.jumps` are the slices that it asked for."""
    from SemiSegModuleLib.sections.ledger_strip import LedgerStrip

    jumps: list[int] = []
    made = LedgerStrip(jumps.append)
    made.jumps = jumps
    made.widget.resize(432, made.height)
    made.widget.show()
    yield made
    made.close()
    made.widget.hide()


def _press(widget: Any, kind: str, x: int) -> None:
    from PySide6 import QtCore, QtGui, QtWidgets

    left, none = QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.MouseButton.NoButton
    kinds = {
        "press": (QtCore.QEvent.Type.MouseButtonPress, left, left),
        "drag": (QtCore.QEvent.Type.MouseMove, none, left),
        "hover": (QtCore.QEvent.Type.MouseMove, none, none),
        "right": (
            QtCore.QEvent.Type.MouseButtonPress,
            QtCore.Qt.MouseButton.RightButton,
            QtCore.Qt.MouseButton.RightButton,
        ),
    }
    what, button, buttons = kinds[kind]
    place = QtCore.QPointF(x, 10)
    modifiers = QtCore.Qt.KeyboardModifier.NoModifier
    event = QtGui.QMouseEvent(what, place, place, button, buttons, modifiers)
    QtWidgets.QApplication.sendEvent(widget, event)


@pytest.mark.parametrize("count", [1, 20, 21, 112, 333, 400, 401, 1000])
@pytest.mark.parametrize("width", [60, 400, 401])
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_slice_is_found_again_where_it_is_shown(
    count: int, width: int, mirrored: bool
) -> None:
    content = _content(*[U] * count, mirrored=mirrored)
    for index in range(count):
        left, right = span_of(index, content, width)
        assert 0 <= left < right <= width
        middle = index_at((left + right) / 2 - 0.25, content, width)
        assert abs(middle - index) <= (0 if 2 * count <= width else -(-count // width))
        assert place_of(place_of(index, content), content) == index


@pytest.mark.parametrize("count", [1, 20, 90, 112, 400, 1000])
def test_cells_cover_the_strip_in_order_and_without_overlap(count: int) -> None:
    states = [[U, S, D, E][index * 7 % 4] for index in range(count)]
    found = cells(_content(*states), 400)
    assert [cell.left for cell in found] == sorted({cell.left for cell in found})
    assert all(a.right <= b.left for a, b in itertools.pairwise(found))
    assert found[0].left == 0
    assert found[-1].right >= 399


def test_one_done_slice_among_a_thousand_is_shown() -> None:
    states = [S] * 1000
    states[501] = D
    shown = [cell for cell in cells(_content(*states), 400) if cell.state is D]
    assert len(shown) == 1
    assert shown[0].left == 501 * 400 // 1000


def test_the_state_that_would_be_missed_most_stands_for_several_slices() -> None:
    assert most_important([U, S, E, D]) is D
    assert most_important([U, S, E]) is E
    assert most_important([U, S]) is S


def test_a_slice_that_is_being_saved_is_shown_apart_from_its_neighbours() -> None:
    shown = cells(_content(*[D] * 500, pending=frozenset({250})), 400)
    assert [cell.pending for cell in shown] == [False, True, False]


def test_without_slices_or_width_there_is_nothing_to_draw() -> None:
    assert cells(StripContent(), 400) == []
    assert cells(_content(U, U), 0) == []


@pytest.mark.parametrize("count", [1, 2, 7, 20, 47, 112, 399, 1000, 5000])
def test_tick_labels_start_at_zero_end_at_the_last_slice_and_never_touch(count: int) -> None:
    width, label = 400, 24
    found = ticks(count, width, label)
    assert found[0] == 0
    assert found == sorted(set(found))
    content = _content(*[U] * count)
    places = [span_of(index, content, width)[0] for index in found]
    assert all(b - a >= label for a, b in itertools.pairwise(places))
    assert found[-1] == count - 1 or len(found) == 1
    assert ticks(0, width, label) == []


@pytest.mark.parametrize(
    ("direction", "mirrored"),
    [
        ((1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), (False, True, True)),
        ((-1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0), (True, False, False)),
    ],
)
def test_strip_runs_as_slicers_sliders_do(
    direction: tuple[float, ...], mirrored: tuple[bool, bool, bool]
) -> None:
    grid = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1.0, 2.0, 3.0), direction=direction)
    assert [ends(grid, plane)[2] for plane in PLANES] == list(mirrored)
    assert [ends(grid, plane)[:2] for plane in PLANES] == [("I", "S"), ("P", "A"), ("L", "R")]


def test_an_oblique_coronal_stack_still_knows_its_ends() -> None:
    turned = (1.0, 0, 0, 0, 0.1, 0.995, 0, -0.995, 0.1)
    grid = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1, 1, 4), direction=_orthonormal(turned))
    assert ends(grid, "coronal") == ("P", "A", True)
    assert ends(grid, "axial") == ("I", "S", True)


def _orthonormal(values: tuple[float, ...]) -> tuple[float, ...]:
    import numpy as np

    q, r = np.linalg.qr(np.array(values).reshape(3, 3))
    return tuple(float(v) for v in (q * np.sign(np.diag(r))).ravel())


def test_a_click_goes_to_the_slice_under_it(strip: Any) -> None:
    strip.show(_content(*[U] * 100))
    _press(strip.widget, "press", strip.x_of(41))
    assert strip.jumps == [41]


def test_dragging_goes_through_the_slices_and_stops_at_the_ends(strip: Any) -> None:
    strip.show(_content(*[U] * 100))
    _press(strip.widget, "press", strip.x_of(10))
    _press(strip.widget, "drag", strip.x_of(20))
    _press(strip.widget, "drag", -50)
    _press(strip.widget, "drag", 5000)
    assert strip.jumps == [10, 20, 0, 99]


def test_hovering_and_other_buttons_go_nowhere(strip: Any) -> None:
    strip.show(_content(*[U] * 100))
    _press(strip.widget, "hover", strip.x_of(10))
    _press(strip.widget, "right", strip.x_of(10))
    assert strip.jumps == []


def test_an_empty_strip_takes_clicks_calmly(strip: Any) -> None:
    strip.show(StripContent(low="I", high="S"))
    _press(strip.widget, "press", 50)
    _press(strip.widget, "hover", 50)
    assert strip.jumps == []
    assert strip.widget.toolTip == ""


def test_tool_tip_says_number_and_state_in_words(strip: Any) -> None:
    strip.show(_content(U, S, D, E, pending=frozenset({2})))
    said = []
    for index in range(4):
        _press(strip.widget, "hover", strip.x_of(index))
        said.append(strip.widget.toolTip)
    assert said == [
        "Slice 0: untouched. Click to go there.",
        "Slice 1: suggested. Click to go there.",
        "Slice 2: done, being saved. Click to go there.",
        "Slice 3: done and empty. Click to go there.",
    ]


def test_states_differ_by_shape_and_not_by_color_alone(strip: Any) -> None:
    strip.show(_content(U, S, D, E, D, pending=frozenset({4})))
    image = strip.widget.grab().toImage()
    background = image.pixelColor(strip.x_of(0), 8)
    profiles = {
        tuple(image.pixelColor(strip.x_of(i), y) != background for y in range(6, 22))
        for i in range(5)
    }
    assert len(profiles) == 5


def test_colors_stand_out_from_light_and_dark_alike(application: Any) -> None:
    from SemiSegModuleLib.sections import ledger_strip

    def light(color: tuple[int, int, int]) -> float:
        parts = [(c / 255 + 0.055) / 1.055 for c in color]
        return sum(w * p**2.4 for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    for name in ("DONE", "SUGGESTED", "PENDING", "UNTOUCHED"):
        own = light(getattr(ledger_strip, name)) + 0.05
        assert (light((239, 239, 239)) + 0.05) / own >= 3.0, name
        assert own / (light((53, 53, 53)) + 0.05) >= 3.0, name


@pytest.mark.parametrize("count", [20, 112, 400, 1000])
def test_the_shown_slice_is_marked_at_any_number_of_slices(strip: Any, count: int) -> None:
    current = count * 2 // 3
    strip.show(_content(*[D] * count, current=current))
    image = strip.widget.grab().toImage()
    triangle = image.pixelColor(strip.x_of(current), 1)
    assert triangle != image.pixelColor(strip.x_of(current) + 20, 1)


def test_strip_is_drawn_anew_when_its_width_changes(strip: Any) -> None:
    strip.show(_content(*[D] * 50))
    before = strip.x_of(49)
    strip.widget.resize(700, strip.height)
    assert strip.x_of(49) > before
    assert strip.widget.grab().toImage().pixelColor(strip.x_of(49), 15).green() > 100


def test_strip_is_drawn_anew_when_the_application_turns_dark(strip: Any) -> None:
    import qt

    strip.show(_content(*[U] * 50, current=25))
    palette = strip.widget.palette()
    palette.setColor(qt.QPalette.WindowText, qt.QColor(250, 240, 230))
    strip.widget.setPalette(palette)
    triangle = strip.widget.grab().toImage().pixelColor(strip.x_of(25), 1)
    assert triangle.red() == 250


def test_a_larger_font_gets_more_room(strip: Any) -> None:
    import qt

    strip.show(_content(*[U] * 50))
    before, left = strip.height, strip.x_of(0)
    strip.widget.setFont(qt.QFont("Sans Serif", 24))
    assert strip.height > before
    assert strip.x_of(0) > left
    assert strip.widget.minimumHeight == strip.widget.maximumHeight == strip.height


def test_the_strip_does_not_keep_the_panel_from_being_narrow(strip: Any) -> None:
    strip.widget.resize(900, strip.height)
    strip.show(_content(*[D] * 50))
    assert strip.widget.minimumWidth <= 200


def test_a_closed_strip_no_longer_listens(strip: Any) -> None:
    strip.show(_content(*[U] * 100))
    strip.close()
    _press(strip.widget, "press", strip.x_of(41))
    assert strip.jumps == []
