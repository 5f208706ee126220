"""Labelled scans kept inside a model, and their labels fused by local similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from semiseg.data.batch import Batch
from semiseg.displacement import warp
from semiseg.losses import one_hot
from semiseg.similarity import box_mean, local_ncc2

_GREYS = 255.0
_NEIGHBOURHOOD = 5
_TINY = 1e-4
Register = Callable[[Tensor, Tensor], Tensor]
"""Atlas image (B, 1, *) and its modality (B,) to the displacement (B, dims, *) onto the target."""


class AtlasSet(nn.Module):
    """Images, labels and what is known of them, as buffers of whole numbers."""

    image: Tensor
    label: Tensor
    valid: Tensor
    known: Tensor
    modality: Tensor

    def __init__(self, n_classes: int, dims: int) -> None:
        super().__init__()
        one = (1,) * dims
        self.register_buffer("image", torch.zeros(0, 1, *one, dtype=torch.uint8))
        self.register_buffer("label", torch.zeros(0, *one, dtype=torch.uint8))
        self.register_buffer("valid", torch.zeros(0, *one, dtype=torch.uint8))
        self.register_buffer("known", torch.zeros(0, n_classes, *one, dtype=torch.bool))
        self.register_buffer("modality", torch.zeros(0, dtype=torch.uint8))

    @property
    def size(self) -> int:
        """Number of atlases."""
        return self.image.shape[0]

    def fill(self, atlases: Batch, grey: Tensor) -> None:
        """Keep `atlases`, whose images are `grey` (K, 1, *) in [0, 1]."""
        self.image = (grey.clamp(0, 1) * _GREYS).round().to(torch.uint8)
        self.label = atlases.label.to(torch.uint8)
        self.valid = (atlases.valid * _GREYS).round().to(torch.uint8)
        self.known = atlases.known.clone()
        self.modality = atlases.modality.to(torch.uint8)

    def fitting(self, modality: int) -> list[int]:
        """Numbers of the atlases of `modality`; of all where there is none."""
        own = [i for i, found in enumerate(self.modality.tolist()) if found == modality]
        return own or list(range(self.size))

    def fused(self, target: Tensor, modality: int, register: Register) -> Tensor:
        """Probabilities (B, C, *) of `target` (B, 1, *): each atlas' label, warped, by its weight.

        Weights are the softmax over the atlases of the local NCC^2 of the warped atlas and the
        target; an atlas speaks where it is known, as loud as it is trusted.
        """
        likeness, votes, voices = [], [], []
        for number in self.fitting(modality):
            image, vote, voice = self._spoken(number)
            seen = image.expand_as(target)
            flow = register(seen, self.modality[number].long().expand(len(target)))
            said = torch.cat(
                [part.expand(len(target), *part.shape[1:]) for part in (vote, voice)], 1
            )
            vote, voice = warp(said, flow).chunk(2, dim=1)
            likeness.append(local_ncc2(warp(seen, flow), target))
            votes.append(vote)
            voices.append(voice)
        return fuse(torch.stack(likeness), torch.stack(votes), torch.stack(voices))

    def _spoken(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image (1, 1, *), votes (1, C, *) and voices (1, C, *) of one atlas."""
        part = slice(number, number + 1)
        voice = (self.valid[part].float() / _GREYS).unsqueeze(1) * self.known[part]
        vote = one_hot(self.label[part].long(), voice.shape[1]) * voice
        return self.image[part].float() / _GREYS, vote, voice


def fuse(likeness: Tensor, votes: Tensor, voices: Tensor) -> Tensor:
    """Shares (B, C, *) of `votes` (K, B, C, *) among `voices`, weighted by the softmax over K of
    `likeness` (K, B, 1, *); background where all are silent.
    """
    weight = likeness.softmax(dim=0)
    return _settled((weight * votes).sum(dim=0), (weight * voices).sum(dim=0))


def fit_buffers(modules: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Give buffers the shapes that they have in `saved`, where the number of axes is the same."""
    for path, buffer in list(modules.named_buffers()):
        wanted = saved.get(path)
        if wanted is not None and wanted.dim() == buffer.dim():
            owner, _, name = path.rpartition(".")
            setattr(modules.get_submodule(owner), name, buffer.new_zeros(wanted.shape))


def _settled(votes: Tensor, voices: Tensor) -> Tensor:
    """Shares of the votes; what nobody speaks of is asked around, then it is background."""
    around = box_mean(torch.cat([votes, voices], dim=1), _NEIGHBOURHOOD)
    near_votes, near_voices = around.chunk(2, dim=1)
    silent = voices < _TINY
    votes = torch.where(silent, near_votes, votes)
    voices = torch.where(silent, near_voices, voices)
    share = torch.where(voices < _TINY, 0.0, votes / voices.clamp(min=_TINY))
    rest = (share.sum(dim=1, keepdim=True) < _TINY).float()
    share = share + functional.pad(rest, [0, 0] * (share.dim() - 2) + [0, share.shape[1] - 1])
    return share / share.sum(dim=1, keepdim=True)
