"""Segmentations of a study as DICOM objects that refer to the series the images came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from semiseg.config import DicomFormat, Identity, check_choice
from semiseg.dicom.deidentify import deidentified
from semiseg.dicom.elements import DAMAGED, text
from semiseg.dicom.label_files import read_dicom_label
from semiseg.dicom.makers import SegmentSpec, Term, maker_of, stable_uid
from semiseg.dicom.originals import originals, whole_files
from semiseg.dicom.references import Reference
from semiseg.dicom.rtstruct_writing import make_rtstruct
from semiseg.dicom.seg_writing import make_seg
from semiseg.errors import (
    ConfigError,
    ImageError,
    NotEnoughLabelsError,
    SemiSegError,
    StorageError,
)
from semiseg.events import Emit, Progress, ignore
from semiseg.images.labels import place_on
from semiseg.images.writing import replacing, storage_error
from semiseg.study.case import PROTECTED, Case, Origin
from semiseg.study.protocol import Structure
from semiseg.study.scanner import reference_of
from semiseg.study.study import Study
from semiseg.study.terminology import ANATOMICAL_STRUCTURE, Code

DICOM_FORMATS: tuple[DicomFormat, ...] = get_args(DicomFormat)
SUFFIXES = {"dicom-seg": "seg.dcm", "rtstruct": "rtstruct.dcm"}
_OWN_SCHEME = "99SEMISEG"


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """Whether DICOM objects carry the patient's identity, and where the series lies now.

    `identity` "ask" refuses to write anything, so that nobody's name leaves a study unnoticed.
    """

    identity: Identity = "ask"
    originals: Path | None = None

    def __post_init__(self) -> None:
        check_choice("identity", self.identity, get_args(Identity))


@dataclass(frozen=True, kw_only=True)
class DicomWork:
    """A DICOM object that can be written: everything that it refers to was found."""

    format: DicomFormat
    study: Study
    case: Case
    reference: Reference
    headers: tuple[Dataset, ...]
    identity: Identity


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The voxels to write: ids and origins (z, y, x), and the model of the predicted ones."""

    array: NDArray[np.uint16]
    origin: NDArray[np.uint8]
    model_id: int | None


def prepare(study: Study, case: Case, format_: DicomFormat, options: DicomOptions) -> DicomWork:
    """Finds the series of `case`; reads headers, writes nothing.

    ConfigError when nobody said what becomes of the patient's identity; ImageError when the
    case did not come from DICOM or its files are gone.
    """
    reference = reference_of(study, case.id)
    if reference is None:
        raise ImageError(
            f"{case.id} did not come from DICOM, so there is no series that a {format_} could "
            "refer to; export it as seg.nrrd or nii.gz, or add its DICOM series to the study and "
            "annotate that case with this label"
        )
    if options.identity == "ask":
        raise ConfigError(
            "DICOM objects carry the patient's name, id and birth date, as the archive needs "
            "them; say whether they are to be written out of the study (--identity keep), or "
            "removed by the DICOM basic profile for research (--identity remove)"
        )
    headers = tuple(originals(reference, options.originals))
    return DicomWork(
        format=format_,
        study=study,
        case=case,
        reference=reference,
        headers=headers,
        identity=options.identity,
    )


