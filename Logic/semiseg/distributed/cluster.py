"""The executor of a Ray cluster: one actor per worker. Ray is imported when it is made."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import semiseg
from semiseg.config import Device, check_range
from semiseg.distributed.board import Arrived, Died, Report, Ticket, run
from semiseg.distributed.executor import Executor, Outcome, Task
from semiseg.distributed.member import Member
from semiseg.distributed.tasks import Reply
from semiseg.distributed.values import digest
from semiseg.errors import CancelledError, DeviceError, JobError, StorageError
from semiseg.events import Emit, Event, ignore

_AHEAD = 2  # as in `local.py`
_POLL_S = 0.5
_SAY_FULL_AFTER_S = 10.0
_KEPT_FILES = 16  # in the cluster's memory beyond those of tasks at work
_STARTS = 3
_ANSWER_S = 5.0


class RayExecutor(Executor):
    """Workers on the cluster at `address`, one core each, and a GPU where `device` says so.

    `device` "auto": where the cluster has any.

    `address` as Ray takes it: host:port, auto, or ray://host:port; a token and TLS come from Ray's
    own environment variables. `workers` None: as many as the cluster has cores (or GPUs). JobError
    when Ray is not installed, the cluster cannot be reached, or has another version of SemiSeg.
    """

    def __init__(self, address: str, workers: int | None = None, *, device: Device = "cpu") -> None:
        self._ray, self._ours = connected(address)
        gpus = gpus_each(self._ray, device)
        number = self._size(gpus) if workers is None else workers
        check_range("workers", number, 1, 10_000)
        remote = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._actor: Any = remote(Member)
        self._uploads = _Uploads(self._ray)
        self._emit: Emit = ignore
        self._cancelled = False
        self._failed_starts = 0
        self._waiting_since = time.monotonic()
        self._crew = [self._hired() for _ in range(number)]

    @property
    def workers(self) -> int:
        """How many actors are asked for; a full cluster gives some of them later."""
        return len(self._crew)

    def map(self, tasks: Iterable[Task], emit: Emit = ignore) -> Iterator[Outcome]:
        """The outcomes, as they come."""
        self._emit = emit
        finished = False
        try:
            yield from run(self, tasks, emit)
            finished = True
        finally:
            if not (finished or self._cancelled):
                self._dismiss()
                self._crew = [self._hired() for _ in self._crew]

    def cancel(self) -> None:
        """End all actors at once."""
        self._cancelled = True
        self._dismiss()

    def close(self) -> None:
        """Give the workers back, without the files they were given."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            leaving = [w.actor.leave.remote() for w in self._crew if w.ready]
            self._ray.wait(leaving, num_returns=len(leaving), timeout=5) if leaving else None
        self._dismiss()
        if self._ours:
            self._ray.shutdown()

    def room(self) -> bool:
        """Whether a worker that is there has fewer tasks than it may hold."""
        return any(worker.ready and len(worker.given) < _AHEAD for worker in self._crew)

    def begin(self, ticket: Ticket) -> None:
        """Give the task to the worker with the fewest."""
        worker = min((w for w in self._crew if w.ready), key=lambda w: len(w.given))
        names, contents = self._uploads.of(ticket)
        reference = worker.actor.perform.remote(
            ticket.function, ticket.content, ticket.sha256, names, *contents
        )
        worker.given.append((reference, ticket))

    def wait(self) -> list[Report]:
        """What came; also nothing, when a worker joined or a while passed."""
        if self._cancelled:
            raise CancelledError("stopped; everything confirmed so far is kept")
        watched = {w.given[0][0] if w.given else w.hello: w for w in self._crew if w.watched}
        if watched:
            done, _ = self._ray.wait(list(watched), num_returns=1, timeout=_POLL_S)
        else:
            time.sleep(_POLL_S)
            done = []
        if self._cancelled:
            raise CancelledError("stopped; everything confirmed so far is kept")
        reports = [report for reference in done for report in self._heard(watched[reference])]
        self._say_full()
        return reports

    def _heard(self, worker: _Hand) -> list[Report]:
        """What `worker` has to say: its name, an answer, or that it is gone."""
        if not worker.ready:
            self._welcome(worker)
            return []
        reference, ticket = worker.given[0]
        try:
            failure, content, sha256, seconds = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._replaced(worker, error)
        worker.given.popleft()
        reply = Reply(failure=failure, content=content, sha256=sha256, seconds=seconds)
        return [Arrived(ticket=ticket, reply=reply, worker=worker.name)]

    def _welcome(self, worker: _Hand) -> None:
        try:
            said = self._ray.get(worker.hello)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise JobError(
                    f"no worker could be started on the cluster: {short(error)}"
                ) from error
            self._crew[self._crew.index(worker)] = self._hired()
            return
        if said["semiseg"] != semiseg.__version__:
            raise JobError(
                f"{said['host']} has SemiSeg {said['semiseg']}, this computer "
                f"{semiseg.__version__}; install the same version on both"
            )
        self._failed_starts = 0
        worker.ready, worker.name = True, f"{said['host']} (process {said['pid']})"

    def _replaced(self, worker: _Hand, error: Exception) -> list[Report]:
        """`worker` is gone with all it was given; only the first task was begun."""
        self._crew[self._crew.index(worker)] = self._hired()
        self._ray.kill(worker.actor)
        memory = isinstance(error, self._ray.exceptions.OutOfMemoryError)
        memory |= "running low on memory" in str(error)
        return [
            Died(
                ticket=ticket,
                worker=worker.name,
                why=short(error),
                begun=number == 0,
                memory=memory and number == 0,
            )
            for number, (_, ticket) in enumerate(worker.given)
        ]

    def _hired(self) -> _Hand:
        actor = self._actor.remote()
        return _Hand(actor=actor, hello=actor.hello.remote())

    def _dismiss(self) -> None:
        for worker in self._crew:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.kill(worker.actor)

    def _size(self, gpus: int) -> int:
        """As many workers as the cluster has room for when it is empty."""
        has = self._ray.cluster_resources()
        return max(1, int(has.get("GPU" if gpus else "CPU", 1)))

    def _say_full(self) -> None:
        """Say it, now and then, when no worker at all gets a place."""
        now = time.monotonic()
        if any(worker.ready for worker in self._crew):
            self._waiting_since = now
        elif now - self._waiting_since > _SAY_FULL_AFTER_S:
            self._waiting_since = now
            has, free = self._ray.cluster_resources(), self._ray.available_resources()
            message = (
                f"waiting: the cluster is full ({free.get('CPU', 0):g} of {has.get('CPU', 0):g} "
                f"cores and {free.get('GPU', 0):g} of {has.get('GPU', 0):g} GPUs are free)"
            )
            self._emit(Event(kind="progress", phase="distribute", message=message))


