"""What a command says: to a person on a terminal, to a log file, or to a program as JSON."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from semiseg.cli.failures import Failure
from semiseg.events import Emit, Event, Json

if TYPE_CHECKING:
    import typer
    from rich.console import Console

_LOG_WIDTH = 160


class Display(Protocol):
    """Shows progress events; `clear` takes what is shown off the screen."""

    def show(self, event: Event) -> None: ...
    def clear(self) -> None: ...


class Screen:
    """The one way out for a command: progress on stderr, results on stdout.

    With `events` (JSON mode) everything becomes an event and the last one is one `result` or
    one `error`; nothing else reaches stdout.
    """

    def __init__(
        self, *, events: Emit | None = None, quiet: bool = False, debug: bool = False
    ) -> None:
        self._events, self._quiet, self.debug = events, quiet, debug
        self._display: Display | None = None
        self._said: list[str] = []
        self._data: dict[str, Json] = {}
        self._closed = self._muted = False

    def mute(self) -> None:
        """Say nothing but failures: another process speaks for all."""
        self._muted = self._closed = True

    @property
    def json(self) -> bool:
        """Whether a program reads this command's output."""
        return self._events is not None

    def emit(self, event: Event) -> None:
        """Pass on an event of a stage; a stage's own result or error is progress here."""
        if self._muted:
            return
        progress = dataclasses.replace(event, kind="progress")
        if event.data.get("warning"):  # a bar would wipe it off the screen
            self.say(event.message)
        if self._events is not None:
            self._events(progress)
        elif not self._quiet and not event.data.get("warning"):
            self._shown().show(progress)

    def loading(self) -> None:
        """Say at once that work begins: loading torch alone takes seconds."""
        self.emit(Event(kind="progress", phase="start", message="loading"))

    def say(self, text: str) -> None:
        """One plain sentence about what was done."""
        self._said.append(text)
        if not self.json and not self._muted:
            self.clear()
            self.console().print(text, markup=False, highlight=False, soft_wrap=True)

    def next(self, command: str) -> None:
        """The command that usually comes next."""
        if self.json:
            self._data["next"] = command
        elif not self._quiet:
            self.say(f"next: {command}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; in JSON mode its rows are in the result's data instead (see `data`)."""
        if self.json or self._muted:
            return
        from semiseg.cli.progress import table

        self.clear()
        self.console().print(table(title, columns, rows))

    def data(self, **values: Json) -> None:
        """Figures for programs, in the last event's data."""
        self._data.update(values)

    def fail(self, failure: Failure) -> None:
        """Say why the command failed."""
        self.clear()
        self._closed = False if self._muted else self._closed
        if self._events is not None:
            data: Mapping[str, Json] = {
                **self._data,
                "error": failure.kind,
                "exit_code": int(failure.code),
            }
            self._end(Event(kind="error", phase="end", message=failure.sentence, data=data))
            return
        console = self.console(stderr=True)
        stop = failure.kind == "CancelledError"
        console.print("" if stop else "Error:", style="bold red", end="" if stop else " ")
        for line in filter(None, (failure.sentence, failure.hint)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """Say the result, once."""
        self.clear()
        if self._events is not None:
            message = "\n".join(self._said)
            self._end(Event(kind="result", phase="end", message=message, data=self._data))

    def clear(self) -> None:
        """Take progress bars off the terminal."""
        if self._display is not None:
            self._display.clear()
            self._display = None

    def console(self, *, stderr: bool = False) -> Console:
        """A console for text; wide where no person looks, so that no line is cut."""
        from rich.console import Console

        terminal = (sys.stderr if stderr else sys.stdout).isatty()
        return Console(stderr=stderr, width=None if terminal else _LOG_WIDTH)

    def _shown(self) -> Display:
        if self._display is None:
            from semiseg.cli.progress import Bars, Lines

            self._display = Bars() if sys.stderr.isatty() else Lines(sys.stderr)
        return self._display

    def _end(self, event: Event) -> None:
        if self._events is not None and not self._closed:
            self._closed = True
            self._events(event)


def screen_of(context: typer.Context) -> Screen:
    """The screen of the running command."""
    screen = context.find_object(Screen)
    return Screen() if screen is None else screen
