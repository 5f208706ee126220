"""Ways to other patients' anatomy, as deformations to augment a labelled scan with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from semiseg.config import TrainConfig
from semiseg.data.cases import TrainingCase
from semiseg.images.grid import Grid
from semiseg.learning import run
from semiseg.learning.atlas_warps import atlas_warps
from semiseg.learning.places import Correspondence
from semiseg.registration.field import Field
from semiseg.registration.register import RegistrationResult
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]
GRID = Grid(
    size_xyz=(24, 20, 16),
    spacing_mm_xyz=(2.0, 2.5, 4.0),
    origin_mm_lps=(-20.0, 10.0, 5.0),
    direction=(0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0),
)
WIDE = Grid(
    size_xyz=(40, 40, 40), spacing_mm_xyz=(4.0, 4.0, 4.0), origin_mm_lps=(-90.0, -60.0, -40.0)
)
Move = Callable[[np.ndarray], np.ndarray]


def field(move: Move) -> Field:
    z, y, x = np.meshgrid(*(np.arange(40.0),) * 3, indexing="ij")
    points = WIDE.to_world(np.stack([x, y, z], axis=-1))
    return Field(displacement_mm=np.moveaxis(move(points), -1, 0).astype(np.float32), grid=WIDE)


def registered(there: Move, back: Move) -> RegistrationResult:
    return RegistrationResult(
        field=field(there),
        inverse=field(back),
        folded=0.0,
        similarity_before=0.5,
        similarity_after=0.9,
        inverse_error_mm=0.0,
        start_certainty=1.0,
        start_reason="",
        seconds=0.0,
    )


def nothing(points: np.ndarray) -> np.ndarray:
    return np.zeros_like(points)


def affine(points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ np.diag([0.05, -0.04, 0.03]) + 4.0)


def bump(points: np.ndarray) -> np.ndarray:
    """5 mm along x around the middle of the grid."""
    away = np.linalg.norm(points - GRID.centre_mm_lps, axis=-1, keepdims=True)
    return np.asarray(5.0 * np.exp(-((away / 12) ** 2)) * [1.0, 0.0, 0.0])


class Known:
    """Registrations by name, "r" the reference."""

    reference = "r"

    def __init__(self, **results: RegistrationResult | None) -> None:
        self._results = results
        self.asked: list[str] = []

    def registered(self, case_id: str) -> RegistrationResult | None:
        self.asked.append(case_id)
        return self._results[case_id]


def warps(known: Known, case_id: str, *others: str) -> np.ndarray | None:
    return atlas_warps(cast(Correspondence, known), case_id, GRID, others, seed=0)


SAME = registered(nothing, nothing)


def test_patients_of_the_same_shape_need_no_bending() -> None:
    found = warps(Known(a=SAME, b=SAME), "a", "b", "r")
    assert found is not None
    assert found.shape == (2, 3, 7, 6, 6)  # knots about 10 mm apart over 60 x 47.5 x 46 mm
    assert np.abs(found).max() < 1e-3


def test_posture_and_size_are_taken_off() -> None:
    found = warps(Known(b=registered(nothing, affine)), "r", "b")
    assert found is not None
    assert np.abs(found).max() < 1e-2


def test_what_is_left_moves_voxels_of_the_cases_own_grid() -> None:
    found = warps(Known(b=registered(nothing, bump)), "r", "b")
    assert found is not None
    middle = found[0][:, 3, 3, 3] * [4.0, 2.5, 2.0]
    # 5 mm along world x on a grid turned by about 37 degrees, less what the affine part took.
    assert np.linalg.norm(middle) > 2.0
    assert abs(middle[0]) < 0.5
    turned = middle[2] * np.array([0.8, 0.6]), middle[1] * np.array([0.6, 0.8])
    assert abs(turned[0][0] / np.linalg.norm(middle)) > 0.5


def test_large_ways_are_cut_short() -> None:
    def wild(points: np.ndarray) -> np.ndarray:
        return np.asarray(40 * bump(points))

    found = warps(Known(b=registered(nothing, wild)), "r", "b")
    assert found is not None
    length = np.linalg.norm(np.moveaxis(found[0], 0, -1) * [4.0, 2.5, 2.0], axis=-1)
    assert 25 < length.max() <= 30.001


def test_what_is_not_known_stays_where_it_is() -> None:
    def far(points: np.ndarray) -> np.ndarray:
        return np.full_like(points, 500.0)

    found = warps(Known(a=registered(far, nothing), b=SAME), "a", "b")
    assert found is not None
    assert not found.any()


def test_cases_that_cannot_be_registered_are_left_out() -> None:
    assert warps(Known(a=None, b=SAME), "a", "b") is None
    assert warps(Known(a=SAME, b=None), "a", "b") is None
    found = warps(Known(a=SAME, b=None), "a", "b", "r")
    assert found is not None
    assert len(found) == 1


def test_at_most_six_partners_are_drawn_by_the_seed() -> None:
    names = [f"b{i}" for i in range(9)]
    known = Known(**dict.fromkeys(names, SAME))
    found = warps(known, "r", *names)
    assert found is not None
    assert len(found) == 6
    again = Known(**dict.fromkeys(names, SAME))
    warps(again, "r", *reversed(names))
    assert known.asked == again.asked


@pytest.mark.parametrize("wanted", [False, True])
def test_a_training_bends_labelled_cases_where_it_is_asked_to(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr(Correspondence, "registered", lambda *_: SAME)
    seen: list[TrainingCase] = []
    sampler = run.Sampler

    def spy(cases: list[TrainingCase], *rest: Any) -> Any:
        seen.extend(cases)
        return sampler(cases, *rest)

    monkeypatch.setattr(run, "Sampler", spy)
    config = TrainConfig(
        method="entropy",
        atlas_warps=wanted,
        minutes=None,
        steps=1,
        patch=(16,) * 3,
        validation="none",
        device="cpu",
    )
    train(phantom_study(("CT", "MR"), annotated=1), config)
    assert [case.warps is not None for case in seen] == [wanted, False]
