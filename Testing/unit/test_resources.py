"""Cores and memory under a container's limits."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from semiseg import resources
from semiseg.resources import usable_memory, usable_threads


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16)
    monkeypatch.setattr(resources, "_affinity", lambda: 12)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 12),
        ({"cpu_DOT_max": "max 100000"}, 12),
        ({"cpu_DOT_max": "150000 100000"}, 2),
        ({"cpu_DOT_max": "1000 100000"}, 1),
        ({"cpu__cpu.cfs_quota_us": "400000", "cpu__cpu.cfs_period_us": "100000"}, 4),
        ({"cpu__cpu.cfs_quota_us": "-1", "cpu__cpu.cfs_period_us": "100000"}, 12),
        ({"cpu_DOT_max": "broken"}, 12),
    ],
)
def test_threads_are_the_least_of_cores_affinity_and_quota(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert usable_threads(write(tmp_path, **files)) == expected


def test_memory_is_that_of_the_container_where_it_is_smaller(tmp_path: Path) -> None:
    limits = {"memory_DOT_max": str(10**8), "memory_DOT_current": str(4 * 10**7)}
    found = usable_memory(write(tmp_path, **limits))
    assert (found.total_bytes, found.free_bytes) == (10**8, 6 * 10**7)


def test_memory_of_an_older_container_is_read_too(tmp_path: Path) -> None:
    limits = {
        "memory__memory.limit_in_bytes": str(10**8),
        "memory__memory.usage_in_bytes": str(2 * 10**8),
    }
    found = usable_memory(write(tmp_path, **limits))
    assert (found.total_bytes, found.free_bytes) == (10**8, 0)


@pytest.mark.parametrize("limit", ["max", str(2**62), ""])
def test_memory_without_a_limit_is_the_machines(tmp_path: Path, limit: str) -> None:
    found = usable_memory(write(tmp_path, memory_DOT_max=limit))
    assert found.total_bytes == psutil.virtual_memory().total


def test_affinity_counts_and_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert resources._affinity() >= 1

    class Old:
        pass

    monkeypatch.setattr(psutil, "Process", Old)
    assert resources._affinity() >= 1
