"""What the header of a DICOM file says of each slice in it; no voxels are read."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from semiseg.dicom.elements import DAMAGED, first, integer, items, number, numbers, text, texts
from semiseg.dicom.sources import Source
from semiseg.errors import ImageError

Pair = tuple[float, float]
Triple = tuple[float, float, float]
_IMAGE_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image",
}
NOT_DICOM = "is not a DICOM file"
UNIT_TOLERANCE = 2e-3
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
_NO_VOLUME = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVEY")
_PROJECTIONS = ("MIP", "MAX_IP", "MIN_IP", "MINIP", "PROJECTION IMAGE", "VOLUME RENDERING")
_TAGS: Final = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "AcquisitionTime",
    "ContentTime",
    "Modality",
    "SeriesDescription",
    "PatientID",
    "PatientName",
    "EchoTime",
    "InversionTime",
    "TriggerTime",
    "DiffusionBValue",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


class Order(NamedTuple):
    """What tells slices of one place apart; -1 or empty where the header does not say."""

    kind: tuple[str, ...] = ()
    temporal: float = -1.0
    acquisition: float = -1.0
    trigger_ms: float = -1.0
    acquired: str = ""
    content: str = ""
    instance: float = -1.0


class SeriesKey(NamedTuple):
    """What the slices of one volume have in common in their headers."""

    study_uid: str
    series_uid: str
    place: str
    frame_of_reference_uid: str
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One slice on offer: where its pixels are and where they lie in the patient (LPS mm).

    `spacing_mm` is that between rows, then between columns; `number` counts frames from 0.
    """

    name: str
    number: int
    frames_in_file: int
    key: SeriesKey
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    series_number: int | None
    description: str
    patient_key: str
    transfer_syntax: str
    spacing_mm: Pair
    orientation: tuple[float, ...]
    position: Triple
    order: Order


class Skipped(NamedTuple):
    """A file that holds no slice of a volume, and why."""

    name: str
    reason: str


def read_frames(source: Source, name: str) -> list[Frame] | Skipped:
    """The slices in a file, or why there are none."""
    try:
        dataset = read_header(source, name)
    except ImageError as error:
        return Skipped(name, str(error))
    if dataset is None:
        return Skipped(name, NOT_DICOM)
    reason = _unfit(dataset)
    if reason:
        return Skipped(name, reason)
    try:
        return _frames(dataset, name)
    except _UnfitError as error:
        return Skipped(name, str(error))


def read_header(source: Source, name: str) -> Dataset | None:
    """The header of a file of `source`; None when it is not DICOM at all."""
    with source.head(name) as file:
        try:
            start = file.read(132)
            if start[128:] != b"DICM" and not _looks_bare(start):
                return None
            file.seek(0)
            return dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        except DAMAGED as error:
            raise ImageError("is damaged: its header cannot be read; copy it anew") from error


class _UnfitError(Exception):
    """Why a file gives no slices."""


def _looks_bare(start: bytes) -> bool:
    """Whether a file without the usual mark begins with an early element of either byte order."""
    return start[:2] in (b"\x08\x00", b"\x02\x00") or start[:3] == b"\x00\x08\x00"


def _unfit(dataset: Dataset) -> str:
    """Why a file cannot belong to a volume; empty when it can."""
    return _other_class(dataset) or _other_kind(dataset)


def _other_class(dataset: Dataset) -> str:
    sop_class = _class_of(dataset)
    modality = text(dataset, "Modality").upper()
    if not sop_class:
        if not text(dataset, "Rows"):
            return "is DICOM, but no image"
        known = modality in ("CT", "MR")
        return "" if known else f"is not a CT or MR image but of modality {modality or '(none)'}"
    if sop_class.startswith(_SECONDARY):
        return "is a secondary capture (a screenshot or scan), not a volume"
    if sop_class in _IMAGE_CLASSES:
        return ""
    what = UID(sop_class).name if UID(sop_class).is_valid else "of an unknown kind"
    return f"is not a CT or MR image: {what.removesuffix(' Storage')}"


def _other_kind(dataset: Dataset) -> str:
    kinds = " ".join(texts(dataset, "ImageType")).upper()
    if any(word in kinds for word in _NO_VOLUME):
        return "is a localiser (scout), not a slice of a volume"
    if any(word in kinds for word in _PROJECTIONS):
        return "is a projection through a volume, not a slice of one"
    if (integer(dataset, "SamplesPerPixel") or 1) != 1:
        return "is in colour; SemiSeg works on grey values"
    return ""


def _class_of(dataset: Dataset) -> str:
    return text(dataset, "SOPClassUID") or _meta(dataset, "MediaStorageSOPClassUID")


def _meta(dataset: Dataset, keyword: str) -> str:
    meta = getattr(dataset, "file_meta", None)
    return "" if meta is None else text(meta, keyword)


def _frames(dataset: Dataset, name: str) -> list[Frame]:
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    count = integer(dataset, "NumberOfFrames") or 1
    if per_frame:
        shared = first(dataset, "SharedFunctionalGroupsSequence")
        return [
            _frame(dataset, name, number, [own, shared], len(per_frame))
            for number, own in enumerate(per_frame)
        ]
    if count > 1:
        raise _UnfitError(f"holds {count} frames without saying where each of them lies")
    return [_frame(dataset, name, 0, [], 1)]


