"""The panel's session, real children and a real HTTP server in the place of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_ray import TOKEN, FakeRay, serving
from semiseg.jobs import Job

Until = Callable[..., bool]


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[FakeRay]:
    with serving(FakeRay(folder=tmp_path / "cluster", token=TOKEN, held=True)) as found:
        yield found


@pytest.fixture
def session(
    live_session: Any, phantom_study: Any, ray: FakeRay, until: Until, tmp_path: Path
) -> Iterator[Any]:
    from SemiSegModuleLib.session_cluster import Keys

    (tmp_path / "token").write_text(TOKEN)
    made = live_session(Job)
    made.open_study(phantom_study(annotated=1).folder)
    made.choose_engine("cluster", ray.url, Keys(token_file=str(tmp_path / "token")))
    assert until(made)
    yield made
    made.parameters.engine, made.parameters.cluster_address = "here", ""


def test_work_is_agreed_to_sent_left_followed_after_a_restart_and_brought_back(
    session: Any, ray: FakeRay, until: Until
) -> None:
    folder = session.study.folder
    session.propagate(all_cases=True)
    assert until(session, lambda: session.consent is not None, 60)
    assert any("2 scans as bare voxels" in line for line in session.consent.lines)
    assert ray.requests == [], "nothing left before the answer"
    session.agree_to_send()
    assert until(session, lambda: "waiting" in session.task.message, 60)
    session.close_study()
    assert all(job.status == "PENDING" for job in ray.jobs.values())
    session.open_study(folder)
    assert until(session, lambda: session.busy() and session.can_leave(), 60)
    ray.begin()
    ray.held = False
    assert until(session, lambda: not session.busy(), 60)
    assert session.message.startswith("Propagated: looks right"), session.details
    assert {row.id: row.state for row in session.rows()}["c1"] == "propagated"
    assert [job.state for job in session.remote_jobs] == ["done"]
    assert session.agreed_since()


def test_cancel_stops_the_job_there_and_no_tick_waits_for_the_network(
    session: Any, ray: FakeRay, until: Until
) -> None:
    session.propagate(all_cases=True)
    assert until(session, lambda: session.consent is not None, 60)
    session.agree_to_send()
    assert until(session, session.can_leave, 60)
    with ray.lock:  # the server answers nobody
        session.cancel()
        began = time.monotonic()
        for _ in range(20):
            session.tick()
        assert time.monotonic() - began < 5.0, "a question to the server would never end"
    assert until(session, lambda: not session.busy(), 60)
    assert session.message.startswith("Ended on the cluster"), session.details
    assert [job.status for job in ray.jobs.values()] == ["STOPPED"]
