"""Test connection: one step after the other, and the cause where one fails."""

from __future__ import annotations

import json
import platform
import time
import uuid
from dataclasses import dataclass, field

from semiseg import __version__
from semiseg.events import Emit, Event, Json
from semiseg.remote.address import Access
from semiseg.remote.blobs import parcel
from semiseg.remote.causes import RemoteError
from semiseg.remote.client import Dashboard, JobState, Submission
from semiseg.remote.runner import MANIFEST_FILE, PROBE_MARK
from semiseg.remote.session import ended_badly

# Ray's token authentication came with this version.
OLDEST_RAY = (2, 52)
_FREE_BYTES = 5_000_000_000
_PROBE = "python -m semiseg.remote.runner probe"


@dataclass(kw_only=True)
class Findings:
    """What was found of a cluster; `warnings` do not keep work from being sent."""

    address: str
    encrypted: bool
    ray: str = ""
    cpus: float = 0.0
    gpus: float = 0.0
    semiseg: str = ""
    python: str = ""
    gpu_names: tuple[str, ...] = ()
    free_bytes: int = 0
    warnings: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Plain values for the last event."""
        return {
            **{name: value for name, value in vars(self).items() if name != "warnings"},
            "gpu_names": list(self.gpu_names),
            "warnings": dict(self.warnings),
        }


def check_connection(
    access: Access, emit: Emit, *, need_gpu: bool = False, wait_s: float = 120.0
) -> Findings:
    """What the cluster offers; RemoteError with the cause of what stands in the way.

    Sends nothing of any study: a small program there tells versions, GPUs and room on the disk.
    """
    steps = _Steps(access, emit)
    steps.say(1, "looking for a Ray dashboard")
    steps.answering()
    steps.say(2, "asking what it has")
    steps.resources(need_gpu=need_gpu)
    steps.say(3, "starting a small program there")
    steps.probe(wait_s)
    steps.say(4, "the cluster is ready")
    return steps.found


class _Steps:
    """One test of one connection."""

    def __init__(self, access: Access, emit: Emit) -> None:
        self._dashboard, self._emit = Dashboard(access), emit
        address = access.address
        self.found = Findings(address=address.url, encrypted=address.safe)
        if not address.safe:
            self.found.warnings["unencrypted"] = (
                "what is sent there can be read on the way; use https:// or an SSH tunnel"
            )

    def say(self, step: int, message: str) -> None:
        """Report a step."""
        self._emit(Event(kind="progress", phase="test", step=step, total=4, message=message))

    def answering(self) -> None:
        """Name, port, proxy, TLS, token and the version of Ray."""
        found = self._dashboard.version()
        self.found.ray = found
        parts = found.split(".")
        numbers = tuple(int(part) for part in parts[:2] if part.isdecimal())
        if numbers < OLDEST_RAY:
            oldest = ".".join(map(str, OLDEST_RAY))
            raise RemoteError(
                "version",
                f"the cluster has Ray {found}; at least {oldest} is needed (its token protects "
                "the cluster): pip install -U 'ray[default]' on all its computers",
            )

    def resources(self, *, need_gpu: bool) -> None:
        """Processors and GPUs."""
        found = self._dashboard.resources()
        self.found.cpus, self.found.gpus = (
            found.get(name, (0.0, 0.0))[1] for name in ("CPU", "GPU")
        )
        if self.found.gpus < 1:
            sentence = (
                "the cluster has no GPU: learning there is no quicker than on a computer without "
                "one. If it should have some, start Ray there with --num-gpus"
            )
            if need_gpu:
                raise RemoteError("no-gpu", sentence)
            self.found.warnings["no-gpu"] = sentence

    def probe(self, wait_s: float) -> None:
        """SemiSeg, Python and the disk, told by a job."""
        job_id = f"semiseg-probe-{uuid.uuid4().hex[:12]}"
        package = parcel({MANIFEST_FILE: b"{}"})
        if not self._dashboard.has_package(package.name):
            self._dashboard.put_package(package.name, package.content)
        gpus = 1.0 if self.found.gpus >= 1 else 0.0
        self._dashboard.submit(
            Submission(
                id=job_id,
                command=_PROBE,
                packages=(package.name,),
                cpus=1.0,
                gpus=gpus,
            )
        )
        try:
            state = self._ended(job_id, wait_s)
            log = self._dashboard.log(job_id)
        except RemoteError as error:
            if error.cause == "full":
                self._dashboard.stop(job_id)
            raise
        self._dashboard.delete(job_id)
        self._judge(state, log)

    def _ended(self, job_id: str, wait_s: float) -> JobState:
        until = time.monotonic() + wait_s
        while True:
            state = self._dashboard.job(job_id)
            if state is None:
                raise RemoteError("lost", "the cluster was started anew during the test; try again")
            if state.ended:
                return state
            if time.monotonic() > until:
                raise RemoteError(
                    "full",
                    f"the cluster did not start the small program within {wait_s:g} s: all its "
                    "processors or GPUs are in use. Work can be sent and will wait for its turn",
                )
            time.sleep(0.3)

    def _judge(self, state: JobState, log: str) -> None:
        told = [line for line in log.splitlines() if line.startswith(PROBE_MARK)]
        if not told:
            raise ended_badly(state, log)
        values = json.loads(told[-1].removeprefix(PROBE_MARK))
        found = self.found
        found.semiseg, found.python = str(values["semiseg"]), str(values["python"])
        found.gpu_names = tuple(map(str, values["gpus"]))
        found.free_bytes = int(values["free_bytes"])
        self._require_versions()
        self._require_disk(writable=bool(values["writable"]))
        if found.gpus >= 1 and not found.gpu_names:
            found.warnings["no-gpu"] = (
                "Ray says that the cluster has a GPU, but PyTorch there cannot use it; install a "
                "PyTorch with CUDA there"
            )

    def _require_versions(self) -> None:
        found = self.found
        if found.semiseg != __version__:
            raise RemoteError(
                "version",
                f"the cluster has SemiSeg {found.semiseg}, this computer {__version__}; install "
                "the same version on both",
            )
        here = platform.python_version().rsplit(".", 1)[0]
        if found.python.rsplit(".", 1)[0] != here:
            found.warnings["python"] = (
                f"the cluster has Python {found.python}, this computer {here}; that works, but "
                "results need not be the same to the last bit"
            )

    def _require_disk(self, *, writable: bool) -> None:
        free = self.found.free_bytes
        if not writable or free < _FREE_BYTES:
            raise RemoteError(
                "disk-full",
                f"the cluster's disk is too full: {free / 1e9:.1f} GB are free where SemiSeg keeps "
                f"its files, at least {_FREE_BYTES / 1e9:.0f} GB are needed; free some space "
                "there, or let SEMISEG_STORE name another folder",
            )
