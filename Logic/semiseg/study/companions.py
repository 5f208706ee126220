"""Further volumes of a case: other phases of its CT, other sequences of its MR."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.config import MODALITIES
from semiseg.errors import GeometryMismatchError, StudyError
from semiseg.images.grid import Grid, canonical
from semiseg.images.reading import Image, read_image, sha256_file, write_image
from semiseg.study.case import Case, Companion
from semiseg.study.companion_files import as_case
from semiseg.study.core import StudyCore
from semiseg.study.picture import find_image, reference_to
from semiseg.study.storage import make_folder, on_disk

_FOLDER = "companions"
_NAME = re.compile(r"\w(?:[\w .-]{0,30}\w)?")


class CompanionWork(StudyCore):
    """The part of `Study` about companions of cases."""

    def add_companion(self, case_id: str, image_path: Path, name: str) -> Case:
        """Takes in a further volume of the case's patient and anatomy, as `name`.

        Its voxels and grid are written anew into the study; nothing else of the file is kept.
        GeometryMismatchError unless it fills the same space; StudyError when the name or the
        volume is there already.
        """
        image_path = Path(image_path)
        image = read_image(image_path)
        with self.writing():
            case = self._fresh_case(case_id)
            name = _new_name(case, name)
            _require_same_space(case, image.grid, name)
            if sha256_file(image_path) == case.image.sha256:
                raise StudyError(f"{image_path} is the image of {case_id} itself")
            companion = self._write_companion(case, image, name)
            case = self._keep(replace(case, companions=(*case.companions, companion)))
            self._note("companion_added", case=case_id, name=name)
            return case

    def remove_companion(self, case_id: str, name: str) -> Case:
        """Takes a companion out, with its file; StudyError when there is none of that name."""
        with self.writing():
            case = self._fresh_case(case_id)
            gone = _named(case, name)
            rest = tuple(other for other in case.companions if other.name != gone.name)
            case = self._keep(replace(case, companions=rest))
            path = self._companion_path(case_id, gone.name)
            with on_disk("remove", path):
                path.unlink(missing_ok=True)
            self._note("companion_removed", case=case_id, name=gone.name)
            return case

    def set_sequence(self, case_id: str, sequence: str | None) -> Case:
        """Says which phase or sequence the case's own image is; None: what its modality says."""
        with self.writing():
            case = self._fresh_case(case_id)
            found = None if sequence is None else _sound_name(sequence)
            if found is not None and found in {companion.name for companion in case.companions}:
                raise StudyError(f"{found} names a companion of {case_id}; choose another name")
            sequence = None if found == case.modality else found
            case = self._keep(replace(case, sequence=sequence))
            self._note("sequence_set", case=case_id, sequence=sequence)
            return case

    def companion(self, case_id: str, name: str) -> Image:
        """A companion's volume; StudyError when it is missing or no longer what was added."""
        case = self.case(case_id)
        found = _named(case, name)
        image = read_image(self.companion_path(case_id, name))
        image.grid.require_same(found.grid, f"{name} of {case_id}")
        return image

    def companion_path(self, case_id: str, name: str) -> Path:
        """Where a companion's volume lies; StudyError as for `companion`."""
        case = self.case(case_id)
        return find_image(as_case(case, _named(case, name)), self.folder, self._verified)

    def _keep(self, case: Case) -> Case:
        self._save_case(case)
        self._cases[case.id] = case
        return case

    def _companion_path(self, case_id: str, name: str) -> Path:
        return self._case_folder(case_id) / _FOLDER / f"volume-{name}.nrrd"

    def _write_companion(self, case: Case, image: Image, name: str) -> Companion:
        path = self._companion_path(case.id, name)
        make_folder(path.parent)
        write_image(path, image.array, image.grid)
        reference = reference_to(path, self.folder, copied=True)
        for known in case.companions:
            if known.image.sha256 == reference.sha256:
                path.unlink()
                raise StudyError(f"{case.id} has this volume already, as {known.name!r}")
        return Companion(name=name, image=reference, grid=image.grid)


def _require_same_space(case: Case, grid: Grid, name: str) -> None:
    """GeometryMismatchError unless both volumes' outer corners agree to a (larger) voxel."""
    mine, theirs = _corners(case.grid), _corners(grid)
    apart = float(np.linalg.norm(mine - theirs, axis=1).max())
    bearable = float(np.linalg.norm(np.maximum(case.grid.spacing_mm_xyz, grid.spacing_mm_xyz)))
    if apart > bearable:
        raise GeometryMismatchError(
            f"{name} does not fill the same space as the image of {case.id}: corners lie up to "
            f"{apart:.3g} mm apart, expected at most a voxel ({bearable:.3g} mm); it spans "
            f"{_span(grid)} mm against {_span(case.grid)} mm. Give another volume of the same "
            "examination, or resample it onto the image first"
        )


def _corners(grid: Grid) -> NDArray[np.float64]:
    """The eight outer corners (8, 3) of the volume, axes turned to L, P, S."""
    turned = canonical(grid).grid
    signs = np.array(list(itertools.product((0, 1), repeat=3)))
    return turned.to_world(signs * np.asarray(turned.size_xyz) - 0.5)


def _span(grid: Grid) -> str:
    turned = canonical(grid).grid
    sizes = np.multiply(turned.size_xyz, turned.spacing_mm_xyz)
    return " x ".join(f"{size:.4g}" for size in sizes)


def _sound_name(name: str) -> str:
    """`name` if it can name a volume, and a file; that of a modality in capitals."""
    found = unicodedata.normalize("NFC", name.strip())
    if not _NAME.fullmatch(found):
        raise StudyError(
            f"{name!r} cannot name a volume; expected up to 32 letters, digits, spaces, '.', '-' "
            "or '_', for example T2 or venous"
        )
    return found.upper() if found.upper() in MODALITIES else found


def _new_name(case: Case, name: str) -> str:
    """`name` if no volume of the case has it."""
    found = _sound_name(name)
    if found.casefold() == case.stream.casefold():
        raise StudyError(
            f"{found} is what the image of {case.id} itself shows; name the further volume "
            "otherwise, for example T2 or venous"
        )
    for known in case.companions:
        if known.name.casefold() == found.casefold():
            raise StudyError(
                f"{case.id} has a companion {known.name!r} already; choose another name, or take "
                f"that one out first: semiseg study remove-companion STUDY {case.id} {known.name}"
            )
    return found


def _named(case: Case, name: str) -> Companion:
    for companion in case.companions:
        if companion.name.casefold() == name.casefold():
            return companion
    known = ", ".join(companion.name for companion in case.companions) or "none"
    raise StudyError(f"{case.id} has no companion {name!r}; it has {known}")
