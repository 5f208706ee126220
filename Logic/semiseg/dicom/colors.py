"""Colours of segments as DICOM writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Color = tuple[int, int, int]
_WHITE_D65 = np.array([0.95047, 1.0, 1.08883])
_XYZ_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def color_of_cielab(values: Sequence[float]) -> Color:
    """sRGB of the three 16-bit numbers of Recommended Display CIELab Value (PS3.3 C.10.7.1.1).

    Formula: CIE 1976 L*a*b* with the white of D65, IEC 61966-2-1 transfer curve.
    """
    light = values[0] * 100 / 65535
    a, b = (v * 255 / 65535 - 128 for v in values[1:])
    y = (light + 16) / 116
    ratio = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(ratio > 6 / 29, ratio**3, 3 * (6 / 29) ** 2 * (ratio - 4 / 29)) * _WHITE_D65
    linear = np.clip(_XYZ_TO_RGB @ xyz, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return clipped_color(255 * curved)


def clipped_color(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> Color:
    """Three whole numbers from 0 to 255."""
    red, green, blue = (int(min(max(round(float(v)), 0), 255)) for v in values)
    return red, green, blue
