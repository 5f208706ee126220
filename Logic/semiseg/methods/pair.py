"""What methods with a CNN and a transformer that teach each other share."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from semiseg.data.batch import Batch
from semiseg.losses import marginal_cross_entropy, masked_squared_dice, ramp
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import build_network

WEIGHT = 0.1
RAMP_STAIRS = 200
TRANSFORMER_RATE = 0.5
WEIGHT_DECAY = 1e-4
PAIR = (("cnn", "transformer"), ("transformer", "cnn"))
"""Each network with its partner."""


class TeachingPair(Method):
    """A U-Net ("cnn") and a transformer in its shape; the U-Net predicts."""

    uses_unlabelled = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        partner = replace(settings.network, kind="transformer")
        self.networks = {
            "cnn": build_network(settings.network),
            "transformer": build_network(partner),
        }
        self.modules = nn.ModuleDict(self.networks)

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the CNN."""
        logits: Tensor = self.networks["cnn"](image)
        return logits


def teaching_weight(progress: float) -> float:
    """lambda: 0.1 ramp(step // 150, 200) in 30,000 steps, as a function of the share of them."""
    return WEIGHT * ramp(math.floor(RAMP_STAIRS * progress), RAMP_STAIRS)


def half_and_half(logits: Tensor, batch: Batch) -> Tensor:
    """(CE + squared Dice) / 2 over what is known."""
    known = (batch.label, batch.valid, batch.known)
    return (marginal_cross_entropy(logits, *known) + masked_squared_dice(logits, *known)) / 2


def pseudo_dice(logits: Tensor, pseudo: Tensor) -> Tensor:
    """Squared Dice loss to `pseudo` (B, *) over all classes and voxels; 0 for an empty batch."""
    everywhere = torch.ones_like(pseudo, dtype=torch.float32)
    known = torch.ones_like(logits, dtype=torch.bool)
    return masked_squared_dice(logits, pseudo, everywhere, known)
