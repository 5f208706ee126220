"""Patches around the borders of labelled structures, with embeddings of their voxels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semiseg.data.batch import Batch

BAND = 2
HALF_PATCH = {2: 16, 3: 8}
PATCHES = 2
VOXELS = 64
TRUSTED = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """A window around a structure's border; embeddings have length one.

    inner (n, D): of some voxels within two of the border, inside; outer (m, D): of some outside.
    whole (D,): the mean over the structure; around (D,): over background, None without any.
    contrast: difference of mean grey values inside and outside, in standard deviations.
    """

    structure: int
    inner: Tensor
    outer: Tensor
    whole: Tensor
    around: Tensor | None
    contrast: float


def patches_of(embedding: Tensor, batch: Batch, n_classes: int) -> list[Patch]:
    """Two patches of each structure that has a known border in each labelled sample.

    `embedding` (n_labelled, D, *). Voxels count that are known for all classes and trusted by half.
    """
    found = []
    for sample in range(batch.n_labelled):
        label, grey = batch.label[sample], batch.image[sample, 0].float()
        settled = (batch.valid[sample] >= TRUSTED) & batch.known[sample].all(dim=0)
        for structure in range(1, n_classes):
            inside, outside = (settled & (label == structure)), (settled & (label != structure))
            border = inside & near(outside)
            for centre in some(border.nonzero(), PATCHES):
                at = window(centre)
                masks = (inside[at], outside[at], (settled & (label == 0))[at])
                whole = embedding[sample][(slice(None), *at)]
                found.append(_patch(structure, whole, grey[at], masks))
    return found


def _patch(
    structure: int, embedding: Tensor, grey: Tensor, masks: tuple[Tensor, Tensor, Tensor]
) -> Patch:
    inside, outside, background = masks
    contrast = (grey[inside].mean() - grey[outside].mean()).abs()
    return Patch(
        structure=structure,
        inner=some(embedding[:, inside & near(outside)].T, VOXELS),
        outer=some(embedding[:, outside & near(inside)].T, VOXELS),
        whole=_mean_direction(embedding[:, inside]),
        around=_mean_direction(embedding[:, background]) if background.any() else None,
        contrast=float(contrast / grey.std(correction=0).clamp(min=1e-6)),
    )


def near(mask: Tensor) -> Tensor:
    """Where `mask` (*) is within two voxels along every axis."""
    for axis, size in enumerate(mask.shape):
        reached = mask.clone()
        for step in range(1, min(BAND, size - 1) + 1):
            ahead, behind = mask.narrow(axis, step, size - step), mask.narrow(axis, 0, size - step)
            reached.narrow(axis, step, size - step).logical_or_(behind)
            reached.narrow(axis, 0, size - step).logical_or_(ahead)
        mask = reached
    return mask


def window(centre: Tensor) -> tuple[slice, ...]:
    """The patch around a voxel `centre` (dims,), cut off at the sample's sides."""
    half = HALF_PATCH[len(centre)]
    return tuple(slice(max(i - half, 0), i + half) for i in centre.tolist())


def some(rows: Tensor, count: int) -> Tensor:
    """All `rows`, or `count` of them drawn with the CPU's global generator."""
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows))[:count].to(rows.device)]


def _mean_direction(embedding: Tensor) -> Tensor:
    """The mean (D,) of `embedding` (D, n), of length one."""
    return nn.functional.normalize(embedding.mean(dim=1), dim=0)
