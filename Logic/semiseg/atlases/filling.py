"""An annotated case, filled between its own done slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.config import SliceConfig
from semiseg.images.grid import Grid, Orientation, canonical
from semiseg.images.reading import Image
from semiseg.slices.fill import SliceFill, StructureFill, fill_slices
from semiseg.study.case import PROTECTED, CaseLabel
from semiseg.study.ledger import Ledger

_PROTECTED = [int(origin) for origin in PROTECTED]


@dataclass(frozen=True, kw_only=True)
class CaseFill:
    """Label and confidence (z, y, x) on the image's own grid for the structures of `structures`."""

    array: NDArray[np.uint16]
    confidence: NDArray[np.float32]
    structures: Mapping[int, StructureFill]

    @property
    def ids(self) -> tuple[int, ...]:
        """The structures that are known somewhere in the case."""
        return tuple(self.structures)

    @property
    def self_check(self) -> dict[int, float]:
        """Leave-one-slice-out Dice per structure."""
        return {i: fill.dice for i, fill in self.structures.items() if fill.dice is not None}


def done_ids(ledger: Ledger, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `ids` with at least one done slice."""
    return tuple(i for i in ids if ledger.planes_done(i))


def human_voxels(label: CaseLabel) -> NDArray[np.bool_]:
    """Where a human drew, confirmed or corrected."""
    return np.isin(label.origin, _PROTECTED)


def fill_case(
    image: Image, label: CaseLabel, ids: tuple[int, ...], config: SliceConfig
) -> CaseFill:
    """Fills `ids`, each done on some slice of `label`; what programs said before is left out.

    The work is done in one orientation, so that flipped and turned files give the same result.
    """
    turn = canonical(image.grid)
    human = human_voxels(label)
    drawn = np.where(human, label.array, 0).astype(np.uint16)
    filled: SliceFill = fill_slices(
        turn.apply(image.array),
        turn.apply(drawn),
        _known_lines(label.ledger, ids, image.grid, turn),
        turn.grid.spacing_mm_zyx,
        config,
        human=turn.apply(human),
    )
    return CaseFill(
        array=turn.invert(filled.array),
        confidence=turn.invert(filled.confidence),
        structures=filled.structures,
    )


def _known_lines(
    ledger: Ledger, ids: tuple[int, ...], grid: Grid, turn: Orientation
) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """Per structure and canonical array axis, the done slices."""
    lines = ledger.known_lines(grid, ids)
    known: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for row, structure_id in enumerate(ids):
        known[structure_id] = {
            axis: lines[own][row][:: -1 if flip else 1]
            for axis, (own, flip) in enumerate(zip(turn.axes, turn.flips, strict=True))
        }
    return known
