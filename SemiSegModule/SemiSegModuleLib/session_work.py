"""Long work: propagate, learn, segment, export, report; and undoing what it made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from semiseg.errors import StudyError
from semiseg.events import Event
from semiseg.study.ledger import FINISHED
from semiseg.study.overview import gate_in_words
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_dicom import DicomPart
from SemiSegModuleLib.tasks import Task, TaskState

Prepare = Callable[[Path], Sequence[str]]


class WorkPart(DicomPart):
    """The part of `Session` about long work; one at a time.

    `open_page` shows a finished report (the panel sets it).
    """

    _models: tuple[int, ...] | None = None
    _begin_after_apply: Callable[[], None] | None = None
    open_page: Callable[[Path], None] = staticmethod(lambda _path: None)  # type: ignore[assignment]

    @told
    def propagate(self, *, all_cases: bool) -> None:
        """Carry finished slices to the volume and to other cases."""
        cases = () if all_cases else (self.require_current(),)
        device = ("--device", self.parameters.device)
        self._begin("propagate", ("propagate", "STUDY", *cases, *device))

    @told
    def learn(self, minutes: float, device: str, method: str, seed: int) -> None:
        """Train a model for `minutes`."""
        options = ("--minutes", f"{minutes:g}", "--device", device, "--method", method)
        parts = ("train", "STUDY", *options, "--seed", str(seed))
        self._begin("learn", parts, prepare=self.watching())

    @told
    def segment(self, *, all_cases: bool, model: int | None, device: str) -> None:
        """Segment with a model, the newest if none is named."""
        cases = () if all_cases else (self.require_current(),)
        chosen = () if model is None else ("--model", str(model))
        self._begin("segment", ("predict", "STUDY", *cases, *chosen, "--device", device))

    @told
    def export(
        self,
        folder: Path,
        formats: Sequence[str],
        case_ids: Sequence[str],
        what: str,
        *,
        overwrite: bool = False,
        identity: str = "ask",
        space: str = "LPS",
    ) -> None:
        """Write segmentations of `case_ids` (all if none) into `folder`.

        `identity`: whether DICOM files "keep" the patient's, or it is to "remove"; `space`: the
        axes of mesh files.
        """
        if not formats:
            raise StudyError(_("No format is chosen. Tick at least one."))
        options = ["--what", what, *(part for name in formats for part in ("--format", name))]
        options += ["--overwrite"] if overwrite else []
        options += ["--identity", identity] if identity != "ask" else []
        options += ["--space", space] if space != "LPS" else []
        self._begin("export", ("export", "STUDY", str(folder), *case_ids, *options))

    @told
    def report(self) -> None:
        """Write the HTML report and show it."""
        self._begin("report", ("report", "STUDY"))

    @told
    def undo_suggestion(self, case_id: str | None = None) -> None:
        """Take back the newest propagation or segmentation of a case, by default the current."""
        case_id = case_id or self.require_current()
        self.serve(
            Task(
                kind="undo",
                case_id=case_id,
                arguments=self.command("study", "undo", "STUDY", case_id),
                on_end=self._undo_ended,
                keeps=True,
            )
        )

    @told
    def cancel(self) -> None:
        """End the long work; what it finished so far is kept."""
        if self.task is None:
            return
        if self._begin_after_apply is not None:
            self._cancel_pending_work()
            self.say(_("Cancelled before it began. What you drew is saved."))
            return
        self.task.cancelling = True
        if self.tasks is not None:
            self.tasks.cancel()
        self.changed("task")

    def next_step(self) -> str:
        """What usually comes next in this study; for the line at the top of the panel."""
        return self._to_begin() or self._next_work()

    def _to_begin(self) -> str:
        """What is missing before there is anything to work on; empty when nothing is."""
        if self.study is None:
            return _("Make a study, or open one, to begin.")
        if not self.rows():
            return _("Next: add CT and MR scans.")
        if not self.protocol().structures:
            return _("Next: add the structures to segment.")
        return "" if self._any_done() else _("Next: draw in a few slices, and mark each as done.")

    def _next_work(self) -> str:
        states = {row.state for row in self.rows()}
        if self.model_ids() and states <= {"segmented", "problem"}:
            return _("Next: correct where it is unsure, and learn again; or export.")
        if self.model_ids():
            return _("Next: press Segment all.")
        if "propagated" in states:
            return _("Next: look at what was propagated, then press Learn.")
        return _("Next: press Propagate.")

    def why_not(self, kind: str, *, all_cases: bool = True) -> str:
        """Why "propagate", "learn", "segment", "export" or "undo" cannot be done; "" if it can."""
        if self.study is None:
            return _("Make or open a study first")
        rows = self.rows()
        if not rows:
            return _("Add scans to the study first")
        if kind != "undo" and self.busy():
            return _("Other work is running; wait for its end or cancel it")
        if not all_cases and self.current is None:
            return _("Choose a case in the table first")
        reason = getattr(self, f"_why_not_{kind}", None)
        return "" if reason is None else str(reason())

    def model_ids(self) -> tuple[int, ...]:
        """The models of the study, oldest first."""
        if self.study is None:
            return ()
        if self._models is None:
            self._models = tuple(model.id for model in self.study.models())
        return self._models

    def forget_read(self) -> None:
        """See `SessionCore`."""
        self._models = None
        super().forget_read()

    def _why_not_propagate(self) -> str:
        if not self.protocol().structures:
            return _("Add a structure first")
        return "" if self._any_done() else _("Mark at least one slice as done first")

    def _why_not_learn(self) -> str:
        return self._why_not_propagate()

    def _why_not_segment(self) -> str:
        return "" if self.model_ids() else _("Learn a model first")

    def _why_not_undo(self) -> str:
        row = self.row(self.current) if self.current else None
        if row is None:
            return _("Choose a case in the table first")
        if row.state not in ("propagated", "segmented"):
            return _("Nothing was propagated or segmented in this case")
        if self.tasks is not None and self.tasks.pending("undo"):
            return _("The last undo is still being written")
        return ""

    def _any_done(self) -> bool:
        if any(done for row in self.rows() for done, _count in row.done.values()):
            return True
        return any(
            mark.state in FINISHED for opened in self.open_cases.values() for mark in opened.marks
        )

    def watching(self) -> Prepare | None:
        """Further arguments of a training whose progress is to be shown in a slice."""
        return None

    def _begin(self, kind: str, parts: tuple[str, ...], prepare: Prepare | None = None) -> None:
        """Save and apply what was drawn; then, and only then, start the work."""
        self.require_study()
        if self.busy():
            raise StudyError(_("Other work is running; wait for its end or cancel it first."))
        arguments = self.command(*parts)
        self.dismiss()
        self.save_drafts_quietly()
        self.task = TaskState(kind=kind, phase="save")
        self._begin_after_apply = lambda: self._start_work(kind, arguments, prepare)
        self.changed("task")
        tasks = self.tasks
        if tasks is not None and tasks.service is None and not self.require_study().drafts():
            self._apply_done()
            return
        self.serve(
            Task(
                kind="apply",
                arguments=self.command("study", "apply", "STUDY"),
                on_end=self._applied_before_work,
            )
        )

    def _applied_before_work(self, task: Task, event: Event) -> None:
        self.reload_study()
        self.apply_settled()
        if event.kind == "error":
            self._refused(task, event)
            self._cancel_pending_work()
            return
        self._tell_problems(event)
        for case_id in self.open_cases:
            self.request_view(case_id)
        self._apply_done()

    def _apply_done(self) -> None:
        begin, self._begin_after_apply = self._begin_after_apply, None
        if begin is not None:
            begin()

    def _cancel_pending_work(self) -> None:
        """Work that waits for the drafts will not start."""
        if self._begin_after_apply is not None:
            self._begin_after_apply = None
            self.task = None
            self.changed("task")

    def _start_work(self, kind: str, arguments: list[str], prepare: Prepare | None) -> None:
        if self.tasks is None or self.task is None:
            return
        self.task.phase = "start"
        self.tasks.start(
            Task(
                kind=kind,
                arguments=arguments,
                on_event=self._progress,
                on_end=self._work_ended,
                prepare=prepare,
            )
        )

    def _progress(self, event: Event) -> None:
        if self.task is None:
            return
        self.task.take(event)
        self.changed("task")
        case_id = event.data.get("case")
        if not isinstance(case_id, str):
            return
        if "saved" in event.data:
            self._case_ready(self.task.kind, case_id)
        elif "why" in event.data:
            self.say(f"{case_id}: {event.data['why']}")

    def _case_ready(self, kind: str, case_id: str) -> None:
        """Show a case's result as soon as it is there, not when all are; a rejected one, too."""
        self.refresh_study()
        row = self.row(case_id)
        if row is None:
            return
        if kind == "propagate" and row.gate is not None:
            text = _("{case}: propagated, {gate}")
            self.say(text.format(case=case_id, gate=gate_in_words(row.gate)))
        elif kind == "segment":
            self.say(_("{case}: segmented").format(case=case_id))
        self.request_view(case_id)

    def _work_ended(self, task: Task, event: Event) -> None:
        done = () if self.task is None else tuple(dict.fromkeys(self.task.cases_done))
        self.task = None
        self.reload_study()
        self.changed("task")
        if event.kind == "error":
            if task.cancelled:
                self.say(_stopped(task.kind))
            self.report_failure(task, event)
            return
        said = [self._summary(task.kind, event, done)]
        if task.kind == "export":
            said.append(self.show_in_database(event))
        self.say(" ".join(filter(None, said)))
        page = event.data.get("report")
        if task.kind == "report" and isinstance(page, str):
            self.open_page(Path(page))

    def _summary(self, kind: str, event: Event, done: tuple[str, ...]) -> str:
        if kind == "propagate":
            return self._propagated(done)
        if kind == "learn":
            return _("Model {model} is ready. Press Segment next.").format(
                model=event.data.get("model", "")
            )
        if kind == "segment":
            text = _("Segmented: {count}. Look where it is unsure and correct there.")
            return text.format(count=len(done))
        return event.message

    def _propagated(self, done: tuple[str, ...]) -> str:
        """How many cases look right, and how many do not."""
        rows = [row for row in map(self.row, done) if row is not None and row.gate is not None]
        found: Counter[str] = Counter(row.gate.verdict for row in rows if row.gate is not None)
        words = {
            "accept": _("looks right {count}"),
            "down_weight": _("doubtful {count}"),
            "reject": _("not used {count}"),
        }
        parts = [text.format(count=found[v]) for v, text in words.items() if found[v]]
        if not parts:
            return _("Nothing had to be propagated.")
        text = _("Propagated: {verdicts}. Look at them, then press Learn.")
        return text.format(verdicts=", ".join(parts))

    def _undo_ended(self, task: Task, event: Event) -> None:
        self.reload_study()
        if event.kind == "error":
            self.report_failure(task, event)
            return
        self.say(event.message)
        if task.case_id is not None:
            self.request_view(task.case_id)


def _stopped(kind: str) -> str:
    if kind == "learn":
        return _("Stopped. What was learned is kept: Learn goes on from there.")
    return _("Stopped. Everything finished so far is kept.")
