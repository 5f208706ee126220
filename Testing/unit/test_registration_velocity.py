"""Diffeomorphic registration: flows that undo each other and never fold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semiseg.config import RegistrationConfig
from semiseg.errors import ConfigError
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.register import RegistrationResult, register
from semiseg.registration.sampling import FeatureMap, feature_map
from semiseg.registration.spline import Splines
from semiseg.registration.stacked import stack
from semiseg.registration.velocity import domain, integrated

CONFIG = RegistrationConfig(device="cpu", iterations=20, diffeomorphic=True)
GRID = Grid(size_xyz=(30, 28, 26), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 700.0))


def _volume(side: int = 16, spacing_mm: float = 3.0) -> FeatureMap:
    mask = torch.ones(side, side, side)
    return feature_map(mask[None], mask, torch.tensor([5.0, -20.0, 40.0]), spacing_mm)


def _wild(strength_mm: float, seed: int) -> Splines:
    lattice = domain(stack([_volume()]), 12.0)
    draw = torch.Generator().manual_seed(seed)
    shape = lattice.coefficients.shape
    return lattice.with_coefficients(strength_mm * torch.randn(shape, generator=draw))


@pytest.mark.parametrize("strength_mm", [0.0, 2.0, 8.0])
def test_the_flow_backward_undoes_the_flow_forward(strength_mm: float) -> None:
    velocity, points = _wild(strength_mm, 1), _volume().points()[None]
    there = integrated(velocity, 3.0, repeats=4).at(points) + points
    back = integrated(velocity, 3.0, directions=(-1,), repeats=4).at(there) + there
    error = (back - points).norm(dim=2)
    assert float(error.quantile(0.95)) < 0.05 * strength_mm + 1e-3


def test_both_directions_may_be_integrated_at_once() -> None:
    velocity, points = _wild(4.0, 3), _volume().points()[None]
    both = integrated(velocity, directions=(1, -1), squarings=5).at(points.repeat(2, 1, 1))
    for way, found in zip((1, -1), both, strict=True):
        alone = integrated(velocity, directions=(way,), squarings=5).at(points)[0]
        torch.testing.assert_close(found, alone)


def test_points_led_along_a_velocity_end_where_its_flow_takes_them() -> None:
    velocity, points = _wild(3.0, 4), _volume().points()[None]
    there = integrated(velocity, 3.0).at(points)
    errors = [
        float(
            (integrated(velocity, 3.0, squarings=0).followed(points, n) - there).norm(dim=2).mean()
        )
        for n in (1, 2, 8)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.1 * float(there.norm(dim=2).mean())


def test_a_flow_does_not_fold_where_adding_the_velocity_would() -> None:
    velocity, like = _wild(16.0, 2), _volume(32, 1.5)
    flow = integrated(velocity, 1.5).at(like.points()[None])[0].T.reshape(3, *like.shape)
    added = velocity.on(stack([like]))[0]
    assert _least_determinant(added, 1.5) < 0
    assert _least_determinant(flow, 1.5) > 0


def _least_determinant(displacement: torch.Tensor, spacing_mm: float) -> float:
    slopes = torch.stack(torch.gradient(displacement, spacing=spacing_mm, dim=(1, 2, 3)), 1)
    matrix = slopes.permute(2, 3, 4, 0, 1) + torch.eye(3)
    return float(torch.linalg.det(matrix).min())


def test_a_constant_velocity_moves_everything_by_itself() -> None:
    lattice = domain(stack([_volume()]), 12.0)
    step = torch.tensor([4.0, -3.0, 2.0])
    velocity = lattice.with_coefficients(
        torch.zeros_like(lattice.coefficients) + step.view(1, 3, 1, 1, 1)
    )
    moved = integrated(velocity, 3.0).at(_volume().points()[None])[0]
    torch.testing.assert_close(moved, step.expand_as(moved), atol=1e-4, rtol=0)


def _scan(shift_mm: float) -> Image:
    voxels = np.stack(np.meshgrid(*map(np.arange, GRID.size_xyz), indexing="ij"), -1)
    world = GRID.to_world(voxels.astype(float)).transpose(2, 1, 0, 3) - GRID.centre_mm_lps
    x, y, z = np.moveaxis(world, -1, 0)
    x = x + shift_mm * np.sin(z / 15)
    waves = np.sin(x / 6) + np.sin(y / 7 + 1) + np.sin(z / 5 + 2) + np.sin((x + y) / 9)
    body = (x / 34) ** 2 + (y / 32) ** 2 + (z / 34) ** 2 < 1
    return Image(array=np.where(body, 500 + 80 * waves, 0).astype(np.float32), grid=GRID)


@pytest.fixture(scope="module")
def pair() -> tuple[Prepared, Prepared]:
    return prepare(_scan(0.0), "MR", CONFIG), prepare(_scan(8.0), "MR", CONFIG)


@pytest.fixture(scope="module")
def result(pair: tuple[Prepared, Prepared]) -> RegistrationResult:
    return register(*pair, CONFIG, both_ways=True)


def test_a_registration_is_undone_by_its_inverse_and_folds_nowhere(
    result: RegistrationResult,
) -> None:
    assert result.folded == 0.0
    assert result.inverse_error_mm is not None
    assert result.inverse_error_mm < 0.5


def test_it_matches_about_as_well_as_two_separate_ways(
    pair: tuple[Prepared, Prepared], result: RegistrationResult
) -> None:
    apart = register(*pair, replace(CONFIG, diffeomorphic=False), both_ways=True)
    assert result.similarity_after > result.similarity_before
    assert result.similarity_after > apart.similarity_after - 0.01
    assert apart.inverse_error_mm is not None
    assert result.inverse_error_mm is not None
    assert result.inverse_error_mm < apart.inverse_error_mm


def test_the_way_back_is_made_only_when_asked_for(pair: tuple[Prepared, Prepared]) -> None:
    one_way = register(*pair, replace(CONFIG, iterations=1))
    assert one_way.inverse is None


def test_an_empty_body_moves_nothing() -> None:
    flat = Image(array=np.zeros(GRID.shape_zyx, dtype=np.float32), grid=GRID)
    empty = prepare(flat, "MR", CONFIG)
    empty = replace(empty, mask=np.zeros_like(empty.mask))
    found = register(empty, empty, CONFIG, both_ways=True)
    np.testing.assert_allclose(found.field.displacement_mm, 0.0, atol=1e-3)


def test_the_grid_of_knots_must_be_coarser_than_the_voxels() -> None:
    with pytest.raises(ConfigError, match="grid_mm"):
        RegistrationConfig(grid_mm=1.0)
