"""The executor of this computer: child processes with one thread of computing each."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, TypeAlias

from semiseg.config import check_range
from semiseg.distributed.board import Arrived, Died, Report, Ticket, run
from semiseg.distributed.executor import Executor, Outcome, Task
from semiseg.distributed.frames import receive, send
from semiseg.distributed.tasks import Reply
from semiseg.errors import CancelledError, JobError
from semiseg.events import Emit, Json, ignore
from semiseg.jobs import describe_end, find_python
from semiseg.processes import kill_descendants

_AHEAD = 2  # tasks a worker holds: one at work, one so that it need not wait for the driver
_POLL_S = 0.2
_GRACE_S = 2.0
_STARTS = 3  # of a process that ends before it is ready
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_Reports: TypeAlias = "queue.SimpleQueue[Report | JobError | None]"


class LocalExecutor(Executor):
    """`workers` child processes; they end with this object, and when this process dies."""

    def __init__(self, workers: int) -> None:
        check_range("workers", workers, 1, 1000)
        self._reports: _Reports = queue.SimpleQueue()
        self._workers = [_Worker(f"worker {n + 1}", self._reports) for n in range(workers)]
        self._cancelled = False

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return len(self._workers)

    def map(self, tasks: Iterable[Task], emit: Emit = ignore) -> Iterator[Outcome]:
        """The outcomes, as they come."""
        finished = False
        try:
            yield from run(self, tasks, emit)
            finished = True
        finally:
            if not finished:  # left, or failed: what is at work is of no use any more
                self._end()

    def cancel(self) -> None:
        """End all processes at once."""
        self._cancelled = True
        self._end()
        self._reports.put(None)

    def close(self) -> None:
        """End the processes: orderly, for they have nothing to do."""
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.join()

    def room(self) -> bool:
        """Whether a worker has fewer tasks than it may hold."""
        return any(worker.load < _AHEAD for worker in self._workers)

    def begin(self, ticket: Ticket) -> None:
        """Give the task to the worker with the fewest."""
        min(self._workers, key=lambda worker: worker.load).give(ticket)

    def wait(self) -> list[Report]:
        """The next report."""
        while not self._cancelled:
            with contextlib.suppress(queue.Empty):
                report = self._reports.get(timeout=_POLL_S)
                if isinstance(report, JobError):
                    raise report
                if report is not None:
                    return [report]
        raise CancelledError("stopped; everything confirmed so far is kept")

    def _end(self) -> None:
        for worker in self._workers:
            worker.kill()


class _Worker:
    """One process and the thread that talks with it; a dead process is replaced when needed.

    Each `kill` begins another generation: what was given before is not begun any more.
    """

    def __init__(self, name: str, reports: _Reports) -> None:
        self._name, self._reports = name, reports
        self._inbox: queue.SimpleQueue[tuple[int, Ticket] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._generation = 0
        self.load = 0
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def give(self, ticket: Ticket) -> None:
        """Queue `ticket`."""
        with self._lock:
            self.load += 1
        self._inbox.put((self._generation, ticket))

    def kill(self) -> None:
        """End the process and all below it; forget what is queued."""
        with self._lock:
            self._generation += 1
            process = self._process
        if process is not None:
            kill_descendants(process.pid)
            process.kill()

    def dismiss(self) -> None:
        """End the process when it has done what is queued."""
        self._inbox.put(None)

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _serve(self) -> None:
        while (given := self._inbox.get()) is not None:
            generation, ticket = given
            report: Report | JobError | None
            try:
                report = self._perform(generation, ticket)
            except JobError as error:
                report = error
            with self._lock:
                self.load -= 1
            self._reports.put(report)
        self._retire()

    def _perform(self, generation: int, ticket: Ticket) -> Report | None:
        """What became of `ticket`; None where it was forgotten."""
        process = self._running(generation)
        if process is None:
            return None
        orders, answers = _pipes(process)
        head: dict[str, Json] = {
            "function": ticket.function,
            "sha256": ticket.sha256,
            "files": {name: str(path) for name, path in ticket.files.items()},
        }
        answer = None
        with contextlib.suppress(OSError):
            send(orders, head, ticket.content)
            answer = receive(answers)
        name = f"{self._name} (process {process.pid})"
        if answer is None:
            return Died(ticket=ticket, worker=name, why=self._buried(process))
        said, content = answer
        return Arrived(ticket=ticket, reply=_reply(said, content), worker=name)

    def _running(self, generation: int) -> subprocess.Popen[bytes] | None:
        """A process that is ready; None where the generation is over. JobError: none starts."""
        why = ""
        for _ in range(_STARTS):
            with self._lock:
                if generation != self._generation:
                    return None
                process = self._process
                if process is not None and process.poll() is None:
                    return process
            self._retire()  # one that was killed after its last answer still has its pipes
            with self._lock:
                if generation != self._generation:
                    return None
                process = self._process = _spawn()
            if receive(_pipes(process)[1]) is not None:
                return process
            why = self._buried(process)
        if generation != self._generation:
            return None
        raise JobError(f"no worker process could be started: {why}")

    def _buried(self, process: subprocess.Popen[bytes]) -> str:
        """Why a process that closed its pipe is gone; makes sure that it is."""
        try:
            code = process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._retire()
        return describe_end(code, "")[1]

    def _retire(self) -> None:
        """Let the process end, and its pipes."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        orders, answers = _pipes(process)
        with contextlib.suppress(OSError):
            orders.close()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        answers.close()


def _reply(said: Mapping[str, Any], content: bytes) -> Reply:
    return Reply(
        failure=str(said["failure"]),
        content=content,
        sha256=str(said["sha256"]),
        seconds=float(said["seconds"]),
    )


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise JobError("a worker must be started with two pipes")
    return process.stdin, process.stdout


def _spawn() -> subprocess.Popen[bytes]:
    """A worker that finds the modules that are found here."""
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        return subprocess.Popen(
            [str(find_python()), "-m", "semiseg.distributed.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": path},
            creationflags=flags,
        )
    except OSError as error:
        raise JobError(f"no worker process could be started: {error}") from error
