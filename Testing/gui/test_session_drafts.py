"""Human strokes: on the disk within a second, in a label version soon, never lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from semiseg.errors import StorageError
from semiseg.study.ledger import SliceState
from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=100.0)


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, clock: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 shown; nothing is annotated; time is the test's."""
    study = phantom_study(annotated=0)
    made = live_session(jobs)
    made.now = lambda: clock.now
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def drawn(session: Any, case_id: str = "c0") -> np.ndarray:
    from SemiSegModuleLib.mrml import segments

    node = session.nodes(case_id).drawn
    grid = session.study.case(case_id).grid
    return segments.read_layers(node, grid, session.protocol()).flat(grid)


def draw(session: Any, structure: int = 1, z: int = 4, case_id: str = "c0") -> None:
    """A square of `structure` in slice `z`, as the editor would leave it."""
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), structure, np.uint16)
    grid = session.study.case(case_id).grid
    segments.write_region(session.nodes(case_id).drawn, grid, square, (z, 5, 5))


def overlap(session: Any) -> None:
    """Structure 2 over structure 1, each in a layer of its own."""
    from SemiSegModuleLib.mrml import segments

    one = np.zeros((10, 16, 16), np.uint16)
    one[4, 5:9, 5:9] = 1
    grid = session.study.case("c0").grid
    segments.set_layers(session.nodes("c0").drawn, grid, [one, one * 2], (0, 0, 0))


def suggest(session: Any, case_id: str = "c0") -> None:
    """A model says structure 1 in slices 3 to 5, structure 2 in slice 5 beside it."""
    said = np.zeros((10, 16, 16), np.uint16)
    said[3:6, 5:9, 5:9] = 1
    said[5, 5:9, 10:12] = 2
    other = Study.open(session.study.folder)
    other.predicted(case_id, said, np.full(said.shape, 0.5, np.float32), model_id=1, info={})
    session.reload_study()
    session.request_view(case_id)


def test_a_stroke_is_on_the_disk_when_it_was_quiet_for_a_moment(session: Any, clock: Any) -> None:
    draw(session)
    session.tick()
    assert session.saving
    assert session.study.drafts() == ()
    clock.now += 0.8
    session.tick()
    assert not session.saving
    assert int((session.study.draft("c0").full() == 1).sum()) == 16


def test_a_long_stroke_is_written_in_between(session: Any, clock: Any) -> None:
    for _ in range(12):
        draw(session)
        draw(session, structure=2)
        clock.now += 0.5
        session.tick()
    assert session.study.drafts() == ("c0",)


def test_a_full_disk_is_told_and_the_stroke_is_tried_again(
    session: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_named: Any) -> int:
        raise StorageError("the disk is full")

    draw(session)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "save_draft", full)
        clock.now += 1
        session.tick()
        assert session.message_is_error
        assert "NOT saved" in session.message
        assert session.saving
    clock.now += 20
    session.tick()
    assert session.study.drafts() == ("c0",)


def test_after_a_while_of_quiet_the_draft_becomes_a_label_version(
    session: Any, clock: Any, until: Until
) -> None:
    draw(session)
    clock.now += 1
    session.tick()
    clock.now += 21
    assert until(session)
    assert session.study.label_versions("c0") == (1,)
    assert session.study.drafts() == ()


def test_switching_cases_saves_and_applies_the_one_that_is_left(session: Any, until: Until) -> None:
    draw(session)
    session.select("c1")
    assert until(session)
    assert session.current == "c1"
    assert int((session.study.human_map("c0").array == 1).sum()) == 16


def test_what_was_drawn_while_a_draft_is_applied_stays(
    session: Any, clock: Any, until: Until
) -> None:
    draw(session)
    session.apply_drafts()
    draw(session, structure=2, z=7)
    assert until(session)
    assert sorted(np.unique(drawn(session))) == [0, 1, 2]
    clock.now += 1
    session.tick()
    session.apply_drafts()
    assert until(session)
    assert sorted(np.unique(session.study.human_map("c0").array)) == [0, 1, 2]


