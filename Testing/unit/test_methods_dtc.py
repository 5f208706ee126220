"""Dual-task consistency: level sets, both heads, the published schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semiseg.data.batch import Batch
from semiseg.data.levels import FAR_MM, level_maps, signed_distance
from semiseg.data.supervision import Supervision
from semiseg.losses import masked_mean, masked_squared_dice
from semiseg.methods import dtc
from semiseg.methods.base import MethodSettings
from semiseg.networks import NetworkSpec

SPEC = NetworkSpec(n_classes=3, channels=(4, 8), strides=((2, 2, 2),), convolutions=(1, 1))


def normalised(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    distance = torch.from_numpy(signed_distance(mask, (1.0,) * mask.ndim))
    return dtc.normalised_levels(distance[None, None])[0][0, 0].numpy().round(4)


def test_level_set_of_a_square() -> None:
    """The hand-computed 5 x 5 square in 7 x 7."""
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    level = normalised(mask)
    assert level[0, 0] == 1
    assert level[0, 3] == pytest.approx(0.7071, abs=1e-4)
    assert level[1, 1] == level[1, 3] == 0
    assert level[2, 2] == level[2, 3] == pytest.approx(-0.6667, abs=1e-4)
    assert level[3, 3] == -1


def test_level_set_of_a_line() -> None:
    mask = np.zeros(9, bool)
    mask[2:7] = True
    expected = [1, 0.5, 0, -0.6667, -1, -0.6667, 0, 0.5, 1]
    assert normalised(mask).tolist() == pytest.approx(expected, abs=1e-4)


def test_full_and_empty_patches_have_finite_levels() -> None:
    assert normalised(np.zeros((4, 4), bool)).tolist() == np.ones((4, 4)).tolist()
    assert normalised(np.ones((4, 4), bool)).tolist() == (-np.ones((4, 4))).tolist()
    assert signed_distance(np.zeros((2, 2), bool), (1.0, 1.0)).max() == FAR_MM


def test_distance_is_in_millimetres_along_each_axis() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    distance = signed_distance(mask, (3.0, 2.0))
    assert distance[0, 2] == 6
    assert distance[2, 0] == 4


def supervision(known_slices: tuple[int, ...] | None) -> Supervision:
    """Structure 1 a ball in 6 x 8 x 8; known everywhere, or in axial slices."""
    z, y, x = np.mgrid[:6, :8, :8]
    inside = (z - 3) ** 2 + (y - 4) ** 2 + (x - 4) ** 2 < 6
    known = np.ones(inside.shape, bool)
    if known_slices is not None:
        known = np.isin(z, known_slices)
    return Supervision(
        label=(inside & known).astype(np.int16),
        valid=known.astype(np.float32),
        origin=known.astype(np.uint8),
        pattern=known.astype(np.int32),
        patterns=np.array([[False, False], [True, True]]),
    )


def test_sparse_slices_get_distances_within_each_slice() -> None:
    maps = level_maps(supervision((2, 3)), (5.0, 1.0, 1.0))
    assert maps.shape == (1, 6, 8, 8)
    assert np.isnan(maps[0][[0, 1, 4, 5]]).all()
    expected = signed_distance(supervision(None).label[3] > 0, (1.0, 1.0))
    assert np.allclose(maps[0, 3], expected, rtol=1e-3)


def test_dense_labels_get_distances_in_three_dimensions() -> None:
    maps = level_maps(supervision(None), (5.0, 1.0, 1.0))
    expected = signed_distance(supervision(None).label > 0, (5.0, 1.0, 1.0))
    assert not np.isnan(maps).any()
    assert np.allclose(maps[0], expected, rtol=1e-3)


def test_inverse_transform_has_the_published_steepness() -> None:
    z = torch.tensor([-0.01, -0.001, 0.0, 0.001])
    expected = [0.99999969, 0.81757448, 0.5, 0.18242552]
    assert dtc.inverse_transform(z).tolist() == pytest.approx(expected, abs=1e-7)
    at = torch.zeros(1, requires_grad=True)
    dtc.inverse_transform(at).backward()
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(-375.0)


def test_inverse_transform_is_computed_in_float32() -> None:
    assert dtc.inverse_transform(torch.tensor([0.001], dtype=torch.bfloat16)).dtype == torch.float32


def test_dual_task_difference_of_the_hand_computed_case() -> None:
    level = torch.tensor([-0.001, 0.0, 0.001]).view(1, 1, 3)
    probability = torch.tensor([0.9, 0.5, 0.1])
    logits = torch.stack([(1 - probability).log(), probability.log()]).view(1, 2, 3)
    assert dtc.dual_task_difference(logits, level).item() == pytest.approx(0.0045293113, abs=1e-8)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.006737947), (1500, 0.060054668), (3000, 0.286504797), (5999, 0.996879878), (6000, 1.0)],
)
def test_consistency_rises_as_published(step: int, expected: float) -> None:
    assert dtc.consistency_weight(step / 6000) == pytest.approx(expected, abs=1e-8)


def test_squared_dice_has_the_hand_computed_value() -> None:
    """p = [.9, .8, .2, .1], t = [1, 1, 0, 0]: 0.0285713469 for the structure."""
    p = torch.tensor([0.9, 0.8, 0.2, 0.1])
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 4)
    label = torch.tensor([[1, 1, 0, 0]])
    known = torch.tensor([False, True]).view(1, 2, 1).expand(1, 2, 4)
    loss = masked_squared_dice(logits, label, torch.ones(1, 4), known)
    assert loss.item() == pytest.approx(0.0285713469, abs=1e-6)


def test_masked_losses_of_nothing_are_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 2, 4, requires_grad=True)
    nothing = torch.zeros(1, 2, 4, dtype=torch.bool)
    loss = masked_squared_dice(
        logits, torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4), nothing
    )
    loss = loss + masked_mean(logits, nothing)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


@pytest.fixture
def method() -> dtc.DualTaskConsistency:
    torch.manual_seed(0)
    return dtc.DualTaskConsistency(MethodSettings(network=SPEC))


@pytest.fixture
def batch() -> Batch:
    """One labelled and one unlabelled sample."""
    rng = np.random.default_rng(0)
    shape = (2, 6, 8, 8)
    labelled = (torch.arange(2) < 1).view(2, 1, 1, 1)
    level = torch.from_numpy(rng.normal(0, 5, (2, 2, *shape[1:]))).float()
    level[1] = math.nan
    level[0, :, :3] = math.nan
    return Batch(
        image=torch.from_numpy(rng.normal(size=(2, 1, *shape[1:]))).float(),
        label=torch.from_numpy(rng.integers(0, 3, shape)) * labelled,
        valid=labelled.expand(shape).float(),
        known=labelled.unsqueeze(1).expand(2, 3, *shape[1:]),
        origin=labelled.expand(shape).to(torch.uint8),
        modality=torch.zeros(2, dtype=torch.int64),
        case=("a", "b"),
        n_labelled=1,
        spacing_mm_zyx=(3.0, 2.0, 2.0),
        level=level,
    )


def test_loss_is_the_sum_of_its_three_terms(method: dtc.DualTaskConsistency, batch: Batch) -> None:
    features = method.network.features(batch.image)
    logits, level = method.network.head(features), method.level_head(features).tanh()
    dice = masked_squared_dice(logits, batch.label, batch.valid, batch.known)
    assert batch.level is not None
    target, known = dtc.normalised_levels(batch.level)
    squared = (level - target).square()[known].mean()
    consistency = (torch.sigmoid(-1500 * level) - logits.softmax(1)[:, 1:]).square().mean()
    for progress in (0.0, 0.5, 1.0):
        expected = dice + 0.3 * squared + dtc.consistency_weight(progress) * consistency
        value = method.losses(batch, progress)["network"]
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_consistency_reaches_both_heads(method: dtc.DualTaskConsistency, batch: Batch) -> None:
    features = method.network.features(batch.image)
    level = 0.001 * method.level_head(features).tanh()
    dtc.dual_task_difference(method.network.head(features), level).backward()
    for head in (method.network.head, method.level_head):
        assert head.weight.grad is not None
        assert head.weight.grad.abs().sum() > 0


def test_levels_that_are_not_known_teach_nothing(batch: Batch) -> None:
    assert batch.level is not None
    level = torch.zeros_like(batch.level, requires_grad=True)
    dtc.level_set_loss(level, batch.level).backward()
    assert level.grad is not None
    assert not level.grad[batch.level.isnan()].any()
    assert level.grad[~batch.level.isnan()].any()
    assert dtc.level_set_loss(level, None).item() == 0
