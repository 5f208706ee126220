"""Taking a case out of a study, and putting it back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.study.case import Case
from semiseg.study.core import REMOVED, STAMP, StudyCore
from semiseg.study.labels import CaseFiles
from semiseg.study.opening import CASE_NAME, read_case
from semiseg.study.record import backup_of
from semiseg.study.storage import make_folder, on_disk, sync_folder

_STAMPED = re.compile(".+" + STAMP)


class Removal(StudyCore):
    """The part of `Study` about cases that were taken out."""

    def remove_case(self, case_id: str) -> Path:
        """Moves the case, with labels, segmentations and drafts, to `removed/`; returns where.

        `restore_case` puts it back. Its patient keeps the split.
        """
        with self.writing():
            case = self.case(case_id)
            target = self._place_for(case_id)
            remaining = tuple(known for known in self._record.case_ids if known != case_id)
            # Killed after this, the case is found by its folder; killed later, it is gone whole.
            self._save_record(replace(self._record, case_ids=remaining))
            _move(self._case_folder(case_id), target)
            self._cases = {known: found for known, found in self._cases.items() if known != case_id}
            self._problems = tuple(p for p in self._problems if p.case_id != case_id)
            drafts = self.folder / "drafts" / case_id
            if drafts.is_dir():
                _move(drafts, target / "drafts")
            copy = backup_of(self.folder, self._case_folder(case_id) / CASE_NAME)
            with on_disk("remove", copy):
                copy.unlink(missing_ok=True)
            self._note("case_removed", case=case.id, folder=target.relative_to(self.folder).name)
            return target

    def restore_case(self, path: Path) -> Case:
        """Puts a case back that `remove_case` moved to `path`.

        StudyError when there is none, or when its id or image is in the study again.
        """
        with self.writing():
            source = self._removed_folder(Path(path))
            case = read_case(source / CASE_NAME, self._record.splits.patients)
            self._require_absent(case)
            drafts = self.folder / "drafts" / case.id
            if (source / "drafts").is_dir() and not drafts.exists():
                make_folder(drafts.parent)
                _move(source / "drafts", drafts)
            make_folder(self.folder / "cases")
            _move(source, self._case_folder(case.id))
            self._save_case(case)
            splits = self._record.splits.with_patient(case.patient)
            case_ids = tuple(dict.fromkeys((*self._record.case_ids, case.id)))
            self._cases[case.id] = case
            self._save_record(replace(self._record, case_ids=case_ids, splits=splits))
            self._note("case_restored", case=case.id)
            return self._cases[case.id]

    def removed_cases(self) -> tuple[Path, ...]:
        """Where removed cases lie, oldest first."""
        return tuple(
            sorted((path for path, _ in self._removed()), key=lambda path: path.name[-20:])
        )

    def _removed(self) -> Iterator[tuple[Path, Case]]:
        """The removed cases that can be read."""
        try:
            with os.scandir(self.folder / REMOVED) as entries:
                folders = [Path(entry.path) for entry in entries if _STAMPED.fullmatch(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for folder in folders:
            try:
                yield folder, read_case(folder / CASE_NAME, {})
            except (SchemaError, StorageError):
                continue

    def _removed_files(self) -> list[CaseFiles]:
        return [CaseFiles(folder, case.id, case.grid) for folder, case in self._removed()]

    def _place_for(self, case_id: str) -> Path:
        make_folder(self.folder / REMOVED)
        name = f"{case_id}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}"
        path, count = self.folder / REMOVED / name, 1
        while path.exists():
            count += 1
            path = self.folder / REMOVED / f"{name}-{count}"
        return path

    def _removed_folder(self, path: Path) -> Path:
        folder = path if path.is_absolute() else self.folder / REMOVED / path
        inside = folder.parent.resolve() == (self.folder / REMOVED).resolve()
        if inside and _STAMPED.fullmatch(folder.name) and folder.is_dir():
            return folder
        names = ", ".join(found.name for found in self.removed_cases()) or "none"
        raise StudyError(f"{path} is no removed case of this study; there are: {names}")

    def _require_absent(self, case: Case) -> None:
        taken = {known.casefold(): known for known in (*self._cases, *self._record.case_ids)}
        if case.id.casefold() in taken:
            raise StudyError(
                f"the study has a case {taken[case.id.casefold()]!r} again; remove that one first"
            )
        for known in self._cases.values():
            if known.image.sha256 == case.image.sha256:
                raise StudyError(
                    f"the image of {case.id} is in the study again, as the case {known.id!r}; "
                    "remove that one first"
                )


def _move(source: Path, target: Path) -> None:
    with on_disk(f"move {source.name} to", target):
        source.rename(target)
        sync_folder(target.parent)
        sync_folder(source.parent)
