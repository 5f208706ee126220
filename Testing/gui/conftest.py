"""Fixtures of the tests of the panel: the application, its scene, the panel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "Testing", ROOT / "SemiSegModule"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _application() -> Any:
    """The real application where there is one, else the stand-in; a reason to skip else."""
    try:
        import slicer
    except ImportError as error:
        return f"slicer-core is missing ({error}); pip install slicer-core"
    if hasattr(slicer, "app"):
        return slicer.app
    try:
        from host import install

        return install()
    except ImportError as error:
        return f"PySide6, or a system library that it needs, is missing ({error})"


APPLICATION = _application()
if isinstance(APPLICATION, str):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def application() -> Any:
    """`slicer.app`, of the real Slicer when the tests run inside it."""
    if isinstance(APPLICATION, str):
        pytest.skip(APPLICATION)
    return APPLICATION


@pytest.fixture
def scene(application: Any) -> Iterator[Any]:
    """The application's scene, closed before and after."""
    import slicer

    slicer.mrmlScene.Clear(0)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(0)
