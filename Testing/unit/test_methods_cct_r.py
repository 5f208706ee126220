"""CCT-R: each of its five terms against its equation, the bank, and what is drawn from where."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semiseg.data.batch import Batch
from semiseg.feature_bank import Entries, case_number
from semiseg.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from semiseg.learning.learner import Learner
from semiseg.methods import cct_r, pair
from semiseg.methods.base import MethodSettings
from semiseg.networks import NetworkSpec
from semiseg.study.case import Origin

SPEC = NetworkSpec(n_classes=3, channels=(4, 8), strides=((2, 2, 2),), convolutions=(1, 1))
SETTINGS = MethodSettings(network=SPEC, learning_rate=1e-3)
SHAPE = (4, 6, 8, 8)


@pytest.fixture
def batch() -> Batch:
    """Two labelled samples, the second by registration at confidence 0.6; two unlabelled ones."""
    rng = np.random.default_rng(0)
    labelled = (torch.arange(4) < 2).view(4, 1, 1, 1)
    confidence = torch.tensor([1.0, 0.6, 0.0, 0.0]).view(4, 1, 1, 1)
    origin = torch.tensor([Origin.HUMAN, Origin.PROPAGATED, 0, 0], dtype=torch.uint8)
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE[1:]), indexing="ij")
    return Batch(
        image=torch.from_numpy(rng.normal(size=(4, 1, *SHAPE[1:]))).float(),
        label=torch.from_numpy(rng.integers(0, 3, SHAPE)) * labelled,
        valid=confidence.expand(SHAPE).clone(),
        known=labelled.unsqueeze(1).expand(4, 3, *SHAPE[1:]),
        origin=origin.view(4, 1, 1, 1).expand(SHAPE),
        modality=torch.zeros(4, dtype=torch.int64),
        case=("a", "b", "c", "d"),
        n_labelled=2,
        spacing_mm_zyx=(3.0, 2.0, 2.0),
        place=torch.stack([2 * x, 2 * y, 3 * z]).expand(4, 3, *SHAPE[1:]),
    )


def made() -> cct_r.RegistrationGuidedTeaching:
    torch.manual_seed(0)
    return cct_r.RegistrationGuidedTeaching(SETTINGS)


def seeded() -> cct_r.RegistrationGuidedTeaching:
    """With something in its bank, at the places of the batch, of another case."""
    method = made()
    place = torch.tensor([[0.0, 0.0, 0.0], [8.0, 8.0, 9.0], [2.0, 10.0, 6.0]])
    feature = torch.nn.functional.normalize(torch.randn(3, cct_r.PROJECTED), dim=1)
    label, case = torch.tensor([0, 1, 2]), torch.full((3,), case_number("z"))
    method.bank.add(Entries(feature=feature, place=place, label=label, case=case))
    return method


def value(method: cct_r.RegistrationGuidedTeaching, batch: Batch, progress: float) -> float:
    torch.manual_seed(1)
    return method.losses(batch, progress)["all"].item()


def terms(
    method: cct_r.RegistrationGuidedTeaching, batch: Batch, progress: float
) -> dict[str, float]:
    """Each term by its own equation, the contrast from the anchors that the method drew."""
    value(method, batch, progress)
    assert method._fresh is not None
    anchors = method._fresh
    logits = {name: network(batch.image) for name, network in method.networks.items()}
    human = replace(batch, valid=batch.valid * (batch.origin == Origin.HUMAN))
    carried = replace(batch, valid=batch.valid * (batch.origin == Origin.PROPAGATED))
    return {
        "supervised": sum(pair.half_and_half(x, human).item() for x in logits.values()),
        "carried": sum(pair.half_and_half(x, carried).item() for x in logits.values()),
        "taught": sum(
            pair.pseudo_dice(logits[a][2:], logits[b][2:].argmax(1)).item() for a, b in pair.PAIR
        ),
        "classes": cct_r.class_contrast(anchors).item(),
        "places": method.place_contrast(anchors, 3 * 12 ** (1 / 3)).item(),
    }


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_loss_is_the_sum_of_its_five_terms(batch: Batch, progress: float) -> None:
    method = seeded()
    found = terms(method, batch, progress)
    assert min(found.values()) > 1e-3  # so that a missing one would show
    expected = (
        found["supervised"]
        + pair.teaching_weight(progress) * found["taught"]
        + (1 - 0.9 * progress) * found["carried"]
        + 0.1 * (found["classes"] + found["places"])
    )
    assert value(method, batch, progress) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("spacing", "reach"), [((1.0, 1.0, 1.0), 3.0), ((0.2,) * 3, 2.0), ((10.0, 3.0, 3.0), 8.0)]
)
def test_counterparts_lie_within_three_voxels(batch: Batch, spacing: Any, reach: float) -> None:
    assert cct_r.reach_mm(replace(batch, spacing_mm_zyx=spacing)) == pytest.approx(reach)


def test_carried_labels_count_less_and_less(batch: Batch) -> None:
    assert [cct_r.transfer_weight(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1])
    human, carried = cct_r.by_origin(batch)
    assert human.valid.flatten(1).sum(1).tolist() == [6 * 8 * 8, 0, 0, 0]
    assert carried.valid.flatten(1).amax(1).tolist() == pytest.approx([0, 0.6, 0, 0])


def test_classes_are_a_humans_else_a_sure_partners(batch: Batch) -> None:
    human, _ = cct_r.by_origin(batch)
    partner = torch.zeros(4, 3, *SHAPE[1:])
    partner[2, 1] = 9.0  # sure of class 1 in the third sample, of nothing in the others
    classes = cct_r.classes_of(human, partner, 0.5)
    assert torch.equal(classes[0], batch.label[0])
    assert classes[1].unique().tolist() == [-1]
    assert classes[2].unique().tolist() == [1]
    assert classes[3].unique().tolist() == [-1]
    assert cct_r.classes_of(human, partner, 0.07)[2].unique().tolist() == [-1]


def test_what_is_known_for_some_structures_only_is_nobodys_class(batch: Batch) -> None:
    known = batch.known.clone()
    known[0, 2] = False
    human, _ = cct_r.by_origin(replace(batch, known=known))
    assert (cct_r.classes_of(human, torch.zeros(4, 3, *SHAPE[1:]), 0.5) == -1).all()


def test_anchors_are_drawn_evenly_among_classes() -> None:
    torch.manual_seed(0)
    classes = torch.full((2, 10, 100), -1)
    classes[0, 0, :3], classes[1] = 1, 2
    drawn = cct_r.draw_evenly(classes, 3)
    label = classes.flatten()[drawn]
    assert 50 <= int((label == 2).sum()) <= cct_r.ANCHORS_PER_CLASS
    assert int((label == 1).sum()) == 3
    assert (label >= 0).all()
    assert len(cct_r.draw_evenly(torch.full((1, 4, 4), -1), 3)) == 0


def test_anchors_know_case_class_and_place(batch: Batch) -> None:
    method = made()
    value(method, batch, 0.0)
    anchors = method._fresh
    assert anchors is not None
    assert set(anchors.case.tolist()) == {case_number("a")}
    for place, label in zip(anchors.place, anchors.label, strict=True):
        x, y, z = (place / torch.tensor([2.0, 2.0, 3.0])).long().tolist()
        assert batch.label[0, z, y, x] == label
    assert torch.allclose(anchors.feature.norm(dim=1), torch.ones(len(anchors.label)))


def test_without_places_only_the_contrast_of_places_is_missing(batch: Batch) -> None:
    method = seeded()
    found = terms(method, batch, 0.5)
    nowhere = value(method, replace(batch, place=None), 0.5)
    assert value(method, batch, 0.5) - nowhere == pytest.approx(0.1 * found["places"], rel=1e-3)


def test_negatives_are_of_other_classes(batch: Batch) -> None:
    method = seeded()
    feature = torch.nn.functional.normalize(torch.randn(1, cct_r.PROJECTED), dim=1)
    place, case = torch.zeros(1, 3), torch.tensor([case_number("a")])
    kept = method.bank.entries.feature
    for label in range(3):
        anchor = Entries(feature=feature, place=place, label=torch.tensor([label]), case=case)
        others = [i for i in range(3) if i != label]
        scores = torch.stack([feature[0] @ kept[i] / 0.1 for i in [0, *others]])
        expected = scores.logsumexp(0) - scores[0]
        assert method.place_contrast(anchor, 6.0).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_contrast_reaches_both_networks_and_projectors(batch: Batch) -> None:
    method = seeded()
    features = {n: net.features(batch.image) for n, net in method.networks.items()}
    human, _ = cct_r.by_origin(batch)
    for name, found in features.items():
        anchors = method._anchors(
            batch, name, found, cct_r.classes_of(human, torch.zeros(4, 3, *SHAPE[1:]), 0)
        )
        for loss in (cct_r.class_contrast(anchors), method.place_contrast(anchors, 6.0)):
            method.modules.zero_grad()
            loss.backward(retain_graph=True)
            for module in (method.networks[name].down[0], method.modules[f"{name}_projector"]):
                assert all(float(p.grad.abs().sum()) > 0 for p in module.parameters())  # type: ignore[union-attr]


def test_pseudo_labels_carry_no_gradient(batch: Batch) -> None:
    method = made()
    blind = replace(batch, valid=torch.zeros_like(batch.valid))
    value(method, blind, 1.0)
    loss = method.losses(blind, 1.0)["all"]
    loss.backward()
    frozen = made()
    for p in frozen.networks["transformer"].parameters():
        p.requires_grad_(requires_grad=False)
    torch.manual_seed(1)
    frozen.losses(blind, 1.0)["all"].backward()
    own = frozen.networks["cnn"].head.weight.grad
    assert own is not None
    assert torch.allclose(own, method.networks["cnn"].head.weight.grad, atol=1e-7)  # type: ignore[arg-type]


def test_the_bank_is_filled_after_the_step_and_not_before(batch: Batch) -> None:
    method = made()
    value(method, batch, 0.5)
    assert int(method.bank.n_added) == 0
    method.after_step(0.5)
    filled = int(method.bank.n_added)
    assert filled > 0
    method.after_step(0.5)
    assert int(method.bank.n_added) == filled


def test_the_transformer_learns_at_half_the_rate() -> None:
    groups = made().optimizers()["all"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 5e-4, 1e-3, 1e-3])


def test_the_bank_is_in_the_checkpoint_and_not_in_the_model(batch: Batch, tmp_path: Path) -> None:
    """Three steps, or two, a checkpoint and one: the same bits."""
    whole = Learner("cct_r", SETTINGS, torch.device("cpu"), seed=3)
    for _ in range(2):
        whole.learn(batch, 0.5)
    saved = tmp_path / "checkpoint.safetensors"
    save_checkpoint(saved, Checkpoint(tensors=whole.tensors(), values={}))
    found = load_checkpoint(saved)
    assert found is not None
    resumed = Learner("cct_r", SETTINGS, torch.device("cpu"), seed=3)
    resumed.restore(found, 2)
    others = replace(batch, case=("e", "f", "g", "h"))  # what is in the bank are their counterparts
    assert math.isfinite(float(whole.learn(others, 0.6)))
    resumed.learn(others, 0.6)
    for name, tensor in whole.method.bank.state_dict().items():  # type: ignore[attr-defined]
        other = resumed.method.bank.state_dict()[name]  # type: ignore[attr-defined]
        assert torch.equal(tensor.nan_to_num(), other.nan_to_num())
    for name, tensor in whole.method.modules.state_dict().items():
        assert torch.equal(tensor, resumed.method.modules.state_dict()[name])
    assert not any("bank" in name for name in whole.mean)