def write(path: Path, work: DicomWork, drawn: Drawn) -> None:
    """Writes the object to `path`, whole or not at all, and reads it back.

    NotEnoughLabelsError when no structure has a voxel; StorageError when the disk refuses.
    """
    specs = _specs(work, drawn)
    if not specs:
        raise NotEnoughLabelsError(
            f"no structure of {work.case.id} has a voxel; a DICOM object cannot be empty"
        )
    make = make_seg if work.format == "dicom-seg" else make_rtstruct
    try:
        dataset = make(drawn.array, specs, work.reference, work.headers)
        if work.identity == "remove":
            dataset = deidentified(dataset, patient=work.case.patient, secret=work.study.id)
    except DAMAGED as error:
        raise ImageError(
            f"no {work.format} can refer to the series of {work.case.id}, whose headers lack or "
            f"misstate something: {error}; export it as seg.nrrd or nii.gz"
        ) from error
    with replacing(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
        _verify(temporary, path.name, work, drawn, specs)


def write_deidentified(
    study: Study, case: Case, folder: Path, series: Path | None = None, emit: Emit = ignore
) -> list[Path]:
    """Writes the series of `case` into `folder` without the patient's identity; the paths.

    Its unique ids are those that SEG and RTSTRUCT exported without identity refer to. Looks for
    the series in `series` if it was moved. ImageError as `prepare`, and when the pictures
    themselves may show names; StorageError when a file is in the way or the disk refuses.
    """
    reference = reference_of(study, case.id)
    if reference is None:
        raise ImageError(f"{case.id} did not come from DICOM; there is no series to write")
    paths = _free_paths(folder, case.id, len(reference.files))
    progress = Progress(emit, "deidentify", len(paths))
    files = whole_files(reference, series)
    for number, (path, dataset) in enumerate(zip(paths, files, strict=True), 1):
        if text(dataset, "BurnedInAnnotation").upper() == "YES":
            raise ImageError(
                f"the pictures of {case.id} have writing burnt in, which may be a name; they "
                "cannot be de-identified here"
            )
        _write_clean(path, dataset, case, study.id)
        progress.update(number, f"{number} of {len(paths)} files written")
    return paths


def _write_clean(path: Path, dataset: Dataset, case: Case, secret: str) -> None:
    try:
        clean = deidentified(dataset, patient=case.patient, secret=secret, ours=False)
        with replacing(path) as temporary:
            clean.save_as(temporary, enforce_file_format=True)
    except DAMAGED as error:  # told without its words, which may be the patient's
        raise ImageError(
            f"a file of the series of {case.id}, which would be {path.name}, is damaged, so that "
            "nobody can tell what in it identifies the patient; copy the series anew"
        ) from error


def _free_paths(folder: Path, case_id: str, count: int) -> list[Path]:
    """Makes `folder`; StorageError when a file is in the way or the disk refuses."""
    paths = [folder / f"{case_id}_{number:05d}.dcm" for number in range(1, count + 1)]
    taken = [path.name for path in paths if path.exists()]
    if taken:
        raise StorageError(f"{taken[0]} is in {folder} already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    return paths


def _specs(work: DicomWork, drawn: Drawn) -> list[SegmentSpec]:
    specs = []
    for structure in work.study.protocol.structures:
        inside = drawn.array == structure.id
        if not inside.any():
            continue
        origins = np.bincount(drawn.origin[inside], minlength=len(Origin))
        specs.append(_spec(work, structure, origins, drawn.model_id))
    return specs


def _spec(
    work: DicomWork, structure: Structure, origins: NDArray[np.intp], model_id: int | None
) -> SegmentSpec:
    own = Term(str(structure.id), _OWN_SCHEME, structure.name)
    return SegmentSpec(
        id=structure.id,
        name=structure.name,
        color=structure.color,
        category=_term(ANATOMICAL_STRUCTURE),
        type=_term(structure.code) if structure.code else own,
        modifier=_term(structure.modifier) if structure.modifier else None,
        maker=maker_of(
            human=any(origins[origin] for origin in PROTECTED),
            propagated=bool(origins[Origin.PROPAGATED]),
            predicted=bool(origins[Origin.PREDICTED]),
            model_id=model_id,
        ),
        tracking_uid=stable_uid(work.study.id, work.case.id, structure.id),
    )


def _term(code: Code) -> Term:
    return Term(code.value, code.scheme, code.meaning)


def _verify(
    path: Path, name: str, work: DicomWork, drawn: Drawn, specs: Sequence[SegmentSpec]
) -> None:
    """StorageError unless the file gives the same voxels for the same names."""
    try:
        back = place_on(read_dicom_label(path, work.case.grid), work.case.grid)
    except SemiSegError as error:
        raise StorageError(f"{name} was written but cannot be read back: {error}") from error
    ids = np.zeros(len(specs) + 1, dtype=np.uint16)
    ids[1:] = [spec.id for spec in specs]
    names = [segment.name for segment in back.segments]
    same = names == [spec.name[:64] for spec in specs]
    if not same or not np.array_equal(ids[back.array], drawn.array):
        raise StorageError(
            f"{name} does not read back as what was written; is the disk failing? Export to "
            "another disk"
        )
