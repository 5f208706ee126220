"""Line charts for the learning history, as coordinates for an SVG that follows the page's theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44
_MAX_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A grid line at `at` (SVG units) and its text."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: SVG points, and where its last point lies."""

    name: str
    points: str
    end_x: float
    end_y: float
    last: str
    single: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart in a `WIDTH` x `HEIGHT` box."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    x_label: str,
    data: Mapping[str, Points],
    *,
    x_end: float | None = None,
    y_top: float | None = None,
) -> Chart | None:
    """A chart of `data` (name -> points in order of x); None when no finite point is left.

    The axes start at zero and end at `x_end` and `y_top`, or else at the largest value; at 1
    where all is zero.
    """
    lines = {name: _finite(points) for name, points in data.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    every = [point for points in lines.values() for point in points]
    x_low, y_low = (min(0.0, *values) for values in zip(*every, (0.0, 0.0), strict=True))
    x_high, y_high = (max(values) for values in zip(*every, strict=True))
    x_high, y_high = x_end or x_high, y_top or y_high
    x_axis = _Axis(low=x_low, high=_above(x_low, x_high), start=LEFT, stop=WIDTH - RIGHT)
    y_axis = _Axis(low=y_low, high=_above(y_low, y_high), start=HEIGHT - BOTTOM, stop=TOP)
    return Chart(
        title=title,
        x_label=x_label,
        series=tuple(_series(name, points, x_axis, y_axis) for name, points in lines.items()),
        x_ticks=x_axis.ticks(6),
        y_ticks=y_axis.ticks(5),
    )


def _above(low: float, high: float) -> float:
    """`high`, or a whole unit above `low` where there is no extent."""
    return high if high > low else low + 1


@dataclass(frozen=True, kw_only=True)
class _Axis:
    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self, about: int) -> tuple[Tick, ...]:
        """Round numbers, 1, 2 or 5 times a power of ten apart."""
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [number * step for number in range(first, last + 1)]
        return tuple(Tick(at=self.at(value), text=f"{value:.10g}") for value in values)


def _finite(points: Points) -> list[tuple[float, float]]:
    """Finite points, thinned evenly to what a chart can show; the last one is kept."""
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    step = -(-len(kept) // _MAX_POINTS) if kept else 1
    return kept[:-1:step] + kept[-1:]


def _series(name: str, points: list[tuple[float, float]], x_axis: _Axis, y_axis: _Axis) -> Series:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    return Series(
        name=name,
        points=" ".join(f"{x:g},{y:g}" for x, y in places),
        end_x=places[-1][0],
        end_y=places[-1][1],
        last=f"{points[-1][1]:.3g}",
        single=len(places) == 1,
    )