@dataclass(kw_only=True, eq=False)
class _Hand:
    """One actor, and what it was given, in order."""

    actor: Any
    hello: Any
    ready: bool = False
    name: str = ""
    given: deque[tuple[Any, Ticket]] = field(default_factory=deque)

    @property
    def watched(self) -> bool:
        """Whether something is to come from it."""
        return bool(self.given) or not self.ready


class _Uploads:
    """Files in the cluster's memory, each once; the least recently used leave it again."""

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray
        self._kept: OrderedDict[Path, tuple[str, Any]] = OrderedDict()

    def of(self, ticket: Ticket) -> tuple[dict[str, list[str]], list[Any]]:
        """SHA-256 and name of each of the ticket's files, and references to their contents."""
        names, contents = {}, []
        for key, path in ticket.files.items():
            sha256, reference = self._uploaded(path)
            names[key] = [sha256, path.name]
            contents.append(reference)
        return names, contents

    def _uploaded(self, path: Path) -> tuple[str, Any]:
        if path not in self._kept:
            try:
                content = np.fromfile(path, dtype=np.uint8)
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error.strerror}") from error
            self._kept[path] = digest(content.data), self._ray.put(content)
        self._kept.move_to_end(path)
        while len(self._kept) > _KEPT_FILES:
            self._kept.popitem(last=False)
        return self._kept[path]


def connected(address: str) -> tuple[ModuleType, bool]:
    """Ray, connected to the cluster at `address`, and whether it was this call that did so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  (large; only where a cluster is used)
    except ImportError as error:
        raise JobError(
            f"Ray is not installed here ({error}); install it with: pip install 'semiseg[ray]'"
        ) from error
    if ray.is_initialized():
        return ray, False
    _require_answer(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise JobError(
            f"cannot use the cluster at {address}: {short(error)}; check that RAY_AUTH_MODE, the "
            "token and the versions of Ray and Python are those of the cluster"
        ) from error
    return ray, True


def _require_answer(address: str) -> None:
    """JobError where nothing listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto" and the like: Ray knows where
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise JobError(
            f"nothing answers at {address} ({error}); check the address, and that the cluster runs"
        ) from error


def gpus_each(ray: ModuleType, device: Device) -> int:
    """GPUs that a worker takes; DeviceError where they are asked for and the cluster has none."""
    there = ray.cluster_resources().get("GPU", 0) >= 1
    if device == "cuda" and not there:
        raise DeviceError(
            "the cluster has no GPU; start its nodes with --num-gpus, or choose --device cpu"
        )
    return int(there and device != "cpu")


def short(error: BaseException) -> str:
    """The first sentences of what Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__
