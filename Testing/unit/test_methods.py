"""The conformance suite: what every method must do, whatever it minimises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semiseg.data.batch import Batch
from semiseg.errors import ConfigError
from semiseg.learning.learner import Learner
from semiseg.methods.base import Method, MethodSettings, build_method, method_class, method_names
from semiseg.methods.frame import Frame
from semiseg.networks import NetworkSpec

SPEC = NetworkSpec(
    n_classes=3,
    channels=(4, 8, 8),
    strides=((2, 2, 2), (2, 2, 2)),
    convolutions=(1, 1, 1),
)
SETTINGS = MethodSettings(network=SPEC, learning_rate=3e-3)
CPU = torch.device("cpu")
every_method = pytest.mark.parametrize("name", method_names())


def phantom_batch(seed: int = 0, *, n_unlabelled: int = 1) -> Batch:
    """Two labelled samples of bright and dark balls, then unlabelled ones; noise on top."""
    rng = np.random.default_rng(seed)
    n, shape = 2 + n_unlabelled, (8, 16, 16)
    z, y, x = np.mgrid[:8, :16, :16]
    label = np.zeros((n, *shape), np.int64)
    for sample in label:
        at = rng.integers(4, 12, 2)
        sample[(z - 4) ** 2 + (y - at[0]) ** 2 + (x - 4) ** 2 < 9] = 1
        sample[(z - 4) ** 2 + (y - at[1]) ** 2 + (x - 11) ** 2 < 9] = 2
    grey = np.choose(label, [0.0, 1.0, -1.0]) + rng.normal(0, 0.1, label.shape)
    labelled = (np.arange(n) < 2)[:, None, None, None]
    valid = torch.tensor(np.broadcast_to(labelled, label.shape).copy()).float()
    image = torch.tensor(grey[:, None]).float()
    return Batch(
        image=image,
        # Each sample has another volume, with other contrasts, but the second has none.
        companions=torch.cat([image, 0.5 - image], dim=1),
        present=torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])[:n],
        label=torch.tensor(label * labelled),
        valid=valid,
        known=(valid > 0)[:, None].expand(n, 3, *shape).clone(),
        origin=valid.to(torch.uint8),
        modality=torch.arange(n) % 2,
        case=tuple(f"case{i}" for i in range(n)),
        n_labelled=2,
        spacing_mm_zyx=(3.0, 2.0, 2.0),
    )


def made(name: str) -> Method:
    torch.manual_seed(0)
    return provided(build_method(name, SETTINGS))


def provided(method: Method, *, flat: bool = False) -> Method:
    """`method` with labelled scans to predict from, if it needs some."""
    if method.uses_frame:
        batch = phantom_batch(n_unlabelled=0)
        method.hold(Frame(), middle_slices(batch) if flat else batch)
    return method


def middle_slices(batch: Batch) -> Batch:
    names = ("image", "companions", "label", "valid", "known", "origin")
    return replace(batch, **{name: getattr(batch, name)[..., 4, :, :] for name in names})


def total(method: Method, batch: Batch, progress: float = 0.5) -> torch.Tensor:
    torch.manual_seed(1)  # methods may draw noise
    return torch.stack(list(method.losses(batch, progress).values())).sum()


@every_method
def test_losses_are_finite_scalars_named_by_optimizer(name: str) -> None:
    method = made(name)
    losses = method.losses(phantom_batch(), 0.5)
    assert set(losses) == set(method.optimizers())
    assert all(loss.dim() == 0 and torch.isfinite(loss) for loss in losses.values())


@every_method
def test_gradient_reaches_every_trained_parameter(name: str) -> None:
    method = made(name)
    trained = [
        p for o in method.optimizers().values() for group in o.param_groups for p in group["params"]
    ]
    total(method, phantom_batch()).backward()
    assert trained
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@every_method
def test_coarse_heads_are_learned_or_refused(name: str) -> None:
    torch.manual_seed(0)
    settings = replace(SETTINGS, network=replace(SPEC, deep_supervision=True))
    if not method_class(name).deeply_supervised:
        with pytest.raises(ConfigError, match="has no deep supervision"):
            build_method(name, settings)
        return
    method = build_method(name, settings)
    trained = [g["params"] for o in method.optimizers().values() for g in o.param_groups]
    total(method, phantom_batch()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for group in trained for p in group)
    assert any("coarse_heads" in parameter for parameter in method.modules.state_dict())


@every_method
def test_each_parameter_has_one_optimizer_and_is_checkpointed(name: str) -> None:
    method = made(name)
    trained = [
        id(p)
        for o in method.optimizers().values()
        for group in o.param_groups
        for p in group["params"]
    ]
    assert len(trained) == len(set(trained))
    assert set(trained) <= {id(p) for p in method.modules.parameters()}


@every_method
def test_targets_of_unlabelled_samples_change_nothing(name: str) -> None:
    method, batch = made(name), phantom_batch()
    label, origin = batch.label.clone(), batch.origin.clone()
    label[batch.n_labelled :] = 2
    origin[batch.n_labelled :] = 4
    assert total(method, batch) == total(method, replace(batch, label=label, origin=origin))


@every_method
def test_where_nothing_is_known_no_target_counts(name: str) -> None:
    method, batch = made(name), phantom_batch()
    nothing = replace(
        batch, valid=torch.zeros_like(batch.valid), known=torch.zeros_like(batch.known)
    )
    other = replace(nothing, label=torch.ones_like(batch.label))
    value = total(method, nothing)
    assert torch.isfinite(value)
    assert value == total(method, other)
    value.backward()


@every_method
@pytest.mark.parametrize("channel", [0, 1])
def test_one_class_only_is_survived(name: str, channel: int) -> None:
    batch = phantom_batch()
    label = torch.full_like(batch.label, channel)
    value = total(made(name), replace(batch, label=label))
    value.backward()
    assert torch.isfinite(value)


@every_method
def test_a_constant_image_is_survived(name: str) -> None:
    batch = phantom_batch()
    value = total(made(name), replace(batch, image=torch.zeros_like(batch.image)))
    value.backward()
    assert torch.isfinite(value)


@every_method
def test_twenty_steps_on_a_phantom_lower_the_loss(name: str) -> None:
    learner = Learner(name, replace(SETTINGS, learning_rate=2e-2), CPU, seed=0)
    n_unlabelled = int(learner.method.uses_unlabelled)
    values = [
        float(learner.learn(phantom_batch(i % 4, n_unlabelled=n_unlabelled), i / 40))
        for i in range(20)
    ]
    assert np.mean(values[-4:]) < 0.8 * np.mean(values[:4])


@every_method
def test_labelled_samples_alone_are_enough(name: str) -> None:
    """As sparing runs give them most of the time."""
    learner = Learner(name, SETTINGS, CPU, seed=0)
    batch = phantom_batch(n_unlabelled=0)
    assert batch.all_labelled
    assert all(torch.isfinite(learner.learn(batch, progress)) for progress in (0.1, 0.9))


@every_method
def test_slices_are_learned_from_as_volumes_are(name: str) -> None:
    flat = replace(SPEC, strides=((2, 2), (2, 2)))
    learner = Learner(name, MethodSettings(network=flat), CPU, seed=0)
    batch = middle_slices(phantom_batch())
    assert torch.isfinite(learner.learn(batch, 0.5))
    provided(learner.method, flat=True)
    assert learner.method.predict(batch.image).shape == (3, 3, 16, 16)


@every_method
def test_prediction_has_a_logit_per_class_and_voxel(name: str) -> None:
    with torch.no_grad():
        logits = made(name).predict(phantom_batch().image)
    assert logits.shape == (3, 3, 8, 16, 16)


@every_method
def test_checkpoint_round_trip_is_exact(name: str) -> None:
    one = made(name)
    torch.manual_seed(9)
    other = build_method(name, SETTINGS)
    other.make_room(one.modules.state_dict())
    other.modules.load_state_dict(one.modules.state_dict())
    image = phantom_batch().image
    one.modules.eval()
    other.modules.eval()
    assert torch.equal(one.predict(image), other.predict(image))


@every_method
def test_learning_rate_falls_from_one_to_zero(name: str) -> None:
    method = made(name)
    factors = [method.learning_rate_factor(p) for p in np.linspace(0, 1, 11)]
    assert factors[0] == pytest.approx(1)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[-1] <= factors[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@every_method
def test_gpu_and_cpu_agree(name: str) -> None:
    method, batch = made(name), phantom_batch()
    expected = total(method, batch).item()
    method.modules.to("cuda")
    assert total(method, batch.to(torch.device("cuda"))).item() == pytest.approx(expected, rel=1e-2)


def test_poly_learning_rate_has_the_published_value() -> None:
    assert 0.01 * made("supervised").learning_rate_factor(0.5) == pytest.approx(
        0.00535887, abs=1e-8
    )


def test_unknown_method_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="supervised"):
        method_class("magic")
