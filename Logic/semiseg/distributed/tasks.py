"""What a worker does with a task: find the declared function, call it, pack what it gives."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from semiseg import errors
from semiseg.distributed.executor import Value
from semiseg.distributed.values import digest, pack, unpack
from semiseg.errors import JobError, SemiSegError

_MARK = "semiseg_task"
MEMORY = "memory"  # kinds of a reply that are no error's name
CORRUPT = "corrupt"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a task's function gets: its arguments, and where its files lie on this computer."""

    arguments: Mapping[str, Any]
    files: Mapping[str, Path]


Function: TypeAlias = Callable[[Work], Value]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A worker's answer: `failure` is empty, or an error's name; then `content` is its sentence."""

    failure: str
    content: bytes
    sha256: str
    seconds: float


def task(function: Function) -> Function:
    """Declare that workers may call `function(work)` by its name; nothing else is."""
    setattr(function, _MARK, True)
    return function


def name_of(function: Function) -> str:
    """What a `Task` calls `function`."""
    return f"{function.__module__}:{function.__name__}"


def find(name: str) -> Function:
    """The declared function called `name`; JobError when there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise JobError(
            f"the worker does not have {name} ({error}); it needs the same version of SemiSeg"
        ) from error
    if not getattr(found, _MARK, False):
        raise JobError(f"{name} is not declared as a task, so no worker calls it")
    return found  # type: ignore[no-any-return]


def perform(function: str, content: bytes, sha256: str, files: Mapping[str, Path]) -> Reply:
    """Call `function` with the packed arguments; whatever it raises becomes the reply."""
    start = time.monotonic()
    if digest(content) != sha256:
        return _reply(CORRUPT, b"", start)
    try:
        work = Work(arguments=unpack(content), files=files)
        return _reply("", pack(find(function)(work)), start)
    except SemiSegError as error:
        return _reply(type(error).__name__, str(error).encode(), start)
    except Exception as error:  # a defect must reach whoever asked, not end the worker
        if _no_memory(error):
            return _reply(MEMORY, str(error).encode(), start)
        text = "".join(traceback.format_exception(error))
        return _reply(type(error).__name__, text.encode(), start)


def _no_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from semiseg.devices import is_out_of_memory  # noqa: PLC0415  (torch only where a task has it)

    return is_out_of_memory(error)


def error_of(reply: Reply) -> SemiSegError:
    """The error that `reply` tells of, of the same class where it is one of ours."""
    text = reply.content.decode(errors="replace")
    kind = getattr(errors, reply.failure, None)
    if isinstance(kind, type) and issubclass(kind, SemiSegError):
        return kind(text)
    return SemiSegError(f"a worker met a defect, please report it:\n{text}")


def _reply(failure: str, content: bytes, start: float) -> Reply:
    return Reply(
        failure=failure,
        content=content,
        sha256=digest(content),
        seconds=time.monotonic() - start,
    )
