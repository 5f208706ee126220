"""Learning from labelled voxels alone: the baseline that every other method is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.losses import supervised_loss
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import build_network


class Supervised(Method):
    """One network, marginal cross-entropy and Dice over what is known."""

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        self.network = build_network(settings.network)
        self.modules = nn.ModuleDict({"network": self.network})

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW with weight decay 1e-4..."""
        rate = self.settings.learning_rate
        return {"network": torch.optim.AdamW(self.modules.parameters(), lr=rate, weight_decay=1e-4)}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """The supervised loss of the batch."""
        logits = self.network(batch.image)
        return {"network": supervised_loss(logits, batch.label, batch.valid, batch.known)}

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the network."""
        logits: Tensor = self.network(image)
        return logits
