"""Which slice to draw next: asked of the engine, and gone to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slicer.i18n import tr as _

from semiseg.errors import StudyError
from semiseg.events import Event, Json
from semiseg.images.grid import PLANES, Plane
from semiseg.study.ledger import FINISHED
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_study import StudyPart
from SemiSegModuleLib.tasks import Task

_ASKED = 5
_PLANE_WORDS: Mapping[Plane, Callable[[], str]] = {
    "axial": lambda: _("axial"),
    "coronal": lambda: _("coronal"),
    "sagittal": lambda: _("sagittal"),
}


class SuggestPart(StudyPart):
    """The part of `Session` about slices that are worth drawing.

    `choose_structure` is told which structure gains most (the panel sets it).
    """

    choose_structure: Callable[[int], None] = staticmethod(  # type: ignore[assignment]
        lambda _structure: None
    )
    _proposed: tuple[str, frozenset[tuple[str, str, int]]] = ("", frozenset())

    @told
    def next_slice(self) -> None:
        """Ask the engine where drawing pays most, after what was drawn is merged; then go there."""
        study, tasks = self.require_study(), self.tasks
        if not self.protocol().structures:
            raise StudyError(_("Add a structure first; then slices can be suggested."))
        if tasks is None or tasks.pending("suggest"):
            return
        self.apply_drafts()
        at = ("--at", self.current) if self.current in study.cases else ()
        plane = () if self.follow_views else ("--plane", self.plane)
        arguments = self.command("suggest", "STUDY", "--n", str(_ASKED), *at, *plane)
        self.serve(Task(kind="suggest", arguments=arguments, on_end=self._suggest_ended))
        self.say(_("Looking for the slice where drawing pays most ..."))

    def proposed(self) -> frozenset[int]:
        """The slices of the current case and plane that were suggested and are not done yet."""
        if self.study is None or self._proposed[0] != self.study.id:
            return frozenset()
        found = {i for c, p, i in self._proposed[1] if (c, p) == (self.current, self.plane)}
        states = self.ledger_states() if found else []
        return frozenset(i for i in found if i < len(states) and states[i] not in FINISHED)

    def _suggest_ended(self, task: Task, event: Event) -> None:
        if event.kind == "error":
            self.report_failure(task, event)
            return
        found = event.data.get("suggestions")
        ready = [_place(one) for one in found] if isinstance(found, list) else []
        places = [one for one in ready if one is not None]
        self._proposed = self.require_study().id, frozenset(one[:3] for one in places)
        self.changed("ledger")
        if not places:
            self.say(_("Every slice that may be drawn is done."))
            return
        self._go_to(*places[0])

    def _go_to(
        self, case_id: str, plane: Plane, index: int, structure: int | None, why: str
    ) -> None:
        if case_id not in self.require_study().cases:
            return  # removed meanwhile
        self.select(case_id)
        if self.current != case_id or self.opened() is None:
            return  # and why was said
        self.plane = plane
        self.jump_to(index)
        if structure is not None:
            self.choose_structure(structure)
        text = _("Draw {case}, {plane} slice {index}: {why}.")
        words = _PLANE_WORDS[plane]()
        self.say(text.format(case=case_id, plane=words, index=index, why=why))


def _place(one: Json) -> tuple[str, Plane, int, int | None, str] | None:
    """Case, plane, slice, structure and reason of a suggestion; None for what is none."""
    if not isinstance(one, dict):
        return None
    index, structure = one.get("index"), one.get("structure")
    for plane in PLANES:
        if one.get("plane") == plane and isinstance(index, int):
            known = structure if isinstance(structure, int) else None
            return str(one.get("case")), plane, index, known, str(one.get("reason", ""))
    return None
