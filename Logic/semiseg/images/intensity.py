"""What the grey values mean: modality, a common scale, the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.config import MODALITIES, Modality, check_choice
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.images.resampling import zoom_linear

CT_WINDOW_HU = (-150.0, 250.0)
MR_PERCENTILES = (0.5, 99.5)
NORMALISATION = (
    "CT: HU clipped to [-150, 250] and scaled to [-1, 1]; "
    "MR, and CT without negative values: from percentile 0.5 of all values to percentile 99.5 "
    "of the bright ones, scaled to [-1, 1]"
)
_SAMPLES = 200_000
_BODY_SPACING_MM = 4.0


@dataclass(frozen=True, kw_only=True)
class ModalityGuess:
    """A guess with its confidence in [0, 1] and a reason to show."""

    modality: Modality
    confidence: float
    reason: str


def guess_modality(image: Image) -> ModalityGuess:
    """CT or MR, from the file's tag if it has one, else from the grey values.

    The tag and the values may disagree; the confidence then says so.
    """
    seen = _guess_from_values(image.array)
    tag = image.modality_tag
    if tag is None:
        return seen
    if seen.modality == tag:
        return ModalityGuess(modality=tag, confidence=0.99, reason=f"the file says {tag}")
    doubt = f"the file says {tag}, but {seen.reason}"
    if seen.confidence >= 0.9:
        return ModalityGuess(modality=seen.modality, confidence=0.6, reason=doubt)
    return ModalityGuess(modality=tag, confidence=0.6, reason=doubt)


def normalise(
    array: NDArray[np.floating], modality: Modality, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """`array` scaled to [-1, 1] as `NORMALISATION` says; zeros where all values are one.

    The MR percentiles are taken inside `mask`; without one, the upper among values above half an
    Otsu threshold, so that the share of air does not matter, and the lower among all, since
    organs beside bright fat may lie far below that threshold.
    """
    check_choice("modality", modality, MODALITIES)
    values = np.asarray(array, dtype=np.float32)
    low, high = CT_WINDOW_HU
    if modality == "MR" or values.min(initial=0) >= 0:
        low, high = _percentile_window(values, mask)
    if values.size == 0 or not low < high or values.min() == values.max():
        return np.zeros(values.shape, dtype=np.float32)
    scaled = np.clip(values, low, high)
    scaled -= (low + high) / 2
    scaled *= 2 / (high - low)
    return np.clip(scaled, -1, 1, out=scaled)


def body_mask(array: NDArray[np.floating], grid: Grid, modality: Modality) -> NDArray[np.bool_]:
    """Where the patient is (z, y, x): one piece, without holes or table; all true if unclear.

    Worked out at about 4 mm and brought back, so its edge is good to about 2 mm.
    """
    check_choice("modality", modality, MODALITIES)
    extent = np.multiply(grid.shape_zyx, grid.spacing_mm_zyx)
    z, y, x = np.clip(np.rint(extent / _BODY_SPACING_MM), 1, grid.shape_zyx).astype(int)
    small = zoom_linear(array, (int(z), int(y), int(x)))
    solid = small > _body_threshold(small, modality)
    solid = _largest_piece(_open_in_plane(solid, 2 if modality == "CT" else 1))
    closed = ~_open_in_plane(~solid, 3)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    if filled.mean() < 0.01:
        return np.ones(grid.shape_zyx, dtype=bool)
    return zoom_linear(filled.astype(np.float32), grid.shape_zyx) > 0.5


def _guess_from_values(array: NDArray[np.float32]) -> ModalityGuess:
    sample = _sample(array)
    low, high = np.percentile(sample, [0.5, 99.5])
    negative = float((sample < 0).mean())
    if low <= -300:
        return _guess("CT", 0.97, f"{negative:.0%} of the values are below 0, down to {low:.0f}")
    if negative >= 0.1 and low <= -50:
        return _guess("CT", 0.9, f"values from {low:.0f} to {high:.0f} look like windowed HU")
    if negative >= 0.1:
        return _guess("MR", 0.5, "the values seem to be standardised; this could be either")
    if _looks_like_offset_ct(sample):
        return _guess("CT", 0.6, "most tissue lies near 1040, as in a CT stored with an offset")
    if high <= 255.5:
        return _guess("MR", 0.7, f"no values below 0, at most {high:.0f}; a windowed CT may be so")
    return _guess("MR", 0.9, f"{negative:.0%} of the values are below 0, up to {high:.0f}")


def _guess(modality: Modality, confidence: float, reason: str) -> ModalityGuess:
    return ModalityGuess(modality=modality, confidence=confidence, reason=reason)


def _looks_like_offset_ct(sample: NDArray[np.float32]) -> bool:
    inside = sample[sample > 500]
    if inside.size < 0.05 * sample.size or (sample < 200).mean() < 0.05:
        return False
    return bool(((inside > 850) & (inside < 1200)).mean() > 0.7)


def _percentile_window(
    values: NDArray[np.float32], mask: NDArray[np.bool_] | None
) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 0.0
    inside = values[mask] if mask is not None and mask.any() else values
    sample = _sample(inside)
    bright = sample
    if mask is None:
        above = sample[sample > 0.5 * otsu(sample)]
        bright = above if above.size else sample
    low, high = MR_PERCENTILES
    return float(np.percentile(sample, low)), float(np.percentile(bright, high))


def otsu(sample: NDArray[np.floating]) -> float:
    """The threshold that parts `sample` with the greatest variance between (Otsu 1979, eq. 12)."""
    # Single precision cannot part a nearly constant sample into 256 bins.
    counts, edges = np.histogram(sample.astype(np.float64), bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(middle[int(np.nanargmax(between))]) if np.isfinite(between).any() else 0.0


def _sample(array: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = array.ravel()
    return flat[:: max(1, flat.size // _SAMPLES)]


def _body_threshold(small: NDArray[np.float32], modality: Modality) -> float:
    low = float(small.min())
    if modality == "CT" and low < -300:
        return -300.0
    if modality == "CT" and low < 0:
        return low + 10.0
    bright = float(np.percentile(small, 98))
    return 0.25 * otsu(np.minimum(small, bright))


def _open_in_plane(solid: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.3
    padded = np.pad(solid, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    opened = ndimage.binary_opening(padded, structure=disk[None])
    return opened[:, radius:-radius, radius:-radius]


def _largest_piece(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(solid)
    if count < 2:
        return solid
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())
