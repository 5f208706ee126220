"""The same on a real Ray head node on this computer, with its token on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from semiseg.config import PropagationConfig, RegistrationConfig
from semiseg.propagation import propagate
from semiseg.remote.address import Access, parse_address
from semiseg.remote.causes import RemoteError
from semiseg.remote.check import check_connection
from semiseg.remote.client import Dashboard
from semiseg.remote.packing import Wish
from semiseg.remote.session import Pace
from semiseg.remote.work import Means, submit
from semiseg.study.study import Study

pytest.importorskip("ray", reason="ray is not installed (pip install 'semiseg[ray]')")
pytest.importorskip("aiohttp_cors", reason="Ray's dashboard is not installed (ray[default])")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray's head node runs on Unix")
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Access]:
    """A head node with two cores, which ends with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # paths of sockets must be short
    gcs, dashboard, agent = _free_ports(3)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "SEMISEG_STORE": str(folder / "store"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--num-cpus=2", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    command += [f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder / 't'}"]
    log = (folder / "log").open("wb")
    head = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    access = Access(address=parse_address(f"http://127.0.0.1:{dashboard}"), token=TOKEN)
    try:
        _wait_for(access, head, folder / "log")
        yield access
    finally:
        _end(head)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(access: Access, head: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            if Dashboard(access).resources().get("CPU"):
                return
        except RemoteError:
            pass
        if head.poll() is not None or time.monotonic() > until:
            pytest.skip(f"Ray's head node does not start here: {log.read_text()[-500:]}")
        time.sleep(0.5)


def _end(head: subprocess.Popen[bytes]) -> None:
    started = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    head.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(started, timeout=20)
    for process in alive:
        process.kill()
    head.wait(20)


@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["one process", "a worker of Ray"])
def test_a_real_cluster_does_the_same_to_the_bit(
    cluster: Access, phantom_study: Callable[..., Study], tmp_path: Path, more: tuple[str, ...]
) -> None:
    study = phantom_study(("CT", "MR"), annotated=1)
    shutil.copytree(study.folder, tmp_path / "copy")
    here = Study.open(tmp_path / "copy")
    fast = RegistrationConfig(iterations=3, device="cpu")
    propagate(here, PropagationConfig(registration=fast))
    wish = Wish(kind="propagate", arguments=("--iterations", "3", "--device", "cpu", *more))
    events: list[Any] = []
    means = Means(pace=Pace(poll_s=0.3))
    ended = submit(study, wish, cluster, means, lambda _told: True, events.append)
    assert ended.applied is not None
    assert set(ended.applied.versions) == {"c0", "c1"}
    for case_id in ("c0", "c1"):
        mine, other = here.label(case_id), study.label(case_id)
        assert mine is not None
        assert other is not None
        assert np.array_equal(mine.array, other.array)
        assert np.array_equal(mine.origin, other.origin)
        assert np.array_equal(mine.confidence, other.confidence)
        assert here.case(case_id).gate == study.case(case_id).gate
    phases = {event.phase for event in events}
    assert {"pack", "propagate", "fetch"} <= phases
    assert ("distribute" in phases) == bool(more)


def test_a_real_cluster_is_tested_and_keeps_its_door(cluster: Access) -> None:
    found = check_connection(cluster, lambda _event: None)
    assert found.ray
    assert found.python.startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    for token, cause in ((None, "token-missing"), ("wrong" * 8, "token-wrong")):
        with pytest.raises(RemoteError) as caught:
            check_connection(replace(cluster, token=token), lambda _event: None)
        assert caught.value.cause == cause
