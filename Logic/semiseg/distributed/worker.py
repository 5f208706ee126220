"""`python -m semiseg.distributed.worker`: does the tasks that come on stdin, until its end."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any

from semiseg.distributed.frames import receive, send
from semiseg.distributed.tasks import perform
from semiseg.errors import ExitCode, JobError
from semiseg.events import Json
from semiseg.processes import kill_descendants

_GRACE_S = 1.0


def main() -> int:
    """Answer each message; the end of stdin ends this process, also in the middle of a task."""
    # The parent decides: Ctrl-C reaches its whole group, and it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers, orders = _own_pipes()
    inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
    idle = threading.Event()
    threading.Thread(target=_listen, args=(orders, inbox, idle), daemon=True).start()
    send(answers, {"ready": True, "pid": os.getpid()})
    while True:
        idle.set()
        order = inbox.get()
        idle.clear()
        if order is None:
            return ExitCode.OK
        try:
            _answer(answers, *order)
        except OSError:  # nobody reads any more
            return ExitCode.CANCELLED


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Where answers go and orders come from; prints and reads of libraries cannot get between."""
    answers, orders = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return os.fdopen(answers, "wb"), os.fdopen(orders, "rb")


def _listen(orders: IO[bytes], inbox: queue.SimpleQueue[Any], idle: threading.Event) -> None:
    try:
        while (order := receive(orders)) is not None:
            inbox.put(order)
    except JobError as error:
        print(error, file=sys.stderr)  # noqa: T201  (the parent passes it on)
    inbox.put(None)
    if idle.wait(0):
        # Orderly where there is nothing to stop; the main thread is about to return.
        threading.Event().wait(_GRACE_S)
    kill_descendants(os.getpid())
    os._exit(ExitCode.CANCELLED)


def _answer(answers: IO[bytes], head: dict[str, Any], content: bytes) -> None:
    files = {name: Path(path) for name, path in head["files"].items()}
    reply = perform(head["function"], content, head["sha256"], files)
    said: dict[str, Json] = {"failure": reply.failure, "sha256": reply.sha256}
    said["seconds"] = reply.seconds
    send(answers, said, reply.content)


if __name__ == "__main__":
    raise SystemExit(main())
