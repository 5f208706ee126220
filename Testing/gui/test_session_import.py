"""A stroke that is drawn while an annotation is taken in erases none of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    """A study, c0 shown; taking in is told by the test; each look at the clock is a second."""
    study = phantom_study(annotated=0)
    jobs.hold = lambda arguments: arguments[0] == "annotate"
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    seconds = itertools.count()
    made.now = lambda: float(next(seconds))
    return made


def draw(session: Any, z: int, structure: int) -> None:
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), structure, np.uint16)
    grid = session.study.case("c0").grid
    segments.write_region(session.nodes("c0").drawn, grid, square, (z, 5, 5))


def taken_in(session: Any) -> np.ndarray:
    """What the child writes: structure 1 in slice 3."""
    array = np.zeros(session.study.case("c0").grid.shape_zyx, np.uint16)
    array[3, 5:9, 5:9] = 1
    Study.open(session.study.folder).annotate("c0", array)
    return array


def test_a_stroke_meanwhile_waits_for_what_is_taken_in(
    session: Any, jobs: Any, until: Until
) -> None:
    session.import_annotation(Path("drawn.nrrd"), done="none", plane="axial")
    session.tick()
    expected = taken_in(session)
    draw(session, 6, 2)
    for _ in range(3):
        session.tick()
    session.save_drafts()
    session.select("c1")
    assert session.study.drafts() == ()
    jobs.told[-1].end(slices=[])
    assert until(session)
    session.apply_drafts()
    assert until(session)
    expected[6, 5:9, 5:9] = 2
    assert np.array_equal(session.study.human_map("c0").array, expected)


def test_after_a_refusal_strokes_are_saved_again(session: Any, jobs: Any, until: Until) -> None:
    session.import_annotation(Path("drawn.nrrd"), done="none", plane="axial")
    session.tick()
    draw(session, 6, 2)
    jobs.told[-1].fail("the label lies on another grid", cause="told")
    assert until(session)
    session.tick()
    session.save_drafts()
    assert session.study.drafts() == ("c0",)


def test_a_case_that_takes_in_an_annotation_is_not_unloaded(session: Any) -> None:
    session.import_annotation(Path("drawn.nrrd"), done="none", plane="axial")
    session.tick()
    draw(session, 6, 2)
    session.unload_case("c0")
    assert "taking in an annotation" in session.message
    assert "c0" in session.open_cases


def test_closing_the_study_meanwhile_still_keeps_the_stroke(session: Any) -> None:
    session.import_annotation(Path("drawn.nrrd"), done="none", plane="axial")
    session.tick()
    draw(session, 6, 2)
    folder = session.study.folder
    session.close_study()
    assert Study.open(folder).drafts() == ("c0",)
