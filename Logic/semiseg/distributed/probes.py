"""Small tasks that show whether workers work, how fast they answer, and what they know."""

from __future__ import annotations

import os
import time

import semiseg
from semiseg.distributed.executor import Value
from semiseg.distributed.tasks import Work, task
from semiseg.images.reading import sha256_file


@task
def echo(work: Work) -> Value:
    """`work.arguments["value"]`, after `work.arguments["seconds"]` where that is given."""
    time.sleep(work.arguments.get("seconds", 0))
    value: Value = work.arguments["value"]
    return value


@task
def about(work: Work) -> Value:
    """The worker's process, version and threads, and the SHA-256 of each file as it sees it."""
    return {
        "pid": os.getpid(),
        "semiseg": semiseg.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "files": {name: sha256_file(path) for name, path in work.files.items()},
    }
