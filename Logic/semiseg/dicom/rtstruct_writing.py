"""Segmentations as DICOM RT Structure Sets that refer to the series they were made on."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from semiseg import __version__
from semiseg.dicom.contours import outlines
from semiseg.dicom.elements import integer, quiet, text
from semiseg.dicom.makers import PRODUCT, SegmentSpec, Term
from semiseg.dicom.references import Reference

_RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
_OF_THE_PATIENT = (
    "SpecificCharacterSet",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)


def make_rtstruct(
    array: NDArray[np.integer],
    specs: Sequence[SegmentSpec],
    reference: Reference,
    headers: Sequence[Dataset],
) -> Dataset:
    """A structure set of `array` (z, y, x): one ROI for each of `specs`, its outlines by slice.

    Outlines run half-way between a structure's outermost pixels and their neighbours; filled by
    pixel centres they give the same voxels.
    """
    with quiet():
        dataset = _object(headers[0])
        frame_of_reference = text(headers[0], "FrameOfReferenceUID")
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.PositionReferenceIndicator = ""
        dataset.ReferencedFrameOfReferenceSequence = [
            _referenced_frame(reference, headers, frame_of_reference)
        ]
        numbered = list(enumerate(specs, 1))
        dataset.StructureSetROISequence = [
            _roi(number, spec, frame_of_reference) for number, spec in numbered
        ]
        dataset.ROIContourSequence = [
            _contours(number, spec, array, (reference, headers)) for number, spec in numbered
        ]
        dataset.RTROIObservationsSequence = [
            _observation(number, spec) for number, spec in numbered
        ]
    return dataset


def _object(header: Dataset) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_RT_STRUCTURE_SET)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in _OF_THE_PATIENT:
        if keyword in header:
            dataset[keyword] = header[keyword]
    now = datetime.datetime.now()
    dataset.SOPClassUID = _RT_STRUCTURE_SET
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = 2000 + (integer(header, "SeriesNumber") or 0) % 100_000
    dataset.SeriesDescription = f"{PRODUCT} structures"
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = PRODUCT
    dataset.SoftwareVersions = __version__
    dataset.StructureSetLabel = PRODUCT
    dataset.StructureSetName = f"{PRODUCT} structures"
    dataset.InstanceNumber = 1
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _item(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def _image(header: Dataset, frame: int | None) -> Dataset:
    found = _item(
        ReferencedSOPClassUID=text(header, "SOPClassUID"),
        ReferencedSOPInstanceUID=text(header, "SOPInstanceUID"),
    )
    if frame is not None:
        found.ReferencedFrameNumber = frame + 1
    return found


def _referenced_frame(
    reference: Reference, headers: Sequence[Dataset], frame_of_reference: str
) -> Dataset:
    series = _item(
        SeriesInstanceUID=reference.series_uid,
        ContourImageSequence=[_image(header, None) for header in headers],
    )
    study = _item(
        ReferencedSOPClassUID=_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=reference.study_uid,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=frame_of_reference, RTReferencedStudySequence=[study])


def _roi(number: int, spec: SegmentSpec, frame_of_reference: str) -> Dataset:
    found = _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=frame_of_reference,
        ROIName=spec.name[:64],
        ROIGenerationAlgorithm=spec.maker.method,
    )
    if spec.maker.name:
        found.ROIGenerationDescription = f"{spec.maker.name} {spec.maker.version}"[:64]
    return found


def _contours(
    number: int,
    spec: SegmentSpec,
    array: NDArray[np.integer],
    source: tuple[Reference, Sequence[Dataset]],
) -> Dataset:
    contours = list(_planes(array == spec.id, *source))
    found = _item(ROIDisplayColor=list(spec.color), ReferencedROINumber=number)
    if contours:
        found.ContourSequence = contours
    return found


def _planes(
    mask: NDArray[np.bool_], reference: Reference, headers: Sequence[Dataset]
) -> Iterable[Dataset]:
    number = 0
    for plane in np.flatnonzero(mask.any(axis=(1, 2))):
        for ring in outlines(mask[plane]):
            number += 1
            voxels = np.column_stack([ring, np.full(len(ring), float(plane))])
            contour = Dataset()
            if reference.exact:
                file, frame = reference.slices[plane]
                several = len(headers) == 1
                contour.ContourImageSequence = [_image(headers[file], frame if several else None)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(ring)
            contour.ContourNumber = number
            contour.ContourData = [
                f"{value:.4f}" for value in reference.grid.to_world(voxels).ravel()
            ]
            yield contour


def _observation(number: int, spec: SegmentSpec) -> Dataset:
    identification = _coded(spec.type)
    if spec.modifier is not None:
        identification.SegmentedPropertyTypeModifierCodeSequence = [_coded(spec.modifier)]
    return _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        ROIObservationLabel=spec.name[:16],
        RTROIIdentificationCodeSequence=[identification],
        RTROIInterpretedType="ORGAN",
        ROIInterpreter="",
    )


def _coded(term: Term) -> Dataset:
    return _item(
        CodeValue=term.value,
        CodingSchemeDesignator=term.scheme,
        CodeMeaning=term.meaning[:64],
    )
