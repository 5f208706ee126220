"""What a scan's slices look like, small enough to compare all slices of a cohort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import PLANES, Plane
from semiseg.study.case import Case
from semiseg.study.study import Study
from semiseg.suggestion.geometry import Floats, Turned, axis_of
from semiseg.suggestion.kept import Arrays, kept

_FORMAT = 1
_BINS = 24
_SIDE = 16
_LONGEST = 96
_EMPTY_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class PlaneLooks:
    """Some slices of a plane, evenly over the body.

    `centers` (B,) are slice numbers along the patient, `grey` and `edges` (B, F) unit vectors
    of what is seen there, `body` (B,) the share of the picture that is body.
    """

    centers: NDArray[np.int64]
    grey: Floats
    edges: Floats
    body: Floats

    @property
    def borders(self) -> NDArray[np.int64]:
        """(B + 1,) slice numbers between which each center stands for the rest."""
        middle = (self.centers[1:] + self.centers[:-1] + 1) // 2
        half = max(1, int(self.centers[1] - self.centers[0]) // 2) if len(self.centers) > 1 else 1
        ends = max(0, int(self.centers[0]) - half), int(self.centers[-1]) + half + 1
        return np.array([ends[0], *middle, ends[1]], dtype=np.int64)


Looks = dict[Plane, PlaneLooks]


def looks_of(study: Study, case: Case) -> Looks:
    """The looks of a case's planes, from the cache if the image is the one they were made of."""
    key = f"{_FORMAT}-{case.image.sha256}"
    found = kept(
        _path(study, case), key, lambda: _arrays(study.image(case.id).array, Turned(case.grid))
    )
    return {plane: _plane(found, plane) for plane in PLANES}


def _path(study: Study, case: Case) -> Path:
    return study.cache_dir / "suggestion" / case.id / "looks.npz"


def _plane(found: Arrays, plane: Plane) -> PlaneLooks:
    return PlaneLooks(
        centers=found[f"{plane}_centers"].astype(np.int64),
        grey=found[f"{plane}_grey"].astype(np.float32),
        edges=found[f"{plane}_edges"].astype(np.float32),
        body=found[f"{plane}_body"].astype(np.float32),
    )


def _arrays(image: Floats, turned: Turned) -> Arrays:
    """All planes of an image (z, y, x)."""
    view = turned.view(image)
    steps = [max(1, -(-size // _LONGEST)) for size in view.shape]
    small = view[tuple(slice(step // 2, None, step) for step in steps)].astype(np.float32)
    low, high = (float(v) for v in np.percentile(small, (2, 98)))
    small = np.clip((small - low) / max(high - low, 1e-6), 0, 1)
    body = small > 0.15
    box = _box(body)
    small, body = small[box], body[box]
    edges = _steepness(small)
    found: dict[str, NDArray[np.generic]] = {}
    for plane in PLANES:
        axis = axis_of(plane)
        picked = _picked(small.shape[axis])
        first = box[axis].start
        centers = (first + picked) * steps[axis] + steps[axis] // 2
        found[f"{plane}_centers"] = np.minimum(centers, view.shape[axis] - 1)
        found[f"{plane}_grey"] = _thumbnails(small, axis, picked).astype(np.float16)
        found[f"{plane}_edges"] = _thumbnails(edges, axis, picked).astype(np.float16)
        shares = body.mean(axis=tuple({0, 1, 2} - {axis}), dtype=np.float32)
        found[f"{plane}_body"] = shares[picked]
    return found


def _box(body: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Where the body is; all of it where nothing stands out."""
    parts = []
    for axis in range(3):
        share = body.mean(axis=tuple({0, 1, 2} - {axis}))
        there = np.flatnonzero(share > _EMPTY_SHARE)
        parts.append(slice(int(there[0]), int(there[-1]) + 1) if there.size else slice(0, None))
    return parts[0], parts[1], parts[2]


def _picked(size: int) -> NDArray[np.int64]:
    count = min(_BINS, size)
    return np.floor((np.arange(count) + 0.5) * size / count).astype(np.int64)


def _steepness(small: Floats) -> Floats:
    total = np.zeros_like(small)
    for axis in range(3):
        if small.shape[axis] > 1:
            total += np.square(np.gradient(small, axis=axis))
    return np.sqrt(total)


def _thumbnails(volume: Floats, axis: int, picked: NDArray[np.int64]) -> Floats:
    """(B, F): pictures of `_SIDE` squared, without their mean, of length 1."""
    slices = np.moveaxis(volume, axis, 0)[picked]
    rows, columns = (
        np.floor((np.arange(_SIDE) + 0.5) * size / _SIDE).astype(np.int64)
        for size in slices.shape[1:]
    )
    flat = slices[:, rows][:, :, columns].reshape(len(picked), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), dtype=np.float32)
