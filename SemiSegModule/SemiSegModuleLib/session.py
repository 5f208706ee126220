"""Everything that the panel may ask for or do; no widgets."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import slicer

from semiseg.errors import SemiSegError
from semiseg.jobs import Job
from SemiSegModuleLib.session_cluster import ClusterPart
from SemiSegModuleLib.tasks import JobClass


class Session(ClusterPart):
    """The open study, its scene and its jobs.

    Call `tick` from one timer, ten times a second. What the user asks for is told back through
    `listen`; what is refused becomes `message`. Nothing here waits.
    """

    _ticking = False

    def __init__(
        self,
        scene: Any,
        *,
        segmentations_logic: Any,
        volumes_logic: Any,
        layout_manager: Any,
        parameters: Any,
        job_class: JobClass = Job,
    ) -> None:
        super().__init__(
            scene,
            segmentations_logic=segmentations_logic,
            volumes_logic=volumes_logic,
            layout_manager=layout_manager,
            parameters=parameters,
            job_class=job_class,
        )
        # With a study, the binding hears of these.
        self._scene_tags = [
            scene.AddObserver(event, _scene_observer(weakref.ref(self), method))
            for event, method in (
                (slicer.vtkMRMLScene.EndImportEvent, "on_scene_loaded"),
                (slicer.vtkMRMLScene.EndCloseEvent, "take_parameters"),
            )
        ]

    def tick(self) -> None:
        """Hear the jobs, write what is due, do one chore, tell the listeners."""
        if self._ticking:
            return  # a question to the user runs the timer, too
        self._ticking = True
        try:
            self._tick()
        except SemiSegError as error:
            self.say(str(error), error=True)
        finally:
            self._ticking = False
            self.tell()

    def _tick(self) -> None:
        if self.tasks is not None:
            self.tasks.tick()
        self.tick_message()
        if self.study is not None:
            self.tick_drafts()
            self.tick_slices()
        if self._chores:
            self._chores.popleft()()


def _scene_observer(session: weakref.ref[Session], method: str) -> Callable[..., None]:
    """Calls `method` while no study is open; the observer keeps no session alive."""

    def call(*_args: Any) -> None:
        found = session()
        if found is not None and found.study is None:
            getattr(found, method)()

    return call
