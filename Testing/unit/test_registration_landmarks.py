"""Structures known in both images as landmarks of a registration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from semiseg import propagation
from semiseg.config import PropagationConfig, RegistrationConfig
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.registration.cache import Source
from semiseg.registration.landmarks import Landmarks, landmark_map
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.register import register
from semiseg.registration.sampling import FeatureMap, feature_map
from semiseg.study.study import Study

GRID = Grid(size_xyz=(28, 26, 24), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 700.0))
SHIFT_MM = 9.0


def _config(*, diffeomorphic: bool = False) -> RegistrationConfig:
    return RegistrationConfig(device="cpu", iterations=30, diffeomorphic=diffeomorphic)


def _organ(shift_mm: float) -> np.ndarray:
    """A ball that lies `shift_mm` further along x."""
    z, y, x = np.indices(GRID.shape_zyx, dtype=float) * 3.0
    ball = (x - 40 - shift_mm) ** 2 + (y - 38) ** 2 + (z - 35) ** 2 < 15**2
    return ball.astype(np.uint16)


def _body(seed: int = 0) -> Prepared:
    """Nothing in the image tells where the organ lies."""
    z, y, x = np.indices(GRID.shape_zyx, dtype=float)
    inside = ((z - 12) / 11) ** 2 + ((y - 13) / 12) ** 2 + ((x - 14) / 13) ** 2 < 1
    noise = np.random.default_rng(seed).normal(0, 5, GRID.shape_zyx)
    values = np.where(inside, 400 + noise, 0).astype(np.float32)
    return prepare(Image(array=values, grid=GRID), "MR", _config())


def _marks(images: tuple[Prepared, Prepared], *, sure: float = 1.0) -> Landmarks:
    confidence = np.full(GRID.shape_zyx, sure, dtype=np.float32)
    fixed, moving = (
        landmark_map(image, _organ(shift_mm), confidence, GRID, [1])
        for image, shift_mm in zip(images, (0.0, SHIFT_MM), strict=True)
    )
    return Landmarks(fixed=fixed, moving=moving)


@pytest.mark.parametrize("diffeomorphic", [False, True])
def test_a_known_organ_is_led_onto_itself(diffeomorphic: bool) -> None:
    images, config = (_body(0), _body(1)), _config(diffeomorphic=diffeomorphic)
    alone = register(*images, config)
    guided = register(*images, config, landmarks=_marks(images), both_ways=True)
    inside = GRID.to_world(np.argwhere(_organ(0.0))[:, ::-1].astype(float))
    moved = [float(found.field.at(inside)[:, 0].mean()) for found in (alone, guided)]
    assert moved[0] < 0.5 * SHIFT_MM
    assert moved[1] > max(0.5 * SHIFT_MM, 1.2 * moved[0])
    assert guided.folded == 0.0
    assert guided.inverse is not None
    there = GRID.to_world(np.argwhere(_organ(SHIFT_MM))[:, ::-1].astype(float))
    assert float(guided.inverse.at(there)[:, 0].mean()) < -0.4 * SHIFT_MM


def test_how_far_two_searches_end_apart_tells_strangers() -> None:
    def texture(seed: int) -> Prepared:
        noise = np.random.default_rng(seed).normal(0, 1, (40, 40, 40))
        values = (1000 + 4000 * ndimage.gaussian_filter(noise, 2)).astype(np.float32)
        grid = Grid(size_xyz=(40, 40, 40), spacing_mm_xyz=(6.0,) * 3)
        return prepare(Image(array=values, grid=grid), "MR", config)

    config = RegistrationConfig(device="cpu", iterations=1, spacing_mm=6.0, grid_mm=24.0)
    image = texture(0)
    assert register(image, image, config).ways_apart_mm < 1.0
    assert register(image, texture(1), config).ways_apart_mm > 20.0


def test_what_is_not_sure_does_not_guide() -> None:
    marks = _marks((_body(), _body()), sure=0.4)
    nodes = torch.arange(len(marks.fixed.table))
    assert float(marks.distance(nodes, marks.fixed.points())) == 0.0


def test_nothing_shared_costs_nothing_and_passes_a_gradient() -> None:
    mask = torch.ones(3, 3, 3)
    empty = feature_map(torch.zeros(2, 3, 3, 3), mask, torch.zeros(3), 6.0)
    points = empty.points().requires_grad_()
    cost = Landmarks(fixed=empty, moving=empty).distance(torch.arange(27), points)
    cost.backward()  # type: ignore[no-untyped-call]
    assert float(cost.detach()) == 0.0
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


FAST = PropagationConfig(
    registration=RegistrationConfig(spacing_mm=4.0, iterations=2, grid_mm=20.0, device="cpu"),
    accept_above=0.0,
    reject_below=0.0,
)


@pytest.mark.parametrize(("split", "guides"), [("train", True), ("val", False), ("test", False)])
def test_slices_kept_for_validation_and_testing_are_never_read_as_landmarks(
    phantom_study: Callable[..., Study],
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    guides: bool,
) -> None:
    study = phantom_study(("CT", "CT"), annotated=1, splits=("train", split))
    label = np.zeros((10, 16, 16), dtype=np.uint16)
    label[3:8, 6:11, 3:8] = 1
    study.annotate("c1", label, plane="axial", indices=(3, 5, 7), structure_ids=(1,))
    seen = _watch(monkeypatch)
    propagation.propagate(study, FAST, case_ids=["c1"])
    assert [(fixed.known is not None, moving.known is not None) for fixed, moving in seen] == [
        (guides, guides)
    ]
    assert all(bool(source.known_key) is guides for pair in seen for source in pair)


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Source, Source]]:
    """The sources of every registration that propagation asks for."""
    seen: list[tuple[Source, Source]] = []
    genuine = propagation.cached_register

    def watched(folder: Path, fixed: Source, moving: Source, *rest: object, both_ways: bool):  # type: ignore[no-untyped-def]
        seen.append((fixed, moving))
        return genuine(folder, fixed, moving, *rest, both_ways=both_ways)  # type: ignore[arg-type]

    monkeypatch.setattr(propagation, "cached_register", watched)
    return seen


def test_only_structures_that_both_cases_know_guide(
    phantom_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "MR"), annotated=1)
    label = np.zeros((10, 16, 16), dtype=np.uint16)
    label[3:8, 6:11, 3:8] = 1
    study.annotate("c1", label, plane="axial", indices=(3, 5, 7), structure_ids=(1,))
    seen = _watch(monkeypatch)
    propagation.propagate(study, FAST, case_ids=["c1"])
    maps = [source.known() for source in seen[0] if source.known is not None]
    assert all(isinstance(found, FeatureMap) for found in maps)
    assert [found.table.shape[1] for found in maps] == [2, 2]  # structure 1 and trust
