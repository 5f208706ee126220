"""A teacher: the running mean of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """Follows `student` as the exponential mean of its weights (Tarvainen and Valpola 2017).

    theta' = a theta' + (1 - a) theta with a = min(1 - 1 / (t + 1), `decay`), t counted from 1: the
    mean of all steps at first, and of the last ones once it is warm.
    """

    def __init__(self, student: nn.Module, *, decay: float = 0.99) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(requires_grad=False)
        self.decay = decay
        self.n_updates: Tensor
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """One update; to be called after each step of `student`."""
        self.n_updates += 1
        decay = min(1 - 1 / (int(self.n_updates) + 1), self.decay)
        own = self.network.state_dict()
        for name, tensor in student.state_dict().items():
            if tensor.is_floating_point():
                own[name].lerp_(tensor, 1 - decay)
            else:
                own[name].copy_(tensor)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Logits of `image`, without gradient."""
        logits: Tensor = self.network(image)
        return logits
