"""Mean teacher: agree with the mean of one's own weights (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss, ramp
from semiseg.methods.single import TaughtNetwork, noisy

WEIGHT = 0.1


class MeanTeacher(TaughtNetwork):
    """L = L_sup + 0.1 ramp(progress) mean (p_student - p_teacher)^2 over all voxels.

    The teacher sees the image with noise.
    """

    spares = True

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Supervision where labels are known, agreement everywhere."""
        outputs = self.network.outputs(batch.image)
        logits = outputs[0]
        supervised = deep_supervised_loss(outputs, batch.label, batch.valid, batch.known)
        if batch.all_labelled:
            return {"network": supervised}
        teacher = self.taught(noisy(batch.image))
        agreement = (logits.float().softmax(dim=1) - teacher).square().mean()
        return {"network": supervised + WEIGHT * ramp(progress, 1.0) * agreement}
