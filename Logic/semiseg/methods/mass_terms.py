"""What MASS compares: the terms of its loss, and which scans they are between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from semiseg.data.batch import Batch
from semiseg.losses import soft_dice
from semiseg.networks import CONV
from semiseg.similarity import halved, self_similarity

CONTRASTED, POOLED, PROJECTED = 64, 4, 128


@dataclass(frozen=True, kw_only=True)
class Task:
    """Numbers of samples: a target, an atlas of its modality and one of the other, if any."""

    target: int
    same: int | None
    other: int | None


@dataclass(frozen=True, kw_only=True)
class Warped:
    """One atlas on its target: grey (1, 1, *), classes (1, C, *), what is known of them, flow."""

    grey: Tensor
    classes: Tensor
    known: Tensor
    flow: Tensor


class ContrastHead(nn.Module):
    """64 vectors of length 128 of an image's deepest features, each from one channel's map."""

    def __init__(self, n_in: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.mix = CONV[dims](n_in, CONTRASTED, 3, stride=2, padding=1)
        self.project = nn.Sequential(
            nn.Linear(POOLED**dims, PROJECTED), nn.ReLU(), nn.Linear(PROJECTED, PROJECTED)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, 64, 128) of `features` (B, C, *)."""
        pool = functional.adaptive_avg_pool2d if self.dims == 2 else functional.adaptive_avg_pool3d
        vectors: Tensor = self.project(pool(self.mix(features), POOLED).flatten(2))
        return vectors


def tasks_of(batch: Batch) -> list[Task]:
    """Each unlabelled sample (each labelled one where there is none) with its atlases."""
    targets = range(batch.n_labelled, batch.size) or range(batch.n_labelled)
    modality = batch.modality.tolist()
    found = []
    for target in targets:
        atlases = [i for i in range(batch.n_labelled) if i != target]
        same = next((i for i in atlases if modality[i] == modality[target]), None)
        other = next((i for i in atlases if modality[i] != modality[target]), None)
        if same is not None or other is not None:
            found.append(Task(target=target, same=same, other=other))
    return found


def disagreement(one: Warped, other: Warped) -> Tensor:
    """1 - mean soft Dice, background too, where both are known; 0 where that is nowhere."""
    weight = one.known * other.known
    per_class = soft_dice(one.classes, other.classes, weight, smooth=1e-5)
    counts = weight.flatten(2).sum(dim=(0, 2)) > 0
    return (per_class * counts).sum() / counts.sum().clamp(min=1)


def channel_contrast(one: Tensor, other: Tensor, *, axis: int, temperature: float) -> Tensor:
    """Cross-entropy of telling which vector of `other` (B, N, F) belongs to one of `one`.

    `axis` 1 makes each vector's length 1; 0, as released, each feature's across the N vectors.
    """
    rows = functional.normalize(one.float(), dim=axis + 1)
    keys = functional.normalize(other.float(), dim=axis + 1)
    logits = rows @ keys.transpose(1, 2) / temperature
    diagonal = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return functional.cross_entropy(logits.transpose(1, 2), diagonal)


def unlike(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of the self-similarities of two images (B, 1, *), at half size."""
    return (self_similarity(halved(one)) - self_similarity(halved(other))).square().mean()
