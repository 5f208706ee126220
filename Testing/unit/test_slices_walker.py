"""Outlines drawn towards the image's edges, and what no filling may fall below."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg.config import SliceConfig
from semiseg.slices.fill import fill_slices
from semiseg.slices.walker import walked

SHAPE = (13, 30, 32)


def _disc(radius: float) -> torch.Tensor:
    """Signed distance to a circle, positive inside, (1, 1, 30, 32)."""
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(32.0), indexing="ij")
    return (radius - ((y - 15) ** 2 + (x - 16) ** 2).sqrt())[None, None]


def test_an_outline_beside_an_edge_is_drawn_to_it() -> None:
    grey = 0.3 + 0.4 * (_disc(9.0) > 0).float()
    thought = _disc(7.5)
    found = walked(grey, thought, band=3.0, scale=2.0) > 0
    true = _disc(9.0) > 0
    assert ((found ^ true).sum() < 0.5 * ((thought > 0) ^ true).sum()).item()


def test_where_the_image_shows_nothing_the_outline_stays() -> None:
    thought = _disc(8.0)
    found = walked(torch.full_like(thought, 0.5), thought, band=3.0, scale=2.0)
    assert ((found > 0) ^ (thought > 0)).float().mean() < 0.01


def test_far_from_the_outline_nothing_changes() -> None:
    thought, noise = (
        _disc(8.0),
        torch.rand(1, 1, 30, 32, generator=torch.Generator().manual_seed(1)),
    )
    found = walked(noise, thought, band=3.0, scale=2.0)
    far = thought.abs() >= 3
    assert torch.equal(found[far], thought[far])
    assert torch.isfinite(found).all()


def test_without_an_outline_it_is_left_alone() -> None:
    empty = torch.full((2, 1, 5, 6), -9.0)
    assert torch.equal(walked(torch.rand(2, 1, 5, 6), empty, band=3.0, scale=2.0), empty)


def test_the_conjugate_gradients_solve_the_equation() -> None:
    grey = torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    thought = torch.linspace(-1, 1, 42).reshape(1, 1, 6, 7)
    both = torch.cat([grey, grey]), torch.cat([thought, thought])
    one = walked(grey, thought, band=2.0, scale=1.0)
    torch.testing.assert_close(walked(*both, band=2.0, scale=1.0)[:1], one, atol=1e-3, rtol=0)


def _tilted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A tube that leans, bends and changes its width, seen with noise."""
    rng = np.random.default_rng(seed)
    lean, bend = rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 2.5, 2)
    radius, wave = rng.uniform(4.5, 7), rng.uniform(0, 1.5)
    z, y, x = np.indices(SHAPE, dtype=float)
    centre = [15 + lean[k] * (z - 6) + bend[k] * np.sin(z / 2 + k) for k in (0, 1)]
    width = radius + wave * np.cos(z / 3)
    label = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < width**2).astype(np.uint16)
    image = 60 + 50.0 * label + rng.normal(0, 10, SHAPE)
    return image.astype(np.float32), label


@given(st.integers(0, 10_000), st.sampled_from([(0, 6, 12), (0, 4, 8, 12), (0, 3, 6, 9, 12)]))
@settings(max_examples=10, deadline=None)
def test_the_chosen_way_is_never_below_the_nearest_slice_or_interpolated_distances(
    seed: int, done: tuple[int, ...]
) -> None:
    image, label = _tilted(seed)
    line = np.isin(np.arange(SHAPE[0]), done)
    drawn = np.where(line[:, None, None], label, 0).astype(np.uint16)

    def overlap(config: SliceConfig) -> float:
        filled = fill_slices(image, drawn, {1: {0: line}}, (3.0, 1.5, 1.5), config).array
        found, true = filled[~line] == 1, label[~line] == 1
        return float(2 * (found & true).sum() / (found.sum() + true.sum()))

    best = overlap(SliceConfig())
    for method in ("nearest", "interpolated"):
        assert best > overlap(SliceConfig(method=method)) - 0.01  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_can_be_filled(axis: int) -> None:
    image, label = (np.moveaxis(part, 0, axis) for part in _tilted(3))
    line = np.isin(np.arange(SHAPE[0]), (0, 4, 8, 12))
    shape = [1, 1, 1]
    shape[axis] = -1
    drawn = np.where(line.reshape(shape), label, 0).astype(np.uint16)
    filled = fill_slices(image, drawn, {1: {axis: line}}, (2.0, 2.0, 2.0), SliceConfig()).array
    assert 2 * ((filled == 1) & (label == 1)).sum() > 0.9 * ((filled == 1).sum() + label.sum())
