"""Whole registrations of small textured bodies with a known truth."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from semiseg.config import RegistrationConfig
from semiseg.errors import ConfigError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.register import RegistrationResult, register
from semiseg.registration.sampling import feature_map
from semiseg.registration.start import body_scale, find_start, find_starts
from semiseg.registration.trial import choose_start

CONFIG = RegistrationConfig(device="cpu", spacing_mm=3.0, iterations=30)
SIZE = 32
GRID = Grid(size_xyz=(SIZE,) * 3, spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 700.0))
TURNED = (0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
OBLIQUE = (math.cos(0.2), -math.sin(0.2), 0.0, math.sin(0.2), math.cos(0.2), 0.0, 0.0, 0.0, 1.0)


def _tissue(world: np.ndarray) -> np.ndarray:
    """Grey value at world points (..., 3): a textured ellipsoid body, zero around it."""
    x, y, z = (world - GRID.centre_mm_lps)[..., 0:3].transpose(-1, *range(world.ndim - 1))
    waves = np.sin(x / 6) + np.sin(y / 7 + 1) + np.sin(z / 5 + 2) + np.sin((x + y) / 9)
    body = (x / 38) ** 2 + (y / 34) ** 2 + (z / 42) ** 2 < 1
    return np.where(body, 500 + 80 * waves + 60 * np.sin((y - z) / 8), 0.0)


def _world(grid: Grid) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.size_xyz), indexing="ij"), -1)
    return grid.to_world(voxels.astype(float)).transpose(2, 1, 0, 3)


def _scan(grid: Grid, displaced: np.ndarray | float = 0.0, *, inverted: bool = False) -> Image:
    """What a scanner sees at each voxel: the tissue of p + displaced."""
    seen = _tissue(_world(grid) + displaced)
    if inverted:
        seen = np.where(seen > 0, 1000 - seen, 0)
    return Image(array=seen.astype(np.float32), grid=grid)


def _ready(image: Image) -> Prepared:
    return prepare(image, "MR", CONFIG)


def _error_mm(fixed: Prepared, result: RegistrationResult, truth: np.ndarray) -> float:
    """Mean distance from the true displacement (3,) or (D, H, W, 3) in the eroded fixed body."""
    inner = ndimage.binary_erosion(fixed.mask, iterations=2)
    found = np.moveaxis(result.field.displacement_mm, 0, -1)
    return float(np.linalg.norm(found - truth, axis=-1)[inner].mean())


def _wave(world: np.ndarray) -> np.ndarray:
    x, y, z = (world - GRID.centre_mm_lps).transpose(-1, *range(world.ndim - 1))
    return np.stack([6 * np.sin(z / 20), 5 * np.cos(x / 22), 6 * np.sin(y / 25 + 1)], -1)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_translation_is_found_whatever_the_contrast(inverted: bool) -> None:
    moving, fixed = _ready(_scan(GRID)), _ready(_scan(GRID, (9.0, -6.0, 12.0), inverted=inverted))
    result = register(fixed, moving, CONFIG)
    assert _error_mm(fixed, result, np.array([9.0, -6.0, 12.0])) < 1.0
    assert result.similarity_after > result.similarity_before
    assert result.folded == 0.0


@pytest.mark.parametrize("inverted", [False, True])
def test_a_smooth_warp_is_found_whatever_the_contrast(inverted: bool) -> None:
    truth = _wave(_world(GRID))
    moving, fixed = _ready(_scan(GRID)), _ready(_scan(GRID, truth, inverted=inverted))
    result = register(fixed, moving, CONFIG, both_ways=True)
    expected = _wave(_world(fixed.grid))
    before = float(np.linalg.norm(expected[fixed.mask], axis=-1).mean())
    assert before > 6.0
    assert _error_mm(fixed, result, expected) < 2.5
    assert result.inverse is not None
    assert result.inverse.grid == moving.grid
    assert result.inverse_error_mm is not None
    assert result.inverse_error_mm < 3.0


def test_the_same_image_gives_no_displacement() -> None:
    image = _ready(_scan(GRID))
    result = register(image, image, CONFIG)
    assert np.abs(result.field.displacement_mm[:, image.mask]).mean() < 0.3
    assert result.start_certainty > 0.9


def test_grids_may_lie_differently_in_the_world() -> None:
    turned = Grid(
        size_xyz=(30, 24, 32),
        spacing_mm_xyz=(3.2, 4.2, 2.9),
        origin_mm_lps=(55.0, 12.0, 705.0),
        direction=TURNED,
    )
    turned = replace(turned, origin_mm_lps=_origin_for_centre(turned))
    oblique = Grid(size_xyz=(32, 32, 30), spacing_mm_xyz=(3.3, 3.1, 3.4), direction=OBLIQUE)
    oblique = replace(oblique, origin_mm_lps=_origin_for_centre(oblique))
    fixed, moving = _ready(_scan(turned, (6.0, 3.0, -6.0))), _ready(_scan(oblique))
    result = register(fixed, moving, CONFIG)
    assert fixed.grid.direction == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert _error_mm(fixed, result, np.array([6.0, 3.0, -6.0])) < 1.5


def _origin_for_centre(grid: Grid) -> tuple[float, float, float]:
    x, y, z = GRID.centre_mm_lps - (grid.centre_mm_lps - np.asarray(grid.origin_mm_lps))
    return float(x), float(y), float(z)


def test_a_partial_field_of_view_finds_its_place_in_the_whole() -> None:
    whole = _ready(_scan(GRID))
    slab = Grid(
        size_xyz=(32, 32, 14), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 740.0)
    )
    part = _ready(_scan(slab, (0.0, 0.0, 0.0), inverted=True))
    result = register(part, whole, CONFIG)
    assert _error_mm(part, result, np.zeros(3)) < 1.5


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_gives_certainty_zero_with_a_reason(value: float) -> None:
    image = _ready(_scan(GRID))
    flat = Image(array=np.full(GRID.shape_zyx, value, dtype=np.float32), grid=GRID)
    for fixed, moving in ((image, _ready(flat)), (_ready(flat), image)):
        result = register(fixed, moving, CONFIG, both_ways=True)
        assert result.start_certainty == 0.0
        assert "shows no structure" in result.start_reason
        assert np.isfinite(result.field.displacement_mm).all()


def test_without_a_body_the_centres_are_put_together() -> None:
    image = _ready(_scan(GRID))
    empty = replace(image, mask=np.zeros_like(image.mask))
    result = register(empty, image, CONFIG)
    assert result.start_certainty == 0.0
    assert "no body was found in the fixed image" in result.start_reason
    assert result.folded == 0.0


def test_a_single_slice_does_not_break_it() -> None:
    flat = Grid(size_xyz=(SIZE, SIZE, 1), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40, 10, 747.0))
    result = register(_ready(_scan(flat)), _ready(_scan(GRID)), CONFIG, both_ways=True)
    assert np.isfinite(result.field.displacement_mm).all()


def test_the_same_seed_gives_the_same_field() -> None:
    truth = _wave(_world(GRID))
    moving, fixed = _ready(_scan(GRID)), _ready(_scan(GRID, truth))
    first, second = (register(fixed, moving, CONFIG).field.displacement_mm for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_progress_is_told() -> None:
    image, events = _ready(_scan(GRID)), list[Event]()
    register(image, image, replace(CONFIG, iterations=0), events.append)
    assert (events[-1].phase, events[-1].step, events[-1].total) == ("register", 3, 3)


def test_different_spacings_are_refused() -> None:
    image = _ready(_scan(GRID))
    other = prepare(_scan(GRID), "MR", replace(CONFIG, spacing_mm=5.0))
    with pytest.raises(ConfigError, match="prepared at 3 mm and the moving one at 5 mm"):
        register(image, other, CONFIG)


def test_starts_are_apart_and_the_best_is_first() -> None:
    features = torch.rand(12, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    body = torch.ones(16, 6, 6, dtype=torch.bool)
    whole = feature_map(features, body, torch.tensor([100.0, 0.0, 0.0]), 9.0)
    part = feature_map(features[:, 9:13], body[:4], torch.tensor([-50.0, 0.0, 0.0]), 9.0)
    starts = find_starts(part, whole, count=3)
    offsets = torch.stack([start.offset_mm for start in starts])
    torch.testing.assert_close(offsets[0], torch.tensor([150.0 + 81.0, 0.0, 0.0]))
    assert torch.pdist(offsets).min() > 30.0
    assert starts[0].certainty > 0.9
    assert starts[1].certainty == 0.0
    assert find_start(part, whole).certainty == starts[0].certainty


def test_bodies_that_lie_across_one_another_find_a_start() -> None:
    """Short-axis slices of hearts are cut out differently: most of either lies beside the other."""
    features = torch.rand(12, 8, 6, 30, generator=torch.Generator().manual_seed(0))
    lying = feature_map(features, torch.ones(8, 6, 30, dtype=torch.bool), torch.zeros(3), 9.0)
    turned, upright = features.transpose(2, 3), torch.ones(8, 30, 6, dtype=torch.bool)
    starts = find_starts(lying, feature_map(turned, upright, torch.zeros(3), 9.0), count=3)
    assert starts
    shift = starts[0].offset_mm
    assert shift[0].abs() <= 9.0
    assert -9.0 <= float(shift[1]) <= 25 * 9.0
    assert -25 * 9.0 <= float(shift[2]) <= 9.0


def test_bodies_of_other_size_are_scaled_before_the_search() -> None:
    features = torch.rand(12, 9, 6, 6, generator=torch.Generator().manual_seed(0))
    body = torch.ones(9, 6, 6, dtype=torch.bool)
    small = feature_map(features, body, torch.tensor([10.0, 20.0, 30.0]), 9.0)
    grown = functional.interpolate(features[None], scale_factor=(1, 4 / 3, 4 / 3))[0]
    large = feature_map(grown, torch.ones(9, 8, 8, dtype=torch.bool), torch.zeros(3), 9.0)
    scale = body_scale(small, large)
    torch.testing.assert_close(scale, torch.tensor([(4 / 3) ** 0.5, 4 / 3, 4 / 3]))
    centre = small.points().mean(dim=0, keepdim=True)
    start = find_starts(small, large, scale=scale, count=1)[0]
    assert (start(centre) - large.points().mean(dim=0))[0].abs().max() < 9.0
    back = start.inverse()(start(centre))
    torch.testing.assert_close(back, centre)
    assert float(body_scale(small, replace(large, mask=large.mask & False)).max()) <= 1.4


def test_a_trial_prefers_the_true_place_over_a_wrong_first() -> None:
    fixed, moving = _ready(_scan(GRID, (0.0, 0.0, 9.0))), _ready(_scan(GRID))
    right = find_start(fixed.overview, moving.overview)
    wrong = replace(right, offset_mm=right.offset_mm + torch.tensor([0.0, 33.0, 30.0]))
    chosen = choose_start(fixed, moving, (wrong, right))
    torch.testing.assert_close(chosen.offset_mm, right.offset_mm)
    assert 0.5 < chosen.certainty <= 1.0
    back = choose_start(fixed, moving, (wrong,))
    assert back is wrong


def test_memory_stays_within_bounds() -> None:
    moving, fixed = _ready(_scan(GRID)), _ready(_scan(GRID, (3.0, 0.0, 0.0)))
    register(fixed, moving, replace(CONFIG, iterations=1))
    tracemalloc.start()
    result = register(fixed, moving, replace(CONFIG, iterations=1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.field.displacement_mm.dtype == np.float32
    assert peak < 40 * result.field.displacement_mm.nbytes
