"""What became of the images that the user adds, told in one message when all are through."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slicer.i18n import tr as _

from semiseg.events import Event


@dataclass
class Additions:
    """Counts the cases that were added; keeps each refusal as a sentence that names its image."""

    added: int = 0
    refused: list[str] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        """Note what a progress event of `semiseg study add` says of one image."""
        error, image = event.data.get("error"), str(event.data.get("image") or "")
        if isinstance(error, str):
            name = Path(image).name
            self.refused.append(error if name in error else f"{name}: {error}")
        elif "case" in event.data:
            self.added += 1

    def explains(self, event: Event) -> bool:
        """Whether the final error `event` only repeats a refusal."""
        return any(event.message in refusal for refusal in self.refused)

    def sentence(self) -> str:
        """How many came in, and each that did not with its reason."""
        parts = []
        if self.added or not self.refused:
            one, many = _("Added 1 scan."), _("Added {count} scans.")
            parts.append(one if self.added == 1 else many.format(count=self.added))
        if self.refused:
            text = _("Not added: {reasons}.")
            parts.append(text.format(reasons=". ".join(r.rstrip(".") for r in self.refused)))
        return " ".join(parts)
