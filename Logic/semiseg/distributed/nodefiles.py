"""Files that tasks read, on a computer that has another disk than the one who asks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

from semiseg.distributed.values import digest
from semiseg.errors import JobError, StorageError

_PREFIX = "semiseg-files-"


class NodeFiles:
    """Files by content in a private folder of this process, gone when it is closed.

    What a process left that was killed, the next one on the same computer removes.
    """

    def __init__(self, root: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if root is None else root
        _sweep(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))

    def take(
        self, names: Mapping[str, Sequence[str]], contents: Sequence[NDArray[Any]]
    ) -> dict[str, Path]:
        """Where each file lies; `names` holds its SHA-256 and its own name, in `contents`' order.

        JobError when a content arrived damaged; StorageError when the disk is full.
        """
        found = {}
        for (key, (sha256, name)), content in zip(names.items(), contents, strict=True):
            path = self.folder / sha256 / Path(name).name
            if not path.exists():
                self._write(path, sha256, content)
            found[key] = path
        return found

    def close(self) -> None:
        """Remove all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _write(path: Path, sha256: str, content: NDArray[Any]) -> None:
        if digest(content.data) != sha256:
            raise DamagedFileError(f"{path.name} arrived damaged")
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_bytes(content.data)
            part.replace(path)
        except OSError as error:
            raise StorageError(
                f"a worker cannot keep {path.name} while it works: {error.strerror}; free some of "
                f"its disk ({path.parent.parent.parent})"
            ) from error


class DamagedFileError(JobError):
    """A file's content is not what was sent."""


def _sweep(parent: Path) -> None:
    """Remove folders whose process is gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
