"""Figures of a segmentation that are kept with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import box_of


def mean_uncertainty(array: NDArray[np.uint16], uncertainty: NDArray[np.float32]) -> float | None:
    """Mean of `uncertainty` over the voxels that `array` (z, y, x) segments and their border.

    The border are the background voxels that share a face with a segmented one; there a model
    hesitates first. None where nothing is segmented.
    """
    drawn = box_of(array)
    if drawn is None:
        return None
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in drawn)
    inside = array[box] != 0
    wide = inside.copy()
    for axis in range(3):
        source, grown = np.moveaxis(inside, axis, 0), np.moveaxis(wide, axis, 0)
        grown[1:] |= source[:-1]
        grown[:-1] |= source[1:]
    return round(float(uncertainty[box][wide].mean(dtype=np.float64)), 5)
