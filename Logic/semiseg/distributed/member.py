"""A worker of a cluster: what Ray runs as an actor. Ray itself is not imported here."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import semiseg
from semiseg.distributed.nodefiles import DamagedFileError, NodeFiles
from semiseg.distributed.tasks import CORRUPT, perform
from semiseg.distributed.values import digest
from semiseg.errors import StorageError

Answer = tuple[str, bytes, str, float]


class Member:
    """Does tasks one by one; its files go with it."""

    def __init__(self) -> None:
        self._files = NodeFiles()

    def hello(self) -> dict[str, Any]:
        """Who this is."""
        return {"host": socket.gethostname(), "pid": os.getpid(), "semiseg": semiseg.__version__}

    def perform(
        self,
        function: str,
        content: bytes,
        sha256: str,
        names: Mapping[str, Sequence[str]],
        *contents: Any,
    ) -> Answer:
        """`tasks.perform` with files that came along: failure, content, its SHA-256, seconds."""
        try:
            files = self._files.take(names, contents)
        except DamagedFileError:
            return CORRUPT, b"", digest(b""), 0.0
        except StorageError as error:
            text = str(error).encode()
            return type(error).__name__, text, digest(text), 0.0
        reply = perform(function, content, sha256, files)
        return reply.failure, reply.content, reply.sha256, reply.seconds

    def leave(self) -> None:
        """Remove what was kept."""
        self._files.close()
