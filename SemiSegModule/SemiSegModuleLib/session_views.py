"""From the study to the scene: a case's volume, the drawn map and the suggestion."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.errors import LabelError, SemiSegError
from semiseg.events import Event, Json
from semiseg.images.grid import PLANES, Grid, plane_axis
from semiseg.study.case import Case
from semiseg.study.drafts import Draft
from semiseg.study.picture import find_image
from SemiSegModuleLib.kept_map import KeptMap
from SemiSegModuleLib.mrml import segments, volumes
from SemiSegModuleLib.session_core import OpenCase
from SemiSegModuleLib.session_drafts import DraftPart, flat
from SemiSegModuleLib.tasks import Task

_LOADED = "SemiSeg.Loaded"
_SURE_BELOW = 30.0  # of 200 steps: what is less unsure than 15 % is not colored


class ViewPart(DraftPart):
    """The part of `Session` that fills the scene; it never writes into what a human drew.

    The one exception is `_reconcile`: voxels that the study changed and the user did not.
    """

    uncertainty_shown: bool = False

    def load_case(self, case_id: str) -> None:
        """Put the case's volume and drawn map into the scene where they are not there yet."""
        case = self.require_study().case(case_id)
        volume = self._sound_volume(case)
        nodes = self.nodes(case_id)
        if case_id in self.open_cases and nodes.drawn is not None:
            return
        if nodes.drawn is not None:
            self._adopt(case_id)
            return
        self._make_drawn(case, volume)

    def adopt_nodes(self) -> None:
        """Take up the nodes of this study that a loaded scene brought, one case per tick."""
        for case_id in self.require_study().cases:
            if self.nodes(case_id).drawn is not None and case_id not in self.open_cases:
                self.later(lambda case_id=case_id: self._adopt(case_id))  # type: ignore[misc]

    def remove_nodes(self, case_id: str) -> None:
        """Take the case's nodes out of the scene; a volume only when it was loaded from here."""
        nodes = self.nodes(case_id)
        self.open_cases.pop(case_id, None)
        self.views.forget(case_id)
        for role in ("suggestion", "uncertainty", "drawn", "volume"):
            node = getattr(nodes, role)
            if node is None:
                continue
            self.binding_of_study.unbind(node)
            if role != "volume" or node.GetAttribute(_LOADED):
                self.scene.RemoveNode(node)

    def request_view(self, case_id: str) -> None:
        """Have a child prepare what programs say of a case that is in the scene."""
        if self.tasks is None or case_id not in self.open_cases:
            return
        if self.tasks.waiting("view", case_id):
            return
        self.tasks.serve(
            Task(
                kind="view",
                case_id=case_id,
                arguments=self.command("study", "view", "STUDY", case_id, *self.view_options()),
                prepare=_out_folder,
                on_end=self._view_ended,
            )
        )

    def view_options(self) -> tuple[str, ...]:
        """Further options of the child that prepares a view."""
        return ()

    def view_layers(self, case_id: str) -> dict[str, Callable[[NDArray[Any] | None], None]]:  # noqa: ARG002
        """Further arrays of a view, by name, and who takes them."""
        return {}

    def on_node_removed(self, case_id: str, role: str) -> None:
        """A node of a case is about to be deleted in the scene; the study keeps what was drawn."""
        opened = self.open_cases.get(case_id)
        if opened is None:
            return
        if role == "drawn":
            with self.asking_nothing():
                self.save_drafts_quietly(held=True)
            self.open_cases.pop(case_id)
        if role == "suggestion":
            opened.suggested = {}
        if role in ("drawn", "volume"):
            text = _(
                "{node} of {case} was removed from the scene. It is safe in the study: click the "
                "case in the table to show it again."
            )
            what = _("The segmentation") if role == "drawn" else _("The volume")
            self.say(text.format(node=what, case=case_id))
        self.changed("case", "drawn", "suggestion", "ledger")

    def show_uncertainty(self, visible: bool) -> None:
        """Show or hide where the suggestion of the current case is unsure."""
        self.uncertainty_shown = visible
        nodes = self.nodes(self.current) if self.current else None
        if not visible or nodes is None:
            self.views.show_overlay(None)
        elif nodes.uncertainty is not None:
            self.views.show_overlay(nodes.uncertainty)
        elif self.current:
            self.request_view(self.current)
        self.changed("suggestion")
        self.tell()

    def _sound_volume(self, case: Case) -> Any:
        """The case's volume node; loaded where there is none, or one that is not on its grid."""
        volume = self.nodes(case.id).volume
        if volume is not None and not _lies_on(volume, case.grid):
            self.binding_of_study.unbind(volume)
            text = _("{name} in the scene is not the image of {case}; the study's was loaded.")
            self.say(text.format(name=volume.GetName(), case=case.id), error=True)
            volume = None
        return volume or self._load_volume(case)

    def _load_volume(self, case: Case) -> Any:
        path = find_image(case, self.require_study().folder, set())
        volume = volumes.load_volume(self.scene, self.volumes_logic, path, case.name)
        volume.SetAttribute(_LOADED, "1")
        self.binding_of_study.bind(case.id, "volume", volume)
        return volume

    def _make_drawn(self, case: Case, volume: Any) -> None:
        study = self.require_study()
        opened = OpenCase(grid=case.grid)
        draft = study.draft(case.id)
        human = study.human_map(case.id).array
        node = segments.create_drawn(self.scene, volume, self.protocol(), case.name)
        if draft is None:
            segments.set_map(node, case.grid, human)
        else:
            known = self.protocol().ids
            layers = [np.where(np.isin(a, known), a, 0).astype(np.uint16) for a in draft.layers]
            segments.set_layers(node, case.grid, layers, draft.offset_zyx)
            self._remember_draft(opened, draft)
        opened.base = KeptMap.of(human)
        self.binding_of_study.bind(case.id, "drawn", node)
        self.open_cases[case.id] = opened

    def _adopt(self, case_id: str) -> None:
        """Bind nodes of a loaded scene; a drawn one that differs is kept apart, under a name."""
        if self.study is None or case_id in self.open_cases:
            return
        case, nodes = self.study.case(case_id), self.nodes(case_id)
        if nodes.drawn is None:
            return
        volume = self._sound_volume(case)
        if self._equals_study(case, nodes.drawn):
            self._open_adopted(case)
            return
        name = nodes.drawn.GetName()
        nodes.drawn.SetName(_("{name} (from the scene)").format(name=name))
        self.binding_of_study.unbind(nodes.drawn)
        self._make_drawn(case, volume)
        text = _(
            "The scene's segmentation of {case} differs from the study's. Both are kept: the "
            "scene's is now called {name}, the study's is shown beside it."
        )
        self.say(text.format(case=case_id, name=nodes.drawn.GetName()), error=True)
        self.changed("drawn", "case")

    def _open_adopted(self, case: Case) -> None:
        study = self.require_study()
        draft = study.draft(case.id)
        opened = OpenCase(grid=case.grid, base=KeptMap.of(study.human_map(case.id).array))
        if draft is not None:
            self._remember_draft(opened, draft)
        self.open_cases[case.id] = opened
        nodes = self.nodes(case.id)
        with self.writing_nodes():  # the scene may be older than the protocol
            for node in (nodes.drawn, nodes.suggestion):
                if node is not None:
                    segments.sync_segments(node, self.protocol())
        self.changed("drawn", "case")
        self.request_view(case.id)

    def _remember_draft(self, opened: OpenCase, draft: Draft) -> None:
        """A draft of the last time waits to be applied, as if it had been saved just now."""
        opened.marks, opened.unapplied_since = list(draft.marks), self.now()
        opened.marks_sent[draft.number] = len(draft.marks)
        try:
            opened.sent[draft.number] = KeptMap.of(draft.full())
        except LabelError:  # structures overlap
            opened.sent[draft.number] = None

    def _equals_study(self, case: Case, node: Any) -> bool:
        study = self.require_study()
        try:
            found = segments.read_layers(node, case.grid, self.protocol())
            drawn = None if found.strangers else flat(found, case.grid)
            draft = study.draft(case.id)
            kept = study.human_map(case.id).array if draft is None else draft.full()
        except SemiSegError:
            return False
        return drawn is not None and np.array_equal(drawn, kept)

    def _view_ended(self, task: Task, event: Event) -> None:
        case_id = task.case_id or ""
        opened = self.open_cases.get(case_id)
        if opened is not None:
            opened.held = False
        if event.kind == "error":
            self.report_failure(task, event)
            return
        files = event.data.get("files")
        if opened is None or not isinstance(files, dict):
            return
        said = str(event.data.get("text") or event.data.get("source") or "")
        # At once: later, the draft that this map answers may no longer be the newest.
        self._with_array(case_id, files.get("human"), partial(self._reconcile, case_id))
        task.short = False  # the rest of its files is read by these chores, one per tick
        show = partial(self._show_suggestion, case_id, said)
        self.later(partial(self._with_array, case_id, files.get("suggestion"), show))
        shade = partial(self._show_uncertainty, case_id)
        self.later(partial(self._with_array, case_id, files.get("uncertainty"), shade))
        for name, use in self.view_layers(case_id).items():
            self.later(partial(self._with_array, case_id, files.get(name), use))
        self.later(partial(shutil.rmtree, task.folder, ignore_errors=True))

    def _with_array(
        self, case_id: str, path: Json, use: Callable[[NDArray[Any] | None], None]
    ) -> None:
        """Hand the array in the file to `use`, None without one; not for a case that is gone."""
        nodes = self.nodes(case_id)
        if case_id not in self.open_cases or nodes.volume is None or nodes.drawn is None:
            return
        try:
            array = np.load(str(path), allow_pickle=False) if path else None
        except (OSError, ValueError) as error:
            text = _("{case}: what the programs say could not be shown: {why}")
            self.say(text.format(case=case_id, why=error), error=True)
            return
        use(array)

    def _reconcile(self, case_id: str, human: NDArray[Any] | None) -> None:
        """Bring what changed in the study into the drawn node where the user left it alone."""
        node, opened = self.nodes(case_id).drawn, self.open_cases[case_id]
        if human is None or opened.base is None:
            return
        base = opened.base.full()
        changed = human != base
        if changed.any():
            found = segments.read_layers(node, opened.grid, self.protocol())
            now = flat(found, opened.grid)
            if now is None:
                return  # overlapping segments: not ours to sort out
            merged = np.where(changed & (now == base), human, now)
            with self.writing_nodes():
                segments.set_map(node, opened.grid, merged.astype(np.uint16))
            self.changed("drawn")
            opened.base = KeptMap.of(human)

    def _show_suggestion(self, case_id: str, said: str, array: NDArray[Any] | None) -> None:
        nodes, opened = self.nodes(case_id), self.open_cases[case_id]
        node = nodes.suggestion
        if array is None:
            array = np.zeros(opened.grid.shape_zyx, np.uint16)
        if node is None and not array.any():
            return
        if node is None:
            name = self.require_study().case(case_id).name
            node = segments.create_suggestion(self.scene, nodes.volume, self.protocol(), name)
            self.binding_of_study.bind(case_id, "suggestion", node)
        with self.writing_nodes():
            segments.set_map(node, opened.grid, array)
        opened.suggested = _lines(array, opened.grid)
        opened.suggestion_text = said
        if case_id != self.current:
            node.SetDisplayVisibility(False)
        self.changed("suggestion", "ledger")

    def _show_uncertainty(self, case_id: str, array: NDArray[Any] | None) -> None:
        node = self.nodes(case_id).uncertainty
        wanted = self.uncertainty_shown and case_id == self.current
        if array is None and node is not None:  # nothing is suggested any more
            self.scene.RemoveNode(node)
        if array is None or (node is None and not wanted):
            return
        grid = self.open_cases[case_id].grid
        if node is None:
            name = _("{case} (uncertainty)").format(case=self.require_study().case(case_id).name)
            node = volumes.create_overlay(self.scene, grid, array, name, sure_below=_SURE_BELOW)
            self.binding_of_study.bind(case_id, "uncertainty", node)
        else:
            volumes.set_overlay(node, grid, array)
        if wanted:
            self.views.show_overlay(node)


def _lies_on(volume: Any, grid: Grid) -> bool:
    """False also for a volume without voxels, as a scene without its files has."""
    try:
        return bool(volumes.lies_on(volume, grid))
    except SemiSegError:
        return False


def _out_folder(folder: Path) -> Sequence[str]:
    return ("--out", str(folder / "view"))


def _lines(array: NDArray[Any], grid: Grid) -> dict[Any, NDArray[np.bool_]]:
    """Per plane, which slices hold a suggested voxel."""
    drawn = array != 0
    lines = {}
    for plane in PLANES:
        axis = plane_axis(grid, plane)
        lines[plane] = drawn.any(axis=tuple(a for a in range(3) if a != axis))
    return lines
