"""Random changes of grey values that leave anatomy alone; images lie in [-1, 1].

The remaps turn one modality's contrasts into others, so that a network cannot rely on any fixed
order of grey values and features serve CT and MR alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_KNOTS = 8


@dataclass(frozen=True, kw_only=True)
class GreyRange:
    """Chances and strengths of each change; 0 switches it off."""

    remap_chance: float = 0.5
    inversion_chance: float = 0.1
    bias_chance: float = 0.3
    bias: float = 0.35
    contrast_chance: float = 0.5
    contrast: float = 0.35
    shift: float = 0.2
    gamma_chance: float = 0.3
    log_gamma: float = 0.4
    blur_chance: float = 0.15
    blur_voxels: float = 0.9
    noise_chance: float = 0.3
    noise: float = 0.12


def change_greys(
    image: Tensor, rng: np.random.Generator, generator: torch.Generator, limits: GreyRange
) -> Tensor:
    """`image` (d, h, w) with random changes; `generator` lives on the image's device."""
    if rng.random() < limits.remap_chance:
        knots = draw_knots(rng, inverted=rng.random() < limits.inversion_chance)
        image = remap(image, torch.as_tensor(knots, device=image.device))
    if rng.random() < limits.bias_chance:
        image = _bias(image, rng, limits.bias)
    if rng.random() < limits.gamma_chance:
        image = _gamma(image, float(np.exp(rng.uniform(-1, 1) * limits.log_gamma)))
    if rng.random() < limits.contrast_chance:
        factor = np.exp(rng.uniform(-1, 1) * limits.contrast)
        image = image * float(factor) + float(rng.uniform(-1, 1) * limits.shift)
    if rng.random() < limits.blur_chance:
        image = _blur(image, float(rng.uniform(0.3, 1.0) * limits.blur_voxels))
    if rng.random() < limits.noise_chance:
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        image = image + noise * float(rng.uniform(0, 1) * limits.noise)
    return image


def draw_knots(rng: np.random.Generator, *, inverted: bool) -> NDArray[np.float32]:
    """Values of a random monotone curve at even knots of [-1, 1], from -1 to 1 or back."""
    steps = rng.dirichlet(np.full(_KNOTS, 1.5))
    curve = np.concatenate([[0.0], np.cumsum(steps)]) * 2 - 1
    return np.asarray(-curve if inverted else curve, dtype=np.float32)


def remap(image: Tensor, knots: Tensor) -> Tensor:
    """`image` through the piecewise linear curve with `knots` (K,) evenly over [-1, 1]."""
    n = knots.numel() - 1
    place = (image.clamp(-1, 1) + 1) * (n / 2)
    left = place.floor().clamp_max(n - 1)
    index = left.long()
    slope = knots[1:] - knots[:-1]
    return knots[index] + (place - left) * slope[index]


def _bias(image: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """A smooth factor over (image + 1), as coils and scatter make it."""
    knots = torch.as_tensor(rng.uniform(-strength, strength, (1, 1, 3, 3, 3)), dtype=image.dtype)
    field = functional.interpolate(
        knots.to(image.device), image.shape, mode="trilinear", align_corners=True
    )
    return (image + 1) * field[0, 0].exp() - 1


def _gamma(image: Tensor, gamma: float) -> Tensor:
    """Power law on [0, 1]; values above 1 are kept above."""
    return ((image + 1) / 2).clamp_min(0) ** gamma * 2 - 1


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` voxels along each axis, edges repeated."""
    taps = torch.arange(-2, 3, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    out = image[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 5
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 2
        out = functional.conv3d(functional.pad(out, pad, mode="replicate"), kernel.view(shape))
    return out[0, 0]
