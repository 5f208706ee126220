"""Long work: what must be safe before it starts, what is shown while it runs, how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semiseg.study.case import GateRecord
from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 annotated and shown, c1 not."""
    study = phantom_study(annotated=1)
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def draw(session: Any, structure: int = 1, z: int = 8) -> None:
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), structure, np.uint16)
    grid = session.study.case("c0").grid
    segments.write_region(session.nodes("c0").drawn, grid, square, (z, 5, 5))


def propagate_to(session: Any, case_id: str, verdict: Any = "accept") -> None:
    """What the child does with a case before it says so."""
    said = np.zeros((10, 16, 16), np.uint16)
    said[3:6, 5:9, 5:9] = 1
    other = Study.open(session.study.folder)
    gate = GateRecord(verdict=verdict, score=0.86, reasons=("atlases agree",))
    sure = np.full(said.shape, 0.9, np.float32)
    other.propagated(case_id, said, sure, structure_ids=(1,), gate=gate, info={})


def suggested(session: Any, case_id: str) -> np.ndarray | None:
    from SemiSegModuleLib.mrml import segments

    node = session.nodes(case_id).suggestion
    if node is None:
        return None
    grid = session.study.case(case_id).grid
    return segments.read_layers(node, grid, session.protocol()).flat(grid)


def start(session: Any, jobs: Any, until: Until, *, all_cases: bool = True) -> Any:
    session.propagate(all_cases=all_cases)
    assert until(session, lambda: jobs.told)
    return jobs.told[-1]


def test_what_was_drawn_is_applied_before_the_work_starts(
    session: Any, jobs: Any, until: Until
) -> None:
    draw(session)
    start(session, jobs, until)
    assert session.study.drafts() == ()
    assert int((session.study.human_map("c0").array[8] == 1).sum()) == 16
    names = [" ".join(command[:2]) for command in jobs.commands if command[1:2] != ["view"]]
    assert names[0] == "study apply"
    assert names[1].startswith("propagate")


def test_overlaps_keep_the_work_from_starting(session: Any, jobs: Any, until: Until) -> None:
    from SemiSegModuleLib.mrml import segments

    one = np.zeros((10, 16, 16), np.uint16)
    one[4, 5:9, 5:9] = 1
    grid = session.study.case("c0").grid
    segments.set_layers(session.nodes("c0").drawn, grid, [one, one * 2], (0, 0, 0))
    session.propagate(all_cases=True)
    assert session.task.phase == "save"
    assert until(session, lambda: session.task is None)
    assert jobs.told == []
    assert "liver" in session.message
    assert "spleen" in session.message
    assert session.message_is_error


@pytest.mark.parametrize(
    ("act", "command"),
    [
        (lambda s: s.propagate(all_cases=True), ["propagate", "STUDY", "--device", "auto"]),
        (lambda s: s.propagate(all_cases=False), ["propagate", "STUDY", "c0", "--device", "auto"]),
        (
            lambda s: s.learn(2.5, "cpu", "ua_mt", 7),
            [
                "train",
                "STUDY",
                "--minutes",
                "2.5",
                "--device",
                "cpu",
                "--method",
                "ua_mt",
                "--seed",
                "7",
            ],
        ),
        (
            lambda s: s.segment(all_cases=True, model=None, device="cpu"),
            ["predict", "STUDY", "--device", "cpu"],
        ),
        (
            lambda s: s.segment(all_cases=False, model=3, device="cuda"),
            ["predict", "STUDY", "c0", "--model", "3", "--device", "cuda"],
        ),
        (lambda s: s.report(), ["report", "STUDY"]),
    ],
)
def test_each_work_is_the_right_command(
    session: Any, jobs: Any, until: Until, act: Any, command: list[str]
) -> None:
    act(session)
    assert until(session, lambda: jobs.told)
    folder = str(session.study.folder)
    assert jobs.told[0].arguments == [folder if part == "STUDY" else part for part in command]


