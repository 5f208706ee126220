"""Adding cases to a study and saying what they are."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from semiseg.config import MODALITIES, Modality, check_choice
from semiseg.errors import ProtocolError, SchemaError, StorageError, StudyError
from semiseg.images.reading import Image, read_image, sha256_file
from semiseg.images.writing import suffix_of
from semiseg.study.case import SPLITS, Case, ImageReference, Problem, Split
from semiseg.study.companion_files import companion_problems
from semiseg.study.draft_files import DraftFiles, draft_problem
from semiseg.study.opening import label_problem
from semiseg.study.picture import (
    content_problem,
    file_state,
    find_image,
    free_id,
    plain_name,
    reference_to,
    relinked,
    require_id,
)
from semiseg.study.protocol import Protocol
from semiseg.study.removal import Removal
from semiseg.study.splits import Fractions
from semiseg.study.storage import copy_file, draft_folder, publish_folder
from semiseg.study.versions import read_manifest, require_content, version_folder, version_numbers

if TYPE_CHECKING:
    from semiseg.images.intensity import ModalityGuess


class CaseWork(Removal):
    """The part of `Study` about cases, protocol and splits."""

    def set_protocol(self, protocol: Protocol, *, force: bool = False) -> None:
        """Replaces the structures; ids keep their meaning.

        ProtocolError when a structure would go whose voxels a human drew; with `force` it goes
        from the newest labels' view, its voxels stay in the files, and no other structure can
        take its id.
        """
        with self.writing():
            gone = [s for s in self.protocol.structures if s.id not in protocol.ids]
            drawn, used = self._used_ids() if gone else ({}, set())
            lost = [s for s in gone if s.id in drawn]
            if lost and not force:
                names = ", ".join(f"{s.name} (drawn in {drawn[s.id]})" for s in lost)
                raise ProtocolError(
                    f"{names} cannot be removed without losing sight of drawn voxels"
                )
            retired = self._retired_after(protocol)
            retired |= {s.id: s.name for s in gone if s.id in used}
            self._save_record(replace(self._record, protocol=protocol, retired=retired))
            self._note("protocol_set", structures=[s.name for s in protocol.structures])

    def add_case(
        self,
        image_path: Path,
        *,
        case_id: str | None = None,
        name: str | None = None,
        patient: str | None = None,
        modality: Modality | None = None,
        split: Split | None = None,
        copy: bool = False,
    ) -> Case:
        """Takes the image in, by reference or as a copy inside the study.

        Without `patient` the case is a patient of its own. ImageError when the image cannot be
        used; StudyError when the same image, or the id, is in the study already.
        """
        image_path = Path(image_path)
        if split is not None:
            check_choice("split", split, SPLITS)
        draft = _describe(image_path, self.folder, modality)
        with self.writing():
            self._require_new(draft.image)
            case_id = self._new_id(image_path, case_id, name)
            case = replace(draft, id=case_id, name=name or draft.name, patient=patient or case_id)
            self._require_split(case.patient, split)
            case = self._write_case(case, image_path, copy=copy)
            self._list_case(case, split)
            self._note("case_added", case=case.id, modality=case.modality)
            return self._cases[case.id]

    def set_modality(self, case_id: str, modality: Modality | None) -> None:
        """Overrides the guess; None guesses anew from the image."""
        if modality is None:
            guess = _guess(self.image(case_id))
            found, confidence = guess.modality, guess.confidence
        else:
            check_choice("modality", modality, MODALITIES)
            found, confidence = modality, 1.0
        with self.writing():
            case = replace(
                self._fresh_case(case_id),
                modality=found,
                modality_confidence=confidence,
                modality_overridden=modality is not None,
            )
            self._save_case(case)
            self._cases[case_id] = case
            self._note("modality_set", case=case_id, modality=case.modality)

    def set_split(self, patient: str, split: Split) -> None:
        """Puts all cases of `patient` into `split`, because the user says so."""
        check_choice("split", split, SPLITS)
        with self.writing():
            self._require_patient(patient)
            splits = self._record.splits.set(patient, split)
            self._save_record(replace(self._record, splits=splits))
            self._note("split_set", patient=patient, split=split)

    def assign_splits(self, seed: int, fractions: Fractions = (0.7, 0.15, 0.15)) -> None:
        """Shares out the patients that have no split yet over train, val and test.

        Patients that were assigned stay where they are; later ones are assigned when added.
        """
        with self.writing():
            patients = {case.patient for case in self._cases.values()}
            splits = self._record.splits.assign(patients, seed, fractions)
            self._save_record(replace(self._record, splits=splits))
            self._note("splits_assigned", seed=seed, fractions=list(fractions))

    def image(self, case_id: str) -> Image:
        """The case's image; StudyError when it is missing or no longer the file that was added."""
        case = self.case(case_id)
        image = read_image(self.image_path(case_id))
        image.grid.require_same(case.grid, f"the image of {case_id}")
        return image

    def image_path(self, case_id: str) -> Path:
        """Where the case's image lies; StudyError when it is missing or not what was added."""
        return find_image(self.case(case_id), self.folder, self._verified)

    def relink_image(self, case_id: str, path: Path) -> Case:
        """Tells where the image lies now; StudyError unless its content is the same."""
        with self.writing():
            case = relinked(self._fresh_case(case_id), Path(path), self.folder)
            self._save_case(case)
            self._cases[case_id] = case
            self._problems = tuple(p for p in self._problems if p.case_id != case_id)
            self._note("image_relinked", case=case_id)
            return case

    def check(self) -> tuple[Problem, ...]:
        """Reads every image, label, draft, prediction and model; all that is wrong with them."""
        self.reload()
        found = list(self.problems)
        for case in self._cases.values():
            image = content_problem(case, self.folder)
            found += [image] if image else []
            found += companion_problems(self.folder, case, thorough=True)
            files = self._files(case)
            found += _damaged(case.id, (files.labels, files.predictions))
            found += _damaged_drafts(case.id, DraftFiles(self.folder / "drafts" / case.id))
        found += _damaged(None, (self.folder / "models",))
        journal = self.journal.problem()
        found += [journal] if journal else []
        return tuple(dict.fromkeys(found))

    def _require_new(self, reference: ImageReference) -> None:
        for case in self._cases.values():
            if case.image.sha256 == reference.sha256:
                raise StudyError(
                    f"{reference.absolute} is in the study already, as the case {case.id!r}"
                )

    def _new_id(self, path: Path, case_id: str | None, name: str | None) -> str:
        taken = [*self._cases, *self._record.case_ids]
        with contextlib.suppress(FileNotFoundError):
            taken += [path.name for path in (self.folder / "cases").iterdir()]
        if case_id is not None:
            return require_id(case_id, taken)
        return free_id(name or plain_name(path), taken)

    def _require_split(self, patient: str, split: Split | None) -> None:
        known = self._record.splits.patients.get(patient)
        if split is not None and known is not None and split != known:
            raise StudyError(
                f"the patient {patient!r} is in the split {known!r}; all images of a patient "
                f"belong to one split: leave the split out, or move the patient to {split!r} first"
            )

    def _write_case(self, case: Case, image_path: Path, *, copy: bool) -> Case:
        with draft_folder(self.folder / "cases", case.id) as draft:
            if copy:
                case = self._copy_image(case, image_path, draft)
            self._save_case(case, draft)
            publish_folder(draft, self._case_folder(case.id))
        return case

    def _copy_image(self, case: Case, image_path: Path, draft: Path) -> Case:
        name = f"image{suffix_of(image_path)}"
        copy_file(image_path, draft / name)
        if sha256_file(draft / name) != case.image.sha256:
            raise StudyError(f"{image_path} changed while it was copied; try again")
        state = file_state(draft / name)
        target = self._case_folder(case.id) / name
        reference = replace(
            case.image,
            relative=target.relative_to(self.folder).as_posix(),
            absolute=os.path.abspath(target),  # noqa: PTH100 - resolve() would follow links
            copied=True,
            mtime_ns=state.mtime_ns if state else 0,
        )
        return replace(case, image=reference)

    def _list_case(self, case: Case, split: Split | None) -> None:
        splits = self._record.splits
        splits = splits.set(case.patient, split) if split else splits.with_patient(case.patient)
        case_ids = tuple(dict.fromkeys((*self._record.case_ids, case.id)))
        try:
            self._save_record(replace(self._record, case_ids=case_ids, splits=splits))
        except BaseException:
            # Not listed, so not added: else it would turn up when the study is next opened.
            shutil.rmtree(self._case_folder(case.id), ignore_errors=True)
            raise
        self._cases[case.id] = replace(case, split=splits.patients.get(case.patient, "train"))

    def _require_patient(self, patient: str) -> None:
        if all(case.patient != patient for case in self._cases.values()):
            raise StudyError(f"no case belongs to the patient {patient!r}")

    def _used_ids(self) -> tuple[dict[int, str], set[int]]:
        """Ids with drawn voxels and a case that has them; and all ids that labels speak of."""
        drawn: dict[int, str] = {}
        used: set[int] = set()
        for case in self._cases.values():
            human, every = self._files(case).newest_ids()
            human |= DraftFiles(self.folder / "drafts" / case.id).newest_ids()
            drawn |= {number: case.id for number in human if number not in drawn}
            used |= human | every
        for files in self._removed_files():  # they may come back
            used |= files.newest_ids()[1]
        return drawn, used

    def _retired_after(self, protocol: Protocol) -> dict[int, str]:
        """The retired ids that stay so; ProtocolError when another structure takes one."""
        retired = dict(self._record.retired)
        for structure in protocol.structures:
            name = retired.pop(structure.id, structure.name)
            if name.casefold() != structure.name.casefold():
                raise ProtocolError(
                    f"the id {structure.id} belonged to {name!r}, whose voxels are still in the "
                    f"label files; give {structure.name!r} another id"
                )
        return retired


