"""The affine start: better than a translation where bodies are turned and stretched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semiseg.config import RegistrationConfig
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.registration import affine
from semiseg.registration.affine import affine_start
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.register import best_start
from semiseg.registration.start import Start

CONFIG = RegistrationConfig(device="cpu", spacing_mm=3.0)
GRID = Grid(size_xyz=(32, 32, 32), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 700.0))
TURN = 0.15
MATRIX_XYZ = np.array(
    [
        [1.12 * math.cos(TURN), -math.sin(TURN), 0.0],
        [math.sin(TURN), math.cos(TURN), 0.05],
        [0.0, 0.0, 0.92],
    ]
)


def scan(matrix_xyz: np.ndarray) -> Prepared:
    """A textured ellipsoid whose point p + centre is seen at q + centre, p = matrix q."""
    axes = [np.arange(n, dtype=float) for n in GRID.shape_zyx]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    world = GRID.to_world(np.stack([x, y, z], axis=-1)) - GRID.centre_mm_lps
    x, y, z = np.moveaxis(world @ matrix_xyz.T, -1, 0)
    waves = np.sin(x / 6) + np.sin(y / 7 + 1) + np.sin(z / 5 + 2) + np.sin((x + y) / 9)
    body = (x / 36) ** 2 + (y / 32) ** 2 + (z / 36) ** 2 < 1
    grey = np.where(body, 500 + 80 * waves + 60 * np.sin((y - z) / 8), 0.0)
    return prepare(Image(array=grey.astype(np.float32), grid=GRID), "MR", CONFIG)


def error_mm(start: Start, fixed: Prepared) -> float:
    """Mean distance from the true place over the fixed body."""
    points = fixed.features.points()[fixed.features.mask.flatten()]
    centre = torch.tensor(GRID.centre_mm_lps[::-1].copy()).float()
    back = torch.tensor(np.linalg.inv(MATRIX_XYZ)[::-1, ::-1].copy()).float()
    truth = (points - centre) @ back.T + centre
    return float((start(points) - truth).norm(dim=1).mean())


def test_a_turned_and_stretched_body_is_placed_better_than_by_size_and_position() -> None:
    fixed, moving = scan(np.eye(3)), scan(MATRIX_XYZ)
    plain = error_mm(best_start(fixed, moving, CONFIG), fixed)
    assert error_mm(affine_start(fixed, moving, CONFIG), fixed) < 0.6 * plain


@pytest.mark.parametrize("limit", ["_FEWEST", "_LARGEST_STRETCH"])
def test_where_the_match_is_not_to_be_trusted_the_best_start_stays(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    fixed, moving = scan(np.eye(3)), scan(MATRIX_XYZ)
    monkeypatch.setattr(affine, limit, 1_000_000 if limit == "_FEWEST" else 1.0001)
    found, plain = affine_start(fixed, moving, CONFIG), best_start(fixed, moving, CONFIG)
    assert torch.equal(found.matrix, plain.matrix)
    assert torch.equal(found.offset_mm, plain.offset_mm)
