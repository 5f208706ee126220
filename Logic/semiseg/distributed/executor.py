"""Many like pieces of work, done here, by several processes, or by a Ray cluster.

    with chosen_executor(Engine(workers=2)) as executor:      # `choice.py`; Engine() is serial
        for outcome in executor.map(tasks, emit):             # as they come, in any order
            use(outcome.index, outcome.require())

A `Task` names a function of one `Work` that was declared with `@task` (`tasks.py`) in an
importable module, and gives it plain values: JSON and numpy arrays, nested, never pickled. Files
that it reads are named too; a worker on another computer gets them once, by content.

What holds for each executor:
- an index comes exactly once, with the same value to the bit, whatever died in between;
- arguments and results carry a SHA-256; what does not match on arrival is done again;
- a task whose worker died is done again, at most `RETRIES` times, the last time alone; one that
  ran out of memory is done again at the end, alone. Each is said in an event of phase "distribute"
  (data: "task", "attempt", "cause": died, memory or corrupt). Then its outcome is an error;
- an error that the function raises is its outcome's, and the others go on;
- `cancel`, from any thread, and leaving the `with` or the iterator end the workers at once; the
  iterator then raises CancelledError, or is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SemiSegError
from semiseg.events import Emit, ignore

Value: TypeAlias = (
    "str | int | float | bool | NDArray[np.generic] | Sequence[Value] | Mapping[str, Value] | None"
)
RETRIES = 2


@dataclass(frozen=True, kw_only=True)
class Task:
    """One call of `function` ("package.module:name") with `arguments`, and the `files` it reads."""

    function: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What became of the task number `index`; `seconds` are the function's own.

    `attempts` counts how often it was begun; `worker` says who did it last.
    """

    index: int
    value: Any = None
    error: SemiSegError | None = None
    seconds: float = 0.0
    attempts: int = 1
    worker: str = ""

    def require(self) -> Any:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.value


class Executor(Protocol):
    """Does tasks; `workers` at the same time at most."""

    @property
    def workers(self) -> int:
        """How many tasks run at the same time."""

    def map(self, tasks: Iterable[Task], emit: Emit = ignore) -> Iterator[Outcome]:
        """The outcome of each task, as they come; `tasks` is read no faster than they are done."""

    def cancel(self) -> None:
        """End the work at once, from any thread; nothing of it goes on anywhere."""

    def close(self) -> None:
        """Give the workers back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.cancel()
        self.close()
