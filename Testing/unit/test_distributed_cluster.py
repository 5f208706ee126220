"""A real Ray cluster of this computer's processes: the same promises as of child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semiseg.distributed.choice import Engine, chosen_executor
from semiseg.distributed.cluster import connected
from semiseg.distributed.loopback import LoopbackCluster
from semiseg.distributed.member import Member
from semiseg.distributed.training import Trainee
from semiseg.distributed.values import digest, pack
from semiseg.errors import JobError
from semiseg.events import parse_line
from semiseg.study.study import Study

pytest.importorskip("ray", reason="ray is not installed: pip install 'semiseg[ray]'")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Ray clusters need Linux or macOS"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
Make = Callable[..., Study]
ABOUT = "semiseg.distributed.probes:about"
FAULTS = """
import os, signal, sys, threading, time
from pathlib import Path
from semiseg.distributed.cluster import RayExecutor
from semiseg.distributed.executor import Task
from semiseg.errors import CancelledError, DeviceError

def echoes(n, seconds=0.0):
    return (Task(function="semiseg.distributed.probes:echo",
                 arguments={"value": i, "seconds": seconds}) for i in range(n))

with RayExecutor(sys.argv[1]) as executor:
    assert executor.workers == 2
    events = []
    outcomes = executor.map(echoes(6, 0.3), events.append)
    first = next(outcomes)
    os.kill(int(first.worker.split()[-1].rstrip(")")), signal.SIGKILL)
    rest = list(outcomes)
    assert {o.index: o.require() for o in [first, *rest]} == {i: i for i in range(6)}
    assert sum(o.attempts - 1 for o in rest) == len(events) <= 1, events

    here = Path(sys.argv[2])
    task = Task(function="semiseg.distributed.probes:about", files={"me": here})
    told = [o.require() for o in executor.map([task] * 4)]
    assert len({one["files"]["me"] for one in told}) == 1

    outcomes = executor.map(echoes(6, 0.2))
    next(outcomes)
    outcomes.close()
    assert sorted(o.require() for o in executor.map(echoes(5))) == list(range(5))

    threading.Timer(0.5, executor.cancel).start()
    start = time.monotonic()
    try:
        list(executor.map(echoes(4, 120)))
    except CancelledError:
        assert time.monotonic() - start < 60
    else:
        raise AssertionError("not cancelled")
try:
    RayExecutor(sys.argv[1], device="cuda")
except DeviceError as error:
    assert "no GPU" in str(error)
print("all is well")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LoopbackCluster]:
    with LoopbackCluster(0, head_cores=2) as found:
        yield found


def run(cluster: LoopbackCluster, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_faults_of_a_cluster_change_no_result(cluster: LoopbackCluster) -> None:
    done = run(cluster, "-c", FAULTS, cluster.address, __file__)
    assert done.stdout.splitlines()[-1:] == ["all is well"], done.stderr[-3000:]


def test_two_processes_of_a_cluster_train_one_model(
    cluster: LoopbackCluster, phantom_study: Make
) -> None:
    study = phantom_study()
    command = ("-m", "semiseg", "train", str(study.folder), "--steps", "2", "--device", "cpu")
    where = ("--validation", "none", "--ray", cluster.address, "--workers", "2", "--json")
    done = run(cluster, *command, *where)
    assert done.returncode == 0, done.stderr[-3000:]
    events = [parse_line(line) for line in done.stdout.splitlines()]
    assert [event.kind for event in events if event.phase == "end"] == ["result"]
    assert [event.step for event in events if event.phase == "train"][-1] == 2
    study.reload()
    assert len(study.models()) == 1


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(JobError, match=r"nothing answers at 127\.0\.0\.1:9"):
        chosen_executor(Engine(ray="127.0.0.1:9"))


def test_without_ray_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(JobError, match=r"pip install 'semiseg\[ray\]'"):
        connected("127.0.0.1:9")


def test_a_member_answers_with_what_it_was_sent() -> None:
    import numpy as np

    member, content = Member(), pack({})
    assert member.hello()["pid"] == os.getpid()
    sent = np.frombuffer(b"abc", dtype=np.uint8)
    names = {"me": (digest(b"abc"), "a.txt")}
    failure, found, sha256, _ = member.perform(ABOUT, content, digest(content), names, sent)
    assert (failure, sha256) == ("", digest(found))
    assert digest(b"abc").encode() in found
    wrong = {"me": (digest(b"other"), "a.txt")}
    assert member.perform(ABOUT, content, digest(content), wrong, sent)[0] == "corrupt"
    member.leave()
    failure, found, *_ = member.perform(ABOUT, content, digest(content), names, sent)
    assert failure == "StorageError"
    assert b"cannot keep a.txt" in found


def test_a_trainee_that_does_not_see_the_study_says_so(tmp_path: Path) -> None:
    from semiseg.config import TrainConfig, to_json

    config = to_json(TrainConfig(device="cpu"))
    folder = str(tmp_path / "nowhere")
    trainee = Trainee()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "0")
        failure, said = trainee.train(0, 1, ("127.0.0.1", 1), folder, config, True)
    assert failure == "StudyError"
    assert "does not see" in said
    assert trainee.said() == []
