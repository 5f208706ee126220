"""Places: where voxels lie in the reference case, by the registrations that propagation keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.config import TrainConfig
from semiseg.errors import ImageError
from semiseg.events import Event
from semiseg.images.grid import Grid, canonical
from semiseg.learning import places
from semiseg.learning.places import Correspondence, followed, reference_case
from semiseg.learning.survey import survey
from semiseg.registration.field import Field
from semiseg.registration.register import RegistrationResult
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]
GRID = Grid(size_xyz=(16, 16, 10), spacing_mm_xyz=(3.0, 3.0, 4.0))


def shifted(by_xyz: tuple[float, float, float], back: float = 1.0) -> RegistrationResult:
    """The fixed point p lies at p + `by_xyz`; the way back goes `back` times that."""
    there = np.broadcast_to(np.reshape(by_xyz, (3, 1, 1, 1)), (3, *GRID.shape_zyx))
    return RegistrationResult(
        field=Field(displacement_mm=there.astype(np.float32), grid=GRID),
        inverse=Field(displacement_mm=(-back * there).astype(np.float32), grid=GRID),
        folded=0.0,
        similarity_before=0.5,
        similarity_after=0.9,
        inverse_error_mm=0.0,
        start_certainty=1.0,
        start_reason="",
        seconds=0.0,
    )


class Registered:
    """In the place of `cached_register`."""

    def __init__(self, result: RegistrationResult | Exception) -> None:
        self.result, self.calls = result, []

    def __call__(self, folder: Path, fixed: Any, moving: Any, *_: Any, **options: Any) -> Any:
        self.calls.append((folder, fixed.sha256, moving.sha256, options))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def correspondence(study: Study, minutes: float | None = None) -> tuple[Correspondence, list[str]]:
    said: list[str] = []

    def hear(event: Event) -> None:
        said.append(event.message)

    return Correspondence(study, survey(study, use_propagated=True), minutes, hear), said


def test_the_reference_is_the_first_case_with_most_structures(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR", "CT"), annotated=3)
    assert reference_case(survey(study, use_propagated=True)) == "c0"


def test_the_reference_lies_in_itself(phantom_study: Make) -> None:
    found, _ = correspondence(phantom_study())
    place = found.of("c0", GRID)
    assert place is not None
    assert place[:, 0, 0, 0].tolist() == [-22.5, -22.5, -18.0]
    assert place[:, 9, 15, 15].tolist() == [22.5, 22.5, 18.0]


def test_other_cases_lie_where_their_registration_puts_them(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "MR"), annotated=1)
    work = Registered(shifted((3.0, 0.0, -4.0)))
    monkeypatch.setattr(places, "cached_register", work)
    found, said = correspondence(study)
    grid = canonical(GRID).grid
    place = found.of("c1", grid)
    assert place is not None
    assert place.dtype == np.float16
    assert place[:, 5, 8, 8].tolist() == [1.5 + 3, 1.5, 2.0 - 4]
    assert np.isnan(place[:, 0, :, :]).all()  # 4 mm below the reference
    assert np.isnan(place[:, :, :, 15]).all()
    folder, fixed, moving, options = work.calls[0]
    assert (fixed, moving) == (study.cases["c1"].image.sha256, study.cases["c0"].image.sha256)
    assert folder == study.cache_dir / "registration"
    assert options == {"both_ways": True}
    assert said == []


def test_the_registration_is_the_one_that_propagation_keeps(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Propagated with the same settings before, no registration is made again."""
    from semiseg.config import PropagationConfig
    from semiseg.propagation import propagate
    from semiseg.registration import cache

    study = phantom_study(("CT", "CT"), annotated=1)
    propagate(study, PropagationConfig())
    monkeypatch.setattr(cache, "register", Registered(ImageError("made again")))
    found, said = correspondence(study)
    assert found.of("c1", GRID) is not None
    assert said == []


def test_where_the_way_back_goes_astray_the_place_is_unknown() -> None:
    middle = GRID.centre_mm_lps[None]
    sound = followed(shifted((8.0, 0.0, 0.0), back=0.3), middle)
    assert (sound - middle).tolist() == [[8.0, 0.0, 0.0]]
    assert np.isnan(followed(shifted((12.0, 0.0, 0.0), back=0.3), middle)).all()


def test_a_case_that_cannot_be_registered_has_no_places_and_it_is_said(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "cached_register", Registered(ImageError("the file is gone")))
    found, said = correspondence(phantom_study())
    assert found.of("c1", GRID) is None
    assert said == ["c1: it has no counterparts, because the file is gone"]


def test_a_quarter_of_the_time_is_enough(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Registered(shifted((0.0, 0.0, 0.0)))
    monkeypatch.setattr(places, "cached_register", work)
    monkeypatch.setattr(places.time, "monotonic", iter(range(0, 1000, 20)).__next__)
    found, said = correspondence(phantom_study(("CT",) * 4, annotated=1), minutes=1.0)
    assert found.of("c1", GRID) is not None
    assert found.of("c2", GRID) is None
    assert said == ["c2: no time to register it, so it has no counterparts"]
    assert len(work.calls) == 1


def test_a_training_hands_places_to_the_method_that_asks(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Registered(shifted((0.0, 0.0, 0.0)))
    monkeypatch.setattr(places, "cached_register", work)
    study = phantom_study(("CT", "MR"), annotated=1)
    config = TrainConfig(method="cct_r", minutes=None, steps=2, validation="none", patch=(16,) * 3)
    train(study, config)
    assert [fixed for _, fixed, _, _ in work.calls] == [study.cases["c1"].image.sha256]
    train(study, replace(config, method="supervised"))
    assert len(work.calls) == 1
