"""What methods with one trained network share: alone, or with a teacher that follows it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import build_network
from semiseg.teacher import Teacher

_NOISE, _NOISE_AT_MOST = 0.1, 0.2


class SingleNetwork(Method):
    """One network and its optimizer; the losses are the method's."""

    deeply_supervised = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        self.network = build_network(settings.network)
        self.modules = nn.ModuleDict({"network": self.network})

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW with weight decay 1e-4; fused, which takes a seventh of its time on a CPU."""
        rate, parameters = self.settings.learning_rate, self.network.parameters()
        return {"network": torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4, fused=True)}

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the network."""
        logits: Tensor = self.network(image)
        return logits


class TaughtNetwork(SingleNetwork):
    """One network and the running mean of its weights, decay 0.99, as its teacher."""

    uses_unlabelled = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        self.teacher = Teacher(self.network)
        self.modules["teacher"] = self.teacher

    def taught(self, image: Tensor) -> Tensor:
        """The teacher's probabilities (B, C, *) of `image`, without gradient."""
        logits: Tensor = self.teacher(image)
        return logits.float().softmax(dim=1)

    def after_step(self, progress: float) -> None:  # noqa: ARG002
        """The teacher follows."""
        self.teacher.follow(self.network)


def noisy(image: Tensor) -> Tensor:
    """`image` with Gaussian noise of 0.1, clipped at 0.2 (Yu et al., MICCAI 2019)."""
    noise = torch.randn_like(image) * _NOISE
    return image + noise.clamp(-_NOISE_AT_MOST, _NOISE_AT_MOST)
