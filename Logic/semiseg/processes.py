"""Process trees and pipes: what the parent's and the child's side of a job share."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

CHUNK = 1 << 16
_ROUNDS = 5


def descendants(pid: int) -> list[psutil.Process]:
    """All living processes below `pid`, the nearest first."""
    import psutil  # noqa: PLC0415  (the panel loads this module before psutil is installed)

    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    """Whether `process` still runs; one that only waits for its parent's notice does not."""
    import psutil  # noqa: PLC0415  (as in `descendants`)

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(processes: Iterable[psutil.Process]) -> None:
    """End `processes` at once; those already gone, or another user's, are passed over."""
    import psutil  # noqa: PLC0415  (as in `descendants`)

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()


def kill_group(group: int) -> None:
    """End every process of a POSIX process group: also those whose parent died before them."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_descendants(pid: int) -> None:
    """End all below `pid`; repeated because a process may fork while it is looked at."""
    for _ in range(_ROUNDS):
        below = descendants(pid)
        if not below:
            return
        kill(below)
        time.sleep(0.01)


def kill_own_group() -> None:
    """End the others of this process's POSIX group, when it is a job's own group.

    Finds grandchildren whose parent died before them, which descent from here does not.
    """
    if sys.platform == "win32" or os.getpgrp() != os.getpid():
        return
    import psutil  # noqa: PLC0415  (as in `descendants`)

    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid != os.getpid() and os.getpgid(pid) == os.getpgrp():
                os.kill(pid, signal.SIGKILL)


class PipeReader:
    """Reads a pipe without ever waiting for its writer.

    Only Python 3.11 on Windows needs a thread for that; there `os.set_blocking` refuses pipes.
    A host whose event loop starves Python threads (Slicer) then reads late, but loses nothing.
    """

    def __init__(self, pipe: IO[bytes], *, use_thread: bool | None = None) -> None:
        self._pipe = pipe
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._room = threading.Semaphore(64)
        if use_thread is None:
            use_thread = sys.platform == "win32" and sys.version_info < (3, 12)
        self._thread = threading.Thread(target=self._pump, daemon=True) if use_thread else None
        if self._thread is None:
            os.set_blocking(pipe.fileno(), False)
        else:
            self._thread.start()

    def read(self) -> bytes | None:
        """The bytes that are there, at most `CHUNK`; empty when there are none, None at the end."""
        if self._thread is not None:
            return self._take()
        if self._pipe.closed:
            return None
        try:
            return os.read(self._pipe.fileno(), CHUNK) or None
        except BlockingIOError:
            return b""
        except OSError:
            # A pipe broken from the other side reads as an error on Windows.
            return None

    def close(self) -> None:
        """Close our end; a writer that is left then gets an error instead of blocking."""
        if self._thread is None or not self._thread.is_alive():
            self._pipe.close()

    def _take(self) -> bytes | None:
        if self._chunks:
            self._room.release()
            return self._chunks.popleft()
        return None if self._ended else b""

    def _pump(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(self._pipe.fileno(), CHUNK):
                self._room.acquire()
                self._chunks.append(chunk)
        self._ended = True


class LineSplitter:
    """Cuts a byte stream into lines; of a line longer than `limit` only the length is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._overlong = False
        self.dropped_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their line ends."""
        *complete, rest = data.split(b"\n")
        lines = []
        for piece in complete:
            line, self._rest = self._rest + piece, b""
            if self._overlong or len(line) > self._limit:
                self.dropped_bytes += len(line) + 1
                self._overlong = False
            else:
                lines.append(line)
        self._rest += rest
        if len(self._rest) > self._limit:
            self.dropped_bytes += len(self._rest)
            self._rest, self._overlong = b"", True
        return lines

    def flush(self) -> list[bytes]:
        """The unfinished last line, if there is one."""
        rest, self._rest = self._rest, b""
        if self._overlong:
            self.dropped_bytes += len(rest)
            return []
        return [rest] if rest else []


class BoundedText:
    """The first and the last bytes of a text of any length, and how many there were."""

    def __init__(self, *, head: int, tail: int) -> None:
        self._head_limit, self._tail_limit = head, tail
        self._head = b""
        self._tail = b""
        self.total_bytes = 0

    def add(self, data: bytes) -> None:
        """Append `data`."""
        self.total_bytes += len(data)
        room = self._head_limit - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-self._tail_limit :]

    @property
    def tail(self) -> str:
        """The end of the text; wrong UTF-8 shown as U+FFFD."""
        kept = (self._head + self._tail)[-self._tail_limit :]
        return kept.decode("utf-8", errors="replace")

    @property
    def text(self) -> str:
        """All that is kept, with a line in the middle saying how much is not."""
        head = self._head.decode("utf-8", errors="replace")
        tail = self._tail.decode("utf-8", errors="replace")
        left_out = self.total_bytes - len(self._head) - len(self._tail)
        gap = f"\n[... {left_out} bytes left out ...]\n" if left_out > 0 else ""
        return head + gap + tail
