"""Child processes as workers: same values, faults mended, nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from semiseg.config import PredictConfig, PropagationConfig, RegistrationConfig, TrainConfig
from semiseg.distributed.choice import Engine, chosen_executor
from semiseg.distributed.executor import Outcome, Task
from semiseg.distributed.local import LocalExecutor
from semiseg.distributed.nodefiles import DamagedFileError, NodeFiles
from semiseg.distributed.predictions import predict_over
from semiseg.distributed.registrations import propagate_over
from semiseg.distributed.serial import SerialExecutor
from semiseg.distributed.values import digest
from semiseg.errors import CancelledError, CasesFailedError, ConfigError, JobError, StorageError
from semiseg.events import Event
from semiseg.inference import predict
from semiseg.propagation import propagate
from semiseg.study.study import Study

Make = Callable[..., Study]
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
ECHO, ABOUT = "semiseg.distributed.probes:echo", "semiseg.distributed.probes:about"
TASKS = """
import os, pathlib, signal, time
from semiseg.distributed.tasks import task

@task
def dies_once(work):
    mark = pathlib.Path(work.arguments["folder"]) / "mark"
    if work.arguments["n"] == 1 and not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return work.arguments["n"] + 1

@task
def dies(work):
    os._exit(3)

@task
def hungry(work):
    raise MemoryError("a lot")

@task
def talks(work):
    print("not an answer")
    os.write(1, b"nor this")
    return "answer"
