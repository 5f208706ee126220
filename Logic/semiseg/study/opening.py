"""Reads a study folder as far as it can be read, and says what cannot be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.study.case import Case, Problem, Split, case_from_json
from semiseg.study.companion_files import companion_problems
from semiseg.study.journal import Journal
from semiseg.study.labels import CaseFiles
from semiseg.study.lock import hold_lock
from semiseg.study.migrate import (
    SCHEMA,
    NewerSchemaError,
    migrate_case,
    migrate_folder,
    migrate_study,
    schema_of,
)
from semiseg.study.owner import is_temporary
from semiseg.study.picture import quick_problem
from semiseg.study.record import STUDY_NAME, StudyRecord, backup_of
from semiseg.study.storage import on_disk, read_json
from semiseg.study.versions import version_numbers

CASE_NAME = "case.json"
Signature: TypeAlias = tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What could be read; `problems` say what could not.

    `read_only` says why nothing may be written, if so.
    """

    record: StudyRecord
    cases: Mapping[str, Case]
    problems: tuple[Problem, ...]
    signature: Signature
    read_only: Problem | None


def open_folder(folder: Path) -> Opened:
    """Everything in the study `folder` that can be read.

    StudyError when it is no study; SchemaError when a newer SemiSeg wrote it or neither
    study.json nor its copy can be read.
    """
    _require_study(folder)
    migrated, read_only = _migrate(folder)
    signature = signature_of(folder)  # taken first: a change meanwhile is then noticed later
    record, problems = _load_record(folder)
    problems += [note for note in (migrated, read_only) if note is not None]
    cases: dict[str, Case] = {}
    for case_id in (*record.case_ids, *_unlisted(folder, record.case_ids)):
        case, found = load_case(folder, case_id, record.splits.patients)
        problems += found
        if case is not None:
            cases[case_id] = case
            problems += case_problems(folder, case)
    tail = Journal(folder).torn_tail()
    problems += [tail] if tail else []
    return Opened(
        record=record,
        cases=cases,
        problems=tuple(problems),
        signature=signature,
        read_only=read_only,
    )


def signature_of(folder: Path) -> Signature:
    """Changes whenever study.json is written; None while it is missing."""
    try:
        found = (folder / STUDY_NAME).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def load_case(
    folder: Path, case_id: str, split_of: Mapping[str, Split]
) -> tuple[Case | None, list[Problem]]:
    """The case, from its copy in backups/ if need be; None when neither can be read."""
    path = folder / "cases" / case_id / CASE_NAME
    if Path(case_id).name != case_id or case_id in (".", ".."):
        return None, [_problem(case_id, path, f"{case_id!r} is no case id", _RESTORE)]
    try:
        return _parse_case(path, case_id, split_of), []
    except (SchemaError, StorageError) as error:
        return _case_from_copy(folder, path, case_id, split_of, str(error))


_RESTORE = (
    "restore the file from a backup of your own, or add the image again; the other cases are open"
)


def _case_from_copy(
    folder: Path, path: Path, case_id: str, split_of: Mapping[str, Split], cause: str
) -> tuple[Case | None, list[Problem]]:
    try:
        case = _parse_case(backup_of(folder, path), case_id, split_of)
    except (SchemaError, StorageError):
        return None, [_problem(case_id, path, cause, _RESTORE)]
    remedy = "its copy in backups/ was used; check modality and patient of this case"
    return case, [_problem(case_id, path, cause, remedy)]


def read_case(path: Path, split_of: Mapping[str, Split]) -> Case:
    """The case in the file `path`; SchemaError when it is missing or corrupt."""
    return case_from_json(migrate_case(read_json(path), str(path)), str(path), split_of)


def _parse_case(path: Path, case_id: str, split_of: Mapping[str, Split]) -> Case:
    case = read_case(path, split_of)
    if case.id != case_id:
        raise SchemaError(f"{path} belongs to the case {case.id!r}; the folders were mixed up")
    return case


