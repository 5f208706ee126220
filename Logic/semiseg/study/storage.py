"""Writes that are there whole or not at all, and disk errors in the user's words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from semiseg.errors import SchemaError, StorageError
from semiseg.events import Json
from semiseg.study.owner import is_temporary, temporary_name, temporary_owner_alive

_FOREIGN_LEFTOVER_S = 24 * 3600.0
_LARGEST_JSON_BYTES = 64 * 2**20
_CAUSES: dict[int | None, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "free some space and try again"),
    errno.EDQUOT: ("your disk quota is used up", "free some space and try again"),
    errno.EROFS: ("the disk is read-only", "copy the study to a disk that can be written"),
    errno.EACCES: ("writing there is not allowed", "give yourself the right, or copy the study"),
    errno.EPERM: ("writing there is not allowed", "give yourself the right, or copy the study"),
    errno.ELOOP: ("the path is a loop of symbolic links", "remove the link"),
    errno.ENAMETOOLONG: ("the path is too long", "use a shorter name or a folder further up"),
    errno.EIO: ("the disk reports a hardware error", "save your work on another disk"),
    errno.ENOENT: ("the folder is not there", "check that the disk is connected"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "move that file away"),
    errno.ESTALE: ("the network disk was disconnected", "connect it and try again"),
}


def storage_error(error: OSError, action: str, path: Path) -> StorageError:
    """A sentence for `error`, met while one tried to `action` ("save", "read") `path`."""
    cause, remedy = _CAUSES.get(error.errno, (str(error), "check the disk and try again"))
    return StorageError(
        f"cannot {action} {path}: {cause}; {remedy}. What was saved before is unchanged."
    )


@contextlib.contextmanager
def on_disk(action: str, path: Path) -> Iterator[None]:
    """Turns an OSError inside into a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, action, path) from error


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """`path` holds `content` on the disk, or what it held before; StorageError says which."""
    temporary = path.with_name(temporary_name(path.name))
    with on_disk("save", path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise


def write_json_atomic(path: Path, values: Mapping[str, Json]) -> None:
    """`values` as JSON in `path`, whole or not at all."""
    # ASCII only: a path with bytes that are no text survives as an escaped surrogate.
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, indent=1)
    write_bytes_atomic(path, (text + "\n").encode("ascii"))


def read_json(path: Path) -> dict[str, Json]:
    """The JSON object in `path`; SchemaError when it is missing or corrupt."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_JSON_BYTES + 1)
    except FileNotFoundError as error:
        raise SchemaError(f"{path} is missing") from error
    except OSError as error:
        raise storage_error(error, "read", path) from error
    if len(raw) > _LARGEST_JSON_BYTES:
        raise SchemaError(f"{path} is corrupt: it is larger than {_LARGEST_JSON_BYTES} bytes")
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{path} is corrupt: {error}") from error
    if not isinstance(values, dict):
        raise SchemaError(f"{path} is corrupt: expected an object, found {type(values).__name__}")
    return values


def sync_folder(folder: Path) -> None:
    """Puts the names in `folder` on the disk; Windows does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder; they order renames themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Puts every file and name below `folder` on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("r+b") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def make_folder(folder: Path) -> None:
    """`folder` and those above it exist; StorageError when they cannot be made."""
    if folder.is_dir():
        return
    with on_disk("make the folder", folder):
        missing = [folder, *folder.parents]
        first = next((path for path in missing if path.is_dir()), folder)
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(first)


def copy_file(source: Path, target: Path) -> None:
    """A copy of `source` that is on the disk when this returns; the times are not kept."""
    with on_disk("copy", target):
        shutil.copyfile(source, target)
        with target.open("r+b") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def draft_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in `parent` to be filled and published as `name`; else it is removed."""
    make_folder(parent)
    remove_leftovers(parent)
    draft = parent / temporary_name(name)
    with on_disk(f"save the {name} in", parent):
        draft.mkdir()
        try:
            yield draft
        except StorageError as error:
            # Names a file that is gone by now; what matters is the folder it was meant for.
            raise _without_draft(error, parent, name) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _without_draft(error: StorageError, parent: Path, name: str) -> StorageError:
    if isinstance(error.__cause__, OSError):
        return storage_error(error.__cause__, f"save the {name} in", parent)
    free_mb = shutil.disk_usage(parent).free / 1e6
    return StorageError(
        f"cannot save the {name} in {parent}: the disk did not take all of it "
        f"({free_mb:.1f} MB are free); free some space and try again. What was saved before is "
        "unchanged."
    )


def publish_folder(draft: Path, target: Path) -> None:
    """Gives a draft, whose files are on the disk, its name; so is that when this returns."""
    with on_disk("save", target):
        sync_folder(draft)
        draft.rename(target)
        sync_folder(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left half-written in `folder`; never a living one's work."""
    if not folder.is_dir():
        return
    with on_disk("read", folder), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_temporary(entry.name)]
    for name in names:
        path = folder / name
        alive = temporary_owner_alive(name)
        if alive is False or (alive is None and _age_s(path) > _FOREIGN_LEFTOVER_S):
            _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a leftover that resists costs space, nothing else
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0
