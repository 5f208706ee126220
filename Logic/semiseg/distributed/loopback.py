"""A Ray cluster of this computer's own processes: to try out, test and measure."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from semiseg.errors import JobError
from semiseg.processes import kill_descendants

_STARTUP_S = 60.0
_STORE_BYTES = 200_000_000
# Runs a program that ends with whoever holds the other end of stdin, also when that is killed.
_KEEPER = """
import subprocess, sys
from semiseg.child import end_self, watch_lifeline
watch_lifeline(0, end_self)
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""


class LoopbackCluster:
    """A head of `head_cores` and `nodes` nodes of one core each, on 127.0.0.1, with a token.

    `environment` is what drivers need; `address` where they connect.
    """

    def __init__(self, nodes: int = 2, *, head_cores: int = 0) -> None:
        # Ray's sockets lie below it, and their paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ssray-"))
        self.address = f"127.0.0.1:{_free_port()}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        try:
            head = ("--head", "--port", port, "--include-dashboard=false")
            self._start(*head, "--num-cpus", str(head_cores))
            self._await(1)
            for number in range(nodes):  # one by one: a node takes another's socket for its own
                self._start("--address", self.address, "--num-cpus", "1")
                self._await(number + 2)
        except BaseException:
            self.close()
            raise

    def kill_node(self, number: int) -> None:
        """End the node `number` (0: the head) with all its processes, without a word."""
        process = self._processes[number]
        kill_descendants(process.pid)
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def close(self) -> None:
        """End all processes and remove their files."""
        for number in reversed(range(len(self._processes))):
            self.kill_node(number)
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *options: str) -> None:
        command = [sys.executable, "-c", _KEEPER, sys.executable]
        command += ["-m", "ray.scripts.scripts", "start", "--block"]
        common = ["--node-ip-address", "127.0.0.1", "--object-store-memory", str(_STORE_BYTES)]
        common += ["--num-gpus", "0", "--disable-usage-stats", "--temp-dir", str(self.folder)]
        with self._log(len(self._processes) + 1).open("wb") as log:
            process = subprocess.Popen(
                [*command, *common, *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=sys.platform != "win32",
            )
        self._processes.append(process)

    def _await(self, number: int) -> None:
        """Until the process `number` (from 1) says that it runs; JobError when it does not."""
        deadline = time.monotonic() + _STARTUP_S
        while time.monotonic() < deadline and self._processes[number - 1].poll() is None:
            if b"Ray runtime started" in self._log(number).read_bytes():
                return
            time.sleep(0.1)
        said = self._log(number).read_text(encoding="utf-8", errors="replace")
        raise JobError(f"the cluster's process {number} did not start: {said[-2000:]}")

    def _log(self, number: int) -> Path:
        return self.folder / f"start{number}.txt"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
