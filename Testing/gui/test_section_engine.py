"""The Engine section: real widgets, a real child, and installers that only remember."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

RESOURCES = Path(__file__).parents[2] / "Resources"


class FakeSession:
    """What the section uses of a session."""

    def __init__(self) -> None:
        self.study: Any = None
        self.said: list[tuple[str, bool]] = []
        self.works = False

    def busy(self) -> bool:
        return self.works

    def say(self, text: str, *, error: bool = False) -> None:
        self.said.append((text, error))


class Recorder:
    """An installer that installs into `found`, or fails as pip does."""

    def __init__(self, found: dict[str, str], *, extension: bool = True) -> None:
        self.found, self.extension = found, extension
        self.calls: list[tuple[Any, ...]] = []
        self.fails = ""

    def testing(self) -> bool:
        return False

    def torch_extension_there(self) -> bool:
        return self.extension

    def install_torch(self, requirement: str, backend: str | None) -> bool:
        self.calls.append(("torch", requirement, backend))
        self.found["torch"] = "2.9.0"
        return True

    def install(self, arguments: Sequence[str], constraints: Path) -> None:
        self._install("index", arguments)

    def install_wheels(self, arguments: Sequence[str], folder: Path, constraints: Path) -> None:
        self._install(folder, arguments)

    def _install(self, where: Any, arguments: Sequence[str]) -> None:
        self.calls.append((where, *arguments))
        if self.fails:
            print(self.fails)  # noqa: T201  (Slicer prints what pip says)
            raise RuntimeError("pip failed")
        self.found.update({Requirement(line).name: "99.0" for line in arguments})


class Ended:
    """A job class whose children end at once with one event."""

    def __init__(self, event: Any) -> None:
        self.event, self.started = event, []

    def start(self, arguments: Sequence[str], *, folder: Path) -> Any:
        self.started.append(list(arguments))
        events = [self.event]
        return SimpleNamespace(
            running=True, stderr_tail="", cancel=lambda *_: None, poll=lambda: events[:1]
        )


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def make(application: Any, asked: list[str]) -> Iterator[Callable[..., Any]]:
    """Makes the section on a Slicer in which `found` is installed besides Slicer's own."""
    from importlib.metadata import PackageNotFoundError

    from SemiSegModuleLib.dependencies import look
    from SemiSegModuleLib.sections.engine import EngineSection

    made: list[Any] = []

    def build(
        found: dict[str, str] | None = None,
        *,
        answer: bool = True,
        extension: bool = True,
        **settings: Any,
    ) -> Any:
        there = {"numpy": "2.4.6", "scipy": "1.17.1", "SimpleITK": "2.5.5", **(found or {})}

        def version(name: str) -> str:
            if name not in there:
                raise PackageNotFoundError(name)
            return there[name]

        def confirm(text: str, **_options: Any) -> bool:
            asked.append(text)
            return answer

        section = EngineSection(
            FakeSession(),
            lambda name: str(RESOURCES / name),
            installer=Recorder(there, extension=extension),
            confirm=confirm,
            look_at=lambda path: look(path, version),
            **settings,
        )
        made.append(section)
        return section

    yield build
    for section in made:
        section.close()


def cells(section: Any) -> dict[str, tuple[str, ...]]:
    table = section.table
    rows = [
        [table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)
    ]
    return {row[0]: tuple(row[1:]) for row in rows}


LISTED = (RESOURCES / "requirements.txt").read_text(encoding="utf-8").splitlines()
ALL = dict.fromkeys(
    ["torch", *(line.split(">=")[0] for line in LISTED if line and not line.startswith("#"))],
    "99.0",
)


def test_what_is_missing_is_shown_with_range_and_version(make: Callable[..., Any]) -> None:
    section = make({"torch": "2.9.0+cpu", "monai": "0.9"})
    shown = cells(section)
    assert shown["torch"] == (">=2.2", "2.9.0+cpu", "installed")
    assert shown["monai"] == (">=1.4", "0.9", "to be replaced")
    assert shown["rich"] == (">=13", "-", "missing")
    assert shown["numpy"][2] == "part of Slicer"
    assert section.stateLabel.text.startswith("Missing or too old: monai, safetensors")
    assert section.installButton.enabled
    assert not section.testButton.enabled


def test_with_everything_installed_only_the_test_is_offered(make: Callable[..., Any]) -> None:
    section = make(ALL)
    assert section.ready
    assert not section.installButton.enabled
    assert not section.extensionsButton.visible
    assert section.testButton.enabled


def test_a_panel_that_lacks_packages_says_so_once(make: Callable[..., Any]) -> None:
    section = make()
    assert section.wants_attention
    section.enter()
    section.enter()
    (said,) = section._session.said
    assert "Press Install. See the section Engine." in said[0]
    complete = make(ALL)
    complete.enter()
    assert not complete.wants_attention
    assert complete._session.said == []


def test_opening_and_looking_installs_and_imports_nothing(make: Callable[..., Any]) -> None:
    before = set(sys.modules)
    section = make()
    section.refresh({"study", "task"})
    assert section._installer.calls == []
    assert not {"torch", "monai", "safetensors"} & (set(sys.modules) - before)


def test_install_asks_with_size_and_does_it_after_yes(
    make: Callable[..., Any], asked: list[str]
) -> None:
    ended = Ended(None)
    section = make(job_class=ended)
    section.installButton.click()
    assert "About" in asked[0]
    assert "monai>=1.4" in asked[0]
    calls = section._installer.calls
    assert calls[0] == ("torch", ">=2.2", None)
    assert calls[1][:2] == ("index", "monai>=1.4")
    assert section.ready
    assert section._session.said[-1] == ("Installed. Now the device is tested.", False)
    assert ended.started[0][0] == "doctor"
    assert not section.installButton.enabled


