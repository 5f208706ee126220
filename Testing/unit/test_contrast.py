"""Contrastive losses against hand-computed values; the bank against what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from semiseg.contrast import balanced_contrast, info_nce
from semiseg.feature_bank import Entries, FeatureBank, case_number, join


def unit(*rows: tuple[float, ...]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows).float(), dim=1)


def test_info_nce_has_the_hand_computed_value() -> None:
    anchor = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    everything = torch.ones(1, 2, dtype=torch.bool)
    found = info_nce(anchor, anchor, negatives, everything, 0.5)
    assert found.item() == pytest.approx(0.14293163, abs=1e-7)


def test_info_nce_leaves_out_what_does_not_repel() -> None:
    anchor = unit((1, 0), (0, 1))
    negatives = unit((0, 1), (1, 0))
    repels = torch.tensor([[True, False], [False, False]])
    found = info_nce(anchor, anchor, negatives, repels, 1.0)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)) / 2, abs=1e-6)


def test_info_nce_without_anchors_is_zero_with_a_gradient() -> None:
    anchor = torch.zeros(0, 2, requires_grad=True)
    found = info_nce(anchor, anchor, unit((0, 1)), torch.ones(0, 1, dtype=torch.bool), 1.0)
    found.backward()
    assert found.item() == 0


@pytest.mark.parametrize("members", [(2, 2), (2, 3), (7, 2)])
def test_balanced_contrast_does_not_depend_on_the_members_of_perfect_classes(
    members: tuple[int, int],
) -> None:
    """The hand-computed value; that 2 + 2 and 2 + 3 members agree is the balance."""
    label = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor(members))
    feature = torch.eye(2)[label]
    assert balanced_contrast(feature, label, 1.0).item() == pytest.approx(0.3132617, abs=2e-7)


def test_positives_of_the_balanced_contrast_are_the_mean_of_the_class() -> None:
    """Eq. 5: the mean of the similarities is the similarity to the mean."""
    torch.manual_seed(0)
    feature, label = unit(*torch.randn(5, 3).tolist()), torch.tensor([0, 0, 0, 1, 1])
    expected = []
    for i in range(5):
        others = [k for k in range(5) if k != i]
        mine = torch.stack([feature[k] for k in others if label[k] == label[i]]).mean(dim=0)
        denominator = sum(
            torch.stack(
                [(feature[i] @ feature[k] / 0.5).exp() for k in others if label[k] == c]
            ).mean()
            for c in (0, 1)
        )
        expected.append(torch.log(torch.as_tensor(denominator)) - feature[i] @ mine / 0.5)
    found = balanced_contrast(feature, label, 0.5)
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


@pytest.mark.parametrize("label", [[], [1], [0, 1, 2]])
def test_balanced_contrast_without_a_pair_is_zero_with_a_gradient(label: list[int]) -> None:
    feature = torch.eye(3)[: len(label)].requires_grad_()
    found = balanced_contrast(feature, torch.tensor(label, dtype=torch.int64), 0.1)
    found.backward()
    assert found.item() == 0
    assert feature.grad is not None
    assert not feature.grad.isnan().any()


def test_a_class_with_one_member_repels_but_is_no_anchor() -> None:
    feature = torch.eye(3)[[0, 0, 1]].requires_grad_()
    found = balanced_contrast(feature, torch.tensor([0, 0, 1]), 1.0)
    found.backward()
    assert found.item() == pytest.approx(math.log(math.e + 1) - 1, abs=1e-6)
    assert feature.grad is not None
    assert feature.grad.isfinite().all()
    assert feature.grad[2].abs().sum() > 0


def entries(*rows: tuple[str, tuple[float, float, float], tuple[float, ...]]) -> Entries:
    """Case, place and feature of each."""
    return Entries(
        feature=unit(*(feature for _, _, feature in rows)),
        place=torch.tensor([place for _, place, _ in rows]),
        label=torch.arange(len(rows)),
        case=torch.tensor([case_number(case) for case, _, _ in rows]),
    )


def bank_of(*parts: Entries, size: int = 20) -> FeatureBank:
    bank = FeatureBank(size, parts[0].feature.shape[1])
    for part in parts:
        bank.add(part)
    return bank


HERE, NEAR, FAR = (0.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 9.0, 0.0)
A = entries(("a", HERE, (1, 0)), ("a", FAR, (1, 1)))
B = entries(("b", NEAR, (0, 1)), ("b", FAR, (-1, 0)))


def asked(bank: FeatureBank, place: tuple[float, float, float], case: str) -> tuple[Tensor, Tensor]:
    return bank.counterparts(torch.tensor([place]), torch.tensor([case_number(case)]), 6.0)


def test_the_counterpart_is_the_mean_of_the_nearest_of_each_other_case() -> None:
    positive, found = asked(bank_of(A, B), HERE, "c")
    assert found.tolist() == [True]
    assert torch.allclose(positive, unit((1, 1)))


def test_ones_own_case_is_no_counterpart() -> None:
    positive, found = asked(bank_of(A, B), HERE, "a")
    assert found.tolist() == [True]
    assert torch.allclose(positive, unit((0, 1)))
    assert asked(bank_of(A), HERE, "a")[1].tolist() == [False]


def test_permuting_two_cases_does_not_change_the_positive() -> None:
    one, other = bank_of(A, B), bank_of(B, A)
    for place in (HERE, NEAR, FAR):
        for left, right in zip(asked(one, place, "c"), asked(other, place, "c"), strict=True):
            assert torch.equal(left, right)


def test_under_the_identity_the_counterpart_is_the_same_voxel() -> None:
    """Two cases with the same places: the other's feature at the anchor's own voxel."""
    torch.manual_seed(0)
    z, y, x = torch.meshgrid(*(torch.arange(4.0),) * 3, indexing="ij")
    place = torch.stack([x, y, z], dim=-1).reshape(-1, 3) * 2.0 - 150.0
    feature = torch.nn.functional.normalize(torch.randn(64, 8), dim=1)
    numbers = torch.full((64,), case_number("a"))
    bank = bank_of(Entries(feature=feature, place=place, label=numbers, case=numbers), size=64)
    positive, found = bank.counterparts(place, torch.full((64,), case_number("b")), 1.0)
    assert found.all()
    assert torch.allclose(positive, feature, atol=1e-6)


def test_too_far_or_unknown_places_have_no_counterpart() -> None:
    assert asked(bank_of(A, B), (0.0, 20.0, 0.0), "c")[1].tolist() == [False]
    assert asked(bank_of(A, B), (math.nan,) * 3, "c")[1].tolist() == [False]
    unknown = entries(("a", (math.nan, 0.0, 0.0), (1, 0)))
    assert asked(bank_of(unknown), HERE, "c")[1].tolist() == [False]


def test_an_empty_bank_has_nothing() -> None:
    bank = FeatureBank(4, 2)
    assert asked(bank, HERE, "c")[1].tolist() == [False]
    assert len(bank.some(3).label) == 0


def test_the_oldest_entries_go_first() -> None:
    rows = [("a", (float(i), 0.0, 0.0), (1.0, 0.0)) for i in range(5)]
    bank = bank_of(entries(*rows[:2]), entries(*rows[2:]), size=3)
    assert sorted(bank.entries.place[:, 0].tolist()) == [2, 3, 4]
    bank.add(join([entries(*rows), entries(*rows)]))
    assert sorted(bank.entries.place[:, 0].tolist()) == [2, 3, 4]


def test_what_is_drawn_is_kept_entries_each_once() -> None:
    bank = bank_of(A, B)
    assert len(bank.some(10).label) == 4
    assert len(bank.some(3).label) == 3


def test_nothing_in_the_bank_has_a_gradient() -> None:
    feature = unit((1, 0), (1, 1)).requires_grad_()
    bank = FeatureBank(4, 2)
    bank.add(Entries(feature=feature, place=A.place, label=A.label, case=A.case))
    assert not bank.entries.feature.requires_grad
    assert not A.detached().feature.requires_grad


def test_a_bank_comes_back_from_its_state() -> None:
    one, other = bank_of(A, B), FeatureBank(20, 2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(asked(one, NEAR, "c")[0], asked(other, NEAR, "c")[0])