def test_what_another_program_annotated_joins_where_the_user_left_it_alone(
    session: Any, until: Until
) -> None:
    draw(session)
    session.apply_drafts()
    assert until(session)
    other = Study.open(session.study.folder)
    array = other.human_map("c0").array.copy()
    array[8, 2:4, 2:4] = 2
    other.annotate("c0", array)
    draw(session, structure=2, z=4)  # over the first square: the user's word
    session.request_view("c0")
    assert until(session)
    found = drawn(session)
    assert int((found[8] == 2).sum()) == 4
    assert int((found[4] == 2).sum()) == 16


def test_overlapping_segments_are_kept_but_not_applied(
    session: Any, jobs: Any, clock: Any, until: Until
) -> None:
    overlap(session)
    session.apply_drafts()
    assert until(session)
    assert session.message_is_error
    assert "liver" in session.message
    assert "16 voxels" in session.message
    assert len(session.study.draft("c0").layers) == 2
    before = len(jobs.commands)
    clock.now += 60
    assert until(session)
    assert len(jobs.commands) == before, "not tried again before something changed"


def test_a_draft_that_a_crash_left_is_shown_and_its_marks_too(
    live_session: Any, jobs: Any, phantom_study: Any, until: Until, session: Any, clock: Any
) -> None:
    draw(session)
    session.mark_done(4)
    clock.now += 1
    session.tick()
    folder = session.study.folder
    for opened in session.open_cases.values():
        opened.dirty_since = None
    session.scene.Clear(0)
    again = live_session(jobs)
    again.open_study(folder)
    assert "Drawings of the last time" in again.message
    again.select("c0")
    assert int((drawn(again) == 1).sum()) == 16
    assert again.ledger_states()[4] is SliceState.DONE
    again.apply_drafts()
    assert until(again)
    assert again.open_cases["c0"].marks == []
    assert again.ledger_states()[4] is SliceState.DONE


def test_a_slice_is_done_at_once_and_on_the_disk_soon(
    session: Any, clock: Any, until: Until
) -> None:
    draw(session)
    session.mark_done(4)
    assert session.ledger_states()[4] is SliceState.DONE
    session.apply_drafts()
    assert until(session)
    assert session.study.ledger("c0").done("axial", 1) == (4,)
    assert session.study.ledger("c0").done("axial", 2) == (4,)
    assert session.open_cases["c0"].marks == []
    assert session.ledger_states()[4] is SliceState.DONE


def test_a_mark_can_be_taken_off_before_and_after_it_was_written(
    session: Any, until: Until
) -> None:
    session.mark_empty(2)
    session.unmark(2)
    assert session.ledger_states()[2] is SliceState.UNTOUCHED
    session.mark_empty(3)
    session.apply_drafts()
    assert until(session)
    session.unmark(3)
    session.apply_drafts()
    assert until(session)
    assert not session.study.ledger("c0").any_done


def test_a_slice_with_something_drawn_cannot_be_empty(session: Any) -> None:
    draw(session)
    session.mark_empty(4)
    assert session.message_is_error
    assert "liver" in session.message
    assert session.ledger_states()[4] is SliceState.UNTOUCHED


def test_a_done_slice_takes_over_the_structures_that_were_not_drawn_in_it(
    session: Any, until: Until
) -> None:
    suggest(session)
    assert until(session)
    assert session.ledger_states()[5] is SliceState.SUGGESTED
    draw(session, structure=1, z=5)
    edits: list[str] = []
    session.before_edit = lambda: edits.append("undo state")
    session.mark_done(5)
    assert edits == ["undo state"]
    found = drawn(session)
    assert int((found[5] == 2).sum()) == 8
    assert not found[3].any()


def test_taking_over_never_changes_what_is_drawn(session: Any, until: Until) -> None:
    suggest(session)
    assert until(session)
    draw(session, structure=2, z=4)
    session.take_over(whole_case=True)
    found = drawn(session)
    assert (found[4, 5:9, 5:9] == 2).all()
    assert (found[3, 5:9, 5:9] == 1).all()
    assert session.saving


def test_without_a_suggestion_taking_over_says_so(session: Any) -> None:
    session.take_over(whole_case=True)
    assert "nothing to take over" in session.message
    assert not session.message_is_error


def test_a_deleted_drawing_comes_back_with_its_last_stroke(session: Any, until: Until) -> None:
    draw(session)
    session.scene.RemoveNode(session.nodes("c0").drawn)
    session.tick()
    assert "safe in the study" in session.message
    assert session.nodes("c0").drawn is None
    session.select("c0")
    assert int((drawn(session) == 1).sum()) == 16


