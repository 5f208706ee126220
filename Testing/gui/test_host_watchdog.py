"""The event-loop watchdog finds what blocks, and forgives what is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from host.watchdog import Watchdog


def block() -> None:
    time.sleep(0.15)


def test_a_blocking_call_is_found_with_its_place(
    application: Any, spin: Callable[..., bool]
) -> None:
    import qt

    with Watchdog() as dog:
        spin(seconds=0.05)
        qt.QTimer.singleShot(0, block)
        spin(seconds=0.3)
    gap = dog.longest()
    assert gap is not None
    assert gap.seconds >= 0.14
    assert gap.cpu_seconds < 0.1
    assert any("block" in line for line in gap.stack)


def test_a_named_exception_is_reported_apart(application: Any, spin: Callable[..., bool]) -> None:
    with Watchdog(threshold_s=0.1) as dog:
        with dog.allowed("loading a volume"):
            block()
        spin(seconds=0.05)
    assert [gap.reason for gap in dog.gaps if gap.seconds > 0.14] == ["loading a volume"]
    assert "loading a volume" in dog.report()


def test_an_idle_loop_has_no_gap(application: Any, spin: Callable[..., bool]) -> None:
    with Watchdog(threshold_s=0.5) as dog:
        spin(seconds=0.2)
    assert dog.longest() is None
