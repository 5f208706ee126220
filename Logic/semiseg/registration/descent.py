"""Going down a loss by Adam, by points drawn anew for each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_LAST_STEP_SHARE = 0.1
_SMOOTHING = 0.9, 0.999  # of gradients and of their squares
_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """`smoothness` weighs squared slopes of the field against squared feature distance.

    `points` body voxels, drawn anew for every step, stand for the whole body; a velocity moves
    them in `flow_steps`, a fixed number, so that nothing waits for a number from the device.
    """

    iterations: int = 60
    smoothness: float = 0.4
    knot_mm: float = 12.0
    step_mm: float = 5.0
    points: int = 15_000
    seed: int = 0
    flow_steps: int = 2


def draws(settings: DenseSettings, bodies: int, device: torch.device) -> Tensor:
    """Chances in [0, 1), (iterations, bodies, points), the same on every device."""
    draw = torch.Generator().manual_seed(settings.seed)
    size = settings.iterations, bodies, settings.points
    return torch.rand(size, generator=draw).to(device)


def descend(
    begin: Tensor, loss: Callable[[Tensor, int], Tensor], settings: DenseSettings
) -> Tensor:
    """`begin` after Adam's steps down `loss` of it and the step; steps shrink towards the end.

    Written out, as torch's own optimizer loads its compiler first, which takes longer than a
    registration. Source: Kingma and Ba, ICLR 2015, algorithm 1.
    """
    value = begin.detach().clone()
    mean, square = torch.zeros_like(value), torch.zeros_like(value)
    decay = _LAST_STEP_SHARE ** (1 / max(settings.iterations, 1))
    for step in range(settings.iterations):
        value.requires_grad_()
        (slope,) = torch.autograd.grad(loss(value, step), value)
        value = value.detach()
        mean.lerp_(slope, 1 - _SMOOTHING[0])
        square.mul_(_SMOOTHING[1]).addcmul_(slope, slope, value=1 - _SMOOTHING[1])
        length = settings.step_mm * decay**step / (1 - _SMOOTHING[0] ** (step + 1))
        spread = (square / (1 - _SMOOTHING[1] ** (step + 1))).sqrt_().add_(_EPSILON)
        value.addcdiv_(mean, spread, value=-length)
    return value
