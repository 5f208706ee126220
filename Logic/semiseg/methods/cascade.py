"""Cascade, our own: labels of registration first, the network's own later, for CT and MR alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from semiseg.data.batch import Batch
from semiseg.data.bridging import bridged
from semiseg.losses import deep_supervised_loss
from semiseg.methods.base import MethodSettings
from semiseg.methods.single import TaughtNetwork
from semiseg.study.case import Origin

FIRST, LAST = 0.3, 0.8
STEADY = 0.5
SUREST = 0.99
PASTE_CHANCE = 0.5
POOR, GOOD = 0.5, 0.8
MEMORY = 0.97
PASTE_SIDES = (0.3, 0.7)
INGREDIENTS = ("network_labels", "schedule", "confidence", "paste", "bridging", "readiness")


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What `Cascade` is made of; each can be left out to measure what it is good for.

    `network_labels`: the teacher has a say where no human drew. `schedule`: it gets it late and
    ever more, otherwise half of it always. `confidence`: carried labels count as they are
    trusted, otherwise all alike. `paste`: patches are pasted into each other. `bridging`: the
    student sees random looks between modalities. `readiness`: all but trust waits for it.
    """

    network_labels: bool = True
    schedule: bool = True
    confidence: bool = True
    paste: bool = True
    bridging: bool = True
    readiness: bool = True

    @classmethod
    def without(cls, name: str) -> Ingredients:
        """All but one; "nothing": all."""
        return cls() if name == "nothing" else cls(**{name: False})


class Cascade(TaughtNetwork):
    """L = CE + Dice of one forward pass over patches whose labels come from whoever knows best.

    Human voxels are taken as they are. Elsewhere both that say something are fused: with the
    carried label y of confidence c and the teacher's logits z the target is the largest of
    softmax(s z + (1 - s) g(c) onehot(y)), and its probability is its weight. That is a geometric
    mean of both opinions: y has the probability c + (1 - c) / C, each other class (1 - c) / C, so
    g(c) = log(1 + C c / (1 - c)). s rises from 0 (before 30 % of the training, when no teacher is
    asked) to 0.8. The teacher, the mean of the student's weights, sees the plain patch, the
    student its random look, with a box of another patch pasted in every other time.

    All that waits until the network knows every structure: a teacher that has not found one yet
    calls it background, and changed images are harder to learn from. Readiness rises from 0 to 1
    as the running recall of the worst structure rises from 0.5 to 0.8; it multiplies s and the
    chances of pasting and of looks. Until then a step costs what a supervised one costs, later also
    the teacher's forward pass on patches with open voxels.
    """

    bridges = True
    learns_from_carried = True
    options: Mapping[str, tuple[str, ...]] = {"without": ("nothing", *INGREDIENTS)}

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        self.ingredients = Ingredients.without(self.option("without"))
        self.recall = Recall(settings.network.n_classes)
        self.memory["recall"] = self.recall

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The supervised loss of what each voxel most likely is."""
        ready = self.recall.readiness if self.ingredients.readiness else 1.0
        batch = self._told(batch, self.share(progress) * ready)
        paste, look = torch.rand(2).tolist()
        if self.ingredients.paste and paste < PASTE_CHANCE * ready:
            batch = pasted(batch)
        image = batch.image
        if self.ingredients.bridging and look < ready:
            image = bridged(image)
        outputs = self.network.outputs(image)
        self.recall.see(outputs[0].detach(), batch)
        return {"network": deep_supervised_loss(outputs, batch.label, batch.valid, batch.known)}

    def share(self, progress: float) -> float:
        """s: how much of the say the network has at `progress`."""
        if not self.ingredients.network_labels or progress < FIRST:
            return 0.0
        if not self.ingredients.schedule:
            return STEADY
        return LAST * min(1.0, (progress - FIRST) / (1 - FIRST))

    def _told(self, batch: Batch, share: float) -> Batch:
        """`batch` with labels wherever somebody says something; early labelled samples alone."""
        carried = (batch.origin == Origin.PROPAGATED) & (batch.valid > 0)
        if not self.ingredients.confidence:
            batch = replace(batch, valid=torch.where(carried, 1.0, batch.valid))
        if share == 0.0:
            return first_samples(batch, batch.n_labelled)
        open_to = carried.clone()
        open_to[batch.n_labelled :] = True
        rows = open_to.flatten(1).any(dim=1).nonzero()[:, 0]
        if not len(rows):
            return batch
        logits = self.teacher(batch.image[rows]).float()
        label, weight = fused(logits, batch.label[rows], batch.valid[rows] * carried[rows], share)
        return relabelled(batch, rows, open_to[rows], label, weight)


class Recall(nn.Module):
    """The running mean of each structure's probability at voxels that are labelled as it."""

    known: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("known", torch.zeros(n_classes))

    @property
    def readiness(self) -> float:
        """0 to 1 as the worst structure's recall rises from 0.5 to 0.8."""
        worst = float(self.known[1:].min())
        return min(1.0, max(0.0, (worst - POOR) / (GOOD - POOR)))

    @torch.no_grad()
    def see(self, logits: Tensor, batch: Batch) -> None:
        """Take in every fourth voxel; structures without a labelled one keep their mean."""
        label, valid = batch.label[:, None, ..., ::4], batch.valid[..., ::4]
        chance = logits[..., ::4].float().softmax(dim=1).gather(1, label).flatten()
        there, known = label.flatten(), batch.known[..., ::4].gather(1, label)[:, 0]
        weight = (valid * known).flatten()
        total = torch.zeros_like(self.known).scatter_add_(0, there, weight)
        hit = torch.zeros_like(self.known).scatter_add_(0, there, weight * chance)
        new = MEMORY * self.known + (1 - MEMORY) * hit / total.clamp(min=1e-6)
        self.known.copy_(torch.where(total > 0, new, self.known))


