"""What every part of `Session` rests on: the open study, its jobs, messages, who is told."""

from __future__ import annotations

import functools
import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError, StudyError
from semiseg.events import Event
from semiseg.images.grid import Grid, Plane
from semiseg.study.merge import Mark
from semiseg.study.overview import CaseOverview
from semiseg.study.protocol import Protocol
from semiseg.study.study import Study
from SemiSegModuleLib.additions import Additions
from SemiSegModuleLib.kept_map import KeptMap
from SemiSegModuleLib.mrml.binding import SceneBinding
from SemiSegModuleLib.mrml.views import Views
from SemiSegModuleLib.tasks import JobClass, Task, Tasks, TaskState

P = ParamSpec("P")
R = TypeVar("R")
TOPICS = (
    "study",
    "cases",
    "case",
    "ledger",
    "structures",
    "task",
    "message",
    "drawn",
    "suggestion",
    "slice",
    "history",
    "cluster",
)
_MOST_ERRORS = 20
_NOTICE_S = 60.0


@dataclass
class Trouble:
    """A sentence for the user, and the text behind it for whoever looks closer."""

    text: str
    details: str = ""
    at: str = field(default_factory=lambda: time.strftime("%H:%M:%S"))


@dataclass
class OpenCase:
    """A case whose nodes are in the scene.

    `base` is the human map on which the study and the drawn node last agreed; `sent`
    holds the maps of drafts that were saved but not yet applied, by number. While an annotation
    is taken in, `held`, drafts wait: the drawn node does not show what is taken in yet.
    """

    grid: Grid
    base: KeptMap | None = None
    sent: dict[int, KeptMap | None] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    marks_sent: dict[int, int] = field(default_factory=dict)
    dirty_since: float | None = None
    touched_at: float = 0.0
    unapplied_since: float | None = None
    suggested: dict[Plane, NDArray[np.bool_]] = field(default_factory=dict)
    suggestion_text: str = ""
    held: bool = False
    conflict: str = ""
    segments_changed: bool = False


def told(
    action: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], R | None]:
    """An action whose refusal is a message to the user, and after which listeners are told."""

    @functools.wraps(action)
    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return action(self, *args, **kwargs)
        except SemiSegError as error:
            self.say(str(error), error=True)
        except Exception:
            # A click has no caller that could be told: without this only a console would know.
            self.say_unexpected()
        finally:
            self.tell()
        return None

    return run


