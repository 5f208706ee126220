"""Dual-task consistency (Luo et al., AAAI 2021), for several structures and for sparse slices."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.losses import masked_mean, masked_squared_dice, ramp
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import CONV, build_network

STEEPNESS = -1500.0
LEVEL_WEIGHT = 0.3
RAMP_STAIRS = 40
STEPS, STEPS_PER_RATE = 6000, 2500


class DualTaskConsistency(Method):
    """L = L_seg + 0.3 L_LSF + lambda L_DTC on one network with two heads.

    f1: softmax over background and structures (the paper: a sigmoid, one structure). f2: tanh,
    a level set per structure, negative inside. L_seg: squared Dice of what is known. L_LSF: mean
    squared error to the target level set, where it is known. L_DTC: mean over *all* voxels of
    (T^-1(f2) - f1)^2, through which the gradient reaches both heads. lambda =
    exp(-5 (1 - t)^2), with t rising to 1 in forty stairs over the training, as published.
    Optimizer "sgd" is the published one: momentum 0.9, its rate a tenth from 2,500 of 6,000 steps
    on, and a hundredth from 5,000 on.
    """

    options: Mapping[str, tuple[str, ...]] = {"optimizer": ("adamw", "sgd")}

    uses_unlabelled = True
    uses_level_sets = True
    spares = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        spec = settings.network
        self.network = build_network(spec)
        convolution = CONV[spec.dims]
        self.level_head = convolution(spec.channels[0], spec.n_classes - 1, 1)
        self.modules = nn.ModuleDict({"network": self.network, "level_head": self.level_head})

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW by default; weight decay 1e-4."""
        parameters, rate = self.modules.parameters(), self.settings.learning_rate
        if self.option("optimizer") == "sgd":
            return {
                "network": torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=1e-4)
            }
        return {"network": torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)}

    def learning_rate_factor(self, progress: float) -> float:
        """As other methods' with AdamW; published stairs with SGD."""
        if self.option("optimizer") == "adamw":
            return super().learning_rate_factor(progress)
        return float(0.1 ** (round(STEPS * progress) // STEPS_PER_RATE))

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """All three terms on one forward pass."""
        features = self.network.features(batch.image)
        logits, level = self.network.head(features), self.level_head(features).float().tanh()
        loss = masked_squared_dice(logits, batch.label, batch.valid, batch.known)
        loss = loss + LEVEL_WEIGHT * level_set_loss(level, batch.level)
        loss = loss + consistency_weight(progress) * dual_task_difference(logits, level)
        return {"network": loss}

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the segmentation head."""
        logits: Tensor = self.network(image)
        return logits


def consistency_weight(progress: float) -> float:
    """lambda: ramp(step // 150, 40) in 6,000 steps, as a function of the share of them."""
    return ramp(math.floor(RAMP_STAIRS * progress), RAMP_STAIRS)


def inverse_transform(level: Tensor) -> Tensor:
    """T^-1(z) = sigmoid(-1500 z), a smooth step from inside (1) to outside (0); float32."""
    return torch.sigmoid(STEEPNESS * level.float())


def dual_task_difference(logits: Tensor, level: Tensor) -> Tensor:
    """Mean of (T^-1(f2) - f1)^2 over structures and voxels; `level` (B, C - 1, *)."""
    probability = logits.float().softmax(dim=1)[:, 1:]
    return (inverse_transform(level) - probability).square().mean()


def level_set_loss(level: Tensor, distance: Tensor | None) -> Tensor:
    """Mean squared error to the normalised `distance` (B, C - 1, *), where that is not NaN."""
    if distance is None:
        return 0.0 * level.sum()
    target, known = normalised_levels(distance)
    return masked_mean((level - target).square(), known)


def normalised_levels(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Each side of each patch and structure divided by its largest value; 0 where unknown.

    Also whether it is known. A patch without inside is +1 at its farthest, one without outside -1.
    """
    known = ~distance.isnan()
    signed = torch.where(known, distance.float(), 0.0)
    over = tuple(range(2, distance.dim()))
    outer = signed.clamp(min=0)
    inner = signed.clamp(max=0)
    outer = outer / outer.amax(over, keepdim=True).clamp(min=1e-6)
    inner = inner / (-inner).amax(over, keepdim=True).clamp(min=1e-6)
    return outer + inner, known
