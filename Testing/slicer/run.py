"""Runs the GUI tests inside a real Slicer, and leaves with pytest's exit code.

    Slicer --testing --no-splash --additional-module-paths SemiSegModule \\
        --python-script Testing/slicer/run.py [arguments of pytest]

Needs pytest and hypothesis in Slicer's Python, once: `PythonSlicer -m pip install pytest
hypothesis`. The tests of the stand-in itself (`test_host_*`) are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NO_PYTEST = 4


def run() -> int:
    """Pytest's exit code, or 4 where Slicer's Python has no pytest."""
    try:
        import pytest
    except ImportError:
        sys.stderr.write(
            "Slicer's Python has no pytest: run PythonSlicer -m pip install pytest hypothesis\n"
        )
        return NO_PYTEST
    arguments = [argument for argument in sys.argv[1:] if argument != str(Path(__file__))]
    options = ["-c", str(HERE / "pytest.ini"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    return int(pytest.main([*options, *(arguments or [str(ROOT / "Testing" / "gui")])]))


def main() -> None:
    import qt
    import slicer

    # The application first has to finish its own start.
    qt.QTimer.singleShot(0, lambda: slicer.util.exit(run()))


if __name__ == "__main__":
    main()
