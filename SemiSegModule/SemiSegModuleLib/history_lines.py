"""What the engine tells of rounds and versions, checked and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from slicer.i18n import tr as _

from semiseg.events import Json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One structure that differs; millilitres."""

    name: str
    added_ml: float
    removed_ml: float


@dataclass(frozen=True, kw_only=True)
class RoundLine:
    """One round, as `semiseg history rounds` tells it."""

    number: int
    name: str
    minutes: float
    slices: int
    corrected: int
    added_ml: float
    removed_ml: float
    validation: float | None = None
    dice: float | None = None
    surface_mm: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class VersionLine:
    """One version, as `semiseg history list` tells it; `case` is None for a model."""

    kind: str
    number: int
    created: str
    what: str
    name: str
    pinned: bool
    newest: bool
    bytes: int
    problem: str
    case: str | None = None
    score: float | None = None
    low: float | None = None
    high: float | None = None
    uncertainty: float | None = None
    minutes: float | None = None
    changes: list[dict[str, Json]] | None = None

    @property
    def key(self) -> str:
        """What the engine calls it."""
        return f"{self.kind}:{self.number}"

    @property
    def title(self) -> str:
        """What people call it."""
        words = {
            "label": _("label {number}"),
            "prediction": _("segmentation {number}"),
            "model": _("model {number}"),
        }
        known = words.get(self.kind, self.kind + " {number}").format(number=self.number)
        return _("{known}, {name}").format(known=known, name=self.name) if self.name else known

    def when(self, today: str) -> str:
        """The minute where it was made `today` (as 2026-01-31), else the day; local time."""
        try:
            made = datetime.fromisoformat(self.created).astimezone()
        except ValueError:
            return ""
        return f"{made:%H:%M}" if f"{made:%Y-%m-%d}" == today else f"{made:%Y-%m-%d}"


def lines_of(kind: type[T], found: Json) -> tuple[T, ...]:
    """The lines among `found`; what is none is left out."""
    lines = (_line(kind, one) for one in _listed(found))
    return tuple(line for line in lines if line is not None)


def parts_of(found: Json) -> tuple[Part, ...]:
    """What `semiseg history compare` tells of the structures."""
    return lines_of(Part, found)


def changes_in_words(line: VersionLine, names: Mapping[int, str]) -> str:
    """Voxels gained and lost against the version before, by structure."""
    parts = []
    for one in line.changes or []:
        name = names.get(one.get("id"), "")  # type: ignore[arg-type]
        if name:
            parts.append(f"{name} +{one.get('added')} \u2212{one.get('removed')}")
    return ", ".join(parts)


def _listed(found: Json) -> list[Json]:
    return found if isinstance(found, list) else []


def _line(kind: type[T], one: Json) -> T | None:
    if not isinstance(one, dict):
        return None
    values: dict[str, Any] = {}
    for part in dataclasses.fields(kind):  # type: ignore[arg-type]
        value, wanted = one.get(part.name), str(part.type).split(" | ", maxsplit=1)[0]
        if value is None and part.default is dataclasses.MISSING:
            return None
        if value is not None and not _fits(value, wanted):
            return None
        values[part.name] = value
    return kind(**values)


def _fits(value: Json, wanted: str) -> bool:
    if wanted == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "bool":
        return isinstance(value, bool)
    return isinstance(value, str if wanted == "str" else list)