"""


def echoes(n: int, seconds: float = 0.0) -> Iterator[Task]:
    return (Task(function=ECHO, arguments={"value": i, "seconds": seconds}) for i in range(n))


def values(outcomes: Iterator[Outcome]) -> dict[int, object]:
    found = [(outcome.index, outcome.require()) for outcome in outcomes]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture(scope="module")
def two() -> Iterator[LocalExecutor]:
    with LocalExecutor(2) as executor:
        yield executor


@pytest.fixture
def own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of tasks that workers find because this process does."""
    (tmp_path / "own_tasks_of_test.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_tasks_of_test"


def test_workers_give_what_this_process_gives(two: LocalExecutor) -> None:
    with SerialExecutor() as serial:
        assert values(two.map(echoes(40))) == values(serial.map(echoes(40)))
    assert two.workers == 2


def test_workers_have_one_thread_and_see_the_same_files(two: LocalExecutor) -> None:
    here = Path(__file__)
    tasks = [Task(function=ABOUT, files={"me": here}) for _ in range(8)]
    told = list(values(two.map(tasks)).values())
    assert {one["threads"] for one in told} == {"1"}
    assert {one["files"]["me"] for one in told} == {digest(here.read_bytes())}
    assert os.getpid() not in {one["pid"] for one in told}


def test_an_iterator_that_is_left_ends_what_was_at_work(two: LocalExecutor) -> None:
    outcomes = two.map(echoes(6, 0.3))
    next(outcomes)
    start = time.monotonic()
    outcomes.close()
    assert values(two.map(echoes(4))) == {i: i for i in range(4)}
    assert time.monotonic() - start < 60


@posix
def test_a_worker_killed_in_the_middle_changes_nothing(two: LocalExecutor) -> None:
    events: list[Event] = []
    outcomes = two.map(echoes(6, 0.3), events.append)
    first = next(outcomes)
    os.kill(int(first.worker.split()[-1].rstrip(")")), signal.SIGKILL)
    rest = list(outcomes)
    assert {o.index: o.require() for o in [first, *rest]} == {i: i for i in range(6)}
    assert sum(o.attempts - 1 for o in rest) == len(events) <= 1


def test_tasks_that_end_their_worker_or_talk(own_tasks: str, tmp_path: Path) -> None:
    names = ("dies", "hungry", "talks")
    tasks = [Task(function=f"{own_tasks}:{name}") for name in names]
    if sys.platform != "win32":
        arguments = [{"folder": str(tmp_path), "n": n} for n in range(3)]
        tasks += [Task(function=f"{own_tasks}:dies_once", arguments=a) for a in arguments]
    events: list[Event] = []
    with LocalExecutor(2) as executor:
        found = {o.index: o for o in executor.map(tasks, events.append)}
    with pytest.raises(JobError, match=r"ended its worker 3 times.*exit code 3"):
        found[0].require()
    assert "a lot" in str(found[1].error)
    assert found[2].require() == "answer"
    assert [found[i].require() for i in sorted(found) if i > 2] in ([1, 2, 3], [])
    assert {event.data["cause"] for event in events} == {"died", "memory"}


def test_cancel_ends_all_processes_at_once() -> None:
    with LocalExecutor(2) as executor:
        told = values(executor.map([Task(function=ABOUT) for _ in range(6)]))
        pids = {one["pid"] for one in told.values()}
        threading.Timer(0.3, executor.cancel).start()
        start = time.monotonic()
        with pytest.raises(CancelledError):
            list(executor.map(echoes(4, 120)))
        assert time.monotonic() - start < 60
    assert not any(psutil.pid_exists(pid) for pid in pids)


@posix
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_workers_end_with_their_parent(how: str) -> None:
    import subprocess

    script = (
        "from semiseg.distributed.local import LocalExecutor\n"
        "from semiseg.distributed.executor import Task\n"
        f"about, echo = {ABOUT!r}, {ECHO!r}\n"
        "with LocalExecutor(1) as one:\n"
        "    long = Task(function=echo, arguments={'value': 1, 'seconds': 600})\n"
        "    outcomes = one.map([Task(function=about), long])\n"
        "    print(next(outcomes).require()['pid'], flush=True)\n"
        "    next(outcomes)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(getattr(signal, how))
        parent.wait(timeout=60)
    deadline = time.monotonic() + 60
    while lives(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(worker)


def lives(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody took notice of yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiseg.distributed.local.find_python", lambda: "/nowhere/python")
    with (
        LocalExecutor(1) as executor,
        pytest.raises(JobError, match="no worker process could be started"),
    ):
        list(executor.map(echoes(1)))


def test_the_engine_says_which_executor() -> None:
    assert Engine().alone
    with chosen_executor(Engine()) as executor:
        assert isinstance(executor, SerialExecutor)
    with chosen_executor(Engine(workers=1)) as local:
        assert isinstance(local, LocalExecutor)
    with pytest.raises(ConfigError, match="workers"):
        Engine(workers=0)


def test_files_by_content_are_kept_once_and_swept(tmp_path: Path) -> None:
    import numpy as np

    content = np.frombuffer(b"volume", dtype=np.uint8)
    left = tmp_path / "semiseg-files-999999999-x"
    left.mkdir()
    files = NodeFiles(tmp_path)
    assert not left.exists()
    names = {"image": (digest(b"volume"), "a.nii.gz")}
    path = files.take(names, [content])["image"]
    assert (path.name, path.read_bytes()) == ("a.nii.gz", b"volume")
    assert files.take(names, [content])["image"] == path
    with pytest.raises(DamagedFileError):
        files.take({"image": (digest(b"other"), "a.nii.gz")}, [content])
    files.close()
    assert not files.folder.exists()
    with pytest.raises(StorageError, match="cannot keep"):
        files.take(names, [content])


def labels_of(study: Study) -> dict[str, tuple[bytes, bytes]]:
    found = {case_id: study.label(case_id) for case_id in study.cases}
    return {i: (x.array.tobytes(), x.confidence.tobytes()) for i, x in found.items() if x}


def test_fanned_out_work_gives_the_serial_result_to_the_bit(
    phantom_study: Make, two: LocalExecutor
) -> None:
    study = phantom_study(("CT", "MR", "CT"))
    config = PropagationConfig(registration=RegistrationConfig(iterations=2, device="cpu"))
    propagate_over(study, config, two)
    fanned = labels_of(study)
    kept = {p.name: p for p in (study.cache_dir / "registration").iterdir()}
    assert len(kept) == 2
    for path in [*kept.values(), *(study.cache_dir / "propagation").iterdir()]:
        path.unlink()
    propagate(study, config)
    assert labels_of(study) == fanned
    assert {p.name for p in (study.cache_dir / "registration").iterdir()} == set(kept)

    from semiseg.trainer import train

    train(study, TrainConfig(steps=1, minutes=None, device="cpu", validation="none"))
    settings = PredictConfig(device="cpu")
    events: list[Event] = []
    over = predict_over(study, None, None, settings, two, events.append).versions
    here = predict(study, None, None, settings).versions
    assert [e.data["saved"] for e in events if "case" in e.data] == [True] * 3
    for case_id in study.cases:
        one, other = (study.prediction(case_id, v[case_id]) for v in (over, here))
        assert one is not None
        assert other is not None
        assert one.array.tobytes() == other.array.tobytes()
        assert one.uncertainty.tobytes() == other.uncertainty.tobytes()

    study.image_path("c1").write_bytes(b"other")
    with pytest.raises(CasesFailedError, match=r"2 of 3 cases were segmented.*c1"):
        predict_over(study, None, None, settings, two)


def test_a_registration_that_fails_leaves_the_other_cases(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "CT", "MR"), annotated=1)
    monkeypatch.setattr(
        "semiseg.distributed.registrations.registration_task",
        lambda fixed, *rest: Task(function=ECHO if fixed == "MR" else "nowhere:f"),
    )
    events: list[Event] = []
    with (
        SerialExecutor() as executor,
        pytest.raises(CasesFailedError, match=r"1 of 3 cases were propagated.*not c1.*not c2"),
    ):
        propagate_over(study, PropagationConfig(), executor, events.append)
    assert [event.data["case"] for event in events if "error" in event.data] == ["c1", "c2"]


@pytest.mark.parametrize("workers", [None, 1])
def test_an_executor_that_is_left_by_an_error_is_cancelled(workers: int | None) -> None:
    executor = chosen_executor(Engine(workers=workers))
    with pytest.raises(ConfigError), executor:
        raise ConfigError("on the way")
    with pytest.raises(CancelledError):
        next(executor.map([Task(function=ECHO, arguments={"value": 1})]))
