"""One structure along one axis: its stack, its self-check, and what it says of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.slices.candidates import FillMethod, Guided, Opinion, interpolated, nearest
from semiseg.slices.check import SelfCheck, check_methods
from semiseg.slices.flow import enlarged
from semiseg.slices.stack import Box, Stack, cut_stack
from semiseg.slices.targets import Target, undrawn_targets

Volume = NDArray[np.float32]
_BEYOND = 0.5  # agreement at most, where a structure is carried past its last drawn slice


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """`score` (mm, positive inside) and `agreement` in [0, 1] on `box` of a volume (z, y, x).

    The agreement is 0 beyond the ends of the drawn structure, where nobody knows of it.
    """

    box: Box
    score: Volume
    agreement: Volume


@dataclass(frozen=True, kw_only=True)
class StructurePlane:
    """What a structure's done slices along array `axis` tell of a volume of `shape` (z, y, x).

    `distance_mm` is each slice's distance to the nearest done one. `stack` is None where the
    structure is in none of them.
    """

    axis: int
    shape: tuple[int, int, int]
    distance_mm: Volume
    stack: Stack | None

    @cached_property
    def guided(self) -> Guided | None:
        """The image-guided way; None where there is nothing to lead to."""
        if self.stack is None or len(self.stack.grey) < 2:
            return None
        return Guided(self.stack)

    def check(self, *, image_guided: bool) -> SelfCheck:
        """Leave-one-slice-out along this axis."""
        if self.stack is None:
            return SelfCheck()
        return check_methods(self.stack, self.guided if image_guided else None)

    def opinions(self, method: FillMethod) -> Opinions | None:
        """The structure told by `method`; None where it is in no done slice."""
        if self.stack is None:
            return None
        score, agreement = _told(self.stack, self.guided if method == "guided" else None, method)
        return self._placed(self.stack, score, agreement)

    def _placed(self, stack: Stack, score: Tensor, agreement: Tensor) -> Opinions:
        """Both on the volume's own resolution, up to its ends where the structure's are open."""
        slices, rows, columns = stack.box
        low = 0 if stack.open_ends[0] else slices.start
        high = self.shape[self.axis] if stack.open_ends[1] else slices.stop
        size = (high - low, rows.stop - rows.start, columns.stop - columns.start)
        full_score = np.full(size, -stack.clip_mm, dtype=np.float32)
        full_agreement = np.zeros(size, dtype=np.float32)
        like = torch.empty(size)[:1]
        inner = slice(slices.start - low, slices.stop - low)
        full_score[inner] = enlarged(score, like, stack.factor)[:, 0].numpy()
        full_agreement[inner] = enlarged(agreement, like, stack.factor)[:, 0].numpy()
        box = [rows, columns]
        box.insert(self.axis, slice(low, high))
        return Opinions(
            box=(box[0], box[1], box[2]),
            score=np.moveaxis(full_score, 0, self.axis),
            agreement=np.moveaxis(full_agreement, 0, self.axis),
        )


def structure_plane(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    lines: NDArray[np.bool_],
    axis: int,
    spacing_mm_zyx: tuple[float, float, float],
) -> StructurePlane:
    """Cuts out the structure `mask`, done on the slices `lines` (n,) along `axis`."""
    done = np.flatnonzero(lines)
    others = [spacing for k, spacing in enumerate(spacing_mm_zyx) if k != axis]
    spacing_mm = (spacing_mm_zyx[axis], others[0], others[1])
    apart = np.abs(np.arange(len(lines))[:, None] - done).min(axis=1)
    depth, height, width = image.shape
    return StructurePlane(
        axis=axis,
        shape=(depth, height, width),
        distance_mm=(apart * spacing_mm[0]).astype(np.float32),
        stack=cut_stack(np.moveaxis(image, axis, 0), np.moveaxis(mask, axis, 0), done, spacing_mm),
    )


def _told(stack: Stack, guided: Guided | None, method: FillMethod) -> Opinion:
    """Score and agreement in every slice of the stack, (N, 1, h, w)."""
    score, agreement = torch.zeros_like(stack.grey), torch.ones_like(stack.grey)
    score[list(stack.done)] = stack.clipped
    targets = undrawn_targets(stack)
    if targets:
        places = [target.place for target in targets]
        told, agreed = _opinion(stack, guided, method, targets)
        score[places] = told.clamp(-stack.clip_mm, stack.clip_mm)
        sureness = [_BEYOND * max(0.0, 1 - t.taper) if t.taper > 0 else 1.0 for t in targets]
        agreement[places] = agreed * torch.tensor(sureness).view(-1, 1, 1, 1)
    return score, agreement


def _opinion(
    stack: Stack, guided: Guided | None, method: FillMethod, targets: Sequence[Target]
) -> Opinion:
    if method == "guided" and guided is not None:
        return guided.fine(targets)
    return nearest(stack, targets) if method == "nearest" else interpolated(stack, targets)
