"""Making, opening and closing studies, and coming back to one with a scene."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from semiseg.errors import SemiSegError, StudyError
from semiseg.study.study import Study
from SemiSegModuleLib.additions import Additions
from SemiSegModuleLib.mrml.binding import Callbacks, SceneBinding
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_work import WorkPart
from SemiSegModuleLib.tasks import Tasks

_LEFT_BEHIND_S = 3600.0


class StudyPart(WorkPart):
    """The part of `Session` about the study as a whole."""

    missing_folder: Path | None = None
    _scene_tags: Sequence[int] = ()
    renew_parameters: Callable[[], Any] | None = None

    @told
    def create_study(self, folder: Path, name: str) -> bool:
        """Make a study in `folder` and open it; the one that is open is closed."""
        self._require_saved()
        made = Study.create(Path(folder), name=name)
        self._close_now()
        self._take(made)
        self.say(_("Made the study {name}. Add scans next.").format(name=made.name))
        return True

    @told
    def open_study(self, folder: Path) -> bool:
        """Open the study in `folder`; when it cannot be opened the present one stays open."""
        opened = Study.open(Path(folder))
        self._close_now()
        self._come_back_to(opened)
        return True

    @told
    def close_study(self) -> None:
        """Save what was drawn, end the jobs, take the study's nodes out of the scene."""
        self._close_now()

    def close(self) -> None:
        """The panel goes: save what was drawn and end the jobs; the scene stays as it is."""
        self._release()
        self._listeners.clear()
        for tag in self._scene_tags:
            self.scene.RemoveObserver(tag)
        self.views.close()

    def _close_now(self) -> None:
        if self.study is None:
            return
        self._require_saved()
        self._cancel_pending_work()
        for case_id in list(self.open_cases):
            self.remove_nodes(case_id)
        self._release()
        self.parameters.study_folder = self.parameters.current_case = ""

    def _require_saved(self) -> None:
        """What could not be saved stays in the scene under a name, if the user closes at all."""
        self.save_drafts_quietly(held=True)
        unsaved = [
            case_id
            for case_id, opened in self.open_cases.items()
            if opened.dirty_since is not None and self.nodes(case_id).drawn is not None
        ]
        if not unsaved:
            return
        text = _("What you drew in {cases} could not be saved: {why}")
        said = text.format(cases=", ".join(unsaved), why=self.message)
        if not self.confirm(said + " " + _("Close the study all the same?")):
            raise StudyError(said + " " + _("The study stays open."))
        for case_id in unsaved:
            node = self.nodes(case_id).drawn
            node.SetName(_("{name} (not saved)").format(name=node.GetName()))
            self.binding_of_study.unbind(node)

    def _release(self) -> None:
        """Forget the study; its nodes are not touched."""
        if self.study is None:
            return
        self._cancel_pending_work()
        with self.asking_nothing():
            self.save_drafts_quietly(held=True)
        if self.tasks is not None:
            self.tasks.close()
        if self.binding is not None:
            self.binding.close()
        self._forget()

    def _forget(self) -> None:
        self.study = self.tasks = self.binding = self.task = None
        self.current = self.saved_at = self._protocol_shown = None
        self.forget_read()
        self.open_cases.clear()
        self._modality_shown.clear()
        self._additions, self.waiting = Additions(), ()
        self._chores.clear()
        self.changed("study", "cases", "case", "ledger", "structures", "task", "drawn")
        self.changed("suggestion")

    def _take(self, study: Study) -> None:
        self.study, self.missing_folder = study, None
        self.forget_read()
        self.tasks = Tasks(study.jobs_dir, self._job_class)
        self.binding = SceneBinding(self.scene, study.id, self._callbacks())
        self.later(self._tidy_jobs)
        self.parameters.study_folder = str(study.folder)
        self.saved_at = time.strftime("%H:%M:%S")
        self.changed("study", "cases", "case", "ledger", "structures", "task", "drawn")
        self.changed("suggestion")

    def _tidy_jobs(self) -> None:
        """Take away copies of voxels that a window which crashed did not come to show."""
        if self.study is None:
            return
        for folder in self.study.jobs_dir.glob("*-view*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > _LEFT_BEHIND_S:
                    shutil.rmtree(folder, ignore_errors=True)

    def _callbacks(self) -> Callbacks:
        return Callbacks(
            on_drawn_modified=self.on_drawn_modified,
            on_segments_changed=self.on_segments_changed,
            on_node_removed=self.on_node_removed,
            on_scene_closing=self.on_scene_closing,
            on_scene_closed=self.on_scene_closed,
            on_scene_loaded=self.on_scene_loaded,
        )

    def _say_opened(self, study: Study) -> None:
        kept = study.drafts()
        self._told_problems = {str(problem) for problem in study.problems}
        for problem in study.problems:
            self.say(str(problem), error=True)
        if kept:
            text = _("Drawings of the last time were kept and are shown: {cases}.")
            self.say(text.format(cases=", ".join(kept)))
        else:
            text = _("Opened {name}: {count} cases.")
            self.say(text.format(name=study.name, count=len(study.cases)))

    def on_scene_closing(self) -> None:
        """The scene is about to be emptied: what was drawn must be safe before."""
        with self.asking_nothing():
            self.save_drafts_quietly(held=True)

    def on_scene_closed(self) -> None:
        """The nodes are gone: back to "no study"; the study stays on the disk."""
        if self.study is None:
            return
        folder = self.study.folder
        self._release_without_saving()
        self.take_parameters()
        # The parameter node outlives the scene; another scene must not open this study again.
        self.parameters.study_folder = self.parameters.current_case = ""
        self.say(_("The scene was closed. The study is safe in {folder}.").format(folder=folder))
        self.tell()

    def _release_without_saving(self) -> None:
        for case in self.open_cases.values():
            case.dirty_since = None
        self._release()

    @told
    def on_scene_loaded(self) -> None:
        """A scene was loaded: open the study that its parameter node names, bind its nodes."""
        self.take_parameters()
        if self.study is not None:
            self.parameters.study_folder = str(self.study.folder)
            self.adopt_nodes()
            return
        if self.parameters.study_folder:
            self.open_named_study()

    @told
    def open_named_study(self) -> None:
        """Open the study that the parameter node names; say so when its folder is gone."""
        folder = Path(self.parameters.study_folder)
        try:
            opened = Study.open(folder)
        except SemiSegError as error:
            self.missing_folder = folder
            self.say(str(error), error=True)
            self.changed("study")
            return
        self._come_back_to(opened)

    def _come_back_to(self, opened: Study) -> None:
        """Open it with what the scene has of it, at the case that the scene names."""
        case_id = self.parameters.current_case
        self._take(opened)
        self._say_opened(opened)
        self.adopt_nodes()
        if case_id in opened.cases:
            self.later(lambda: self.select(case_id))

    def take_parameters(self) -> None:
        """Find the scene's parameter node, with the usual choices where it holds none."""
        if self.renew_parameters is not None:
            self.parameters = self.renew_parameters()
            self.changed("study")
