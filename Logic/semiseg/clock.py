"""The clocks that a training's minutes can be counted by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

ClockName = Literal["wall", "processor"]
Clock = Callable[[], float]


def clock(name: ClockName) -> Clock:
    """Seconds from some start: "wall" as people count them, "processor" of all threads' work."""
    return time.monotonic if name == "wall" else time.process_time
