"""Entropy minimisation: be sure also where nothing is labelled.

Vu et al., ADVENT, CVPR 2019, eq. 1, in the form in which semi-supervised benchmarks use it.
"""

from __future__ import annotations

from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss, normalised_entropy, ramp
from semiseg.methods.single import SingleNetwork

WEIGHT = 0.1


class EntropyMinimisation(SingleNetwork):
    """L = L_sup + 0.1 ramp(progress) H, with H the mean entropy over all voxels, in [0, 1]."""

    uses_unlabelled = True

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Both parts on one forward pass of labelled and unlabelled samples."""
        outputs = self.network.outputs(batch.image)
        logits = outputs[0]
        entropy = normalised_entropy(logits.float().softmax(dim=1)).mean()
        supervised = deep_supervised_loss(outputs, batch.label, batch.valid, batch.known)
        return {"network": supervised + WEIGHT * ramp(progress, 1.0) * entropy}
