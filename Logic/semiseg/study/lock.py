"""Keeps two writers of one study apart; a dead writer's lock is taken over."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from semiseg.errors import SchemaError, StorageError, StudyLockedError
from semiseg.events import Json
from semiseg.study.fields import Fields
from semiseg.study.owner import Owner, temporary_name
from semiseg.study.storage import on_disk, read_json, storage_error

LOCK_NAME = "lock.json"
FOREIGN_LOCK_S = 24 * 3600.0
_HALF_WRITTEN_S = 5.0
_POLL_S = 0.05
_NO_FLOCK = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass
class _Hold:
    """This process's hold on one study: which thread has it, how deep, under which token."""

    thread: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class _Note:
    """The content of a lock file; `owner` is None when it cannot be read."""

    owner: Owner | None
    token: str
    age_s: float


@dataclass(frozen=True, kw_only=True)
class Taken:
    """How the lock was obtained: `outermost` unless this thread had it already."""

    outermost: bool
    recovered: bool


_holds: dict[tuple[int, str], _Hold] = {}
_holds_guard = threading.Lock()


@contextlib.contextmanager
def hold_lock(folder: Path, *, wait_s: float) -> Iterator[Taken]:
    """Holds the lock of the study in `folder`; may be nested within a thread.

    StudyLockedError names the living writer that still holds it after `wait_s`.
    """
    hold = _hold_of(folder)
    deadline = time.monotonic() + wait_s
    if not hold.thread.acquire(timeout=max(wait_s, 0.0)):
        raise StudyLockedError(
            f"the study {folder} is being written by another part of this program; "
            "wait until it has finished"
        )
    try:
        outermost = hold.depth == 0
        recovered = _take_file(folder, hold, deadline) if outermost else False
        hold.depth += 1
        try:
            yield Taken(outermost=outermost, recovered=recovered)
        finally:
            hold.depth -= 1
            if hold.depth == 0:
                _drop_file(folder / LOCK_NAME, hold.token)
    finally:
        hold.thread.release()


def _hold_of(folder: Path) -> _Hold:
    # The process id is part of the key: a forked child does not own its parent's lock.
    key = (os.getpid(), os.path.realpath(folder))
    with _holds_guard:
        return _holds.setdefault(key, _Hold())


def _take_file(folder: Path, hold: _Hold, deadline: float) -> bool:
    """Writes the lock file, waiting for a living owner; True when a dead one's was removed."""
    path, recovered = folder / LOCK_NAME, False
    hold.token = secrets.token_hex(8)
    while True:
        with _serialised(folder) as ours:
            note = _read_note(path)
            if ours and note is not None and _is_stale(note):
                recovered = _break(path, note) or recovered
                note = None
            if ours and note is None and _create(path, hold.token):
                return recovered
        if time.monotonic() >= deadline:
            raise StudyLockedError(_sentence(path, note))
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _serialised(folder: Path) -> Iterator[bool]:
    """Lets one process of this computer at a time judge and take the lock: True for that one.

    Two that both see a dead owner's lock could otherwise remove each other's new one. Where
    the file system has no such locks, the check in `_break` remains.
    """
    if sys.platform == "win32":  # pragma: no cover
        yield True
        return
    import fcntl  # noqa: PLC0415 - there is none on Windows

    with on_disk("open", folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        ours = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ours = False
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise storage_error(error, "lock", folder) from error
        yield ours
    finally:
        os.close(handle)


def _create(path: Path, token: str) -> bool:
    """Puts a complete lock file in place unless there is one; False if there is."""
    body: dict[str, Json] = {**asdict(Owner.current()), "token": token, "taken": time.time()}
    temporary = path.with_name(temporary_name(LOCK_NAME))
    try:
        temporary.write_text(json.dumps(body), encoding="ascii")
        _link_or_write(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(error, "write to the study: cannot lock", path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _link_or_write(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here (FAT, some network disks): made exclusively, then filled.
        with path.open("xb") as file:
            file.write(temporary.read_bytes())


def _read_note(path: Path) -> _Note | None:
    try:
        age_s = time.time() - path.stat().st_mtime
        fields = Fields(read_json(path), str(path))
        owner = Owner(
            host=fields.text("host"),
            pid=fields.integer("pid"),
            started=fields.number("started"),
            uptime_s=fields.number("uptime_s"),
        )
        return _Note(owner=owner, token=fields.text("token"), age_s=age_s)
    except FileNotFoundError:
        return None
    except SchemaError:
        return _Note(owner=None, token="", age_s=age_s) if path.exists() else None
    except OSError as error:
        raise storage_error(error, "read", path) from error


def _is_stale(note: _Note) -> bool:
    if note.owner is None:
        return note.age_s > _HALF_WRITTEN_S
    alive = note.owner.alive()
    if alive is None:
        return note.age_s > FOREIGN_LOCK_S
    # Ours, but no hold of this process knows it: left when its removal failed.
    return not alive or (note.owner.pid == os.getpid() and not _held_here(note.token))


def _held_here(token: str) -> bool:
    with _holds_guard:
        return any(hold.depth and hold.token == token for hold in _holds.values())


def _break(path: Path, judged: _Note) -> bool:
    """Removes the lock that was judged stale; puts it back if it was another by then."""
    aside = path.with_name(temporary_name("stale-lock"))
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, "remove the lock of an ended writer,", path) from error
    found = _read_note(aside)
    if found is not None and found.token != judged.token:
        with contextlib.suppress(OSError):
            _link_or_write(aside, path)
    with contextlib.suppress(OSError):
        aside.unlink()
    return True


def _drop_file(path: Path, token: str) -> None:
    """Removes our lock file; another's, taken over from us after a long sleep, stays."""
    with contextlib.suppress(OSError, StorageError):  # found stale by the next writer
        note = _read_note(path)
        if note is not None and note.token == token:
            path.unlink()


def _sentence(path: Path, note: _Note | None) -> str:
    study = path.parent
    if note is None or note.owner is None:
        return f"the study {study} is being opened for writing by another program; try again"
    owner, since = note.owner, _duration(note.age_s)
    if owner.alive() is None:
        return (
            f"the study {study} is being written by a program on the computer {owner.host!r} "
            f"(process {owner.pid}, for {since}); wait until it has finished. If that computer "
            f"crashed, delete the file {path}; after {_duration(FOREIGN_LOCK_S)} this happens "
            "by itself"
        )
    return (
        f"the study {study} is being written by another program on this computer "
        f"(process {owner.pid}, for {since}); wait until it has finished, or end that program"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
