"""A stand-in for a Ray cluster: a real HTTP(S) server that runs jobs in this process."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

import numpy as np

from semiseg.events import Emit, Event
from semiseg.remote.manifest import Manifest
from semiseg.remote.runner import PROBE_MARK, Place, run_job
from semiseg.study.case import GateRecord
from semiseg.study.study import Study

Work = Callable[[Manifest, Path, Emit], Event]
TOKEN = "0123456789abcdef"
PROBE = {
    "semiseg": "0.1.0",
    "python": "3.11.9",
    "torch": "2.4",
    "gpus": ["GPU 9000"],
    "free_bytes": 10**12,
    "writable": True,
}


def label_all(manifest: Manifest, folder: Path, emit: Emit) -> Event:
    """Work that takes no time: structure 1 everywhere, as a propagation or a segmentation."""
    study = Study.open(folder)
    for case in manifest.cases:
        if not case.asked:
            continue
        shape = study.case(case.id).grid.shape_zyx
        array, sure = np.ones(shape, np.uint16), np.full(shape, 0.5, np.float32)
        if manifest.kind == "propagate":
            gate = GateRecord(verdict="accept", score=0.9, reasons=(f"like {case.id}",))
            study.propagated(
                case.id, array, sure, structure_ids=(1,), gate=gate, info={"atlases": [case.id]}
            )
        else:
            study.predicted(case.id, array, sure, model_id=1, info={"notes": [case.id]})
        emit(Event(kind="progress", phase=manifest.kind, message=f"{case.id} is done"))
    return Event(kind="result", phase="end", message="done")


@dataclass
class _Job:
    status: str = "PENDING"
    log: str = ""


@dataclass
class FakeRay:
    """What the server knows, and what goes wrong with it; a test sets the faults.

    `held`: jobs stay pending. `linger_s`: they end so long after their last word. `cut`: so many
    next requests are broken off. `forget_after`: the cluster is started anew once, when a job has
    begun. `spoil(path, body)` changes answers.
    """

    folder: Path
    work: Work = label_all
    token: str | None = None
    ray: str = "2.60.0"
    usage: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"CPU": (0.0, 4.0), "GPU": (0.0, 1.0)}
    )
    probe: dict[str, Any] = field(default_factory=lambda: dict(PROBE))
    probe_log: str | None = None
    held: bool = False
    cut: int = 0
    linger_s: float = 0.0
    restarts: int = 0
    asked_in_vain: int = 0
    spoil: Callable[[str, bytes], bytes] = lambda _path, body: body
    spoil_upload: Callable[[bytes], bytes] = lambda body: body
    packages: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, _Job] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    uploaded: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def restart(self) -> None:
        """The head node is lost and comes back: jobs and packages are gone, its disk is not."""
        with self.lock:
            self.jobs.clear()
            self.packages.clear()

    def answer(  # noqa: PLR0911 - a table of routes
        self, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """Status and content, as Ray's dashboard gives them."""
        parts = urlsplit(path)
        with self.lock:
            self.requests.append((method, parts.path))
            if parts.path == "/api/version":
                return 200, json.dumps({"version": "4", "ray_version": self.ray}).encode()
            if parts.path == "/api/cluster_status":
                usage = {name: list(pair) for name, pair in self.usage.items()}
                inner = {"clusterStatus": {"loadMetricsReport": {"usage": usage}}}
                return 200, json.dumps({"data": inner}).encode()
            if found := re.fullmatch(r"/api/packages/gcs/(\S+)", parts.path):
                return self._package(method, found[1], body)
            if parts.path == "/api/v0/logs/file":
                return self._file(parse_qs(parts.query)["filename"][0])
            if method == "POST" and parts.path == "/api/jobs/":
                return self._submit(json.loads(body))
            if found := re.fullmatch(r"/api/jobs/([\w-]+)(/stop|/logs)?", parts.path):
                return self._job(method, found[1], found[2])
        return 404, b"404: Not Found"

    def begin(self) -> None:
        """Lets held jobs run."""
        with self.lock:
            self.held = False
            waiting = [name for name, job in self.jobs.items() if job.status == "PENDING"]
        for name in waiting:
            self._start(name)

    def _package(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            self.packages[name] = self.spoil_upload(body)
            self.uploaded.append(name)
            return 200, b""
        if name in self.packages:
            return 200, b""
        return 404, b"Package does not exist"

    def _file(self, name: str) -> tuple[int, bytes]:
        path = self.folder / "session_1" / "logs" / name
        if not path.is_file():
            self.asked_in_vain += 1
            if self.asked_in_vain % 2:  # as Ray does now and then
                return 200, b""
            return 500, f"A file is not found at: {path}".encode()
        return 200, path.read_bytes()

    def _submit(self, order: dict[str, Any]) -> tuple[int, bytes]:
        name = order["submission_id"]
        if name in self.jobs:
            return 500, f"ValueError: Job {name} already exists.".encode()
        self.jobs[name] = _Job()
        environment = order["runtime_env"]
        self.jobs[name].log = json.dumps(order)
        uris = [environment["working_dir"], *environment.get("py_modules", [])]
        self._unpack(name, [uri.removeprefix("gcs://") for uri in uris])
        if not self.held:
            self._start(name)
        return 200, json.dumps({"submission_id": name}).encode()

    def _unpack(self, name: str, packages: list[str]) -> None:
        for number, package in enumerate(packages):
            target = self.folder / "session_1" / "runtime" / name / str(number)
            with ZipFile(BytesIO(self.packages[package])) as archive:
                archive.extractall(target)
        (self.folder / "session_1" / "logs").mkdir(exist_ok=True)

    def _start(self, name: str) -> None:
        self.jobs[name].status = "RUNNING"
        threading.Thread(target=self._run, args=(name,), daemon=True).start()

    def _run(self, name: str) -> None:
        if name.startswith("semiseg-probe"):
            told = PROBE_MARK + json.dumps(self.probe)
            self.jobs[name] = _Job("SUCCEEDED", told if self.probe_log is None else self.probe_log)
            return
        if self.restarts:
            self.restarts -= 1
            self.restart()
            return
        folder = self.folder / "session_1" / "runtime" / name
        place = Place(
            working=folder / "0",
            packages=[path for path in folder.iterdir() if path.name != "0"],
            base=self.folder / "store",
            work=self.work,
        )
        code = run_job(place, name.rsplit("-", 1)[1])
        time.sleep(self.linger_s)
        with self.lock:
            if name in self.jobs and self.jobs[name].status == "RUNNING":
                self.jobs[name].status = "FAILED" if code else "SUCCEEDED"

    def _job(self, method: str, name: str, what: str | None) -> tuple[int, bytes]:
        if name not in self.jobs:
            return 404, f"Job {name} does not exist".encode()
        job = self.jobs[name]
        if what == "/stop":
            job.status = "STOPPED"
            return 200, b"{}"
        if what == "/logs":
            return 200, json.dumps({"logs": job.log}).encode()
        if method == "DELETE":
            del self.jobs[name]
            return 200, b"{}"
        node = None if job.status == "PENDING" else "node1"
        state = {"status": job.status, "message": "", "driver_node_id": node}
        return 200, json.dumps(state).encode()


class _Handler(BaseHTTPRequestHandler):
    ray: FakeRay

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""

    def _serve(self) -> None:
        ray = self.ray
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with ray.lock:
            ray.headers.append(str(self.headers.get("Authorization")))
            if ray.cut:
                ray.cut -= 1
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        status, content = ray.answer(self.command, self.path, body)
        if ray.token is not None and self.headers.get("Authorization") != f"Bearer {ray.token}":
            missing = "Authorization" not in self.headers
            status, content = (401, b"Unauthorized") if missing else (403, b"Forbidden")
        content = ray.spoil(self.path, content)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - as the server asks for them


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def serving(ray: FakeRay, certificate: Path | None = None) -> Iterator[FakeRay]:
    """Serves `ray` on a port of its own; `certificate` (PEM with key) makes it speak TLS."""
    handler = type("Handler", (_Handler,), {"ray": ray})
    server = _Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    scheme = "http" if certificate is None else "https"
    ray.url = f"{scheme}://127.0.0.1:{server.server_port}"
    try:
        yield ray
    finally:
        server.shutdown()
        server.server_close()