def test_a_no_changes_nothing(make: Callable[..., Any], asked: list[str]) -> None:
    section = make(answer=False)
    section.installButton.click()
    assert len(asked) == 1
    assert section._installer.calls == []
    assert section.installButton.enabled


def test_the_processors_build_can_be_chosen(make: Callable[..., Any], asked: list[str]) -> None:
    section = make(job_class=Ended(None))
    section.backendBox.currentIndex = 1
    section.installButton.click()
    assert "processor alone" in asked[0]
    assert section._installer.calls[0] == ("torch", ">=2.2", "cpu")


def test_a_missing_extension_is_told_and_can_be_reached(
    make: Callable[..., Any], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from SemiSegModuleLib.sections import engine

    opened: list[bool] = []
    monkeypatch.setattr(engine, "_extensions_manager", lambda: lambda: opened.append(True))
    section = make(extension=False)
    section.widget.show()
    assert section.extensionsButton.visible
    section.installButton.click()
    text, error = section._session.said[-1]
    assert error
    assert "Extensions Manager" in text
    assert asked == []
    section.extensionsButton.click()
    assert opened == [True]


def test_wheels_come_from_a_folder_with_any_name(
    make: Callable[..., Any], asked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "Räder für OP 1"
    folder.mkdir()
    section = make(extension=False, job_class=Ended(None))
    section.wheelsEdit.currentPath = str(folder)
    section.installButton.click()
    assert "holds no wheels" in section._session.said[-1][0]
    (folder / "monai-1.5-py3-none-any.whl").touch()
    section.installButton.click()
    assert "Nothing is downloaded" in asked[0]
    assert section._installer.calls[0][:3] == (folder, "torch>=2.2", "monai>=1.4")


def test_a_wheel_folder_that_is_gone_is_told(make: Callable[..., Any], tmp_path: Path) -> None:
    section = make()
    section.wheelsEdit.currentPath = str(tmp_path / "gone")
    section.installButton.click()
    assert "does not exist" in section._session.said[-1][0]


def test_a_failure_is_told_with_pips_reason_and_can_be_repeated(make: Callable[..., Any]) -> None:
    section = make({"torch": "2.9"})
    section._installer.fails = "ERROR: [Errno 28] No space left on device"
    section.installButton.click()
    text, error = section._session.said[-1]
    assert error
    assert text.startswith("The disk is full")
    assert "No space left on device" in section.resultLabel.text
    assert section.installButton.enabled


def test_nothing_is_installed_while_a_child_works(make: Callable[..., Any]) -> None:
    section = make()
    section._session.works = True
    section.refresh({"task"})
    assert not section.installButton.enabled
    section._session.works = False
    section.refresh({"task"})
    assert section.installButton.enabled


def test_a_gpu_that_fails_is_told_with_the_reason(make: Callable[..., Any]) -> None:
    from semiseg.events import Event

    machine = {
        "trial": {"device": "cpu", "name": "CPU, 2 threads", "milliseconds": 0.25},
        "gpu": {"name": "GT 1", "trouble": "no kernel image is available", "memory_bytes": 1},
        "memory_bytes": 16 * 2**30,
        "free_memory_bytes": 8 * 2**30,
        "free_disk_bytes": 100 * 2**30,
        "problems": ["The GPU GT 1 is not used"],
    }
    event = Event(kind="result", phase="end", data={"machine": machine})
    section = make(ALL, job_class=Ended(event))
    section.testButton.click()
    assert not section.testButton.enabled
    section.tick()
    text = section.resultLabel.text
    assert "CPU, 2 threads: ran a test kernel in 0.2 ms" in text
    assert "GT 1 is there but not used: no kernel image is available" in text
    assert "8.0 of 16.0 GB free. Disk: 100.0 GB" in text
    assert section.testButton.enabled


def test_a_gpu_that_works_is_named_with_its_memory(application: Any) -> None:
    from SemiSegModuleLib.engine_report import told_by_doctor

    text = told_by_doctor(
        {
            "trial": {"device": "cuda", "name": "RTX 9", "milliseconds": 0.5},
            "gpu": {"name": "RTX 9", "trouble": None, "memory_bytes": 2**33, "free_bytes": 2**32},
        }
    )
    assert "In use: RTX 9: ran a test kernel in 0.5 ms" in text
    assert "GPU memory: 4.0 of 8.0 GB free" in text
    assert "update SemiSeg" in told_by_doctor(None)


def test_a_broken_engine_is_told(make: Callable[..., Any]) -> None:
    from semiseg.events import Event

    event = Event(kind="error", phase="end", message="DLL load failed", data={"cause": "told"})
    section = make(ALL, job_class=Ended(event))
    section.testButton.click()
    section.tick()
    assert section.resultLabel.text == "The engine does not work: DLL load failed"
    assert section._session.said[-1][1]


def test_the_real_child_computes_on_the_device_in_use(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    section = make(ALL)
    section._session.study = SimpleNamespace(folder=tmp_path)
    section.testButton.click()
    deadline = time.monotonic() + 60
    while not section.testButton.enabled and time.monotonic() < deadline:
        section.tick()
        time.sleep(0.02)
    assert "ran a test kernel in" in section.resultLabel.text
    assert "Disk:" in section.resultLabel.text
    folder = section._tasks._folder
    section.close()
    assert not folder.exists()