def case_problems(folder: Path, case: Case) -> list[Problem]:
    """What can be seen quickly of the image, its companions and the newest label."""
    image = quick_problem(case, folder)
    label = newest_label_problem(folder, case)
    found = [problem for problem in (image, label) if problem is not None]
    return [*found, *companion_problems(folder, case)]


def newest_label_problem(folder: Path, case: Case) -> Problem | None:
    """Says that the newest label version is not whole, and which one is used in its place."""
    files = CaseFiles(folder / "cases" / case.id, case.id, case.grid)
    numbers = version_numbers(files.labels)
    if not numbers:
        return None
    try:
        files.label_info(numbers[-1])
    except (SchemaError, StorageError) as error:
        return label_problem(case.id, files.labels, numbers[-1], str(error))
    return None


def label_problem(case_id: str, parent: Path, version: int, cause: str) -> Problem:
    """A version that cannot be read; the one before it takes its place."""
    return _problem(
        case_id,
        parent / f"{version:04d}",
        f"{parent.name} version {version} of {case_id} cannot be used: {cause}",
        "the newest version before it that can be read is used; restore the files from a backup "
        "of your own to get it back",
    )


def _problem(case_id: str | None, path: Path, message: str, remedy: str) -> Problem:
    return Problem(case_id=case_id, path=path, message=message, remedy=remedy)


def _require_study(folder: Path) -> None:
    with on_disk("open", folder):
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"{folder} is a file; a study is a folder")
        if folder.is_symlink():
            folder.stat()  # a loop of links is told as one
        names = (STUDY_NAME, "backups")
        if folder.is_dir() and any((folder / name).exists() for name in names):
            return
    raise StudyError(
        f"{folder} is not a study: it has no {STUDY_NAME}; check the path, or make a new study "
        "there (semiseg study new)"
    )


def _load_record(folder: Path) -> tuple[StudyRecord, list[Problem]]:
    path = folder / STUDY_NAME
    try:
        return _parse_record(path), []
    except NewerSchemaError:
        raise
    except SchemaError as error:
        copy = backup_of(folder, path)
        try:
            record = _parse_record(copy)
        except SchemaError as second:
            raise SchemaError(
                f"{error}, and its copy cannot be read either ({second}); put {STUDY_NAME} back "
                "from a backup of your own. The labels in cases/ are untouched"
            ) from error
        remedy = f"the copy {copy} was used; the next change writes {STUDY_NAME} anew"
        return record, [_problem(None, path, str(error), remedy)]


def _parse_record(path: Path) -> StudyRecord:
    return StudyRecord.from_json(migrate_study(read_json(path), str(path)), str(path))


def _migrate(folder: Path) -> tuple[Problem | None, Problem | None]:
    """Rewrites an older study's files: what was done, or why it can be read only."""
    path = folder / STUDY_NAME
    try:
        schema = schema_of(read_json(path), str(path))
    except NewerSchemaError:
        raise
    except SchemaError:
        return None, None  # opened from its copy
    if schema == SCHEMA:
        return None, None
    try:
        with hold_lock(folder, wait_s=10.0):
            backup = migrate_folder(folder, schema)
            Journal(folder).append("migrated", before=schema, after=SCHEMA)
    except StorageError as error:
        remedy = "it can be looked at, but not changed, until it lies where it can be written"
        return None, _problem(None, path, f"the study has the old schema {schema}; {error}", remedy)
    message = f"the study was brought from schema {schema} to {SCHEMA}"
    remedy = f"nothing needs to be done; its files as they were: {backup}"
    return _problem(None, path, message, remedy), None


def _unlisted(folder: Path, listed: tuple[str, ...]) -> list[str]:
    """Cases whose addition was cut short after their folder was complete."""
    try:
        with os.scandir(folder / "cases") as entries:
            names = [entry.name for entry in entries if not is_temporary(entry.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudyError(f"{folder / 'cases'} cannot be read: {error.strerror}") from error
    known = set(listed)
    return sorted(
        name
        for name in names
        if name not in known and (folder / "cases" / name / CASE_NAME).exists()
    )