def _frame(
    dataset: Dataset, name: str, number: int, groups: list[Dataset], frames_in_file: int
) -> Frame:
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows < 1 or columns < 1:
        raise _UnfitError("does not say how many rows and columns it has")
    spacing, position, orientation = _place(dataset, groups)
    return Frame(
        name=name,
        number=number,
        frames_in_file=frames_in_file,
        key=_key(dataset, name, rows, columns),
        sop_instance_uid=text(dataset, "SOPInstanceUID")
        or _meta(dataset, "MediaStorageSOPInstanceUID"),
        sop_class_uid=_class_of(dataset),
        modality=text(dataset, "Modality").upper(),
        series_number=integer(dataset, "SeriesNumber"),
        description=text(dataset, "SeriesDescription"),
        patient_key=_patient(dataset),
        transfer_syntax=_meta(dataset, "TransferSyntaxUID"),
        spacing_mm=spacing,
        orientation=orientation,
        position=position,
        order=_order(dataset, groups, number),
    )


def _place(dataset: Dataset, groups: list[Dataset]) -> tuple[Pair, Triple, tuple[float, ...]]:
    """Spacing between rows and columns, place of the first pixel, direction."""
    measures = _group(dataset, groups, "PixelMeasuresSequence")
    spacing = numbers(measures, "PixelSpacing", 2)
    if not spacing or min(spacing) <= 0:
        raise _UnfitError("does not say how large its pixels are (Pixel Spacing)")
    place = _group(dataset, groups, "PlanePositionSequence")
    turned = _group(dataset, groups, "PlaneOrientationSequence")
    position = numbers(place, "ImagePositionPatient", 3)
    orientation = numbers(turned, "ImageOrientationPatient", 6)
    if not position or not orientation:
        raise _UnfitError(
            "does not say where it lies in the patient (Image Position, Image Orientation)"
        )
    if not _at_right_angles(orientation):
        raise _UnfitError("has an Image Orientation that is no pair of directions at right angles")
    return (spacing[0], spacing[1]), (position[0], position[1], position[2]), orientation


def _at_right_angles(orientation: tuple[float, ...]) -> bool:
    row, column = orientation[:3], orientation[3:]
    lengths = math.hypot(*row) - 1, math.hypot(*column) - 1
    product = sum(a * b for a, b in zip(row, column, strict=True))
    return max(abs(product), *map(abs, lengths)) <= UNIT_TOLERANCE


def _key(dataset: Dataset, name: str, rows: int, columns: int) -> SeriesKey:
    series = text(dataset, "SeriesInstanceUID")
    return SeriesKey(
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=series,
        # Files that an anonymiser took the series from belong together by folder.
        place="" if series else name.rpartition("/")[0],
        frame_of_reference_uid=text(dataset, "FrameOfReferenceUID"),
        rows=rows,
        columns=columns,
    )


def _patient(dataset: Dataset) -> str:
    """A one-way key, so that series of one patient are known to be so; empty without an id."""
    found = text(dataset, "PatientID") or text(dataset, "PatientName")
    return hashlib.sha256(found.encode(errors="replace")).hexdigest() if found else ""


def _order(dataset: Dataset, groups: list[Dataset], number_: int) -> Order:
    content = _group(dataset, groups, "FrameContentSequence")
    echo = number(_group(dataset, groups, "MREchoSequence"), "EffectiveEchoTime")
    diffusion = number(_group(dataset, groups, "MRDiffusionSequence"), "DiffusionBValue")
    kind = _kind(dataset, groups, echo, diffusion) + _some(stack=text(content, "StackID"))
    temporal = number(content, "TemporalPositionIndex")
    if temporal is None:
        temporal = number(dataset, "TemporalPositionIdentifier")
    acquisition = number(content, "FrameAcquisitionNumber")
    if acquisition is None:
        acquisition = number(dataset, "AcquisitionNumber")
    trigger = number(_group(dataset, groups, "CardiacSynchronizationSequence"), _DELAY)
    if trigger is None:
        trigger = number(dataset, "TriggerTime")
    instance = integer(dataset, "InstanceNumber")
    return Order(
        kind=kind,
        temporal=_or(temporal),
        acquisition=_or(acquisition),
        trigger_ms=_or(trigger),
        acquired=text(content, "FrameAcquisitionDateTime") or text(dataset, "AcquisitionTime"),
        content=text(dataset, "ContentTime"),
        instance=float(number_) if groups else _or(instance),
    )


_DELAY = "NominalCardiacTriggerDelayTime"


def _kind(
    dataset: Dataset, groups: list[Dataset], echo: float | None, diffusion: float | None
) -> tuple[str, ...]:
    """What makes slices of one place different images: echo, diffusion, kind of picture."""
    echo = number(dataset, "EchoTime") if echo is None else echo
    diffusion = number(dataset, "DiffusionBValue") if diffusion is None else diffusion
    of_frame = _group(dataset, groups, "MRImageFrameTypeSequence")
    types = texts(of_frame, "FrameType") or texts(dataset, "ImageType")
    inversion = number(dataset, "InversionTime")
    return _some(
        echo=None if echo is None else f"{echo:g} ms",
        b=None if diffusion is None else f"{diffusion:g}",
        inversion=None if inversion is None else f"{inversion:g} ms",
        type="/".join(types[2:]),
    )


def _some(**values: str | None) -> tuple[str, ...]:
    return tuple(f"{name} {value}" for name, value in values.items() if value)


def _or(value: float | None) -> float:
    return -1.0 if value is None else float(value)


def _group(dataset: Dataset, groups: list[Dataset], keyword: str) -> Dataset:
    """The functional group of a frame, its own before the shared one; plain files: the file."""
    if not groups:
        return dataset
    for group in groups:
        found = items(group, keyword)
        if found:
            return found[0]
    return Dataset()
