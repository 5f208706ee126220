"""The command line as real processes: speed of help, exit codes, Ctrl-C, events, locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from semiseg.errors import ExitCode
from semiseg.events import Event, parse_line
from semiseg.images.grid import Grid
from semiseg.images.labels import write_label
from semiseg.images.reading import write_image
from semiseg.jobs import Job
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

GRID = Grid(
    size_xyz=(24, 22, 20),
    spacing_mm_xyz=(3.0, 3.5, 4.0),
    origin_mm_lps=(5.0, -7.0, 11.0),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
HEAVY = ("torch", "monai", "SimpleITK", "scipy", "numpy", "jinja2", "matplotlib", "rich", "psutil")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def semiseg(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semiseg", *map(str, arguments)]
    return subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False, **more
    )


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A running command, killed at the end whatever happens."""
    command = [sys.executable, "-m", "semiseg", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of a CT and an MR of one phantom; both annotated on three slices."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[: GRID.shape_zyx[0], : GRID.shape_zyx[1], : GRID.shape_zyx[2]]
    body = ((y - 11) ** 2 + (x - 12) ** 2) < 100
    organ = ((z - 10) ** 2 + (y - 11) ** 2 + (x - 12) ** 2) < 30
    label = organ.astype(np.uint16)
    study = Study.create(tmp_path / "st udy é", name="phantom", protocol=parse_structures("liver"))
    for name, air, tissue, inside in (("ct", -1000.0, 40.0, 110.0), ("mr", 2.0, 200.0, 500.0)):
        image = np.where(organ, inside, np.where(body, tissue, air))
        image = image + rng.normal(scale=4, size=image.shape)
        write_image(tmp_path / f"{name}.nii.gz", image.astype(np.float32), GRID)
        study.add_case(
            tmp_path / f"{name}.nii.gz", case_id=name, modality="CT" if name == "ct" else "MR"
        )
        drawn = np.zeros_like(label)
        drawn[[7, 10, 13]] = label[[7, 10, 13]]
        study.annotate(name, drawn, plane="axial", indices=(7, 10, 13))
    write_label(tmp_path / "full.nii.gz", label, GRID)
    return study.folder


def wait_for_work(process: subprocess.Popen[str]) -> None:
    """Read progress until the stage itself speaks."""
    assert process.stderr is not None
    for line in process.stderr:
        if not line.startswith("start"):
            return


def events_in(text: str) -> list[Event]:
    return [parse_line(line) for line in text.splitlines()]


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, io, contextlib, time\n"
        "from semiseg.cli.app import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    codes = [run(a.split()) for a in ('--help', 'train --help', 'study add --help')]\n"
        f"print(codes, [m for m in {HEAVY!r} if m in sys.modules], time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, seconds = done.stdout.rsplit(maxsplit=1)
    assert found == "[0, 0, 0] []"
    # Processor time, since other work on the machine must not fail this test.
    assert float(seconds) < 0.5


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["study", "status", "no/such/study"], ExitCode.STUDY),
        (["train", "no/such/study"], ExitCode.STUDY),
        (["train", "x", "--minutes", "-1"], ExitCode.USAGE),
        (["nonsense"], ExitCode.USAGE),
        (["--version"], ExitCode.OK),
    ],
)
def test_exit_codes_and_one_sentence_on_stderr(arguments: list[str], code: int) -> None:
    done = semiseg(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith("Error: ")
        assert done.stdout == ""


def test_json_stream_is_events_only_and_ends_with_one_result(folder: Path) -> None:
    done = semiseg("study", "status", folder, "--json")
    (event,) = events_in(done.stdout)
    assert (event.kind, done.returncode, done.stderr) == ("result", 0, "")
    done = semiseg("--json", "study", "status", folder / "none")
    (event,) = events_in(done.stdout)
    assert (event.kind, event.data["exit_code"]) == ("error", ExitCode.STUDY)
    done = semiseg("--json", "annotate")
    assert events_in(done.stdout)[-1].data["error"] == "UsageError"


def test_json_without_the_child_flag_does_not_end_with_stdin(folder: Path) -> None:
    done = semiseg("--json", "study", "check", folder, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert events_in(done.stdout)[-1].kind == "result"


def test_a_full_disk_for_stdout_is_a_sentence(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "semiseg", "study", "status", str(folder)]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT
        )
    assert done.returncode in (ExitCode.STORAGE, 120)
    assert "Traceback" not in done.stderr


def test_a_locked_study_names_its_owner_and_nothing_is_written(
    folder: Path, tmp_path: Path
) -> None:
    study = Study.open(folder)
    with study.writing():
        done = semiseg("annotate", folder, "ct", tmp_path / "full.nii.gz", "--done", "9")
    assert done.returncode == ExitCode.STUDY
    assert str(os.getpid()) in done.stderr
    assert Study.open(folder).label_versions("ct") == (1,)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_training_leaves_the_study_sound(folder: Path) -> None:
    with started("train", folder, "--minutes", 5, "--device", "cpu") as process:
        wait_for_work(process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CANCELLED
    assert said.splitlines()[-1].startswith("Stopped. Everything confirmed so far is kept")
    assert "Traceback" not in said
    assert Study.open(folder).check() == ()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_propagation_leaves_the_study_sound(folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=GRID.shape_zyx) * 50
    write_image(tmp_path / "other.nii.gz", noise.astype(np.float32), GRID)
    Study.open(folder).add_case(tmp_path / "other.nii.gz", case_id="other", modality="CT")
    arguments = ("propagate", folder, "other", "--device", "cpu", "--iterations", 10_000)
    with started(*arguments) as process:
        wait_for_work(process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CANCELLED
    assert "Traceback" not in said
    assert Study.open(folder).label_versions("other") == ()
    assert Study.open(folder).check() == ()


def test_a_training_job_is_cancelled_within_a_second(folder: Path, tmp_path: Path) -> None:
    job = Job.start(
        ["train", str(folder), "--minutes", "5", "--device", "cpu"], folder=tmp_path / "j"
    )
    deadline = time.monotonic() + 60
    events: list[Event] = []
    while not any(event.phase != "start" for event in events):
        events += job.poll()
        assert time.monotonic() < deadline, job.stderr_tail
        time.sleep(0.05)
    start = time.monotonic()
    job.cancel()
    assert job.wait(10, events.append) is not None
    assert time.monotonic() - start < 1.5
    assert (events[-1].kind, events[-1].data["exit_code"]) == ("error", ExitCode.CANCELLED)
    assert not psutil.pid_exists(job.pid)
    assert Study.open(folder).check() == ()


def test_a_job_gives_the_result_of_its_command(folder: Path, tmp_path: Path) -> None:
    job = Job.start(["study", "status", str(folder)], folder=tmp_path / "job")
    events: list[Event] = []
    assert job.wait(30, events.append) == 0
    assert events[-1].kind == "result"
    record = json.loads((tmp_path / "job" / "job.json").read_text(encoding="utf-8"))
    assert record["state"] == "result"
