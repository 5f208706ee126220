"""What Slicer's DICOM database knows: its series, and the files of volumes loaded from it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

DICOM_ATTRIBUTE = "DICOM.instanceUIDs"
_IMAGE_TYPE = "0008,0008"
_NO_VOLUME = ("LOCALIZER", "SCOUT")
_USABLE = ("CT", "MR")
# Headers that the database has not cached are read from the disk, in the GUI's own thread.
_HEADERS_FOR_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series of the database; `refusal` says why it cannot become a case, "" when it can.

    Patient and descriptions are for the eyes of the user alone: they never enter a study.
    """

    uid: str
    patient: str
    study: str
    date: str
    modality: str
    number: str
    description: str
    images: int
    refusal: str = ""


def database() -> Any | None:
    """Slicer's DICOM database; None when there is none, or it is closed."""
    found = getattr(slicer, "dicomDatabase", None)
    return found if found is not None and found.isOpen else None


def instances_of(node: Any) -> list[str]:
    """The unique ids of the images that the DICOM module made `node` of."""
    return (node.GetAttribute(DICOM_ATTRIBUTE) or "").split()


def files_of(found: Any | None, instances: Sequence[str]) -> list[Path]:
    """The files of all `instances`; none when only one of them is not there any more."""
    if found is None:
        return []
    paths = [Path(name) for name in map(found.fileForInstance, instances) if name]
    whole = len(paths) == len(instances) and all(path.is_file() for path in paths)
    return paths if whole else []


def files_of_series(found: Any | None, uid: str) -> list[Path]:
    """The files of a series that are there."""
    names = () if found is None else found.filesForSeries(uid)
    return [path for path in map(Path, names) if path.is_file()]


def name_of_series(found: Any | None, uid: str) -> str:
    """A series in a few words that tell nothing of the patient: modality and number."""
    fields = () if found is None else ("Modality", "SeriesNumber")
    parts = [str(found.fieldForSeries(name, uid) or "") for name in fields]
    return " ".join(part for part in parts if part) or uid


def all_series(found: Any) -> list[Series]:
    """Every series, by patient, newest study first."""
    deadline = time.monotonic() + _HEADERS_FOR_S
    rows = []
    for patient in found.patients():
        for study in found.studiesForPatient(patient):
            for uid in found.seriesForStudy(study):
                look = time.monotonic() < deadline
                rows.append(_series(found, patient, study, uid, look=look))
    rows.sort(key=lambda row: (row.number.zfill(6), row.description))
    rows.sort(key=lambda row: row.date, reverse=True)
    return sorted(rows, key=lambda row: row.patient.lower())


def grouped(rows: Sequence[Series]) -> Iterator[tuple[str, list[Series]]]:
    """The rows of each patient's study, under what it is called."""
    groups: dict[str, list[Series]] = {}
    for row in rows:
        parts = (row.patient or _("(no name)"), row.date, row.study)
        groups.setdefault("   ".join(part for part in parts if part), []).append(row)
    yield from groups.items()


def _series(found: Any, patient: str, study: str, uid: str, *, look: bool) -> Series:
    def of_series(name: str) -> str:
        return str(found.fieldForSeries(name, uid) or "")

    instances = list(found.instancesForSeries(uid))
    modality = of_series("Modality")
    return Series(
        uid=uid,
        patient=_readable(found.nameForPatient(patient)),
        study=str(found.fieldForStudy("StudyDescription", study) or ""),
        date=_dashed(str(found.fieldForStudy("StudyDate", study) or "")),
        modality=modality,
        number=of_series("SeriesNumber"),
        description=of_series("SeriesDescription"),
        images=len(instances),
        refusal=_refusal(found, modality, instances, look=look),
    )


def _refusal(found: Any, modality: str, instances: Sequence[str], *, look: bool) -> str:
    if modality and modality not in _USABLE:
        return _("{modality} is no CT or MR image").format(modality=modality)
    if not instances:
        return _("It has no images")
    kinds = found.instanceValue(instances[0], _IMAGE_TYPE) if look else ""
    if any(word in str(kinds or "").upper() for word in _NO_VOLUME):
        return _("It is a localizer (scout), not a volume")
    return ""


def _readable(name: str) -> str:
    """DICOM parts a name by carets."""
    return " ".join(part for part in str(name or "").split("^") if part)


def _dashed(date: str) -> str:
    plain = date.replace("-", "")
    whole = len(plain) == 8 and plain.isdecimal()
    return f"{plain[:4]}-{plain[4:6]}-{plain[6:]}" if whole else date
