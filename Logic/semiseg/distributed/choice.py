"""Which executor the user asked for."""

from __future__ import annotations

from dataclasses import dataclass

from semiseg.config import Device, check_range
from semiseg.distributed.cluster import RayExecutor
from semiseg.distributed.executor import Executor
from semiseg.distributed.local import LocalExecutor
from semiseg.distributed.serial import SerialExecutor


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where many pieces of work are done: here, on the cluster at `ray`, by `workers` at once.

    Without both: in this process. A cluster without `workers` gives all that it has.
    """

    workers: int | None = None
    ray: str | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_range("workers", self.workers, 1, 10_000)

    @property
    def alone(self) -> bool:
        """Whether nothing is to be shared."""
        return self.workers is None and self.ray is None


def chosen_executor(engine: Engine) -> Executor:
    """The executor for `engine`; use it in a `with`. JobError as for `RayExecutor`."""
    if engine.ray is not None:
        return RayExecutor(engine.ray, engine.workers, device=engine.device)
    if engine.workers is not None:
        return LocalExecutor(engine.workers)
    return SerialExecutor()
