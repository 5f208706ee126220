"""Displacements in voxels, as networks give them: warping, composing, smoothness; 2-D and 3-D."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def warp(values: Tensor, displacement: Tensor) -> Tensor:
    """`values` (B, C, *) read linearly at x + u(x); 0 outside.

    `displacement` (B, dims, *) in voxels, channel k along array axis k.
    """
    shape = displacement.shape[2:]
    axes = [torch.arange(n, device=displacement.device, dtype=torch.float32) for n in shape]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement.float()
    last = torch.tensor(shape, device=at.device).view(1, -1, *(1,) * len(shape)) - 1
    relative = (2 * at / last.clamp(min=1) - 1).flip(1).movedim(1, -1)
    return functional.grid_sample(
        values.float(), relative, mode="bilinear", padding_mode="zeros", align_corners=True
    )


def composed(first: Tensor, second: Tensor) -> Tensor:
    """u with x + u(x) = y + `first`(y), y = x + `second`(x): to warp once instead of twice."""
    return second + warp(first, second)


def enlarged(displacement: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`displacement` on a grid of `shape` with the same outer edges, in its voxels."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    finer = functional.interpolate(displacement.float(), shape, mode=mode, align_corners=False)
    steps = [n / m for n, m in zip(shape, displacement.shape[2:], strict=True)]
    return finer * finer.new_tensor(steps).view(1, -1, *(1,) * len(shape))


def roughness(displacement: Tensor) -> Tensor:
    """Mean squared forward difference along each axis, averaged over the axes."""
    dims = displacement.dim() - 2
    parts = [
        displacement.diff(dim=axis).square().mean()
        for axis in range(2, dims + 2)
        if displacement.shape[axis] > 1
    ]
    return torch.stack(parts).sum() / dims if parts else displacement.sum() * 0
