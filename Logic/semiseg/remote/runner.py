"""What a Ray job of ours runs there: `python -m semiseg.remote.runner probe` or `… run ATTEMPT`.

The working folder holds the job's description; pieces that were uploaded lie beside, where Ray
put them on the path. What is missing is said, so that it can be sent; the job is then submitted
again. The work itself is the same command as on one computer, on a study made for the job.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from semiseg import __version__
from semiseg.errors import ExitCode, SemiSegError, StorageError
from semiseg.events import Emit, Event, Json
from semiseg.jobs import Job
from semiseg.remote.blobs import FOLDER, Store, sweep
from semiseg.remote.manifest import Manifest, Piece
from semiseg.remote.outbox import OUTBOXES, Outbox, session_logs, sweep_outboxes
from semiseg.remote.rebuild import collect, rebuild
from semiseg.study.storage import make_folder, write_bytes_atomic

MANIFEST_FILE, RESULTS_FILE = "job.json", "results.json"
STORE_VARIABLE = "SEMISEG_STORE"
PROBE_MARK = "SEMISEG-PROBE "
# Room for the study, its results and what learning keeps beside.
_DISK_FACTOR, _DISK_LEAST = 6, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job runs: its working folder, where packages were put, and where files are kept.

    `work` runs the command of a job on the study in a folder and returns its last event.
    """

    working: Path
    packages: Sequence[Path]
    base: Path
    work: Callable[[Manifest, Path, Emit], Event]


def main(arguments: Sequence[str]) -> int:
    """Run a job, or say what this computer offers; the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    base = store_folder()
    if list(arguments) == ["probe"]:
        print(PROBE_MARK + json.dumps(probe(base)), flush=True)  # noqa: T201 - Ray's log is read
        return int(ExitCode.OK)
    # The work's own processes must not fetch the job's packages again.
    os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
    packages = [Path(entry) for entry in sys.path if (Path(entry) / FOLDER).is_dir()]
    place = Place(working=Path.cwd(), packages=packages, base=base, work=run_command)
    return run_job(place, arguments[1])


def run_job(place: Place, attempt: str) -> int:
    """Runs the job in `place`, saying all in its outbox; the exit code."""
    manifest = Manifest.from_bytes((place.working / MANIFEST_FILE).read_bytes())
    logs = session_logs(place.working)
    sweep_outboxes(logs)
    outbox = Outbox(logs / OUTBOXES / manifest.job_id / attempt)
    try:
        last = _Runner(manifest, outbox, place).run()
    except SemiSegError as error:
        last = _failure(str(error), type(error).__name__)
    except OSError as error:
        last = _failure(f"the cluster's disk failed: {error}", "StorageError")
    except KeyboardInterrupt:
        last = _failure("stopped on the cluster", "CancelledError")
    outbox(last)
    outbox.close()
    return int(ExitCode.OK if last.kind == "result" else ExitCode.JOB)


def run_command(manifest: Manifest, study: Path, emit: Emit) -> Event:
    """Runs the job's command in a child, passing on what it says; its last event."""
    asked = [case.id for case in manifest.cases if case.asked]
    command = [manifest.kind, str(study), *asked, *manifest.arguments]
    if "--workers" in manifest.arguments:  # Ray tells its jobs where they run
        command += ["--ray", os.environ.get("RAY_ADDRESS", "auto")]
    job = Job.start(command, folder=study.parent / f"record-{os.getpid()}")
    ended: list[Event] = []

    def pass_on(event: Event) -> None:
        (emit if event.kind == "progress" else ended.append)(event)

    try:
        job.wait(emit=pass_on)
    except KeyboardInterrupt:
        job.cancel(grace_s=1.0)
        job.wait()
        raise
    return ended[-1]


def store_folder() -> Path:
    """Where pieces are kept: SEMISEG_STORE, which all computers of a cluster may share."""
    told = os.environ.get(STORE_VARIABLE)
    return Path(told) if told else Path.home() / ".cache" / "semiseg"


def probe(base: Path) -> dict[str, Json]:
    """Versions, GPUs and the room on the disk, here."""
    import torch  # noqa: PLC0415 - slow

    make_folder(base)
    trial = base / f".trial-{os.getpid()}"
    try:
        write_bytes_atomic(trial, b"0" * 4096)
        writable = True
    except StorageError:
        writable = False
    trial.unlink(missing_ok=True)
    return {
        "semiseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "free_bytes": shutil.disk_usage(base).free,
        "writable": writable,
    }


class _Runner:
    """One run of one job."""

    def __init__(self, manifest: Manifest, outbox: Outbox, place: Place) -> None:
        self._manifest, self._outbox, self._place = manifest, outbox, place
        self._store = Store(place.base / "pieces")
        self._work = place.base / "work" / manifest.job_id

    def run(self) -> Event:
        """The job's last event."""
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        self._say("unpacking the scans")
        study = rebuild(self._manifest, self._store, self._work / "study")
        last = self._place.work(self._manifest, study.folder, self._outbox)
        results = collect(self._manifest, study, self._outbox.folder)
        content = results.to_bytes()
        write_bytes_atomic(self._outbox.folder / RESULTS_FILE, content)
        if last.kind == "result":
            shutil.rmtree(self._work, ignore_errors=True)
        told: dict[str, Json] = dict(asdict(Piece.of(content)))
        return replace(last, data={**last.data, "results": told})

    def _refusal(self) -> Event | None:
        """Why the job cannot run here yet."""
        if self._manifest.semiseg != __version__:
            return _failure(
                f"the cluster has SemiSeg {__version__}, this computer {self._manifest.semiseg}; "
                "install the same version on both",
                "version",
            )
        sweep(self._work.parent.glob("*"), 14.0)
        self._store.sweep()
        pieces = list(self._manifest.pieces.values())
        need = _DISK_LEAST + _DISK_FACTOR * sum(piece.size_bytes for piece in pieces)
        make_folder(self._work.parent)
        free = shutil.disk_usage(self._work.parent).free
        if free < need:
            return _failure(
                f"the cluster's disk is too full: {free / 1e9:.1f} GB are free in "
                f"{self._work.parent}, the job needs {need / 1e9:.1f} GB; free some space there, "
                f"or let {STORE_VARIABLE} name another folder",
                "disk-full",
            )
        damaged = self._store.take(self._store.missing(pieces), self._place.packages)
        absent = self._store.missing(pieces)
        if not absent:
            return None
        data: dict[str, Json] = {
            "missing": [piece.sha256 for piece in absent],
            "damaged": [piece.sha256 for piece in damaged],
        }
        return _failure(f"{len(absent)} of {len(pieces)} files are not here yet", "missing", data)

    def _say(self, message: str) -> None:
        self._outbox(Event(kind="progress", phase="remote", message=message))


def _failure(sentence: str, kind: str, data: dict[str, Json] | None = None) -> Event:
    told: dict[str, Json] = {"error": kind, **(data or {})}
    return Event(kind="error", phase="end", message=sentence, data=told)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
