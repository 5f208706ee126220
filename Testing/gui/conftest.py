"""Fixtures of the tests of the panel: the application, its scene, the panel."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]


def _application() -> Any:
    """The real application where there is one, else the stand-in; a reason to skip else."""
    try:
        import slicer
    except ImportError as error:
        return f"slicer-core, or a system library that it needs, is missing ({error})"
    if hasattr(slicer, "app"):
        return slicer.app
    # Only now: slicer-core takes any folder named slicer on the path for a part of itself.
    sys.path.append(str(ROOT / "Testing"))
    try:
        from host import install

        return install()
    except ImportError as error:
        return f"PySide6, or a system library that it needs, is missing ({error})"


APPLICATION = _application()
for folder in (ROOT / "Testing", ROOT / "SemiSegModule"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
IS_REAL = not isinstance(APPLICATION, str) and "host.application" not in sys.modules


class SkippedModule(pytest.Module):
    """A file of tests that cannot run here."""

    def collect(self) -> Any:
        if IS_REAL:
            pytest.skip("tests of the stand-in", allow_module_level=True)
        pytest.skip(str(APPLICATION), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:
    of_stand_in = IS_REAL and module_path.name.startswith("test_host_")
    if isinstance(APPLICATION, str) or of_stand_in:
        return SkippedModule.from_parent(parent, path=module_path)
    return None


@pytest.fixture(scope="module", autouse=True)
def rubbish_of_module() -> Iterator[None]:
    """Nothing of Qt that these tests leave behind is freed later, by another thread."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def rubbish_of_test() -> Iterator[None]:
    """Unreachable cycles are freed here, after the test and in the GUI thread.

    Python looks for them in whichever thread happens to allocate, that of pytest-xdist's messages
    too, and Qt does not allow that a widget or a timer is destroyed outside the GUI thread.
    """
    gc.disable()
    yield
    gc.collect(1)
    gc.enable()


@pytest.fixture(scope="session")
def application() -> Any:
    """`slicer.app`, of the real Slicer when the tests run inside it."""
    return APPLICATION


@pytest.fixture
def scene(application: Any) -> Iterator[Any]:
    """The application's scene, closed before and after."""
    import slicer

    slicer.mrmlScene.Clear(0)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def panel(scene: Any) -> Iterator[Callable[..., Any]]:
    """Makes the module's panel in a window of its own; closed afterwards.

    Arguments are those of `SemiSegModuleLib.widget.Panel` after its layout. The window is
    `panel().window`.
    """
    import qt
    import slicer

    from SemiSegModuleLib.widget import Panel

    made: list[Any] = []

    def make(*arguments: Any, **named: Any) -> Any:
        window = slicer.qMRMLWidget()
        window.setMRMLScene(slicer.mrmlScene)
        window.setLayout(qt.QVBoxLayout())
        named.setdefault("resource_path", lambda name: str(ROOT / "Resources" / name))
        result = Panel(window.layout(), *arguments, **named)
        result.window = window
        window.resize(500, 900)
        window.show()
        made.append(result)
        return result

    yield make
    for one in made:
        one.close()
        one.window.delete()


@pytest.fixture
def module_widget(scene: Any) -> Iterator[Any]:
    """The module as the application loads it: its Python widget; unloaded afterwards."""
    import slicer

    if IS_REAL:
        yield slicer.util.getModuleWidget("SemiSegModule")
        return
    from host.module_manager import load_module, unload_module

    load_module(ROOT / "SemiSegModule" / "SemiSegModule.py")
    yield slicer.util.getModuleWidget("SemiSegModule")
    unload_module("SemiSegModule")


@pytest.fixture
def spin(application: Any) -> Callable[..., bool]:
    """`spin(condition, seconds=10)`: lets the event loop run until the condition holds."""

    def run(condition: Callable[[], Any] = lambda: False, seconds: float = 10.0) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            application.processEvents()
            time.sleep(0.002)
        return True

    return run


@pytest.fixture
def paint(application: Any) -> Callable[..., None]:
    """`paint(node, segment_id, volume, array_zyx)`: adds voxels to a segment as a stroke does."""
    from host.strokes import stroke

    return stroke


@pytest.fixture
def jobs() -> Any:
    """Short changes run inline, long work says what the test tells it (see `host.jobs`)."""
    from host.jobs import Jobs

    return Jobs()


@pytest.fixture
def live_session(scene: Any) -> Iterator[Callable[..., Any]]:
    """Makes sessions on the scene, without widgets; `job_class` as in `Session`."""
    import slicer

    from SemiSegModuleLib.parameter_node import SemiSegModuleLogic
    from SemiSegModuleLib.session import Session

    made: list[Any] = []

    def make(job_class: Any) -> Any:
        logic = SemiSegModuleLogic()
        session = Session(
            scene,
            segmentations_logic=slicer.modules.segmentations.logic(),
            volumes_logic=slicer.modules.volumes.logic(),
            layout_manager=slicer.app.layoutManager(),
            parameters=logic.getParameterNode(),
            job_class=job_class,
        )
        session.renew_parameters = logic.getParameterNode
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture
def until() -> Callable[..., bool]:
    """`until(session, condition)`: ticks until it holds; without a condition, until idle."""

    def run(session: Any, condition: Callable[[], Any] | None = None, seconds: float = 20) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            session.tick()
            idle = session.tasks is None or (session.tasks.idle and not session._chores)
            if condition() if condition is not None else idle:
                return True
            time.sleep(0.002)
        return False

    return run
