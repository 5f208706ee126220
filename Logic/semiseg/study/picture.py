"""The image file behind a case: taken in, found again, and checked to be the same."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from semiseg.errors import ImageError, StudyError
from semiseg.images.reading import read_image, sha256_file
from semiseg.images.writing import suffix_of
from semiseg.study.case import Case, ImageReference, Problem

_LONGEST_ID = 64
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What a file looks like from outside."""

    size_bytes: int
    mtime_ns: int


def reference_to(path: Path, folder: Path, *, copied: bool = False) -> ImageReference:
    """A reference to the image at `path` for the study in `folder`; reads the file once."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    state = file_state(absolute)
    if state is None:
        raise ImageError(f"{absolute} is not there; check the path, or reconnect its drive")
    return ImageReference(
        relative=relative_to(absolute, folder),
        absolute=str(absolute),
        sha256=sha256_file(absolute),
        copied=copied,
        size_bytes=state.size_bytes,
        mtime_ns=state.mtime_ns,
    )


def relative_to(path: Path, folder: Path) -> str | None:
    """`path` as seen from `folder`, with forward slashes; None on another Windows drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return None


def places(image: ImageReference, folder: Path) -> tuple[Path, ...]:
    """Where the image may lie: first as seen from the study, then where it was."""
    found = [folder / image.relative] if image.relative is not None else []
    return tuple(dict.fromkeys([*found, Path(image.absolute)]))


def file_state(path: Path) -> FileState | None:
    """None when the file is not there or cannot be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return FileState(size_bytes=found.st_size, mtime_ns=found.st_mtime_ns)


def quick_problem(case: Case, folder: Path) -> Problem | None:
    """What size alone tells: the image is missing or has changed."""
    states = [(path, file_state(path)) for path in places(case.image, folder)]
    there = [(path, state) for path, state in states if state is not None]
    if not there:
        return _missing(case, folder)
    # A migrated study did not know the size; then only reading the image can tell.
    sizes = {state.size_bytes for _, state in there}
    if case.image.size_bytes and case.image.size_bytes not in sizes:
        return _changed(case, there[0][0])
    return None


def find_image(case: Case, folder: Path, verified: set[tuple[Path, FileState]]) -> Path:
    """The file that was added as `case`; StudyError when it is missing or not the same.

    Where size and time are as they were, the content is taken to be; else it is read, once:
    `verified` remembers the files that were found to be the same.
    """
    there = [(path, state) for path in places(case.image, folder) if (state := file_state(path))]
    as_added = FileState(size_bytes=case.image.size_bytes, mtime_ns=case.image.mtime_ns)
    for path, state in there:
        if state == as_added or (path, state) in verified:
            return path
        if sha256_file(path) == case.image.sha256:
            verified.add((path, state))
            return path
    raise StudyError(str(_changed(case, there[0][0]) if there else _missing(case, folder)))


def content_problem(case: Case, folder: Path) -> Problem | None:
    """As `quick_problem`, but reads the image to be sure."""
    there = [path for path in places(case.image, folder) if file_state(path) is not None]
    if not there:
        return _missing(case, folder)
    try:
        same = any(sha256_file(path) == case.image.sha256 for path in there)
        if same:
            read_image(there[0])
    except ImageError as error:
        return Problem(
            case_id=case.id, path=there[0], message=f"{case.id}: {error}", remedy=_RELINK
        )
    return None if same else _changed(case, there[0])


def relinked(case: Case, path: Path, folder: Path) -> Case:
    """`case` with its image at a new place; StudyError unless the content is the same."""
    reference = reference_to(path, folder)
    if reference.sha256 != case.image.sha256:
        raise StudyError(
            f"{path} is not the image of {case.id}: its content differs from what was added; "
            "choose the original file, or add this one as a case of its own"
        )
    return replace(case, image=reference)


def plain_name(path: Path) -> str:
    """The file's name without the image suffix."""
    return path.name[: -len(suffix_of(path))] or path.name


def free_id(name: str, taken: Collection[str]) -> str:
    """A folder name made from `name` that no case has yet; upper and lower case are one."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", name), re.UNICODE)
    base = "-".join(words)[:_LONGEST_ID].strip("-_") or "case"
    if _DEVICES.fullmatch(base):
        base = f"case-{base}"
    used = {other.casefold() for other in taken}
    numbered = (base if n == 1 else f"{base}-{n}" for n in range(1, len(used) + 2))
    return next(name for name in numbered if name.casefold() not in used)


def require_id(case_id: str, taken: Collection[str]) -> str:
    """`case_id` if it can name a folder on every system; StudyError says why not."""
    found = unicodedata.normalize("NFC", case_id)
    if not found.strip() or len(found) > _LONGEST_ID or len(found.encode()) > 200:
        raise StudyError(f"a case id has 1 to {_LONGEST_ID} characters, got {case_id!r}")
    if _UNSAFE.search(found) or _DEVICES.fullmatch(found) or found[0] == "." or found[-1] in ". ":
        raise StudyError(
            f"{case_id!r} cannot be a case id, because it names a folder: leave out "
            '< > : " / \\ | ? * and a dot at either end'
        )
    if found.casefold() in {other.casefold() for other in taken}:
        raise StudyError(f"the study has a case {case_id!r} already; choose another id")
    return found


_RELINK = (
    "put the original file back, or tell where it lies now (semiseg study relink). Its labels "
    "are kept and can be read"
)


def _missing(case: Case, folder: Path) -> Problem:
    looked = [str(path) for path in places(case.image, folder)]
    loops = [path for path in looked if Path(path).is_symlink()]
    cause = f"{loops[0]} is a symbolic link that leads nowhere" if loops else "it is not there"
    return Problem(
        case_id=case.id,
        path=Path(looked[0]),
        message=f"the image of {case.id} is missing: {cause} (looked at {' and '.join(looked)})",
        remedy=_RELINK,
    )


def _changed(case: Case, path: Path) -> Problem:
    return Problem(
        case_id=case.id,
        path=path,
        message=f"the image of {case.id} is not the file that was added: {path} has changed since",
        remedy=f"{_RELINK}; or add the changed image as a new case",
    )
