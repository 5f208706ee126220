"""The panel's buttons with stand-ins for Qt, Slicer and the child process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from semiseg.errors import JobError
from semiseg.events import Event


class Widget:
    """Remembers properties and slots; every other method does nothing."""

    def __init__(self, text: str = "") -> None:
        self.text, self.enabled, self.currentPath = text, True, ""
        self.value = self.maximum = 0
        self.slots: list[Callable[..., None]] = []

    def connect(self, _signal: str, slot: Callable[..., None]) -> None:
        self.slots.append(slot)

    def __getattr__(self, name: str) -> Any:
        if name in ("clicked", "timeout", "currentPathChanged"):
            return SimpleNamespace(connect=self.slots.append)
        return lambda *_: None


class FakeJob:
    """A job that has one event to tell and then ends."""

    started: list[tuple[list[str], Path]] = []  # noqa: RUF012
    refuse = False

    def __init__(self) -> None:
        self.events = [Event(kind="progress", phase="train", step=3, total=9, message="loss 0.5")]
        self.cancelled = False

    @classmethod
    def start(cls, arguments: list[str], *, folder: Path) -> FakeJob:
        if cls.refuse:
            raise JobError("no Python for child processes")
        cls.started.append((arguments, folder))
        return cls()

    @property
    def running(self) -> bool:
        return bool(self.events)

    def poll(self) -> list[Event]:
        return [self.events.pop()] if self.events else []

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> Any:
    names = ("QTimer", "QDoubleSpinBox", "QFormLayout", "QProgressBar", "QLabel", "QPushButton")
    path_edit = type("ctkPathLineEdit", (Widget,), {"Dirs": 1})
    modules = {
        "qt": {name: type(name, (Widget,), {}) for name in names},
        "ctk": {"ctkPathLineEdit": path_edit},
        "slicer": {},
        "slicer.i18n": {"tr": lambda text: text},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "SemiSegModuleLib.widget", raising=False)
    monkeypatch.setattr(FakeJob, "started", [])
    monkeypatch.setattr(FakeJob, "refuse", False)
    widget = importlib.import_module("SemiSegModuleLib.widget")
    made = widget.EnginePanel(Widget(), FakeJob)
    yield made
    sys.modules.pop("SemiSegModuleLib.widget", None)


def click(button: Widget) -> None:
    button.slots[0]()


def choose(panel: Any, folder: str) -> None:
    panel.folderEdit.currentPath = folder
    panel.folderEdit.slots[0](folder)


def test_without_a_folder_only_the_demo_can_be_started(panel: Any) -> None:
    assert panel.demoButton.enabled
    others = (panel.propagateButton, panel.learnButton, panel.segmentButton, panel.exportButton)
    assert not any(button.enabled for button in (*others, panel.reportButton))
    assert not panel.cancelButton.enabled


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("propagateButton", ["propagate", "/study"]),
        ("segmentButton", ["predict", "/study"]),
        ("reportButton", ["report", "/study"]),
        ("demoButton", ["demo", "--folder", str(Path("/study") / "semiseg-demo")]),
    ],
)
def test_each_button_runs_its_command_in_the_study(
    panel: Any, name: str, command: list[str]
) -> None:
    choose(panel, "/study")
    click(getattr(panel, name))
    arguments, record = FakeJob.started[0]
    assert arguments == command
    assert record.parent == Path("/study/jobs")


def test_learning_takes_the_chosen_minutes(panel: Any) -> None:
    choose(panel, "/study")
    panel.minutesSpinBox.value = 2.5
    click(panel.learnButton)
    assert FakeJob.started[0][0] == ["train", "/study", "--minutes", "2.5"]


def test_while_a_step_runs_only_cancel_can_be_pressed_and_progress_is_shown(panel: Any) -> None:
    choose(panel, "/study")
    click(panel.learnButton)
    assert panel.cancelButton.enabled
    assert not panel.learnButton.enabled
    panel.onTimer()
    assert (panel.progressBar.value, panel.progressBar.maximum) == (1, 1)
    assert panel.messageLabel.text == "train loss 0.5"
    assert panel.learnButton.enabled
    assert not panel.cancelButton.enabled


def test_cancel_ends_the_job_and_says_that_results_are_kept(panel: Any) -> None:
    choose(panel, "/study")
    click(panel.learnButton)
    job = panel._job
    click(panel.cancelButton)
    assert job.cancelled
    assert "kept" in panel.messageLabel.text
    assert panel.learnButton.enabled


def test_a_step_that_cannot_start_shows_why(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeJob, "refuse", True)
    choose(panel, "/study")
    click(panel.learnButton)
    assert panel.messageLabel.text == "no Python for child processes"
    assert panel.learnButton.enabled


def test_closing_the_panel_ends_the_running_step(panel: Any) -> None:
    choose(panel, "/study")
    click(panel.learnButton)
    job = panel._job
    panel.close()
    assert job.cancelled
