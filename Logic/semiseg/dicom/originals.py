"""The files that an image was made from, found again when something is written that names them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from semiseg.dicom.elements import DAMAGED, number, text
from semiseg.dicom.makers import stable_uid
from semiseg.dicom.references import Reference
from semiseg.dicom.sources import FilesSource, FolderSource, Source, ZipSource, open_source
from semiseg.errors import ImageError


def originals(reference: Reference, folder: Path | None = None) -> list[Dataset]:
    """The headers of the series' files, in the order of `reference.files`.

    They are looked for where they were, or below `folder` by their unique ids. ImageError when
    one is missing or another, or when the series has no unique ids to refer to.
    """
    _require_ids(reference)
    with closing(_opened(reference, folder)) as source:
        found = _found(source, reference)
    for name, header in found:
        try:
            _complete(header, reference)
        except DAMAGED as error:
            raise ImageError(f"the header of {name} is damaged; copy the file anew") from error
    return [header for _, header in found]


def whole_files(reference: Reference, folder: Path | None = None) -> Iterator[Dataset]:
    """The series' files one after the other, with their pixels; found as `originals` are."""
    _require_ids(reference)
    with closing(_opened(reference, folder)) as source:
        for name, _ in _found(source, reference):
            content = source.read(name)
            try:
                dataset = dcmread(io.BytesIO(content))
            except DAMAGED as error:
                raise ImageError(f"{name} is damaged behind its header; copy it anew") from error
            yield dataset


def _opened(reference: Reference, folder: Path | None) -> FolderSource | ZipSource:
    if folder is None and reference.source_kind == "files":
        # The folder above them all may be a whole disk: only these files are looked at.
        return FilesSource(Path(reference.source), only=[file.name for file in reference.files])
    try:
        return open_source(folder or Path(reference.source))
    except ImageError as error:
        raise ImageError(f"{_LOST} ({error})") from error


def _found(source: Source, reference: Reference) -> list[tuple[str, Dataset]]:
    """Name and header of each file of the series, in the order of the reference."""
    there = [(file.name, _header(source, file.name)) for file in reference.files]
    known = [(name, header) for name, header in there if header is not None]
    uids = [_uid(header) for _, header in known]
    if uids == [file.sop_instance_uid for file in reference.files]:
        return known
    return _by_uid(source, reference)


_LONGEST_STUDY_ID = 16
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
_LOST = (
    "the DICOM files that the image was made from are needed to refer to them, and are not where "
    "they were; put them back, or say where they are (--dicom FOLDER)"
)


def _complete(header: Dataset, reference: Reference) -> None:
    """Mends what would make an object that copies it invalid: missing, empty, too long."""
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    if not text(header, "DeidentificationMethod"):
        header.pop("DeidentificationMethod", None)
        if text(header, "PatientIdentityRemoved") == "YES":
            header.DeidentificationMethod = "not stated by the source"
    if number(header, "SliceThickness") is None and "NumberOfFrames" not in header:
        header.SliceThickness = round(reference.grid.spacing_mm_xyz[2], 6)
    if len(text(header, "StudyID")) > _LONGEST_STUDY_ID:
        header.StudyID = ""
    for keyword, value in (
        ("SOPClassUID", reference.sop_class_uid),
        ("FrameOfReferenceUID", stable_uid("frame of", reference.series_uid)),
    ):
        if not text(header, keyword):
            setattr(header, keyword, value)


def _require_ids(reference: Reference) -> None:
    missing = [
        name
        for name, value in (
            ("Study Instance UID", reference.study_uid),
            ("Series Instance UID", reference.series_uid),
            ("SOP Instance UID", all(file.sop_instance_uid for file in reference.files)),
        )
        if not value
    ]
    if missing:
        raise ImageError(
            f"the DICOM series has no {missing[0]}, so nothing can refer to it; export as "
            ".seg.nrrd or NIfTI, or add the series anew with its identifiers kept"
        )


def _header(source: Source, name: str) -> Dataset | None:
    """All of a file's header; None when the file is gone, damaged or no DICOM."""
    try:
        with source.head(name) as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            return dcmread(file, stop_before_pixels=True)
    except (*DAMAGED, ImageError):
        return None


def _uid(header: Dataset) -> str:
    meta = getattr(header, "file_meta", Dataset())
    return text(header, "SOPInstanceUID") or text(meta, "MediaStorageSOPInstanceUID")


def _by_uid(source: Source, reference: Reference) -> list[tuple[str, Dataset]]:
    """Looks through all files, which may have been renamed or moved."""
    wanted = {file.sop_instance_uid for file in reference.files}
    there: dict[str, tuple[str, Dataset]] = {}
    for name in source.names():
        if len(there) == len(wanted):
            break
        header = _header(source, name)
        uid = "" if header is None else _uid(header)
        if header is not None and uid in wanted:
            there[uid] = (name, header)
    lacking = len(wanted - set(there))
    if lacking:
        raise ImageError(f"{_LOST} ({lacking} of {len(wanted)} files were not found)")
    return [there[file.sop_instance_uid] for file in reference.files]
