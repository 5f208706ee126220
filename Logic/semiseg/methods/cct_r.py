"""CCT-R: registration-guided cross teaching with contrast (Liu et al., WACV 2025).

Cross teaching and the class-balanced contrast follow the released code of the predecessors. Two
parts are reconstructions from the abstract and the figures, because their equations could not be
read: the loss of labels that registration carried over (RSL), and positives by anatomical
correspondence (REPS).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.contrast import balanced_contrast, info_nce
from semiseg.data.batch import Batch
from semiseg.feature_bank import Entries, FeatureBank, case_number, join
from semiseg.methods.base import MethodSettings
from semiseg.methods.pair import (
    PAIR,
    TRANSFORMER_RATE,
    WEIGHT_DECAY,
    TeachingPair,
    half_and_half,
    pseudo_dice,
    teaching_weight,
)
from semiseg.study.case import Origin

RSL_FIRST, RSL_LAST = 1.0, 0.1
CONTRAST_WEIGHT = 0.1
TEMPERATURE = 0.1
ANCHORS_PER_CLASS = 64
NEGATIVES = 500
BANK_SIZE = 8192
PROJECTED = 64
REACH_VOXELS, REACH_MM = 3.0, (2.0, 8.0)
SURE = 0.9
PSEUDO_FROM = 0.075


class RegistrationGuidedTeaching(TeachingPair):
    """L = sum_m [L_sup^m + lambda L_cps^m + w_rs L_rs^m] + 0.1 (L_l + L_r).

    L_sup: (CE + Dice) / 2 of what a human said. L_cps, lambda: cross teaching. L_rs
    (reconstructed): as L_sup, over labels that registration transferred, weighted by their
    confidence; w_rs falls from 1 to 0.1 over the training, because these labels help most while
    the networks' own are poor. L_l: class-balanced contrast of projected features of both
    networks; an anchor's class is a human's or, where the partner is sure, the partner's. L_r
    (reconstructed): InfoNCE whose positive is the mean feature of the same anatomical place in
    other cases, whatever their predicted class; negatives are of other classes.
    """

    uses_places = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        for name, _ in PAIR:
            self.modules[f"{name}_projector"] = _projector(settings.network.channels[0])
        self.bank = FeatureBank(BANK_SIZE, PROJECTED)
        self.memory["bank"] = self.bank
        self._fresh: Entries | None = None

    def optimizers(self) -> dict[str, Optimizer]:
        """One AdamW, because the contrast joins both networks; the transformer at half the rate."""
        rate = self.settings.learning_rate
        groups = [
            {
                "params": list(module.parameters()),
                "lr": rate * (TRANSFORMER_RATE if name == "transformer" else 1.0),
            }
            for name, module in self.modules.items()
        ]
        return {"all": torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY)}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """All five terms on one forward pass of each network."""
        features = {name: self.networks[name].features(batch.image) for name, _ in PAIR}
        logits = {name: self.networks[name].head(features[name]) for name, _ in PAIR}
        human, transferred = by_origin(batch)
        blind = slice(batch.n_labelled, None)
        parts = []
        for name, other in PAIR:
            pseudo = logits[other][blind].detach().argmax(dim=1)
            parts += [
                half_and_half(logits[name], human),
                teaching_weight(progress) * pseudo_dice(logits[name][blind], pseudo),
                transfer_weight(progress) * half_and_half(logits[name], transferred),
            ]
        anchors = join(
            [
                self._anchors(
                    batch, name, features[name], classes_of(human, logits[other], progress)
                )
                for name, other in PAIR
            ]
        )
        self._fresh = anchors.detached()
        contrast = class_contrast(anchors) + self.place_contrast(anchors, reach_mm(batch))
        parts.append(CONTRAST_WEIGHT * contrast)
        return {"all": torch.stack(parts).sum()}

    def after_step(self, progress: float) -> None:  # noqa: ARG002
        """The bank keeps this step's anchors."""
        if self._fresh is not None:
            self.bank.add(self._fresh)
            self._fresh = None

    def place_contrast(self, anchors: Entries, reach: float) -> Tensor:
        """L_r over the anchors whose place was seen in other cases, within `reach` mm."""
        positive, found = self.bank.counterparts(anchors.place, anchors.case, reach)
        negatives = self.bank.some(NEGATIVES)
        met = anchors.those(found)
        repels = met.label[:, None] != negatives.label
        return info_nce(met.feature, positive[found], negatives.feature, repels, TEMPERATURE)

    def _anchors(self, batch: Batch, name: str, features: Tensor, classes: Tensor) -> Entries:
        """Projected features of some voxels of each class of `classes` (B, *)."""
        at = draw_evenly(classes, self.settings.network.n_classes)
        sample, voxel = at // classes[0].numel(), at % classes[0].numel()
        projected = self.modules[f"{name}_projector"](features.flatten(2)[sample, :, voxel])
        place = torch.full((len(at), 3), torch.nan, device=at.device)
        if batch.place is not None:
            place = batch.place.flatten(2)[sample, :, voxel].float()
        numbers = torch.tensor([case_number(case) for case in batch.case], device=at.device)
        return Entries(
            feature=nn.functional.normalize(projected.float(), dim=1),
            place=place,
            label=classes.flatten()[at],
            case=numbers[sample],
        )


def reach_mm(batch: Batch) -> float:
    """How far a counterpart may lie: three voxels, but between 2 and 8 mm."""
    voxel_mm = float(np.prod(batch.spacing_mm_zyx)) ** (1 / 3)
    return float(np.clip(REACH_VOXELS * voxel_mm, *REACH_MM))


def transfer_weight(progress: float) -> float:
    """w_rs: from 1 to 0.1 along a line."""
    return RSL_FIRST + (RSL_LAST - RSL_FIRST) * progress


def by_origin(batch: Batch) -> tuple[Batch, Batch]:
    """The batch with what humans said only, and with what registration transferred only."""
    transferred = batch.origin == Origin.PROPAGATED
    return (
        replace(batch, valid=batch.valid * ~transferred),
        replace(batch, valid=batch.valid * transferred),
    )


def classes_of(human: Batch, partner: Tensor, progress: float) -> Tensor:
    """The class (B, *) of each voxel: a human's, else the partner's where it is sure; else -1.

    The partner is asked once 7.5 % of the training are over (3,000 of 40,000 steps).
    """
    probability, label = partner.detach().float().softmax(dim=1).max(dim=1)
    sure = (probability > SURE) & (progress >= PSEUDO_FROM)
    drawn = (human.valid > 0) & human.known.all(dim=1)
    return torch.where(drawn, human.label, torch.where(sure, label, -1))


def draw_evenly(classes: Tensor, n_classes: int) -> Tensor:
    """Flat indices of at most 64 voxels of each class, drawn with the CPU's global generator."""
    flat, drawn = classes.flatten(), []
    for number in range(n_classes):
        where = (flat == number).nonzero()[:, 0]
        if len(where):
            chosen = set(torch.randint(len(where), (ANCHORS_PER_CLASS,)).tolist())
            drawn.append(where[sorted(chosen)])
    return torch.cat(drawn) if drawn else flat.new_zeros(0)


def class_contrast(anchors: Entries) -> Tensor:
    """L_l over the anchors of both networks."""
    return balanced_contrast(anchors.feature, anchors.label, TEMPERATURE)


def _projector(n_in: int) -> nn.Sequential:
    """From a network's features into the space that both share."""
    return nn.Sequential(
        nn.Linear(n_in, PROJECTED), nn.ReLU(inplace=True), nn.Linear(PROJECTED, PROJECTED)
    )
