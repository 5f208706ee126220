"""Stand-ins for child processes: commands run at once in this process, or told by the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from semiseg.events import Event, Json

_SHORT = ("study", "history")


class InlineJob:
    """Runs `semiseg ARGUMENTS` in this process, at the first poll."""

    stderr_tail = ""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self.running, self.cancelled = True, False

    def poll(self) -> list[Event]:
        """All events, the last one included."""
        if not self.running:
            return []
        from semiseg.cli.app import run

        self.running = False
        events: list[Event] = []
        run(self.arguments, events=events.append)
        return events

    def cancel(self, grace_s: float = 5.0) -> None:
        """It runs as a whole or not at all."""
        self.cancelled, self.running = True, False


class ToldJob:
    """Says what the test tells it to say."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.arguments, self.folder = list(arguments), folder
        self.running, self.cancelled, self.stderr_tail = True, False, ""
        self._waiting: list[Event] = []

    def say(self, phase: str, step: int = 0, total: int = 0, text: str = "", **data: Json) -> None:
        """A progress event, heard at the next poll."""
        event = Event(kind="progress", phase=phase, step=step, total=total, message=text, data=data)
        self._waiting.append(event)

    def end(self, text: str = "", **data: Json) -> None:
        """The result."""
        self._waiting.append(Event(kind="result", phase="end", message=text, data=data))

    def fail(self, text: str, stderr: str = "", **data: Json) -> None:
        """The error that a child told, or that was made of its crash."""
        self.stderr_tail = stderr
        self._waiting.append(Event(kind="error", phase="end", message=text, data=data))

    def poll(self) -> list[Event]:
        """What was told since."""
        found, self._waiting = self._waiting, []
        if any(event.kind != "progress" for event in found):
            self.running = False
        return found

    def cancel(self, grace_s: float = 5.0) -> None:
        """As a child whose pipe was closed."""
        self.cancelled = True
        self.fail("stopped", cause="cancelled")


class Jobs:
    """A job class: short changes of the study run inline, long work is told by the test.

    `told` are the jobs of long work, `commands` all command lines without the study's folder.
    `hold` makes short changes wait to be told, too.
    """

    def __init__(self) -> None:
        self.told: list[ToldJob] = []
        self.commands: list[list[str]] = []
        self.refuse: Exception | None = None
        self.hold: Callable[[list[str]], bool] = lambda arguments: arguments[0] not in _SHORT

    def start(self, arguments: Sequence[str], *, folder: Path) -> InlineJob | ToldJob:
        """As `Job.start`."""
        if self.refuse is not None:
            raise self.refuse
        self.commands.append(list(arguments))
        if self.hold(list(arguments)):
            self.told.append(ToldJob(arguments, folder))
            return self.told[-1]
        return InlineJob(arguments)
