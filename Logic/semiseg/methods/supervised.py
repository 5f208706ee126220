"""Learning from labelled voxels alone: the baseline that every other method is held against."""

from __future__ import annotations

from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.losses import supervised_loss
from semiseg.methods.single import SingleNetwork


class Supervised(SingleNetwork):
    """One network, marginal cross-entropy and Dice over what is known."""

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """The supervised loss of the batch."""
        logits = self.network(batch.image)
        return {"network": supervised_loss(logits, batch.label, batch.valid, batch.known)}
