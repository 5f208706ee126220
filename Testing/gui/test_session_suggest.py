"""Next slice: asked of the engine after what was drawn is merged, gone to, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.events import Event
from semiseg.study.ledger import SliceState
from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 annotated and shown; its spleen is doubtful in c1."""
    study = phantom_study(annotated=1)
    said = np.zeros((10, 16, 16), np.uint16)
    said[3:8, 5:9, 5:9] = 2
    said[3:8, 10:14, 5:9] = 1
    unsure = (said == 2) * np.float32(0.9)
    for case_id, weights in (("c0", unsure * 0), ("c1", unsure)):
        study.predicted(case_id, said, weights, model_id=1, info={})
    jobs.hold = lambda arguments: arguments[0] not in ("study", "suggest")
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def ask(session: Any, until: Until) -> str:
    session.next_slice()
    assert until(session, seconds=5)
    return str(session.message)


def test_it_goes_where_the_model_is_unsure_and_says_why(session: Any, until: Until) -> None:
    chosen: list[int] = []
    session.choose_structure = chosen.append

    told = ask(session, until)

    assert session.current == "c1"
    assert session.slice_index() is not None
    assert told.startswith(f"Draw c1, {session.plane} slice {session.slice_index()}: the model")
    assert "unsure of the spleen" in told
    assert chosen == [2]


def test_proposed_slices_stay_until_they_are_done(session: Any, until: Until) -> None:
    assert session.proposed() == frozenset()
    ask(session, until)
    index = session.slice_index()
    assert index in session.proposed()

    session.mark_done(index)

    assert session.proposed() == session.proposed() - {index}
    assert session.ledger_states()[index] is SliceState.DONE


def test_what_was_drawn_is_merged_before_the_engine_is_asked(
    session: Any, jobs: Any, until: Until
) -> None:
    session.mark_done(6)
    ask(session, until)
    names = [command[:2] if command[0] == "study" else command[:1] for command in jobs.commands]
    assert names.index(["study", "apply"]) < names.index(["suggest"])
    assert Study.open(session.study.folder).ledger("c0").state("axial", 6, 1) is SliceState.DONE


def test_a_fixed_axis_and_the_open_case_are_passed_on(
    session: Any, jobs: Any, until: Until
) -> None:
    session.follow_views = False
    session.plane = "coronal"
    ask(session, until)
    command = next(c for c in jobs.commands if c[0] == "suggest")
    assert command[-4:] == ["--at", "c0", "--plane", "coronal"]
    assert session.plane == "coronal"


def test_one_question_at_a_time(session: Any, jobs: Any, until: Until) -> None:
    session.next_slice()
    session.next_slice()
    assert until(session)
    assert len([c for c in jobs.commands if c[0] == "suggest"]) == 1


def test_without_structures_it_says_what_is_missing(
    live_session: Any, jobs: Any, tmp_path: Path, until: Until
) -> None:
    session = live_session(jobs)
    session.next_slice()
    assert "No study is open" in session.message
    session.dismiss()
    session.create_study(tmp_path / "new", "new")
    session.next_slice()
    assert "Add a structure first" in session.message


def test_when_all_is_done_it_says_so(session: Any, until: Until) -> None:
    study = Study.open(session.study.folder)
    for case_id in study.cases:
        for plane, n in (("axial", 10), ("coronal", 16), ("sagittal", 16)):
            study.mark_slices(case_id, plane, range(n), SliceState.DONE)
    session.reload_study()
    assert "Every slice that may be drawn is done" in ask(session, until)


def test_a_failure_is_shown(session: Any, until: Until) -> None:
    for case_id in session.study.cases:
        Study.open(session.study.folder).set_split(session.study.case(case_id).patient, "test")
    ask(session, until)
    assert session.message_is_error
    assert "training split" in session.message


@pytest.mark.parametrize(
    "found",
    [
        None,
        ["no place"],
        [{"case": "c1", "plane": "oblique", "index": 1}],
        [{"case": "c1", "plane": "axial", "index": "one"}],
        [{"case": "gone", "plane": "axial", "index": 1, "reason": "r"}],
    ],
)
def test_what_cannot_be_gone_to_is_not(session: Any, found: Any) -> None:
    event = Event(kind="result", phase="end", data={"suggestions": found})
    session._suggest_ended(None, event)
    assert session.current == "c0"


def test_a_case_that_cannot_be_loaded_is_said(session: Any, until: Until) -> None:
    Path(session.study.case("c1").image.absolute).unlink()
    session._suggest_ended(
        None,
        Event(
            kind="result",
            phase="end",
            data={"suggestions": [{"case": "c1", "plane": "axial", "index": 1, "reason": "r"}]},
        ),
    )
    session.tell()
    assert session.message_is_error
    assert not session.message.startswith("Draw")


def test_the_button_the_key_and_the_dots_on_the_strip(
    panel: Any, session: Any, until: Until
) -> None:
    folder = session.study_folder
    session.close_study()
    made = panel(session)
    section = made.sections["annotate"]
    assert not section.buttons["next_slice"].enabled
    session.open_study(folder)
    assert until(session)
    assert section.buttons["next_slice"].enabled, section.buttons["next_slice"].toolTip
    assert "Shift+N" in section.buttons["next_slice"].toolTip
    section.buttons["next_slice"].click()
    assert until(session)
    index = session.slice_index()
    assert index in section.strip.content.proposed
    assert "Drawing pays here." in section.strip.words_at(section.strip.x_of(index))