def test_a_case_is_shown_as_soon_as_it_is_saved(session: Any, jobs: Any, until: Until) -> None:
    session.select("c1")
    job = start(session, jobs, until)
    propagate_to(session, "c1")
    job.say("propagate", 1, 2, "c1", case="c1", saved=True, version=1)
    assert until(session, lambda: suggested(session, "c1") is not None)
    assert session.busy()
    assert int((suggested(session, "c1") == 1).sum()) == 48
    assert session.message.startswith("c1: propagated, looks right")
    assert "0.86" in session.message
    assert "atlases agree" in session.message
    assert session.row("c1").state == "propagated"
    assert session.task.cases_done == ["c1"]


def test_a_saved_case_that_is_not_in_the_scene_only_gets_its_row(
    session: Any, jobs: Any, until: Until
) -> None:
    job = start(session, jobs, until)
    propagate_to(session, "c1", "down_weight")
    before = len(jobs.commands)
    job.say("propagate", 1, 2, "c1", case="c1", saved=True)
    assert until(session, lambda: session.row("c1").state == "propagated")
    assert jobs.commands[before:] == []
    assert "doubtful" in session.message


def test_a_new_suggestion_changes_only_what_differs(session: Any, jobs: Any, until: Until) -> None:
    import slicer

    session.select("c1")
    job = start(session, jobs, until)
    propagate_to(session, "c1")
    job.say("propagate", 1, 2, case="c1", saved=True)
    assert until(session, lambda: suggested(session, "c1") is not None)
    node = session.nodes("c1").suggestion
    changed: list[int] = []
    event = slicer.vtkSegmentation.SourceRepresentationModified
    node.AddObserver(event, lambda *_: changed.append(1))
    job.say("propagate", 2, 2, case="c1", saved=True)
    session.tick()
    assert until(session, lambda: session.tasks.service is None)
    assert session.nodes("c1").suggestion is node
    assert changed == []


def test_the_end_says_what_comes_next(session: Any, jobs: Any, until: Until) -> None:
    job = start(session, jobs, until)
    propagate_to(session, "c0")
    job.say("propagate", 1, 2, case="c0", saved=True)
    session.tick()
    propagate_to(session, "c1", "reject")
    job.say("propagate", 2, 2, case="c1", saved=False)
    session.tick()
    assert "c1: propagated, not used" in session.message
    job.end()
    assert until(session, lambda: not session.busy())
    assert session.message.startswith("Propagated: looks right 1, not used 1.")
    assert "press Learn" in session.message
    session.learn(1, "cpu", "supervised", 0)
    assert until(session, lambda: len(jobs.told) == 2)
    jobs.told[1].end(model=4)
    assert until(session, lambda: not session.busy())
    assert "Model 4 is ready" in session.message


def test_cancelling_is_no_error_and_says_that_results_are_kept(
    session: Any, jobs: Any, until: Until
) -> None:
    job = start(session, jobs, until)
    session.cancel()
    assert session.task.cancelling
    assert job.cancelled
    assert until(session, lambda: not session.busy())
    assert "kept" in session.message
    assert not session.message_is_error


def test_work_can_be_cancelled_before_it_began(session: Any, jobs: Any, until: Until) -> None:
    draw(session)
    session.propagate(all_cases=True)
    session.cancel()
    assert not session.busy()
    assert until(session)
    assert jobs.told == []
    assert session.study.drafts() == (), "what was drawn was applied all the same"


def test_a_crash_shows_its_sentence_and_what_the_child_printed(
    session: Any, jobs: Any, until: Until
) -> None:
    job = start(session, jobs, until)
    job.fail("the job was ended by SIGABRT", stderr="free(): invalid pointer", cause="crash")
    assert until(session, lambda: not session.busy())
    assert session.message_is_error
    assert session.message == "the job was ended by SIGABRT"
    assert "free(): invalid pointer" in session.details
    assert session.why_not("propagate") == ""


def test_an_error_is_not_lost_by_what_comes_after_it(session: Any, jobs: Any, until: Until) -> None:
    session.say("the disk is full", error=True)
    session.say("c1: propagated")
    assert session.message == "the disk is full"
    session.dismiss()
    assert session.message == ""
    assert "the disk is full" in session.details


def test_a_second_work_is_refused_while_one_runs(session: Any, jobs: Any, until: Until) -> None:
    start(session, jobs, until)
    session.learn(1, "cpu", "supervised", 0)
    assert "Other work is running" in session.message
    assert len(jobs.told) == 1


