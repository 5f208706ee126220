"""Names that say nothing, for what leaves the computer; and the way back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from semiseg.config import Rule
from semiseg.events import Event, Json

# What stays of a structure is decided by its name (`cleanup`), so a stand-in says as much, no more.
_STAND_IN: dict[Rule, str] = {"large": "", "all": "lesion ", "largest": "left kidney "}
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:lesion |left kidney )?((?:scan|person|structure|kind)\d{4,})(?![0-9])"
)


@dataclass(frozen=True, kw_only=True)
class Names:
    """The real name behind each opaque one; it never leaves the study."""

    real: Mapping[str, str] = field(default_factory=dict)

    def event(self, event: Event) -> Event:
        """A cluster's event in this study's words."""
        data = {key: self.value(item) for key, item in event.data.items()}
        return replace(event, message=self.text(event.message), data=data)

    def text(self, text: str) -> str:
        """`text` with the real names."""
        return _TOKEN.sub(lambda match: self.real.get(match[1], match[0]), text)

    def value(self, value: Json) -> Json:
        """Plain values with the real names, in keys, too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, list) else value


def opaque(kind: str, names: Iterable[str]) -> dict[str, str]:
    """The opaque name of each of `names`, numbered in their order: sorting gives the same there."""
    return {name: f"{kind}{number:04d}" for number, name in enumerate(sorted(set(names)), 1)}


def structure_name(structure_id: int, rule: Rule = "large") -> str:
    """What a structure is called there: its number, and a word that keeps the rule for it."""
    return f"{_STAND_IN[rule]}structure{structure_id:04d}"
