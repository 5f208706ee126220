"""Contrast-free features and how they are read."""

from __future__ import annotations

import itertools

import pytest
import torch

from semiseg.registration.features import CHANNELS, mind_ssc
from semiseg.registration.sampling import feature_map, lattice_points, pooled, thinned
from semiseg.registration.spline import basis, expand, still
from semiseg.registration.stacked import stack


def _texture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_features_are_the_pairwise_formula() -> None:
    volume = _texture(7, 8, 9)
    found = mind_ssc(volume, radius=1, dilation=2)[:, 3, 4, 4]
    neighbours = [(2, 0, 0), (-2, 0, 0), (0, 2, 0), (0, -2, 0), (0, 0, 2), (0, 0, -2)]
    padded = torch.nn.functional.pad(volume[None, None], (5,) * 6, mode="replicate")[0, 0]

    def patch(voxel: tuple[int, int, int], offset: tuple[int, int, int]) -> torch.Tensor:
        z, y, x = (v + o + 5 for v, o in zip(voxel, offset, strict=True))
        return padded[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]

    def distances(voxel: tuple[int, int, int]) -> torch.Tensor:
        pairs = [
            (a, b)
            for a, b in itertools.combinations(neighbours, 2)
            if sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) == 8
        ]
        ssd = [(patch(voxel, a) - patch(voxel, b)).square().mean() for a, b in pairs]
        stacked = torch.stack(ssd)
        return stacked - stacked.min()

    here = distances((3, 4, 4))
    expected = torch.exp(-here / here.mean())
    assert len(expected) == CHANNELS
    torch.testing.assert_close(found.sort().values, expected.sort().values)


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 10.0), (-2.0, 5.0)])
def test_features_ignore_gain_offset_and_inversion(gain: float, offset: float) -> None:
    volume = _texture(8, 8, 8)
    torch.testing.assert_close(mind_ssc(volume), mind_ssc(gain * volume + offset))


def test_a_constant_volume_has_flat_features() -> None:
    assert torch.equal(mind_ssc(torch.full((5, 6, 7), 3.0)), torch.ones(CHANNELS, 5, 6, 7))


def test_sampling_is_linear_inside_and_says_what_is_outside() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 2, 3, 4)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    features = feature_map(ramp, mask, torch.tensor([10.0, 20.0, 30.0]), 2.0)
    points = torch.tensor([[10.0, 20.0, 33.0], [11.0, 22.0, 36.5], [10.0, 20.0, 40.0]])
    values, inside = features.sample(points)
    assert values[:, 0].tolist() == pytest.approx([1.5, 3.0, 3.0])
    assert inside.tolist() == [True, True, False]


def test_sampling_passes_gradients_to_the_points() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 2, 3, 4)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    features = feature_map(ramp, mask, torch.zeros(3), 2.0)
    point = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    features.sample(point)[0].sum().backward()
    assert point.grad is not None
    assert point.grad[0].tolist() == pytest.approx([0.0, 0.0, 0.5])


def test_pooling_keeps_positions_and_takes_odd_sizes() -> None:
    volume = _texture(1, 5, 4, 3)
    mask = torch.ones(5, 4, 3, dtype=torch.bool)
    small = pooled(feature_map(volume, mask, torch.zeros(3), 3.0), 2)
    assert small.shape == (3, 2, 2)
    assert small.origin_mm_zyx.tolist() == [1.5, 1.5, 1.5]
    assert small.spacing_mm == 6.0
    torch.testing.assert_close(small.volume[0, 0, 0, 0], volume[0, :2, :2, :2].mean())
    assert pooled(small, 1) is small


def test_spline_weights_sum_to_one_and_reproduce_straight_lines() -> None:
    weights = basis(9, 7, step=0.5, first=0.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(9))
    line = torch.arange(7.0) - 1
    torch.testing.assert_close(weights @ line, torch.arange(9.0) * 0.5)
    assert weights[0, :4].tolist() == pytest.approx([1 / 6, 4 / 6, 1 / 6, 0])


def test_a_spline_reads_its_coefficients_in_millimetres() -> None:
    mask = torch.ones(6, 7, 8, dtype=torch.bool)
    nodes = feature_map(mask[None].float(), mask, torch.tensor([5.0, 6.0, 7.0]), 2.0)
    spline = still(stack([nodes]), 4.0)
    z, y, x = spline.knots()[0].T.reshape(3, *spline.coefficients.shape[2:])
    affine = torch.stack([0.1 * z, -0.2 * x, y + 3])[None]
    field = spline.with_coefficients(affine).on(stack([nodes]))[0]
    points = lattice_points((6, 7, 8), nodes.origin_mm_zyx, 2.0)
    expected = torch.stack([0.1 * points[..., 0], -0.2 * points[..., 2], points[..., 1] + 3])
    torch.testing.assert_close(field, expected, rtol=1e-4, atol=1e-4)


def test_expanding_constant_coefficients_gives_a_constant_field() -> None:
    weights = (basis(3, 5, step=0.4, first=0.0),) * 3
    field = expand(torch.full((3, 5, 5, 5), 2.0), weights)
    torch.testing.assert_close(field, torch.full((3, 3, 3, 3), 2.0))


def test_sampling_for_a_gradient_gives_the_same_values_and_the_true_slope() -> None:
    volume = _texture(3, 5, 6, 7)
    mask = torch.ones(5, 6, 7, dtype=torch.bool)
    features = feature_map(volume, mask, torch.zeros(3), 2.0)
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) * 7 + 0.5
    moving = points.clone().requires_grad_()
    values = features.sample(moving)[0]
    torch.testing.assert_close(values.detach(), features.sample(points)[0])
    weights = torch.linspace(-1, 1, 3)
    (slope,) = torch.autograd.grad((values * weights).sum(), moving)
    step = torch.tensor([1e-3, 0.0, 0.0])
    ahead, behind = (features.sample(points + sign * step)[0] for sign in (1, -1))
    expected = ((ahead - behind) * weights).sum(1) / 2e-3
    inside_one_cell = ((points / 2 - (points / 2).round()).abs()[:, 0]) > 0.01
    torch.testing.assert_close(
        slope[inside_one_cell, 0], expected[inside_one_cell], rtol=0.02, atol=0.01
    )


def test_thinning_keeps_every_second_node_where_it_lies() -> None:
    volume = _texture(2, 5, 4, 3)
    mask = torch.ones(5, 4, 3, dtype=torch.bool)
    source = feature_map(volume, mask, torch.tensor([1.0, 2.0, 3.0]), 3.0)
    thin = thinned(source, 2)
    assert thin.shape == (3, 2, 2)
    assert thin.spacing_mm == 6.0
    values, inside = source.sample(thin.points())
    assert inside.all()
    torch.testing.assert_close(values, thin.table)
