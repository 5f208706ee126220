"""DICOM SEG and RTSTRUCT out and in: the same voxels, valid objects, right references."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import dcmread
from pydicom.dataset import Dataset

from semiseg.cli.app import run
from semiseg.dicom.label_files import read_dicom_label
from semiseg.dicom.loading import load
from semiseg.dicom.makers import HUMAN, SegmentSpec, Term, stable_uid
from semiseg.dicom.originals import originals
from semiseg.dicom.rtstruct_writing import make_rtstruct
from semiseg.dicom.scan import scan
from semiseg.dicom.seg_writing import make_seg
from semiseg.errors import (
    ConfigError,
    ImageError,
    LabelError,
    NotEnoughLabelsError,
    StorageError,
)
from semiseg.events import Event
from semiseg.export import export_study
from semiseg.images.labels import LabelMap, place_on
from semiseg.importing import add_series, read_label_for
from semiseg.pacs import DICOM_FORMATS, DicomOptions, write_deidentified
from semiseg.study.study import Study

SeriesMaker = Callable[..., list[Path]]
Maker = Callable[..., Study]
KEEP = DicomOptions(identity="keep")
SUFFIX = {"dicom-seg": "seg.dcm", "rtstruct": "rtstruct.dcm"}
TILT = (1.0, 0.0, 0.0, 0.0, 0.9483237, -0.3173047)


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


_ORIENTATIONS = {
    "straight": {},
    "flipped": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "oblique": {
        "orientation": tuple(
            np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix(), (3, 3))[
                :, :2
            ].T.ravel()
        )
    },
    "tilted": {"orientation": TILT, "positions": [(0, 0, 4.0 * k) for k in range(6)]},
    "uneven": {"heights": [0, 2, 4, 6, 9.1, 12.2]},
    "magnetic": {"modality": "CT", "n": 6, "orientation": (0, 1, 0, 0, 0, -1)},
}


@pytest.mark.parametrize("format_", DICOM_FORMATS)
@pytest.mark.parametrize("series", _ORIENTATIONS.values(), ids=_ORIENTATIONS.keys())
def test_round_trip_gives_the_same_voxels(
    dicom_study: Maker, format_: str, series: dict[str, object]
) -> None:
    study = dicom_study(**series)
    _export(study, format_)
    label = read_label_for(study, "CT-7", _path(study, format_))
    assert np.array_equal(_ids(study, label), _drawn(study))
    assert [s.name for s in label.segments] == ["liver", "odd thing"]
    assert all(
        np.abs(np.subtract(s.color, study.protocol.by_name(s.name).color)).max() <= 1
        for s in label.segments
    )


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    flip=st.booleans(),
    drawn=arrays(np.uint16, (4, 12, 10), elements=st.integers(0, 2)),
)
def test_any_drawing_in_any_orientation_survives_both_objects(
    tmp_path_factory: pytest.TempPathFactory,
    dicom_series: SeriesMaker,
    angles: tuple[float, float, float],
    flip: bool,
    drawn: np.ndarray,
) -> None:
    folder = tmp_path_factory.mktemp("series")
    direction = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3))
    column = direction[:, 1] * (-1 if flip else 1)
    dicom_series(folder, orientation=(*direction[:, 0], *column), n=4)
    reference = load(folder, scan(folder).volumes[0]).reference
    specs = [_spec(number) for number in (1, 2) if (drawn == number).any()]
    for make in (make_seg, make_rtstruct) if specs else ():
        path = folder / "object.dcm"
        make(drawn, specs, reference, originals(reference)).save_as(path)
        back = place_on(read_dicom_label(path, reference.grid), reference.grid)
        names = [0, *(int(segment.name) for segment in back.segments)]
        assert np.array_equal(np.array(names)[back.array], drawn)
        path.unlink()


def _spec(number: int) -> SegmentSpec:
    return SegmentSpec(
        id=number,
        name=str(number),
        color=(9, 9, 9),
        category=Term("123037004", "SCT", "Anatomical Structure"),
        type=Term("10200004", "SCT", "Liver"),
        modifier=None,
        maker=HUMAN,
        tracking_uid=stable_uid(number),
    )


def test_segmentation_refers_to_the_slices_and_says_what_made_it(dicom_study: Maker) -> None:
    study = dicom_study()
    found = _export(study, "dicom-seg")
    source = dcmread(study.folder.parent / "in" / "slice2.dcm")
    assert found.PatientName == "Doe^Jane"
    assert found.StudyInstanceUID == source.StudyInstanceUID
    assert found.FrameOfReferenceUID == source.FrameOfReferenceUID
    named = {
        item.ReferencedSOPInstanceUID
        for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert source.SOPInstanceUID in named
    liver, odd = found.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert odd.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99SEMISEG"
    assert liver.SegmentAlgorithmType == "MANUAL"
    assert liver.TrackingUID == _export(study, "dicom-seg").SegmentSequence[0].TrackingUID
    assert liver.TrackingUID != odd.TrackingUID


def test_structures_refer_to_the_slices(dicom_study: Maker) -> None:
    study = dicom_study()
    found = _export(study, "rtstruct")
    assert [roi.ROIName for roi in found.StructureSetROISequence] == ["liver", "odd thing"]
    assert found.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0].CodeValue
    for contour in found.ROIContourSequence[0].ContourSequence:
        uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        height = float(contour.ContourData[2])
        files = (study.folder.parent / "in").iterdir()
        (image,) = [d for d in map(dcmread, files) if d.SOPInstanceUID == uid]
        assert float(image.ImagePositionPatient[2]) == pytest.approx(height, abs=1e-3)


@pytest.mark.parametrize("format_", DICOM_FORMATS)
def test_programs_are_named_with_their_version(dicom_study: Maker, format_: str) -> None:
    from semiseg.study.case import GateRecord

    study = dicom_study(n=6)
    array = _drawn(study)
    guess = np.zeros_like(array)
    guess[5, 2:4, 2:4] = 2
    gate = GateRecord(verdict="accept", score=1.0)
    weights = np.ones(array.shape, np.float32)
    study.propagated("CT-7", guess, weights, structure_ids=(2,), gate=gate, info={})
    found = _export(study, format_)
    if format_ == "rtstruct":
        kinds = [roi.ROIGenerationAlgorithm for roi in found.StructureSetROISequence]
        assert kinds == ["MANUAL", "SEMIAUTOMATIC", "MANUAL"]
        return
    kidney = found.SegmentSequence[1]
    assert kidney.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert "propagation" in kidney.SegmentAlgorithmName
    modifier = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert modifier[0].CodeMeaning == "Left"


def test_trained_network_is_named_with_its_model() -> None:
    from semiseg.dicom.makers import maker_of

    alone = maker_of(human=False, propagated=False, predicted=True, model_id=3)
    both = maker_of(human=True, propagated=False, predicted=True, model_id=None)
    assert (alone.method, both.method) == ("AUTOMATIC", "SEMIAUTOMATIC")
    assert alone.version.endswith("model 3")
    assert "corrected by hand" in both.name


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools are not installed")
@pytest.mark.parametrize("identity", ["keep", "remove"])
@pytest.mark.parametrize("series", ["oblique", "tilted"])
@pytest.mark.parametrize("format_", DICOM_FORMATS)
def test_validator_finds_no_error(
    dicom_study: Maker, format_: str, identity: str, series: str
) -> None:
    study = dicom_study(**_ORIENTATIONS[series])
    _export(study, format_, DicomOptions(identity=identity))  # type: ignore[arg-type]
    command = ["dciodvfy", "-new", str(_path(study, format_))]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in said.stderr.splitlines() if line.startswith("Error")]
    assert errors == []
    if identity == "keep":
        inputs = [str(path) for path in sorted((study.folder.parent / "in").iterdir())]
        entities = ["dcentvfy", *inputs, str(_path(study, format_))]
        said = subprocess.run(entities, capture_output=True, text=True, check=False)
        assert "Error" not in said.stderr + said.stdout


@pytest.mark.parametrize("format_", DICOM_FORMATS)
def test_identity_can_be_removed_and_references_still_agree(
    dicom_study: Maker, format_: str
) -> None:
    study = dicom_study()
    options = DicomOptions(identity="remove")
    one, other = _export(study, format_, options), _export(study, format_, options)
    content = _path(study, format_).read_bytes()
    for word in (b"Doe", b"MRN-0815", b"19500101", b"20260102", b"Who^Doctor", b"phantom of Jane"):
        assert word not in content
    source = dcmread(study.folder.parent / "in" / "slice2.dcm")
    for uid in (source.StudyInstanceUID, source.SOPInstanceUID, source.FrameOfReferenceUID):
        assert uid.encode() not in content
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.PatientIdentityRemoved == "YES"
    assert one.PatientID == study.cases["CT-7"].patient
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    label = read_dicom_label(_path(study, format_), study.cases["CT-7"].grid)
    assert np.array_equal(_ids(study, label), _drawn(study))


def test_nothing_identifiable_is_written_unasked(dicom_study: Maker) -> None:
    study = dicom_study()
    with pytest.raises(ConfigError, match="--identity keep"):
        _export(study, "dicom-seg", DicomOptions())
    assert not (study.folder.parent / "out").exists()


@pytest.mark.parametrize(("identity", "told"), [("keep", 1), ("remove", 0)])
def test_export_tells_that_files_carry_the_patient_before_it_writes_them(
    dicom_study: Maker, identity: Literal["keep", "remove"], told: int
) -> None:
    study, events, out = dicom_study(), list[Event](), list[bool]()

    def hear(event: Event) -> None:
        events.append(event)
        out.append(_path(study, "dicom-seg").exists())

    options = DicomOptions(identity=identity)
    export_study(study, study.folder.parent / "out", "label", "dicom-seg", emit=hear, dicom=options)
    warnings = [n for n, event in enumerate(events) if "birth date" in event.message]
    assert len(warnings) == told
    assert not any(out[n] for n in warnings)


def test_case_from_another_kind_of_file_cannot_become_dicom(
    phantom_study: Callable[..., Study],
) -> None:
    study = phantom_study()
    with pytest.raises(ImageError, match="did not come from DICOM"):
        export_study(study, study.folder.parent / "out", format_="dicom-seg", dicom=KEEP)


def test_empty_segmentation_cannot_become_dicom(dicom_study: Maker) -> None:
    with pytest.raises(NotEnoughLabelsError, match="cannot be empty"):
        _export(dicom_study(empty=True), "dicom-seg")


def test_series_that_was_moved_is_found_by_its_ids(dicom_study: Maker) -> None:
    study = dicom_study()
    source = study.folder.parent / "in"
    moved = study.folder.parent / "moved"
    moved.mkdir()
    for number, path in enumerate(sorted(source.iterdir(), reverse=True)):
        shutil.move(path, moved / f"{number}.dcm")
    (moved / "notes.txt").write_text("x")
    with pytest.raises(ImageError, match="5 of 5 files were not found"):
        _export(study, "rtstruct")
    source.rmdir()
    with pytest.raises(ImageError, match="--dicom FOLDER"):
        _export(study, "rtstruct")
    _export(study, "dicom-seg", DicomOptions(identity="keep", originals=moved))
    label = read_label_for(study, "CT-7", _path(study, "dicom-seg"))
    assert np.array_equal(_ids(study, label), _drawn(study))


def test_series_without_ids_cannot_be_referred_to(dicom_study: Maker) -> None:
    study = dicom_study(change=lambda d, k: setattr(d, "StudyInstanceUID", ""))
    with pytest.raises(ImageError, match="no Study Instance UID"):
        _export(study, "dicom-seg")


def test_series_that_lacks_what_objects_need_is_completed(dicom_study: Maker) -> None:
    def poor(dataset: Dataset, k: int) -> None:
        for keyword in ("FrameOfReferenceUID", "PatientBirthDate", "StudyID", "AccessionNumber"):
            delattr(dataset, keyword)
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = ""
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        del dataset.SOPClassUID

    found = _export(dicom_study(change=poor), "dicom-seg")
    assert found.FrameOfReferenceUID.startswith("2.25.")


def test_file_that_does_not_read_back_is_an_error(
    dicom_study: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = dicom_study()

    def other(path: Path, grid: object, frame: str = "") -> LabelMap:
        back = read_dicom_label(path, study.cases["CT-7"].grid, frame)
        return LabelMap(array=back.array * 0, grid=back.grid, segments=back.segments)

    monkeypatch.setattr("semiseg.pacs.read_dicom_label", other)
    with pytest.raises(StorageError, match="does not read back"):
        _export(study, "dicom-seg")

    def broken(path: Path, grid: object, frame: str = "") -> LabelMap:
        raise LabelError("x")

    monkeypatch.setattr("semiseg.pacs.read_dicom_label", broken)
    with pytest.raises(StorageError, match="cannot be read back"):
        _export(study, "dicom-seg")
    assert not _path(study, "dicom-seg").exists()


def test_commands_export_and_annotate(dicom_study: Maker, tmp_path: Path) -> None:
    study = dicom_study()
    folder = str(study.folder)
    out = str(tmp_path / "out")
    ends: list[Event] = []
    export = ["export", folder, out, "--format", "dicom-seg", "--what", "label", "--json"]
    assert run(export, ends.append) == 2
    assert run([*export, "--identity", "keep"], ends.append) == 0
    other = Study.create(tmp_path / "other", name="o")
    (volume,) = scan(tmp_path / "in").volumes
    add_series(other, tmp_path / "in", volume)
    label = str(_path(study, "dicom-seg"))
    annotate = ["annotate", str(other.folder), "CT-7", label, "--done", "all", "--json"]
    assert run(annotate, ends.append) == 0
    again = Study.open(other.folder)
    assert [s.name for s in again.protocol.structures] == ["liver", "odd thing"]
    found = again.label("CT-7")
    assert found is not None
    assert np.array_equal(found.array > 0, _drawn(study) > 0)


def test_series_is_written_without_names_and_objects_refer_to_it(
    dicom_study: Maker, tmp_path: Path
) -> None:
    study = dicom_study()
    out, folder = str(tmp_path / "research"), str(study.folder)
    ends: list[Event] = []
    assert run(["dicom", "deidentify", folder, out, "--json"], ends.append) == 0
    files = sorted((tmp_path / "research").iterdir())
    assert len(files) == 5
    for path in files:
        for word in (b"Doe", b"MRN-0815", b"19500101", b"20260102", b"phantom of Jane"):
            assert word not in path.read_bytes()
    plain, clean = scan(tmp_path / "in").volumes[0], scan(tmp_path / "research").volumes[0]
    same = load(tmp_path / "in", plain), load(tmp_path / "research", clean)
    assert np.array_equal(same[0].array, same[1].array)
    assert same[0].grid.difference(same[1].grid) is None
    found = _export(study, "dicom-seg", DicomOptions(identity="remove"))
    uids = {dcmread(path).SOPInstanceUID for path in files}
    named = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in named} == uids
    assert found.StudyInstanceUID == dcmread(files[0]).StudyInstanceUID
    assert run(["dicom", "deidentify", folder, out, "--json"], ends.append) == 7


def test_pictures_with_writing_are_not_called_nameless(dicom_study: Maker, tmp_path: Path) -> None:
    study = dicom_study(change=lambda d, k: setattr(d, "BurnedInAnnotation", "YES"))
    with pytest.raises(ImageError, match="burnt in"):
        write_deidentified(study, study.cases["CT-7"], tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_deidentified(study, study.cases["CT-7"], tmp_path / "file" / "out")


def test_what_scanners_hide_in_elements_of_their_own_is_not_written(
    dicom_study: Maker, tmp_path: Path
) -> None:
    def hide(dataset: Dataset, _k: int) -> None:
        inner = Dataset()
        for found in (dataset, inner):
            found.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "Doe once more")
        dataset.ReferencedImageSequence = [inner]

    study = dicom_study(change=hide)
    assert b"Doe once more" in (tmp_path / "in" / "slice0.dcm").read_bytes()
    for path in write_deidentified(study, study.cases["CT-7"], tmp_path / "out"):
        assert b"Doe" not in path.read_bytes()


def _unnumbered(path: Path) -> None:
    dataset = dcmread(path)
    del dataset.SOPInstanceUID  # the file's own head has it, too, so that it is found
    dataset.save_as(path)


def _damaged(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PN\x08\x00Doe", b"P?\x08\x00Doe"))


@pytest.mark.parametrize("damage", [_unnumbered, _damaged])
def test_a_damaged_file_is_refused_without_the_patients_words(
    dicom_study: Maker, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    study = dicom_study()
    damage(tmp_path / "in" / "slice2.dcm")
    with pytest.raises(ImageError, match="is damaged") as told:
        write_deidentified(study, study.cases["CT-7"], tmp_path / "out")
    assert "Doe" not in str(told.value)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_header_that_was_damaged_since_is_told(dicom_study: Maker, tmp_path: Path) -> None:
    study = dicom_study()
    path = tmp_path / "in" / "slice2.dcm"
    content = path.read_bytes()
    place = content.rindex(b"\x08\x00\x16\x00UI")  # the kind of object, of no kind of value
    path.write_bytes(content[: place + 4] + b"CI" + content[place + 6 :])
    with pytest.raises(ImageError, match="header of slice2"):
        _export(study, "dicom-seg", DicomOptions(identity="keep"))


def test_only_dicom_cases_can_be_written_without_names(
    phantom_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = phantom_study()
    with pytest.raises(ImageError, match="did not come from DICOM"):
        write_deidentified(study, study.cases["c0"], tmp_path / "out")
