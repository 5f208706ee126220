"""Which process wrote a file, and whether it still runs."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from semiseg.errors import JobError

_SAME_START_S = 2.0
_SAME_UPTIME_S = 0.02
_TEMPORARY = re.compile(r"\.tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<uptime>\d+)-[0-9a-f]{8}-")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, told apart from a later one with the same number by when it started.

    `started` is seconds since 1970, which shift when the clock is set; `uptime_s`, the start
    in seconds since the machine's own, does not.
    """

    host: str
    pid: int
    started: float
    uptime_s: float

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        return _owner(os.getpid())

    def alive(self) -> bool | None:
        """Whether it still runs; None when it ran on another computer and nobody can tell."""
        if self.host != socket.gethostname():
            return None
        found = _running(self.pid)
        return found is not None and self._same_start(found)

    def _same_start(self, other: Owner) -> bool:
        return (
            abs(self.started - other.started) <= _SAME_START_S
            or abs(self.uptime_s - other.uptime_s) <= _SAME_UPTIME_S
        )


def temporary_name(name: str) -> str:
    """A file name beside `name` that says which process is writing it."""
    owner = Owner.current()
    return (
        f".tmp-{_host_mark(owner.host)}-{owner.pid}-{_hundredths(owner.uptime_s)}"
        f"-{secrets.token_hex(4)}-{name}"
    )


def temporary_owner_alive(name: str) -> bool | None:
    """Whether the writer of a temporary `name` still runs; None for another computer's.

    A name that `temporary_name` did not make belongs to nobody we know: None.
    """
    match = _TEMPORARY.match(name)
    if match is None or match["host"] != _host_mark(socket.gethostname()):
        return None
    found = _running(int(match["pid"]))
    return found is not None and abs(_hundredths(found.uptime_s) - int(match["uptime"])) <= 2


def is_temporary(name: str) -> bool:
    """Whether `temporary_name` made this name."""
    return _TEMPORARY.match(name) is not None


def _running(pid: int) -> Owner | None:
    """The process `pid` of this computer; None when it ended, even if nobody reaped it yet."""
    psutil = _psutil()
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        return _read_owner(pid)
    except psutil.NoSuchProcess:
        return None


@cache
def _owner(pid: int) -> Owner:
    return _read_owner(pid)


def _psutil() -> ModuleType:
    """Loaded late: the panel must open in a Slicer that does not have the package yet."""
    try:
        import psutil  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise JobError(
            "the package psutil is missing, without which a study cannot be kept safe from other "
            "processes; install what SemiSeg needs first (in Slicer: section Engine)"
        ) from error
    return psutil


def _read_owner(pid: int) -> Owner:
    psutil = _psutil()
    # Both figures must rest on one reading of the boot time: psutil keeps the last one it made.
    boot = psutil.boot_time()
    started = psutil.Process(pid).create_time()
    return Owner(host=socket.gethostname(), pid=pid, started=started, uptime_s=started - boot)


def _host_mark(host: str) -> str:
    return hashlib.sha256(host.encode()).hexdigest()[:8]


def _hundredths(seconds: float) -> int:
    return round(abs(seconds) * 100)
