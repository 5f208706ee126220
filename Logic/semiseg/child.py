"""The child's side of a job: events alone on stdout, and an end when the parent is gone."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from semiseg.errors import CancelledError, ExitCode
from semiseg.events import Emit, Event
from semiseg.processes import CHUNK, descendants, kill, kill_descendants, kill_own_group

MAX_LINE_BYTES = 900_000
_ORDERLY_END_S = 0.5


class LineWriter:
    """An `Emit` that writes whole lines to a file descriptor, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write `event`; CancelledError when nobody reads any more."""
        line = self._line(event)
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError as error:
            raise CancelledError("stopped: nobody reads this job's events any more") from error

    @staticmethod
    def _line(event: Event) -> bytes:
        line = event.to_line().encode() + b"\n"
        if len(line) <= MAX_LINE_BYTES:
            return line
        short = Event(
            kind=event.kind,
            phase=event.phase,
            step=event.step,
            total=event.total,
            message=event.message[:10_000],
            data={"left_out_bytes": len(line)},
            time=event.time,
        )
        return short.to_line().encode() + b"\n"


def child_protocol(*, watch_stdin: bool = True) -> Emit:
    """Keep stdout for events alone, and end with the parent; returns the writer of events.

    File descriptor 1 and `sys.stdout` become stderr, so that no library's print, in Python or C,
    can get between two events. With `watch_stdin` the end of stdin (the parent closed it to
    cancel, or died) ends this process and all below it. Call once, first thing.
    """
    sys.stdout.flush()
    events = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if watch_stdin:
        lifeline = os.dup(0)
        with contextlib.closing(os.fdopen(os.open(os.devnull, os.O_RDONLY))) as nothing:
            # Grandchildren must not hold or read the lifeline.
            os.dup2(nothing.fileno(), 0)
        watch_lifeline(lifeline, end_self)
    return LineWriter(events)


def watch_lifeline(descriptor: int, at_end: Callable[[], None]) -> threading.Thread:
    """Call `at_end` in a thread of its own when `descriptor` reaches its end."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, CHUNK):
                pass
        at_end()

    thread = threading.Thread(target=watch, name="semiseg-lifeline", daemon=True)
    thread.start()
    return thread


def end_self() -> None:
    """End all below this process, then itself: orderly if it can within half a second.

    The main thread gets a KeyboardInterrupt, as at Ctrl-C, to release its lock and say its last
    event. The watchdog needs no interpreter lock: it ends a process that hangs while it exits.
    """
    # The main thread may be out before this one is: whoever is last ends what is below.
    atexit.register(_end_others)
    # Workers that are killed raise in the main thread; the interrupt must reach it before that.
    _interrupt_main()
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
        faulthandler.dump_traceback_later(2 * _ORDERLY_END_S, exit=True)
    kill(descendants(os.getpid()))
    time.sleep(_ORDERLY_END_S)
    _end_others()
    os._exit(ExitCode.CANCELLED)


def _end_others() -> None:
    kill_descendants(os.getpid())
    kill_own_group()


def _interrupt_main() -> None:
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
        return
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None):
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, signal.SIGINT)
