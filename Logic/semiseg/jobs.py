"""Long work in a child process, seen from the parent: start, poll, cancel.

No thread and no callback: the host polls from its own timer. (On Windows with Python 3.11 the
pipes need a reading thread each, see `processes.PipeReader`.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from semiseg.errors import JobError, StorageError
from semiseg.events import Emit, Event, Json, ignore, parse_line
from semiseg.processes import (
    BoundedText,
    LineSplitter,
    PipeReader,
    descendants,
    kill,
    kill_descendants,
    kill_group,
)

if sys.platform == "linux":
    import fcntl

if TYPE_CHECKING:
    import psutil

MAX_LINE_BYTES = 1_000_000
MAX_LOG_BYTES = 4_000_000
_POLL_BUDGET_S = 0.05
_MAX_EVENTS = 2_000
_DRAIN_AFTER_END_S = 2.0
_END_AFTER_LAST_EVENT_S = 10.0
_LOOK_AT_TREE_EVERY_S = 2.0
_PIPE_BYTES = 1 << 20
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]


def find_python() -> Path:
    """The interpreter for child processes: this one, or PythonSlicer inside Slicer."""
    if sys.executable and "python" in Path(sys.executable).stem.lower():
        return Path(sys.executable)
    found = shutil.which("PythonSlicer")
    if found is None:
        raise JobError("no Python for child processes: PythonSlicer is not on the PATH")
    return Path(found)


class Job:
    """One unit of long work in a child process, with its folder of records.

    The folder holds `job.json` (command, state, exit code, cause), `events.jsonl` (the first
    4 MB of events and the last one) and `stderr.txt` (start and end of what the child printed).
    The child ends when this object is cancelled or lost, or when this process dies.
    """

    def __init__(self, command: Sequence[str], process: subprocess.Popen[bytes], folder: Path):
        stdin, stdout, stderr = _pipes(process)
        self.command, self.folder = tuple(command), folder
        self._process, self._stdin = process, stdin
        # A lost Popen of a living child is kept by `subprocess`, with its pipes open.
        weakref.finalize(self, _close, stdin, stdout, stderr)
        self._events_pipe, self._text_pipe = PipeReader(stdout), PipeReader(stderr)
        self._lines = LineSplitter(MAX_LINE_BYTES)
        self._text = BoundedText(head=32_000, tail=64_000)
        self._records = _Records(folder, self.command, process.pid)
        self._terminal: Event | None = None
        self._tree: set[psutil.Process] = set()
        self._tree_seen_at = 0.0
        self._kill_at: float | None = None
        self._ended_at: float | None = None
        self._cancelled = self._finished = False
        self.ignored_lines = 0

    @classmethod
    def start(cls, arguments: Sequence[str], *, folder: Path, python: Path | None = None) -> Job:
        """Run `semiseg ARGUMENTS` in a child process; JobError when it cannot be started."""
        interpreter = find_python() if python is None else python
        return cls.start_command(
            [str(interpreter), "-m", "semiseg", "--child", *arguments], folder=folder
        )

    @classmethod
    def start_command(cls, command: Sequence[str], *, folder: Path) -> Job:
        """Run any program that speaks the protocol of `semiseg.child`."""
        if (folder / "job.json").exists():
            raise JobError(f"{folder} already holds a job; each job needs a folder of its own")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the job folder {folder}: {error.strerror}") from error
        try:
            process = _spawn(command)
        except (OSError, ValueError) as error:
            raise JobError(f"cannot start {command[0]}: {error}") from error
        return cls(command, process, folder)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether `poll` still has something to give: true until the terminal event was given."""
        return not self._finished

    @property
    def exit_code(self) -> int | None:
        """The child's exit code (negative: ended by that signal); None while it runs."""
        return self._process.returncode if self._finished else None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def stderr_tail(self) -> str:
        """The last 64 kB of what the child and its libraries printed."""
        return self._text.tail

    def poll(self) -> list[Event]:
        """The events since the last call, in order; never waits, takes at most about 0.1 s.

        The last event of every job is one `result` or `error`, given once the whole process tree
        has ended. A child that crashes or falls silent gets an `error` made here. The data of an
        `error` has a `cause`: told (by the child), cancelled, killed, crash, failed or silent.
        """
        if self._finished:
            return []
        self._enforce()
        ended = self._process.poll() is not None
        if ended and self._ended_at is None:
            self._ended_at = time.monotonic()
            self._end_tree()
        events, empty = self._drain()
        late = ended and time.monotonic() - (self._ended_at or 0) > _DRAIN_AFTER_END_S
        if ended and (empty or late):
            events += self._take_lines(self._lines.flush())
            events.append(self._finish())
        self._records.add(events)
        return events

    def cancel(self, grace_s: float = 5.0) -> None:
        """Ask the child to end; `poll` kills its whole tree when `grace_s` have passed.

        Returns at once; may be called again with a shorter grace.
        """
        if self._finished:
            return
        self._cancelled = True
        self._remember_tree()
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._kill_soon(grace_s)

    def wait(self, timeout_s: float | None = None, emit: Emit = ignore) -> int | None:
        """Poll until the end, handing each event to `emit`; None when `timeout_s` passed first."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._finished:
            events = self.poll()
            for event in events:
                emit(event)
            if not self._finished and deadline is not None and time.monotonic() >= deadline:
                return None
            if not events and not self._finished:
                time.sleep(0.02)
        return self.exit_code

    def _enforce(self) -> None:
        now = time.monotonic()
        if now - self._tree_seen_at > _LOOK_AT_TREE_EVERY_S:
            self._remember_tree()
        if self._kill_at is not None and now >= self._kill_at and self._process.poll() is None:
            self._process.kill()

    def _kill_soon(self, grace_s: float) -> None:
        at = time.monotonic() + grace_s
        self._kill_at = at if self._kill_at is None else min(self._kill_at, at)

    def _remember_tree(self) -> None:
        """Note the descendants while their parents live; orphans cannot be found by descent."""
        self._tree_seen_at = time.monotonic()
        self._tree.update(descendants(self.pid))

    def _end_tree(self) -> None:
        # Popen.start_new_session made the child's pid its group's number.
        kill_group(self.pid)
        for process in [each for each in self._tree if each.is_running()]:
            kill_descendants(process.pid)
            kill([process])

    def _drain(self) -> tuple[list[Event], bool]:
        """Events of both pipes' content, and whether the pipes were empty at the end."""
        deadline = time.monotonic() + _POLL_BUDGET_S
        events: list[Event] = []
        while time.monotonic() < deadline and len(events) < _MAX_EVENTS:
            text, lines = self._text_pipe.read(), self._events_pipe.read()
            if text:
                self._text.add(text)
            if lines:
                events += self._take_lines(self._lines.feed(lines))
            if not text and not lines:
                return events, True
        return events, False

    def _take_lines(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            try:
                event = parse_line(line.decode("utf-8"))
            except (JobError, UnicodeDecodeError):
                self._ignore(line)
                continue
            if event.kind == "progress":
                events.append(event)
            elif self._terminal is None:
                self._terminal = event
                self._kill_soon(_END_AFTER_LAST_EVENT_S)
            else:
                self._ignore(line)
        return events

    def _ignore(self, line: bytes) -> None:
        if line.strip():
            self.ignored_lines += 1
            self._text.add(line + b"\n")

    def _finish(self) -> Event:
        self._finished = True
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._events_pipe.close()
        self._text_pipe.close()
        code = self._process.returncode
        event = self._failure(code) if self._terminal is None else self._explained(self._terminal)
        self._records.finish(event, code, self._text.text, self._notes())
        return event

    def _notes(self) -> dict[str, Json]:
        return {
            "cancelled": self._cancelled,
            "ignored_lines": self.ignored_lines,
            "dropped_bytes": self._lines.dropped_bytes,
            "printed_bytes": self._text.total_bytes,
        }

    def _explained(self, event: Event) -> Event:
        """A terminal error always has its `cause` in the data, also one that the child told."""
        if event.kind == "result":
            return event
        cause = "cancelled" if self._cancelled else "told"
        return dataclasses.replace(event, data={"cause": cause, **event.data})

    def _failure(self, code: int) -> Event:
        if self._cancelled:
            cause, sentence = "cancelled", "stopped; everything confirmed so far is kept"
        else:
            cause, sentence = describe_end(code, self._text.tail)
        data: dict[str, Json] = {"cause": cause, "exit_code": code}
        return Event(kind="error", phase="end", message=sentence, data=data)


def describe_end(code: int, said: str) -> tuple[str, str]:
    """Cause in one word and in a sentence, for a child that ended without a last event.

    `code` as from `subprocess` (negative: that signal); `said` is what it printed.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = f" It last said: {lines[-1][:300]}" if lines else ""
    if code == -9:
        return "killed", (
            "the system ended the work, most often because the memory ran out; close other "
            f"programs or choose a smaller patch.{last}"
        )
    if code < 0 or code >= 0xC0000000:
        return "crash", f"the work crashed ({_signal_name(code)}) inside a library.{last}"
    if code == 0:
        return "silent", f"the work ended without a result and without an error.{last}"
    return "failed", f"the work failed (exit code {code}).{last}"


def _signal_name(code: int) -> str:
    if code > 0:
        return f"Windows error {code:#x}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class _Records:
    """The job folder's files; a full disk ends the record keeping, not the job."""

    def __init__(self, folder: Path, command: Sequence[str], pid: int) -> None:
        self._folder = folder
        self._written = 0
        self._broken = False
        self._head: dict[str, Json] = {
            "command": list(command),
            "pid": pid,
            "parent_pid": os.getpid(),
            "started": _now(),
        }
        self._write("job.json", _pretty({**self._head, "state": "running"}))

    def add(self, events: list[Event]) -> None:
        """Append `events`; beyond the limit only a terminal event is."""
        full = self._written > MAX_LOG_BYTES
        text = "".join(e.to_line() + "\n" for e in events if not full or e.kind != "progress")
        if text:
            self._written += len(text)
            self._write("events.jsonl", text, append=True)

    def finish(self, event: Event, code: int, text: str, notes: dict[str, Json]) -> None:
        """Write how the job ended and what it printed."""
        end: dict[str, Json] = {"state": event.kind, "exit_code": code, "message": event.message}
        self._write("job.json", _pretty({**self._head, **end, **notes, "ended": _now()}))
        if text:
            self._write("stderr.txt", text)

    def _write(self, name: str, text: str, *, append: bool = False) -> None:
        if self._broken:
            return
        try:
            with (self._folder / name).open("a" if append else "w", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            self._broken = True


def _pretty(body: dict[str, Json]) -> str:
    return json.dumps(body, indent=1) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise JobError("a job's process must be started with three pipes")
    return process.stdin, process.stdout, process.stderr


def _close(*pipes: IO[bytes]) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.close()


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=_environment(),
        start_new_session=sys.platform != "win32",
        creationflags=flags,
    )
    _widen(process.stdout, process.stderr)
    return process


def _environment() -> dict[str, str]:
    old = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_PACKAGE_ROOT), *([old] if old else [])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONFAULTHANDLER": "1"}


def _widen(*pipes: IO[bytes] | None) -> None:
    """Larger pipes where the system has them: a talkative child then seldom waits for a poll."""
    if sys.platform == "linux":
        for pipe in pipes:
            with contextlib.suppress(OSError):
                if pipe is not None:
                    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
