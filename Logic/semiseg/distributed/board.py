"""Which task comes next, which is done again, and which is finished: once, whatever happens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from semiseg.distributed.executor import RETRIES, Outcome, Task
from semiseg.distributed.tasks import CORRUPT, MEMORY, Reply, error_of
from semiseg.distributed.values import digest, pack, unpack
from semiseg.errors import DeviceError, JobError, SemiSegError
from semiseg.events import Emit, Event, Json

_SENTENCES = {
    "died": "the worker of task {task} ended in the middle; the task is done again",
    MEMORY: "task {task} ran out of memory; it is done again at the end, alone",
    CORRUPT: "what was sent for task {task} arrived damaged; the task is done again",
}


@dataclass(kw_only=True, eq=False)
class Ticket:
    """A task on its way: packed once, so that each attempt gets the same bytes."""

    index: int
    function: str
    content: bytes
    sha256: str
    files: Mapping[str, Path]
    attempts: int = 0
    alone: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrived:
    """`worker` answered."""

    ticket: Ticket
    reply: Reply
    worker: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Died:
    """`worker` is gone; `begun` unless it had not started with the task. `why` for the user."""

    ticket: Ticket
    worker: str
    why: str
    begun: bool = True
    memory: bool = False


Report: TypeAlias = Arrived | Died


class Pool(Protocol):
    """Workers, as a `Board` uses them."""

    def room(self) -> bool:
        """Whether another task can be given."""

    def begin(self, ticket: Ticket) -> None:
        """Give a task to a worker."""

    def wait(self) -> list[Report]:
        """What came meanwhile; waits for something. CancelledError once all is cancelled."""


def run(pool: Pool, tasks: Iterable[Task], emit: Emit) -> Iterator[Outcome]:
    """The outcomes of `tasks`, done by `pool`, as they come."""
    board = Board(tasks, emit)
    while True:
        while pool.room() and (ticket := board.next()) is not None:
            pool.begin(ticket)
        if board.over:
            return
        for report in pool.wait():
            outcome = board.take(report)
            if outcome is not None:
                yield outcome


class Board:
    """Gives out each task, takes reports, and makes of them one outcome per task."""

    def __init__(self, tasks: Iterable[Task], emit: Emit) -> None:
        self._tasks, self._emit = enumerate(tasks), emit
        self._again: deque[Ticket] = deque()
        self._alone: deque[Ticket] = deque()
        self._out: dict[int, Ticket] = {}
        self._read_all = False

    @property
    def over(self) -> bool:
        """Whether every task has its outcome; to be asked when `next` gave nothing."""
        return self._read_all and not (self._again or self._alone or self._out)

    def next(self) -> Ticket | None:
        """A task to be done now, if there is one; those done alone come last, one by one."""
        if any(ticket.alone for ticket in self._out.values()):
            return None
        ticket = self._again.popleft() if self._again else self._read()
        if ticket is None and self._alone and not self._out:
            ticket = self._alone.popleft()
        if ticket is not None:
            ticket.attempts += 1
            self._out[ticket.index] = ticket
        return ticket

    def take(self, report: Report) -> Outcome | None:
        """The outcome, where `report` makes one; nothing for a task that is not out any more."""
        ticket = report.ticket
        if self._out.get(ticket.index) is not ticket:
            return None
        if isinstance(report, Died):
            return self._died(ticket, report)
        reply = report.reply
        if reply.failure == CORRUPT or digest(reply.content) != reply.sha256:
            error = JobError(
                f"what was sent for task {ticket.index} arrived damaged {ticket.attempts} times; "
                "look at the network or the memory of that computer"
            )
            return self._repeat(ticket, CORRUPT, error, report.worker)
        if reply.failure == MEMORY:
            return self._repeat(ticket, MEMORY, _no_memory(reply.content.decode()), report.worker)
        return self._finished(ticket, report)

    def _read(self) -> Ticket | None:
        found = next(self._tasks, None)
        if found is None:
            self._read_all = True
            return None
        index, task = found
        content = pack(task.arguments)
        return Ticket(
            index=index,
            function=task.function,
            content=content,
            sha256=digest(content),
            files=task.files,
        )

    def _died(self, ticket: Ticket, report: Died) -> Outcome | None:
        if not report.begun:
            del self._out[ticket.index]
            ticket.attempts -= 1
            self._again.append(ticket)
            return None
        error = JobError(
            f"task {ticket.index} ended its worker {ticket.attempts} times: {report.why}"
        )
        cause = MEMORY if report.memory else "died"
        return self._repeat(ticket, cause, error, report.worker)

    def _repeat(
        self, ticket: Ticket, cause: str, error: SemiSegError, worker: str
    ) -> Outcome | None:
        """Do it again; or the error, when that was tried often enough."""
        del self._out[ticket.index]
        if ticket.attempts > RETRIES or (cause == MEMORY and ticket.alone):
            return Outcome(index=ticket.index, error=error, attempts=ticket.attempts, worker=worker)
        ticket.alone = cause == MEMORY or ticket.attempts == RETRIES
        (self._alone if ticket.alone else self._again).append(ticket)
        data: dict[str, Json] = {"task": ticket.index, "attempt": ticket.attempts, "cause": cause}
        message = _SENTENCES[cause].format(task=ticket.index)
        self._emit(Event(kind="progress", phase="distribute", message=message, data=data))
        return None

    def _finished(self, ticket: Ticket, report: Arrived) -> Outcome:
        del self._out[ticket.index]
        reply = report.reply
        failed = bool(reply.failure)
        return Outcome(
            index=ticket.index,
            value=None if failed else unpack(reply.content),
            error=error_of(reply) if failed else None,
            seconds=reply.seconds,
            attempts=ticket.attempts,
            worker=report.worker,
        )


def _no_memory(said: str) -> DeviceError:
    more = f" ({said})" if said else ""
    return DeviceError(
        f"the memory did not suffice, also with nothing else at work{more}; use a computer with "
        "more memory, or crop the image"
    )