def fused(logits: Tensor, label: Tensor, trust: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The likeliest class and its probability (B, *) from `logits` (B, C, *) and carried labels.

    `trust` (B, *) is 0 where there is no carried label.
    """
    n_classes = logits.shape[1]
    told = trust.clamp(max=SUREST)
    # Exactly 0 without trust, so that a label which nobody trusts does not even round a score.
    gain = (1 + n_classes * told / (1 - told)).log() * (1 - share)
    scores = (share * logits).scatter_add(1, label[:, None], gain[:, None].to(logits.dtype))
    weight, found = scores.softmax(dim=1).max(dim=1)
    return found, weight


def relabelled(batch: Batch, rows: Tensor, where: Tensor, label: Tensor, weight: Tensor) -> Batch:
    """`batch` with new labels in its samples `rows`, at `where` (R, *); known for all classes."""
    labels, valid, known = batch.label.clone(), batch.valid.clone(), batch.known.clone()
    labels[rows] = torch.where(where, label, labels[rows])
    valid[rows] = torch.where(where, weight, valid[rows])
    known[rows] = known[rows] | where[:, None]
    return replace(batch, label=labels, valid=valid, known=known)


def pasted(batch: Batch) -> Batch:
    """Each sample with a random box of the one before it, its labels too."""
    shape = batch.image.shape[2:]
    low, high = PASTE_SIDES
    box = torch.zeros(shape, dtype=torch.bool)
    sides = [int(n * (low + (high - low) * float(torch.rand(())))) for n in shape]
    starts = [int(torch.randint(n - side + 1, ())) for n, side in zip(shape, sides, strict=True)]
    box[tuple(slice(a, a + n) for a, n in zip(starts, sides, strict=True))] = True
    box = box.to(batch.image.device)

    def mixed(own: Tensor) -> Tensor:
        return torch.where(box, own.roll(1, dims=0), own)

    return replace(
        batch,
        image=mixed(batch.image),
        label=mixed(batch.label),
        valid=mixed(batch.valid),
        known=mixed(batch.known),
    )


def first_samples(batch: Batch, n: int) -> Batch:
    """The first `n` samples alone, with what a loss of this module reads."""
    return replace(
        batch,
        image=batch.image[:n],
        label=batch.label[:n],
        valid=batch.valid[:n],
        known=batch.known[:n],
        origin=batch.origin[:n],
    )
