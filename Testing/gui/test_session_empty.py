"""A stroke into a slice that was marked as empty takes the mark back, and says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semiseg.study.ledger import SliceState

Until = Callable[..., bool]


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    study = phantom_study(annotated=0)
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def draw(session: Any, z: int) -> None:
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), 1, np.uint16)
    grid = session.study.case("c0").grid
    segments.write_region(session.nodes("c0").drawn, grid, square, (z, 5, 5))


def keep(session: Any, until: Until) -> None:
    session.apply_drafts()
    assert until(session)


@pytest.mark.parametrize("applied", [False, True])
def test_a_slice_marked_as_empty_is_open_again_once_something_is_drawn(
    session: Any, until: Until, applied: bool
) -> None:
    session.mark_empty(4)
    session.mark_empty(5)
    if applied:
        keep(session, until)
    draw(session, 4)
    keep(session, until)
    assert "slice 4 was marked as empty" in session.message or applied
    assert not session.message_is_error
    states = session.ledger_states()
    assert states[4] is SliceState.UNTOUCHED
    assert states[5] is SliceState.EMPTY
    assert session.study.ledger("c0").state("axial", 4, 1) is SliceState.UNTOUCHED
    assert (session.study.human_map("c0").array[4] == 1).sum() == 16


def test_the_user_is_told_that_the_slice_is_open_again(session: Any, until: Until) -> None:
    session.mark_empty(4)
    session.save_drafts()
    draw(session, 4)
    session.save_drafts()
    assert "axial slice 4 was marked as empty" in session.message
