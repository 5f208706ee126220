"""Cross pseudo supervision (Chen et al., CVPR 2021): two networks teach each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss, ramp
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import build_network

WEIGHT = 0.1


class CrossPseudoSupervision(Method):
    """Two networks of one kind from different first weights.

    L = sum_m [L_sup^m + 0.1 ramp(progress) CE(P^m, argmax P^other)] over all voxels; the labels
    that they give each other carry no gradient. Both predict, averaged.
    """

    uses_unlabelled = True
    deeply_supervised = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        self.networks = {name: build_network(settings.network) for name in ("one", "other")}
        self.modules = nn.ModuleDict(self.networks)

    def optimizers(self) -> dict[str, Optimizer]:
        """One AdamW for both."""
        rate = self.settings.learning_rate
        return {"both": torch.optim.AdamW(self.modules.parameters(), lr=rate, weight_decay=1e-4)}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Supervision and mutual pseudo-labels of both networks."""
        outputs = {name: network.outputs(batch.image) for name, network in self.networks.items()}
        logits = {name: levels[0] for name, levels in outputs.items()}
        weight = WEIGHT * ramp(progress, 1.0)
        parts = []
        for name, other in (("one", "other"), ("other", "one")):
            pseudo = logits[other].detach().argmax(dim=1)
            mutual = nn.functional.cross_entropy(logits[name].float(), pseudo)
            own = deep_supervised_loss(outputs[name], batch.label, batch.valid, batch.known)
            parts.append(own + weight * mutual)
        return {"both": torch.stack(parts).sum()}

    def predict(self, image: Tensor) -> Tensor:
        """Log of the mean probability of both."""
        both = [network(image).float().softmax(dim=1) for network in self.modules.values()]
        return torch.stack(both).mean(dim=0).clamp(min=1e-7).log()
