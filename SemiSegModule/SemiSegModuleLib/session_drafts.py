"""Human strokes on their way to the disk: drafts at once, label versions soon after."""

from __future__ import annotations

import contextlib
import getpass
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError
from semiseg.events import Event
from semiseg.images.grid import Grid
from SemiSegModuleLib.kept_map import KeptMap
from SemiSegModuleLib.mrml import segments
from SemiSegModuleLib.session_core import OpenCase, SessionCore, told
from SemiSegModuleLib.tasks import Task

_QUIET_S = 0.7
_LONGEST_S = 5.0
_APPLY_AFTER_S = 20.0
_RETRY_S = 5.0


class DraftPart(SessionCore):
    """The part of `Session` that loses no stroke."""

    _writing = False
    _told_problems: set[str]

    def now(self) -> float:
        """Seconds of a clock that only grows; tests put their own here."""
        return time.monotonic()

    @contextlib.contextmanager
    def writing_nodes(self) -> Iterator[None]:
        """What happens to drawn nodes meanwhile is the program's doing, not a stroke."""
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before

    @contextlib.contextmanager
    def asking_nothing(self) -> Iterator[None]:
        """The window or the scene is going: every question counts as declined meanwhile."""
        asked, self.confirm = self.confirm, lambda _question: False
        try:
            yield
        finally:
            self.confirm = asked

    def stroke(self) -> None:
        """The user drew in the current case: its draft is written once it is quiet."""
        if self.current is not None:
            self.touched(self.current)

    def on_drawn_modified(self, case_id: str) -> None:
        """A drawn node changed; called by the scene, also while a program writes into it."""
        if not self._writing:
            self.touched(case_id)

    def on_segments_changed(self, case_id: str) -> None:
        """Segments came, went or changed their names; looked at with the next tick."""
        opened = self.open_cases.get(case_id)
        if opened is not None and not self._writing:
            opened.segments_changed = True

    def touched(self, case_id: str) -> None:
        """What the user did in `case_id` must reach the disk."""
        opened = self.open_cases.get(case_id)
        if opened is None:
            return
        opened.touched_at = self.now()
        if opened.dirty_since is None:
            opened.dirty_since = opened.touched_at
        opened.conflict = ""
        self.changed("drawn")

    @property
    def saving(self) -> bool:
        """Whether something that the user did is not on the disk yet."""
        return any(opened.dirty_since is not None for opened in self.open_cases.values())

    @told
    def save_drafts(self) -> None:
        """Write all strokes now; those of a case that takes in an annotation wait for it."""
        for case_id, opened in self.open_cases.items():
            if opened.dirty_since is not None and not opened.held:
                self._save_draft(case_id, opened)

    def save_drafts_quietly(self, *, held: bool = False) -> None:
        """As `save_drafts`; one that cannot be written does not keep the others from it.

        `held`: those that wait, too, because their nodes are about to go.
        """
        for case_id, opened in self.open_cases.items():
            if opened.dirty_since is not None and (held or not opened.held):
                try:
                    self._save_draft(case_id, opened)
                except SemiSegError as error:
                    self.say(f"{case_id}: {error}", error=True)

    @told
    def apply_drafts(self) -> None:
        """Make label versions of all drafts, in the service lane."""
        self.save_drafts_quietly()
        for case_id in self.require_study().drafts():
            self.queue_apply(case_id)

    def queue_apply(self, case_id: str) -> None:
        """Make a label version of the case's draft; what was refused waits for a change."""
        opened = self.open_cases.get(case_id)
        if self.tasks is None or self.tasks.waiting("apply", case_id):
            return
        if opened is not None:
            opened.unapplied_since = None
            if opened.conflict:
                return
        self.serve(
            Task(
                kind="apply",
                case_id=case_id,
                arguments=self.command("study", "apply", "STUDY", case_id),
                on_end=self._apply_ended,
            )
        )

    def tick_drafts(self) -> None:
        """Write what is due; called with every tick."""
        now = self.now()
        for case_id, opened in list(self.open_cases.items()):
            if opened.segments_changed:
                self.sync_protocol(case_id)
            if opened.held:
                continue
            if opened.dirty_since is not None:
                quiet = now - opened.touched_at >= _QUIET_S
                if quiet or now - opened.dirty_since >= _LONGEST_S:
                    self._save_due(case_id, opened, now)
            elif self._apply_due(opened, now):
                self.queue_apply(case_id)

    def _apply_due(self, opened: OpenCase, now: float) -> bool:
        since = opened.unapplied_since
        return since is not None and now - since >= _APPLY_AFTER_S

    def _save_due(self, case_id: str, opened: OpenCase, now: float) -> None:
        # Still dirty where it fails, also by a defect: tried again, but not ten times a second, so
        # that the other cases have their turn.
        opened.touched_at = opened.dirty_since = now + _RETRY_S
        try:
            self._save_draft(case_id, opened)
        except SemiSegError as error:
            text = _("{case}: what you drew is NOT saved yet: {why}")
            self.say(text.format(case=case_id, why=error), error=True)

    def _save_draft(self, case_id: str, opened: OpenCase) -> None:
        node = self.nodes(case_id).drawn
        if node is None:
            opened.dirty_since = None
            return
        if opened.segments_changed:
            self.sync_protocol(case_id)
        found = segments.read_layers(node, opened.grid, self.protocol())
        self.reopen_drawn(case_id, opened, found)
        number = self.require_study().save_draft(
            case_id,
            found.arrays,
            offset_zyx=found.offset_zyx,
            marks=tuple(opened.marks),
            author=_author(),
        )
        opened.dirty_since = None
        opened.unapplied_since = self.now()
        drawn = flat(found, opened.grid)
        opened.sent[number] = None if drawn is None else KeptMap.of(drawn)
        opened.marks_sent[number] = len(opened.marks)
        self.saved_at = time.strftime("%H:%M:%S")
        self._rows = None
        self.changed("study", "cases")

    def sync_protocol(self, case_id: str) -> None:
        """Structures that the user made in the editor join the protocol first."""

    def reopen_drawn(self, case_id: str, opened: OpenCase, found: segments.Layers) -> None:
        """See `DrawingPart`."""

    def request_view(self, case_id: str) -> None:
        """See `ViewPart`."""

    def apply_settled(self) -> None:
        """Settle all cases of a run of `study apply` (see `_settle`)."""
        for case_id, opened in self.open_cases.items():
            self._settle(case_id, opened)

    def _apply_ended(self, task: Task, event: Event) -> None:
        case_id = task.case_id or ""
        opened = self.open_cases.get(case_id)
        if event.kind == "error":
            self._refused(task, event)
            return
        self._tell_problems(event)
        self.reload_study()
        if opened is not None:
            self._settle(case_id, opened)
            self.request_view(case_id)

    def _refused(self, task: Task, event: Event) -> None:
        """A draft that cannot be merged waits for a change; one that was kept out is tried again.

        The study may be locked for a moment, or its disk full: that passes without the user.
        """
        refused = event.data.get("refused")
        for each in refused if isinstance(refused, list) else []:
            if isinstance(each, dict) and str(each.get("case")) in self.open_cases:
                self.open_cases[str(each.get("case"))].conflict = str(each.get("error"))
        opened = self.open_cases.get(task.case_id or "")
        if opened is not None and not opened.conflict:
            opened.unapplied_since = self.now()
        if event.message != self.message:
            self.report_failure(task, event)

    def _tell_problems(self, event: Event) -> None:
        """Tell what the child found wrong with the study and what was not told before."""
        found = event.data.get("problems")
        for text in found if isinstance(found, list) else []:
            if str(text) not in self._told_problems:
                self._told_problems.add(str(text))
                self.say(str(text), error=True)

    def _settle(self, case_id: str, opened: OpenCase) -> None:
        """Forget what the study has now: the applied draft's marks, and older maps."""
        if not opened.sent:
            return
        waiting = self.require_study().draft(case_id)
        newest = max(opened.sent)
        if waiting is None:
            applied = newest
        else:
            older = [number for number in opened.sent if number < waiting.number]
            if not older:
                return
            applied = max(older)
        base = opened.sent[applied]
        if base is not None:
            opened.base = base
        done = opened.marks_sent.get(applied, 0)
        del opened.marks[:done]
        opened.sent = {n: m for n, m in opened.sent.items() if n > applied}
        opened.marks_sent = {n: c - done for n, c in opened.marks_sent.items() if n > applied}
        self.changed("ledger")


def flat(layers: segments.Layers, grid: Grid) -> NDArray[np.uint16] | None:
    """The layers as one map on the grid; None when structures overlap."""
    return None if layers.overlaps else layers.flat(grid)


def _author() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
