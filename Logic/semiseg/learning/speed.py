"""How fast this machine trains, measured before anything is planned."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from semiseg.clock import Clock
from semiseg.data.batch import Batch
from semiseg.learning.learner import Learner
from semiseg.learning.plan import Plan
from semiseg.methods.base import MethodSettings

_SIDE_IN_MULTIPLES = 6
_TIMED_STEPS = 2


def voxels_per_s(method: str, plan: Plan, now: Clock = time.perf_counter) -> float:
    """Voxels of patches per second that `method` learns from with networks as in `plan`.

    Made-up batches; one step to warm up, the faster of two that are timed.
    """
    device = torch.device(plan.device)
    settings = MethodSettings(network=plan.network, streams=plan.streams)
    learner = Learner(method, settings, device, seed=0)
    small = replace(plan, patch_zyx=_sides(plan))
    batch = made_up(small, device)
    seconds = math.inf
    for timed in range(_TIMED_STEPS + 1):
        start = now()
        float(learner.learn(batch, 0.0))  # reading the loss waits for the device
        if timed:
            seconds = min(seconds, now() - start)
    return small.voxels_per_step / seconds


def _sides(plan: Plan) -> tuple[int, int, int]:
    """Enough voxels to measure by; slices no larger than those that are planned."""
    network = plan.network
    if network.dims == 2:
        return plan.patch_zyx
    stem = network.stem or (1, 1, 1)
    z, y, x = (_SIDE_IN_MULTIPLES * m // s for m, s in zip(network.multiple_zyx, stem, strict=True))
    return z, y, x


def made_up(plan: Plan, device: torch.device) -> Batch:
    """A batch as `plan` wants it: all that a method may ask for, and nothing to learn."""
    n = plan.n_labelled + plan.n_unlabelled
    patch = plan.patch_zyx[-plan.network.dims :]
    shape = (n, *patch)
    label = (torch.arange(math.prod(shape)) % plan.network.n_classes).view(shape)
    image, streams = label[:, None].float(), len(plan.streams)
    return Batch(
        image=image,
        label=label,
        valid=torch.ones(shape),
        known=torch.ones(n, plan.network.n_classes, *patch, dtype=torch.bool),
        origin=torch.ones(shape, dtype=torch.uint8),
        modality=torch.arange(n) % 2,
        case=("made up",) * n,
        n_labelled=plan.n_labelled,
        place=torch.zeros(n, 3, *patch),
        companions=image.expand(n, streams, *patch) if streams else None,
        present=torch.ones(n, streams) if streams else None,
        spacing_mm_zyx=plan.spacing_mm_zyx,
    ).to(device)
