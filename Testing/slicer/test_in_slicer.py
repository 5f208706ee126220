"""The GUI tests once more, inside a real Slicer, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLICER = os.environ.get("SEMISEG_SLICER") or shutil.which("Slicer")


@pytest.mark.slow
@pytest.mark.skipif(SLICER is None, reason="no Slicer in PATH or SEMISEG_SLICER")
def test_gui_tests_pass_inside_slicer() -> None:
    modules = ("--additional-module-paths", str(ROOT / "SemiSegModule"))
    script = ("--python-script", str(ROOT / "Testing" / "slicer" / "run.py"))
    command = [str(SLICER), "--testing", "--no-splash", *modules, *script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
