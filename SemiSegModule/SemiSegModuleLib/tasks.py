"""Two lanes of child jobs: short changes of the study one after the other, and one long work."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from slicer.i18n import tr as _

from semiseg.errors import JobError, SemiSegError
from semiseg.events import Event, Json
from semiseg.jobs import Job

GRACE_S = 5.0
_MOST_POINTS = 2000
_NEEDED = ("psutil", "typer")
_TAIL_CHARACTERS = 8000


class RunningJob(Protocol):
    """What is used of `semiseg.jobs.Job`."""

    @property
    def running(self) -> bool: ...
    @property
    def stderr_tail(self) -> str: ...
    def poll(self) -> list[Event]: ...
    def cancel(self, grace_s: float = ...) -> None: ...


_ending: list[RunningJob] = []


class JobClass(Protocol):
    """Starts jobs; tests hand in one that runs in this process."""

    def start(self, arguments: Sequence[str], *, folder: Path) -> RunningJob: ...


@dataclass
class TaskState:
    """What the panel shows of the long work; `curve` holds (step, value) points."""

    kind: str
    phase: str = ""
    message: str = ""
    step: int = 0
    total: int = 0
    seconds_left: float | None = None
    curve: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"loss": [], "dice": []}
    )
    cases_done: list[str] = field(default_factory=list)
    cancelling: bool = False

    def take(self, event: Event) -> None:
        """Show `event`'s phase, counts and figures; a case that was saved joins `cases_done`."""
        self.phase, self.step, self.total = event.phase, event.step, event.total
        self.message = event.message
        self.seconds_left = number(event.data.get("seconds_left"))
        for name, points in self.curve.items():
            value = number(event.data.get(name))
            if value is not None:
                points.append((float(event.step), value))
                # A night of learning must not make the plot slow.
                if len(points) > _MOST_POINTS:
                    del points[1:-1:2]
        if "saved" in event.data and isinstance(event.data.get("case"), str):
            self.cases_done.append(str(event.data["case"]))


@dataclass(eq=False)
class Task:
    """One job: what it is called, its command line, and who hears of it.

    `prepare` fills the job's folder just before the start and may return further arguments.
    `on_end` is called once, with the job's last event. `keeps`: the user was shown that it is
    done, so closing lets it finish.
    """

    kind: str
    arguments: Sequence[str]
    on_end: Callable[[Task, Event], None]
    on_event: Callable[[Event], None] = lambda _event: None
    prepare: Callable[[Path], Sequence[str]] | None = None
    case_id: str | None = None
    keeps: bool = False
    short: bool = False
    job: RunningJob | None = None
    folder: Path | None = None
    cancelled: bool = False
    unheard: deque[Event] = field(default_factory=deque)

    @property
    def details(self) -> str:
        """The end of what the job and its libraries printed."""
        return "" if self.job is None else self.job.stderr_tail[-_TAIL_CHARACTERS:]


