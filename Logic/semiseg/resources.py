"""Cores and main memory that this process may really use: affinity and container limits count."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Main memory that this process may use, in bytes; the smaller of machine and container."""

    total_bytes: int
    free_bytes: int


def usable_threads(cgroup: Path = _CGROUP) -> int:
    """Cores this process may keep busy: physical cores, affinity and the container's quota."""
    import psutil  # noqa: PLC0415  (the panel loads this module before psutil is installed)

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(cores, _affinity(), _quota(cgroup)))


def usable_memory(cgroup: Path = _CGROUP) -> Memory:
    """Total and free main memory under the machine's and the container's limits."""
    import psutil  # noqa: PLC0415  (as in `usable_threads`)

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limit, used = _memory_limit(cgroup)
    if limit < total:
        total, free = limit, min(free, max(0, limit - used))
    return Memory(total_bytes=total, free_bytes=free)


def _affinity() -> int:
    import psutil  # noqa: PLC0415  (as in `usable_threads`)

    try:
        return len(psutil.Process().cpu_affinity() or []) or (os.cpu_count() or 1)
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1


def _quota(cgroup: Path) -> int:
    """Whole cores of the container's quota (version 2, then 1)."""
    words = (_read(cgroup / "cpu.max") or "").split()
    if len(words) != 2:
        words = [
            _read(cgroup / "cpu" / "cpu.cfs_quota_us") or "max",
            _read(cgroup / "cpu" / "cpu.cfs_period_us") or "0",
        ]
    quota, period = _number(words[0]), _number(words[1])
    if quota is None or not period or quota <= 0:
        return _UNLIMITED
    return max(1, math.ceil(quota / period))


def _memory_limit(cgroup: Path) -> tuple[int, int]:
    """(limit, used) bytes of the container; a huge limit when it has none."""
    pairs = (
        (cgroup / "memory.max", cgroup / "memory.current"),
        (
            cgroup / "memory" / "memory.limit_in_bytes",
            cgroup / "memory" / "memory.usage_in_bytes",
        ),
    )
    for limit_file, used_file in pairs:
        limit = _number(_read(limit_file) or "")
        if limit is not None:
            return limit, _number(_read(used_file) or "") or 0
    return _UNLIMITED, 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
