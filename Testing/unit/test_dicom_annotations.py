"""DICOM SEG and RTSTRUCT as annotations: what does not fit is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from semiseg.dicom.sources import is_dicom
from semiseg.errors import GeometryMismatchError, ImageError, LabelError
from semiseg.export import export_study
from semiseg.images.labels import LabelMap, place_on
from semiseg.importing import read_label_for
from semiseg.pacs import DicomOptions
from semiseg.study.study import Study

Maker = Callable[..., Study]
KEEP = DicomOptions(identity="keep")
SUFFIX = {"dicom-seg": "seg.dcm", "rtstruct": "rtstruct.dcm"}


def _export(study: Study, format_: str, options: DicomOptions = KEEP) -> Dataset:
    out = study.folder.parent / "out"
    paths = export_study(study, out, "label", format_, overwrite=True, dicom=options)
    return dcmread(next(path for path in paths if path.suffix == ".dcm"))


def _path(study: Study, format_: str) -> Path:
    return study.folder.parent / "out" / f"CT-7_label.{SUFFIX[format_]}"


def _drawn(study: Study) -> np.ndarray:
    label = study.label("CT-7")
    assert label is not None
    return label.array


def _ids(study: Study, label: LabelMap) -> np.ndarray:
    table = np.zeros(max(s.id for s in label.segments) + 1, np.uint16)
    for segment in label.segments:
        table[segment.id] = study.protocol.by_name(segment.name).id
    return table[place_on(label, study.cases["CT-7"].grid).array]


def _changed(study: Study, format_: str, change: Callable[[Dataset], None]) -> Path:
    path = _path(study, format_)
    _export(study, format_)
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def _set(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def _first_frame(dataset: Dataset) -> Dataset:
    return dataset.PerFrameFunctionalGroupsSequence[0]


def _shared(dataset: Dataset) -> Dataset:
    return dataset.SharedFunctionalGroupsSequence[0]


def _move_frame(offset: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        place = _first_frame(dataset).PlanePositionSequence[0]
        x, y, z = (float(v) for v in place.ImagePositionPatient)
        place.ImagePositionPatient = [x, y, z + offset]

    return change


def _turn_frame(dataset: Dataset) -> None:
    item = Dataset()
    item.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    _first_frame(dataset).PlaneOrientationSequence = [item]


def _one_over_another(dataset: Dataset) -> None:
    numbers: dict[int, Dataset] = {}
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        numbers.setdefault(segment, frame)
    liver, odd = numbers[1], numbers[2]
    odd.PlanePositionSequence = liver.PlanePositionSequence
    pixels = dataset.pixel_array
    pixels[:] = 1
    dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (_set("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), ImageError, "no segmentation"),
        (_set("SegmentationType", "FRACTIONAL"), LabelError, "fractions"),
        (_set("FrameOfReferenceUID", generate_uid()), GeometryMismatchError, "another scan"),
        (_set("PixelData", b"\0\0"), ImageError, "voxels cannot be read"),
        (_set("SegmentSequence", []), LabelError, "which has no name"),
        (_move_frame(1.1), GeometryMismatchError, "planes are not those"),
        (_move_frame(250.0), GeometryMismatchError, "planes are not those"),
        (_turn_frame, GeometryMismatchError, "different directions"),
        (_one_over_another, LabelError, "overlaps"),
        (lambda d: delattr(_first_frame(d), "PlanePositionSequence"), ImageError, "does not say"),
        (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), ImageError, "frames, not"),
        (lambda d: delattr(_shared(d), "PixelMeasuresSequence"), ImageError, "does not say"),
    ],
)
def test_segmentation_that_does_not_fit_is_refused(
    dicom_study: Maker, change: Callable[[Dataset], None], error: type[Exception], reason: str
) -> None:
    study = dicom_study()
    path = _changed(study, "dicom-seg", change)
    with pytest.raises(error, match=reason):
        read_label_for(study, "CT-7", path)


def _contour(dataset: Dataset) -> Dataset:
    return dataset.ROIContourSequence[0].ContourSequence[0]


def _lift(offset: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        data = [float(v) for v in _contour(dataset).ContourData]
        data[2::3] = [z + offset for z in data[2::3]]
        _contour(dataset).ContourData = data

    return change


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (_lift(1.0), GeometryMismatchError, "do not lie in the image's slices"),
        (_lift(250.0), GeometryMismatchError, "outside of the image"),
        (
            lambda d: setattr(_contour(d), "ContourData", [1, 2, 3, 4]),
            ImageError,
            "damaged contour",
        ),
        (
            lambda d: setattr(
                d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", generate_uid()
            ),
            GeometryMismatchError,
            "another scan",
        ),
        (
            lambda d: d.ROIContourSequence[1].ContourSequence.append(_contour(d)),
            LabelError,
            "overlaps",
        ),
    ],
)
def test_structures_that_do_not_fit_are_refused(
    dicom_study: Maker, change: Callable[[Dataset], None], error: type[Exception], reason: str
) -> None:
    study = dicom_study()
    path = _changed(study, "rtstruct", change)
    with pytest.raises(error, match=reason):
        read_label_for(study, "CT-7", path)


def test_points_and_open_contours_of_a_structure_set_are_left_out(dicom_study: Maker) -> None:
    study = dicom_study()

    def open_(dataset: Dataset) -> None:
        _contour(dataset).ContourGeometricType = "OPEN_PLANAR"
        dataset.ROIContourSequence[1].ReferencedROINumber = 77
        del dataset.ROIContourSequence[1].ROIDisplayColor

    label = read_label_for(study, "CT-7", _changed(study, "rtstruct", open_))
    assert not label.array[1][_drawn(study)[1] == 1].any()
    assert label.segments[1].name == "ROI 2"


def test_label_map_segmentations_are_read(dicom_study: Maker) -> None:
    study = dicom_study()

    def to_map(dataset: Dataset) -> None:
        bits = dataset.pixel_array
        numbers = [
            frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            for frame in dataset.PerFrameFunctionalGroupsSequence
        ]
        dataset.SegmentationType = "LABELMAP"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = (bits * np.array(numbers, np.uint8)[:, None, None]).tobytes()
        del dataset.SegmentSequence[0].RecommendedDisplayCIELabValue

    label = read_label_for(study, "CT-7", _changed(study, "dicom-seg", to_map))
    assert np.array_equal(_ids(study, label), _drawn(study))


def test_damaged_and_other_files_are_told_apart(dicom_study: Maker, tmp_path: Path) -> None:
    study = dicom_study()
    path = tmp_path / "x.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 3)
    assert is_dicom(path)
    assert not is_dicom(tmp_path / "nothing")
    with pytest.raises(ImageError):
        read_label_for(study, "CT-7", path)
