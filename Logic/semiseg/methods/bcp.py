"""Bidirectional copy-paste (Bai et al., CVPR 2023) on a mean teacher."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss
from semiseg.methods.single import TaughtNetwork

FIRST_STAGE = 0.25
BOX_SIDE = 2 / 3
PSEUDO_WEIGHT = 0.5
Samples = dict[str, Tensor]
"""image (B, 1, *), label and valid (B, *), known (B, C, *)."""


class BidirectionalCopyPaste(TaughtNetwork):
    """Labelled and unlabelled images are pasted into each other, both ways.

    With a box M of 2/3 of each side: x_in = x_u M + x_l (1 - M), x_out = x_l M + x_u (1 - M);
    labels alike, those of the unlabelled part from the teacher, the largest piece of each
    structure, at weight 0.5. For the first quarter of the training labelled images are pasted into
    labelled ones (the pre-training of the paper, 10,000 of 40,000 steps).
    """

    spares = True

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The supervised loss of both pasted halves."""
        labelled = _samples(batch, slice(None, batch.n_labelled))
        alone = progress < FIRST_STAGE or batch.all_labelled
        other = _rolled(labelled) if alone else self._taught(batch)
        box = random_box(batch.image.shape[2:]).to(batch.image.device)
        mixed = _join(paste(other, labelled, box), paste(labelled, other, box))
        outputs = self.network.outputs(mixed["image"])
        loss = deep_supervised_loss(outputs, mixed["label"], mixed["valid"], mixed["known"])
        return {"network": loss}

    def _taught(self, batch: Batch) -> Samples:
        """The unlabelled samples with the teacher's labels."""
        blind = _samples(batch, slice(batch.n_labelled, None))
        return blind | {
            "label": largest_pieces(self.taught(blind["image"]).argmax(dim=1)),
            "valid": torch.full_like(blind["valid"], PSEUDO_WEIGHT),
            "known": torch.ones_like(blind["known"]),
        }


def random_box(shape: torch.Size) -> Tensor:
    """A bool box of 2/3 of each side of `shape` (*), anywhere in it."""
    box = torch.zeros(shape, dtype=torch.bool)
    sides = [int(n * BOX_SIDE) for n in shape]
    starts = [int(torch.randint(n - side + 1, ())) for n, side in zip(shape, sides, strict=True)]
    box[tuple(slice(a, a + n) for a, n in zip(starts, sides, strict=True))] = True
    return box


def paste(inside: Samples, outside: Samples, box: Tensor) -> Samples:
    """`inside` within `box`, `outside` around it, for as many samples as both have."""
    n = min(inside["image"].shape[0], outside["image"].shape[0])
    return {name: torch.where(box, inside[name][:n], outside[name][:n]) for name in inside}


def largest_pieces(label: Tensor) -> Tensor:
    """`label` (B, *) with only the largest connected piece of each class in each sample."""
    found = label.cpu().numpy()
    kept = np.zeros_like(found)
    for sample, into in zip(found, kept, strict=True):
        for value in np.unique(sample[sample > 0]):
            pieces, n_pieces = ndimage.label(sample == value)
            sizes = np.bincount(pieces.ravel(), minlength=n_pieces + 1)[1:]
            into[pieces == sizes.argmax() + 1] = value
    return torch.from_numpy(kept).to(label.device)


def _samples(batch: Batch, which: slice) -> Samples:
    names = ("image", "label", "valid", "known")
    return {name: getattr(batch, name)[which] for name in names}


def _rolled(samples: Samples) -> Samples:
    """Each sample's partner is the next one."""
    return {name: tensor.roll(1, dims=0) for name, tensor in samples.items()}


def _join(one: Samples, other: Samples) -> Samples:
    return {name: torch.cat([one[name], other[name]]) for name in one}
