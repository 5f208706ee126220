"""Progress on a terminal (bars) and in a log (few plain lines)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from semiseg.events import Event


class Bars:
    """One bar per phase, with the time left."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[message]}", markup=False),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, event: Event) -> None:
        """Move the bar of the event's phase."""
        if event.phase not in self._tasks:
            self._drop_endless()
            self._tasks[event.phase] = self._progress.add_task(
                event.phase, total=None, count="", left="", message=""
            )
        self._progress.update(
            self._tasks[event.phase],
            completed=event.step,
            total=event.total or None,
            count=count(event),
            left=time_left(event),
            message=event.message[:60] or figures(event),
        )

    def _drop_endless(self) -> None:
        """Take away bars that never say how far they are, once something else begins."""
        for phase, task in list(self._tasks.items()):
            if self._progress.tasks[self._progress.task_ids.index(task)].total is None:
                self._progress.remove_task(self._tasks.pop(phase))

    def clear(self) -> None:
        """Take the bars away."""
        self._progress.stop()


class Lines:
    """One line when a phase starts and ends, and every `interval_s` between."""

    def __init__(
        self,
        stream: IO[str],
        *,
        interval_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._interval_s, self._clock = stream, interval_s, clock
        self._last: dict[str, float] = {}
        self._ended: set[str] = set()

    def show(self, event: Event) -> None:
        """Print a line if it is time for one."""
        now, phase = self._clock(), event.phase
        ends = bool(event.total) and event.step >= event.total
        if not ends:
            self._ended.discard(phase)
        due = phase not in self._last or now - self._last[phase] >= self._interval_s
        if (ends and phase not in self._ended) or (due and not ends):
            self._last[phase] = now
            if ends:
                self._ended.add(phase)
            parts = (count(event), time_left(event), event.message or figures(event))
            self._stream.write(f"{phase}: {', '.join(filter(None, parts)) or 'started'}\n")
            self._stream.flush()

    def clear(self) -> None:
        """Nothing to take away."""


def count(event: Event) -> str:
    """`3/10`, or nothing where the total is unknown."""
    return f"{event.step}/{event.total}" if event.total else ""


def time_left(event: Event) -> str:
    """`2 min 5 s left`, or nothing where it is unknown."""
    seconds = event.data.get("seconds_left")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        return ""
    return f"{duration(float(seconds))} left"


def figures(event: Event) -> str:
    """`loss 0.312, validation Dice 0.81`, as far as the event has them."""
    names = {"loss": "loss", "validation_dice": "validation Dice"}
    found = {words: event.data.get(key) for key, words in names.items()}
    return ", ".join(
        f"{words} {value:.3g}" for words, value in found.items() if isinstance(value, int | float)
    )


def duration(seconds: float) -> str:
    """A time span in the two largest units that say something."""
    whole = max(1, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {second} s" if minutes else f"{second} s"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; columns whose every cell looks like a number stand to the right."""
    built = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for position, name in enumerate(columns):
        cells = [row[position] for row in rows]
        numeric = bool(cells) and all(_is_number(cell) for cell in cells)
        built.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        built.add_row(*(_plain(cell) for cell in row))
    return built


def _plain(cell: str) -> str:
    # rich reads [words] as markup.
    return cell.replace("[", r"\[")


def _is_number(cell: str) -> bool:
    stripped = cell.strip().rstrip("%")
    return stripped in {"", "-"} or stripped.replace(".", "", 1).lstrip("-").isdigit()
