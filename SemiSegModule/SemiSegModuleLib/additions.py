"""What became of the images that the user adds, told in one message when all are through."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from semiseg.events import Event, Json

_MOST = 6


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Volumes of a source of which the user has to say which become cases.

    `request` is what was asked for, to be asked again; `gaps`: slices are missing in it, which
    may be filled from their neighbours.
    """

    request: Any
    number: int
    name: str
    slices: int
    gaps: bool


@dataclass
class Additions:
    """Counts the cases that were added; keeps each refusal as a sentence that names its image."""

    added: int = 0
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    _asked: set[str] = field(default_factory=set)
    _known: list[str] = field(default_factory=list)

    def hear(self, event: Event, request: Any = None) -> None:
        """Note what a progress event of `semiseg study add` says of one image.

        `request` is what the images were asked for with; None: each image by itself.
        """
        error, image = event.data.get("error"), str(event.data.get("image") or "")
        if "choices" in event.data:
            self._choose(event, request or Path(image), image)
        elif isinstance(error, str):
            self._refuse(error, image, getattr(request, "name", "") or Path(image).name)
        elif "case" in event.data:
            self.added += 1
            case = event.data["case"]
            self.notes += [f"{case}: {note}" for note in _texts(event.data.get("notes"))]

    def explains(self, event: Event) -> bool:
        """Whether the final error `event` only repeats a refusal, or a question."""
        return any(event.message in known for known in (*self.refused, *self._known))

    def sentence(self) -> str:
        """How many came in, and each that did not with its reason."""
        parts = []
        if self.added or not (self.refused or self.waiting):
            one, many = _("Added 1 scan."), _("Added {count} scans.")
            parts.append(one if self.added == 1 else many.format(count=self.added))
        if self.waiting:
            parts.append(_("Say which volumes to add."))
        if self.refused:
            parts.append(_("Not added: {reasons}.").format(reasons=_joined(self.refused)))
        if self.notes:
            parts.append(_joined(self.notes) + ".")
        return " ".join(parts)

    def _refuse(self, error: str, image: str, name: str) -> None:
        if image in self._asked:
            self._known.append(error)
            return
        self.refused.append(error if name in error else f"{name}: {error}")

    def _choose(self, event: Event, request: Any, image: str) -> None:
        before = len(self.waiting)
        for key, gaps in (("choices", False), ("gaps", True)):
            found = event.data.get(key)
            for row in found if isinstance(found, list) else ():
                if isinstance(row, dict):
                    self.waiting.append(_waiting(row, request, gaps=gaps))
        if len(self.waiting) > before:
            self._asked.add(image)
        left = _texts(event.data.get("left_out"))
        asked = {f"series {one.name} " for one in self.waiting[before:] if one.gaps}
        left = [text for text in left if not any(text.startswith(name) for name in asked)]
        self.notes += [_("left out: {what}").format(what=text) for text in left]


def _waiting(row: dict[str, Json], request: Any, *, gaps: bool) -> Waiting:
    def number(name: str) -> int:
        value = row.get(name)
        return value if isinstance(value, int) else 0

    return Waiting(
        request=request,
        number=number("number"),
        name=str(row.get("name") or ""),
        slices=number("slices"),
        gaps=gaps,
    )


def _texts(value: Json) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


def _joined(texts: list[str]) -> str:
    unique = list(dict.fromkeys(text.rstrip(".") for text in texts))
    more = len(unique) - _MOST
    rest = [_("and {count} more").format(count=more)] if more > 0 else []
    return ". ".join([*unique[:_MOST], *rest])
