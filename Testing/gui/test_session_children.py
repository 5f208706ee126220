"""The session with real child processes: killed, cancelled, left behind, in time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.jobs import Job

Until = Callable[..., bool]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture
def session(live_session: Any, phantom_study: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 annotated and shown; jobs are real."""
    made = live_session(Job)
    made.open_study(phantom_study(annotated=1).folder)
    made.select("c0")
    assert until(made)
    return made


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except OSError:
        return False


def working(session: Any, until: Until) -> int:
    """Start propagating; the child's process id once it is at work."""
    session.propagate(all_cases=True)
    assert until(session, lambda: session.task is not None and session.task.total > 0, 60)
    return int(session.tasks.work.job.pid)


def test_a_stroke_becomes_a_label_version_through_children(session: Any, until: Until) -> None:
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), 2, np.uint16)
    grid = session.study.case("c0").grid
    segments.write_region(session.nodes("c0").drawn, grid, square, (9, 5, 5))
    session.mark_done(9)
    session.apply_drafts()
    assert until(session, seconds=60)
    assert (session.study.human_map("c0").array[9] == 2).any()
    assert not list((session.study.folder / "jobs").glob("*-view*")), "its voxels are gone again"


def test_a_killed_child_is_told_and_the_work_can_be_started_again(
    session: Any, until: Until
) -> None:
    pid = working(session, until)
    os.kill(pid, signal.SIGKILL)
    assert until(session, lambda: not session.busy(), 20)
    assert session.message_is_error
    assert "the system ended the work" in session.message
    assert session.why_not("propagate") == ""
    assert not alive(pid)


def test_cancel_answers_at_once_and_the_child_ends(session: Any, until: Until) -> None:
    pid = working(session, until)
    before = time.monotonic()
    session.cancel()
    assert time.monotonic() - before < 0.25  # on a machine that runs other tests too
    assert session.task.cancelling
    assert until(session, lambda: not session.busy(), 20)
    assert not alive(pid)
    assert not session.message_is_error, session.message


def test_closing_the_scene_ends_the_child(session: Any, until: Until) -> None:
    pid = working(session, until)
    session.scene.Clear(0)
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)
