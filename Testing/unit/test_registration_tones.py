"""Greys as a feature, where two images show tissues in like greys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semiseg.config import Modality, RegistrationConfig
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.register import best_start, register
from semiseg.registration.start import Start, tones_agree

CONFIG = RegistrationConfig(device="cpu", iterations=15)
GRID = Grid(size_xyz=(28, 26, 24), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 700.0))


def _body(
    *, shift: float = 0.0, inverted: bool = False, modality: Modality = "MR", seed: int = 0
) -> Prepared:
    """A grey body with a bright and a dark half, that lie `shift` voxels further along x."""
    z, y, x = np.indices(GRID.shape_zyx, dtype=float)
    inside = ((z - 12) / 11) ** 2 + ((y - 13) / 12) ** 2 + ((x - 14) / 13) ** 2 < 1
    tone = np.where(x - shift < 13, 300.0, 500.0)
    tone = 800 - tone if inverted else tone
    noise = np.random.default_rng(seed).normal(0, 4, GRID.shape_zyx)
    return prepare(
        Image(array=np.where(inside, tone + noise, 0).astype(np.float32), grid=GRID),
        modality,
        CONFIG,
    )


def _still() -> Start:
    return Start(matrix=torch.eye(3), offset_mm=torch.zeros(3), certainty=1.0, reason="")


@pytest.mark.parametrize(("inverted", "alike"), [(False, True), (True, False)])
def test_greys_count_where_bright_stays_bright(inverted: bool, alike: bool) -> None:
    fixed, moving = _body(), _body(inverted=inverted, seed=1)
    assert tones_agree(fixed.tones, moving.tones, _still()) is alike


def test_images_without_contrast_or_overlap_do_not_agree() -> None:
    image = _body()
    flat = Image(array=np.zeros(GRID.shape_zyx, dtype=np.float32), grid=GRID)
    assert not tones_agree(prepare(flat, "MR", CONFIG).tones, image.tones, _still())
    away = Start(matrix=torch.eye(3), offset_mm=torch.full((3,), 1e4), certainty=1.0, reason="")
    assert not tones_agree(image.tones, image.tones, away)


def test_a_border_that_features_hardly_see_is_followed_by_its_greys() -> None:
    fixed, moving = _body(), _body(shift=3.0, seed=1)
    found = register(fixed, moving, CONFIG)
    z, y, x = np.indices(GRID.shape_zyx)
    near = (np.abs(x - 13) < 2) & (np.abs(z - 12) < 5) & (np.abs(y - 13) < 5)
    points = GRID.to_world(np.argwhere(near)[:, ::-1].astype(float))
    assert float(found.field.at(points)[:, 0].mean()) > 4.5


def test_other_modalities_are_compared_by_features_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving = _body(), _body(modality="CT", seed=1)
    monkeypatch.setattr(
        "semiseg.registration.aligned.tones_agree",
        lambda *_: pytest.fail("greys of two modalities say nothing of each other"),
    )
    assert best_start(fixed, moving, CONFIG).certainty >= 0
    register(fixed, moving, RegistrationConfig(device="cpu", iterations=1))
