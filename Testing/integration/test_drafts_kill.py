"""Strokes survive a kill at any moment, of who draws and of who merges."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

_GRID = Grid(size_xyz=(16, 14, 12), spacing_mm_xyz=(1.0, 1.5, 4.0))
_ROUNDS = 10
# Forks who draws and who merges once per line of input, so that imports are paid once. Drawing
# number n has n voxels; what was confirmed is written down in one write each.
_SERVER = """
import os, sys
from pathlib import Path
import numpy as np
from semiseg.study.ledger import SliceState
from semiseg.study.merge import Mark
from semiseg.study.study import Study

def draw(folder, log, n):
    study = Study.open(folder)
    shape = study.cases["a"].grid.shape_zyx
    while True:
        n += 1
        drawn = np.zeros(shape, np.uint16)
        drawn.reshape(-1)[:n] = 1
        marks = [Mark(plane="axial", indices=(n % 3,), state=SliceState.DONE, ids=(1, 2))]
        study.save_draft("a", [drawn], marks=marks)
        os.write(log, f"{n}\\n".encode())

def merge(folder):
    study = Study.open(folder)
    while True:
        study.apply_draft("a")

folder = Path(sys.argv[1])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin:
    pids = []
    for work in (lambda: draw(folder, log, int(line)), lambda: merge(folder)):
        pid = os.fork()
        if pid == 0:
            work()
        pids.append(pid)
    print(*pids, flush=True)
    for pid in pids:
        os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(0, 200, _GRID.shape_zyx)
    write_image(tmp_path / "a.nii.gz", noise.astype(np.int16), _GRID)
    study = Study.create(tmp_path / "study", name="s", protocol=parse_structures("liver,spleen"))
    study.add_case(tmp_path / "a.nii.gz", case_id="a")
    return study.folder


def test_no_stroke_is_lost_when_drawing_and_merging_are_killed(
    folder: Path, tmp_path: Path
) -> None:
    log, rng = tmp_path / "log", random.Random(0)
    log.touch()
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, folder, log],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for _ in range(_ROUNDS):
            print(_confirmed(log), file=server.stdin, flush=True)
            pids = [int(text) for text in server.stdout.readline().split()]
            time.sleep(rng.uniform(0.02, 0.4))
            rng.shuffle(pids)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            assert server.stdout.readline() == "ended\n"
            _require_whole(folder, _confirmed(log))
        server.stdin.close()
    assert _confirmed(log) > _ROUNDS


def _confirmed(log: Path) -> int:
    lines = log.read_text().split()
    return int(lines[-1]) if lines else 0


def _require_whole(folder: Path, confirmed: int) -> None:
    """The drawing that was confirmed last, or the one after it, is there and can be merged."""
    study = Study.open(folder)
    draft = study.draft("a")
    shown = study.human_map("a").array if draft is None else draft.full()
    drawn = int(np.count_nonzero(shown))
    assert drawn in (confirmed, confirmed + 1)
    assert np.array_equal(shown, _drawing(drawn))
    study.apply_draft("a")
    assert np.array_equal(study.human_map("a").array, _drawing(drawn))
    assert [p for p in study.problems if "journal" not in p.message] == []


def _drawing(n: int) -> NDArray[np.uint16]:
    drawn = np.zeros(_GRID.shape_zyx, np.uint16)
    drawn.reshape(-1)[:n] = 1
    return drawn
