"""Uncertainty-aware mean teacher (Yu et al., MICCAI 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss, entropy, ramp
from semiseg.methods.single import TaughtNetwork, noisy

WEIGHT = 0.1
PASSES = 8
SPARING_PASSES = 2


class UncertaintyAwareMeanTeacher(TaughtNetwork):
    """Mean teacher whose agreement counts only where the teacher is sure.

    The teacher looks eight times (sparing: twice), with other noise each. u = entropy of the mean
    of these looks; a voxel counts where u < H, with H rising from 0.75 to 1 of the largest
    entropy, ln C.
    L = L_sup + 0.1 ramp(progress) (sum over sure voxels of (p_student - p_teacher)^2) / (number).
    """

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Supervision where labels are known, agreement where the teacher is sure."""
        outputs = self.network.outputs(batch.image)
        logits = outputs[0]
        supervised = deep_supervised_loss(outputs, batch.label, batch.valid, batch.known)
        if batch.all_labelled:
            return {"network": supervised}
        passes = SPARING_PASSES if self.settings.sparing else PASSES
        looks = torch.stack([self.taught(noisy(batch.image)) for _ in range(passes)])
        limit = (0.75 + 0.25 * ramp(progress, 1.0)) * math.log(logits.shape[1])
        sure = (entropy(looks.mean(dim=0)) < limit).float()
        difference = (logits.float().softmax(dim=1) - looks[0]).square().mean(dim=1)
        agreement = (difference * sure).sum() / sure.sum().clamp(min=1)
        return {"network": supervised + WEIGHT * ramp(progress, 1.0) * agreement}
