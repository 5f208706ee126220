"""Rounds, versions and the way back: listed, compared, accepted, named, pinned, pruned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.errors import StudyError
from semiseg.events import Event
from semiseg.images.grid import Grid, canonical
from SemiSegModuleLib.history_lines import Part, RoundLine, VersionLine, lines_of, parts_of
from SemiSegModuleLib.mrml import volumes
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_overlays import Color, OverlayPart, swipe_axis, swiped
from SemiSegModuleLib.tasks import Task

CHANGE_COLORS: tuple[Color, ...] = ((60, 190, 90), (225, 70, 60), (240, 180, 40))
MODES = ("changed", "first", "second", "swipe")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two versions of a case side by side: `mode` is one of MODES, `share` where a swipe is."""

    case_id: str
    first: VersionLine
    second: VersionLine
    parts: tuple[Part, ...]
    changed: int
    maps: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None, repr=False)
    mode: str = "changed"
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Whether another round pays (None: not known yet), and why."""

    go_on: bool | None
    reason: str


class HistoryPart(OverlayPart):
    """The part of `Session` about rounds and earlier versions.

    `advice` is None until the engine was asked; `spare` is how many versions nothing needs and
    their bytes.
    """

    rounds: tuple[RoundLine, ...] = ()
    versions: tuple[VersionLine, ...] = ()
    advice: Advice | None = None
    compared: Compared | None = None
    spare: tuple[int, int] | None = None
    history_wanted: bool = False

    @told
    def want_history(self, wanted: bool) -> None:
        """Keep the list of versions up to date, or no longer."""
        self.history_wanted = wanted
        if wanted:
            self.ask_history()

    @told
    def select(self, case_id: str) -> None:
        """See `CasePart`."""
        before = self.current
        super().select(case_id)
        if self.current != before:
            self.versions = ()
            self.changed("history")
            self._ask_if_wanted()

    def ask_history(self) -> None:
        """Have the engine list the rounds, and the versions of the current case and the models."""
        if self.study is None or self.tasks is None:
            return
        self.ask_rounds()
        case = () if self.current is None else (self.current, "--changes")
        self._ask("versions", ("history", "list", "STUDY", *case), self._versions_ended)
        self._ask("spare", ("history", "prune", "STUDY"), self._spare_ended)

    def ask_rounds(self) -> None:
        """Have the engine say what the rounds cost and whether another one pays."""
        if self.study is not None and self.model_ids():
            self._ask("rounds", ("history", "rounds", "STUDY"), self._rounds_ended)

    @told
    def compare(self, first: VersionLine, second: VersionLine) -> None:
        """Show what differs between two versions of the current case."""
        case_id = self.require_current()
        if {first.case, second.case} != {case_id}:
            raise StudyError(_("Choose two versions of the scan that is shown."))
        self.end_comparing()
        words = self.command("history", "compare", "STUDY", case_id, first.key, second.key)
        self.serve(
            Task(
                kind="compare",
                case_id=case_id,
                arguments=words,
                prepare=lambda folder: ("--arrays", str(folder / "maps")),
                on_end=partial(self._compare_ended, first, second),
            )
        )

    @told
    def show_compared(self, mode: str, share: float | None = None) -> None:
        """Another look at the two versions: one of MODES, swiped at `share` from the left."""
        if self.compared is None or self.compared.maps is None:
            return
        share = self.compared.share if share is None else share
        self.compared = replace(self.compared, mode=mode, share=share)
        self._show_maps()

    @told
    def end_comparing(self) -> None:
        """Show the case as it is again."""
        self.compared = None
        if self.overlay == "compare":
            self.drop_overlay()
            if self.origin_shown and self.current:
                self.request_view(self.current)
        self.changed("history")

    @told
    def go_back(self, line: VersionLine, structure_ids: Sequence[int] | None = None) -> None:
        """Make a version of the current case count again, whole or for some structures."""
        case_id = self.require_current()
        if line.case != case_id:
            raise StudyError(_("Choose one version of the scan that is shown."))
        names = [self.protocol().by_id(i).name for i in structure_ids or ()]
        only = ("--structures", ",".join(names)) if names else ()
        self.apply_drafts()
        words = self.command("history", "back", "STUDY", case_id, line.key, *only)
        task = Task(
            kind="back", case_id=case_id, arguments=words, on_end=self._changed_ended, keeps=True
        )
        self.serve(task)
        self.say(_("Going back to {what} ...").format(what=line.title))

    @told
    def accept(self, structure_ids: Sequence[int] | None = None) -> None:
        """Make what is suggested in the current case yours, whole or for some structures."""
        opened = self._require_opened()
        count = self._take_over(opened, None, structure_ids or self.protocol().ids)
        if not count:
            self.say(_("There is nothing to accept: no suggestion where nothing is drawn."))
            return
        self.say(_("Accepted {count} suggested voxels as yours.").format(count=count))

    @told
    def name_version(self, line: VersionLine, name: str) -> None:
        """Give a version a name; an empty one takes it away."""
        self._change(line, ("history", "name", "STUDY", line.key, name))

    @told
    def pin_version(self, line: VersionLine, pinned: bool) -> None:
        """Keep a version from being pruned, or no longer."""
        off = () if pinned else ("--off",)
        self._change(line, ("history", "pin", "STUDY", line.key, *off))

    @told
    def prune(self) -> None:
        """Delete the versions that nothing needs, after the user agreed to it."""
        count, size = self.spare or (0, 0)
        text = _(
            "Delete {count} earlier versions ({size:.1f} MB) for good? Named and pinned ones, the "
            "newest two of each, and what others rest on stay."
        )
        if not count or not self.confirm(text.format(count=count, size=size / 1e6)):
            return
        self.end_comparing()
        words = self.command("history", "prune", "STUDY", "--delete")
        self.serve(Task(kind="prune", arguments=words, on_end=self._changed_ended, keeps=True))

    def _ask(
        self, kind: str, parts: tuple[str, ...], on_end: Callable[[Task, Event], None]
    ) -> None:
        if self.tasks is not None and not self.tasks.waiting(kind):
            self.serve(Task(kind=kind, arguments=self.command(*parts), on_end=on_end))

    def _ask_if_wanted(self) -> None:
        if self.history_wanted:
            self.ask_history()

    def _change(self, line: VersionLine, parts: tuple[str, ...]) -> None:
        case = ("--case", line.case) if line.case else ()
        words = self.command(*parts, *case)
        self.serve(Task(kind="note", arguments=words, on_end=self._changed_ended, keeps=True))

    def _changed_ended(self, task: Task, event: Event) -> None:
        if event.kind == "error":
            self.report_failure(task, event)
            return
        self.reload_study()
        if task.kind != "note":
            self.say(event.message)
        if task.case_id is not None:
            self.end_comparing()
            self.request_view(task.case_id)
        self.ask_history()

    def _rounds_ended(self, task: Task, event: Event) -> None:
        if event.kind == "error":
            self.report_failure(task, event)
            return
        self.rounds = lines_of(RoundLine, event.data.get("rounds"))
        go_on = event.data.get("go_on")
        self.advice = Advice(
            go_on=go_on if isinstance(go_on, bool) else None,
            reason=str(event.data.get("reason", "")),
        )
        self.changed("history")

    def _versions_ended(self, task: Task, event: Event) -> None:
        if event.kind == "error":
            self.report_failure(task, event)
            return
        found = lines_of(VersionLine, event.data.get("versions"))
        self.versions = tuple(one for one in found if one.case in (None, self.current))
        self.changed("history")

    def _spare_ended(self, _task: Task, event: Event) -> None:
        found, size = event.data.get("versions"), event.data.get("bytes")
        if isinstance(found, list) and isinstance(size, int):
            self.spare = len(found), size
        self.changed("history")

    def _compare_ended(
        self, first: VersionLine, second: VersionLine, task: Task, event: Event
    ) -> None:
        files = event.data.get("files")
        if event.kind == "error":
            self.report_failure(task, event)
            return
        if not isinstance(files, Mapping) or task.case_id != self.current or not task.case_id:
            return
        changed = event.data.get("changed")
        self.compared = Compared(
            case_id=task.case_id,
            first=first,
            second=second,
            parts=parts_of(event.data.get("structures")),
            changed=changed if isinstance(changed, int) else 0,
        )
        task.short = False  # its files are read by this chore
        self.later(partial(self._take_maps, dict(files)))
        self.later(partial(shutil.rmtree, task.folder, ignore_errors=True))

    def _take_maps(self, files: Mapping[str, Any]) -> None:
        if self.compared is None:
            return
        numbers = self.color_numbers()
        try:
            first, second = (
                numbers[np.load(str(files[name]), allow_pickle=False)]
                for name in ("first", "second")
            )
        except (OSError, ValueError, KeyError) as error:
            self.compared = None
            self.say(_("The versions could not be shown: {why}").format(why=error), error=True)
            return
        self.compared = replace(self.compared, maps=(first, second))
        self._show_maps()

    def _show_maps(self) -> None:
        compared = self.compared
        opened = None if compared is None else self.open_cases.get(compared.case_id)
        if compared is None or compared.maps is None or opened is None:
            return
        array, before = _picture(compared, opened.grid, swipe_axis(self.plane)), self.overlay_node()
        colors = CHANGE_COLORS if compared.mode == "changed" else self.structure_colors()
        if self.overlay == "compare" and before is not None and compared.mode == "swipe":
            volumes.color_labels(before, colors)
            volumes.set_overlay(before, opened.grid, array)
        else:
            kept, name = compared, _("{case} (compared)").format(case=compared.case_id)
            self.lay_over("compare", opened.grid, array, colors, name)
            self.compared = kept
        self.changed("history")

    def _work_ended(self, task: Task, event: Event) -> None:
        super()._work_ended(task, event)
        if task.kind in ("learn", "segment"):
            self.ask_rounds()
        if task.kind in ("learn", "segment", "propagate"):
            self._ask_if_wanted()

    def _apply_ended(self, task: Task, event: Event) -> None:
        super()._apply_ended(task, event)
        if event.kind != "error":
            self.ask_rounds()
            self._ask_if_wanted()

    def drop_overlay(self) -> None:
        """See `OverlayPart`; the comparison ends with its picture."""
        if self.overlay == "compare":
            self.compared = None
        super().drop_overlay()

    def _take(self, study: Any) -> None:
        super()._take(study)
        self.ask_rounds()
        self._ask_if_wanted()

    def _forget(self) -> None:
        super()._forget()
        self.rounds, self.versions, self.advice = (), (), None
        self.compared = self.spare = None
        self.changed("history")


def _picture(compared: Compared, grid: Grid, axis: int) -> NDArray[Any]:
    """Numbers of colors: of CHANGE_COLORS (gained, lost, another structure) or of structures."""
    maps = compared.maps
    assert maps is not None
    first, second = maps
    if compared.mode == "changed":
        found = np.zeros(first.shape, np.uint8)
        found[(first == 0) & (second != 0)] = 1
        found[(first != 0) & (second == 0)] = 2
        found[(first != 0) & (second != 0) & (first != second)] = 3
        return found
    if compared.mode == "swipe":
        turn = canonical(grid)
        return swiped(first, second, turn.axes[axis], compared.share, flipped=turn.flips[axis])
    return first if compared.mode == "first" else second
