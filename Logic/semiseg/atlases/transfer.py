"""One atlas brought onto a target: its labels, how far to trust them where, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from semiseg.images.grid import Grid
from semiseg.images.resampling import resample_image, spaced_grid
from semiseg.registration.field import Field
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import RegistrationResult
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.warp import warp_image, warp_onehot

Volume = NDArray[np.float32]
_FUSION_MM = 2.0  # finer than what registration resolves; bounds memory on large volumes
_MARGIN_MM = 15.0
_PROBES = 4000


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """A case whose labels are lent: `array` and `confidence` (z, y, x) on `grid`, for `ids`."""

    case_id: str
    grid: Grid
    array: NDArray[np.uint16]
    confidence: Volume
    ids: tuple[int, ...]

    def limited(self, ids: tuple[int, ...]) -> Atlas:
        """The same atlas, lending only structures among `ids`."""
        return replace(self, ids=tuple(i for i in self.ids if i in ids))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What tells how well an atlas fits: see `gate.py` for what is made of it.

    `inverse_error_mm` is the median way there and back of the atlas' own drawn points (None:
    nowhere to measure), `similarity` that of the images where labels landed, `outside` the share
    of drawn points that fall outside of the target. `ways_apart_mm` is the median way there and
    back of two coarse searches that did not know each other.
    """

    folded: float
    inverse_error_mm: float | None
    similarity: float
    start_certainty: float
    outside: float
    atlas_volumes_ml: Mapping[int, float]
    ways_apart_mm: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """`share` (len(ids), D, H, W) of each of `ids`, `confidence` and image `distance` (D, H, W)."""

    case_id: str
    ids: tuple[int, ...]
    share: Volume
    confidence: Volume
    distance: Volume
    evidence: Evidence


def fusion_grid(target: Grid, places_mm_lps: Sequence[NDArray[np.float64]]) -> Grid:
    """The part of `target` around `places_mm_lps` (N, 3) in voxels of about 2 mm, or its own."""
    sparse = [max(_FUSION_MM, spacing) for spacing in target.spacing_mm_xyz]
    coarse = spaced_grid(target, (sparse[0], sparse[1], sparse[2]))
    voxels = coarse.to_voxel(np.concatenate(places_mm_lps))
    margin = _MARGIN_MM / np.asarray(coarse.spacing_mm_xyz)
    last = np.asarray(coarse.size_xyz) - 1
    low = np.clip(np.floor(voxels.min(axis=0) - margin), 0, last).astype(int)
    high = np.clip(np.ceil(voxels.max(axis=0) + margin), low, last).astype(int)
    x, y, z = (int(n) for n in high - low + 1)
    origin = coarse.to_world(low.astype(np.float64))
    return Grid(
        size_xyz=(x, y, z),
        spacing_mm_xyz=coarse.spacing_mm_xyz,
        origin_mm_lps=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=coarse.direction,
    )


def drawn_places(atlas: Atlas) -> NDArray[np.float64]:
    """World points (N, 3) of a regular choice of the atlas' labelled voxels."""
    index = np.argwhere(np.isin(atlas.array, atlas.ids))
    chosen = index[:: max(1, len(index) // _PROBES)]
    return atlas.grid.to_world(chosen[:, ::-1].astype(np.float64))


def transfer(
    atlas: Atlas, result: RegistrationResult, images: tuple[Prepared, Prepared], grid: Grid
) -> Transfer:
    """Brings `atlas` onto `grid` of the target; `images` are the target's and the atlas'."""
    fixed, moving = images
    distance, lattice = feature_distance(fixed.features, moving.features, result.field)
    return Transfer(
        case_id=atlas.case_id,
        ids=atlas.ids,
        share=warp_onehot(atlas.array, atlas.ids, atlas.grid, result.field, grid),
        confidence=warp_image(atlas.confidence, atlas.grid, result.field, grid, fill=0.0),
        distance=resample_image(distance, lattice, grid, fill=float(distance.max())),
        evidence=_evidence(atlas, result, fixed, distance, lattice),
    )


def feature_distance(fixed: FeatureMap, moving: FeatureMap, field: Field) -> tuple[Volume, Grid]:
    """Mean squared feature difference on the fixed lattice, locally averaged, and its grid.

    The features are contrast-free, so that it compares CT with MR too. Outside of the moving
    image it is the largest value found.
    """
    points = fixed.points()
    moved_xyz = field.moved(points.cpu().numpy().astype(np.float64)[:, ::-1])
    moved = torch.from_numpy(moved_xyz[:, ::-1].astype(np.float32)).to(points.device)
    values, inside = moving.sample(moved)
    apart = (values - fixed.table).square().mean(dim=1)
    apart = torch.where(inside, apart, apart.max())
    depth, height, width = fixed.shape
    volume = apart.reshape(1, 1, depth, height, width)
    smooth = functional.avg_pool3d(volume, 3, stride=1, padding=1, count_include_pad=False)
    origin = fixed.origin_mm_zyx.cpu().numpy().astype(np.float64)
    spacing = float(fixed.spacing_mm)
    lattice = Grid(
        size_xyz=(width, height, depth),
        spacing_mm_xyz=(spacing, spacing, spacing),
        origin_mm_lps=(float(origin[2]), float(origin[1]), float(origin[0])),
    )
    return smooth[0, 0].cpu().numpy(), lattice


def _evidence(
    atlas: Atlas, result: RegistrationResult, fixed: Prepared, distance: Volume, lattice: Grid
) -> Evidence:
    start = drawn_places(atlas)
    error, outside, similarity = None, 1.0, 0.0
    if result.inverse is not None and len(start):
        there = result.inverse.moved(start)
        inside = _inside(fixed.grid, there)
        outside = float(1 - inside.mean())
        if inside.any():
            back = result.field.moved(there[inside])
            error = float(np.median(np.linalg.norm(back - start[inside], axis=1)))
            z, y, x = np.rint(lattice.to_voxel(there[inside]))[:, ::-1].astype(int).T
            d, h, w = (np.clip(i, 0, n - 1) for i, n in zip((z, y, x), distance.shape, strict=True))
            similarity = 1 - float(distance[d, h, w].mean())
    return Evidence(
        folded=result.folded,
        inverse_error_mm=error,
        similarity=similarity,
        start_certainty=result.start_certainty,
        ways_apart_mm=result.ways_apart_mm,
        outside=outside,
        atlas_volumes_ml={
            i: float((atlas.array == i).sum()) * atlas.grid.voxel_ml for i in atlas.ids
        },
    )


def _inside(grid: Grid, places_mm_lps: NDArray[np.float64]) -> NDArray[np.bool_]:
    voxel = grid.to_voxel(places_mm_lps)
    last = np.asarray(grid.size_xyz) - 1
    return np.asarray(((voxel >= -0.5) & (voxel <= last + 0.5)).all(axis=-1))
