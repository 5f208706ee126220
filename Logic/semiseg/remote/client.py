"""Ray's REST interface for jobs, over HTTP(S) alone: Ray need not be installed here.

Connections go out from this computer only. Nothing follows redirects (they could carry the token
away) and TLS is always verified.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import quote, urlencode

from semiseg.errors import ConfigError
from semiseg.events import Json
from semiseg.remote.address import Access
from semiseg.remote.causes import RemoteError, from_exception, from_status

Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
ENDED: tuple[Status, ...] = ("STOPPED", "SUCCEEDED", "FAILED")
_LARGEST_ANSWER = 1 << 31


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What the cluster says of a job; `node` is where it runs or ran."""

    status: Status
    message: str
    node: str | None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ENDED


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What the cluster is to run; `packages` are the names of uploaded ones, the job's first."""

    id: str
    command: str
    packages: tuple[str, ...]
    cpus: float = 1.0
    gpus: float = 0.0


class Dashboard:
    """The dashboard of one cluster; every call raises RemoteError with its cause."""

    def __init__(self, access: Access) -> None:
        self.access = access
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if access.address.local:
            handlers.append(urllib.request.ProxyHandler({}))
        if access.address.encrypted:
            handlers.append(urllib.request.HTTPSHandler(context=_context(access)))
        self._opener = urllib.request.build_opener(*handlers)

    def version(self) -> str:
        """The version of Ray there."""
        found = self._json("GET", "/api/version").get("ray_version")
        if not isinstance(found, str):
            raise from_status(404, "", self.access)
        return found

    def resources(self) -> dict[str, tuple[float, float]]:
        """Used and total amounts by name, e.g. "GPU"."""
        found: object = self._json("GET", "/api/cluster_status")
        for name in ("data", "clusterStatus", "loadMetricsReport", "usage"):
            found = found.get(name) if isinstance(found, dict) else None
        usage = found if isinstance(found, dict) else {}
        return {str(name): (float(pair[0]), float(pair[1])) for name, pair in usage.items()}

    def has_package(self, name: str) -> bool:
        """Whether the cluster holds the package; asking keeps it there for ten minutes."""
        return self._answer("GET", f"/api/packages/gcs/{name}", missing=True) is not None

    def put_package(self, name: str, content: bytes) -> None:
        """Upload a package."""
        self._answer("PUT", f"/api/packages/gcs/{name}", content)

    def submit(self, job: Submission) -> bool:
        """Whether the job was taken; False when one of the same id is there already."""
        first, *others = (f"gcs://{name}" for name in job.packages)
        environment: dict[str, Json] = {"working_dir": first}
        if others:  # Ray fails at an empty list
            environment["py_modules"] = list[Json](others)
        body: dict[str, Json] = {
            "entrypoint": job.command,
            "submission_id": job.id,
            "runtime_env": environment,
            "entrypoint_num_cpus": job.cpus,
            "entrypoint_num_gpus": job.gpus,
        }
        try:
            self._json("POST", "/api/jobs/", body)
        except RemoteError:
            # Said as status 400 or 500, with a traceback; also where the answer to our own first
            # try was lost on the way.
            if self.job(job.id) is not None:
                return False
            raise
        return True

    def job(self, job_id: str) -> JobState | None:
        """None when the cluster knows no such job."""
        found = self._answer("GET", f"/api/jobs/{quote(job_id)}", missing=True)
        if found is None:
            return None
        values = self._parsed(found)
        status, node = values.get("status"), values.get("driver_node_id")
        if status not in ("PENDING", "RUNNING", *ENDED):
            raise from_status(404, "", self.access)
        return JobState(
            status=status,
            message=str(values.get("message") or ""),
            node=node if isinstance(node, str) else None,
        )

    def stop(self, job_id: str) -> None:
        """Ask the job to end."""
        self._answer("POST", f"/api/jobs/{quote(job_id)}/stop", missing=True)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, so that its id can be used again."""
        self._answer("DELETE", f"/api/jobs/{quote(job_id)}", missing=True)

    def log(self, job_id: str) -> str:
        """All that the job printed."""
        return str(self._json("GET", f"/api/jobs/{quote(job_id)}/logs").get("logs") or "")

    def file(self, node: str, name: str) -> bytes | None:
        """A file below the cluster's folder of logs; None while it is not there, or empty."""
        query = urlencode({"node_id": node, "filename": name, "lines": -1, "timeout": 3600})
        try:
            # Of a file that is not there Ray now and then says that it is empty.
            return self._answer("GET", f"/api/v0/logs/file?{query}", missing=True) or None
        except RemoteError as error:
            if error.cause == "server" and "file is not found" in str(error):
                return None
            raise

    def _json(self, method: str, path: str, body: Json = None) -> dict[str, Json]:
        content = None if body is None else json.dumps(body).encode()
        return self._parsed(self._answer(method, path, content) or b"")

    def _parsed(self, content: bytes) -> dict[str, Json]:
        try:
            found = json.loads(content)
        except ValueError as error:
            raise from_status(404, "", self.access) from error
        if not isinstance(found, dict):
            raise from_status(404, "", self.access)
        return found

    def _answer(
        self, method: str, path: str, content: bytes | None = None, *, missing: bool = False
    ) -> bytes | None:
        """The body of the answer; with `missing`, None where nothing is there."""
        kind = "application/json" if path.startswith("/api/jobs") else "application/octet-stream"
        headers = {"Content-Type": kind} if content is not None else {}
        if self.access.token is not None:
            headers["Authorization"] = f"Bearer {self.access.token}"
        url = self.access.address.url + path
        request = urllib.request.Request(url, data=content, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=self.access.timeout_s) as answer:
                return cast(bytes, answer.read(_LARGEST_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                text = _text_of(error)
            if missing and error.code == 404 and "does not exist" in text:
                return None
            raise from_status(error.code, text, self.access) from None
        except (OSError, http.client.HTTPException) as error:
            raise from_exception(error, self.access) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_request: Any) -> None:
        """Follow nowhere: the answer itself becomes an error."""


def _text_of(error: urllib.error.HTTPError) -> str:
    try:
        return error.headers.get("Location") or error.read(100_000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if access.ca_file is not None:
        try:
            context.load_verify_locations(access.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the file of the authority {access.ca_file} cannot be used: {error}; give a "
                "certificate in PEM form"
            ) from error
    return context
