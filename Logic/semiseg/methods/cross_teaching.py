"""Cross teaching between a CNN and a transformer (Luo et al., MIDL 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.methods.pair import (
    PAIR,
    TRANSFORMER_RATE,
    WEIGHT_DECAY,
    TeachingPair,
    half_and_half,
    pseudo_dice,
    teaching_weight,
)


class CrossTeaching(TeachingPair):
    """A U-Net and a transformer give each other hard labels; their inductive biases differ.

    L = sum_m [L_sup^m + lambda Dice(P^m, argmax P^other)]; L_sup = (CE + Dice) / 2 of what is
    known; Dice squared, with background, over the unlabelled samples; lambda = 0.1
    exp(-5 (1 - t)^2) with t in two hundred stairs over the training.
    """

    spares = True

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW each; the transformer at half the rate."""
        rate = self.settings.learning_rate
        rates = {"cnn": rate, "transformer": rate * TRANSFORMER_RATE}
        return {
            name: torch.optim.AdamW(network.parameters(), lr=rates[name], weight_decay=WEIGHT_DECAY)
            for name, network in self.networks.items()
        }

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Supervision and mutual pseudo-labels, for each network its own."""
        logits = {name: network(batch.image) for name, network in self.networks.items()}
        blind = slice(batch.n_labelled, None)
        weight = teaching_weight(progress)
        losses = {}
        for name, other in PAIR:
            own = half_and_half(logits[name], batch)
            pseudo = logits[other][blind].detach().argmax(dim=1)
            losses[name] = own + weight * pseudo_dice(logits[name][blind], pseudo)
        return losses
