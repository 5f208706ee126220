"""Learning from labelled voxels alone: the baseline that every other method is held against."""

from __future__ import annotations

from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss
from semiseg.methods.single import SingleNetwork


class Supervised(SingleNetwork):
    """One network, marginal cross-entropy and Dice over what is known."""

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """The supervised loss of the batch."""
        outputs = self.network.outputs(batch.image)
        return {"network": deep_supervised_loss(outputs, batch.label, batch.valid, batch.known)}
