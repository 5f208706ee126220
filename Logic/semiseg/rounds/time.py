"""Minutes of human work, from the times in the journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from semiseg.study.journal import Entry
from semiseg.study.study import Study

LONGEST_PAUSE_MINUTES = 5.0
_BY_HUMAN = ("annotated", "marked")


def minutes_of(study: Study, case_id: str, version: int) -> float:
    """Minutes from the journal's entry before to that of a label version; 0 if it has none.

    A longer pause than `LONGEST_PAUSE_MINUTES` counts as that long.
    """
    for entry, minutes in worked(study.journal.read()):
        if entry.data.get("case") == case_id and entry.data.get("version") == version:
            return minutes
    return 0.0


def minutes_by_version(study: Study) -> dict[tuple[str, int], float]:
    """Minutes of human work behind each label version, by case and version."""
    found = {}
    for entry, minutes in worked(study.journal.read()):
        case_id, version = entry.data.get("case"), entry.data.get("version")
        if isinstance(case_id, str) and isinstance(version, int):
            found[case_id, version] = round(minutes, 3)
    return found


def worked(entries: Sequence[Entry]) -> list[tuple[Entry, float]]:
    """The entries of human work and the minutes before each; 0 for the journal's first."""
    found = []
    for number, entry in enumerate(entries):
        if entry.kind in _BY_HUMAN:
            minutes = _between(entries[number - 1], entry) if number else 0.0
            found.append((entry, min(max(minutes, 0.0), LONGEST_PAUSE_MINUTES)))
    return found


def _between(before: Entry, after: Entry) -> float:
    try:
        gap = datetime.fromisoformat(after.time) - datetime.fromisoformat(before.time)
    except (ValueError, TypeError):  # a clock that was no clock
        return 0.0
    return gap.total_seconds() / 60
