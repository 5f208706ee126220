"""MASS: its terms against their equations, what its gradients reach, and its atlases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.displacement import composed, enlarged, roughness, warp
from semiseg.errors import NotEnoughLabelsError
from semiseg.flow_network import FlowNetwork, FlowSpec, cost_volume
from semiseg.methods.atlas_set import fuse
from semiseg.methods.base import MethodSettings, build_method
from semiseg.methods.frame import Frame
from semiseg.methods.mass import WEIGHTS, Mass
from semiseg.methods.mass_terms import (
    Task,
    Warped,
    channel_contrast,
    disagreement,
    tasks_of,
    unlike,
)
from semiseg.networks import NetworkSpec
from semiseg.similarity import local_ncc2, self_similarity

SPEC = NetworkSpec(n_classes=3, channels=(4, 4), strides=((2, 2, 2),), convolutions=(1, 1))
TASK = Task(target=2, same=0, other=1)


def made(variant: str = "own") -> Mass:
    torch.manual_seed(0)
    method = build_method(f"mass+variant={variant}", MethodSettings(network=SPEC))
    assert isinstance(method, Mass)
    return method


@pytest.fixture
def batch() -> Batch:
    """A CT and an MR atlas of smooth noise, then a CT target."""
    rng = np.random.default_rng(0)
    shape = (3, 8, 12, 12)
    coarse = torch.from_numpy(rng.normal(0, 0.4, (3, 1, 4, 6, 6))).float()
    image = torch.nn.functional.interpolate(coarse, shape[1:], mode="trilinear")
    label = (image[:, 0] > 0.1).long() + (image[:, 0] > 0.3).long()
    labelled = (torch.arange(3) < 2).view(3, 1, 1, 1)
    return Batch(
        image=image.clamp(-1, 1),
        label=label * labelled,
        valid=labelled.expand(shape).float(),
        known=labelled.unsqueeze(1).expand(3, 3, *shape[1:]),
        origin=labelled.expand(shape).to(torch.uint8),
        modality=torch.tensor([0, 1, 0]),
        case=("a", "b", "c"),
        n_labelled=2,
        spacing_mm_zyx=(4.0, 4.0, 4.0),
    )


def number(value: Tensor) -> float:
    return value.detach().item()


def ramp_flow(slope: float) -> Tensor:
    """u = slope * x along the last of three axes of 4 voxels, in every component of one."""
    flow = torch.zeros(1, 3, 4, 4, 4)
    flow[:, 2] = slope * torch.arange(4.0)
    return flow


def test_contrast_tells_both_ways_to_normalise_apart() -> None:
    one = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    other = torch.tensor([[[4.0, 3.0], [0.0, 1.0]]])
    found = [number(channel_contrast(one, other, axis=axis, temperature=1.0)) for axis in (0, 1)]
    assert found == pytest.approx([0.5254016797, 0.8937222195], abs=1e-6)


def test_contrast_of_equal_and_of_swapped_vectors() -> None:
    unit = torch.eye(2)[None]
    equal = channel_contrast(unit, unit, axis=1, temperature=1.0)
    swapped = channel_contrast(unit, unit.flip(1), axis=1, temperature=1.0)
    assert number(equal) == pytest.approx(0.31326169, abs=1e-6)
    assert number(swapped) == pytest.approx(1.31326169, abs=1e-6)
    sharper = channel_contrast(unit, unit, axis=1, temperature=0.1)
    assert number(sharper) == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)


def test_smoothness_of_a_linear_flow() -> None:
    assert number(roughness(ramp_flow(2.0))) == pytest.approx(4 / 9)


def test_smoothness_of_a_flow_of_one_voxel_is_zero() -> None:
    assert number(roughness(torch.ones(1, 3, 1, 1, 1))) == 0


def test_ncc_of_a_linear_change_is_one_inside_and_less_at_the_border() -> None:
    image = torch.from_numpy(np.random.default_rng(0).random((1, 1, 12, 12, 12)))
    found = local_ncc2(image, 3 * image + 0.2)
    assert number(found[..., 4:8, 4:8, 4:8].min()) == pytest.approx(1, abs=1e-6)
    assert 0.99 < number(found.mean()) < 0.9999


def test_ncc_of_a_constant_image_is_zero_with_a_gradient() -> None:
    image = torch.full((1, 1, 24, 24), 0.5, requires_grad=True)
    found = local_ncc2(image, torch.rand(1, 1, 24, 24))
    found.sum().backward()
    assert number(found[..., 8:16, 8:16].max()) < 1e-3
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_self_similarity_does_not_see_contrast() -> None:
    image = torch.rand(1, 1, 8, 8, 8)
    again = self_similarity(1 - 2 * image)
    assert torch.allclose(self_similarity(image), again, atol=1e-3)
    assert not torch.allclose(self_similarity(image), self_similarity(torch.rand(1, 1, 8, 8, 8)))


def test_a_step_along_the_first_axis_moves_values_and_brings_zero_in() -> None:
    values = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 2, 2)
    step = torch.zeros(1, 3, 5, 2, 2)
    step[:, 0] = 1
    assert warp(values, step)[0, 0, :, 0, 0].tolist() == [1, 2, 3, 4, 0]


def test_a_composed_flow_warps_as_two_in_turn_do() -> None:
    values = torch.arange(64.0).view(1, 1, 8, 8)
    one, two = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    one[:, 0], two[:, 1] = 1, 2
    twice = warp(warp(values, one), two)
    inner = (..., slice(0, 6), slice(0, 5))
    assert torch.allclose(warp(values, composed(one, two))[inner], twice[inner])


def test_an_enlarged_flow_counts_in_smaller_voxels() -> None:
    assert torch.equal(
        enlarged(torch.ones(1, 2, 3, 4), (6, 4)).amax(dim=(0, 2, 3)), torch.tensor([2.0, 1.0])
    )


def test_the_cost_volume_is_greatest_at_the_true_shift() -> None:
    features = torch.nn.functional.normalize(torch.randn(1, 8, 9, 9), dim=1)
    shifted = features.roll(1, dims=3)
    costs = cost_volume(features, shifted, 1)[0, :, 2:7, 2:7].mean(dim=(1, 2))
    assert costs.shape == (9,)
    assert int(costs.argmax()) == 5  # row 0, column +1
    where = (features[0, :, 4, 4] * shifted[0, :, 4, 5]).mean()
    assert number(cost_volume(features, shifted, 1)[0, 5, 4, 4]) == pytest.approx(number(where))


@torch.no_grad()
def test_a_fine_level_that_says_nothing_keeps_the_coarse_flow() -> None:
    spec = FlowSpec(channels=(4, 4), strides=((2, 2), (2, 2)), radii=(1, 1), hidden=4)
    network = FlowNetwork(spec)
    for parameter in network.flow.parameters():
        parameter.zero_()
    network.flow[-1].bias.fill_(1.0)
    seen = network.features(torch.rand(1, 1, 16, 16), torch.tensor([0]))
    assert torch.allclose(network(seen, seen, (16, 16)), torch.full((1, 2, 16, 16), 4.0))


def test_the_vote_follows_the_softmax_of_the_similarities() -> None:
    likeness = torch.tensor([0.9, 0.1, 0.5]).view(3, 1, 1, 1, 1)
    votes = torch.zeros(3, 1, 3, 1, 1)
    for atlas, label in enumerate((1, 2, 2)):
        votes[atlas, 0, label] = 1
    found = fuse(likeness, votes, torch.ones_like(votes))
    assert found.flatten().tolist() == pytest.approx([0, 0.47178, 0.52822], abs=1e-5)


def test_atlases_that_do_not_know_a_place_are_not_asked() -> None:
    votes, voices = torch.zeros(2, 1, 2, 9, 9), torch.ones(2, 1, 2, 9, 9)
    votes[0, 0, 1] = 1
    votes[1, 0, 0] = 1
    voices[1] = votes[1] = 0
    found = fuse(torch.zeros(2, 1, 1, 9, 9), votes, voices)
    assert torch.allclose(found[0, 1], torch.ones(9, 9))
    silent = fuse(torch.zeros(2, 1, 1, 9, 9), 0 * votes, 0 * voices)
    assert torch.equal(silent[0, 0], torch.ones(9, 9))


def test_terms_are_those_of_the_equations(batch: Batch) -> None:
    method = made()
    found = method.terms(batch, TASK)
    assert set(found) == set(WEIGHTS)
    target = method.flow.features((batch.image[2:] + 1) / 2, batch.modality[2:])
    one, two = (method._warped(batch, i, target) for i in (0, 1))
    grey = (batch.image[2:] + 1) / 2
    again = method.flow(
        method.flow.features(one.grey, torch.tensor([0])), target, tuple(grey.shape[2:])
    )
    there = [method.flow.features(part.grey, torch.tensor([0]))[-1] for part in (two, one)]
    expected = {
        "similarity": 1 - local_ncc2(one.grey, grey).mean(),
        "difference": (grey - one.grey).square().mean(),
        "smoothness": torch.stack([roughness(flow) for flow in (one.flow, two.flow, again)]).sum(),
        "semantic": disagreement(one, two),
        "contrast": channel_contrast(
            method.head(there[0]), method.head(there[1]), axis=1, temperature=0.1
        ),
        "anatomy": unlike(one.grey, two.grey),
        "cross": unlike(two.grey, grey),
        "refined": 1 - local_ncc2(warp(one.grey, again), grey).mean(),
    }
    for name, value in expected.items():
        assert number(found[name]) == pytest.approx(number(value), abs=1e-5), name
    total = sum(WEIGHTS[name] * number(value) for name, value in found.items())
    assert number(method.losses(batch, 0.5)["all"]) == pytest.approx(total, abs=1e-5)


def test_disagreement_is_one_less_the_mean_dice() -> None:
    half = torch.zeros(1, 2, 1, 4)
    half[0, 1, 0, :2] = 1
    half[0, 0, 0, 2:] = 1
    other = half.roll(1, dims=3)
    known, flow = torch.ones_like(half), torch.zeros(1, 2, 1, 4)
    one, two = (Warped(grey=known, classes=part, known=known, flow=flow) for part in (half, other))
    assert number(disagreement(one, one)) == pytest.approx(0, abs=1e-5)
    assert number(disagreement(one, two)) == pytest.approx(0.5, abs=1e-5)
    unknown = replace(two, known=0 * known)
    assert number(disagreement(one, unknown)) == 0


def test_semantic_consistency_moves_both_flows(batch: Batch) -> None:
    method = made()
    target = method.flow.features(batch.image[2:], batch.modality[2:])
    one, two = (method._warped(batch, i, target) for i in (0, 1))
    found = torch.autograd.grad(disagreement(one, two), [one.flow, two.flow])
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_semantic_consistency_reaches_the_network_but_not_as_released(batch: Batch) -> None:
    assert made().terms(batch, TASK)["semantic"].requires_grad
    released = made("released").terms(batch, TASK)
    assert not released["semantic"].requires_grad
    assert set(released) == {"similarity", "difference", "smoothness", "semantic", "contrast"}


def test_the_released_contrast_is_normalised_across_vectors(batch: Batch) -> None:
    own, released = made(), made("released")
    values = [number(method.terms(batch, TASK)["contrast"].detach()) for method in (own, released)]
    assert abs(values[0] - values[1]) > 1e-3


def test_each_modality_has_an_encoder_of_its_own(batch: Batch) -> None:
    method = made()
    image = batch.image[:1]
    ct, mr = (method.flow.features(image, torch.tensor([i]))[0] for i in (0, 1))
    assert not torch.allclose(ct, mr)


def test_labels_of_one_modality_are_enough(batch: Batch) -> None:
    method = made()
    only = replace(batch, modality=torch.tensor([0, 0, 1]))
    assert tasks_of(only) == [Task(target=2, same=None, other=0)]
    found = method.terms(only, tasks_of(only)[0])
    assert set(found) == {"smoothness", "cross"}
    same = replace(batch, modality=torch.tensor([0, 0, 0]))
    assert set(method.terms(same, tasks_of(same)[0])) == {
        "smoothness",
        "similarity",
        "difference",
        "refined",
    }


def test_a_lone_sample_has_nothing_to_be_registered_with(batch: Batch) -> None:
    names = ("image", "label", "valid", "known", "origin", "modality")
    lone = replace(batch, **{n: getattr(batch, n)[:1] for n in names}, case=("a",), n_labelled=1)
    loss = made().losses(lone, 0.5)["all"]
    loss.backward()
    assert number(loss) == 0


def test_prediction_asks_atlases_of_its_modality_and_else_all(batch: Batch) -> None:
    method = made()
    names = ("image", "label", "valid", "known", "origin", "modality")
    atlases = replace(batch, **{n: getattr(batch, n)[:2] for n in names}, case=("a", "b"))
    method.hold(Frame(), atlases)
    assert method.atlases.fitting(0) == [0]
    assert method.atlases.fitting(1) == [1]
    method.hold(Frame(), replace(atlases, modality=torch.tensor([0, 0])))
    assert method.atlases.fitting(1) == [0, 1]


def test_an_image_that_is_an_atlas_gets_its_label(batch: Batch) -> None:
    method = made()
    names = ("image", "label", "valid", "known", "origin", "modality")
    atlases = replace(batch, **{n: getattr(batch, n)[:2] for n in names}, case=("a", "b"))
    method.hold(Frame(), atlases)
    with torch.no_grad():
        for head in method.flow.flow:
            for parameter in head.parameters():
                parameter.zero_()
        found = method.predictor("MR")(batch.image[1:2]).argmax(dim=1)
    assert torch.equal(found, batch.label[1:2])


def test_a_model_without_atlases_says_so(batch: Batch) -> None:
    with pytest.raises(NotEnoughLabelsError, match="holds no labelled scan"):
        made().predictor("CT")(batch.image[:1])