class SessionCore:
    """State and helpers; the parts of `Session` add what can be done.

    `confirm` asks the user (the panel sets it; without one nothing is confirmed). `before_edit`
    is called before a program writes into the drawn node, so that the editor can keep an undo.
    `chosen` are the cases that are selected in the table.
    """

    def __init__(
        self,
        scene: Any,
        *,
        segmentations_logic: Any,
        volumes_logic: Any,
        layout_manager: Any,
        parameters: Any,
        job_class: JobClass,
    ) -> None:
        self.scene, self.parameters = scene, parameters
        self.segmentations_logic, self.volumes_logic = segmentations_logic, volumes_logic
        self.layout_manager = layout_manager
        self.views = Views(layout_manager, scene)
        self.study: Study | None = None
        self.current: str | None = None
        self.chosen: tuple[str, ...] = ()
        self.task: TaskState | None = None
        self.saved_at: str | None = None
        self.confirm: Callable[[str], bool] = lambda _question: False
        self.before_edit: Callable[[], None] = lambda: None
        self.binding: SceneBinding | None = None
        self.tasks: Tasks | None = None
        self.open_cases: dict[str, OpenCase] = {}
        self._job_class = job_class
        self._start_silent()

    def _start_silent(self) -> None:
        """Nobody listens, nothing was said, nothing waits."""
        self._listeners: list[Callable[[set[str]], None]] = []
        self._topics: set[str] = set()
        self._telling = False
        self._notice, self._notice_at = "", 0.0
        self._troubles: list[Trouble] = []
        self._trouble_shown = False
        self._rows: tuple[CaseOverview, ...] | None = None
        self._modality_shown: dict[str, str] = {}
        self._protocol_shown: Protocol | None = None
        self._additions = Additions()
        self._told_problems: set[str] = set()
        self._chores: deque[Callable[[], None]] = deque()

    def listen(self, heard: Callable[[set[str]], None]) -> None:
        """Call `heard` with the topics (see TOPICS) that changed: once per tick or action."""
        self._listeners.append(heard)

    def changed(self, *topics: str) -> None:
        """Note what listeners must be told at the next occasion."""
        self._topics.update(topics)

    def tell(self) -> None:
        """Tell the listeners what changed; what changes while they are told waits for a tick."""
        if self._telling or not self._topics:
            return
        topics, self._topics = self._topics, set()
        self._telling = True
        try:
            for heard in tuple(self._listeners):
                heard(topics)
        finally:
            self._telling = False

    @property
    def message(self) -> str:
        """The sentence at the top of the panel: an error until it is dismissed."""
        return self._troubles[-1].text if self.message_is_error else self._notice

    @property
    def message_is_error(self) -> bool:
        """Whether `message` tells of something that went wrong."""
        return self._trouble_shown

    @property
    def details(self) -> str:
        """The errors of this session, the newest first, with what the jobs printed."""
        parts = (
            f"{t.at}  {t.text}" + (f"\n\n{t.details}" if t.details else "")
            for t in reversed(self._troubles)
        )
        return "\n\n".join(parts)

    def say(self, text: str, error: bool = False, details: str = "") -> None:
        """Show a sentence; one that is no error does not take the place of an error."""
        if error:
            self._troubles = [*self._troubles[-_MOST_ERRORS:], Trouble(text, details)]
            self._trouble_shown = True
        else:
            self._notice, self._notice_at = text, time.monotonic()
        self.changed("message")

    def tick_message(self) -> None:
        """Take away a notice that was there long enough; an error stays until it is dismissed."""
        if self._notice and time.monotonic() - self._notice_at > _NOTICE_S:
            self._notice = ""
            self.changed("message")

    def say_unexpected(self) -> None:
        """Show that there is a defect, and log it; call where an exception is handled.

        The timer may meet the same one ten times a second: it is kept once, beside other errors.
        """
        details = traceback.format_exc()
        if self._troubles and self._troubles[-1].details == details:
            self._trouble_shown = True
            self.changed("message")
            return
        logging.exception("SemiSeg met a defect")
        text = _("Something unexpected went wrong; please report the details.")
        self.say(text, error=True, details=details)

    def dismiss(self) -> None:
        """Take the error off the message line; it stays in `details`."""
        self._trouble_shown = False
        self._notice = ""
        self.changed("message")
        self.tell()

    def protocol(self) -> Protocol:
        """The structures as they are shown: with changes that are still being written."""
        if self._protocol_shown is not None:
            return self._protocol_shown
        return Protocol() if self.study is None else self.study.protocol

    def busy(self) -> bool:
        """Whether long work runs or is about to."""
        return self.task is not None

    def require_study(self) -> Study:
        """StudyError when no study is open."""
        if self.study is None:
            raise StudyError(_("No study is open. Make a new one or open one first."))
        return self.study

    def require_current(self) -> str:
        """The current case; StudyError when there is none."""
        self.require_study()
        if self.current is None:
            raise StudyError(_("No case is chosen. Click a case in the table first."))
        return self.current

    def serve(self, task: Task) -> None:
        """Queue a short change of the study."""
        if self.tasks is None:
            raise StudyError(_("No study is open. Make a new one or open one first."))
        self.tasks.serve(task)
        self.changed("study")

    def nodes(self, case_id: str) -> Any:
        """The case's nodes in the scene (each may be None)."""
        return self.binding_of_study.nodes_of(case_id)

    @property
    def binding_of_study(self) -> SceneBinding:
        """The binding; StudyError when no study is open."""
        if self.binding is None:
            raise StudyError(_("No study is open. Make a new one or open one first."))
        return self.binding

    def command(self, *parts: str) -> list[str]:
        """A command line of the engine; "STUDY" stands for the study's folder."""
        folder = str(self.require_study().folder)
        return [folder if part == "STUDY" else part for part in parts]

    def reload_study(self) -> None:
        """Read anew what a job wrote, and show it."""
        if self.study is None:
            return
        try:
            self.study.reload()
        except SemiSegError as error:
            self.say(str(error), error=True)
        self.forget_read()
        self.changed("cases", "ledger", "study")

    def refresh_study(self) -> None:
        """As `reload_study`, for a change of one case: only what was written is read."""
        if self.study is not None:
            self.study.refresh()
            self.forget_read()
            self.changed("cases", "ledger")

    def forget_read(self) -> None:
        """What was read of the study may have changed; read it again when it is asked for."""
        self._rows = None

    def report_failure(self, task: Task, event: Event) -> None:
        """Show why a job failed; one that the user cancelled has not."""
        if task.cancelled or event.data.get("cause") == "cancelled":
            return
        self.say(event.message, error=True, details=task.details)

    def later(self, chore: Callable[[], None]) -> None:
        """Do `chore` in a tick of its own, so that none of them blocks the window for long."""
        self._chores.append(chore)

    @property
    def study_folder(self) -> Path | None:
        """Where the open study lies."""
        return None if self.study is None else self.study.folder
