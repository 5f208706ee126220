"""What the Annotate section shows and allows at this moment; no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from semiseg.study.ledger import FINISHED
from SemiSegModuleLib.sections.slice_content import SliceContent, content_of, grid_of_case
from SemiSegModuleLib.sections.slice_words import (
    content_in_words,
    plane_in_words,
    slice_in_words,
    state_in_words,
)
from SemiSegModuleLib.sections.strip_layout import StripContent, ends

ACTIONS = (
    "done",
    "empty",
    "not_done",
    "previous",
    "next",
    "next_slice",
    "take_over",
    "take_over_case",
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """`why_not`: by action, why it cannot be done, or ""; `ready`: a case can be drawn in."""

    strip: StripContent
    words: str
    why_not: dict[str, str]
    ready: bool
    has_suggestion: bool
    suggestion_source: str


class AnnotateState:
    """Reads the session; a hidden suggestion (`suggestion_visible`) counts for nothing."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.suggestion_visible = True

    def nodes(self) -> Any:
        """The current case's nodes; None without a case."""
        session = self._session
        if session.study is None or session.current is None:
            return None
        return session.nodes(session.current)

    def step_left(self) -> int:
        """By how much the slice's number changes one cell to the left on the strip."""
        return 1 if self._mirrored() else -1

    def read(self) -> Shown:
        """All that is shown."""
        session, nodes = self._session, self.nodes()
        reason = self._not_ready(nodes)
        index = None if self._no_case(nodes) else session.slice_index()
        strip = StripContent() if self._no_case(nodes) else self._strip(index)
        content = content_of(session, index)
        if not self.suggestion_visible:
            content = SliceContent(drawn=content.drawn)
        has_suggestion = nodes is not None and nodes.suggestion is not None
        return Shown(
            strip=strip,
            words=reason or self._words(strip, content),
            why_not=self._why_not(reason, strip, content, has_suggestion=has_suggestion),
            ready=not reason,
            has_suggestion=has_suggestion,
            suggestion_source=self._suggestion_source(),
        )

    def _no_case(self, nodes: Any) -> bool:
        return nodes is None or nodes.drawn is None

    def _not_ready(self, nodes: Any) -> str:
        session = self._session
        if session.study is None:
            return _("Make or open a study first.")
        if session.current is None:
            return _("Choose a case in the table to draw in it.")
        if nodes.drawn is None:
            return _("{case} is not loaded. Click it in the table to load it.").format(
                case=session.current
            )
        if not session.protocol().structures:
            return _("The study has no structure yet. Add one here with Add, or under Structures.")
        return ""

    def _strip(self, index: int | None) -> StripContent:
        session = self._session
        low, high, mirrored = ends(grid_of_case(session), session.plane)
        return StripContent(
            states=tuple(session.ledger_states()),
            current=index,
            pending=self._pending(),
            proposed=session.proposed(),
            low=low,
            high=high,
            mirrored=mirrored,
        )

    def _mirrored(self) -> bool:
        session = self._session
        return session.current is not None and ends(grid_of_case(session), session.plane)[2]

    def _pending(self) -> frozenset[int]:
        """Slices whose mark is not on the disk yet."""
        opened = self._session.opened()
        if opened is None or opened.dirty_since is None:
            return frozenset()
        safe = max(opened.marks_sent.values(), default=0)
        waiting = [mark for mark in opened.marks[safe:] if mark.plane == self._session.plane]
        return frozenset(index for mark in waiting for index in mark.indices)

    def _suggestion_source(self) -> str:
        opened = self._session.opened()
        source = "" if opened is None else opened.suggestion_text
        return _("It comes from: {source}").format(source=source) if source else ""

    def _words(self, strip: StripContent, content: SliceContent) -> str:
        plane = self._session.plane
        if strip.current is None:
            return _no_slice(plane)
        state = state_in_words(strip.states[strip.current], pending=strip.current in strip.pending)
        known = slice_in_words(strip.current, len(strip.states), plane, state)
        return f"{known} {content_in_words(content.drawn, content.suggested)}".strip()

    def _why_not(
        self, reason: str, strip: StripContent, content: SliceContent, *, has_suggestion: bool
    ) -> dict[str, str]:
        if reason:
            return dict.fromkeys(ACTIONS, reason) | {"next_slice": self._why_not_next_slice()}
        found = dict.fromkeys(ACTIONS, "")
        found["previous"], found["next"] = self._why_not_go(strip)
        if not has_suggestion:
            found["take_over_case"] = _("Nothing is suggested for this case.")
        found |= self._why_not_here(strip, content)
        if has_suggestion and not self.suggestion_visible:
            hidden = _("The suggestion is hidden; show it first.")
            found["take_over"] = found["take_over_case"] = hidden
        return found

    def _why_not_next_slice(self) -> str:
        """A case need not be shown: the slice may be in any."""
        session = self._session
        if session.study is None:
            return _("Make or open a study first.")
        if not session.protocol().structures:
            return _("The study has no structure yet.")
        return ""

    def _why_not_here(self, strip: StripContent, content: SliceContent) -> dict[str, str]:
        """Reasons that lie in the shown slice."""
        if strip.current is None:
            here = ("done", "empty", "not_done", "take_over")
            return dict.fromkeys(here, _no_slice(self._session.plane))
        state, found = strip.states[strip.current], {}
        if not content.drawn and not content.suggested:
            found["done"] = _(
                "Nothing is drawn in this slice. If none of the structures is there, mark it as "
                "empty."
            )
        if content.drawn:
            found["empty"] = _(
                "Structures are drawn in this slice. Erase them here, or mark it as done."
            )
        if state not in FINISHED:
            found["not_done"] = _("This slice is not marked.")
        if not content.any_suggested:
            found["take_over"] = _("Nothing is suggested in this slice.")
        return found

    def _why_not_go(self, strip: StripContent) -> tuple[str, str]:
        """Why one cannot go to a done slice on the left, on the right."""
        done = [i for i, state in enumerate(strip.states) if state in FINISHED]
        if not done:
            nothing = _("No slice of this axis is done yet.")
            return nothing, nothing
        if strip.current is None:
            return "", ""
        below = min(done) < strip.current
        above = max(done) > strip.current
        left, right = (above, below) if strip.mirrored else (below, above)
        no_further = _("There is no further done slice on this side.")
        return "" if left else no_further, "" if right else no_further


def _no_slice(plane: Any) -> str:
    return _(
        "No view shows a slice of this case along the {plane} axis. Scroll to one, or click the "
        "strip."
    ).format(plane=plane_in_words(plane))
