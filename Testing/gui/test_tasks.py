"""The two lanes of child jobs: order, last events, cancelling, ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from semiseg.errors import JobError
from semiseg.events import Event
from semiseg.jobs import Job

_SPEAK = """
import sys, json, time
def say(kind, **data):
    body = dict(kind=kind, phase="p", step=0, total=0, message=data.pop("message", ""),
                data=data, time=time.time())
    print(json.dumps(body), flush=True)
"""
STUBBORN = "import sys, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
CRASH = "import sys, os\nprint('the heap is broken', file=sys.stderr, flush=True)\nos.abort()"
GOOD = _SPEAK + "say('progress', loss=0.5)\nsay('result', message='fine')"


class Scripts:
    """A job class that runs a Python text in a real child process."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.started: list[Job] = []

    def start(self, arguments: Sequence[str], *, folder: Path) -> Job:
        self.started.append(Job.start_command([sys.executable, "-c", self.text], folder=folder))
        return self.started[-1]


class Ends:
    """Remembers how tasks ended."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.details: list[str] = []

    def __call__(self, task: Any, event: Event) -> None:
        self.events.append((task.kind, event.kind))
        self.details.append(task.details)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def make_tasks(application: Any, tmp_path: Path) -> Callable[..., Any]:
    from SemiSegModuleLib.tasks import Tasks

    return lambda job_class: Tasks(tmp_path / "jobs", job_class)


def task(kind: str, ends: Ends, **values: Any) -> Any:
    from SemiSegModuleLib.tasks import Task

    return Task(kind=kind, arguments=["study", kind], on_end=ends, **values)


def tick_until(tasks: Any, condition: Callable[[], Any], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tasks.tick()
        if condition():
            return True
        time.sleep(0.01)
    return False


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except OSError:
        return False


def test_changes_run_one_after_the_other(make_tasks: Any, jobs: Any, ends: Ends) -> None:
    jobs.hold = lambda arguments: True
    tasks = make_tasks(jobs)
    tasks.serve(task("modality", ends))
    tasks.serve(task("remove", ends))
    tasks.tick()
    assert [job.arguments for job in jobs.told] == [["study", "modality"]]
    jobs.told[0].end()
    tasks.tick()
    tasks.tick()
    assert jobs.told[1].arguments == ["study", "remove"]
    assert tasks.pending("remove")
    assert not tasks.waiting("remove")


def test_work_and_a_change_run_side_by_side_but_not_two_works(
    make_tasks: Any, jobs: Any, ends: Ends
) -> None:
    jobs.hold = lambda arguments: True
    tasks = make_tasks(jobs)
    tasks.start(task("learn", ends))
    tasks.serve(task("modality", ends))
    assert len(jobs.told) == 2
    with pytest.raises(JobError, match="learn"):
        tasks.start(task("propagate", ends))


def test_the_last_event_is_handled_exactly_once(make_tasks: Any, jobs: Any, ends: Ends) -> None:
    jobs.hold = lambda arguments: True
    tasks = make_tasks(jobs)
    tasks.start(task("learn", ends))
    jobs.told[0].say("train", 1, 2)
    jobs.told[0].end()
    for _ in range(3):
        tasks.tick()
    assert ends.events == [("learn", "result")]
    assert tasks.idle


def test_each_job_has_a_folder_of_its_own(make_tasks: Any, jobs: Any, ends: Ends) -> None:
    jobs.hold = lambda arguments: True
    tasks = make_tasks(jobs)
    for _ in range(3):
        tasks.start(task("learn", ends))
        jobs.told[-1].end()
        tasks.tick()
    assert len({job.folder for job in jobs.told}) == 3


def test_the_folder_of_a_view_goes_when_it_was_shown_and_stays_when_it_failed(
    make_tasks: Any, jobs: Any, ends: Ends
) -> None:
    jobs.hold = lambda arguments: True
    tasks = make_tasks(jobs)
    tasks.serve(task("view", ends))
    shown = jobs.told[-1].folder
    jobs.told[-1].end()
    tasks.tick()
    assert not shown.exists()
    tasks.serve(task("view", ends))
    jobs.told[-1].fail("no")
    tasks.tick()
    assert jobs.told[-1].folder.exists()


def test_a_job_that_cannot_start_ends_with_the_reason(
    make_tasks: Any, jobs: Any, ends: Ends
) -> None:
    jobs.refuse = JobError("no Python for child processes")
    tasks = make_tasks(jobs)
    tasks.start(task("learn", ends))
    tasks.serve(task("view", ends))
    assert ends.events == [("learn", "error"), ("view", "error")]
    assert tasks.idle


def test_without_the_engines_packages_the_sentence_says_where_to_install_them(
    make_tasks: Any, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SemiSegModuleLib import tasks as module

    monkeypatch.setattr(module, "_NEEDED", ("no_such_package_anywhere",))
    heard: list[str] = []
    tasks = make_tasks(jobs)
    made = task("learn", Ends())
    made.on_end = lambda _task, event: heard.append(event.message)
    tasks.start(made)
    assert "no_such_package_anywhere is missing" in heard[0]
    assert "section Engine" in heard[0]


def test_a_real_child_tells_and_ends(make_tasks: Any, ends: Ends) -> None:
    tasks = make_tasks(Scripts(GOOD))
    losses: list[Any] = []
    tasks.start(task("learn", ends, on_event=lambda event: losses.append(event.data["loss"])))
    assert tick_until(tasks, lambda: tasks.idle)
    tasks.tick()
    assert losses == [0.5]
    assert ends.events == [("learn", "result")]


def test_a_crashed_child_gives_a_sentence_and_what_it_printed(make_tasks: Any, ends: Ends) -> None:
    tasks = make_tasks(Scripts(CRASH))
    heard: list[str] = []
    made = task("learn", ends)
    tasks.start(made)
    made.on_end = lambda told, event: heard.extend([event.message, told.details])
    assert tick_until(tasks, lambda: tasks.idle)
    assert heard[0]
    assert "the heap is broken" in heard[1]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_cancel_is_answered_at_once_and_kills_a_stubborn_child_after_its_grace(
    make_tasks: Any, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SemiSegModuleLib import tasks as module

    monkeypatch.setattr(module, "GRACE_S", 0.3)
    scripts = Scripts(STUBBORN)
    tasks = make_tasks(scripts)
    tasks.start(task("learn", ends))
    time.sleep(0.2)
    before = time.monotonic()
    tasks.cancel()
    assert time.monotonic() - before < 0.25  # the grace would be longer
    assert tick_until(tasks, lambda: tasks.idle, seconds=5)
    assert ends.events == [("learn", "error")]
    assert not alive(scripts.started[0].pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_closing_ends_the_children_though_nobody_polls_them_any_more(
    make_tasks: Any, ends: Ends
) -> None:
    tasks = make_tasks(Job)
    made = task("learn", ends)
    made.arguments = ["doctor"]
    tasks.start(made)
    job = made.job
    assert alive(job.pid)
    tasks.close()
    end = time.monotonic() + 10
    while alive(job.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(job.pid)
    assert ends.events == []
    job.wait(timeout_s=5)


def test_closing_lets_a_change_that_was_shown_be_written(
    make_tasks: Any, ends: Ends, tmp_path: Path
) -> None:
    mark = tmp_path / "written"
    scripts = Scripts(f"{GOOD}\nopen({os.fspath(mark)!r}, 'w').close()")
    tasks = make_tasks(scripts)
    tasks.serve(task("modality", ends, keeps=True))
    tasks.serve(task("structures", ends, keeps=True))
    tasks.serve(task("view", ends))
    tasks.close(wait_s=5)
    assert mark.exists()
    assert len(scripts.started) == 2
    assert tasks.idle


def test_the_state_of_a_task_collects_curves_and_finished_cases(application: Any) -> None:
    from SemiSegModuleLib.tasks import TaskState

    state = TaskState(kind="learn")
    data: dict[str, Any] = {"loss": 0.7, "seconds_left": 12.0, "dice": None}
    state.take(Event(kind="progress", phase="train", step=3, total=9, data=data))
    state.take(Event(kind="progress", phase="train", step=4, data={"case": "ct1", "saved": True}))
    assert state.curve == {"loss": [(3.0, 0.7)], "dice": []}
    assert (state.seconds_left, state.cases_done) == (None, ["ct1"])


def test_a_night_of_learning_keeps_a_bounded_curve_with_its_first_and_last_point(
    application: Any,
) -> None:
    from SemiSegModuleLib.tasks import TaskState

    state = TaskState(kind="learn")
    for step in range(5000):
        data: dict[str, Any] = {"loss": 1.0}
        state.take(Event(kind="progress", phase="train", step=step, data=data))
    points = state.curve["loss"]
    assert len(points) <= 2001
    assert (points[0][0], points[-1][0]) == (0.0, 4999.0)


def test_an_event_that_cannot_be_shown_holds_up_none_that_follow(
    make_tasks: Any, jobs: Any, ends: Ends
) -> None:
    def broken(_event: Event) -> None:
        raise ValueError("a defect")

    jobs.hold = lambda arguments: True
    tasks = make_tasks(jobs)
    tasks.start(task("learn", ends, on_event=broken))
    jobs.told[0].say("train", 1, 2)
    jobs.told[0].end()
    with pytest.raises(ValueError, match="a defect"):
        tasks.tick()
    assert not tasks.idle
    tasks.tick()
    assert ends.events == [("learn", "result")]
    assert tasks.idle
