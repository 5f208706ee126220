"""Networks are made from their description and fit images of any allowed size."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from semiseg.errors import ConfigError
from semiseg.networks import NetworkSpec, build_network

SMALL = NetworkSpec(n_classes=3, channels=(4, 6), strides=((1, 2, 2),), convolutions=(1, 2))


@pytest.mark.parametrize(
    ("strides", "shape"),
    [(((2, 2),), (8, 12)), (((1, 2, 2),), (5, 8, 12)), (((2, 2, 2),), (4, 8, 6))],
)
def test_logits_have_the_size_of_the_image(strides: Any, shape: tuple[int, ...]) -> None:
    spec = NetworkSpec(n_classes=3, channels=(4, 6), strides=strides, convolutions=(1, 2))
    network = build_network(spec)
    image = torch.randn(2, 1, *shape)
    assert network(image).shape == (2, 3, *shape)
    assert network.features(image).shape == (2, 4, *shape)
    assert spec.dims == len(shape)


def test_multiple_is_the_product_of_the_strides() -> None:
    spec = NetworkSpec(
        n_classes=2, channels=(4, 4, 4), strides=((1, 2, 2), (2, 2, 2)), convolutions=(1, 1, 1)
    )
    assert spec.multiple == (2, 4, 4)


def test_gradient_reaches_every_parameter() -> None:
    network = build_network(SMALL)
    network(torch.randn(2, 1, 4, 8, 8)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(3)
    one = build_network(SMALL).state_dict()
    torch.manual_seed(3)
    other = build_network(SMALL).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_constant_image_gives_finite_logits() -> None:
    assert torch.isfinite(build_network(SMALL)(torch.zeros(1, 1, 4, 8, 8))).all()


def test_description_survives_json() -> None:
    assert NetworkSpec.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tree"}, "kind"),
        ({"n_classes": 1}, "2 classes"),
        ({"strides": ()}, "strides"),
        ({"convolutions": (1,)}, "convolutions"),
        ({"strides": ((2, 2, 2, 2),)}, "2 or of 3"),
        ({"channels": (0, 4)}, "at least 1"),
    ],
)
def test_wrong_descriptions_are_refused(change: dict[str, Any], message: str) -> None:
    values = {**SMALL.to_json(), **change}
    with pytest.raises(ConfigError, match=message):
        NetworkSpec.from_json(values)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a network"):
        NetworkSpec.from_json({**SMALL.to_json(), "colour": 3})


def test_a_transformer_sees_the_whole_image_from_every_place() -> None:
    """A voxel's logits depend on the farthest corner, which convolutions alone do not reach."""
    reach = {}
    for kind in ("unet", "transformer"):
        torch.manual_seed(0)
        spec = NetworkSpec(
            n_classes=2, channels=(4, 8), strides=((2, 2),), convolutions=(1, 1), kind=kind
        )
        # Instance norm would carry means across the image in both.
        network = build_network(spec)
        for name, module in list(network.named_modules()):
            if isinstance(module, torch.nn.InstanceNorm2d):
                parent = network.get_submodule(name.rsplit(".", 1)[0])
                setattr(parent, name.rsplit(".", 1)[1], torch.nn.Identity())
        image = torch.randn(1, 1, 32, 32, requires_grad=True)
        network(image)[0, 0, 0, 0].backward()
        assert image.grad is not None
        reach[kind] = bool(image.grad[0, 0, -4:, -4:].any())
    assert reach == {"unet": False, "transformer": True}


def test_a_network_within_slices_sees_one_neighbour_on_either_side() -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(
        n_classes=2,
        channels=(4, 4, 4),
        strides=((1, 2, 2), (1, 2, 2)),
        convolutions=(1, 1, 2),
        within_slices=True,
    )
    network = build_network(spec)
    for module in network.modules():  # norms average over all slices
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    image = torch.randn(1, 1, 7, 8, 8, requires_grad=True)
    network(image)[0, :, 3].abs().sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1, 3, 4)) > 0
    assert seen.tolist() == [False, False, True, True, True, False, False]


@pytest.mark.parametrize("strides", [((2, 2),), ((2, 2, 2),)])
def test_a_network_within_slices_does_not_join_them(strides: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ConfigError, match="within slices"):
        NetworkSpec(
            n_classes=2, channels=(4, 4), strides=strides, convolutions=(1, 1), within_slices=True
        )


STEMS = [
    (((2, 2),), (2, 2), (8, 12)),
    (((2, 2, 2),), (2, 2, 2), (8, 4, 8)),
    (((1, 2, 2),), (1, 2, 2), (3, 8, 12)),
]


def stemmed(strides: Any, stem: tuple[int, ...]) -> NetworkSpec:
    return NetworkSpec(
        n_classes=3, channels=(4, 6), strides=strides, convolutions=(1, 2), stem=stem
    )


@pytest.mark.parametrize(("strides", "stem", "shape"), STEMS)
def test_with_a_stem_logits_are_the_head_on_features_of_full_resolution(
    strides: Any, stem: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    spec = stemmed(strides, stem)
    network = build_network(spec)
    image = torch.randn(2, 1, *shape)
    features = network.features(image)
    assert features.shape == (2, 4, *shape)
    torch.testing.assert_close(network(image), network.head(features))
    assert network.outputs(image)[0].shape == (2, 3, *shape)
    assert network.pyramid(image)[0].shape[2:] == tuple(
        n // s for n, s in zip(shape, stem, strict=True)
    )


def test_a_stem_counts_in_the_multiple_and_learns() -> None:
    spec = stemmed(((1, 2, 2),), (2, 2, 2))
    assert spec.multiple == (2, 4, 4)
    network = build_network(spec)
    network(torch.randn(2, 1, 4, 8, 8)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_descriptions_and_weights_from_before_stems_still_fit() -> None:
    values = SMALL.to_json()
    assert values.pop("stem") == []
    read = NetworkSpec.from_json(values)
    assert read == SMALL
    assert not any("finish" in name for name in build_network(read).state_dict())


def test_a_stem_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="one number per axis, 3"):
        stemmed(((2, 2, 2),), (2, 2))
    with pytest.raises(ConfigError, match="at least 1"):
        stemmed(((2, 2, 2),), (2, 2, 0))
    with pytest.raises(ConfigError, match="the first of them 1"):
        NetworkSpec(
            n_classes=3,
            channels=(4, 6),
            strides=((1, 2, 2),),
            convolutions=(1, 2),
            stem=(2, 2, 2),
            within_slices=True,
        )
