"""How other patients' anatomy differs from a case's, as deformations to augment it with.

A labelled scan that is bent towards other patients, by a random part of the way, is a labelled
scan of a patient between both (Zhao et al., CVPR 2019, learn such transforms; these come from
registration).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import Grid
from semiseg.learning.places import Correspondence, followed
from semiseg.registration.register import RegistrationResult

_KNOT_MM = 10.0
_KNOTS_AT_MOST = 48
_LARGEST_MM = 30.0
_PARTNERS = 6
Points = NDArray[np.float64]


def atlas_warps(
    correspondence: Correspondence, case_id: str, grid: Grid, others: Sequence[str], seed: int
) -> NDArray[np.float32] | None:
    """(K, 3, d, h, w) voxels z, y, x of `grid` that its knots move on the way to K other cases.

    Knots lie evenly from the first to the last voxel of `grid`, about 10 mm apart. What an affine
    map explains, posture and size, is taken off. At most six of `others`, drawn by `seed`, go
    through the reference case; None where none of them could be registered.
    """
    points = _knots(grid)
    own = points
    if case_id != correspondence.reference:
        result = correspondence.registered(case_id)
        if result is None:
            return None
        own = followed(result, points)
    rng = np.random.default_rng((seed, 11))
    partners = [str(name) for name in rng.permutation(sorted(set(others) - {case_id}))]
    found = [
        _residual_voxels(points, there, grid)
        for name in partners[:_PARTNERS]
        if (there := _in_partner(correspondence, name, own)) is not None
    ]
    return np.stack(found) if found else None


def _knots(grid: Grid) -> Points:
    """World points (d, h, w, 3)."""
    axes = []
    for n, spacing in zip(grid.shape_zyx, grid.spacing_mm_zyx, strict=True):
        count = int(np.clip(round((n - 1) * spacing / _KNOT_MM) + 1, 2, _KNOTS_AT_MOST))
        axes.append(np.linspace(0, n - 1, count))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return grid.to_world(np.stack([x, y, z], axis=-1))


def _in_partner(correspondence: Correspondence, name: str, there: Points) -> Points | None:
    """Where points of the reference lie in another case."""
    if name == correspondence.reference:
        return there
    result = correspondence.registered(name)
    if result is None or result.inverse is None:
        return None
    return _back(result, there)


def _back(result: RegistrationResult, there: Points) -> Points:
    """The way from the reference to the case that was registered onto it; NaN stays NaN."""
    known = np.isfinite(there).all(axis=-1)
    out = np.full_like(there, np.nan)
    if result.inverse is not None and known.any():
        out[known] = result.inverse.moved(there[known])
    return out


def _residual_voxels(points: Points, there: Points, grid: Grid) -> NDArray[np.float32]:
    """(3, d, h, w): `there` less its affine part, in voxels z, y, x of `grid`; 0 where unknown."""
    start, end = points.reshape(-1, 3), there.reshape(-1, 3)
    known = np.isfinite(end).all(axis=1)
    residual = np.zeros_like(start)
    if known.sum() > 4:
        base = np.column_stack([start, np.ones(len(start))])
        affine = np.linalg.lstsq(base[known], end[known], rcond=None)[0]
        residual[known] = end[known] - base[known] @ affine
    length = np.linalg.norm(residual, axis=1, keepdims=True)
    residual *= np.minimum(1, _LARGEST_MM / np.maximum(length, 1e-6))
    voxels_xyz = grid.to_voxel(start + residual) - grid.to_voxel(start)
    moved = voxels_xyz[:, ::-1].reshape(points.shape)
    return np.ascontiguousarray(np.moveaxis(moved, -1, 0), dtype=np.float32)
