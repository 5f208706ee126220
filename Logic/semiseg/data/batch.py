"""What a method gets to see at each step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`n_labelled` samples with supervision first, then unlabelled ones.

    image (B, 1, *) float; label (B, *) int64 channel numbers; valid (B, *) float in [0, 1]: 0
    unknown, 1 drawn by a human, the confidence in between; known (B, C, *) bool: whether it is
    known there if the voxel belongs to class c; origin (B, *) uint8 as `study.case.Origin`;
    modality (B,) 0 CT, 1 MR; case ids (B,). Unlabelled samples have valid 0 and known False.
    level (B, C - 1, *), where the method asks for it: millimetres to each structure's outline,
    negative inside, NaN where that is not known. place (B, 3, *), where the method asks for it:
    millimetres x, y, z in one reference case of the study, from its centre, NaN where unknown.
    plain (B, 1, *), where the method asks for it: `image` before its grey values were changed.
    companions (B, K, *), where the method asks for it: the volumes of all K streams, the image
    among them, 0 where one is missing; present (B, K): 0 where it is missing, 1 where it is the
    case's own, in between where one of another patient stands in.
    """

    image: Tensor
    label: Tensor
    valid: Tensor
    known: Tensor
    origin: Tensor
    modality: Tensor
    case: tuple[str, ...]
    n_labelled: int
    spacing_mm_zyx: tuple[float, float, float]
    level: Tensor | None = None
    place: Tensor | None = None
    plain: Tensor | None = None
    companions: Tensor | None = None
    present: Tensor | None = None

    @property
    def all_labelled(self) -> bool:
        """Whether there is no unlabelled sample, so that supervision is all there is to learn."""
        return self.size == self.n_labelled

    @property
    def size(self) -> int:
        """Number of samples B."""
        return self.image.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        names = ("image", "label", "valid", "known", "origin", "modality")
        optional = ("level", "place", "plain", "companions", "present")
        given = {name: getattr(self, name) for name in (*names, *optional)}
        moved = {name: tensor.to(device) for name, tensor in given.items() if tensor is not None}
        return replace(self, **moved)
