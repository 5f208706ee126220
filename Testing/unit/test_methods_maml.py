"""MAML: fusion by attention, joint and single-stream losses, missing volumes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss, supervised_loss
from semiseg.methods.base import MethodSettings, build_method
from semiseg.methods.maml import ModalityAwareMutualLearning, attended
from semiseg.networks import NetworkSpec

SPEC = NetworkSpec(
    n_classes=3,
    channels=(4, 8, 8),
    strides=((2, 2, 2), (2, 2, 2)),
    convolutions=(1, 1, 1),
)
FLAT = replace(SPEC, strides=((2, 2), (2, 2)))


def made(spec: NetworkSpec = SPEC, streams: tuple[str, ...] = ("MR", "T2")):
    torch.manual_seed(0)
    method = build_method("maml", MethodSettings(network=spec, streams=streams))
    assert isinstance(method, ModalityAwareMutualLearning)
    return method


def paired_batch(present: list[list[float]], shape: tuple[int, ...] = (8, 8, 8)) -> Batch:
    generator = torch.Generator().manual_seed(3)
    n, streams = len(present), len(present[0])
    volumes = torch.randn(n, streams, *shape, generator=generator)
    mask = torch.tensor(present)
    volumes *= (mask > 0).view(n, streams, *(1,) * len(shape))
    label = torch.randint(0, 3, (n, *shape), generator=generator)
    return Batch(
        image=volumes[:, :1],
        companions=volumes,
        present=mask,
        label=label,
        valid=torch.ones(n, *shape),
        known=torch.ones(n, 3, *shape, dtype=torch.bool),
        origin=torch.ones(n, *shape, dtype=torch.uint8),
        modality=torch.ones(n, dtype=torch.int64),
        case=("c",) * n,
        n_labelled=n,
        spacing_mm_zyx=(1.0, 1.0, 1.0),
    )


def known(batch: Batch, rows: list[int], weight: float = 1.0):
    return batch.label[rows], batch.valid[rows] * weight, batch.known[rows]


@pytest.mark.parametrize("spatial", [(1, 1), (1, 1, 1)])
def test_attention_has_the_value_worked_out_by_hand(spatial: tuple[int, ...]) -> None:
    features = torch.tensor([2.0, 4.0]).view(1, 2, 1, *(1,) * len(spatial))
    gates = torch.tensor([0.0, math.log(3)]).view_as(features)
    both = attended(features, gates, torch.tensor([[True, True]]))
    assert both.item() == pytest.approx(0.5 * 2 + 0.75 * 4)
    assert attended(features, gates, torch.tensor([[True, False]])).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("levels", "first"), [(5, 0.53333), (6, 0.51613), (4, 0.57143)])
def test_the_joint_loss_weighs_as_the_finest_heads_do(levels: int, first: float) -> None:
    """Published: 2^-s normalised over the resolutions but the lowest."""
    spec = NetworkSpec(
        n_classes=2,
        channels=(4,) * levels,
        strides=((2, 2),) * (levels - 1),
        convolutions=(1,) * levels,
        deep_supervision=True,
    )
    assert made(spec).joint_weight == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize("spec", [SPEC, FLAT, replace(SPEC, deep_supervision=True)])
def test_the_loss_is_the_sum_of_its_terms(spec: NetworkSpec) -> None:
    method, shape = made(spec), (8,) * spec.dims
    batch = paired_batch([[1, 1], [1, 0], [0, 1]], shape)
    first, second = method.networks
    one = deep_supervised_loss(
        first.outputs(batch.companions[[0, 1], 0, None]), *known(batch, [0, 1])
    )
    two = deep_supervised_loss(
        second.outputs(batch.companions[[0, 2], 1, None]), *known(batch, [0, 2])
    )
    fused = method.joint_predictor((True, True))(batch.companions[:1])
    joint = supervised_loss(fused, *known(batch, [0]))
    weight = 1 / 1.5 if spec.deep_supervision else 1.0
    expected = one + two + weight * joint
    assert method.losses(batch, 0.5)["all"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_fused_logits_are_those_of_the_equations() -> None:
    method = made()
    method.modules.eval()
    volumes = torch.randn(2, 2, 8, 8, 8)
    features = [net.features(volumes[:, k, None]) for k, net in enumerate(method.networks)]
    fusion = method.fusion
    dual = fusion.dual(torch.cat(features, dim=1))
    gates = [fusion.gates[k](torch.cat([f, dual], dim=1)) for k, f in enumerate(features)]
    fused = sum(gate.sigmoid() * f for gate, f in zip(gates, features, strict=True))
    found = method.joint_predictor((True, True))(volumes)
    assert torch.allclose(found, fusion.head(fused), atol=1e-5)


@pytest.mark.parametrize("spec", [SPEC, FLAT])
@pytest.mark.parametrize("stream", [0, 1])
def test_with_a_stream_missing_the_other_ones_head_decides(spec: NetworkSpec, stream: int) -> None:
    method = made(spec)
    volumes = torch.randn(2, 2, *(8,) * spec.dims)
    present = (stream == 0, stream == 1)
    own = method.networks[stream](volumes[:, stream, None])
    assert torch.equal(method.joint_predictor(present)(volumes), own)
    other = volumes.clone()
    other[:, 1 - stream] = torch.nan  # not even looked at
    assert torch.equal(method.joint_predictor(present)(other), own)


def test_of_three_streams_the_missing_one_does_not_count() -> None:
    method = made(streams=("MR", "T1", "T2"))
    volumes = torch.randn(1, 3, 8, 8, 8)
    other = volumes.clone()
    other[:, 1] = 7.0
    predict = method.joint_predictor((True, False, True))
    assert torch.equal(predict(volumes), predict(other))
    every = method.joint_predictor((True, True, True))
    assert not torch.allclose(every(volumes), every(other))


def test_each_modality_has_its_own_head_and_unknown_ones_the_first() -> None:
    method = made(streams=("CT", "MR"))
    image = torch.randn(1, 1, 8, 8, 8)
    ct, mr = method.predictor("CT")(image), method.predictor("MR")(image)
    assert not torch.allclose(ct, mr)
    assert torch.equal(method.predict(image), ct)
    paired = made(streams=("MR", "T2"))
    assert torch.equal(paired.predictor("CT")(image), paired.predictor("MR")(image))


def test_the_joint_loss_alone_reaches_all_streams_and_the_fusion() -> None:
    method = made()
    fused = method.joint_predictor((True, True))(torch.randn(1, 2, 8, 8, 8))
    fused.square().mean().backward()
    heads = ("head", "coarse_heads")
    inner = [
        p
        for name, p in method.modules.named_parameters()
        if name.startswith("fusion.") or name.split(".")[1] not in heads
    ]
    assert inner
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in inner)


def test_samples_of_one_volume_leave_fusion_and_the_other_stream_alone() -> None:
    method = made()
    method.losses(paired_batch([[1, 0], [1, 0]]), 0.5)["all"].backward()
    touched = {
        name.split(".")[0] for name, p in method.modules.named_parameters() if p.grad is not None
    }
    assert touched == {"stream0"}


def test_a_stand_in_counts_less_alone_and_fully_in_the_fusion() -> None:
    method = made()
    whole, less = paired_batch([[1, 1]]), paired_batch([[1, 0.25]])
    volumes = whole.companions
    second = method.networks[1].outputs(volumes[:, 1, None])
    full = deep_supervised_loss(second, *known(whole, [0]))
    part = deep_supervised_loss(second, *known(whole, [0], 0.25))
    found = method.losses(whole, 0.5)["all"] - method.losses(less, 0.5)["all"]
    assert found.item() == pytest.approx((full - part).item(), rel=1e-4)


def test_without_companions_each_image_goes_to_its_modality() -> None:
    method = made(streams=("CT", "MR"))
    batch = paired_batch([[1, 0], [0, 1]])
    own = batch.companions.sum(dim=1, keepdim=True)
    bare = replace(batch, image=own, modality=torch.tensor([0, 1]), companions=None, present=None)
    assert method.losses(bare, 0.5)["all"].item() == pytest.approx(
        method.losses(batch, 0.5)["all"].item()
    )


def test_streams_are_half_as_wide_as_planned_but_never_tiny() -> None:
    wide = replace(SPEC, channels=(16, 32, 6))
    assert made(wide).networks[0].spec.channels == (8, 16, 4)


def test_strided_stems_and_nets_within_slices_are_fused_too() -> None:
    stem = replace(SPEC, stem=(2, 2, 2))
    within = replace(SPEC, strides=((1, 2, 2), (1, 2, 2)), within_slices=True)
    for spec in (stem, within):
        logits = made(spec).joint_predictor((True, True))(torch.randn(1, 2, 8, 16, 16))
        assert logits.shape == (1, 3, 8, 16, 16)
