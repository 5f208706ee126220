"""The panel: sections in the order of the work, one timer, one message line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

from SemiSegModuleLib.message_line import MessageLine
from SemiSegModuleLib.parameter_node import SemiSegModuleLogic
from SemiSegModuleLib.qt_helpers import set_margins
from SemiSegModuleLib.sections_list import SECTIONS
from SemiSegModuleLib.session import Session

TICK_MS = 100
_OPEN_AT_START = ("study", "cases", "annotate", "work")
# Where the panel is longer than the window, its top is out of sight from here.
_ECHO_IN = "work"
_NEED_STUDY = ("cases", "structures", "annotate", "work", "history", "export")


def make_session() -> Session:
    """A session on the application's scene, logics, slice views and parameter node."""
    logic = SemiSegModuleLogic()
    session = Session(
        slicer.mrmlScene,
        segmentations_logic=slicer.modules.segmentations.logic(),
        volumes_logic=slicer.modules.volumes.logic(),
        layout_manager=slicer.app.layoutManager(),
        parameters=logic.getParameterNode(),
    )
    session.renew_parameters = logic.getParameterNode
    return session


class Panel:
    """Builds the sections into `layout` and keeps them up to date.

    `resource_path` gives the path of a file under Resources. Call `close` when the module goes.
    """

    def __init__(
        self,
        layout: Any,
        session: Session | None = None,
        resource_path: Callable[[str], str] = str,
    ) -> None:
        self.session = make_session() if session is None else session
        self.session.confirm = lambda question: bool(slicer.util.confirmYesNoDisplay(question))
        self.session.open_page = show_file
        self.messageLine = MessageLine(self.session)
        self.messageEcho = MessageLine(self.session, echo=True)
        layout.addWidget(self.messageLine.widget)
        self.sections: dict[str, Any] = {}
        self.areas: dict[str, Any] = {}
        self._had_study: bool | None = None
        for section_class in SECTIONS:
            self._add(layout, section_class(self.session, resource_path))
        layout.addStretch(1)
        self._timer = qt.QTimer()
        self._timer.interval = TICK_MS
        self._timer.connect("timeout()", self.onTick)
        self.session.listen(self.onChanged)
        self._fold()
        self._timer.start()
        self.session.on_scene_loaded()

    def close(self) -> None:
        """Save what was drawn, end the jobs, delete Slicer's widgets in the sections."""
        self._timer.stop()
        self._safely(self.session.close)
        for section in reversed(self.sections.values()):
            self._safely(section.close)
        self.sections.clear()

    def enter(self) -> None:
        """The user came to the module."""
        self._call_each("enter")

    def exit(self) -> None:
        """The user went to another module; work goes on."""
        self._call_each("exit")

    def onTick(self, *_args: Any) -> None:
        self._safely(self.session.tick)
        self._call_each("tick")
        self.session.tell()

    def onChanged(self, topics: set[str]) -> None:
        if "study" in topics:
            self._safely(self._fold)
        if topics & {"study", "cluster"}:
            self._safely(self._show_titles)
        for part in (*self.sections.values(), self.messageLine, self.messageEcho):
            self._safely(part.refresh, topics)

    def _safely(self, call: Callable[..., None], *args: Any) -> None:
        """A defect of one part is told and logged, and keeps no other part from its turn."""
        try:
            call(*args)
        except Exception:
            self.session.say_unexpected()

    def _show_titles(self) -> None:
        for name, section in self.sections.items():
            self.areas[name].text = section.title()

    def _add(self, layout: Any, section: Any) -> None:
        area = ctk.ctkCollapsibleButton()
        area.text = section.title()
        wanted = getattr(section, "wants_attention", False)
        area.collapsed = section.name not in _OPEN_AT_START and not wanted
        inside = qt.QVBoxLayout(area)
        set_margins(inside, 3, 6, 3, 6)
        if section.name == _ECHO_IN:
            inside.addWidget(self.messageEcho.widget)
        inside.addWidget(section.widget)
        layout.addWidget(area)
        self.sections[section.name], self.areas[section.name] = section, area
        unfolded = getattr(section, "unfolded", None)
        if unfolded is not None:
            area.connect("contentsCollapsed(bool)", lambda collapsed: unfolded(on=not collapsed))

    def _fold(self) -> None:
        """Without a study only its section and the engine's matter; with one, the work's."""
        has_study = self.session.study is not None
        if has_study == self._had_study:
            return
        self._had_study = has_study
        unfolded = set(_OPEN_AT_START)
        if not self.session.protocol().structures:
            unfolded.add("structures")  # nothing can be drawn before there is one
        for name in _NEED_STUDY:
            self.areas[name].enabled = has_study
            self.areas[name].collapsed = not (has_study and name in unfolded)

    def _call_each(self, name: str) -> None:
        for section in self.sections.values():
            method = getattr(section, name, None)
            if method is not None:
                self._safely(method)


def show_file(path: Path) -> None:
    """Open a file or folder in the program that the system has for it."""
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))
