"""A flow network with an encoder of its own per modality and one decoder over cost volumes.

Coarse to fine as in PWC-Net, in the layout of MASS (Chen et al. 2022): atlas and target each go
through their modality's encoder, so that one decoder sees CT-CT, CT-MR, MR-CT and MR-MR alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from semiseg.displacement import enlarged, warp
from semiseg.networks import CONV, NORM, UP

_SLOPE = 0.1
_FIRST_FLOW = 1e-2
_ALL = (slice(None), slice(None))


@dataclass(frozen=True, kw_only=True)
class FlowSpec:
    """Per level, finest first: features, stride from the level before, reach of the cost volume.

    The first stride leads from the image to the finest level. `hidden` channels decode a level.
    """

    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    radii: tuple[int, ...]
    hidden: int
    modalities: int = 2

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.strides[0])


class FlowNetwork(nn.Module):
    """Finds, for each voxel of a target, the place in an atlas that it corresponds to."""

    def __init__(self, spec: FlowSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoders = nn.ModuleList(_encoder(spec) for _ in range(spec.modalities))
        levels = range(len(spec.channels))
        self.decode = nn.ModuleList(_block(self._inputs(i), spec.hidden, spec.dims) for i in levels)
        self.flow = nn.ModuleList(_flow_head(spec) for _ in levels)
        self.lift = nn.ModuleList(
            UP[spec.dims](spec.hidden, spec.hidden, stride, stride) for stride in spec.strides[1:]
        )

    def features(self, image: Tensor, modality: Tensor) -> list[Tensor]:
        """(B, channels[i], *) per level, finest first, of `image` (B, 1, *); modality (B,)."""
        rows = []
        for number, own in enumerate(modality.tolist()):
            found = [image[number : number + 1]]
            for block in self._encoder(int(own)):
                found.append(block(found[-1]))
            rows.append(found[1:])
        return [torch.cat(level) for level in zip(*rows, strict=True)]

    def forward(
        self, atlas: Sequence[Tensor], target: Sequence[Tensor], shape: tuple[int, ...]
    ) -> Tensor:
        """Displacement (B, dims, *shape) in voxels: `warp(atlas image, u)` looks like the target.

        `atlas`, `target`: what `features` gave. Each level adds to the one before, so that a
        decoder that says 0 keeps the coarse flow (the released network predicts it anew).
        """
        flow: Tensor | None = None
        hidden: Tensor | None = None
        for i in reversed(range(len(self.spec.channels))):
            here, there = target[i], atlas[i]
            inputs = [here]
            if flow is not None and hidden is not None:
                flow = enlarged(flow, tuple(here.shape[2:]))
                there = warp(there, flow).to(here.dtype)
                lifted = self.lift[i](hidden)
                inputs += [flow.to(here.dtype), _fitted(lifted, here)]
            cost = functional.leaky_relu(cost_volume(here, there, self.spec.radii[i]), _SLOPE)
            hidden = self.decode[i](torch.cat([cost, *inputs], dim=1))
            step = self.flow[i](hidden).float()
            flow = step if flow is None else flow + step
        if flow is None:
            raise ValueError("a flow network has at least one level")
        return enlarged(flow, shape)

    def _encoder(self, modality: int) -> nn.ModuleList:
        found = self.encoders[modality]
        if not isinstance(found, nn.ModuleList):
            raise TypeError(f"expected an encoder, got {type(found).__name__}")
        return found

    def _inputs(self, level: int) -> int:
        spec = self.spec
        cost = int((2 * spec.radii[level] + 1) ** spec.dims)
        coarsest = level == len(spec.channels) - 1
        return cost + spec.channels[level] + (0 if coarsest else spec.dims + spec.hidden)


def cost_volume(target: Tensor, atlas: Tensor, radius: int) -> Tensor:
    """(B, (2 radius + 1)^dims, *): mean over channels of target(x) atlas(x + d), zero padded.

    Shifts d run through -radius..radius along each axis, the last axis fastest.
    """
    shape, dims = target.shape[2:], target.dim() - 2
    padded = functional.pad(atlas, (radius,) * (2 * dims))
    costs = []
    for shift in itertools.product(range(2 * radius + 1), repeat=dims):
        part = [slice(s, s + n) for s, n in zip(shift, shape, strict=True)]
        costs.append((target * padded[(*_ALL, *part)]).mean(dim=1))
    return torch.stack(costs, dim=1)


def _fitted(values: Tensor, like: Tensor) -> Tensor:
    """`values` cut to the sides of `like`, which were odd before they were halved."""
    return values[(*_ALL, *(slice(n) for n in like.shape[2:]))]


def _encoder(spec: FlowSpec) -> nn.ModuleList:
    inputs = (1, *spec.channels)
    blocks = []
    for i, (n, stride) in enumerate(zip(spec.channels, spec.strides, strict=True)):
        layers = [_block(inputs[i], n, spec.dims, stride)]
        layers += [_block(n, n, spec.dims) for _ in range(2 if i else 0)]
        blocks.append(nn.Sequential(*layers))
    return nn.ModuleList(blocks)


def _block(n_in: int, n_out: int, dims: int, stride: tuple[int, ...] | int = 1) -> nn.Sequential:
    return nn.Sequential(
        CONV[dims](n_in, n_out, 3, stride=stride, padding=1, bias=False),
        NORM[dims](n_out, affine=True),
        nn.LeakyReLU(_SLOPE),
    )


def _flow_head(spec: FlowSpec) -> nn.Module:
    """Begins near 0, so that the first flows are small.

    Of one voxel, not three as released: so few channels have no fast kernel of three on CPUs.
    """
    head = CONV[spec.dims](spec.hidden, spec.dims, 1)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=_FIRST_FLOW)
    return head
