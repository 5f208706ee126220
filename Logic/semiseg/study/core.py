"""The study folder in memory: opened, locked, refreshed, with what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.events import Json
from semiseg.study.case import Case, Problem, case_to_json
from semiseg.study.journal import Journal, utc_now
from semiseg.study.labels import CaseFiles
from semiseg.study.lock import hold_lock
from semiseg.study.migrate import SCHEMA
from semiseg.study.opening import (
    CASE_NAME,
    Signature,
    case_problems,
    load_case,
    open_folder,
    signature_of,
)
from semiseg.study.picture import FileState
from semiseg.study.protocol import Protocol
from semiseg.study.record import STUDY_NAME, StudyRecord, backup_of, save_record
from semiseg.study.storage import make_folder, remove_leftovers, write_json_atomic

REMOVED = "removed"
STAMP = r"-\d{8}T\d{6}(-\d+)?"
_FOLDERS = ("cases", "models", "evaluations", "backups", "cache", "jobs", "report")


class StudyCore:
    """What every part of `Study` rests on.

    Nothing is kept open: each change takes the lock, reads anew what others changed, writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # the working directory may change
        self.journal = Journal(self.folder)
        self._later_problems: list[Problem] = []
        self._verified: set[tuple[Path, FileState]] = set()
        self.reload()

    @classmethod
    def create(cls, folder: Path, *, name: str, protocol: Protocol | None = None) -> Self:
        """A new study in `folder`; StudyError when there is one already."""
        folder = Path(folder)
        if not name.strip():
            raise StudyError("a study needs a name")
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"{folder} is a file; choose a folder for the study")
        for part in ("", *_FOLDERS):
            make_folder(folder / part)
        record = StudyRecord(
            id=uuid.uuid4().hex, name=name, created=utc_now(), protocol=protocol or Protocol()
        )
        with hold_lock(folder, wait_s=10.0):
            if (folder / STUDY_NAME).exists() or backup_of(folder, folder / STUDY_NAME).exists():
                raise StudyError(f"{folder} holds a study already; open it, or choose another")
            save_record(folder, record)
        study = cls(folder)
        study._note("created", name=name)
        return study

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The study in `folder`; what cannot be read of it is told in `problems`.

        StudyError when there is none; SchemaError when a newer SemiSeg wrote it, or when
        neither study.json nor its copy is whole.
        """
        return cls(Path(folder))

    def reload(self) -> None:
        """Reads everything anew."""
        opened = open_folder(self.folder)
        self._record, self._signature = opened.record, opened.signature
        self._cases: dict[str, Case] = dict(opened.cases)
        self._problems, self._read_only = opened.problems, opened.read_only
        self._later_problems.clear()

    def refresh(self) -> bool:
        """Reads everything anew if study.json was written since; whether it was."""
        if signature_of(self.folder) == self._signature:
            return False
        self.reload()
        return True

    def reread_case(self, case_id: str) -> tuple[Case, tuple[Problem, ...]]:
        """The case as its files say now, and what can be seen quickly to be wrong with it."""
        case, problems = load_case(self.folder, case_id, self._record.splits.patients)
        if case is not None:
            self._cases[case_id] = case
        found = self.case(case_id)
        return found, (*problems, *case_problems(self.folder, found))

    @property
    def signature(self) -> Signature:
        """Differs once protocol, splits or the list of cases were read anew."""
        return self._signature

    @property
    def id(self) -> str:
        """Set once, when the study was made."""
        return self._record.id

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self._record.name

    @property
    def protocol(self) -> Protocol:
        """The structures of the study."""
        return self._record.protocol

    @property
    def retired(self) -> Mapping[int, str]:
        """Ids of removed structures whose voxels are still in label files, with their names."""
        return MappingProxyType(dict(self._record.retired))

    @property
    def cases(self) -> Mapping[str, Case]:
        """The cases that could be read, by id, in the order in which they were added."""
        return MappingProxyType(self._cases)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be used when the study was opened or since."""
        return (*self._problems, *self._later_problems)

    @property
    def cache_dir(self) -> Path:
        """For what can be computed again."""
        return self._folder("cache")

    @property
    def jobs_dir(self) -> Path:
        """For the folders of long work."""
        return self._folder("jobs")

    @property
    def report_dir(self) -> Path:
        """For reports."""
        return self._folder("report")

    @contextlib.contextmanager
    def writing(self, *, wait_s: float = 10.0) -> Iterator[None]:
        """Holds the lock, so that several changes are one; may be nested.

        StudyLockedError when another living writer holds it longer than `wait_s`.
        """
        with hold_lock(self.folder, wait_s=wait_s) as taken:
            if signature_of(self.folder) != self._signature:
                self.reload()
            if self._read_only is not None:
                raise SchemaError(str(self._read_only))
            if taken.outermost:
                for name in ("", "backups", "backups/cases", "evaluations"):
                    remove_leftovers(self.folder / name)
            if taken.recovered:
                self._note("lock_recovered")
            yield

    def case(self, case_id: str) -> Case:
        """StudyError when the study has no such case, or could not read it."""
        if case_id in self._cases:
            return self._cases[case_id]
        told = [str(problem) for problem in self.problems if problem.case_id == case_id]
        told += _removal(self.folder, case_id)
        known = ", ".join(list(self._cases)[:8]) or "none yet: add images first"
        raise StudyError(told[0] if told else f"there is no case {case_id!r}; there are {known}")

    def _files(self, case: Case) -> CaseFiles:
        return CaseFiles(self._case_folder(case.id), case.id, case.grid)

    def _case_folder(self, case_id: str) -> Path:
        return self.folder / "cases" / case_id

    def _fresh_case(self, case_id: str) -> Case:
        """The case as it is on the disk now; call under the lock."""
        self.case(case_id)
        case, problems = load_case(self.folder, case_id, self._record.splits.patients)
        if case is None:
            raise StudyError(str(problems[0]))
        return case

    def _save_case(self, case: Case, folder: Path | None = None) -> None:
        """Writes case.json and its copy in backups/; call under the lock."""
        values: dict[str, Json] = {"schema_version": SCHEMA, **case_to_json(case)}
        path = self._case_folder(case.id) / CASE_NAME
        remove_leftovers(folder or path.parent)
        write_json_atomic((folder or path.parent) / CASE_NAME, values)
        copy = backup_of(self.folder, path)
        make_folder(copy.parent)
        write_json_atomic(copy, values)

    def _save_record(self, record: StudyRecord) -> None:
        """Writes study.json and takes over its splits; call under the lock."""
        save_record(self.folder, record)
        self._record, self._signature = record, signature_of(self.folder)
        split_of = record.splits.patients
        self._cases = {
            case_id: replace(case, split=split_of.get(case.patient, "train"))
            for case_id, case in self._cases.items()
        }

    def _note(self, kind: str, **data: Json) -> None:
        """A line in the journal.

        What it tells has happened: when the line cannot be written, that is a problem to tell,
        not a failure of what was done.
        """
        try:
            self.journal.append(kind, **data)
        except StorageError as error:
            self._tell(
                Problem(
                    path=self.journal.path,
                    message=f"{kind}: saved, but the journal does not say so: {error}",
                    remedy="nothing needs to be repeated",
                )
            )

    def _tell(self, problem: Problem) -> None:
        if problem not in self.problems:
            self._later_problems.append(problem)

    def _folder(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_dir():
            make_folder(path)
        return path


def _removal(folder: Path, case_id: str) -> list[str]:
    """Says that the case was removed, and how to get it back."""
    stamped = re.compile(re.escape(case_id) + STAMP)
    try:
        with os.scandir(folder / REMOVED) as entries:
            found = sorted(entry.name for entry in entries if stamped.fullmatch(entry.name))
    except OSError:
        return []
    back = "to put it back: semiseg study restore STUDY"
    return [f"{case_id} was removed from the study; {back} {name}" for name in found[-1:]]
