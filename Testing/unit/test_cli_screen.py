"""What people, log files and programs get to see: bars, lines, tables, failures."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console

from semiseg.cli import app
from semiseg.cli.failures import explain
from semiseg.cli.progress import Bars, Lines, duration, table
from semiseg.cli.scores import loop_rows, score_rows
from semiseg.cli.screen import Screen, screen_of
from semiseg.errors import CancelledError, ExitCode, GeometryMismatchError
from semiseg.events import Event


def progress(step: int, total: int = 10, **more: object) -> Event:
    return Event(kind="progress", phase="train", step=step, total=total, **more)  # type: ignore[arg-type]


def test_a_log_gets_few_lines() -> None:
    text, now = io.StringIO(), [0.0]
    lines = Lines(text, interval_s=15, clock=lambda: now[0])
    for step in range(11):
        now[0] += 4
        lines.show(progress(step, data={"seconds_left": 75.0, "loss": 0.5}))
    lines.show(progress(10))
    lines.clear()
    printed = text.getvalue().splitlines()
    assert len(printed) == 4
    assert printed[0] == "train: 0/10, 1 min 15 s left, loss 0.5"
    assert printed[-1].startswith("train: 10/10")


def test_a_phase_that_starts_again_is_shown_again() -> None:
    text = io.StringIO()
    lines = Lines(text, clock=lambda: 0.0)
    for step in (1, 1, 0, 1):
        lines.show(progress(step, total=1))
    lines.show(Event(kind="progress", phase="other"))
    assert text.getvalue().splitlines() == ["train: 1/1", "train: 1/1", "other: started"]


def test_a_terminal_gets_a_bar_per_phase_with_the_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bars = Bars(console)
    bars.show(progress(3, data={"seconds_left": 3700.0}, message="loss [0.3]"))
    bars.show(Event(kind="progress", phase="other", message="no total"))
    bars.show(Event(kind="progress", phase="third", step=1, total=2))
    assert set(bars._tasks) == {"train", "third"}
    bars.clear()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("train", "3/10", "1 h 1 min left", "loss [0.3]"):
        assert words in shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (61, "1 min 1 s"), (7199.6, "2 h 0 min")]
)
def test_durations_are_told_in_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_tables_keep_brackets_and_set_numbers_to_the_right() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(table("T", ("name", "n"), [("[red]x", "1.5"), ("y", "-")]))
    assert "[red]x" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), ExitCode.CANCELLED, "Everything confirmed"),
        (typer.Abort(), ExitCode.CANCELLED, "Everything confirmed"),
        (OSError(errno.ENOSPC, "x", "/data/f"), ExitCode.STORAGE, "/data/f: the disk is full"),
        (OSError(errno.EIO, "x", "/cd/f"), ExitCode.STORAGE, "/cd/f: the disk reports a hardware"),
        (OSError(errno.ESTALE, "x"), ExitCode.STORAGE, "the network disk was disconnected"),
        (OSError(errno.EROFS, "x"), ExitCode.STORAGE, "read-only"),
        (PermissionError(errno.EACCES, "x", "p"), ExitCode.STORAGE, "permission denied"),
        (MemoryError(), ExitCode.DEVICE, "memory ran out"),
        (type("OutOfMemoryError", (RuntimeError,), {})(), ExitCode.DEVICE, "memory ran out"),
        (GeometryMismatchError("spacing differs"), ExitCode.IMAGE, "spacing differs"),
    ],
)
def test_every_expected_error_has_a_sentence_and_a_code(
    error: BaseException, code: int, words: str
) -> None:
    failure = explain(error)
    assert failure.code == code
    assert words in failure.sentence


def test_a_traceback_that_cannot_be_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert "could not be written" in explain(ValueError()).hint


def test_every_exit_code_is_in_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    said = capfd.readouterr().out
    for code in ExitCode:
        assert f"{code.value:5d}  " in said
    assert "demo" in said.split("Commands:")[1].splitlines()[1]


def commands() -> list[str]:
    plain = "demo annotate propagate train predict evaluate export report doctor"
    nested = "new add status check structures split models history"
    return [*plain.split(), *(f"study {name}" for name in nested.split())]


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*command.split(), "--help"]) == 0
    said = capfd.readouterr().out
    assert f"  semiseg {command}" in said.split("Example", 1)[1]


def test_a_screen_on_a_terminal_shows_bars_and_clears_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    screen = Screen()
    screen.emit(progress(1))
    assert isinstance(screen._shown(), Bars)
    screen.say("done [x]")
    assert capfd.readouterr().out == "done [x]\n"
    screen.clear()


def test_a_stages_own_result_is_progress_and_the_last_event_is_given_once() -> None:
    events: list[Event] = []
    screen = Screen(events=events.append)
    screen.emit(Event(kind="result", phase="train"))
    screen.table("unseen", ("a",), [("b",)])
    screen.say("done")
    screen.finish()
    screen.fail(explain(KeyboardInterrupt()))
    assert [(e.kind, e.message) for e in events] == [("progress", ""), ("result", "done")]


def test_a_command_without_a_screen_gets_a_plain_one() -> None:
    assert not screen_of(typer.Context(typer.main.get_command(app.app))).json


def test_a_reader_that_left_ends_the_program_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(event: Event) -> None:
        raise CancelledError("nobody reads")

    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "dup2", lambda a, b: moved.append((a, b)))
    assert app.run(["--version"], gone) == ExitCode.CANCELLED
    monkeypatch.setattr(Screen, "finish", lambda self: (_ for _ in ()).throw(BrokenPipeError))
    assert app.run(["--version"]) == ExitCode.CANCELLED
    assert [b for _, b in moved] == [1]


def test_main_exits_with_the_code_and_listens_to_sigterm(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(sys, "argv", ["semiseg", "--version"])
    try:
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 0
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def row(
    case: str, structure: str, dice: float | None, state: str = "compared"
) -> dict[str, object]:
    hd95 = None if dice is None else 2.0
    return {
        "case": case, "structure": structure, "dice": dice, "hd95_mm": hd95, "assd_mm": hd95,
        "volume_ml": 1.0, "reference_ml": 2.0, "state": state,
    }  # fmt: skip


def test_score_tables_have_means_and_leave_out_what_does_not_apply() -> None:
    rows = [row("ct", "liver", 0.8), row("ct", "spleen", None, "absent"), row("mr", "liver", 0.5)]
    lines = score_rows(rows)  # type: ignore[arg-type]
    assert lines[1][2:] == ("-", "-", "-", "1.0", "2.0", "absent")
    assert lines[2][:4] == ("ct", "mean", "0.800", "2.0")
    both = loop_rows([row("ct", "liver", 0.6)], rows)  # type: ignore[arg-type, list-item]
    assert both[0] == ("ct", "liver", "0.600", "0.800", "2.0", "2.0")
    assert both[-1][:4] == ("mr", "mean", "-", "0.500")


def test_the_help_page_lists_no_path_of_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    app.run(["demo", "--help"])
    assert str(Path.home()) not in capfd.readouterr().out


def test_a_muted_screen_says_failures_only(capfd: pytest.CaptureFixture[str]) -> None:
    for said in ([], None):
        events: list[Event] | None = said
        screen = Screen(events=None if events is None else events.append)
        screen.mute()
        screen.emit(progress(1))
        screen.say("hello")
        screen.table("t", ("a",), [("b",)])
        screen.finish()
        assert not events
        assert capfd.readouterr().out == ""
        screen.fail(explain(GeometryMismatchError("the grids differ")))
        seen = [e.message for e in events] if events else [capfd.readouterr().err]
        assert any("the grids differ" in text for text in seen)
