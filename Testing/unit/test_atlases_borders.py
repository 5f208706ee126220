"""Borders of carried labels against those in the image, and both ways of fusing together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semiseg.atlases.borders import border_contrast, border_ratios
from semiseg.atlases.fusion import fuse
from semiseg.atlases.transfer import Evidence, Transfer
from semiseg.images.grid import Grid
from semiseg.registration.prepared import Prepared

GRID = Grid(size_xyz=(20, 18, 16), spacing_mm_xyz=(3.0, 3.0, 3.0))


def scene(shift: int = 0) -> np.ndarray:
    label = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    label[5:11, 6:12, 5 + shift : 11 + shift] = 1
    label[2:4, 2:4, 15:17] = 2
    return label


def image() -> Prepared:
    rng = np.random.default_rng(0)
    greys = np.where(scene() == 1, 0.5, -0.2) + rng.normal(0, 0.1, GRID.shape_zyx)
    return Prepared(
        array=greys.astype(np.float32),
        mask=np.ones(GRID.shape_zyx, dtype=bool),
        grid=GRID,
        modality="MR",
        device=torch.device("cpu"),
    )


def test_a_label_on_its_organ_stands_out_and_one_beside_it_less() -> None:
    right = border_contrast(image(), scene(), (1, 2))
    assert set(right) == {1}  # structure 2 has too few voxels
    assert right[1] == pytest.approx(7, abs=1)
    beside = border_contrast(image(), scene(3), (1,))
    assert abs(beside[1]) < 2
    assert border_contrast(image(), np.ones(GRID.shape_zyx, np.uint16), (1,)) == {}


def test_contrast_is_compared_with_that_of_the_atlases() -> None:
    expected = [{1: 2.0, 2: -1.0, 3: 0.1}, {1: 4.0}, {1: 3.0, 4: 1.0}]
    found = {1: 1.5, 2: 1.0, 3: 5.0}
    assert border_ratios(found, expected, alike=True) == {1: 0.5, 2: -1.0, 4: 0.0}
    assert border_ratios(found, expected, alike=False) == {1: 0.5, 2: 1.0, 4: 0.0}


def lent(share: np.ndarray) -> Transfer:
    flat = np.ones(GRID.shape_zyx, np.float32)
    evidence = Evidence(
        folded=0.0,
        inverse_error_mm=1.0,
        similarity=0.9,
        start_certainty=1.0,
        outside=0.0,
        atlas_volumes_ml={1: 1.0},
    )
    return Transfer(
        case_id="a",
        ids=(1,),
        share=share[None].astype(np.float32),
        confidence=flat,
        distance=0.05 * flat,
        evidence=evidence,
    )


def test_both_ways_of_fusing_are_averaged_and_their_borders_blurred() -> None:
    parts = [lent(scene(shift) == 1) for shift in (0, 0, 2)]
    vote, staple, both = (fuse(parts, GRID, way).share[0] for way in ("vote", "staple", "both"))  # type: ignore[arg-type]
    mean = (vote + staple) / 2
    assert both.sum() == pytest.approx(mean.sum(), rel=1e-3)
    assert both.max() <= 1
    assert np.abs(both - mean).mean() < 0.02
    assert np.abs(np.diff(both, axis=2)).max() < np.abs(np.diff(mean, axis=2)).max()
    np.testing.assert_array_equal(fuse(parts, replace(GRID), "both").share[0], both)


def test_a_single_atlas_is_neither_averaged_nor_blurred() -> None:
    alone = [lent(scene() == 1)]
    both, vote = fuse(alone, GRID, "both").share, fuse(alone, GRID, "vote").share
    np.testing.assert_allclose(both, vote, atol=1e-5)
