"""The structures: changes by the user, here or in the Segment Editor, on their way to the study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from semiseg.errors import SchemaError
from semiseg.events import Event
from semiseg.study.labels import CaseFiles
from semiseg.study.merge import present_ids
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.versions import version_numbers
from SemiSegModuleLib.mrml import segments
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_drawing import DrawingPart
from SemiSegModuleLib.tasks import Task


class ProtocolPart(DrawingPart):
    """The part of `Session` about structures."""

    @told
    def set_protocol(self, protocol: Protocol, *, force: bool = False) -> None:
        """Replace the structures; shown at once, taken back when the study refuses.

        With `force` a structure goes even where a human drew it.
        """
        self.require_study()
        if protocol == self.protocol():
            return
        gone = set(self.protocol().ids) - set(protocol.ids)
        self._show_protocol(protocol)
        for case_id in self.open_cases if gone else ():
            self.touched(case_id)  # drafts must not speak of structures that are gone
        self.serve(
            Task(
                kind="structures",
                arguments=self.command("study", "structures", "STUDY"),
                prepare=lambda folder: _written(folder, protocol, force=force),
                on_end=self._structures_ended,
                keeps=True,
            )
        )

    def structure_usage(self, structure_id: int) -> list[str]:
        """The cases in which a human drew the structure, on the disk or in the scene."""
        study = self.require_study()
        return [
            case_id
            for case_id in study.cases
            if structure_id in self._ids_on_disk(case_id) | self._ids_in_scene(case_id)
        ]

    def sync_protocol(self, case_id: str) -> None:
        """Take over what the user did to the segments in the editor; see `DraftPart`."""
        self.open_cases[case_id].segments_changed = False
        node = self.nodes(case_id).drawn
        if node is None:
            return
        before = self.protocol()
        tagged = {info.structure_id for info in segments.structures_in(node)}
        gone = [s for s in before.structures if s.id not in tagged]
        with self.writing_nodes():
            found = segments.protocol_from(node, before, self.require_study().retired)
        if gone or found != before:
            self._edited(case_id, found, gone)

    def _edited(self, case_id: str, found: Protocol, gone: list[Structure]) -> None:
        """The editor's segments say `found` without `gone`; what was drawn goes if confirmed."""
        drawn = {s.name: self.structure_usage(s.id) for s in gone}
        used = {name: cases for name, cases in drawn.items() if cases}
        keep = bool(used) and not self.confirm(_question(used))
        for structure in gone:
            if not (keep and structure.name in used):
                found = found.remove(structure.id)
        if keep:
            self._restore(case_id, [s.id for s in gone if s.name in used])
        if found != self.protocol():
            self.set_protocol(found, force=bool(used))

    def _restore(self, case_id: str, ids: list[int]) -> None:
        """Bring removed segments back, with what was last saved of them."""
        opened = self.open_cases[case_id]
        node = self.nodes(case_id).drawn
        kept = opened.sent.get(max(opened.sent, default=0))
        kept = opened.base if kept is None else kept
        with self.writing_nodes():
            segments.sync_segments(node, self.protocol())
            if kept is not None:
                array = kept.full()
                z, y, x = opened.grid.shape_zyx
                frame = ((0, z), (0, y), (0, x))
                where = np.isin(array, ids) & ~segments.occupied(node, opened.grid, frame)
                segments.write_region(node, opened.grid, array, (0, 0, 0), where)
        self.touched(case_id)
        self.changed("structures")

    def _show_protocol(self, protocol: Protocol) -> None:
        self._protocol_shown = protocol
        with self.writing_nodes():
            for case_id in self.open_cases:
                nodes = self.nodes(case_id)
                for node in (nodes.drawn, nodes.suggestion):
                    if node is not None:
                        segments.sync_segments(node, protocol)
        self.changed("structures", "ledger", "drawn")

    def _structures_ended(self, task: Task, event: Event) -> None:
        self.reload_study()
        waits = self.tasks is not None and bool(self.tasks.pending("structures"))
        if event.kind == "error":
            self.report_failure(task, event)
        if not waits:
            self._protocol_shown = None
            self._show_protocol(self.protocol())
            self._protocol_shown = None
        for case_id in self.open_cases:
            self.request_view(case_id)

    def _ids_on_disk(self, case_id: str) -> set[int]:
        study = self.require_study()
        folder = study.folder / "cases" / case_id
        files = CaseFiles(folder, case_id, study.case(case_id).grid)
        for version in reversed(version_numbers(files.labels)):
            try:
                return files.voxel_ids(version)[0]
            except SchemaError:
                continue  # a damaged one: the one before it counts
        return set()

    def _ids_in_scene(self, case_id: str) -> set[int]:
        opened = self.open_cases.get(case_id)
        node = None if opened is None else self.nodes(case_id).drawn
        if opened is None or node is None:
            draft = self.require_study().draft(case_id)
            return set() if draft is None else draft.ids()
        found = segments.read_layers(node, opened.grid, self.protocol())
        # A segment that was just removed is in no node any more, only in what was saved before.
        saved = [kept.ids() for kept in opened.sent.values() if kept is not None]
        return set().union(*saved, *map(present_ids, found.arrays))


def _written(folder: Path, protocol: Protocol, *, force: bool) -> Sequence[str]:
    path = folder / "structures.json"
    path.write_text(json.dumps(protocol.to_json()), encoding="utf-8")
    return ["--set", str(path), *(["--force"] if force else [])]


def _question(used: dict[str, list[str]]) -> str:
    name, cases = next(iter(used.items()))
    if len(used) > 1:
        name = ", ".join(used)
        cases = sorted({case for found in used.values() for case in found})
    text = _(
        "{name} is drawn in {cases}. Remove it from the study all the same? Its voxels stay in "
        "the files, but are no longer shown."
    )
    shown = ", ".join(cases[:5]) + (" ..." if len(cases) > 5 else "")
    return text.format(name=name, cases=shown)
