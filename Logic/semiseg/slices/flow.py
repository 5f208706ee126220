"""Motion between neighbouring slices: Lucas-Kanade in a pyramid, all pairs of a stack at once.

Formula: Lucas and Kanade 1981, with symmetric gradients and Gaussian windows; coarse to fine after
Bouguet 2000. Neighbouring slices are so alike that few closed-form steps do what hundreds of
gradient steps do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

_STEPS = (4, 3, 2)  # per pyramid level, coarsest first
_WINDOW_PIXELS = 2.0
_SMOOTHING_PIXELS = 1.5
_LONGEST_STEP_PIXELS = 2.0
_DAMPING = 1e-3  # keeps flat regions still; greys are in [0, 1]
_SMALLEST_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class NeighbourFlow:
    """Displacements in pixels (x, y) between slices i and i + 1 of a stack of N.

    `down` (N - 1, 2, H, W): where a pixel of slice i + 1 lies in slice i. `up`: of i in i + 1.
    """

    down: Tensor
    up: Tensor


def neighbour_flow(grey: Tensor) -> NeighbourFlow:
    """Flow between all neighbours of `grey` (N, 1, H, W) in [0, 1]."""
    here, below = grey[1:], grey[:-1]
    both = _flow(torch.cat([here, below]), torch.cat([below, here]))
    return NeighbourFlow(down=both[: len(here)], up=both[len(here) :])


def sample(values: Tensor, displacement: Tensor) -> Tensor:
    """`values` (N, C, H, W) read at every pixel plus `displacement` (N, 2, H, W)."""
    place = _pixels(values) + displacement
    height, width = values.shape[-2:]
    x = place[:, 0] * (2 / max(width - 1, 1)) - 1
    y = place[:, 1] * (2 / max(height - 1, 1)) - 1
    return functional.grid_sample(
        values, torch.stack([x, y], dim=-1), padding_mode="border", align_corners=True
    )


def chained(step: Tensor, rest: Tensor | None) -> Tensor:
    """First `step`, then `rest`, as one displacement (N, 2, H, W)."""
    return step if rest is None else step + sample(rest, step)


def halved(values: Tensor, factor: int = 2) -> Tensor:
    """Means of `factor` x `factor` pixels; a border rest makes pixels of its own."""
    return values if factor == 1 else functional.avg_pool2d(values, factor, ceil_mode=True)


def enlarged(values: Tensor, like: Tensor, factor: int = 2) -> Tensor:
    """Undoes the change of grid by `halved`: linear, cut to the size of `like`."""
    if factor == 1:
        return values
    height, width = like.shape[-2:]
    wide = functional.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
    return wide[..., :height, :width]


def _flow(fixed: Tensor, moving: Tensor) -> Tensor:
    """u with fixed(p) = moving(p + u(p)) for each of a batch (N, 1, H, W)."""
    pyramid = [(fixed, moving)]
    while len(pyramid) < len(_STEPS) and min(pyramid[-1][0].shape[-2:]) >= 2 * _SMALLEST_SIDE:
        finer = pyramid[-1]
        pyramid.append((halved(_blurred(finer[0], 0.7)), halved(_blurred(finer[1], 0.7))))
    flow = torch.zeros_like(pyramid[-1][0]).repeat(1, 2, 1, 1)
    for (one, other), steps in zip(reversed(pyramid), _STEPS, strict=False):
        if flow.shape[-2:] != one.shape[-2:]:
            flow = 2 * enlarged(flow, one)
        slopes = _slopes(one)
        for _ in range(steps):
            flow = _step(one, other, slopes, flow)
    return flow


def _step(fixed: Tensor, moving: Tensor, fixed_slopes: Tensor, flow: Tensor) -> Tensor:
    """One closed-form least-squares update in Gaussian windows, smoothed."""
    moved = sample(moving, flow)
    rest = fixed - moved
    slopes = (fixed_slopes + _slopes(moved)) / 2
    x, y = slopes[:, :1], slopes[:, 1:]
    sums = _blurred(torch.cat([x * x, x * y, y * y, rest * x, rest * y], dim=1), _WINDOW_PIXELS)
    a, b, c, p, q = sums.unbind(1)
    a, c = a + _DAMPING, c + _DAMPING
    update = torch.stack([c * p - b * q, a * q - b * p], dim=1) / (a * c - b * b)[:, None]
    length = update.square().sum(dim=1, keepdim=True).sqrt()
    update = update * (_LONGEST_STEP_PIXELS / length.clamp_min(_LONGEST_STEP_PIXELS))
    return _blurred(flow + update, _SMOOTHING_PIXELS)


def _slopes(values: Tensor) -> Tensor:
    """Central differences along x and y, (N, 2, H, W)."""
    wide = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    x = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]
    y = wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    return torch.cat([x, y], dim=1) / 2


def _blurred(values: Tensor, sigma_pixels: float) -> Tensor:
    """Gaussian means, borders repeated; as products of matrices, which is fastest on a CPU."""
    height, width = values.shape[-2:]
    rows = _gaussian_rows(height, sigma_pixels).to(values)
    columns = _gaussian_rows(width, sigma_pixels).to(values)
    return rows @ (values @ columns.T)


@lru_cache(maxsize=64)
def _gaussian_rows(size: int, sigma_pixels: float) -> Tensor:
    """(size, size): row i holds the weights of all pixels of a line in the mean at i."""
    radius = math.ceil(2.5 * sigma_pixels)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_pixels**2))
    target = torch.arange(size)[:, None].expand(-1, len(offsets))
    source = (target + offsets).clamp(0, size - 1)
    rows = torch.zeros(size, size)
    rows.index_put_((target, source), (kernel / kernel.sum()).expand(size, -1), accumulate=True)
    return rows


def _pixels(like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([x, y])
