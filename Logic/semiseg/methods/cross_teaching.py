"""Cross teaching between a CNN and a transformer (Luo et al., MIDL 2022)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.losses import marginal_cross_entropy, masked_squared_dice, ramp
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import build_network

WEIGHT = 0.1
RAMP_STAIRS = 200
TRANSFORMER_RATE = 0.5


class CrossTeaching(Method):
    """A U-Net and a transformer give each other hard labels; their inductive biases differ.

    L = sum_m [L_sup^m + lambda Dice(P^m, argmax P^other)]; L_sup = (CE + Dice) / 2 of what is
    known; Dice squared, with background, over the unlabelled samples; lambda = 0.1
    exp(-5 (1 - t)^2) with t in two hundred stairs over the training. The U-Net predicts.
    """

    uses_unlabelled = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        partner = replace(settings.network, kind="transformer")
        self.modules = nn.ModuleDict(
            {"cnn": build_network(settings.network), "transformer": build_network(partner)}
        )

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW each; the transformer at half the rate."""
        rate = self.settings.learning_rate
        rates = {"cnn": rate, "transformer": rate * TRANSFORMER_RATE}
        return {
            name: torch.optim.AdamW(self.modules[name].parameters(), lr=rate, weight_decay=1e-4)
            for name, rate in rates.items()
        }

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Supervision and mutual pseudo-labels, for each network its own."""
        logits = {name: network(batch.image) for name, network in self.modules.items()}
        blind = slice(batch.n_labelled, None)
        weight = teaching_weight(progress)
        losses = {}
        for name, other in (("cnn", "transformer"), ("transformer", "cnn")):
            own = half_and_half(logits[name], batch)
            pseudo = logits[other][blind].detach().argmax(dim=1)
            losses[name] = own + weight * pseudo_dice(logits[name][blind], pseudo)
        return losses

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the CNN."""
        logits: Tensor = self.modules["cnn"](image)
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