class Tasks:
    """Starts, polls and cancels the jobs of one study; `tick` does all that takes time."""

    def __init__(self, jobs_folder: Path, job_class: JobClass = Job) -> None:
        self._folder, self._job_class = jobs_folder, job_class
        self._queue: deque[Task] = deque()
        self._service: Task | None = None
        self._work: Task | None = None
        self._count = 0

    @property
    def work(self) -> Task | None:
        """The long work that runs, if one does."""
        return self._work

    @property
    def service(self) -> Task | None:
        """The short change that runs, if one does."""
        return self._service

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self._work is None and self._service is None and not self._queue

    def waiting(self, kind: str, case_id: str | None = None) -> bool:
        """Whether such a change waits in the service lane and has not started."""
        return any(t.kind == kind and t.case_id == case_id for t in self._queue)

    def pending(self, *kinds: str) -> list[Task]:
        """The changes of these kinds that run or wait in the service lane."""
        running = [] if self._service is None else [self._service]
        return [task for task in (*running, *self._queue) if task.kind in kinds]

    def serve(self, task: Task) -> None:
        """Put `task` at the end of the service lane."""
        task.short = True
        self._queue.append(task)
        self._next_service()

    def start(self, task: Task) -> None:
        """Begin the long work; JobError when one runs already."""
        if self._work is not None:
            text = _("Other work is running ({kind}); wait for its end, or cancel it first.")
            raise JobError(text.format(kind=self._work.kind))
        self._work = task
        self._launch(task)

    def cancel(self) -> None:
        """Ask the long work to end; it is killed when its time of grace has passed."""
        if self._work is not None and self._work.job is not None:
            self._work.cancelled = True
            self._work.job.cancel(GRACE_S)

    def tick(self) -> bool:
        """Hand on what the jobs said since the last call; whether there was anything."""
        _look_after_ending()
        heard = self._poll(self._work) | self._poll(self._service)
        self._next_service()
        return heard

    def close(self, wait_s: float = 2.0) -> None:
        """End all jobs; changes that the user was shown get at most `wait_s` to be written.

        A child whose pipes are closed ends itself, also when nobody polls it any more.
        """
        _let_end(self._work)
        deadline = time.monotonic() + wait_s
        kept = [task for task in (self._service, *self._queue) if task is not None and task.keeps]
        for task in kept:
            self._finish_by(task, deadline)
        _let_end(self._service)
        self._work = self._service = None
        self._queue.clear()

    def _finish_by(self, task: Task, deadline: float) -> None:
        if task.job is None and time.monotonic() < deadline:
            self._launch(task)
        while task.job is not None and task.job.running and time.monotonic() < deadline:
            task.job.poll()
            time.sleep(0.01)

    def _next_service(self) -> None:
        if self._service is None and self._queue:
            self._service = self._queue.popleft()
            self._launch(self._service)

    def _launch(self, task: Task) -> None:
        try:
            _require_engine()
            task.folder = self._new_folder(task.kind)
            extra = () if task.prepare is None else task.prepare(task.folder)
            task.job = self._job_class.start([*task.arguments, *extra], folder=task.folder)
        except (SemiSegError, OSError) as error:
            self._ended(task, _not_started(task, error))

    def _new_folder(self, kind: str) -> Path:
        if not self._folder.parent.is_dir():
            # Made anew, it would hide what is there once its disk is back.
            text = _("{folder} is not there any more; reconnect its disk, or open the study anew.")
            raise JobError(text.format(folder=self._folder.parent))
        self._count += 1
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = self._folder / f"{stamp}-{kind}"
        while folder.exists():
            folder = self._folder / f"{stamp}-{kind}-{self._count}"
            self._count += 1
        folder.mkdir(parents=True)
        return folder

    def _poll(self, task: Task | None) -> bool:
        if task is None or task.job is None:
            return False
        task.unheard.extend(task.job.poll())
        heard = bool(task.unheard)
        while task.unheard:
            # Gone from the queue first: one that cannot be shown holds up none that follow.
            event = task.unheard.popleft()
            if event.kind == "progress":
                task.on_event(event)
            else:
                self._ended(task, event)
        return heard

    def _ended(self, task: Task, event: Event) -> None:
        if task is self._work:
            self._work = None
        elif task is self._service:
            self._service = None
        else:
            return  # closed meanwhile: nobody is interested any more
        task.on_end(task, event)
        if event.kind == "result" and task.short:
            # Only failures and long work are looked up later; some hold copies of voxels.
            shutil.rmtree(task.folder or "", ignore_errors=True)


def _let_end(task: Task | None) -> None:
    """Cancel the job of `task`; the next ticks, of whichever study, see it to its end."""
    if task is not None and task.job is not None and task.job.running:
        task.job.cancel(GRACE_S)
        _ending.append(task.job)


def _look_after_ending() -> None:
    for job in tuple(_ending):
        job.poll()
        if not job.running:
            _ending.remove(job)


def number(value: Json) -> float | None:
    """`value` as a number; None when it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _require_engine() -> None:
    """JobError while the packages are missing without which no child can say anything."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise JobError(
            _(
                "The engine is not complete: {names} is missing. Install it in the section Engine "
                "at the end of this panel."
            ).format(names=", ".join(missing))
        )


def _not_started(task: Task, error: Exception) -> Event:
    data: dict[str, Json] = {"cause": "not started"}
    return Event(kind="error", phase=task.kind, message=str(error), data=data)
