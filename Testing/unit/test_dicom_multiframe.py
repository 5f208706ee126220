"""Enhanced multi-frame DICOM: each frame is a slice with a place of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from semiseg.dicom.loading import load
from semiseg.dicom.scan import scan
from semiseg.export import export_study
from semiseg.images.labels import place_on
from semiseg.importing import add_series, read_label_for
from semiseg.pacs import DicomOptions
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

SeriesMaker = Callable[..., list[Path]]


def _item(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def _enhanced(paths: list[Path], target: Path, times: int = 1) -> None:
    """One multi-frame file of the slices in `paths`, repeated at `times` time points."""
    slices = [dcmread(path) for path in paths]
    whole = dcmread(paths[0])
    whole.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=whole.PixelSpacing, SliceThickness=2.5)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=whole.ImageOrientationPatient)]
    frames = []
    for time in range(times):
        for k, one in enumerate(slices):
            frame = Dataset()
            frame.PlanePositionSequence = [_item(ImagePositionPatient=one.ImagePositionPatient)]
            frame.FrameContentSequence = [
                _item(StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=time + 1)
            ]
            frame.PixelValueTransformationSequence = [
                _item(RescaleSlope=1 + time, RescaleIntercept=0, RescaleType="US")
            ]
            frames.append(frame)
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.NumberOfFrames = len(frames)
    whole.PixelData = b"".join(one.PixelData for one in slices) * times
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, keyword)
    whole.save_as(target)


def test_multi_frame_file_gives_the_same_volume_as_single_files(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path / "single", modality="MR", orientation=(0, 1, 0, 0, 0, -1))
    (tmp_path / "multi").mkdir()
    _enhanced(list(reversed(paths)), tmp_path / "multi" / "all.dcm")
    (one,), (other,) = scan(tmp_path / "single").volumes, scan(tmp_path / "multi").volumes
    assert scan(tmp_path / "multi" / "all.dcm").volumes == (other,)
    single, multi = load(tmp_path / "single", one), load(tmp_path / "multi", other)
    assert np.array_equal(single.array, multi.array)
    assert single.grid.difference(multi.grid) is None
    assert multi.reference.slices == tuple((0, frame) for frame in (4, 3, 2, 1, 0))


def test_time_points_of_a_multi_frame_file_are_volumes_with_their_own_rescaling(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path / "single", modality="MR")
    (tmp_path / "multi").mkdir()
    _enhanced(paths, tmp_path / "multi" / "all.dcm", times=3)
    volumes = scan(tmp_path / "multi").volumes
    assert [v.part for v in volumes] == [f"time point {k} of 3" for k in (1, 2, 3)]
    arrays = [load(tmp_path / "multi", v).array for v in volumes]
    assert np.array_equal(arrays[0] * 2, arrays[1])


def test_frame_without_a_place_is_told(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    paths = dicom_series(tmp_path / "single", modality="MR")
    _enhanced(paths, tmp_path / "all.dcm")
    dataset = dcmread(tmp_path / "all.dcm")
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    dataset.save_as(tmp_path / "single" / "all.dcm")
    found = scan(tmp_path / "single")
    assert "where it lies" in " ".join(found.reasons)
    assert len(found.volumes) == 1


@pytest.mark.parametrize("keyword", ["PixelMeasuresSequence", "PlaneOrientationSequence"])
def test_missing_shared_groups_are_told(
    tmp_path: Path, dicom_series: SeriesMaker, keyword: str
) -> None:
    paths = dicom_series(tmp_path / "single", modality="MR")
    (tmp_path / "multi").mkdir()
    _enhanced(paths, tmp_path / "multi" / "all.dcm")
    dataset = dcmread(tmp_path / "multi" / "all.dcm")
    delattr(dataset.SharedFunctionalGroupsSequence[0], keyword)
    dataset.save_as(tmp_path / "multi" / "all.dcm")
    assert scan(tmp_path / "multi").volumes == ()


@pytest.mark.parametrize("format_", ["dicom-seg", "rtstruct"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_objects_refer_to_the_frames_of_a_multi_frame_file(
    tmp_path: Path, dicom_series: SeriesMaker, format_: str, times: int, reverse: bool
) -> None:
    paths = dicom_series(tmp_path / "single", modality="MR")
    (tmp_path / "multi").mkdir()
    _enhanced(paths[::-1] if reverse else paths, tmp_path / "multi" / "all.dcm", times)
    study = Study.create(
        tmp_path / "study", name="s", protocol=Protocol((common_structure("liver", 1),))
    )
    case = add_series(study, tmp_path / "multi", scan(tmp_path / "multi").volumes[-1])
    array = np.zeros(case.grid.shape_zyx, np.uint16)
    array[1, 2:6, 3:7] = array[3, 5:8, 1:4] = 1
    study.annotate(case.id, array, plane="axial", indices=range(5))
    written = export_study(
        study, tmp_path / "out", "label", format_, dicom=DicomOptions(identity="keep")
    )
    path = next(p for p in written if p.suffix == ".dcm")
    back = place_on(read_label_for(study, case.id, path), case.grid)
    assert np.array_equal(back.array > 0, array > 0)
    found = dcmread(path)
    whole = dcmread(tmp_path / "multi" / "all.dcm")
    if format_ == "rtstruct":
        (one, _) = found.ROIContourSequence[0].ContourSequence
        number = int(one.ContourImageSequence[0].ReferencedFrameNumber)
        place = whole.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0]
        z = float(place.ImagePositionPatient[2])
        assert z == pytest.approx(float(one.ContourData[2]), abs=1e-3)
    elif times == 1:
        for frame in found.PerFrameFunctionalGroupsSequence:
            source = frame.DerivationImageSequence[0].SourceImageSequence[0]
            number = int(source.ReferencedFrameNumber)
            theirs = whole.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0]
            mine = frame.PlanePositionSequence[0]
            assert mine.ImagePositionPatient == theirs.ImagePositionPatient
