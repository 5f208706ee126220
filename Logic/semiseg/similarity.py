"""How alike two images are, voxel by voxel and with gradients; 2-D and 3-D."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NCC_WINDOW = 9
_NCC_EPSILON = 1e-5
_APART = 2
_PATCH = 3
_ALL = (slice(None), slice(None))


def local_ncc2(one: Tensor, other: Tensor, window: int = NCC_WINDOW) -> Tensor:
    """Squared correlation in a box around each voxel, in [0, 1]; both (B, 1, *).

    cross^2 / (var var + 1e-5) with sums over the box, zeros beyond the border (Chen et al. 2022,
    as released). 0 where an image is constant.
    """
    one, other = _as_float(one), _as_float(other)
    count = window ** (one.dim() - 2)
    stacked = torch.cat([one, other, one * one, other * other, one * other], dim=1)
    a, b, aa, bb, ab = (box_mean(stacked, window) * count).split(1, dim=1)
    cross = ab - a * b / count
    spread = (aa - a * a / count).clamp(min=0) * (bb - b * b / count).clamp(min=0)
    likeness: Tensor = cross.square() / (spread + _NCC_EPSILON)
    return likeness


def self_similarity(image: Tensor) -> Tensor:
    """How like its neighbours each voxel is: (B, 2 dims, *) in (0, 1] of `image` (B, 1, *).

    exp(-(D - smallest D) / mean D), D the mean squared difference of 3-voxel patches two voxels
    apart along an axis: contrast-independent, so CT and MR can be compared (the self-similarity
    idea of MIND, Heinrich et al. 2012, on the direct neighbours).
    """
    image = _as_float(image)
    dims = image.dim() - 2
    padded = functional.pad(image, (_APART,) * (2 * dims), mode="replicate")
    inner = [slice(_APART, _APART + n) for n in image.shape[2:]]
    apart = []
    for axis in range(dims):
        for start in (0, 2 * _APART):
            moved = list(inner)
            moved[axis] = slice(start, start + image.shape[2 + axis])
            apart.append((padded[(*_ALL, *moved)] - image).square())
    distance = box_mean(torch.cat(apart, dim=1), _PATCH)
    distance = distance - distance.amin(dim=1, keepdim=True)
    scale = distance.mean(dim=1, keepdim=True)
    floor = float(scale.detach().mean()) * 1e-2 + 1e-6
    return (-distance / scale.clamp(min=floor)).exp()


def box_mean(values: Tensor, window: int) -> Tensor:
    """Mean of `values` (B, C, *) over a box around each voxel, zeros beyond the border."""
    dims = values.dim() - 2
    pool = functional.avg_pool2d if dims == 2 else functional.avg_pool3d
    margins = (window // 2,) * 2
    for axis in range(dims):
        sides = [window if i == axis else 1 for i in range(dims)]
        padded = functional.pad(values, (0, 0) * (dims - 1 - axis) + margins)
        values = pool(padded, sides, stride=1)
    return values


def halved(image: Tensor) -> Tensor:
    """`image` (B, C, *) averaged over blocks of two voxels along each axis."""
    pool = functional.avg_pool2d if image.dim() == 4 else functional.avg_pool3d
    return pool(_as_float(image), 2)


def _as_float(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float64 else image.float()
