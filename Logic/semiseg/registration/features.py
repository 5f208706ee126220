"""MIND-SSC: local self-similarity features that look the same in CT and MR."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHANNELS = 12
_Offset = tuple[int, int, int]
_AXES: tuple[_Offset, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def mind_ssc(volume: Tensor, *, radius: int = 1, dilation: int = 2) -> Tensor:
    """Twelve self-similarity channels (12, D, H, W) in (0, 1] of `volume` (D, H, W), float32.

    Each channel compares two of the six neighbours at distance `dilation` that lie sqrt(2) apart:
    exp(-(SSD - smallest SSD) / local mean SSD), patches of side 2 `radius` + 1. Invariant to any
    locally affine change of intensity; all ones where the image is constant. Source: Heinrich et
    al., MICCAI 2013 (self-similarity context), equations 1 to 4.
    """
    distances = _pair_distances(volume.float(), radius, dilation)
    distances -= distances.amin(dim=0, keepdim=True)
    scale = distances.mean(dim=0, keepdim=True)
    typical = scale.mean()
    if not bool(typical > 0):
        return torch.ones_like(distances)
    scale = scale.clamp(min=float(typical) * 1e-3, max=float(typical) * 1e3)
    return distances.div_(scale).neg_().exp_()


def _pair_distances(volume: Tensor, radius: int, dilation: int) -> Tensor:
    """Patch SSDs of the 12 neighbour pairs; each diagonal is filtered once and read twice."""
    reach = 2 * dilation
    padded = _replicate(volume, reach + radius)
    channels: list[Tensor] = []
    for first, second, sign in _diagonals():
        towards = _scaled(_difference(second, first, sign), dilation)
        ssd = _box(_squared_shift_difference(padded, towards), radius)
        for start in (first, _scaled(second, -sign)):
            channels.append(_crop(ssd, _scaled(start, dilation), reach, volume.shape))
    return torch.stack(channels)


def _diagonals() -> list[tuple[_Offset, _Offset, int]]:
    pairs = [(0, 1), (0, 2), (1, 2)]
    return [(_AXES[a], _AXES[b], sign) for a, b in pairs for sign in (1, -1)]


def _difference(second: _Offset, first: _Offset, sign: int) -> _Offset:
    """The step from neighbour `first` to neighbour `sign * second`."""
    return (
        sign * second[0] - first[0],
        sign * second[1] - first[1],
        sign * second[2] - first[2],
    )


def _scaled(offset: _Offset, factor: int) -> _Offset:
    return offset[0] * factor, offset[1] * factor, offset[2] * factor


def _replicate(volume: Tensor, width: int) -> Tensor:
    return functional.pad(volume[None, None], (width,) * 6, mode="replicate")[0, 0]


def _squared_shift_difference(padded: Tensor, step: _Offset) -> Tensor:
    """(I(x) - I(x + step))^2; what wraps around lies in the padding and is cropped away."""
    shifted = padded.roll(tuple(-s for s in step), dims=(0, 1, 2))
    return shifted.sub_(padded).square_()


def _box(volume: Tensor, radius: int) -> Tensor:
    """Mean over a cube of side 2 `radius` + 1."""
    side = 2 * radius + 1
    return functional.avg_pool3d(volume[None, None], side, stride=1)[0, 0]


def _crop(ssd: Tensor, offset: _Offset, reach: int, shape: torch.Size) -> Tensor:
    for axis, size in enumerate(shape):
        ssd = ssd.narrow(axis, reach + offset[axis], size)
    return ssd
