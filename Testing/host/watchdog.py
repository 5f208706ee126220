"""How long the GUI thread keeps its event loop waiting, and in which code."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_BEAT_MS = 5


@dataclass(frozen=True)
class Gap:
    """The event loop waited `seconds`; `cpu_seconds` of them the GUI thread itself computed.

    The rest it was waiting, for a file or for a processor that others used. `stack` is where it
    was last seen (empty when Python could not look), `reason` why that is allowed (or empty).
    """

    seconds: float
    cpu_seconds: float
    stack: tuple[str, ...]
    reason: str = ""

    def __str__(self) -> str:
        times = f"{self.seconds * 1000:.0f} ms ({self.cpu_seconds * 1000:.0f} ms computing)"
        where = " < ".join(reversed(self.stack[-4:])) or "nothing seen"
        return f"{times}{' allowed: ' + self.reason if self.reason else ''}: {where}"


class Watchdog:
    """Context manager: measures gaps of at least `threshold_s` of the thread that enters it.

    A timer in the event loop beats; a second thread looks at the first one's stack while no beat
    comes. Code of a test that runs between two turns of the loop counts, too: wrap it in
    `allowed("the test itself")`.
    """

    def __init__(self, threshold_s: float = 0.05) -> None:
        self.threshold_s = threshold_s
        self.gaps: list[Gap] = []
        self._thread_id = threading.get_ident()
        self._stack: tuple[str, ...] = ()
        self._reason = ""
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._timer: Any = None

    def __enter__(self) -> Watchdog:
        import qt

        self._start()
        self._timer = qt.QTimer()
        self._timer.interval = _BEAT_MS
        self._timer.connect("timeout()", self._beat)
        self._timer.start()
        self._sampler.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._timer.stop()
        self._beat()
        self._ended.set()
        self._sampler.join()

    @contextmanager
    def allowed(self, reason: str) -> Iterator[None]:
        """What happens inside, turns of the loop too, may take its time; told with its reason."""
        self._beat()
        self._reason = reason
        try:
            yield
        finally:
            self._beat()
            self._reason = ""

    def longest(self) -> Gap | None:
        """The longest gap that no exception allows."""
        return max((g for g in self.gaps if not g.reason), key=lambda g: g.seconds, default=None)

    def report(self, count: int = 5) -> str:
        """The longest gaps, one per line, those that are not allowed first."""
        gaps = sorted(self.gaps, key=lambda g: (bool(g.reason), -g.seconds))
        forbidden = [g for g in gaps if not g.reason][:count]
        return "\n".join(map(str, forbidden + [g for g in gaps if g.reason][:count]))

    def _start(self) -> None:
        self._last, self._last_cpu = time.perf_counter(), time.thread_time()
        self._stack = ()

    def _beat(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        if now - self._last >= self.threshold_s:
            gap = Gap(now - self._last, cpu - self._last_cpu, self._stack, self._reason)
            self.gaps.append(gap)
        self._start()

    def _sample(self) -> None:
        while not self._ended.wait(_BEAT_MS / 1000):
            if time.perf_counter() - self._last < self.threshold_s / 2:
                continue
            self._stack = _stack_of(self._thread_id)


def _stack_of(thread_id: int) -> tuple[str, ...]:
    """Where a thread is, outermost first.

    No file is read meanwhile and no frame is kept: a frame that outlives its function would have
    its Qt objects destroyed in this thread.
    """
    frame = sys._current_frames().get(thread_id)
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(f"{_short(path)}:{line} {name}" for path, line, name in reversed(found))


def _short(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])
