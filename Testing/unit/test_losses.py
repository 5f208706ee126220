"""Losses against numbers worked out by hand, and their behaviour where nothing is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from semiseg.losses import (
    coarsened,
    deep_supervised_loss,
    marginal_cross_entropy,
    masked_dice,
    one_hot,
    ramp,
    soft_dice,
    supervised_loss,
)


def logits_of(*probabilities: tuple[float, ...]) -> Tensor:
    """(1, C, N) logits whose softmax are the given rows, one per voxel."""
    return torch.tensor(probabilities).T[None].log().requires_grad_()


def all_known(logits: Tensor) -> Tensor:
    return torch.ones_like(logits, dtype=torch.bool)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, 0.006737947), (20, 0.286504797), (40, 1.0), (90, 1.0), (-3, 0.006737947)],
)
def test_ramp_follows_the_published_curve(count: float, expected: float) -> None:
    assert ramp(count, 40) == pytest.approx(expected, abs=1e-8)


def test_ramp_of_no_length_is_one() -> None:
    assert ramp(0, 0) == 1.0


def test_one_hot_puts_classes_on_the_second_axis() -> None:
    label = torch.tensor([[[0, 2], [1, 0]]])
    assert torch.equal(one_hot(label, 3).long().argmax(dim=1), label)
    assert one_hot(label, 3).shape == (1, 3, 2, 2)


def test_squared_dice_matches_the_hand_computed_value() -> None:
    p = torch.tensor([0.9, 0.8, 0.2, 0.1]).view(1, 1, 4)
    t = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 4)
    loss = soft_dice(p, t, torch.ones_like(p), squared=True, smooth=1e-5)
    assert loss.item() == pytest.approx(0.0285713469, abs=1e-7)


def test_plain_dice_sums_over_the_whole_batch() -> None:
    p = torch.tensor([0.5, 1.0]).view(2, 1, 1)
    t = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    loss = soft_dice(p, t, torch.ones_like(p), smooth=0.0)
    assert loss.item() == pytest.approx(1 - 2 * 0.5 / 2.5)


def test_cross_entropy_where_all_is_known_is_the_usual_one() -> None:
    logits = logits_of((0.6, 0.4), (0.3, 0.7))
    label, valid = torch.tensor([[0, 1]]), torch.ones(1, 2)
    loss = marginal_cross_entropy(logits, label, valid, all_known(logits))
    assert loss.item() == pytest.approx(0.4337502839, abs=1e-7)


def test_background_of_a_slice_done_for_some_may_be_any_other_structure() -> None:
    logits = logits_of((0.5, 0.3, 0.2))
    known = torch.tensor([False, True, False]).view(1, 3, 1)
    loss = marginal_cross_entropy(
        logits, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), known
    )
    assert loss.item() == pytest.approx(-math.log(0.5 + 0.2), abs=1e-6)


def test_unknown_is_never_background() -> None:
    logits = logits_of((0.1, 0.2, 0.7))
    known = torch.tensor([False, True, False]).view(1, 3, 1)
    label = torch.zeros(1, 1, dtype=torch.long)
    marginal_cross_entropy(logits, label, torch.ones(1, 1), known).backward()
    assert logits.grad is not None
    assert logits.grad[0, 2, 0] < 0  # the unknown class is not pushed down
    assert logits.grad[0, 1, 0] > 0


def test_confidence_lowers_a_voxels_part() -> None:
    logits = logits_of((0.9, 0.1), (0.2, 0.8))
    label = torch.zeros(1, 2, dtype=torch.long)
    loss = marginal_cross_entropy(logits, label, torch.tensor([[1.0, 0.25]]), all_known(logits))
    assert loss.item() == pytest.approx((-math.log(0.9) - 0.25 * math.log(0.2)) / 2, abs=1e-6)


def test_voxels_where_nothing_is_known_do_not_thin_the_mean() -> None:
    logits = logits_of((0.9, 0.1), (0.2, 0.8))
    known = torch.tensor([[True, False], [True, False]])[None]
    loss = marginal_cross_entropy(
        logits, torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2), known
    )
    assert loss.item() == pytest.approx(-math.log(0.9), abs=1e-6)


def test_dice_counts_a_class_only_where_it_is_known() -> None:
    logits = logits_of((0.2, 0.8), (0.6, 0.4), (0.1, 0.9))
    label = torch.tensor([[1, 0, 0]])
    known = torch.tensor([[True, True, False]]).expand(2, 3)[None]
    loss = masked_dice(logits, label, torch.ones(1, 3), known)
    assert loss.item() == pytest.approx(1 - 2 * 0.8 / (0.8 + 0.4 + 1), abs=1e-4)


def test_dice_of_a_class_counts_as_much_as_its_voxels_are_trusted() -> None:
    logits = logits_of((0.2, 0.8), (0.6, 0.4))
    rest = torch.tensor([[1, 0]]), all_known(logits)
    full = masked_dice(logits, rest[0], torch.ones(1, 2), rest[1])
    half = masked_dice(logits, rest[0], torch.full((1, 2), 0.5), rest[1])
    assert half.item() == pytest.approx(full.item() / 2, abs=1e-4)


def test_dice_leaves_out_classes_that_are_not_drawn() -> None:
    logits = logits_of((0.2, 0.7, 0.1), (0.8, 0.1, 0.1))
    loss = masked_dice(logits, torch.tensor([[1, 0]]), torch.ones(1, 2), all_known(logits))
    assert loss.item() == pytest.approx(1 - 2 * 0.7 / (0.7 + 0.1 + 1), abs=1e-4)


@pytest.mark.parametrize("loss", [marginal_cross_entropy, masked_dice, supervised_loss])
@pytest.mark.parametrize("emptiness", ["valid", "known"])
def test_loss_is_exactly_zero_with_a_gradient_where_nothing_is_known(loss, emptiness) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label = torch.randint(0, 3, (2, 4, 4))
    valid = torch.zeros(2, 4, 4) if emptiness == "valid" else torch.ones(2, 4, 4)
    known = torch.full((2, 3, 4, 4), emptiness == "valid")
    value = loss(logits, label * (emptiness == "valid"), valid, known)
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


@given(st.integers(0, 2**31), st.sampled_from([1.0, 30.0, 1e4]))
def test_losses_stay_finite_for_extreme_logits(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(1, 4, 6, generator=generator) * scale).requires_grad_()
    label = torch.randint(0, 4, (1, 6), generator=generator)
    known = torch.rand(1, 4, 6, generator=generator) > 0.5
    valid = torch.rand(1, 6, generator=generator)
    value = supervised_loss(logits, label, valid, known)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_supervised_loss_is_the_sum_of_both_parts() -> None:
    logits = logits_of((0.6, 0.4), (0.3, 0.7))
    rest = torch.tensor([[0, 1]]), torch.ones(1, 2), all_known(logits)
    parts = marginal_cross_entropy(logits, *rest) + masked_dice(logits, *rest)
    assert supervised_loss(logits, *rest).item() == pytest.approx(parts.item())
    assert marginal_cross_entropy(logits, *rest) > 0.1
    assert masked_dice(logits, *rest) > 0.1


def test_losses_work_in_half_precision() -> None:
    logits = torch.randn(1, 3, 8, dtype=torch.bfloat16)
    label = torch.randint(0, 3, (1, 8))
    assert (
        supervised_loss(logits, label, torch.ones(1, 8), all_known(logits)).dtype == torch.float32
    )


@pytest.mark.parametrize("levels", [1, 3, 4])
def test_coarse_levels_count_half_as_much_each_and_all_together_once(levels: int) -> None:
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 8, 8, 8))
    known = torch.ones(2, 3, 8, 8, 8, dtype=torch.bool)
    sides = [(8 >> i,) * 3 for i in range(levels)]
    outputs = [torch.randn(2, 3, *side) for side in sides]
    parts = []
    for i, logits in enumerate(outputs):
        at = slice((1 << i) // 2, None, 1 << i)
        coarse = label[:, at, at, at]
        some = known[:, :, at, at, at]
        parts.append(supervised_loss(logits, coarse, torch.ones(coarse.shape), some))
    weights = torch.tensor([0.5**i for i in range(levels)])
    expected = (weights / weights.sum() * torch.stack(parts)).sum()
    found = deep_supervised_loss(outputs, label, torch.ones(label.shape), known)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_weights_of_four_levels_are_the_published_ones() -> None:
    """0.5333, 0.2667, 0.1333, 0.0667: one loss of a level at a time."""
    label = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    known = torch.ones(1, 2, 8, 8, 8, dtype=torch.bool)
    for level, weight in enumerate((0.53333, 0.26667, 0.13333, 0.06667)):
        outputs = [torch.zeros(1, 2, *(8 >> i,) * 3) for i in range(4)]
        for i, logits in enumerate(outputs):
            logits[:, 0] = 0.0 if i == level else 60.0
        found = deep_supervised_loss(outputs, label, torch.ones(label.shape), known)
        assert found.item() == pytest.approx(weight * math.log(2), abs=1e-5)


def test_coarse_levels_of_slices_and_of_uneven_strides_fit() -> None:
    label = torch.arange(4 * 6).view(1, 4, 6)
    assert coarsened(label, torch.zeros(1, 2, 4, 3)).tolist() == [
        [[1, 3, 5], [7, 9, 11], [13, 15, 17], [19, 21, 23]]
    ]


def test_the_quick_way_where_all_or_nothing_is_known_gives_what_the_general_way_gives() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    label, valid = torch.randint(3, (2, 4, 5)), torch.rand(2, 4, 5)
    known = torch.ones(2, 3, 4, 5, dtype=torch.bool)
    known[:, :, :2] = False
    valid[0, 3, 3] = 0
    quick = marginal_cross_entropy(logits, label, valid, known)
    (gradient,) = torch.autograd.grad(quick, logits)
    known[0, 2, 3, 3] = False  # a voxel of no weight that is known in part: the general way
    general = marginal_cross_entropy(logits, label, valid, known)
    assert quick.item() == pytest.approx(general.item(), rel=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(general, logits)[0])
