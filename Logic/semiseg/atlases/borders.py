"""Whether the borders of carried labels are borders in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.registration.prepared import Prepared

_SHELL_MM = 6.0
_FEW = 20  # voxels
_FAINT = 0.3  # structures that stand out less in the atlases themselves tell nothing


def border_contrast(
    image: Prepared, array: NDArray[np.integer], ids: Sequence[int]
) -> dict[int, float]:
    """How far greys inside each structure of `array` (z, y, x on the image's grid) differ from
    those just outside, in standard deviations; structures of a few voxels are left out.

    Labels that lie on the wrong tissue mix greys and lose contrast.
    """
    steps = max(1, round(_SHELL_MM / image.spacing_mm))
    found = {}
    for structure_id in ids:
        inside = np.asarray(array == structure_id)
        if int(inside.sum()) < _FEW:
            continue
        box = _around(inside, steps + 1)
        here, greys = inside[box], image.array[box]
        shell = ndimage.binary_dilation(here, iterations=steps) & ~here
        if int(shell.sum()) < _FEW:
            continue
        spread = float(np.sqrt((greys[here].var() + greys[shell].var()) / 2))
        gap = float(greys[here].mean() - greys[shell].mean())
        found[structure_id] = gap / max(spread, 1e-3)
    return found


def border_ratios(
    found: Mapping[int, float], expected: Sequence[Mapping[int, float]], *, alike: bool
) -> dict[int, float]:
    """Contrast found by contrast expected: the median of the atlases'.

    Where the contrasts are `alike` (one modality), the wrong sign counts as none at all.
    A structure that was not found has 0; one that atlases hardly show either is left out.
    """
    ratios = {}
    for structure_id in sorted({i for one in expected for i in one}):
        usual = float(np.median([one[structure_id] for one in expected if structure_id in one]))
        if abs(usual) < _FAINT:
            continue
        ratio = found.get(structure_id, 0.0) / usual
        ratios[structure_id] = ratio if alike else abs(ratio)
    return ratios


def _around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    places = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n in zip(places, mask.shape, strict=True)
    )
