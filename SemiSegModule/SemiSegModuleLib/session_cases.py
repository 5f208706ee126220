"""The cases: rows of the table, choosing, adding, removing, modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from slicer.i18n import tr as _

from semiseg.config import MODALITIES, Modality
from semiseg.errors import SemiSegError, StudyError
from semiseg.events import Event
from semiseg.study.overview import CaseOverview, case_overviews
from SemiSegModuleLib.additions import Additions, Waiting
from SemiSegModuleLib.mrml import volumes
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_protocol import ProtocolPart
from SemiSegModuleLib.tasks import Task


class CasePart(ProtocolPart):
    """The part of `Session` about cases.

    `waiting` are volumes of which the user has to say whether to add them.
    """

    waiting: tuple[Waiting, ...] = ()

    def rows(self) -> tuple[CaseOverview, ...]:
        """All cases of the study, as the table shows them."""
        if self.study is None:
            return ()
        if self._rows is None:
            try:
                self._rows = tuple(self._shown(row) for row in case_overviews(self.study))
            except SemiSegError as error:  # the folder is gone, or its disk
                self._rows = ()
                self.say(str(error), error=True)
        return self._rows

    def row(self, case_id: str) -> CaseOverview | None:
        """The row of `case_id`; None when the study has no such case."""
        return next((row for row in self.rows() if row.id == case_id), None)

    @told
    def select(self, case_id: str) -> None:
        """Show the case; the one before keeps its drawing, window, level and position."""
        self.require_study().case(case_id)
        nodes = self.nodes(case_id)
        complete = nodes.drawn is not None and nodes.volume is not None
        if case_id == self.current and case_id in self.open_cases and complete:
            return
        self._leave()
        self.load_case(case_id)
        self.current = self.parameters.current_case = case_id
        self.views.show(self.nodes(case_id), case_id)
        if self.uncertainty_shown:
            self.show_uncertainty(True)
        self.changed("case", "ledger", "drawn", "suggestion", "slice")
        if not self.open_cases[case_id].suggested:
            self.request_view(case_id)

    @told
    def add_files(self, paths: Sequence[Path]) -> None:
        """Add image files as cases, in the service lane; each is shown as it is added."""
        if not paths:
            return
        files = [str(path) for path in paths]
        self._add(files, volume=None)
        self.say(_("Adding {count} scans ...").format(count=len(files)))

    @told
    def remove_case(self, case_id: str) -> None:
        """Move the case out of the study; it can be restored from the folder `removed`."""
        self.require_study().case(case_id)
        if self.busy():
            raise StudyError(_("A case cannot be removed while work is running. Cancel it first."))
        self.save_drafts_quietly()
        self.serve(
            Task(
                kind="remove",
                case_id=case_id,
                arguments=self.command("study", "remove", "STUDY", case_id),
                on_end=self._remove_ended,
                keeps=True,
            )
        )

    @told
    def restore_case(self, folder: Path) -> None:
        """Put a case back that was taken out and lies in `folder`."""
        words = self.command("study", "restore", "STUDY", str(folder))
        self.serve(Task(kind="restore", arguments=words, on_end=self._restored, keeps=True))

    @told
    def unload_case(self, case_id: str) -> None:
        """Take the case's nodes out of the scene; everything stays in the study."""
        opened = self.open_cases.get(case_id)
        if opened is not None and opened.held:
            text = _("{case} is taking in an annotation. Unload it when that has ended.")
            raise StudyError(text.format(case=case_id))
        self.save_drafts()
        if opened is not None and opened.dirty_since is not None:
            return  # not saved: said by save_drafts
        if opened is not None and opened.unapplied_since is not None:
            self.queue_apply(case_id)
        self.remove_nodes(case_id)
        if case_id == self.current:
            self._no_current()

    @told
    def set_modality(self, case_id: str, modality: str) -> None:
        """Say that the case is "CT" or "MR", or "auto" to guess again; shown at once."""
        self.require_study().case(case_id)
        self._modality_shown[case_id] = modality
        self._rows = None
        self.changed("cases")
        self.serve(
            Task(
                kind="modality",
                case_id=case_id,
                arguments=self.command("study", "modality", "STUDY", case_id, modality),
                on_end=self._modality_ended,
                keeps=True,
            )
        )

    def _shown(self, row: CaseOverview) -> CaseOverview:
        modality = self._modality_shown.get(row.id)
        if modality not in MODALITIES:
            return row
        return replace(row, modality=cast("Modality", modality), modality_overridden=True)

    def _leave(self) -> None:
        if self.current is None:
            return
        self.save_drafts_quietly()
        opened = self.open_cases.get(self.current)
        if opened is not None and opened.unapplied_since is not None:
            self.queue_apply(self.current)

    def _no_current(self) -> None:
        self.current = None
        self.parameters.current_case = ""
        self.changed("case", "ledger", "drawn", "suggestion")

    def _add(self, files: list[str], volume: Any, modality: str | None = None) -> None:
        """Queue the addition of `files`, or of the voxels of `volume` when it has no file."""
        copy = volume is not None and not files
        known = [] if modality is None else ["--modality", modality]
        self.serve(
            Task(
                kind="add",
                arguments=self.command("study", "add", "STUDY", *files, *known),
                prepare=(lambda folder: _voxels(folder, volume)) if copy else None,
                on_event=lambda event: self._added(event, volume),
                on_end=self._add_ended,
                keeps=True,
            )
        )

    def _added(self, event: Event, volume: Any, request: Any = None) -> None:
        self._additions.hear(event, request)
        case_id = event.data.get("case")
        if not isinstance(case_id, str):
            return
        self.reload_study()
        if self.study is None or case_id not in self.study.cases:
            return
        if volume is not None and self.scene.IsNodePresent(volume):
            self._take_volume(case_id, volume)
        if self.current is None:
            self.later(lambda: self._select_first(case_id))

    def _take_volume(self, case_id: str, volume: Any) -> None:
        """The node becomes the case's volume where it shows the very image of the study."""
        moved = volume.GetParentTransformNode() is not None
        if not moved and volumes.lies_on(volume, self.require_study().case(case_id).grid):
            self.binding_of_study.bind(case_id, "volume", volume)
            return
        text = _(
            "{case}: the volume {name} in the scene lies on another grid than the study's image "
            "(as with a tilted gantry, which the study straightens), so the study's own is shown"
        )
        self._additions.notes.append(text.format(case=case_id, name=volume.GetName()))

    def _select_first(self, case_id: str) -> None:
        if self.current is None and self.study is not None and case_id in self.study.cases:
            self.select(case_id)

    def _add_ended(self, task: Task, event: Event) -> None:
        self.reload_study()
        if event.kind == "error" and not self._additions.explains(event):
            self.report_failure(task, event)
        if self.tasks is not None and self.tasks.pending("add"):
            return  # all refusals together, when the last image is through
        self.all_added()

    def all_added(self) -> None:
        """Tell what became of all images; ask for what only the user knows."""
        found, self._additions = self._additions, Additions()
        if found.added or found.refused or found.notes or found.waiting:
            self.say(found.sentence(), error=bool(found.refused))
        if found.waiting:
            self.waiting = tuple(found.waiting)
            self.changed("cases")

    def _remove_ended(self, task: Task, event: Event) -> None:
        case_id = task.case_id or ""
        if event.kind == "error":
            self.report_failure(task, event)
            return
        self.remove_nodes(case_id)
        self.reload_study()
        if case_id == self.current:
            self._no_current()
        self.say(_("Removed {case}; Restore puts it back.").format(case=case_id))

    def _restored(self, task: Task, event: Event) -> None:
        if event.kind == "error":
            self.report_failure(task, event)
            return
        self.reload_study()
        text = _("{case} is in the study again, with all that was drawn in it.")
        self.say(text.format(case=event.data.get("case", "")))

    def _modality_ended(self, task: Task, event: Event) -> None:
        case_id = task.case_id or ""
        if event.kind == "error":
            self.report_failure(task, event)
        if self.tasks is None or not any(
            other.case_id == case_id for other in self.tasks.pending("modality")
        ):
            self._modality_shown.pop(case_id, None)
        self.reload_study()


def _voxels(folder: Path, volume: Any) -> Sequence[str]:
    """Write the volume's voxels, named as the volume is, for the study to copy."""
    name = "".join(c if c.isalnum() or c in " -_." else "_" for c in volume.GetName()).strip(" .")
    path = folder / "voxels" / f"{name or 'volume'}.nrrd"
    path.parent.mkdir()
    volumes.write_volume(volume, path)
    return [str(path), "--copy"]
