"""Translation between modalities: each term against numbers worked out apart from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from semiseg.networks import NetworkSpec
from semiseg.translation import (
    WEIGHTS,
    Blocks,
    Discriminator,
    Generator,
    Translated,
    Translation,
    edge_difference,
    l1,
    least_squares,
)

SPEC = NetworkSpec(
    n_classes=3, channels=(4, 8, 8), strides=((2, 2, 2), (2, 2, 2)), convolutions=(1, 1, 1)
)
FLAT = replace(SPEC, strides=((2, 2), (2, 2)))
SLAB = replace(SPEC, strides=((1, 2, 2), (1, 2, 2)), within_slices=True)
STEM = replace(SPEC, strides=((2, 2, 2), (2, 2, 2)), stem=(1, 2, 2))
ONE_STEP = replace(SPEC, channels=(4, 8), strides=((2, 2, 2),), convolutions=(1, 1))
KINDS = pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (SPEC, (8, 8, 16)),
        (FLAT, (16, 8)),
        (SLAB, (4, 8, 8)),
        (STEM, (8, 16, 16)),
        (ONE_STEP, (4, 8, 8)),
    ],
)


def images(*shape: int, ct: int = 2, mr: int = 1, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(n, 1, *shape, generator=generator) * 2 - 1
        for name, n in (("CT", ct), ("MR", mr))
    }


def made(spec: NetworkSpec = FLAT, *, variational: bool = False) -> Translation:
    torch.manual_seed(0)
    return Translation(spec, variational=variational)


@KINDS
@pytest.mark.parametrize("variational", [False, True])
def test_images_keep_their_shape_and_range(
    spec: NetworkSpec, shape: tuple[int, ...], variational: bool
) -> None:
    found = made(spec, variational=variational)(images(*shape))
    assert found.made["MR"].shape == found.returned["CT"].shape == (2, 1, *shape)
    assert found.made["CT"].shape == found.same["MR"].shape == (1, 1, *shape)
    for group in (found.made, found.same, found.returned):
        assert all(image.abs().max() <= 1 for image in group.values())


@KINDS
def test_discriminators_score_overlapping_patches(
    spec: NetworkSpec, shape: tuple[int, ...]
) -> None:
    scores = Discriminator(spec)(images(*shape)["CT"])
    assert scores.shape[:2] == (2, 1)
    assert 1 < scores[0].numel() < images(*shape)["CT"][0].numel()


def test_an_untrained_generator_without_change_gives_the_image_back() -> None:
    generator = Generator(FLAT, variational=False)
    torch.nn.init.zeros_(generator.leave.weight)
    torch.nn.init.zeros_(generator.leave.bias)
    image = images(8, 8)["CT"]
    assert torch.allclose(generator(image)[0], 0.95 * image, atol=1e-6)


def test_grey_values_out_of_range_are_clipped_before() -> None:
    real = images(8, 8)
    far = {name: image * 3 for name, image in real.items()}
    found = made()(far)
    assert all(torch.equal(found.real[name], far[name].clamp(-1, 1)) for name in far)
    assert all(torch.isfinite(image).all() for image in found.made.values())


def test_blocks_are_a_convolution_that_strides_as_far_as_it_reaches() -> None:
    image = torch.randn(2, 1, 4, 6, 8)
    blocks = Blocks(3, 5, (1, 2, 4))
    kernel = blocks.mix.weight.view(5, 1, 1, 2, 4)
    expected = functional.conv3d(image, kernel, blocks.mix.bias, stride=(1, 2, 4))
    assert torch.allclose(blocks(image), functional.leaky_relu(expected, 0.2), atol=1e-6)


def test_least_squares_have_the_known_values() -> None:
    assert least_squares(torch.tensor([-1.0, 0.5, 2.0, 1.0]), 1.0) == 1.3125
    real = least_squares(torch.tensor([0.8, 1.2]), 1.0)
    fake = least_squares(torch.tensor([0.1, -0.3]), 0.0)
    assert float((real + fake) / 2) == pytest.approx(0.045)
    assert least_squares(torch.zeros(0), 1.0) == 0


def test_edges_in_the_same_place_agree_whichever_side_is_brighter() -> None:
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    across = step.transpose(2, 3)
    # One of three columns has an edge: there (1 * 1)^2 / 1.01^2 agrees, elsewhere nothing does.
    agreed = 1 - (1 / 1.01**2) / 3
    assert float(edge_difference(step, step)) == pytest.approx(agreed)
    assert float(edge_difference(step, 0.5 - step)) == pytest.approx(agreed)
    assert float(edge_difference(step, across)) == pytest.approx(1.0)
    assert edge_difference(step[:0], step[:0]) == 0


def found_by_hand() -> Translated:
    """Images of one grey value each, so that each term is a difference of two numbers."""

    def grey(ct: float, mr: float) -> dict:
        return {"CT": torch.full((2, 1, 8, 8), ct), "MR": torch.full((1, 1, 8, 8), mr)}

    made = {"CT": torch.full((1, 1, 8, 8), 0.3), "MR": torch.full((2, 1, 8, 8), -0.3)}
    return Translated(
        real=grey(0.5, -0.5),
        made=made,
        same=grey(0.4, -0.3),
        returned=grey(0.1, -0.4),
        divergence=torch.tensor(0.7),
    )


def test_each_term_of_the_generators_has_its_own_value_and_weight() -> None:
    translation, found = made(), found_by_hand()
    terms = translation.generator_terms(found)
    scores = {m: translation.discriminators[m](found.made[m]) for m in ("CT", "MR")}
    expected = {
        "adversarial": sum((s - 1).square().mean().item() for s in scores.values()),
        "cycle": 0.4 + 0.1,
        "identity": 0.1 + 0.2,
        "structure": 2.0,
        "divergence": 0.7,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    assert dict(WEIGHTS) == {
        "adversarial": 1,
        "cycle": 10,
        "identity": 5,
        "structure": 1,
        "divergence": 0.01,
    }
    total = sum(WEIGHTS[name] * value for name, value in expected.items())
    assert translation.generator_loss(found).item() == pytest.approx(total, rel=1e-5)


def test_structure_compares_each_image_with_what_it_was_made_from() -> None:
    translation, found = made(), found_by_hand()
    edged = torch.zeros(2, 1, 8, 8)
    edged[..., 4:] = 1
    real, kept = {**found.real, "CT": edged}, {**found.made, "MR": 1 - edged}
    terms = translation.generator_terms(replace(found, real=real, made=kept))
    assert float(terms["structure"]) == pytest.approx(2 - (1 / 1.01**2) / 7)


def test_discriminators_learn_real_from_made() -> None:
    translation, found = made(), found_by_hand()
    expected = 0.0
    for modality, discriminator in translation.discriminators.items():
        real = discriminator(found.real[modality])
        fake = discriminator(found.made[modality])
        expected += ((real - 1).square().mean() + fake.square().mean()).item() / 2
    assert translation.discriminator_loss(found).item() == pytest.approx(expected, rel=1e-5)


def test_what_discriminators_learn_does_not_reach_the_generators() -> None:
    translation = made()
    translation.discriminator_loss(translation(images(8, 8))).backward()
    assert all(p.grad is None for p in translation.generators.parameters())
    assert all(p.grad.abs().sum() > 0 for p in translation.discriminators.parameters())


@pytest.mark.parametrize("term", ["adversarial", "cycle", "identity", "structure"])
def test_each_term_reaches_both_generators(term: str) -> None:
    translation = made()
    translation.generator_terms(translation(images(8, 8)))[term].backward()
    for generator in translation.generators.values():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())


def test_a_variational_code_is_drawn_in_training_only_and_has_a_divergence() -> None:
    generator = Generator(FLAT, variational=True)
    image = images(8, 8)["CT"]
    assert not torch.equal(generator(image)[0], generator(image)[0])
    generator.eval()
    once, divergence = generator(image)
    assert torch.equal(once, generator(image)[0])
    code = generator.code(generator.down(generator.enter(image)))
    assert divergence.item() == pytest.approx((code**2).mean().item() / 2)
    assert Generator(FLAT, variational=False)(image)[1] == 0
    total = made(variational=True).eval()
    parts = [total.generators[m](torch.cat(list(pair)))[1] for m, pair in pairs(image)]
    found = total({"CT": image, "MR": image[:1]})
    parts += [
        total.generators["CT"](found.made["MR"])[1],
        total.generators["MR"](found.made["CT"])[1],
    ]
    assert found.divergence.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)


def pairs(image: torch.Tensor) -> list:
    return [("CT", (image[:1], image)), ("MR", (image, image[:1]))]


@pytest.mark.parametrize(("ct", "mr"), [(2, 0), (0, 2)])
def test_one_modality_alone_is_survived(ct: int, mr: int) -> None:
    translation = made()
    found = translation(images(8, 8, ct=ct, mr=mr))
    losses = [translation.generator_loss(found), translation.discriminator_loss(found)]
    assert all(torch.isfinite(loss) for loss in losses)
    assert l1(found.returned["CT"], found.real["CT"]).item() >= 0
    torch.stack(losses).sum().backward()
