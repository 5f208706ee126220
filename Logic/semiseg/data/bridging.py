"""Random looks of the same anatomy, so that one network serves CT and MR.

Two steps, each by chance: a curve of grey values that may rise and fall, as between modalities,
and a shallow random network, which changes textures and edges too (global intensity augmentation,
Ouyang et al., IEEE TMI 2022; random convolutions, Xu et al., ICLR 2021). Both leave every voxel
where it is. All random numbers come from the CPU's generator that is given, or torch's global one,
which is seeded anew at each step of a training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.data.greys import remap

_CONV = {2: functional.conv2d, 3: functional.conv3d}
_SLOPE = 0.01


@dataclass(frozen=True, kw_only=True)
class Bridging:
    """Chances of each step; knots of a curve, layers and hidden channels of a random network."""

    curve_chance: float = 0.5
    network_chance: float = 0.5
    knots: int = 6
    layers: int = 3
    channels: int = 2


def bridged(
    image: Tensor, limits: Bridging | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """`image` (B, 1, *) with each sample's greys in a random new look; mean and spread are kept.

    Works on slices and volumes, on any device; a constant image stays as it is.
    """
    limits = limits or Bridging()
    looks = []
    for sample in image.detach():
        by_curve, by_network = torch.rand(2, generator=generator).tolist()
        look = sample
        if by_curve < limits.curve_chance:
            look = _curved(look, limits.knots, generator)
        if by_network < limits.network_chance:
            look = _mixed(look, limits, generator)
        looks.append(look)
    return torch.stack(looks)


def _curved(sample: Tensor, n_knots: int, generator: torch.Generator | None) -> Tensor:
    """Through a piecewise linear curve over [-1, 1]; what is darkest stays so every other time."""
    knots = torch.rand(n_knots, generator=generator) * 2 - 1
    if torch.rand((), generator=generator) < 0.5:
        knots[0] = -1.0
    return _like(remap(sample, knots.to(sample.device, sample.dtype)), sample)


def _mixed(sample: Tensor, limits: Bridging, generator: torch.Generator | None) -> Tensor:
    """`sample` (1, *) blended with what a random network of few channels makes of it."""
    share = float(torch.rand((), generator=generator))
    dims = sample.dim() - 1
    out, n_in = sample[None], 1
    for layer in range(limits.layers):
        n_out = 1 if layer == limits.layers - 1 else limits.channels
        side = 3 if torch.rand((), generator=generator) < 0.5 else 1
        kernel = torch.randn(n_out, n_in, *(side,) * dims, generator=generator)
        bias = torch.randn(n_out, generator=generator)
        kernel, bias = (t.to(sample.device, sample.dtype) for t in (kernel, bias))
        out = _CONV[dims](out, kernel / side ** (dims / 2), bias, padding=side // 2)
        if n_out > 1:
            out = functional.leaky_relu(out, _SLOPE)
        n_in = n_out
    return _like((1 - share) * sample + share * _like(out[0], sample), sample)


def _like(changed: Tensor, sample: Tensor) -> Tensor:
    """`changed` with the mean and the spread of `sample`."""
    spread = changed.std()
    if not spread > 1e-6:
        return sample
    return (changed - changed.mean()) * (sample.std() / spread) + sample.mean()
