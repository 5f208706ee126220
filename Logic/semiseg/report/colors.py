"""Colours that can be told apart on a grey image, as close to the study's own as that allows."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from semiseg.images.labels import Segment

Color: TypeAlias = tuple[int, int, int]
_ALIKE = 0.08  # OKLab distance below which thin lines on grey are mixed up
_APART = 0.13  # distance of a colour that is chosen anew
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def distinct_segments(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """`segments` in colours for pictures: made vivid, and changed where two are too alike.

    Of two alike the more saturated one keeps its colour (an aorta stays red); the other gets the
    most similar colour that is still well apart from all others.
    """
    wanted = {segment.id: vivid(segment.color) for segment in segments}
    chosen: dict[int, Color] = {}
    for segment in sorted(segments, key=lambda item: -_saturation(item.color)):
        color = wanted[segment.id]
        if _nearest(color, list(chosen.values())) < _ALIKE:
            color = _replacement(color, [*chosen.values(), *wanted.values()])
        chosen[segment.id] = color
    return tuple(replace(segment, color=chosen[segment.id]) for segment in segments)


def vivid(color: Color) -> Color:
    """`color` bright enough to be seen on a grey image; its hue stays, and greys stay grey."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in color))
    if saturation > 0.08:
        saturation = max(saturation, 0.6)
    return _from_hsv(hue, saturation, max(value, 0.95))


def css(color: Color) -> str:
    """`color` as CSS."""
    return "#" + "".join(f"{part:02x}" for part in color)


def text_on(color: Color) -> str:
    """Black or white, whichever is easier to read on `color`."""
    return "#000" if _oklab(color)[0] > 0.62 else "#fff"


def _saturation(color: Color) -> float:
    return colorsys.rgb_to_hsv(*(part / 255 for part in color))[1]


def _replacement(color: Color, taken: Sequence[Color]) -> Color:
    apart = {other: _nearest(other, taken) for other in _candidates()}
    free = [other for other, distance in apart.items() if distance >= _APART]
    if not free:
        return max(apart, key=lambda other: apart[other])
    return min(free, key=lambda other: _nearest(other, [color]))


def _candidates() -> list[Color]:
    """Strong colours that are bright enough on grey and on black."""
    every = [
        _from_hsv(hue / 24, saturation, value)
        for hue in range(24)
        for saturation in (0.9, 0.6, 0.35)
        for value in (1.0, 0.85)
    ]
    return [color for color in every if _oklab(color)[0] >= 0.68]


def _nearest(color: Color, others: Sequence[Color]) -> float:
    own = _oklab(color)
    return min((float(np.linalg.norm(own - _oklab(other))) for other in others), default=math.inf)


def _oklab(color: Color) -> NDArray[np.float64]:
    """Perceptual coordinates (Björn Ottosson, OKLab, 2020) of an sRGB colour."""
    part = np.asarray(color, dtype=np.float64) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = _TO_OKLAB @ np.cbrt(_TO_CONES @ linear)
    return lab


def _from_hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
