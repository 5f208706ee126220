"""What the tables of several benchmarks share."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is not None; None where nothing is left."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def spread(values: Iterable[float | None]) -> float | None:
    """Standard deviation of a sample; None for less than two values."""
    found = [value for value in values if value is not None]
    return statistics.stdev(found) if len(found) > 1 else None


def figure(value: float | None, digits: int = 3) -> str:
    """`value` with so many digits, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
