"""On the cluster: the folder below Ray's logs from which the other side reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from semiseg.errors import JobError
from semiseg.events import Event
from semiseg.remote.blobs import sweep
from semiseg.study.storage import make_folder

OUTBOXES = "semiseg"
_CHUNK_BYTES = 64_000
_KEPT_DAYS = 14.0


def chunk_name(number: int) -> str:
    """The name of the file with the events number `number`, counted from 1."""
    return f"events-{number:06d}.jsonl"


class Outbox:
    """Events in files of at most about 64 kB, so that the reader never reads one twice for long.

    Once the next file exists, one is finished.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        self.folder = folder
        self._number, self._size = 1, 0
        self._file = (folder / chunk_name(1)).open("ab")

    def __call__(self, event: Event) -> None:
        """Write an event."""
        line = event.to_line().encode() + b"\n"
        if self._size and self._size + len(line) > _CHUNK_BYTES:
            self._file.close()
            self._number, self._size = self._number + 1, 0
            self._file = (self.folder / chunk_name(self._number)).open("ab")
        self._file.write(line)
        self._file.flush()
        self._size += len(line)

    def close(self) -> None:
        """No more events."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def session_logs(working: Path) -> Path:
    """Ray's folder of logs, seen from a job's working folder, which Ray unpacks below it."""
    for parent in working.resolve().parents:
        if parent.name.startswith("session_") and (parent / "logs").is_dir():
            return parent / "logs"
    raise JobError(
        f"{working} is no working folder of a Ray job; this program is started by Ray alone"
    )


def sweep_outboxes(logs: Path) -> None:
    """Removes what nobody fetched for two weeks."""
    sweep((logs / OUTBOXES).glob("*"), _KEPT_DAYS)
