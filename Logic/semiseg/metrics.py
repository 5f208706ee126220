"""How well two segmentations agree, in Dice and millimetres.

Definitions. The surface of a structure is the set of its voxels that touch, by a face, a voxel
outside it or the border of the volume. Distances run between voxel centres, from every surface
voxel of one segmentation to the nearest surface voxel of the other, both ways:
HD95 is the greater of the two 95th percentiles, ASSD the mean over both ways together.

Empty structures. Where neither segmentation has the structure it does not apply: all scores are
NaN, to be left out of means and counted. Where one alone has it, it is missed: Dice is 0, and
the distances, which do not exist, are NaN and counted as missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from semiseg.errors import ConfigError, GeometryMismatchError

Spacing = tuple[float, float, float]
Box = tuple[slice, ...]


@dataclass(frozen=True, kw_only=True)
class StructureScore:
    """Agreement on one structure; NaN where a score does not apply (see the module)."""

    id: int
    dice: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    reference_ml: float

    @property
    def absent(self) -> bool:
        """Neither segmentation has the structure."""
        return self.volume_ml == 0 and self.reference_ml == 0

    @property
    def missed(self) -> bool:
        """Only one of the two segmentations has the structure."""
        return (self.volume_ml == 0) != (self.reference_ml == 0)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); NaN when both are empty."""
    first, second = _masks(first, second)
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    if total == 0:
        return math.nan
    return 2 * int(np.count_nonzero(first & second)) / total


def hd95_mm(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm_zyx: Spacing) -> float:
    """The greater of the 95th percentiles of the two sets of surface distances; NaN if empty."""
    return _hd95(*surface_distances_mm(first, second, spacing_mm_zyx))


def assd_mm(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm_zyx: Spacing) -> float:
    """The mean of all surface distances of both ways; NaN if one is empty."""
    return _assd(*surface_distances_mm(first, second, spacing_mm_zyx))


def volume_ml(mask: NDArray[np.bool_], spacing_mm_zyx: Spacing) -> float:
    """Voxels of `mask` times the volume of one, in millilitres."""
    return int(np.count_nonzero(mask)) * math.prod(_spacing(spacing_mm_zyx)) / 1000


def surface_distances_mm(
    first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm_zyx: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each surface voxel to the other's nearest one, (n,) and (m,); two empty ones if none."""
    first, second = _masks(first, second)
    spacing = np.asarray(_spacing(spacing_mm_zyx))
    if not first.any() or not second.any():
        return np.empty(0), np.empty(0)
    points = [_surface(mask) * spacing for mask in (first, second)]
    there = cKDTree(points[1]).query(points[0])[0]
    back = cKDTree(points[0]).query(points[1])[0]
    return np.asarray(there, dtype=np.float64), np.asarray(back, dtype=np.float64)


def score(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    ids: Iterable[int],
    spacing_mm_zyx: Spacing,
) -> list[StructureScore]:
    """Agreement of two label maps (z, y, x) for each id, in the order of `ids`."""
    _require_one_shape(prediction, reference)
    boxes = [_boxes(labels) for labels in (prediction, reference)]
    return [
        _score_one(
            number,
            *_cropped(prediction, reference, number, boxes[0].get(number), boxes[1].get(number)),
            spacing_mm_zyx,
        )
        for number in ids
    ]


def _score_one(
    number: int, found: NDArray[np.bool_], true: NDArray[np.bool_], spacing_mm_zyx: Spacing
) -> StructureScore:
    distances = surface_distances_mm(found, true, spacing_mm_zyx)
    return StructureScore(
        id=number,
        dice=dice(found, true),
        hd95_mm=_hd95(*distances),
        assd_mm=_assd(*distances),
        volume_ml=volume_ml(found, spacing_mm_zyx),
        reference_ml=volume_ml(true, spacing_mm_zyx),
    )


def _hd95(there: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    if there.size == 0:
        return math.nan
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _assd(there: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    if there.size == 0:
        return math.nan
    return float((there.sum() + back.sum()) / (there.size + back.size))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices (n, 3) of the surface voxels, found inside the mask's bounding box."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    crop = mask[box]
    inner = ndimage.binary_erosion(crop)  # what lies beyond the box counts as outside
    start = np.asarray([part.start for part in box])
    return np.asarray(np.argwhere(crop & ~inner) + start)


def _boxes(labels: NDArray[np.integer]) -> dict[int, Box]:
    found = ndimage.find_objects(labels)
    return {index + 1: box for index, box in enumerate(found) if box is not None}


def _cropped(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    number: int,
    first: Box | None,
    second: Box | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks of `number`, cut to the box around the two."""
    boxes = [box for box in (first, second) if box is not None]
    if not boxes:
        return np.zeros((1, 1, 1), dtype=bool), np.zeros((1, 1, 1), dtype=bool)
    union = tuple(
        slice(min(p.start for p in parts), max(p.stop for p in parts))
        for parts in zip(*boxes, strict=True)
    )
    return prediction[union] == number, reference[union] == number


def _masks(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    _require_one_shape(first, second)
    return first.astype(bool, copy=False), second.astype(bool, copy=False)


def _require_one_shape(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    if first.shape != second.shape or first.ndim != 3:
        raise GeometryMismatchError(
            f"segmentations of shape {first.shape} and {second.shape} cannot be compared; "
            "both must be volumes (z, y, x) on one grid"
        )


def _spacing(spacing_mm_zyx: Spacing) -> Spacing:
    if len(spacing_mm_zyx) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm_zyx):
        raise ConfigError(f"spacing must be three positive numbers, got {spacing_mm_zyx}")
    return spacing_mm_zyx
