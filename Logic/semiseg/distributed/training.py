"""One training by several processes on a Ray cluster.

Plain actors take the place of torchrun: they get RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT and
join torch's own process group. Ray Train would do the same, but brings pandas and pyarrow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from semiseg.config import TrainConfig, check_range, from_json, to_json
from semiseg.distributed.cluster import connected, gpus_each, short
from semiseg.distributed.tasks import Reply, error_of
from semiseg.errors import JobError, SemiSegError, StudyError
from semiseg.events import Emit, Event, ignore, parse_line
from semiseg.group import joined
from semiseg.study.study import Study
from semiseg.trainer import train

_POLL_S = 0.5
_GOES_ON = "start it again with the same command: it goes on from the last checkpoint"


def train_over(
    folder: Path,
    config: TrainConfig,
    address: str,
    workers: int,
    emit: Emit = ignore,
    *,
    resume: bool = True,
) -> int:
    """`trainer.train` by `workers` processes of the cluster at `address`; the model's id.

    The study's folder must be on a disk that all of them see. JobError when a process is lost:
    training goes on from its last checkpoint when it is started again.
    """
    check_range("workers", workers, 1, 1000)
    ray, ours = connected(address)
    gpus = gpus_each(ray, config.device)
    # Two threads: one trains, one hands over the events meanwhile.
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_concurrency=2)
    members = [remote(Trainee).remote() for _ in range(workers)]
    try:
        return _trained(ray, members, (str(folder.absolute()), to_json(config), resume), emit)
    except ray.exceptions.RayError as error:
        raise JobError(f"a training process was lost ({short(error)}); {_GOES_ON}") from error
    finally:
        for member in members:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(member)
        if ours:
            ray.shutdown()


def _trained(ray: ModuleType, members: list[Any], what: tuple[Any, ...], emit: Emit) -> int:
    place = ray.get(members[0].place.remote())
    ends = [
        member.train.remote(rank, len(members), place, *what) for rank, member in enumerate(members)
    ]
    model_id, waiting = 0, list(ends)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=_POLL_S)
        for line in ray.get(members[0].said.remote()):
            emit(parse_line(line))
        for end in done:
            failure, said = ray.get(end)
            if failure:
                raise error_of(Reply(failure=failure, content=said.encode(), sha256="", seconds=0))
            model_id = int(said) if end is ends[0] else model_id
    return model_id


class Trainee:
    """One process of the training; what Ray runs as an actor."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def place(self) -> tuple[str, int]:
        """Where the others meet this process: its address and a free port."""
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        return _own_address(), port

    def said(self) -> list[str]:
        """The events since the last call, as lines."""
        with self._lock:
            lines, self._lines = self._lines, []
        return lines

    def train(
        self,
        rank: int,
        size: int,
        place: tuple[str, int],
        folder: str,
        config: dict[str, Any],
        resume: bool,
    ) -> tuple[str, str]:
        """("", the model's id), or the name of an error and its sentence."""
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": place[0], "MASTER_PORT": str(place[1])}
        settings = from_json(TrainConfig, config)
        try:
            study = _opened(Path(folder))
            with joined(size, 0, settings.device) as group:
                emit = ignore if rank else self._hear
                return "", str(train(study, settings, emit, resume=resume, group=group))
        except SemiSegError as error:
            return type(error).__name__, str(error)

    def _hear(self, event: Event) -> None:
        with self._lock:
            self._lines.append(event.to_line())


def _opened(folder: Path) -> Study:
    if not folder.exists():
        raise StudyError(
            f"{socket.gethostname()} does not see {folder}; training on a cluster needs the study "
            "on a disk that all its nodes share"
        )
    return Study.open(folder)


def _own_address() -> str:
    """This node's address as the cluster knows it."""
    import ray  # noqa: PLC0415  (only ever called inside of a cluster)

    return str(ray.util.get_node_ip_address())
