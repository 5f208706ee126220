"""What the user sees of an exception: one sentence and an exit code."""

from __future__ import annotations

import errno
import tempfile
import traceback
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import typer

from semiseg.errors import ExitCode, SemiSegError, StorageError

STOPPED = (
    "Stopped. Everything confirmed so far is kept; the same command goes on from the last "
    "finished step."
)
_STORAGE = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the command again",
    errno.EROFS: "the disk is read-only; choose a folder that can be written",
    errno.EACCES: "permission denied; choose a folder that you may write",
    errno.EPERM: "the operation is not permitted; choose a folder that you may write",
    errno.EIO: "the disk reports a hardware error; copy what is on it to another disk",
    errno.ESTALE: "the network disk was disconnected; connect it and run the command again",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One sentence for the screen, the exit code, and the kind of error for programs."""

    sentence: str
    code: int
    kind: str
    hint: str = ""


def explain(error: BaseException) -> Failure:
    """The failure that `error` is to a user; an unexpected one gets its traceback written."""
    kind = type(error).__name__
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Failure(sentence=STOPPED, code=ExitCode.CANCELLED, kind="CancelledError")
    if isinstance(error, SemiSegError):
        return Failure(sentence=str(error), code=error.exit_code, kind=kind)
    if (usage := _usage(error)) is not None:
        return usage
    if isinstance(error, OSError) and error.errno in _STORAGE:
        place = f"{error.filename}: " if error.filename else ""
        sentence = f"{place}{_STORAGE[error.errno]}"
        return Failure(sentence=sentence, code=StorageError.exit_code, kind="StorageError")
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        sentence = (
            "the memory ran out; close other programs, or use a smaller patch or --device cpu"
        )
        return Failure(sentence=sentence, code=ExitCode.DEVICE, kind="DeviceError")
    return _unexpected(error)


def _usage(error: BaseException) -> Failure | None:
    """The failure of a wrong command line; by shape, since typer brings its own click or not."""
    message, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if not callable(message) or not isinstance(code, int):
        return None
    context = getattr(error, "ctx", None)
    hint = f"Try: {context.command_path} --help" if context is not None else ""
    return Failure(sentence=str(message()), code=code, kind="UsageError", hint=hint)


def _unexpected(error: BaseException) -> Failure:
    text = "".join(traceback.format_exception(error))
    where = _keep(text)
    sentence = f"unexpected {type(error).__name__}: {str(error)[:300] or 'no message'}"
    hint = f"The full traceback is in {where}; please report it. Use --debug to see it here."
    if where is None:
        hint = "The traceback could not be written; use --debug to see it here."
    return Failure(
        sentence=sentence, code=ExitCode.UNEXPECTED, kind=type(error).__name__, hint=hint
    )


def _keep(text: str) -> Path | None:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"semiseg-{stamp}-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)
