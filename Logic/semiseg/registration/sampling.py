"""Feature maps that can be read at any point in the patient, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_CORNERS = [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """Channels-last features on an axis-aligned LPS lattice with one spacing.

    `table` is (D * H * W, C); `mask` (D, H, W) says where the body is.
    """

    table: Tensor
    mask: Tensor
    origin_mm_zyx: Tensor
    spacing_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Nodes along z, y, x."""
        depth, height, width = self.mask.shape
        return depth, height, width

    @property
    def volume(self) -> Tensor:
        """The features as (C, D, H, W), a view."""
        return self.table.T.reshape(-1, *self.shape)

    def points(self) -> Tensor:
        """Positions (D * H * W, 3) of the nodes in mm, z, y, x."""
        return lattice_points(self.shape, self.origin_mm_zyx, self.spacing_mm).reshape(-1, 3)

    def sample(self, points_mm_zyx: Tensor) -> tuple[Tensor, Tensor]:
        """Trilinear features (N, C) at `points_mm_zyx` (N, 3), and whether each lies inside.

        Outside, the border's value; gradients reach the points.
        """
        place = (points_mm_zyx - self.origin_mm_zyx) / self.spacing_mm
        last = torch.tensor(self.shape, dtype=place.dtype, device=place.device) - 1
        inside = ((place >= -0.5) & (place <= last + 0.5)).all(dim=1)
        index, weights = around(place, last, self.shape)
        return weighted(self.table, index, weights), inside


def weighted(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sums (N, C) of the rows of `table` numbered `index` (N, 8), times `weights` (N, 8).

    Gradients reach the weights alone.
    """
    if not (torch.is_grad_enabled() and weights.requires_grad):
        return functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")
    found: Tensor = _Weighted.apply(table, index, weights)  # type: ignore[no-untyped-call]
    return found


class _Weighted(torch.autograd.Function):
    """As embedding_bag, which takes twice as long for its gradient."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        near = functional.embedding(index, table)
        ctx.save_for_backward(near)
        return torch.bmm(weights[:, None], near)[:, 0]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, None, Tensor]:
        (near,) = ctx.saved_tensors
        return None, None, torch.bmm(near, slope[:, :, None])[:, :, 0]


def around(place: Tensor, last: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Row numbers (..., 8) and weights (..., 8) of the nodes around each `place` (..., 3).

    `last` is the last node that may be read along each axis, of a grid of `shape`; places beyond
    take the border's. Gradients reach the places through the weights.
    """
    place = torch.minimum(place.clamp(min=0), last)
    low = place.detach().long()
    rest = place - low
    stride = torch.tensor((shape[1] * shape[2], shape[2], 1), device=place.device)
    near = (low * stride).sum(-1)
    steps = (torch.minimum(low + 1, last.long()) - low) * stride
    z, y, x = (torch.stack((1 - rest[..., a], rest[..., a]), -1) for a in range(3))
    zyx = z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]
    bits = torch.tensor(_CORNERS, device=place.device)
    index = near[..., None] + (steps[..., None, :] * bits).sum(-1)
    return index, zyx.flatten(-3)


def lattice_points(shape: Sequence[int], origin_mm_zyx: Tensor, spacing_mm: float) -> Tensor:
    """Positions (D, H, W, 3) in mm, z, y, x."""
    axes = [torch.arange(n, dtype=torch.float32, device=origin_mm_zyx.device) for n in shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return index * spacing_mm + origin_mm_zyx


def feature_map(
    volume: Tensor, mask: Tensor, origin_mm_zyx: Tensor, spacing_mm: float
) -> FeatureMap:
    """A map of `volume` (C, D, H, W) and `mask` (D, H, W)."""
    return FeatureMap(
        table=rows(volume),
        mask=mask,
        origin_mm_zyx=origin_mm_zyx,
        spacing_mm=spacing_mm,
    )


def rows(volume: Tensor) -> Tensor:
    """(C, D, H, W) as (D * H * W, C), contiguous."""
    return volume.flatten(1).T.contiguous()


def pooled(source: FeatureMap, factor: int) -> FeatureMap:
    """`source` averaged over blocks of `factor` nodes; the last block may be smaller."""
    if factor == 1:
        return source
    average = block_mean(source.volume, factor)
    covered = block_mean(source.mask[None].float(), factor)[0]
    return feature_map(
        average,
        covered > 0.5,
        source.origin_mm_zyx + (factor - 1) / 2 * source.spacing_mm,
        source.spacing_mm * factor,
    )


def thinned(source: FeatureMap, factor: int) -> FeatureMap:
    """Every `factor`-th node of `source` along each axis."""
    steps = (slice(None, None, factor),) * 3
    return feature_map(
        source.volume[(slice(None), *steps)],
        source.mask[steps],
        source.origin_mm_zyx,
        source.spacing_mm * factor,
    )


def block_mean(volume: Tensor, factor: int) -> Tensor:
    """(C, D, H, W) averaged over cubes of `factor`; an incomplete last cube repeats its edge."""
    missing = [(-n) % factor for n in reversed(volume.shape[1:])]
    pads = [pad for end in missing for pad in (0, end)]
    padded = functional.pad(volume[None], pads, mode="replicate")
    return functional.avg_pool3d(padded, factor)[0]
