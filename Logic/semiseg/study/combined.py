"""A network's prediction under what humans have decided: the label to show and to export."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import Grid
from semiseg.study.case import PROTECTED, CaseLabel, Origin


def combined(
    prediction: NDArray[np.uint16], label: CaseLabel | None, grid: Grid, ids: Iterable[int]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """`prediction` (z, y, x) with every human decision in `label` in its place, and the origins.

    Voxels that a human drew or corrected are taken over. Where slices are done for a structure,
    the prediction of that structure counts for nothing. Propagated voxels are not taken over.
    """
    array = prediction.copy()
    if label is not None:
        for structure_id in ids:
            known = label.ledger.known_mask(grid, structure_id)
            known &= array == structure_id
            known &= label.array != structure_id
            array[known] = 0
    origin = np.where(array > 0, np.uint8(Origin.PREDICTED), np.uint8(Origin.NONE))
    if label is not None:
        decided = np.isin(label.origin, PROTECTED)
        decided &= (label.array > 0) | (label.origin == Origin.CORRECTED)
        array[decided] = label.array[decided]
        # Background of a done slice is the human's too, unless a structure that is not done
        # there was predicted.
        human = np.isin(label.origin, PROTECTED) & (array == label.array)
        origin[human] = label.origin[human]
    return array, origin
