"""`semiseg run`: every command ends in one event that a program can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semiseg.cli.app import run
from semiseg.events import Event
from semiseg.study.study import Study


@pytest.fixture
def study(phantom_study: Callable[..., Study]) -> Study:
    return phantom_study(("CT", "MR"), annotated=1)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Event]:
    """Runs a command line as the panel does; its last event."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)

    def line(*words: object) -> Event:
        events: list[Event] = []
        run([str(word) for word in words], events.append)
        return events[-1]

    return line


def test_showing_what_would_leave_sends_nothing(study: Study, ray: Any, call: Any) -> None:
    last = call("run", "--on", ray.url, "--show", "propagate", study.folder, "c1")
    assert last.kind == "result"
    assert last.data["agreed"] is False
    assert last.data["consent"]["files"] == 6
    assert ray.requests == []


def test_without_a_yes_the_command_ends_and_says_what_would_leave(
    study: Study, ray: Any, call: Any
) -> None:
    last = call("run", "--on", ray.url, "propagate", study.folder)
    assert (last.kind, last.data["cause"]) == ("error", "consent")
    assert last.data["consent"]["lines"]
    assert ray.requests == []


def test_work_list_fetch_and_cancel_tell_plain_values(
    study: Study, ray: Any, call: Any, tmp_path: Path
) -> None:
    ray.token = "key"
    (tmp_path / "token").write_text("key")
    token = ("--token-file", tmp_path / "token")
    words = ("run", "--on", ray.url, *token, "--yes", "--detach", "--gpus", 0)
    last = call(*words, "propagate", study.folder, "c1", "--iterations", 9, "--by-shape")
    assert (last.kind, last.data["state"]) == ("result", "sent")
    job = last.data["job"]
    jobs = call("run", "list", study.folder).data["jobs"]
    assert [(row["job"], row["state"]) for row in jobs] == [(job, "sent")]
    last = call("run", "attach", study.folder, *token)
    assert last.data["applied"] == {"c1": 1}
    assert last.data["state"] == "done"
    last = call("run", "fetch", study.folder, job, *token)
    assert last.data["applied_before"] == ["c1"]
    assert call("run", "cancel", study.folder, job, *token).data["state"] == "done"
    order = next(found.log for name, found in ray.jobs.items() if name == f"{job}-1")
    assert "semiseg.remote.runner run 1" in order
    sent = (study.folder / "remote" / "sent" / job).read_text()
    assert '"arguments":["--iterations","9","--by-shape"]' in sent


def test_a_failed_test_of_the_connection_names_the_cause(ray: Any, call: Any) -> None:
    assert call("run", "test", ray.url).data["gpu_names"] == ["GPU 9000"]
    ray.usage = {"CPU": (0.0, 4.0)}
    last = call("run", "test", ray.url, "--gpu")
    assert (last.kind, last.data["cause"]) == ("error", "no-gpu")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("train", "STUDY", "--start-from", "x.zip"), "--start-from cannot be used"),
        (("train", "STUDY", "--minute", "3"), "--minute"),
        (("propagate", "STUDY", "--help"), ""),
    ],
)
def test_options_are_checked_before_anything_is_packed(
    study: Study, ray: Any, call: Any, words: tuple[str, ...], part: str
) -> None:
    named = [str(study.folder) if word == "STUDY" else word for word in words]
    last = call("run", "--on", ray.url, "--yes", *named)
    assert part in last.message
    assert ray.requests == []


def test_a_command_without_an_address_and_a_study_without_jobs_are_said(
    study: Study, call: Any
) -> None:
    assert "run --on ADDRESS" in call("run", "train", study.folder).message
    assert call("run", "list", study.folder).data["jobs"] == []
    assert "no jobs on a cluster" in call("run", "attach", study.folder).message


def test_presets_and_clocks_are_sent_with_what_was_said_beside_them(study: Study) -> None:
    from semiseg.cli.remote_words import wish_of

    folder = str(study.folder)
    _folder, wish = wish_of("train", [folder, "--preset", "dtc-la", "--clock", "processor"])
    assert wish.arguments == ("--preset", "dtc-la", "--clock", "processor")
    # Left out as the default, it would not contradict the preset there as it does here.
    _folder, wish = wish_of("train", [folder, "--preset", "dtc-la", "--method", "supervised"])
    assert set(wish.arguments) == {"--preset", "dtc-la", "--method", "supervised"}
    _folder, wish = wish_of("train", [folder, "--method", "supervised", "--device", "auto"])
    assert wish.arguments == ()


@pytest.mark.parametrize(
    ("words", "sent"),
    [([], ()), (["--sparing"], ("--sparing",)), (["--no-sparing"], ("--no-sparing",))],
)
def test_a_switch_is_sent_as_it_was_said(
    study: Study, words: list[str], sent: tuple[str, ...]
) -> None:
    from semiseg.cli.remote_words import wish_of

    assert wish_of("train", [str(study.folder), *words])[1].arguments == sent


def test_consent_is_withdrawn_for_one_address_or_for_all(study: Study, ray: Any, call: Any) -> None:
    ray.held = True
    words = ("run", "--on", ray.url, "--yes", "--detach", "--gpus", 0)
    call(*words, "propagate", study.folder, "c1")
    assert call("run", "withdraw", study.folder, "https://else.org").data["withdrawn"] == []
    show = ("run", "--on", ray.url, "--show", "propagate", study.folder, "c1")
    assert call(*show).data["agreed"] is True
    last = call("run", "withdraw", study.folder, ray.url)
    assert last.data["withdrawn"] == [ray.url]
    assert "one job sent before may go on until ended" in last.message
    assert call(*show).data["agreed"] is False
    last = call("run", "withdraw", study.folder)
    assert last.data["withdrawn"] == []
    assert "no consent to withdraw" in last.message
