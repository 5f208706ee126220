"""Random looks between modalities: only greys change, and the same seed gives the same look."""

from __future__ import annotations

import pytest
import torch

from semiseg.data.bridging import Bridging, bridged
from semiseg.learning.learner import Learner
from semiseg.learning.plan import Plan
from semiseg.learning.speed import made_up
from semiseg.methods.base import MethodSettings
from semiseg.networks import NetworkSpec

ALWAYS = Bridging(curve_chance=1.0, network_chance=1.0)


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (2, 1, 6, 8, 10)])
def test_a_look_keeps_shape_mean_and_spread_of_each_sample(shape: tuple[int, ...]) -> None:
    plain = image(*shape)
    look = bridged(plain, ALWAYS, seeded(1))
    assert look.shape == plain.shape
    assert not torch.allclose(look, plain, atol=0.05)
    torch.testing.assert_close(look.flatten(1).mean(1), plain.flatten(1).mean(1))
    torch.testing.assert_close(look.flatten(1).std(1), plain.flatten(1).std(1))


def test_the_same_seed_gives_the_same_look_and_another_one_another() -> None:
    plain = image(1, 1, 6, 8, 8)
    assert torch.equal(bridged(plain, ALWAYS, seeded(2)), bridged(plain, ALWAYS, seeded(2)))
    assert not torch.equal(bridged(plain, ALWAYS, seeded(2)), bridged(plain, ALWAYS, seeded(3)))
    torch.manual_seed(4)
    one = bridged(plain)
    torch.manual_seed(4)
    assert torch.equal(one, bridged(plain))


def test_samples_of_a_batch_get_looks_of_their_own() -> None:
    plain = image(1, 1, 6, 8, 8).expand(2, 1, 6, 8, 8)
    one, other = bridged(plain, ALWAYS, seeded(5))
    assert not torch.allclose(one, other, atol=0.05)


def test_without_both_steps_nothing_changes() -> None:
    plain = image(2, 1, 4, 6)
    assert torch.equal(bridged(plain, Bridging(curve_chance=0.0, network_chance=0.0)), plain)


def test_constant_images_stay_as_they_are() -> None:
    plain = torch.full((2, 1, 4, 6, 6), -1.0)
    assert torch.equal(bridged(plain, ALWAYS, seeded(6)), plain)


def test_a_curve_maps_equal_greys_to_equal_greys() -> None:
    plain = image(1, 1, 8, 8).mul(3).round().div(3)
    look = bridged(plain, Bridging(curve_chance=1.0, network_chance=0.0), seeded(7))
    for grey in plain.unique():
        assert look[plain == grey].unique().numel() == 1


def test_some_looks_turn_the_order_of_greys_around() -> None:
    ramp = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    curve = Bridging(curve_chance=1.0, network_chance=0.0)
    slopes = [bridged(ramp, curve, seeded(s)).flatten().diff() for s in range(8)]
    assert any((slope < -1e-6).any() and (slope > 1e-6).any() for slope in slopes)


NETWORK = NetworkSpec(n_classes=3, channels=(4, 4), strides=((2, 2, 2),), convolutions=(1, 1))


def first_loss(method: str, *, bridging: bool) -> float:
    plan = Plan(
        spacing_mm_zyx=(2.0, 2.0, 2.0),
        patch_zyx=(8, 8, 8),
        n_labelled=2,
        n_unlabelled=0,
        network=NETWORK,
        device="cpu",
    )
    settings = MethodSettings(network=NETWORK, bridging=bridging)
    learner = Learner(method, settings, torch.device("cpu"), seed=1)
    return float(learner.learn(made_up(plan, learner.device), 0.5))


def test_every_method_can_learn_from_random_looks_and_repeats_them() -> None:
    looks = [first_loss("supervised", bridging=True) for _ in range(2)]
    assert looks[0] == looks[1] != first_loss("supervised", bridging=False)


def test_a_method_that_makes_random_looks_itself_gets_no_others() -> None:
    assert first_loss("cascade", bridging=True) == first_loss("cascade", bridging=False)
