"""The U-Net with other blocks in its places: residual ones, or dense ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semiseg.networks import CONV, NetworkSpec, UNet, build_network, conv_block

BLOCKS = ("unet", "residual", "dense")


def segmentation_network(spec: NetworkSpec, blocks: str) -> UNet:
    """The untrained network of `spec` with `blocks`, one of `BLOCKS`; "unet" is the plain one."""
    network = build_network(spec)
    if blocks == "unet":
        return network
    make = {"residual": ResidualBlock, "dense": DenseBlock}[blocks]
    one = (1,) * spec.dims
    inputs, steps = (1, *spec.channels), (spec.stem or one, *spec.strides)
    counts = spec.convolutions if spec.kind == "unet" else (1,) * len(spec.channels)
    for i, n in enumerate(spec.channels):
        flat = spec.within_slices and i > 0
        network.down[i] = make(inputs[i], n, counts[i], steps[i], flat=flat)
    for i, n in enumerate(spec.channels[:-1]):
        network.merge[i] = make(n, n, counts[i], one, flat=spec.within_slices)
    return network


class ResidualBlock(nn.Module):
    """Convolutions plus a linear way past them (He et al., CVPR 2016)."""

    def __init__(
        self, n_in: int, n_out: int, n_convolutions: int, stride: Sequence[int], *, flat: bool
    ) -> None:
        super().__init__()
        self.body = conv_block(n_in, n_out, n_convolutions, stride, flat=flat)
        self.past: nn.Module = nn.Identity()
        if n_in != n_out or max(stride) > 1:
            step = tuple(stride)
            self.past = CONV[len(step)](n_in, n_out, step, stride=step, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """(B, n_out, *) of `values` (B, n_in, *)."""
        found: Tensor = self.body(values) + self.past(values)
        return found


class DenseBlock(nn.Module):
    """Each convolution reads what all before it made, and makes its share of the channels.

    After Huang et al., CVPR 2017. With one convolution it is the plain block.
    """

    def __init__(
        self, n_in: int, n_out: int, n_convolutions: int, stride: Sequence[int], *, flat: bool
    ) -> None:
        super().__init__()
        shares = [(n_out + i) // n_convolutions for i in range(n_convolutions)]
        one = (1,) * len(stride)
        layers = [conv_block(n_in, shares[0], 1, stride, flat=flat)]
        layers += [
            conv_block(sum(shares[:i]), shares[i], 1, one, flat=flat)
            for i in range(1, n_convolutions)
        ]
        self.layers = nn.ModuleList(layers)

    def forward(self, values: Tensor) -> Tensor:
        """(B, n_out, *) of `values` (B, n_in, *)."""
        first, *others = self.layers
        found: Tensor = first(values)
        for layer in others:
            found = torch.cat([found, layer(found)], dim=1)
        return found
