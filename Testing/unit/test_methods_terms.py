"""Each term of each method's loss, held against its equation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semiseg.data.batch import Batch
from semiseg.losses import entropy, normalised_entropy, ramp, supervised_loss
from semiseg.methods import bcp, pair
from semiseg.methods.base import Method, MethodSettings, build_method
from semiseg.methods.single import noisy
from semiseg.networks import NetworkSpec
from semiseg.teacher import Teacher

SPEC = NetworkSpec(n_classes=3, channels=(4, 8), strides=((2, 2, 2),), convolutions=(1, 1))


def made(name: str) -> Method:
    torch.manual_seed(0)
    return build_method(name, MethodSettings(network=SPEC))


@pytest.fixture
def batch() -> Batch:
    """One labelled and two unlabelled samples of noise."""
    rng = np.random.default_rng(0)
    shape = (3, 6, 8, 8)
    label = torch.from_numpy(rng.integers(0, 3, shape))
    labelled = (torch.arange(3) < 1).view(3, 1, 1, 1)
    return Batch(
        image=torch.from_numpy(rng.normal(size=(3, 1, *shape[1:]))).float(),
        label=label * labelled,
        valid=labelled.expand(shape).float(),
        known=labelled.unsqueeze(1).expand(3, 3, *shape[1:]),
        origin=labelled.expand(shape).to(torch.uint8),
        modality=torch.zeros(3, dtype=torch.int64),
        case=("a", "b", "c"),
        n_labelled=1,
        spacing_mm_zyx=(3.0, 2.0, 2.0),
    )


def value(method: Method, batch: Batch, progress: float) -> float:
    torch.manual_seed(1)
    return next(iter(method.losses(batch, progress).values())).item()


def supervised_part(network: nn.Module, batch: Batch) -> Tensor:
    return supervised_loss(network(batch.image), batch.label, batch.valid, batch.known)


def shifted(method: Method) -> Method:
    """The method with another teacher than its student."""
    with torch.no_grad():
        for parameter in method.teacher.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.05)
    return method


def test_entropy_of_certain_and_even_probabilities() -> None:
    probability = torch.tensor([[[1.0, 1 / 3], [0.0, 1 / 3], [0.0, 1 / 3]]])
    assert entropy(probability)[0].tolist() == pytest.approx([0, math.log(3)], abs=1e-6)
    assert normalised_entropy(probability)[0].tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_entropy_is_added_to_supervision_by_its_ramp(batch: Batch, progress: float) -> None:
    method = made("entropy")
    network = method.modules["network"]
    extra = normalised_entropy(network(batch.image).softmax(dim=1)).mean()
    expected = supervised_part(network, batch) + 0.1 * ramp(progress, 1.0) * extra
    assert value(method, batch, progress) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_mean_teacher_adds_the_squared_difference_to_the_noisy_teacher(
    batch: Batch, progress: float
) -> None:
    method = shifted(made("mean_teacher"))
    student = method.modules["network"](batch.image).softmax(dim=1)
    torch.manual_seed(1)
    teacher = method.modules["teacher"](noisy(batch.image)).softmax(dim=1)
    extra = (student - teacher).square().mean()
    expected = supervised_part(method.modules["network"], batch) + 0.1 * ramp(progress, 1) * extra
    assert extra.item() > 1e-4
    assert value(method, batch, progress) == pytest.approx(expected.item(), rel=1e-5)


def test_noise_is_small_and_clipped() -> None:
    torch.manual_seed(0)
    added = noisy(torch.zeros(10_000))
    assert added.abs().max() == pytest.approx(0.2)
    assert added.std() == pytest.approx(0.096, abs=0.005)


def test_ua_mt_counts_only_voxels_where_the_teacher_is_sure(batch: Batch) -> None:
    method = made("ua_mt")
    only_supervision = supervised_part(method.modules["network"], batch).item()
    # Nothing is sure of a teacher that says the same of every class ...
    head = method.modules["teacher"].network.head
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    assert value(method, batch, 0.5) == pytest.approx(only_supervision, rel=1e-6)
    # ... and everything is of one that always says the same class.
    head.bias.data[0] = 20.0
    student = method.modules["network"](batch.image).softmax(dim=1)
    truth = torch.zeros_like(student)
    truth[:, 0] = 1
    extra = (student - truth).square().mean()
    expected = only_supervision + 0.1 * ramp(0.5, 1.0) * extra.item()
    assert value(method, batch, 0.5) == pytest.approx(expected, rel=1e-4)


def test_ua_mt_becomes_less_strict(batch: Batch) -> None:
    method = made("ua_mt")
    head = method.modules["teacher"].network.head
    nn.init.zeros_(head.weight)
    # Entropy 0.95 ln 3: unsure in the beginning (limit 0.75), sure in the end (limit 1).
    head.bias.data = torch.tensor([0.6, 0.0, 0.0])
    share = float(entropy(head.bias.softmax(0)[None, :, None])) / math.log(3)
    assert 0.8 < share < 0.99
    only_supervision = supervised_part(method.modules["network"], batch).item()
    assert value(method, batch, 0.1) == pytest.approx(only_supervision, rel=1e-6)
    assert value(method, batch, 1.0) > only_supervision + 1e-3


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_cross_pseudo_supervision_adds_both_directions(batch: Batch, progress: float) -> None:
    method = made("cross_pseudo")
    one, other = method.modules["one"], method.modules["other"]
    a, b = one(batch.image), other(batch.image)
    mutual = nn.functional.cross_entropy(a, b.argmax(1)) + nn.functional.cross_entropy(
        b, a.argmax(1)
    )
    supervised = supervised_part(one, batch) + supervised_part(other, batch)
    expected = supervised + 0.1 * ramp(progress, 1.0) * mutual
    assert value(method, batch, progress) == pytest.approx(expected.item(), rel=1e-5)


def test_cross_pseudo_networks_differ_and_predict_together(batch: Batch) -> None:
    method = made("cross_pseudo")
    one, other = (network(batch.image).softmax(1) for network in method.modules.values())
    assert not torch.equal(one, other)
    assert torch.allclose(method.predict(batch.image).exp(), (one + other) / 2, atol=1e-6)


def test_box_covers_two_thirds_of_each_side() -> None:
    torch.manual_seed(0)
    box = bcp.random_box(torch.Size((9, 12, 30)))
    assert [int(box.any(dim=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [6, 8, 20]
    assert int(box.sum()) == 6 * 8 * 20


def test_box_lies_anywhere() -> None:
    torch.manual_seed(0)
    starts = {int(bcp.random_box(torch.Size((9,))).int().argmax()) for _ in range(50)}
    assert starts == {0, 1, 2, 3}


def test_largest_piece_of_each_class_is_kept_in_each_sample() -> None:
    label = torch.tensor([[1, 0, 1, 1, 0, 2, 2, 0, 2], [2, 2, 0, 1, 0, 1, 1, 0, 0]])
    kept = bcp.largest_pieces(label)
    assert kept.tolist() == [[0, 0, 1, 1, 0, 2, 2, 0, 0], [2, 2, 0, 0, 0, 1, 1, 0, 0]]


def test_copy_paste_takes_targets_from_the_part_that_they_belong_to(batch: Batch) -> None:
    """With perfect teacher and student the only loss left is that of the labelled parts."""
    method = made("bcp")
    seen: list[dict[str, Tensor]] = []
    original = bcp.paste

    def spy(inside: bcp.Samples, outside: bcp.Samples, box: Tensor) -> bcp.Samples:
        seen.append(original(inside, outside, box) | {"box": box})
        return seen[-1]

    bcp.paste = spy  # type: ignore[assignment]
    try:
        value(method, batch, 0.9)
    finally:
        bcp.paste = original
    first, second = seen
    box = first["box"]
    taught = bcp.largest_pieces(method.modules["teacher"](batch.image[1:2]).argmax(1))
    assert torch.equal(first["image"][0, 0][box], batch.image[1, 0][box])
    assert torch.equal(first["image"][0, 0][~box], batch.image[0, 0][~box])
    assert torch.equal(first["label"][0][box], taught[0][box])
    assert torch.equal(first["label"][0][~box], batch.label[0][~box])
    assert first["valid"][0][box].unique().tolist() == [0.5]
    assert first["valid"][0][~box].unique().tolist() == [1.0]
    assert bool(first["known"].all())
    assert torch.equal(second["image"][0, 0][box], batch.image[0, 0][box])
    assert second["valid"][0][~box].unique().tolist() == [0.5]


def test_copy_paste_first_mixes_labelled_samples_alone(batch: Batch) -> None:
    method = made("bcp")
    early = value(method, batch, 0.1)
    changed = replace(batch, image=batch.image.clone())
    changed.image[1:] += 5
    assert value(method, changed, 0.1) == early
    assert value(method, changed, 0.9) != value(method, batch, 0.9)


def test_teacher_is_the_running_mean_of_its_student() -> None:
    student = nn.Linear(1, 1)
    teacher = Teacher(student, decay=0.75)
    start = student.weight.item()
    mean = start
    for step, weight in enumerate([1.0, 2.0, 3.0, 4.0, 5.0], start=1):
        student.weight.data.fill_(weight)
        teacher.follow(student)
        decay = min(1 - 1 / (step + 1), 0.75)
        mean = decay * mean + (1 - decay) * weight
    assert teacher.network.weight.item() == pytest.approx(mean)


def test_teacher_gets_no_gradient(batch: Batch) -> None:
    for name in ("mean_teacher", "ua_mt", "bcp"):
        method = made(name)
        method.losses(batch, 0.9)["network"].backward()
        assert all(p.grad is None for p in method.modules["teacher"].parameters())


def test_cross_teaching_losses_have_the_hand_computed_values(batch: Batch) -> None:
    logits = torch.tensor([[0.6, 0.4], [0.3, 0.7]]).log().T[None]
    label = torch.tensor([[0, 1]])
    assert pair.pseudo_dice(logits, label).item() == pytest.approx(0.1619634186, abs=1e-6)
    ones = torch.ones(1, 2)
    two = replace(batch, label=label, valid=ones, known=torch.ones(1, 2, 2, dtype=torch.bool))
    assert pair.half_and_half(logits, two).item() == pytest.approx(0.2978568513, abs=1e-6)
    assert pair.teaching_weight(0.5) == pytest.approx(0.02865048, abs=1e-8)


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_cross_teaching_gives_each_network_its_own_loss(batch: Batch, progress: float) -> None:
    method = made("cross_teaching")
    logits = {name: network(batch.image) for name, network in method.modules.items()}
    found = method.losses(batch, progress)
    for name, other in (("cnn", "transformer"), ("transformer", "cnn")):
        own = pair.half_and_half(logits[name], batch)
        pseudo = logits[other][1:].argmax(1)
        extra = pair.pseudo_dice(logits[name][1:], pseudo)
        expected = own + pair.teaching_weight(progress) * extra
        assert found[name].item() == pytest.approx(expected.item(), rel=1e-5)


def labelled_part(batch: Batch) -> Batch:
    return replace(
        batch,
        **{n: getattr(batch, n)[:1] for n in ("image", "label", "valid", "known", "origin")},
        modality=batch.modality[:1],
        case=("a",),
    )


def test_cross_teaching_without_unlabelled_samples_is_supervised(batch: Batch) -> None:
    method = made("cross_teaching")
    alone = labelled_part(batch)
    assert value(method, alone, 0.0) == value(method, alone, 1.0)


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt"])
def test_teachers_are_not_asked_about_labelled_samples_alone(
    batch: Batch, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, alone = made(name), labelled_part(batch)
    monkeypatch.setattr(method, "taught", None)
    expected = supervised_part(method.modules["network"], alone).item()
    assert value(method, alone, 0.9) == pytest.approx(expected, rel=1e-6)


def test_copy_paste_without_unlabelled_samples_goes_on_among_labelled_ones(batch: Batch) -> None:
    method, alone = made("bcp"), labelled_part(batch)
    assert value(method, alone, 0.9) == value(method, alone, 0.1)


@pytest.mark.parametrize(("sparing", "looks"), [(False, 8), (True, 2)])
def test_ua_mt_looks_less_often_when_sparing(
    batch: Batch, sparing: bool, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MethodSettings(network=SPEC, sparing=sparing)
    method = build_method("ua_mt", settings)
    asked: list[Tensor] = []
    original = method.taught  # type: ignore[attr-defined]

    def taught(image: Tensor) -> Tensor:
        asked.append(image)
        return original(image)

    monkeypatch.setattr(method, "taught", taught)
    value(method, batch, 0.5)
    assert len(asked) == looks