def test_a_deleted_volume_is_loaded_again(session: Any) -> None:
    session.scene.RemoveNode(session.nodes("c0").volume)
    session.select("c0")
    assert session.nodes("c0").volume is not None
    assert not session.message_is_error


def test_a_segment_made_in_the_editor_becomes_a_structure(
    session: Any, clock: Any, until: Until
) -> None:
    segmentation = session.nodes("c0").drawn.GetSegmentation()
    segmentation.AddEmptySegment("user", "Pancreas")
    assert until(session)
    assert session.study.protocol.by_name("Pancreas").id == 3
    assert session.protocol().ids == (1, 2, 3)


def test_a_name_given_in_the_editor_goes_to_the_protocol(session: Any, until: Until) -> None:
    segmentation = session.nodes("c0").drawn.GetSegmentation()
    segmentation.GetSegment("SemiSeg_1").SetName("Hepar")
    assert until(session)
    assert session.study.protocol.by_id(1).name == "Hepar"


def test_a_removed_segment_that_was_drawn_comes_back_when_the_user_says_no(
    session: Any, clock: Any, until: Until
) -> None:
    draw(session)
    clock.now += 1
    session.tick()
    draw(session, structure=2, z=7)
    asked: list[str] = []
    session.confirm = lambda question: bool(asked.append(question))
    session.nodes("c0").drawn.GetSegmentation().RemoveSegment("SemiSeg_1")
    assert until(session)
    assert "liver is drawn in c0" in asked[0]
    assert len(asked) == 1
    assert sorted(np.unique(drawn(session))) == [0, 1, 2]
    assert session.study.protocol.ids == (1, 2)


def test_a_removed_segment_that_was_drawn_goes_when_the_user_says_yes(
    session: Any, clock: Any, until: Until
) -> None:
    draw(session)
    clock.now += 1
    session.tick()
    session.confirm = lambda _question: True
    session.nodes("c0").drawn.GetSegmentation().RemoveSegment("SemiSeg_1")
    assert until(session)
    assert session.study.protocol.ids == (2,)
    clock.now += 1
    session.tick()
    session.apply_drafts()
    assert until(session)
    assert not session.message_is_error, session.message


def test_a_removed_segment_that_nobody_drew_goes_without_a_question(
    session: Any, until: Until
) -> None:
    session.confirm = pytest.fail
    session.nodes("c0").drawn.GetSegmentation().RemoveSegment("SemiSeg_2")
    assert until(session)
    assert session.study.protocol.ids == (1,)


def test_drawing_without_structures_is_refused_with_the_remedy(
    live_session: Any, jobs: Any, tmp_path: Path, session: Any
) -> None:
    from semiseg.study.protocol import Protocol

    session.set_protocol(Protocol())
    session.mark_done(4)
    assert "no structures yet" in session.message


def test_a_locked_study_is_told_once_and_the_draft_is_applied_later(
    session: Any, jobs: Any, clock: Any, until: Until
) -> None:
    jobs.hold = lambda arguments: arguments[1] == "apply"
    draw(session)
    session.apply_drafts()
    locked = "the study is being changed by another program"
    jobs.told[0].fail(locked, error="StudyLockedError", applied=[], refused=[])
    session.tick()
    assert session.message == locked
    clock.now += 25
    jobs.hold = lambda arguments: False
    assert until(session)
    assert session.study.drafts() == ()


def test_a_refused_draft_does_not_keep_the_others_from_being_applied(
    session: Any, clock: Any, until: Until
) -> None:
    overlap(session)
    session.select("c1")
    draw(session, case_id="c1")
    session.apply_drafts()
    assert until(session)
    assert session.study.drafts() == ("c0",)
    assert session.study.label_versions("c1") == (1,)
    assert session.open_cases["c0"].conflict


def test_a_defect_while_saving_leaves_the_other_cases_and_the_next_seconds_their_turn(
    session: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def broken(_study: Study, case_id: str, *_args: Any, **_named: Any) -> int:
        tried.append(case_id)
        raise ValueError("a defect")

    draw(session)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "save_draft", broken)
        clock.now += 1
        with pytest.raises(ValueError, match="a defect"):
            session.tick()
        session.tick()
        assert tried == ["c0"]
        assert session.saving
    clock.now += 20
    session.tick()
    assert session.study.drafts() == ("c0",)
