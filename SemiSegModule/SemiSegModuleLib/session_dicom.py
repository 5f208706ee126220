"""DICOM series and label files on their way into the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from semiseg.errors import StudyError
from semiseg.events import Event
from semiseg.images.grid import Plane
from SemiSegModuleLib import dicom_database
from SemiSegModuleLib.additions import Waiting
from SemiSegModuleLib.mrml import volumes
from SemiSegModuleLib.session_cases import CasePart
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.tasks import Task


@dataclass(frozen=True, kw_only=True)
class SeriesRequest:
    """A series to add: its files, which may lie in many folders, and the node made of them.

    `name` is what messages call it.
    """

    name: str
    files: tuple[Path, ...]
    node: Any = None
    options: tuple[str, ...] = ()


class DicomPart(CasePart):
    """The part of `Session` about DICOM, and about annotations from files.

    `dicom_database` gives Slicer's database, or None; `to_database`: exported DICOM files are
    put into it.
    """

    to_database: bool = False

    dicom_database: Callable[[], Any] = staticmethod(dicom_database.database)  # type: ignore[assignment]

    @told
    def add_volumes(self, nodes: Sequence[Any], modalities: Sequence[str | None] = ()) -> None:
        """Add volumes of the scene as cases: by their DICOM series, their file, or their voxels.

        `modalities`: CT or MR for each of `nodes` where something says so; None is a guess. A
        series says it itself.
        """
        self.require_study()
        series = [self.dicom_files(node) for node in nodes]
        for node, files in zip(nodes, series, strict=True):
            volumes.require_image(node) if files else volumes.require_usable(node)
        for node, modality, files in zip_longest(nodes, modalities, series):
            if files:
                name = str(node.GetName())
                self._add_series(SeriesRequest(name=name, files=tuple(files), node=node))
            else:
                self._add_volume(node, modality)
        self.say(_("Adding {count} scans ...").format(count=len(nodes)))

    @told
    def add_database_series(self, uids: Sequence[str]) -> None:
        """Add series of Slicer's DICOM database; each is read in a child."""
        self.require_study()
        found = self.dicom_database()
        for uid in uids:
            files = dicom_database.files_of_series(found, uid)
            name = dicom_database.name_of_series(found, uid)
            if files:
                self._add_series(SeriesRequest(name=name, files=tuple(files)))
            else:
                text = _("{name}: its files are not there any more; import them again")
                self._additions.refused.append(text.format(name=name))
        self.say(_("Adding {count} scans ...").format(count=len(uids)))
        if self.tasks is not None and not self.tasks.pending("add"):
            self.all_added()

    @told
    def add_waiting(self, chosen: Sequence[Waiting]) -> None:
        """Add the volumes that the user chose of series that hold several, or have gaps."""
        self.require_study()
        for one in chosen:
            options = ("--series", str(one.number), *(("--bridge-gaps",) if one.gaps else ()))
            if isinstance(one.request, SeriesRequest):
                self._add_series(replace(one.request, options=options))
            else:
                self._add([str(one.request), *options], volume=None)

    @told
    def import_annotation(
        self, path: Path, *, done: str, plane: Plane, only_finished: bool = False
    ) -> None:
        """Take the label file `path` in for the current case, after what was drawn is applied.

        `done`: "all", "none" or slices as 10,20,30-40, counted from 0. With `only_finished`
        nothing else is taken, else the file takes the place of all that was drawn.
        """
        case_id = self.require_current()
        if self.busy():
            raise StudyError(_("Other work is running; wait for its end or cancel it first."))
        options = ["--plane", plane, "--done", done]
        options += ["--only-finished"] if only_finished else []
        arguments = self.command("annotate", "STUDY", case_id, str(path), *options)
        self.save_drafts_quietly()
        if case_id not in self.require_study().drafts():
            self._annotate(case_id, arguments)
            return
        self.serve(
            Task(
                kind="apply",
                case_id=case_id,
                arguments=self.command("study", "apply", "STUDY", case_id),
                on_end=lambda task, event: self._applied_first(task, event, arguments),
            )
        )

    def show_in_database(self, event: Event) -> str:
        """Put the DICOM files of an export into Slicer's database, if wanted; what to say of it."""
        files = event.data.get("files")
        names = [str(name) for name in files] if isinstance(files, list) else []
        written = [name for name in names if name.endswith(".dcm")]
        if not self.to_database or not written:
            return ""
        found = self.dicom_database()
        if found is None:
            return _("Slicer's DICOM database is closed, so the files were not added to it.")
        for name in written:
            self.later(partial(found.insert, name))
        return _("Added to Slicer's DICOM database: {count}.").format(count=len(written))

    def dicom_files(self, node: Any) -> list[Path]:
        """The files of the series that `node` was loaded from; none when they are not there."""
        instances = dicom_database.instances_of(node)
        return dicom_database.files_of(self.dicom_database(), instances) if instances else []

    def _add_volume(self, node: Any, modality: str | None) -> None:
        if dicom_database.instances_of(node):
            text = _(
                "{name}: its DICOM files are not in Slicer's database any more, so its voxels were "
                "copied; DICOM SEG and RTSTRUCT cannot be exported for it"
            )
            self._additions.notes.append(text.format(name=node.GetName()))
        path = volumes.file_of(node)
        self._add([] if path is None else [str(path)], volume=node, modality=modality)

    def _add_series(self, request: SeriesRequest) -> None:
        self.serve(
            Task(
                kind="add",
                arguments=self.command("study", "add", "STUDY", *request.options),
                prepare=lambda folder: _listed(folder, request.files),
                on_event=lambda event: self._added(event, request.node, request),
                on_end=self._add_ended,
                keeps=True,
            )
        )

    def _applied_first(self, task: Task, event: Event, arguments: list[str]) -> None:
        """Only what was drawn and is safe may be drawn over."""
        self._apply_ended(task, event)
        if event.kind != "error" and task.case_id is not None:
            self._annotate(task.case_id, arguments)

    def _annotate(self, case_id: str, arguments: list[str]) -> None:
        self._hold(case_id, held=True)
        self.serve(
            Task(
                kind="annotate",
                case_id=case_id,
                arguments=arguments,
                on_end=self._annotate_ended,
                keeps=True,
            )
        )
        self.say(_("Taking in the annotation ..."))

    def _hold(self, case_id: str | None, *, held: bool) -> None:
        """Keep a draft that does not know the annotation from erasing it, until it is shown."""
        opened = self.open_cases.get(case_id) if case_id else None
        if opened is not None:
            opened.held = held

    def _annotate_ended(self, task: Task, event: Event) -> None:
        before = self.protocol()
        self.reload_study()
        if event.kind == "error":
            self._hold(task.case_id, held=False)
            self.report_failure(task, event)
            return
        if self.protocol() != before:  # an empty study takes the file's structures
            self._show_protocol(self.protocol())
            self._protocol_shown = None
        if task.case_id is not None:
            self.request_view(task.case_id)
        slices = event.data.get("slices")
        count = len(slices) if isinstance(slices, list) else 0
        text = _("Took in the annotation of {case}; finished slices in it: {count}.")
        self.say(text.format(case=task.case_id, count=count))


def _listed(folder: Path, files: Sequence[Path]) -> Sequence[str]:
    """Write the list of files; a command line could not hold a thousand of them."""
    listing = folder / "files.txt"
    text = "\n".join(map(str, files))
    listing.write_text(text, encoding="utf-8", errors="surrogateescape")
    return ["--files", str(listing)]
