"""Several atlases' labels made one: votes weighted by how well the images match just there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.atlases.staple import staple
from semiseg.atlases.transfer import Transfer
from semiseg.config import FusionChoice
from semiseg.images.grid import Grid
from semiseg.images.resampling import resample_image

Volume = NDArray[np.float32]
_BLUR_MM = 2.0
_SHARPNESS = 0.5  # of the usual distance: this much more of it divides a vote by e


@dataclass(frozen=True, kw_only=True)
class Fused:
    """`share` (len(ids), D, H, W) of votes in [0, 1] and their `sureness` on `grid`.

    `agreement` is the mean Dice between any two atlases per structure, empty for a single one.
    """

    ids: tuple[int, ...]
    share: Volume
    sureness: Volume
    grid: Grid
    agreement: dict[int, float]


def fuse(transfers: Sequence[Transfer], grid: Grid, method: FusionChoice = "vote") -> Fused:
    """Local weighted voting (Artaechevarria et al. 2009), on contrast-free image distances.

    An atlas votes on its own structures only, as surely as it knows them itself. With the method
    "staple" votes of atlases that are often outvoted count less, or for the contrary; "both" is
    the mean of the two ways, its borders blurred by as much as registrations are unsure of them.
    """
    weights = local_weights([transfer.distance for transfer in transfers])
    ids = tuple(sorted({i for transfer in transfers for i in transfer.ids}))
    spacing_mm = np.asarray(grid.spacing_mm_zyx)
    share = np.zeros((len(ids), *grid.shape_zyx), dtype=np.float32)
    for row, structure_id in enumerate(ids):
        share[row] = _fused_share(transfers, weights, structure_id, method)
        if method == "both" and len(transfers) > 1:
            share[row] = ndimage.gaussian_filter(share[row], _BLUR_MM / spacing_mm, mode="nearest")
    known = [w * t.confidence for w, t in zip(weights, transfers, strict=True)]
    return Fused(
        ids=ids,
        share=share,
        sureness=np.clip(np.sum(known, axis=0), 0, 1).astype(np.float32),
        grid=grid,
        agreement={i: dice for i in ids if (dice := _agreement(transfers, i)) is not None},
    )


def local_weights(distances: Sequence[Volume]) -> Volume:
    """Weights (K, D, H, W) that add up to 1 in every voxel, larger where the distance is less."""
    stack = np.stack(distances)
    least = stack.min(axis=0)
    scale = np.float32(max(_SHARPNESS * float(np.median(least)), 1e-6))
    weights = np.exp((least - stack) / scale)
    return np.asarray(weights / weights.sum(axis=0), dtype=np.float32)


def on_grid(fused: Fused, target: Grid) -> tuple[NDArray[np.uint16], Volume]:
    """Label and confidence (z, y, x) on `target`: the largest share, background's among them."""
    array = np.zeros(target.shape_zyx, dtype=np.uint16)
    best = np.zeros(target.shape_zyx, dtype=np.float32)
    total = np.zeros(target.shape_zyx, dtype=np.float32)
    for structure_id, share in zip(fused.ids, fused.share, strict=True):
        here = resample_image(share, fused.grid, target, fill=0.0)
        wins = here > best
        array[wins], best[wins] = structure_id, here[wins]
        total += here
    background = np.clip(1 - total, 0, 1)
    array[background >= best] = 0
    edge = float(np.median(fused.sureness))
    sureness = resample_image(fused.sureness, fused.grid, target, fill=edge)
    return array, np.clip(np.maximum(best, background) * sureness, 0, 1)


def _fused_share(
    transfers: Sequence[Transfer], weights: Volume, structure_id: int, method: FusionChoice
) -> Volume:
    if method != "both":
        return _share(transfers, weights, structure_id, method)
    voted = _share(transfers, weights, structure_id, "vote")
    estimated = _share(transfers, weights, structure_id, "staple")
    return np.asarray((voted + estimated) / 2, dtype=np.float32)


def _share(
    transfers: Sequence[Transfer], weights: Volume, structure_id: int, method: FusionChoice
) -> Volume:
    said, heard = [], []
    for weight, transfer in zip(weights, transfers, strict=True):
        if structure_id in transfer.ids:
            said.append(transfer.share[transfer.ids.index(structure_id)])
            heard.append(weight * (transfer.confidence + np.float32(1e-3)))
    if method == "staple":
        told = [torch.from_numpy(np.stack(parts)).flatten(1) for parts in (said, heard)]
        return staple(told[0], told[1]).reshape(said[0].shape).numpy()
    voted = sum(own * share for own, share in zip(heard, said, strict=True))
    return np.asarray(voted / (sum(heard) + np.float32(1e-6)), dtype=np.float32)


def _agreement(transfers: Sequence[Transfer], structure_id: int) -> float | None:
    masks = [
        transfer.share[transfer.ids.index(structure_id)] > 0.5
        for transfer in transfers
        if structure_id in transfer.ids
    ]
    pairs = [(a, b) for k, a in enumerate(masks) for b in masks[:k]]
    found = [2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0) for a, b in pairs]
    return float(np.mean(found)) if found else None
