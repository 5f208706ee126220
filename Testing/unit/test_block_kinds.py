"""The U-Net with residual and with dense blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semiseg.block_kinds import BLOCKS, DenseBlock, ResidualBlock, segmentation_network
from semiseg.networks import NetworkSpec

SPEC = NetworkSpec(
    n_classes=3, channels=(4, 8, 8), strides=((2, 2, 2), (2, 2, 2)), convolutions=(1, 2, 3)
)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (SPEC, (8, 8, 16)),
        (replace(SPEC, strides=((2, 2), (2, 2))), (8, 16)),
        (replace(SPEC, strides=((1, 2, 2), (1, 2, 2)), within_slices=True), (4, 8, 8)),
        (replace(SPEC, stem=(2, 2, 2)), (16, 16, 16)),
        (replace(SPEC, kind="transformer"), (8, 8, 16)),
    ],
)
def test_every_network_gives_logits_and_learns_everywhere(
    blocks: str, spec: NetworkSpec, shape: tuple[int, ...]
) -> None:
    network = segmentation_network(spec, blocks)
    logits = network(torch.randn(2, 1, *shape))
    assert logits.shape == (2, 3, *shape)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_three_kinds_are_three_networks() -> None:
    networks = [segmentation_network(SPEC, blocks) for blocks in BLOCKS]
    sizes = {sum(p.numel() for p in network.parameters()) for network in networks}
    assert len(sizes) == 3
    assert sum(isinstance(m, ResidualBlock) for m in networks[1].modules()) == 5
    assert sum(isinstance(m, DenseBlock) for m in networks[2].modules()) == 5


def test_residual_blocks_pass_on_what_their_convolutions_do_not_see() -> None:
    block = ResidualBlock(4, 4, 1, (1, 1), flat=False)
    image = torch.randn(1, 4, 6, 6)
    assert torch.allclose(block(image), image + block.body(image))
    strided = ResidualBlock(2, 4, 1, (2, 1), flat=False)
    assert strided(torch.randn(1, 2, 6, 6)).shape == (1, 4, 3, 6)


def test_each_convolution_of_a_dense_block_reads_all_before_it() -> None:
    block = DenseBlock(2, 8, 3, (2, 2), flat=False)
    assert [layer[0].in_channels for layer in block.layers] == [2, 2, 5]
    assert sum(layer[0].out_channels for layer in block.layers) == 8
    image = torch.randn(1, 2, 6, 6)
    first = block.layers[0](image)
    second = block.layers[1](first)
    assert torch.allclose(block(image)[:, :2], first)
    assert torch.allclose(block(image)[:, 2:5], second)
