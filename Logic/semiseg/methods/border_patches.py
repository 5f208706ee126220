"""Patches around the borders of labelled structures, with embeddings of their voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    """Where a patch is, and flat masks of its voxels; `voxels` are numbers within the batch."""

    structure: int
    voxels: Tensor
    inside: Tensor
    inner: Tensor
    outer: Tensor
    background: Tensor
    contrast: float

    def patch(self, embedding: Tensor) -> Patch:
        """With the embeddings (n, D) of its voxels."""
        around = embedding[self.background]
        return Patch(
            structure=self.structure,
            inner=some(embedding[self.inner], VOXELS),
            outer=some(embedding[self.outer], VOXELS),
            whole=_mean_direction(embedding[self.inside]),
            around=_mean_direction(around) if len(around) else None,
            contrast=self.contrast,
        )


def patches_of(
    features: Tensor, project: Callable[[Tensor], Tensor], batch: Batch, n_classes: int
) -> list[Patch]:
    """Two patches of each structure that has a known border in each labelled sample.

    `features` (B, F, *); `project` makes rows (n, F) of them embeddings (n, D) of any length.
    Voxels count that are known for all classes and trusted by half.
    """
    windows = list(_windows(batch, n_classes))
    if not windows:
        return []
    # One look-up for all: each slice of the features would have a gradient of their full size.
    voxels = torch.cat([window.voxels for window in windows])
    rows = features.movedim(1, -1).flatten(0, -2).index_select(0, voxels)
    embedding = nn.functional.normalize(project(rows).float(), dim=1)
    parts = torch.split(embedding, [len(window.voxels) for window in windows])
    return [window.patch(part) for window, part in zip(windows, parts, strict=True)]


def _windows(batch: Batch, n_classes: int) -> Iterator[_Window]:
    number = torch.arange(batch.label.numel(), device=batch.label.device).view_as(batch.label)
    for sample in range(batch.n_labelled):
        label, grey = batch.label[sample], batch.image[sample, 0].float()
        settled = (batch.valid[sample] >= TRUSTED) & batch.known[sample].all(dim=0)
        for structure in range(1, n_classes):
            inside, outside = settled & (label == structure), settled & (label != structure)
            border = inside & near(outside)
            for centre in some(border.nonzero(), PATCHES):
                at = window(centre)
                own, other, seen = inside[at], outside[at], grey[at]
                difference = (seen[own].mean() - seen[other].mean()).abs()
                yield _Window(
                    structure=structure,
                    voxels=number[sample][at].flatten(),
                    inside=own.flatten(),
                    inner=(own & near(other)).flatten(),
                    outer=(other & near(own)).flatten(),
                    background=(other & (label[at] == 0)).flatten(),
                    contrast=float(difference / seen.std(correction=0).clamp(min=1e-6)),
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
    """The mean (D,) of `embedding` (n, D), of length one."""
    return nn.functional.normalize(embedding.mean(dim=0), dim=0)