def _describe(path: Path, folder: Path, modality: Modality | None) -> Case:
    """A case for the image at `path`, read and checked, still without an id and a patient."""
    if modality is not None:
        check_choice("modality", modality, MODALITIES)
    image = read_image(path)
    guess = _guess(image)
    return Case(
        id="",
        name=plain_name(path),
        patient="",
        modality=modality or guess.modality,
        modality_confidence=1.0 if modality else guess.confidence,
        modality_overridden=modality is not None,
        split="train",
        image=reference_to(path, folder),
        grid=image.grid,
    )


def _damaged_drafts(case_id: str, files: DraftFiles) -> list[Problem]:
    found = []
    for number in files.numbers():
        try:
            files.read(number)
        except (SchemaError, StorageError) as error:
            found.append(draft_problem(case_id, files.path(number), number, str(error)))
    return found


def _guess(image: Image) -> ModalityGuess:
    from semiseg.images.intensity import guess_modality  # noqa: PLC0415 - scipy loads slowly

    return guess_modality(image)


def _damaged(case_id: str | None, parents: Iterable[Path]) -> list[Problem]:
    """Versions whose files are no longer what was written."""
    found = []
    for parent in parents:
        for version in version_numbers(parent):
            try:
                require_content(read_manifest(version_folder(parent, version)))
            except SchemaError as error:
                found.append(label_problem(case_id or "study", parent, version, str(error)))
    return found
