"""Cascade: who is believed when, and what each ingredient does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from semiseg.data.batch import Batch
from semiseg.losses import supervised_loss
from semiseg.methods.base import MethodSettings, build_method
from semiseg.methods.cascade import (
    FIRST,
    INGREDIENTS,
    LAST,
    Cascade,
    Ingredients,
    fused,
    pasted,
    relabelled,
)
from semiseg.networks import NetworkSpec
from semiseg.study.case import Origin

SPEC = NetworkSpec(n_classes=3, channels=(4, 6), strides=((2, 2, 2),), convolutions=(1, 1))
SHAPE = (4, 8, 8)


def cascade(*without: str, spec: NetworkSpec = SPEC) -> Cascade:
    torch.manual_seed(0)
    name = "+".join(["cascade", *(f"without={one}" for one in without)])
    method = build_method(name, MethodSettings(network=spec))
    assert isinstance(method, Cascade)
    method.recall.known.fill_(1.0)
    return method


def plain_cascade() -> Cascade:
    """No random look, no pasting: what is left can be computed by hand."""
    method = cascade()
    method.ingredients = Ingredients(paste=False, bridging=False)
    return method


def unready_cascade(*without: str) -> Cascade:
    """One that does not know class 2 yet."""
    method = cascade(*without)
    method.recall.known[2] = 0.4
    return method


def batch(n_unlabelled: int = 1) -> Batch:
    """A sample that a human drew, one with carried labels of confidence 0.6, then unlabelled."""
    n = 2 + n_unlabelled
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(3, (n, *SHAPE), generator=generator)
    valid = torch.ones(n, *SHAPE)
    valid[1] = 0.6
    valid[2:] = 0.0
    label[2:] = 0
    origin = torch.full((n, *SHAPE), int(Origin.HUMAN), dtype=torch.uint8)
    origin[1] = int(Origin.PROPAGATED)
    return Batch(
        image=torch.randn(n, 1, *SHAPE, generator=generator),
        label=label,
        valid=valid,
        known=(valid > 0)[:, None].expand(n, 3, *SHAPE).clone(),
        origin=origin,
        modality=torch.arange(n) % 2,
        case=tuple(f"case{i}" for i in range(n)),
        n_labelled=2,
        spacing_mm_zyx=(3.0, 2.0, 2.0),
    )


def loss(method: Cascade, given: Batch, progress: float) -> torch.Tensor:
    torch.manual_seed(3)
    return method.losses(given, progress)["network"]


def test_early_the_loss_is_the_supervised_one_of_the_labelled_samples() -> None:
    method, given = plain_cascade(), batch()
    expected = supervised_loss(
        method.network(given.image[:2]), given.label[:2], given.valid[:2], given.known[:2]
    )
    assert loss(method, given, FIRST - 0.01).item() == pytest.approx(expected.item(), rel=1e-6)


def test_late_the_loss_is_the_supervised_one_of_fused_labels() -> None:
    method, given = plain_cascade(), batch()
    share = LAST * 0.5
    progress = FIRST + 0.5 * (1 - FIRST)
    label, valid = given.label.clone(), given.valid.clone()
    scores = share * method.teacher.network(given.image[1:]).detach()
    opinion = torch.full((2, 3, *SHAPE), 1 / 3)
    opinion[0] = 0.4 / 3
    opinion[0].scatter_(0, label[1][None], 0.6 + 0.4 / 3)
    both = (scores + (1 - share) * opinion.log()).softmax(dim=1)
    valid[1:], label[1:] = both.max(dim=1)
    known = torch.ones_like(given.known)
    expected = supervised_loss(method.network(given.image), label, valid, known)
    assert loss(method, given, progress).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_humans_voxels_are_never_told_otherwise() -> None:
    method, given = plain_cascade(), batch()
    told = method._told(given, LAST)
    assert torch.equal(told.label[0], given.label[0])
    assert torch.equal(told.valid[0], given.valid[0])
    assert torch.equal(told.known[0], given.known[0])


def test_the_share_of_the_network_starts_late_and_rises_to_its_last_value() -> None:
    method = cascade()
    shares = [method.share(progress) for progress in (0.0, 0.29, 0.3, 0.65, 1.0)]
    assert shares == pytest.approx([0, 0, 0, LAST / 2, LAST])
    assert cascade("schedule").share(0.31) == cascade("schedule").share(1.0) == 0.5
    assert cascade("network_labels").share(1.0) == 0.0


def test_fusing_multiplies_two_opinions() -> None:
    logits = torch.tensor([[0.0, math.log(4.0), 0.0]]).view(1, 3, 1)
    label, trust = torch.tensor([[2]]), torch.tensor([[0.5]])
    # Carried: 2/3 for class 2, 1/6 for the others; the network: 4/6 for class 1. Half of each.
    scores = torch.tensor([1 / 6, 4 / 6, 1 / 6]).sqrt() * torch.tensor([1 / 6, 1 / 6, 4 / 6]).sqrt()
    found, weight = fused(logits, label, trust, 0.5)
    assert weight.item() == pytest.approx(scores.max().item() / scores.sum().item())
    assert fused(logits, label, trust, 0.6)[0].item() == 1
    assert fused(logits, label, trust, 0.4)[0].item() == 2
    assert found.shape == (1, 1)


def test_a_label_without_trust_says_nothing_and_full_trust_stays_finite() -> None:
    logits = torch.randn(1, 3, 5)
    nothing = torch.zeros(1, 5)
    one, other = (fused(logits, torch.full((1, 5), k), nothing, 0.5) for k in (0, 2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert fused(logits, torch.zeros(1, 5, dtype=torch.int64), nothing + 1, 0.5)[1].isfinite().all()


def test_without_confidence_carried_labels_count_in_full() -> None:
    method, given = plain_cascade(), batch()
    method.ingredients = replace(method.ingredients, confidence=False)
    expected = supervised_loss(
        method.network(given.image[:2]),
        given.label[:2],
        torch.ones_like(given.valid[:2]),
        given.known[:2],
    )
    assert loss(method, given, 0.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_pasting_takes_image_and_labels_of_the_same_box() -> None:
    given = batch(n_unlabelled=0)
    torch.manual_seed(0)
    new = pasted(given)
    for own, other, mixed in (
        (given.image[0, 0], given.image[1, 0], new.image[0, 0]),
        (given.image[1, 0], given.image[0, 0], new.image[1, 0]),
    ):
        there = mixed != own
        assert there.any()
        assert torch.equal(mixed[there], other[there])
    there = new.image[0, 0] != given.image[0, 0]
    assert torch.equal(new.label[0][there], given.label[1][there])
    assert torch.equal(new.valid[0][there], given.valid[1][there])
    assert torch.equal(new.label[0][~there], given.label[0][~there])
    assert 0.02 < there.float().mean() < 0.4


def test_relabelling_leaves_other_samples_and_voxels_alone() -> None:
    given = batch()
    where = torch.zeros(1, *SHAPE, dtype=torch.bool)
    where[0, 0] = True
    rows = torch.tensor([2])
    new = relabelled(given, rows, where, torch.ones(1, *SHAPE).long(), torch.full((1, *SHAPE), 0.9))
    assert torch.equal(new.label[:2], given.label[:2])
    assert (new.label[2, 0] == 1).all()
    assert (new.valid[2, 0] == 0.9).all()
    assert (new.valid[2, 1:] == 0).all()
    assert new.known[2, :, 0].all()
    assert not new.known[2, :, 1:].any()
    assert (given.valid[2] == 0).all()


@pytest.mark.parametrize("name", INGREDIENTS)
def test_each_ingredient_can_be_left_out_and_changes_the_loss(name: str) -> None:
    whole, part = cascade(), cascade(name)
    assert getattr(part.ingredients, name) is False
    progress = 0.4
    values = []
    for method in (whole, part):
        method.recall.known[2] = 0.79  # nearly ready
        torch.manual_seed(11)  # a seed with which a box is pasted and a look is given
        values.append(method.losses(batch(), progress)["network"].item())
    assert values[0] != values[1]


def test_the_teacher_gets_no_gradient_and_follows() -> None:
    method = cascade()
    loss(method, batch(), 0.9).backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    before = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1.0)
    method.after_step(0.9)
    assert any(
        not torch.equal(one, other)
        for one, other in zip(before, method.teacher.parameters(), strict=True)
    )


def test_batches_of_one_sample_and_of_human_labels_alone_are_learned_from() -> None:
    method, given = cascade(), batch(n_unlabelled=0)
    alone = replace(
        given,
        **{
            name: getattr(given, name)[:1]
            for name in ("image", "label", "valid", "known", "origin", "modality")
        },
        case=given.case[:1],
        n_labelled=1,
    )
    assert torch.isfinite(loss(method, alone, 0.1))
    assert torch.isfinite(loss(method, alone, 0.9))


def test_slices_are_learned_from_too() -> None:
    flat = replace(SPEC, strides=((2, 2),))
    given = batch()
    names = ("image", "label", "valid", "known", "origin")
    slices = replace(given, **{name: getattr(given, name)[..., 1, :, :] for name in names})
    value = loss(cascade(spec=flat), slices, 0.9)
    assert torch.isfinite(value)


def test_until_the_network_knows_every_structure_it_learns_as_supervised_ones_do() -> None:
    method, given = unready_cascade(), batch()
    expected = supervised_loss(
        method.network(given.image[:2]), given.label[:2], given.valid[:2], given.known[:2]
    )
    assert loss(method, given, 1.0).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss(unready_cascade("readiness"), given, 1.0).item() != pytest.approx(expected.item())


def test_readiness_rises_with_the_recall_of_the_worst_structure() -> None:
    recall = cascade().recall
    for worst, expected in ((0.4, 0.0), (0.5, 0.0), (0.65, 0.5), (0.8, 1.0), (0.9, 1.0)):
        recall.known[1:] = torch.tensor([0.95, worst])
        assert recall.readiness == pytest.approx(expected, abs=1e-6)


def test_recall_is_the_mean_probability_at_labelled_voxels_weighted_by_trust() -> None:
    recall = cascade().recall
    recall.known.zero_()
    given = batch(n_unlabelled=0)
    chance = torch.tensor([0.2, 0.5, 0.3])
    logits = chance.log().view(1, 3, 1, 1, 1).expand(2, 3, *SHAPE)
    label = given.label.clone()
    label[label == 2] = 1
    recall.see(logits, replace(given, label=label))
    assert recall.known.tolist() == pytest.approx([0.03 * 0.2, 0.03 * 0.5, 0.0])
    unknown = replace(given, label=label, known=torch.zeros_like(given.known))
    recall.see(logits, unknown)
    assert recall.known.tolist() == pytest.approx([0.03 * 0.2, 0.03 * 0.5, 0.0])


def test_what_was_recalled_is_kept_with_checkpoints() -> None:
    method = cascade()
    method.recall.known.copy_(torch.tensor([0.1, 0.2, 0.3]))
    other = cascade()
    other.memory.load_state_dict(method.memory.state_dict())
    assert torch.equal(other.recall.known, method.recall.known)
