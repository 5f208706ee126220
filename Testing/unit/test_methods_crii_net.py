"""CRII-Net: both heads, the stable target, ranked losses within and among patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from semiseg.data.batch import Batch
from semiseg.learning.learner import Learner
from semiseg.losses import ramp
from semiseg.methods import border_patches, crii_net
from semiseg.methods.base import MethodSettings
from semiseg.methods.border_patches import Patch, near, patches_of, window
from semiseg.methods.crii_net import CoarseRefined, consistency, inter_loss, intra_loss
from semiseg.methods.pair import half_and_half
from semiseg.networks import NetworkSpec

SPEC = NetworkSpec(n_classes=3, channels=(4, 8), strides=((2, 2),), convolutions=(1, 1))
SPECS = {
    2: SPEC,
    3: replace(SPEC, strides=((2, 2, 2),)),
    25: replace(SPEC, strides=((1, 2, 2),), within_slices=True),
}


def batch_of(dims: int = 2, n_labelled: int = 2) -> Batch:
    """Three samples with a box of each structure; the last ones are unlabelled."""
    shape = (16, 16) if dims == 2 else (4, 16, 16)
    label = torch.zeros(3, *shape, dtype=torch.int64)
    label[..., 3:8, 2:7] = 1
    label[..., 4:9, 9:14] = 2
    generator = torch.Generator().manual_seed(0)
    image = label[:, None] + 0.1 * torch.randn(label[:, None].shape, generator=generator)
    labelled = (torch.arange(3) < n_labelled).view(3, *(1,) * len(shape))
    return Batch(
        image=image,
        label=label * labelled,
        valid=labelled.expand_as(label).float(),
        known=labelled.unsqueeze(1).expand(3, 3, *shape).clone(),
        origin=labelled.expand_as(label).to(torch.uint8),
        modality=torch.zeros(3, dtype=torch.int64),
        case=("a", "b", "c"),
        n_labelled=n_labelled,
        spacing_mm_zyx=(3.0, 1.0, 1.0),
    )


def made(dims: int = 2) -> CoarseRefined:
    torch.manual_seed(0)
    return CoarseRefined(MethodSettings(network=SPECS[dims]))


def value(method: CoarseRefined, batch: Batch, progress: float) -> Tensor:
    torch.manual_seed(3)
    return method.losses(batch, progress)["network"]


def direction(*numbers: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor([float(n) for n in numbers]), dim=0)


def patch(
    structure: int, whole: Tensor, contrast: float = 1.0, around: Tensor | None = None
) -> Patch:
    rows = whole[None]
    return Patch(
        structure=structure, inner=rows, outer=-rows, whole=whole, around=around, contrast=contrast
    )


@pytest.mark.parametrize(("positive", "negative", "expected"), [(0.2, 0.9, 0.0), (0.6, 0.5, 0.6)])
def test_ranked_hinge_has_the_hand_computed_values(
    positive: float, negative: float, expected: float
) -> None:
    found = crii_net.ranked_hinge(torch.tensor(positive), torch.tensor(negative), 0.5)
    assert found.item() == pytest.approx(expected)


def test_intra_loss_takes_the_hardest_of_both_sides() -> None:
    x, y = direction(1, 0), direction(0, 1)
    one = Patch(
        structure=1,
        inner=torch.stack([x, y]),
        outer=torch.stack([direction(1, 1), -x]),
        whole=x,
        around=None,
        contrast=1.0,
    )
    # From x: y is at 1, the diagonal at 1 - cos 45 deg.; from y the same.
    expected = 1 - (1 - 0.5**0.5) + 0.3
    assert intra_loss([one]).item() == pytest.approx(expected, abs=1e-6)
    apart = replace(one, inner=torch.stack([x, x]), outer=torch.stack([-x, -y]))
    assert intra_loss([apart]).item() == 0
    assert intra_loss([one, apart]).item() == pytest.approx(expected / 2, abs=1e-6)


def test_inter_loss_compares_structures_across_patches() -> None:
    near_one, other = direction(1, 0), direction(0.6, 0.8)
    patches = [patch(1, near_one), patch(1, near_one, 2.0), patch(2, other)]
    # The other structure is at 1 - 0.6, its own at 0.
    assert inter_loss(patches).item() == pytest.approx(0 - 0.4 + 0.5, abs=1e-6)
    with_background = [replace(patches[0], around=direction(0.8, 0.6)), *patches[1:]]
    assert inter_loss(with_background).item() == pytest.approx(0 - 0.2 + 0.5, abs=1e-6)


def test_anchors_of_patches_are_those_of_low_contrast() -> None:
    low, high = direction(1, 0), direction(0, 1)
    patches = [patch(1, low, 0.1), patch(1, high, 5.0), patch(2, direction(1, 0.1), 0.0)]
    # Structure 2 has one patch only, so it is no anchor though its contrast is the lowest.
    expected = 1 - (1 - (low @ patches[2].whole).item()) + 0.5
    assert inter_loss(patches).item() == pytest.approx(expected, abs=1e-6)
    assert crii_net.lower_half(patches, torch.tensor([True, True, False])) == [0]
    assert crii_net.lower_half(patches, torch.tensor([True, True, True])) == [2, 0]


def test_inter_loss_without_two_patches_of_a_structure_is_zero_with_a_gradient() -> None:
    whole = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = inter_loss([patch(1, whole), patch(2, direction(0, 1))])
    loss.backward()
    assert loss.item() == 0
    assert whole.grad is not None


def test_near_reaches_two_voxels_along_each_axis() -> None:
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[3, 4] = True
    expected = torch.zeros_like(mask)
    expected[1:6, 2:7] = True
    assert torch.equal(near(mask), expected)
    assert near(mask[None].expand(3, 7, 9))[0].sum() == 25


@pytest.mark.parametrize(
    ("centre", "starts", "stops"),
    [((20, 5), (4, 0), (36, 21)), ((9, 9, 3), (1, 1, 0), (17, 17, 11))],
)
def test_patches_are_32_pixels_or_16_voxels_wide(
    centre: tuple[int, ...], starts: tuple[int, ...], stops: tuple[int, ...]
) -> None:
    found = window(torch.tensor(centre))
    assert tuple(one.start for one in found) == starts
    assert tuple(one.stop for one in found) == stops


def test_patches_lie_on_borders_and_know_both_sides() -> None:
    batch = batch_of()
    # Each voxel points where its label says, so that embeddings tell where they were taken.
    features = 3.0 * torch.nn.functional.one_hot(batch.label, 3).movedim(-1, 1)
    found = patches_of(features, torch.nn.Identity(), batch, 3)
    assert [one.structure for one in found] == [1, 1, 2, 2] * 2
    for one in found:
        axis = torch.eye(3)
        assert torch.equal(one.inner, axis[one.structure].expand_as(one.inner))
        assert not one.outer[:, one.structure].any()
        assert torch.equal(one.whole, axis[one.structure])
        assert one.around is not None
        assert torch.equal(one.around, axis[0])
    # Of 25 voxels all but the one in the middle are within two of the outside.
    assert len(found[0].inner) == 24


def test_contrast_is_in_standard_deviations() -> None:
    batch = batch_of()
    image = batch.label[:, None].float() * 10
    features = torch.ones(3, 1, 16, 16)
    found = patches_of(features, torch.nn.Identity(), replace(batch, image=image), 3)
    grey, inside = image[0, 0], batch.label[0] == 2
    expected = (20 - grey[~inside].mean()) / grey.std(correction=0)
    assert found[2].contrast == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: replace(batch, valid=batch.valid * 0.4),
        lambda batch: replace(batch, known=batch.known & (torch.arange(3) != 1).view(1, 3, 1, 1)),
        lambda batch: replace(batch, label=torch.ones_like(batch.label)),
        lambda batch: replace(batch, label=torch.zeros_like(batch.label)),
    ],
    ids=["not trusted", "partly known", "full", "empty"],
)
def test_without_a_known_border_there_is_no_patch(spoil: Callable[[Batch], Batch]) -> None:
    batch = spoil(batch_of())
    assert patches_of(torch.ones(3, 1, 16, 16), torch.nn.Identity(), batch, 3) == []
    method = made()
    loss = value(method, batch, 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert method.projector.weight.grad is None


@pytest.mark.parametrize("dims", SPECS)
def test_loss_is_the_sum_of_its_four_terms(dims: int) -> None:
    method, batch = made(dims), batch_of(dims)
    features = method.network.features(batch.image)
    coarse, refined = method.heads(features)
    supervised = half_and_half(coarse, batch) + half_and_half(refined, batch)
    agreement = (coarse[2:].softmax(1) - refined[2:].softmax(1)).square().mean()
    torch.manual_seed(3)
    patches = patches_of(features, method.projector, batch, 3)
    terms = (intra_loss(patches), inter_loss(patches))
    assert min(term.item() for term in (*terms, agreement)) > 1e-4
    for progress in (0.0, 0.5, 1.0):
        expected = supervised + ramp(progress, 1.0) * agreement + 0.1 * (terms[0] + terms[1])
        assert value(method, batch, progress).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_refined_output_is_a_stable_target() -> None:
    coarse, refined = (torch.randn(1, 3, 4, requires_grad=True) for _ in range(2))
    consistency(coarse, refined).backward()
    assert refined.grad is None
    assert coarse.grad is not None
    assert coarse.grad.any()
    assert consistency(coarse, coarse).item() == 0


def test_refined_output_depends_on_the_coarse_one() -> None:
    method, image = made(), batch_of().image
    before = method.predict(image)
    with torch.no_grad():
        method.network.head.bias.add_(torch.tensor([0.0, 3.0, 0.0]))
    assert not torch.allclose(method.predict(image), before)


def test_ranked_losses_reach_features_and_projector_alone() -> None:
    method, batch = made(), batch_of()
    features = method.network.features(batch.image)
    patches = patches_of(features, method.projector, batch, 3)
    for loss in (intra_loss(patches), inter_loss(patches)):
        method.modules.zero_grad()
        loss.backward(retain_graph=True)
        assert method.projector.weight.grad is not None
        assert method.projector.weight.grad.any()
        assert method.network.down[0][0].weight.grad.any()
        assert method.network.head.weight.grad is None


def test_saved_and_restored_it_predicts_the_same_and_learns_on() -> None:
    learner = Learner("crii_net", MethodSettings(network=SPEC), torch.device("cpu"), seed=0)
    batch = batch_of()
    for step in range(3):
        assert torch.isfinite(learner.learn(batch, step / 3))
    other = made()
    other.modules.load_state_dict(learner.method.modules.state_dict())
    assert torch.equal(other.predict(batch.image), learner.method.predict(batch.image))


def test_patches_are_drawn_again_from_the_same_seed() -> None:
    batch = batch_of()
    features = torch.randn(3, 4, 16, 16)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(patches_of(features, torch.nn.Identity(), batch, 3))
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one.inner, other.inner)
    assert len(border_patches.some(torch.arange(9), 4)) == 4
