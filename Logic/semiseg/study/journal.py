"""What happened to a study, one JSON line each, in order; lines are only ever added."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from semiseg.events import Json
from semiseg.study.case import Problem
from semiseg.study.lock import hold_lock
from semiseg.study.storage import on_disk

JOURNAL_NAME = "journal.jsonl"
_WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event; `time` is UTC in ISO 8601."""

    time: str
    kind: str
    data: Mapping[str, Json]


class Journal:
    """The journal of the study in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / JOURNAL_NAME

    def append(self, kind: str, **data: Json) -> None:
        """Adds one line that is on the disk when this returns; StorageError when it cannot."""
        line = json.dumps({"time": utc_now(), "kind": kind, "data": data}, allow_nan=False)
        with hold_lock(self._folder, wait_s=_WAIT_S), on_disk("add to", self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                # A line that a killed writer tore must not swallow this one.
                start = b"" if _ends_whole(handle) else b"\n"
                _write_all(handle, start + line.encode("ascii") + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)

    def read(self) -> list[Entry]:
        """All whole lines, oldest first; torn ones are left out (see `problem`)."""
        return [entry for entry in map(_entry, self._lines()) if entry is not None]

    def problem(self) -> Problem | None:
        """Says how many lines are torn; None when all are whole."""
        torn = sum(1 for line in self._lines() if _entry(line) is None)
        if not torn:
            return None
        return Problem(
            path=self.path,
            message=f"{torn} line(s) of the journal are torn, as after a crash or a full disk",
            remedy="nothing needs to be done: the others are read, labels are not kept here",
        )

    def torn_tail(self) -> Problem | None:
        """As `problem`, but looks at the end only, which is quick."""
        with on_disk("read", self.path):
            if not self.path.exists():
                return None
            with self.path.open("rb") as file:
                whole = _ends_whole(file.fileno())
        return None if whole else self.problem()

    def _lines(self) -> list[bytes]:
        with on_disk("read", self.path):
            if not self.path.exists():
                return []
            return [line for line in self.path.read_bytes().split(b"\n") if line.strip()]


def utc_now() -> str:
    """The time to the millisecond, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _entry(line: bytes) -> Entry | None:
    try:
        body = json.loads(line)
        return Entry(time=str(body["time"]), kind=str(body["kind"]), data=dict(body["data"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _ends_whole(handle: int) -> bool:
    size = os.lseek(handle, 0, os.SEEK_END)
    if size == 0:
        return True
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1) == b"\n"


def _write_all(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
