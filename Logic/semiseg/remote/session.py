"""A job on a cluster from the first question to the last event, over a network that may fail.

Nothing that is done twice does harm: the job's name is its content, a second submission joins
the first, pieces are stored by digest, and results enter the study once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from semiseg.errors import JobError
from semiseg.events import Emit, Event, Json, Progress, parse_line
from semiseg.remote.blobs import parcel, parcels
from semiseg.remote.causes import PASSING, RemoteError
from semiseg.remote.client import Dashboard, JobState, Submission
from semiseg.remote.manifest import Manifest, Piece
from semiseg.remote.names import Names
from semiseg.remote.outbox import OUTBOXES, chunk_name
from semiseg.remote.runner import MANIFEST_FILE, RESULTS_FILE

RUN = "python -m semiseg.remote.runner run"
_ROUND_BYTES = 1 << 30
_MOST_LOST = 3
_TRIES = 3
_END_S = 120.0
_SILENT_POLLS = 5
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between questions, and how long a network that is gone is waited for."""

    poll_s: float = 1.0
    patience_s: float = 1800.0
    longest_pause_s: float = 15.0
    say_every_s: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be run and on how much; `files` say where pieces lie on this computer.

    `agreed`: scans may go there; else the job is followed, and nothing is sent.
    """

    manifest: Manifest
    files: Mapping[str, Path]
    names: Names
    cpus: float = 1.0
    gpus: float = 0.0
    agreed: bool = True


class Session:
    """One job on one cluster."""

    def __init__(self, dashboard: Dashboard, order: Order, emit: Emit, pace: Pace | None = None):
        self._dashboard, self._order, self._emit = dashboard, order, emit
        self._pace = pace or Pace()
        self._attempts = Attempts(dashboard, order.manifest.job_id)
        self._sent: dict[str, int] = {}

    def start(self) -> None:
        """Submit the job, or join it where it is there already; RemoteError at the first failure.

        One that failed or was stopped is submitted again.
        """
        state = self._attempts.newest()
        if state is not None and (not state.ended or self._has_results(state)):
            self._say("the same job is on the cluster already; joining it", {"joined": True})
            return
        self._submit([])

    def finish(self) -> Event:
        """The job's last event, in this study's words; files that are missing there are sent.

        RemoteError: the job cannot run there, or the network stayed away (the job goes on).
        """
        lost = 0
        self._patiently(self._attempts.newest)
        while True:
            last = self._watch()
            if last is None:
                lost += 1
                if lost >= _MOST_LOST:
                    raise RemoteError("lost", _LOST)
                self._require_consent()
                self._say("the cluster was started anew and lost the job; submitting it again")
                self._patiently(lambda: self._submit([]))
            elif isinstance(missing := last.data.get("missing"), list):
                damaged = last.data.get("damaged")
                self._send(missing, damaged if isinstance(damaged, list) else [])
            else:
                return self._order.names.event(last)

    def fetch(self, piece: Piece, name: str | None = None) -> bytes:
        """A result by its digest; RemoteError when it is not what was made there."""
        for _ in range(_TRIES):
            content = self._patiently(lambda: self._file(name or piece.sha256))
            if content is None:
                raise RemoteError("lost", _RESULTS_GONE)
            if Piece.of(content) == piece:
                return content
            self._say("a result arrived damaged; fetching it again")
        raise RemoteError(
            "damaged",
            f"a result arrived damaged {_TRIES} times and was left out; the study is unchanged. "
            "Something between here and the cluster changes what passes; fetch it again later, or "
            "use another way (TLS)",
        )

    def results(self, last: Event) -> bytes | None:
        """The list of results that the last event speaks of."""
        told = last.data.get("results")
        if not isinstance(told, dict):
            return None
        size = told.get("size_bytes")
        piece = Piece(
            sha256=str(told.get("sha256")), size_bytes=size if isinstance(size, int) else -1
        )
        return self.fetch(piece, RESULTS_FILE)

    def _has_results(self, state: JobState) -> bool:
        return state.status == "SUCCEEDED" and self._file(RESULTS_FILE) is not None

    def _submit(self, packages: list[str]) -> None:
        description = parcel({MANIFEST_FILE: self._order.manifest.to_bytes()})
        state = self._attempts.newest()
        if state is None or state.ended:
            if not self._dashboard.has_package(description.name):
                self._dashboard.put_package(description.name, description.content)
            name, number = self._attempts.following(state)
            job = Submission(
                id=name,
                command=f"{RUN} {number}",
                packages=(description.name, *packages),
                cpus=self._order.cpus,
                gpus=self._order.gpus,
            )
            if self._dashboard.submit(job):
                return
        self._say("the same job was submitted meanwhile; joining it", {"joined": True})

    def _watch(self) -> Event | None:
        """Passes events on until the job has ended; None when the cluster does not know it."""
        reader, said_at, silent = _Reader(), -1e9, 0
        while True:
            state = self._patiently(self._attempts.current)
            if state is None:
                return None
            ended = state.ended  # asked before reading, so that nothing comes after
            events = self._patiently(partial(reader.read, self._file))
            for event in events:
                if event.kind != "progress":
                    return event
                self._emit(self._order.names.event(event))
            silent += ended
            if silent > _SILENT_POLLS:  # Ray's own news of a file may come later than the end
                self._silent_end(state)
            if state.status == "PENDING" and time.monotonic() - said_at > self._pace.say_every_s:
                said_at = time.monotonic()
                self._say(self._patiently(self._why_pending), {"pending": True})
            time.sleep(self._pace.poll_s)

    def _silent_end(self, state: JobState) -> NoReturn:
        """Says what a job's end without a last event means."""
        if state.status == "STOPPED":
            raise RemoteError("cancelled", "the job was stopped on the cluster; nothing was lost")
        text = self._patiently(lambda: self._dashboard.log(self._attempts.name))
        raise ended_badly(state, text)

    def _why_pending(self) -> str:
        order = self._order
        want = f"{order.gpus:g} GPU" if order.gpus else f"{order.cpus:g} processor cores"
        used, total = self._dashboard.resources().get("GPU" if order.gpus else "CPU", (0.0, 0.0))
        if total < (order.gpus or order.cpus):
            return f"waiting: the cluster has no {want} at all now; workers may still join it"
        if total - used < (order.gpus or order.cpus):
            return f"waiting for room: {used:g} of {total:g} are in use, the job needs {want}"
        return "waiting for the cluster to start the job"

    def _send(self, missing: list[Json], damaged: list[Json]) -> None:
        """Uploads what the cluster does not have, at most 1 GB at a time, and submits again."""
        self._require_consent()
        every = self._order.manifest.pieces
        pieces = [piece for sha256, piece in every.items() if sha256 in missing]
        again = [p for p in pieces if self._sent.get(p.sha256, 0) >= _TRIES]
        if again or not pieces:
            raise RemoteError(
                "damaged" if damaged else "failed",
                f"{len(again)} files were sent {_TRIES} times and did not stay on the cluster; "
                "let SEMISEG_STORE name a folder that all its computers share",
            )
        names, total = list[str](), sum(piece.size_bytes for piece in pieces)
        progress, done = Progress(self._emit, "upload", total), 0
        progress.update(0, f"sending {len(pieces)} files, {total / 1e6:.1f} MB")
        for piece in pieces:
            if names and done + piece.size_bytes > _ROUND_BYTES:
                break
            attempt = self._sent.get(piece.sha256, 0) if piece.sha256 in damaged else 0
            for part in parcels(piece, self._order.files[piece.sha256], attempt=attempt):
                self._patiently(partial(self._upload, part.name, part.content))
                names.append(part.name)
            self._sent[piece.sha256] = self._sent.get(piece.sha256, 0) + 1
            done += piece.size_bytes
            progress.update(done, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB are there")
        self._let_end()
        self._patiently(lambda: self._submit(names))

    def _require_consent(self) -> None:
        if not self._order.agreed:
            raise RemoteError("consent", _WITHDRAWN)

    def _let_end(self) -> None:
        """Waits until the submission that lacked files has ended: while it runs, it is the job."""
        until = time.monotonic() + _END_S
        while time.monotonic() < until:
            state = self._patiently(self._attempts.current)
            if state is None or state.ended:
                return
            time.sleep(self._pace.poll_s)

    def _upload(self, name: str, content: bytes) -> None:
        if not self._dashboard.has_package(name):
            self._dashboard.put_package(name, content)

    def _file(self, name: str) -> bytes | None:
        state = self._attempts.current()
        if state is None or state.node is None:
            return None
        return self._dashboard.file(state.node, f"{OUTBOXES}/{self._attempts.folder}/{name}")

    def _patiently(self, call: Callable[[], T]) -> T:
        """`call`'s answer, waiting for a network or a head node that is gone for a while."""
        began, pause = time.monotonic(), self._pace.poll_s
        while True:
            try:
                return call()
            except RemoteError as error:
                waited = time.monotonic() - began
                if error.cause not in PASSING:
                    raise
                if waited > self._pace.patience_s:
                    raise RemoteError(
                        error.cause,
                        f"{error}. The job may go on there: `semiseg run attach` joins it once "
                        "the cluster can be reached",
                    ) from error
                self._say(f"waiting for the cluster: {error}", {"waiting": error.cause})
                time.sleep(min(pause, self._pace.longest_pause_s))
                pause *= 2

    def _say(self, message: str, data: Mapping[str, Json] | None = None) -> None:
        self._emit(Event(kind="progress", phase="remote", message=message, data=data or {}))


class Attempts:
    """The submissions of one job, numbered from 1; Ray cannot use an id twice in a row.

    Two computers that submit the same job ask for the same number, so one of them joins.
    """

    def __init__(self, dashboard: Dashboard, job_id: str) -> None:
        self._dashboard, self._job_id, self._number = dashboard, job_id, 1

    @property
    def name(self) -> str:
        """Ray's id of the submission."""
        return f"{self._job_id}-{self._number}"

    @property
    def folder(self) -> str:
        """Where it writes, below the folder of all."""
        return f"{self._job_id}/{self._number}"

    def current(self) -> JobState | None:
        """What the cluster says of this submission."""
        return self._dashboard.job(self.name)

    def newest(self) -> JobState | None:
        """Goes to the newest submission; None where the cluster knows none (any more)."""
        state = self.current()
        if state is None:
            self._number = 1
            state = self.current()
        while state is not None:
            following = self._dashboard.job(f"{self._job_id}-{self._number + 1}")
            if following is None:
                break
            self._number, state = self._number + 1, following
        return state

    def following(self, newest: JobState | None) -> tuple[str, int]:
        """Goes on to a number of its own; its name."""
        self._number += newest is not None
        return self.name, self._number


class _Reader:
    """Reads events on from where it stopped."""

    def __init__(self) -> None:
        self._number, self._offset = 1, 0

    def read(self, file: Callable[[str], bytes | None]) -> list[Event]:
        """The events that came since the last call; where `file` fails, none is taken."""
        number, offset = self._number, self._offset
        events = list[Event]()
        while (content := file(chunk_name(number))) is not None:
            whole = content[: content.rfind(b"\n") + 1]
            events += _events(whole[offset:])
            offset = max(offset, len(whole))
            if file(chunk_name(number + 1)) is None:
                break
            number, offset = number + 1, 0
        self._number, self._offset = number, offset
        return events


def _events(lines: bytes) -> Iterator[Event]:
    for line in lines.splitlines():
        # One that was damaged on the way is left out: only words for the screen are lost.
        with contextlib.suppress(JobError):
            yield parse_line(line.decode("utf-8", "replace"))


_LOST = (
    "the cluster lost the job several times, each time it was started anew; ask its keeper why. "
    "Nothing came into the study"
)
_WITHDRAWN = (
    "the cluster lacks something of this job, and the consent to send scans of this study there "
    "was withdrawn; nothing was sent. Send the same work again, which asks anew, or end the job"
)
_RESULTS_GONE = (
    "the results are not on the cluster any more (it was started anew, or they were older than two "
    "weeks); run the same command again"
)


def ended_badly(state: JobState, log: str) -> RemoteError:
    """Why a job ended that could say nothing itself."""
    if "No module named" in log and "semiseg" in log:
        return RemoteError("no-semiseg", NO_SEMISEG)
    if "No space left on device" in log + state.message:
        return RemoteError(
            "disk-full", "a disk of the cluster is full; free some space there, then try again"
        )
    lines = [line for line in (log or state.message).splitlines() if line.strip()]
    detail = lines[-1][:300] if lines else "nothing"
    return RemoteError("failed", f"the job failed on the cluster; the last it said was: {detail}")


NO_SEMISEG = (
    "SemiSeg is not installed on the cluster, in the Python that Ray was started with; install the "
    "same version there: pip install 'semiseg[ray]'"
)
