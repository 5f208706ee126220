"""Children of a section that works without a study; their folder goes with them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from SemiSegModuleLib.tasks import JobClass, Task, Tasks


class OwnTasks:
    """Runs one child at a time; nothing is made before the first one."""

    def __init__(self, name: str, job_class: JobClass) -> None:
        self._name, self._job_class = name, job_class
        self._folder = Path()
        self._tasks: Tasks | None = None

    @property
    def running(self) -> bool:
        """Whether a child runs."""
        return self._tasks is not None and not self._tasks.idle

    def start(self, task: Task) -> None:
        """Start `task`; JobError while another one runs."""
        if self._tasks is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"semiseg-{self._name}-"))
            self._tasks = Tasks(self._folder / "jobs", self._job_class)
        self._tasks.start(task)

    def cancel(self) -> None:
        """Ask the child to end."""
        if self._tasks is not None:
            self._tasks.cancel()

    def tick(self) -> None:
        """Take what the child has said."""
        if self._tasks is not None:
            self._tasks.tick()

    def close(self) -> None:
        """End the child, if one runs."""
        if self._tasks is not None:
            self._tasks.close(wait_s=0.0)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._tasks = None