def test_the_result_of_a_study_that_was_closed_is_ignored(
    session: Any, jobs: Any, until: Until, tmp_path: Any
) -> None:
    job = start(session, jobs, until)
    session.create_study(tmp_path / "other", "other")
    assert job.cancelled
    job.say("propagate", 1, 1, case="c1", saved=True)
    job.end("propagated everything")
    assert until(session)
    assert session.message == "Made the study other. Add scans next."
    assert session.rows() == ()


def test_undo_takes_the_suggestion_back(session: Any, jobs: Any, until: Until) -> None:
    session.select("c1")
    propagate_to(session, "c1")
    session.reload_study()
    assert session.why_not("undo") == ""
    session.request_view("c1")
    assert until(session)
    session.undo_suggestion()
    assert session.why_not("undo") != ""
    assert until(session)
    assert not suggested(session, "c1").any()
    assert "took back" in session.message
    assert session.why_not("undo") == "Nothing was propagated or segmented in this case"


def test_reasons_why_something_cannot_be_done_yet(
    live_session: Any, jobs: Any, phantom_study: Any, until: Until, session: Any
) -> None:
    from semiseg.study.protocol import Protocol

    assert session.why_not("propagate") == ""
    assert session.why_not("segment") == "Learn a model first"
    session.current = None
    assert "Choose a case" in session.why_not("propagate", all_cases=False)
    session.set_protocol(Protocol(), force=True)
    assert until(session)
    assert session.why_not("propagate") == "Add a structure first"
    session.close_study()
    assert session.why_not("learn") == "Make or open a study first"


def test_without_a_done_slice_nothing_can_be_propagated(
    live_session: Any, jobs: Any, phantom_study: Any, until: Until
) -> None:
    study = phantom_study(annotated=0)
    session = live_session(jobs)
    session.open_study(study.folder)
    assert session.why_not("propagate") == "Mark at least one slice as done first"
    session.select("c0")
    session.mark_empty(0)
    assert session.why_not("propagate") == ""


def test_a_finished_report_is_opened(session: Any, jobs: Any, until: Until) -> None:
    opened: list[Any] = []
    session.open_page = opened.append
    session.report()
    assert until(session, lambda: jobs.told)
    jobs.told[0].end("wrote it", report="/study/report/index.html")
    assert until(session, lambda: opened)
    assert str(opened[0]) == "/study/report/index.html"


def test_uncertainty_is_an_overlay_on_demand(session: Any, until: Until) -> None:
    session.select("c1")
    propagate_to(session, "c1")
    session.reload_study()
    session.request_view("c1")
    assert until(session)
    assert session.nodes("c1").uncertainty is None
    session.show_uncertainty(True)
    assert until(session, lambda: session.nodes("c1").uncertainty is not None)
    session.show_uncertainty(False)
    session.select("c0")
    session.select("c1")
    assert session.nodes("c1").uncertainty is not None
    session.undo_suggestion()
    assert until(session)
    assert session.nodes("c1").uncertainty is None, "that of a suggestion that is gone"


def test_a_case_that_nothing_could_be_carried_to_is_told(
    session: Any, jobs: Any, until: Until
) -> None:
    job = start(session, jobs, until)
    job.say("propagate", 1, 2, case="c1", why="no annotated case has a slice of it")
    session.tick()
    assert session.message == "c1: no annotated case has a slice of it"


def test_stopped_learning_goes_on_later(session: Any, jobs: Any, until: Until) -> None:
    session.learn(5, "cpu", "supervised", 0)
    assert until(session, lambda: jobs.told)
    session.cancel()
    assert until(session, lambda: not session.busy())
    assert "goes on from there" in session.message


def test_a_map_is_kept_cropped_and_comes_back_whole(application: Any) -> None:
    from SemiSegModuleLib.kept_map import KeptMap

    full = np.zeros((6, 7, 8), np.uint16)
    assert KeptMap.of(full).array.size == 0
    assert not KeptMap.of(full).full().any()
    full[2, 3, 4], full[4, 5, 6] = 300, 2
    kept = KeptMap.of(full)
    assert kept.array.shape == (3, 3, 3)
    assert (kept.full() == full).all()
    assert kept.ids() == {2, 300}
