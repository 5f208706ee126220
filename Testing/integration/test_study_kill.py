"""Writers killed at random moments: the study opens, and all that was confirmed is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.case import PROTECTED, Origin
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

_GRID = Grid(size_xyz=(16, 14, 12), spacing_mm_xyz=(1.0, 1.5, 4.0))
# Forks one writer per line of input, so that imports are paid once; the writers report what was
# confirmed to them in one write each.
_SERVER = """
import os, sys
from pathlib import Path
import numpy as np
from semiseg.study.case import GateRecord
from semiseg.study.study import Study

def write(folder, log, seed):
    rng = np.random.default_rng(seed)
    study = Study.open(folder)
    case = study.cases["a"]
    gate = GateRecord(verdict="accept", score=1.0)
    while True:
        # Without a word on structure 2, of which slice 0 is drawn and must outlive everything.
        drawn = np.zeros(case.grid.shape_zyx, np.uint16)
        mark = int(rng.integers(1, drawn[1:].size))
        drawn[1:].reshape(-1)[:mark] = 1
        kind = str(rng.choice(["annotate", "propagate", "predict", "model", "modality"]))
        weights = np.full(drawn.shape, 0.5, np.float32)
        if kind == "annotate":
            plane_slice = int(rng.integers(1, 4))
            number = study.annotate(
                "a", drawn, plane="axial", indices=[plane_slice], structure_ids=[1]
            )
        elif kind == "propagate":
            number = study.propagated(
                "a", drawn, weights, structure_ids=[1, 2], gate=gate, info={"mark": mark}
            )
        elif kind == "predict":
            number = study.predicted("a", drawn, weights, model_id=1, info={"mark": mark})
        elif kind == "model":
            number = study.add_model(
                lambda path: (path / "weights").write_bytes(bytes(mark)), {"mark": mark}
            )
        else:
            number = 0
            study.set_modality("a", str(rng.choice(["CT", "MR"])))
        os.write(log, f"{kind} {number} {mark}\\n".encode())

folder = Path(sys.argv[1])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        write(folder, log, int(line))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with the case "a", whose first axial slice is drawn as structure 2."""
    noise = np.random.default_rng(0).normal(0, 300, _GRID.shape_zyx)
    write_image(tmp_path / "scan.nii.gz", noise.astype(np.int16), _GRID)
    protocol = parse_structures("liver,spleen")
    study = Study.create(tmp_path / "my study", name="s", protocol=protocol)
    study.add_case(tmp_path / "scan.nii.gz", case_id="a", modality="CT")
    drawn = np.zeros(_GRID.shape_zyx, np.uint16)
    drawn[0] = 2
    study.annotate("a", drawn, plane="axial", indices=[0])
    return study.folder


@pytest.fixture
def servers(folder: Path, tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that fork writers."""
    command = [sys.executable, "-c", _SERVER, str(folder), str(tmp_path / "log")]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    yield started
    for server in started:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=30)
        assert server.stdout is not None
        server.stdout.close()


def _start(server: subprocess.Popen[str], seed: int) -> int:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{seed}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def _await_end(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    assert server.stdout.readline() == "ended\n"


def _require_confirmed(study: Study, line: str) -> None:
    kind, number, mark = line.split()
    if kind == "model":
        record = study.model(int(number))
        assert (record.folder / "weights").stat().st_size == int(mark)
    elif kind == "predict":
        prediction = study.prediction("a", int(number))
        assert prediction is not None
        assert int((prediction.array == 1).sum()) == int(mark)
    elif kind in ("annotate", "propagate"):
        label = study.label("a", int(number))
        assert label is not None
        assert (label.array[0] == 2).all()
        assert (label.origin[0] == Origin.HUMAN).all()
        if kind == "annotate":
            drawn = label.array[1:].reshape(-1)[: int(mark)]
            assert (drawn == 1).all()
            assert np.isin(label.origin[1:].reshape(-1)[: int(mark)], PROTECTED).all()


def _require_intact(folder: Path, lines: list[str]) -> Study:
    study = Study.open(folder)
    assert [p for p in study.problems if p.path != study.journal.path] == []
    assert study.cases["a"].modality in ("CT", "MR")
    for line in lines:
        _require_confirmed(study, line)
    return study


@pytest.mark.parametrize("n_writers", [1, 2])
def test_killed_writers_lose_nothing_that_was_confirmed(
    folder: Path, servers: list[subprocess.Popen[str]], tmp_path: Path, n_writers: int
) -> None:
    rng = random.Random(n_writers)
    log, checked, found_locked = tmp_path / "log", 0, 0
    for kill in range(25):
        pids = [_start(server, 100 * kill + n) for n, server in enumerate(servers[:n_writers])]
        time.sleep(rng.uniform(0.0, 0.4))
        for pid, server in zip(pids, servers, strict=False):
            os.kill(pid, signal.SIGKILL)
            _await_end(server)
        found_locked += (folder / "lock.json").exists()
        lines = log.read_text().splitlines() if log.exists() else []
        study = _require_intact(folder, lines[checked:])
        checked = len(lines)
        start = time.monotonic()
        with study.writing():
            pass
        assert time.monotonic() - start < 5
    assert checked > 5
    assert found_locked > 1
    _require_intact(folder, log.read_text().splitlines()).annotate(
        "a", np.full(_GRID.shape_zyx, 2, np.uint16)
    )
    for part in ("", "backups", "backups/cases", "cases/a", "cases/a/labels"):
        assert not [p for p in (folder / part).iterdir() if p.name.startswith(".")]
