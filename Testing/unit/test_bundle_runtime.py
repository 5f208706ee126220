"""What runs in a bundle, here in this process: the same as SemiSeg itself, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from semiseg.bundle.runtime import ProbabilityInferer, Segmenter, ToOwnGridd, ToTrainingGridd
from semiseg.data.training_grid import to_training_grid
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.networks import NetworkSpec, build_network

SPEC = NetworkSpec(n_classes=3, channels=(2, 4), strides=((2, 2),), convolutions=(1, 1))
DIRECTIONS = (
    (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    (0.0, -0.1736482, -0.9848078, -1.0, 0.0, 0.0, 0.0, 0.9848078, -0.1736482),
    (0.6, 0.8, 0.0, 0.8, -0.6, 0.0, 0.0, 0.0, -1.0),
    (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
)


def as_monai_reads(image: Image) -> MetaTensor:
    """(1, x, y, z) with the affine in RAS, as MONAI's readers give it."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.grid.affine_lps
    array = torch.from_numpy(image.array.transpose(2, 1, 0).copy())[None]
    return MetaTensor(array, affine=torch.from_numpy(affine), meta={"filename_or_obj": "a.nii.gz"})


def image_on(direction: tuple[float, ...], size: tuple[int, int, int] = (9, 7, 11)) -> Image:
    grid = Grid(
        size_xyz=size,
        spacing_mm_xyz=(1.3, 2.9, 1.9),
        origin_mm_lps=(5.0, -7.0, 30.0),
        direction=direction,
    )
    array = np.random.default_rng(0).normal(20, 90, grid.shape_zyx).astype(np.float32)
    return Image(array=array, grid=grid)


@settings(max_examples=25, deadline=None)
@given(
    direction=st.sampled_from(DIRECTIONS),
    size=st.tuples(*[st.integers(2, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.7, 6.0)] * 3),
    modality=st.sampled_from(["CT", "MR"]),
)
def test_preprocessing_is_that_of_training(
    direction: tuple[float, ...], size: Any, spacing: Any, modality: Any
) -> None:
    image = image_on(direction, size)
    ours = to_training_grid(image, modality, spacing)
    found = ToTrainingGridd("image", spacing, modality)({"image": as_monai_reads(image)})
    np.testing.assert_allclose(found["image"][0].numpy(), ours.array, rtol=0, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_way_back_leads_to_the_images_own_voxels(direction: tuple[float, ...]) -> None:
    image = image_on(direction)
    truth = np.random.default_rng(1).integers(0, 3, image.grid.shape_zyx)
    there = ToTrainingGridd("image", (1.9, 2.9, 1.3), "CT")
    prepared = there({"image": as_monai_reads(image)})
    turned = to_training_grid(image, "CT", (1.9, 2.9, 1.3)).orientation.apply(truth)
    onehot = torch.stack([torch.from_numpy(turned == c).float() for c in range(3)])
    prepared["pred"] = onehot
    label = ToOwnGridd("pred", [0, 300, 4])(prepared)["pred"]
    expected = np.array([0, 300, 4])[truth].transpose(2, 1, 0)
    np.testing.assert_array_equal(label[0].numpy(), expected)
    np.testing.assert_allclose(label.affine.numpy(), as_monai_reads(image).affine.numpy())
    assert label.meta["filename_or_obj"] == "a.nii.gz"


def test_coarse_probabilities_are_blended_before_the_largest_counts() -> None:
    prepared = ToTrainingGridd("image", (4.0, 4.0, 4.0), "CT")(
        {"image": as_monai_reads(image_on(DIRECTIONS[0]))}
    )
    shape = prepared["image"].shape[1:]
    ramp = torch.linspace(0, 1, shape[2]).expand(shape)
    prepared["pred"] = torch.stack([1 - ramp, ramp])
    label = ToOwnGridd("pred", [0, 7])(prepared)["pred"][0].numpy()
    assert label.shape == (9, 7, 11)
    steps = label[:, 0, 0]
    assert (steps[:4], steps[5:]) == (pytest.approx(0), pytest.approx(7))


def test_several_networks_give_the_log_of_their_mean_probability() -> None:
    torch.manual_seed(0)
    both = Segmenter(SPEC.to_json(), 2).eval()
    image = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        mean = torch.stack([part(image).softmax(1) for part in both.networks]).mean(0)
        torch.testing.assert_close(both(image).exp(), mean)
        one = Segmenter(SPEC.to_json())
        torch.testing.assert_close(one(image), one.networks[0](image))


def test_windows_of_one_slice_go_to_a_network_for_slices() -> None:
    network = build_network(SPEC).eval()
    inferer = ProbabilityInferer(roi_size=(1, 16, 16), mode="gaussian", padding_mode="constant")
    image = torch.randn(1, 1, 3, 12, 20)
    with torch.no_grad():
        found = inferer(image, network)
    assert found.shape == (1, 3, 3, 12, 20)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 3, 12, 20))
    assert inferer.cval == pytest.approx(float(image.min()))
