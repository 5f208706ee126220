"""Series and label files from elsewhere, brought into a study: its cases, its ids, its grids."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.config import Modality
from semiseg.dicom.label_files import read_dicom_label
from semiseg.dicom.loading import Loaded, load
from semiseg.dicom.references import Reference
from semiseg.dicom.series import Volume
from semiseg.dicom.sources import SourceKind, is_dicom
from semiseg.errors import LabelError, ProtocolError, StudyError
from semiseg.events import Emit, ignore
from semiseg.images.grid import Grid
from semiseg.images.labels import LabelMap, place_on, read_label
from semiseg.images.reading import sha256_file, to_sitk
from semiseg.images.writing import save
from semiseg.study.case import Case, Split
from semiseg.study.protocol import Protocol
from semiseg.study.scanner import keep_reference, reference_of
from semiseg.study.study import Study

_LARGEST = 65535


@dataclass(frozen=True, kw_only=True)
class SeriesChoice:
    """How a series becomes a case; without `patient`, series of one DICOM patient share a key."""

    case_id: str | None = None
    patient: str | None = None
    modality: Modality | None = None
    split: Split | None = None
    bridge_gaps: bool = False


def add_series(
    study: Study,
    root: Path,
    volume: Volume,
    choice: SeriesChoice | None = None,
    emit: Emit = ignore,
    kind: SourceKind | None = None,
) -> Case:
    """Take a volume of `dicom.scan` into the study: voxels as NRRD, references in dicom.json.

    No name, id or other attribute of the patient is kept, but unique ids, file names and the
    folder's path. `kind` is that of the scan, by default what `root` is. ImageError when it
    cannot be read; StudyError when it is there already.
    """
    choice = choice or SeriesChoice()
    loaded = load(root, volume, emit, bridge_gaps=choice.bridge_gaps)
    with study.writing(), tempfile.TemporaryDirectory(dir=study.cache_dir) as folder:
        reference = replace(loaded.reference, source_kind=kind or loaded.reference.source_kind)
        _require_new(study, reference)
        path = Path(folder) / f"{_series_name(volume)}.nrrd"
        _write(path, loaded)
        bare = _without_reference(study, path)
        case = bare or study.add_case(
            path,
            case_id=choice.case_id,
            name=_series_name(volume),
            patient=choice.patient or _pseudonym(study, volume),
            modality=choice.modality,
            split=choice.split,
            copy=True,
        )
        keep_reference(study, case.id, reference)
    return case


def add_companion_series(
    study: Study, case_id: str, root: Path, volume: Volume, name: str, emit: Emit = ignore
) -> Case:
    """Take a volume of `dicom.scan` in as a companion of a case: voxels and grid, nothing else.

    Errors as `Study.add_companion`; ImageError when it cannot be read.
    """
    loaded = load(root, volume, emit)
    with tempfile.TemporaryDirectory(dir=study.cache_dir) as folder:
        path = Path(folder) / "companion.nrrd"
        _write(path, loaded)
        return study.add_companion(case_id, path, name)


def read_label_for(study: Study, case_id: str, path: Path) -> LabelMap:
    """The label map in `path`: DICOM SEG and RTSTRUCT on the case's planes, or another kind.

    Errors as `read_label` and `read_dicom_label`.
    """
    if not is_dicom(path):
        return read_label(path)
    reference = reference_of(study, case_id)
    frame = reference.frame_of_reference_uid if reference else ""
    return read_dicom_label(path, study.case(case_id).grid, frame)


def _without_reference(study: Study, path: Path) -> Case | None:
    """The case with this very image whose references were never written, as when a disk is full."""
    sha256 = sha256_file(path)
    for case in study.cases.values():
        if case.image.sha256 == sha256 and reference_of(study, case.id) is None:
            return case
    return None


def _pseudonym(study: Study, volume: Volume) -> str | None:
    """One word for all series of a DICOM patient in this study; None without a patient id."""
    key = volume.first.patient_key
    if not key:
        return None
    return f"patient-{hashlib.sha256(f'{study.id} {key}'.encode()).hexdigest()[:10]}"


def _require_new(study: Study, reference: Reference) -> None:
    for case_id in study.cases:
        known = reference_of(study, case_id)
        if known is not None and _same_slices(known, reference):
            raise StudyError(f"the series is in the study already, as the case {case_id!r}")


def _same_slices(one: Reference, other: Reference) -> bool:
    def hashes(reference: Reference) -> list[tuple[str, int]]:
        return [(reference.files[file].sha256, frame) for file, frame in reference.slices]

    return hashes(one) == hashes(other)


def _series_name(volume: Volume) -> str:
    """A name without anything that a person typed: modality, series number, part."""
    frame = volume.first
    number = "" if frame.series_number is None else f" {frame.series_number}"
    part = f" {volume.part}" if volume.part else ""
    return re.sub(r"[^\w ]+", "", f"{frame.modality or 'series'}{number}{part}")[:60].strip()


def _write(path: Path, loaded: Loaded) -> None:
    image = to_sitk(loaded.array, loaded.grid)
    if loaded.modality_tag is not None:
        image.SetMetaData("modality", loaded.modality_tag)
    save(path, image)


def to_protocol(
    label: LabelMap, protocol: Protocol, grid: Grid, mapping: Mapping[int, int] | None = None
) -> NDArray[np.uint16]:
    """`label` on `grid` (z, y, x) with the protocol's ids.

    A value goes where `mapping` says (0 drops it), else to the structure with its segment's name,
    else, in a file without names, to the structure with its number; never by position.
    LabelError for a value that has no place; GeometryMismatchError when the grids differ.
    """
    placed = place_on(label, grid)
    values = np.flatnonzero(np.bincount(placed.array.ravel(), minlength=1)[1:]) + 1
    table = np.zeros(_LARGEST + 1, dtype=np.uint16)
    names = {segment.id: segment.name for segment in label.segments}
    for value in (int(v) for v in values):
        table[value] = _target(value, names.get(value), protocol, mapping or {})
    return table[placed.array]


def _target(value: int, name: str | None, protocol: Protocol, mapping: Mapping[int, int]) -> int:
    if value in mapping:
        wanted = mapping[value]
        return protocol.by_id(wanted).id if wanted else 0
    try:
        return (protocol.by_id(value) if name is None else protocol.by_name(name)).id
    except ProtocolError as error:
        what = f"value {value}" if name is None else f"segment {name!r} (value {value})"
        raise LabelError(
            f"the label file has {what}, which no structure of the study is; {error}. "
            f"Map it (for example {value}=liver, or {value}=0 to leave it out) or add the structure"
        ) from error
