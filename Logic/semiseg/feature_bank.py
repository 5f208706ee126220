"""A memory of features of earlier steps: what they were, of which case, and where in the body."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Entries:
    """feature (N, D) of length one, place (N, 3) in mm (NaN unknown), label (N,), case (N,)."""

    feature: Tensor
    place: Tensor
    label: Tensor
    case: Tensor

    def detached(self) -> Entries:
        """The same without gradient."""
        return replace(self, feature=self.feature.detach().float())

    def those(self, which: Tensor) -> Entries:
        """Some of them: `which` is an index or a mask."""
        return Entries(
            feature=self.feature[which],
            place=self.place[which],
            label=self.label[which],
            case=self.case[which],
        )


def join(parts: Sequence[Entries]) -> Entries:
    """All entries of `parts`, in turn."""
    return Entries(
        feature=torch.cat([part.feature for part in parts]),
        place=torch.cat([part.place for part in parts]),
        label=torch.cat([part.label for part in parts]),
        case=torch.cat([part.case for part in parts]),
    )


def case_number(case_id: str) -> int:
    """A number for a case's name, the same in every run."""
    return zlib.crc32(case_id.encode())


class FeatureBank(nn.Module):
    """The last `size` entries; all of it is buffers, so that a checkpoint holds it."""

    feature: Tensor
    place: Tensor
    label: Tensor
    case: Tensor
    n_added: Tensor

    def __init__(self, size: int, length: int) -> None:
        super().__init__()
        self.register_buffer("feature", torch.zeros(size, length))
        self.register_buffer("place", torch.full((size, 3), math.nan))
        self.register_buffer("label", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("case", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("n_added", torch.zeros((), dtype=torch.int64))

    @property
    def entries(self) -> Entries:
        """What is kept at the moment."""
        kept = slice(0, min(int(self.n_added), len(self.label)))
        return Entries(
            feature=self.feature[kept],
            place=self.place[kept],
            label=self.label[kept],
            case=self.case[kept],
        )

    @torch.no_grad()
    def add(self, new: Entries) -> None:
        """Keep `new` in place of the oldest."""
        size = len(self.label)
        last = torch.arange(max(0, len(new.label) - size), len(new.label), device=new.label.device)
        at = (last + self.n_added) % size
        kept = new.those(last)
        self.feature[at] = kept.feature.detach().float()
        self.place[at] = kept.place.float()
        self.label[at], self.case[at] = kept.label, kept.case
        self.n_added += len(new.label)

    def some(self, number: int) -> Entries:
        """At most `number` entries, drawn with torch's global generator of the CPU."""
        entries = self.entries
        chosen = torch.randperm(len(entries.label))[:number]
        return entries.those(chosen.to(entries.label.device))

    @torch.no_grad()
    def counterparts(self, place: Tensor, case: Tensor, reach_mm: float) -> tuple[Tensor, Tensor]:
        """The same place in other cases: mean feature (A, D) of length one, whether there is any.

        Of each case but an anchor's own the entry that is nearest to its place (A, 3), if that is
        within `reach_mm`. Classes play no part. The order of the cases does not matter.
        """
        entries = self.entries
        entries = entries.those(entries.place.isfinite().all(dim=1))
        total = place.new_zeros(len(place), self.feature.shape[1])
        number = place.new_zeros(len(place))
        for other in sorted(set(entries.case.tolist())):
            theirs = entries.those(entries.case == other)
            nearest = torch.cdist(
                place, theirs.place, compute_mode="donot_use_mm_for_euclid_dist"
            ).min(dim=1)
            hit = (nearest.values <= reach_mm) & (case != other)
            total += theirs.feature[nearest.indices] * hit[:, None]
            number += hit
        return nn.functional.normalize(total, dim=1), number > 0
