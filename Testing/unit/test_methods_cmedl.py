"""CMEDL: who learns from what, what the hint moves, and what each modality is segmented by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from semiseg.config import PredictConfig, TrainConfig
from semiseg.data.batch import Batch
from semiseg.errors import ConfigError
from semiseg.inference import predict
from semiseg.learning.checkpoint import Checkpoint
from semiseg.learning.learner import Learner
from semiseg.losses import supervised_loss
from semiseg.methods.base import MethodSettings, build_method, method_class
from semiseg.methods.cmedl import (
    HINT_WEIGHT,
    SEGMENTATION_WEIGHT,
    ConcurrentDistillation,
    hint,
    rows_of,
    teacher_of,
)
from semiseg.models import load_model
from semiseg.networks import NetworkSpec
from semiseg.trainer import train

SPEC = NetworkSpec(
    n_classes=3, channels=(4, 8, 8), strides=((2, 2), (2, 2)), convolutions=(1, 1, 1)
)
DEEP = replace(SPEC, strides=((2, 2, 2), (2, 2, 2)))
CPU = torch.device("cpu")
BOTH = {"CT": 2, "MR": 2}
CT_ONLY = {"CT": 3}


def batch_of(
    modality: tuple[int, ...], n_labelled: int, shape: tuple[int, ...] = (8, 16), seed: int = 0
) -> Batch:
    """Random images and labels; 0 CT, 1 MR."""
    generator = torch.Generator().manual_seed(seed)
    n = len(modality)
    labelled = (torch.arange(n) < n_labelled).view(n, *(1,) * len(shape))
    valid = labelled.expand(n, *shape).float().clone()
    label = torch.randint(3, (n, *shape), generator=generator) * labelled
    return Batch(
        image=torch.rand(n, 1, *shape, generator=generator) * 2 - 1,
        label=label,
        valid=valid,
        known=(valid > 0)[:, None].expand(n, 3, *shape).clone(),
        origin=valid.to(torch.uint8),
        modality=torch.tensor(modality),
        case=tuple(map(str, range(n))),
        n_labelled=n_labelled,
        spacing_mm_zyx=(3.0, 2.0, 2.0),
    )


def made(name: str = "cmedl", labelled: dict | None = None, spec: NetworkSpec = SPEC) -> Any:
    torch.manual_seed(0)
    settings = MethodSettings(network=spec, labelled=BOTH if labelled is None else labelled)
    method = build_method(name, settings)
    for index, network in enumerate(method.networks.values()):
        torch.manual_seed(index)  # apart, as they are once they have learned
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return method


def terms_of(method: Any, batch: Batch) -> dict:
    rows = rows_of(batch)
    images = {m: batch.image[rows[m]] for m in rows}
    return method.network_terms(batch, rows, method.translation(images))


def touched(method: Any, loss: torch.Tensor) -> set[str]:
    """Which parts `loss` has a gradient in."""
    found = set()
    for name, part in method.modules.items():
        parameters = list(part.parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        if any(g is not None and g.abs().sum() > 0 for g in gradients):
            found.add(name)
    return found


def test_the_modality_with_more_labels_teaches_and_mr_where_there_is_no_difference() -> None:
    assert teacher_of("auto", {"CT": 3, "MR": 1}) == "CT"
    assert teacher_of("auto", {"MR": 1}) == teacher_of("auto", {}) == "MR"
    assert teacher_of("auto", {"CT": 2, "MR": 2}) == "MR"
    assert teacher_of("CT", {"MR": 5}) == "CT"
    assert teacher_of("MR", {"CT": 5}) == "MR"
    assert made(labelled=CT_ONLY).student == "MR"
    assert made("cmedl+teacher=CT").student == "MR"


@pytest.mark.parametrize("segmentation", ["unet", "residual", "dense"])
def test_both_networks_begin_alike_and_share_nothing(segmentation: str) -> None:
    method: Any = build_method(f"cmedl+segmentation={segmentation}", MethodSettings(network=SPEC))
    ct, mr = (network.state_dict() for network in method.networks.values())
    assert all(torch.equal(ct[name], mr[name]) for name in ct)
    assert not {tensor.data_ptr() for tensor in ct.values()} & {t.data_ptr() for t in mr.values()}


def test_translation_learns_at_a_third_of_the_rate_with_the_published_momentum() -> None:
    optimizers = made().optimizers()
    groups = {name: optimizer.param_groups[0] for name, optimizer in optimizers.items()}
    assert groups["networks"]["lr"] == pytest.approx(1e-3)
    for name in ("generators", "discriminators"):
        assert groups[name]["lr"] == pytest.approx(1e-3 / 3)
        assert groups[name]["betas"] == (0.5, 0.999)


def test_hint_has_the_known_value_and_does_not_grow_with_the_image() -> None:
    student, teacher = torch.ones(3), torch.tensor([1.0, 2.0, 3.0])
    assert float(hint([student], [teacher])) == pytest.approx(5 / 3)
    both = hint([student, student], [teacher, teacher.repeat(1)])
    assert float(both) == pytest.approx(10 / 3)
    assert float(hint([student.repeat(9)], [teacher.repeat(9)])) == pytest.approx(5 / 3)
    assert hint([student[:0]], [teacher[:0]]) == 0


@pytest.mark.parametrize("spec", [SPEC, DEEP])
def test_hint_reaches_the_student_and_when_concurrent_the_teacher(spec: NetworkSpec) -> None:
    batch = batch_of((0, 1, 0, 1), 2, (8, 16) if spec is SPEC else (4, 8, 16))
    method = made(spec=spec)
    assert touched(method, terms_of(method, batch)["hint"]) == {"CT", "MR"}
    alone = made("cmedl+concurrent=off", spec=spec)
    assert touched(alone, terms_of(alone, batch)["hint"]) == {"CT"}
    other_way = made("cmedl+concurrent=off+teacher=CT", spec=spec)
    assert touched(other_way, terms_of(other_way, batch)["hint"]) == {"MR"}


@pytest.mark.parametrize("labelled", [BOTH, CT_ONLY, {"MR": 2}])
def test_each_optimizer_moves_its_own_part_alone(labelled: dict) -> None:
    method = made(labelled=labelled)
    losses = method.losses(batch_of((0, 1, 0, 1), 2), 0.5)
    assert touched(method, losses["networks"]) == {"CT", "MR"}
    translation = method.translation
    generators = list(translation.generators.parameters())
    discriminators = list(translation.discriminators.parameters())
    for name, parameters in (("networks", generators), ("discriminators", generators)):
        gradients = torch.autograd.grad(
            losses[name], parameters, retain_graph=True, allow_unused=True
        )
        assert all(gradient is None for gradient in gradients)
    for name, own in (("generators", generators), ("discriminators", discriminators)):
        gradients = torch.autograd.grad(losses[name], own, retain_graph=True, allow_unused=True)
        assert all(gradient is not None for gradient in gradients)


def test_a_step_moves_each_part_as_its_own_loss_says() -> None:
    """Generators take the same step whatever the discriminators' and networks' losses are."""
    batch = batch_of((0, 1, 0, 1), 2)

    def step(*, without: tuple[str, ...]) -> dict:
        learner = Learner("cmedl", MethodSettings(network=SPEC, labelled=BOTH), CPU, seed=3)
        method: Any = learner.method
        whole = method.losses
        method.losses = lambda *given: {
            name: loss * (0.0 if name in without else 1.0) for name, loss in whole(*given).items()
        }
        learner.learn(batch, 0.5)
        return {name: tensor.clone() for name, tensor in method.modules.state_dict().items()}

    full = step(without=())
    for part, others in (
        ("translation.generators", ("discriminators", "networks")),
        ("translation.discriminators", ("generators", "networks")),
    ):
        alone = step(without=others)
        assert all(torch.equal(full[n], alone[n]) for n in full if n.startswith(part))


def expected_terms(method: Any, batch: Batch, *, borrowed: bool) -> dict[str, float]:
    """What the teacher MR and the student CT learn from, one sample after the other."""
    plain, generators = batch.image, method.translation.generators
    ct = [i for i, m in enumerate(batch.modality) if m == 0]
    mr = [i for i, m in enumerate(batch.modality) if m == 1]
    to_mr = {i: generators["MR"](plain[i : i + 1])[0] for i in ct}
    to_ct = {i: generators["CT"](plain[i : i + 1])[0] for i in mr}
    seen_mr = {i: plain[i : i + 1] for i in mr} | to_mr
    seen_ct = {i: plain[i : i + 1] for i in ct} | (to_ct if borrowed else {})

    def loss(network: Any, seen: dict) -> float:
        order = [i for i in seen if i < batch.n_labelled]
        logits = torch.cat([network(seen[i]) for i in order])
        known = (batch.label[order], batch.valid[order], batch.known[order])
        return supervised_loss(logits, *known).item()

    student, teacher = method.networks["CT"], method.networks["MR"]
    levels = [
        (a, b)
        for i in ct
        for a, b in zip(
            student.pyramid(plain[i : i + 1])[:2], teacher.pyramid(to_mr[i])[:2], strict=True
        )
    ]
    squared = sum((a - b).square().mean().item() for a, b in levels) / len(ct)
    return {"teacher": loss(teacher, seen_mr), "student": loss(student, seen_ct), "hint": squared}


@pytest.mark.parametrize(
    ("labelled", "modality"), [(BOTH, (0, 1, 0, 1)), (BOTH, (1, 0, 1, 0)), ({"MR": 1}, (1, 1, 0))]
)
def test_networks_learn_from_real_and_translated_images(
    labelled: dict, modality: tuple[int, ...]
) -> None:
    method, batch = made(labelled=labelled), batch_of(modality, 2)
    expected = expected_terms(method, batch, borrowed="CT" not in labelled)
    found = {name: term.item() for name, term in terms_of(method, batch).items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_losses_are_the_weighted_sums_of_their_terms() -> None:
    method, batch = made(), batch_of((0, 1, 0, 1), 2)
    assert (SEGMENTATION_WEIGHT, HINT_WEIGHT) == (5, 1)
    terms = {name: term.item() for name, term in terms_of(method, batch).items()}
    total = 5 * (terms["teacher"] + terms["student"]) + terms["hint"]
    losses = method.losses(batch, 0.5)
    assert losses["networks"].item() == pytest.approx(total, rel=1e-5)
    rows = rows_of(batch)
    found = method.translation({m: batch.image[rows[m]] for m in rows})
    assert torch.equal(losses["generators"], method.translation.generator_loss(found))
    assert torch.equal(losses["discriminators"], method.translation.discriminator_loss(found))


def test_labels_of_one_modality_teach_the_network_of_the_other() -> None:
    method = made(labelled=CT_ONLY)
    batch = batch_of((0, 0, 1, 0), 2)
    assert touched(method, terms_of(method, batch)["student"]) == {"MR"}
    assert made()._borrows is False
    unlabelled_student = terms_of(made(), batch_of((1, 1, 0, 1), 2))["student"]
    assert unlabelled_student.item() == 0


def test_unchanged_grey_values_are_translated_and_changed_ones_segmented() -> None:
    method, batch = made(), batch_of((0, 1, 0, 1), 2)
    plain = replace(batch, plain=batch.image / 2)
    without, with_plain = method.losses(batch, 0.5), method.losses(plain, 0.5)
    assert not torch.equal(without["generators"], with_plain["generators"])
    only = replace(batch, image=torch.zeros_like(batch.image), plain=batch.image / 2)
    assert torch.equal(method.losses(only, 0.5)["generators"], with_plain["generators"])
    assert not torch.equal(method.losses(only, 0.5)["networks"], with_plain["networks"])


@pytest.mark.parametrize("modality", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("labelled", [BOTH, CT_ONLY])
def test_batches_of_any_modalities_are_learned_from(
    modality: tuple[int, ...], labelled: dict
) -> None:
    learner = Learner("cmedl", MethodSettings(network=SPEC, labelled=labelled), CPU, seed=0)
    for n_labelled in (1, 2):
        assert torch.isfinite(learner.learn(batch_of(modality, n_labelled), 0.3))


def test_each_modality_is_segmented_by_its_own_network_alone() -> None:
    method = made()
    image = batch_of((0, 0), 1).image
    for modality, network in method.networks.items():
        assert torch.equal(method.predictor(modality)(image), network(image))
    before = method.predictor("CT")(image)
    for parameter in (*method.networks["MR"].parameters(), *method.translation.parameters()):
        torch.nn.init.constant_(parameter, torch.nan)
    assert torch.equal(method.predictor("CT")(image), before)
    assert torch.equal(method.predict(image), before)


@pytest.mark.parametrize("segmentation", ["unet", "residual", "dense"])
@pytest.mark.parametrize("translation", ["residual", "variational"])
@pytest.mark.parametrize("spec", [SPEC, DEEP])
def test_each_network_goes_with_each_translation(
    segmentation: str, translation: str, spec: NetworkSpec
) -> None:
    name = f"cmedl+segmentation={segmentation}+translation={translation}"
    learner = Learner(name, MethodSettings(network=spec, labelled=BOTH), CPU, seed=0)
    shape = (8, 16) if spec is SPEC else (4, 8, 16)
    assert torch.isfinite(learner.learn(batch_of((0, 1, 0, 1), 2, shape), 0.3))
    assert learner.method.predict(torch.rand(1, 1, *shape)).shape == (1, 3, *shape)


def test_a_restored_run_goes_on_to_the_bit() -> None:
    name = "cmedl+translation=variational"
    settings = MethodSettings(network=SPEC, labelled=BOTH)
    batches = [batch_of((0, 1, 0, 1), 2, seed=i) for i in range(4)]
    one, other = (Learner(name, settings, CPU, seed=1) for _ in range(2))
    for batch in batches[:2]:
        one.learn(batch, 0.2)
    saved = {name: tensor.clone() for name, tensor in one.tensors().items()}
    other.restore(Checkpoint(tensors=saved, values={}), 2)
    for batch in batches[2:]:
        assert torch.equal(one.learn(batch, 0.4), other.learn(batch, 0.4))
    left, right = one.method.modules.state_dict(), other.method.modules.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_options_are_checked_and_told() -> None:
    assert method_class("cmedl+teacher=CT") is ConcurrentDistillation
    assert made("cmedl").option("translation") == "residual"
    assert made("cmedl+translation=variational").option("translation") == "variational"
    with pytest.raises(ConfigError, match="no option teacher=PET; it has segmentation=unet"):
        method_class("cmedl+teacher=PET")
    with pytest.raises(ConfigError, match="no option deep=; it has none"):
        method_class("supervised+deep")
    with pytest.raises(ConfigError, match="there is no method 'magic'"):
        method_class("magic+teacher=CT")


def test_a_study_with_one_modality_is_told_what_is_missing(phantom_study: Any) -> None:
    study = phantom_study(("CT", "CT"))
    config = TrainConfig(method="cmedl", minutes=None, steps=1, device="cpu")
    with pytest.raises(ConfigError, match="all 2 training scans are CT; add MR scans"):
        train(study, config)


def test_a_training_tells_which_scans_have_labels_and_brings_what_cmedl_asks_for(
    phantom_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Batch]] = []
    losses = ConcurrentDistillation.losses

    def watched(method: Any, batch: Batch, progress: float) -> Any:
        seen.append((method, batch))
        return losses(method, batch, progress)

    monkeypatch.setattr(ConcurrentDistillation, "losses", watched)
    config = TrainConfig(method="cmedl", minutes=None, steps=3, device="cpu", validation="none")
    train(phantom_study(("CT", "MR"), annotated=1), config)
    assert len(seen) == 3
    for method, batch in seen:
        assert method.settings.labelled == {"CT": 1}
        assert (method.teacher, method.student) == ("CT", "MR")
        assert batch.plain is not None
        assert not batch.modality[: batch.n_labelled].any()
        assert batch.modality[batch.n_labelled :].sum() == 1


def test_a_trained_model_has_a_network_for_each_modality(phantom_study: Any) -> None:
    """Labels on CT only; the model knows its options again from its folder."""
    study = phantom_study(("CT", "MR"), annotated=1)
    name = "cmedl+segmentation=dense+translation=variational"
    config = TrainConfig(method=name, minutes=None, steps=2, device="cpu", validation="none")
    record = study.model(train(study, config))
    model = load_model(record.folder, CPU)
    assert record.info["method"] == name
    image = torch.rand(1, 1, *model.window_zyx)
    ct, mr = (model.predictor(m)(image) for m in ("CT", "MR"))
    assert ct.shape == mr.shape == (1, 3, *model.window_zyx)
    assert not torch.equal(ct, mr)
    assert torch.equal(model.network(image), ct)
    summary = predict(study, record.id, None, PredictConfig(device="cpu"))
    assert set(summary.versions) == {"c0", "c1"}
