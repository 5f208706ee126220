"""The executor that does everything here and now, one task after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from semiseg.distributed.board import Arrived, Report, Ticket, run
from semiseg.distributed.executor import Executor, Outcome, Task
from semiseg.distributed.tasks import perform
from semiseg.errors import CancelledError
from semiseg.events import Emit, ignore


class SerialExecutor(Executor):
    """In this process; `cancel` takes effect between two tasks."""

    workers = 1

    def __init__(self) -> None:
        self._given: Ticket | None = None
        self._cancelled = False

    def map(self, tasks: Iterable[Task], emit: Emit = ignore) -> Iterator[Outcome]:
        """The outcomes, in order but for tasks that are done again."""
        return run(self, tasks, emit)

    def cancel(self) -> None:
        """Begin no other task."""
        self._cancelled = True

    def close(self) -> None:
        """Nothing is held."""

    def room(self) -> bool:
        """Whether the one place is free."""
        return self._given is None

    def begin(self, ticket: Ticket) -> None:
        """Note the task; `wait` does it."""
        self._given = ticket

    def wait(self) -> list[Report]:
        """Do the task."""
        if self._cancelled:
            raise CancelledError("stopped; everything confirmed so far is kept")
        ticket, self._given = self._given, None
        if ticket is None:
            return []
        reply = perform(ticket.function, ticket.content, ticket.sha256, ticket.files)
        return [Arrived(ticket=ticket, reply=reply, worker="here")]
