"""Series as cases of a study: what is kept of them, and what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from semiseg.cli.app import run
from semiseg.dicom.references import Reference
from semiseg.dicom.scan import scan
from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.events import Event
from semiseg.importing import SeriesChoice, add_series
from semiseg.study.scanner import reference_of
from semiseg.study.study import Study

SeriesMaker = Callable[..., list[Path]]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "study", name="s")


def _command(*arguments: object) -> tuple[int, Event]:
    events: list[Event] = []
    code = run([*map(str, arguments), "--json"], events.append)
    return code, events[-1]


def test_series_becomes_a_case_with_its_references(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    paths = dicom_series(tmp_path / "in")
    (volume,) = scan(tmp_path / "in").volumes
    case = add_series(study, tmp_path / "in", volume)
    assert (case.modality, case.image.copied, case.id) == ("CT", True, "CT-7")
    assert study.image(case.id).grid.difference(case.grid) is None
    reference = reference_of(study, case.id)
    assert reference is not None
    assert [reference.files[k].name for k, _ in reference.slices] == [p.name for p in paths]
    assert reference == Reference.from_json(json.loads(json.dumps(reference.to_json())))


def test_no_name_of_the_patient_stays_in_the_study(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    dicom_series(tmp_path / "in")
    add_series(study, tmp_path / "in", scan(tmp_path / "in").volumes[0])
    for path in study.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            for word in (b"jane", b"mrn-0815", b"19500101", b"who^doctor"):
                assert word not in content, path


def test_series_of_one_patient_share_a_patient_and_so_a_split(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    dicom_series(tmp_path / "in", prefix="a")
    dicom_series(tmp_path / "in", prefix="b", key="b", modality="MR")
    cases = [add_series(study, tmp_path / "in", v) for v in scan(tmp_path / "in").volumes]
    assert cases[0].patient == cases[1].patient
    assert cases[0].patient.startswith("patient-")


def test_same_series_is_not_added_twice(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    dicom_series(tmp_path / "in", change=lambda d, k: setattr(d, "PatientID", ""))
    (volume,) = scan(tmp_path / "in").volumes
    add_series(study, tmp_path / "in", volume, SeriesChoice(patient="P1", split="test"))
    assert study.cases["CT-7"].patient == "P1"
    with pytest.raises(StudyError, match="already, as the case 'CT-7'"):
        add_series(study, tmp_path / "in", volume)


def test_references_that_are_damaged_or_of_another_image_are_told(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    dicom_series(tmp_path / "in")
    dicom_series(tmp_path / "two", n=3, key="b")
    for name in ("in", "two"):
        add_series(study, tmp_path / name, scan(tmp_path / name).volumes[0])
    path = study.folder / "cases" / "CT-7" / "dicom.json"
    shutil.copy(study.folder / "cases" / "CT-7-2" / "dicom.json", path)
    with pytest.raises(SchemaError, match="not of the image"):
        reference_of(study, "CT-7")
    values = json.loads(path.read_text())
    for key, value in (
        ("schema_version", 99),
        ("slices", [[77, 0]]),
        ("series_uid", 3),
        ("files", None),
    ):
        path.write_text(json.dumps({**values, key: value}))
        with pytest.raises(SchemaError):
            reference_of(study, "CT-7")
    path.unlink()
    assert reference_of(study, "CT-7") is None


def test_commands_scan_and_add(tmp_path: Path, dicom_series: SeriesMaker, study: Study) -> None:
    dicom_series(tmp_path / "in", prefix="a", heights=[0, 4, 8, 9, 13])
    dicom_series(tmp_path / "in", prefix="b", key="b", n=1)
    code, end = _command("dicom", "scan", tmp_path / "in")
    assert code == 0
    volumes = end.data["volumes"]
    assert isinstance(volumes, list)
    assert len(volumes) == 2
    code, end = _command("study", "add", study.folder, tmp_path / "in")
    assert code == 0
    assert end.data["cases"] == ["CT-7"]
    assert "left out: series CT 7 has a single slice" in end.message
    assert "resampled" in end.message


def test_plain_output_of_the_scan_is_a_table(
    tmp_path: Path, dicom_series: SeriesMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    dicom_series(tmp_path / "in")
    dicom_series(tmp_path / "in", n=1, key="b", prefix="b")
    (tmp_path / "in" / "a.txt").write_text("x")
    assert run(["dicom", "scan", str(tmp_path / "in")]) == 0
    said = capsys.readouterr().out
    assert "10 x 12 x 5" in said
    assert "left out: 1 file: is not a DICOM file" in said
    assert "--series 2" in said


def test_series_with_several_volumes_waits_for_a_choice(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    for turn in (1, 2, 3):

        def change(dataset: object, k: int, turn: int = turn) -> None:
            dataset.TemporalPositionIdentifier = turn  # type: ignore[attr-defined]
            dataset.SOPInstanceUID = f"1.2.{turn}.{k}"  # type: ignore[attr-defined]
            pixels = np.frombuffer(dataset.PixelData, "<i2") + turn  # type: ignore[attr-defined]
            dataset.PixelData = pixels.astype("<i2").tobytes()  # type: ignore[attr-defined]

        dicom_series(tmp_path / "in", prefix=f"t{turn}", change=change)
    add = ("study", "add", study.folder, tmp_path / "in")
    code, end = _command(*add)
    assert (code, "time point 2 of 3" in end.message) == (4, True)
    assert _command(*add, "--series", "9")[0] == 4
    code, end = _command(*add, "--series", "2")
    assert (code, end.data["cases"]) == (0, ["CT-7-time-point-2-of-3"])
    assert _command(*add, "--series", "all", "--case-id", "x")[0] == 4
    code, end = _command(*add, "--series", "all")
    assert code == 0
    assert "not added: series CT 7 (time point 2 of 3): the series is in the study" in end.message


def test_folder_without_a_volume_is_refused_with_the_reasons(tmp_path: Path, study: Study) -> None:
    (tmp_path / "in").mkdir()
    code, end = _command("study", "add", study.folder, tmp_path / "in")
    assert (code, "it is empty" in end.message) == (4, True)
    (tmp_path / "in" / "a.txt").write_text("x")
    code, end = _command("study", "add", study.folder, tmp_path / "in")
    assert "1 files: is not a DICOM file" in end.message


def test_wrong_modality_tag_is_told(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    def bright(dataset: object, k: int) -> None:
        dataset.RescaleIntercept = 0  # type: ignore[attr-defined]

    dicom_series(tmp_path / "in", change=bright, values=lambda w: np.abs(w[..., 0] * 30) - 1024)
    code, end = _command("study", "add", study.folder, tmp_path / "in")
    assert code == 0
    assert study.open(study.folder).cases["CT-7"].modality == "MR"
    assert "the DICOM files say CT" in end.message


def test_series_in_no_doubt_is_added_while_others_wait(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    dicom_series(tmp_path / "in", prefix="a")
    dicom_series(tmp_path / "in", prefix="b", key="b", modality="MR")
    dicom_series(tmp_path / "in", prefix="c", key="b", modality="MR", change=_second_echo)
    code, end = _command("study", "add", study.folder, tmp_path / "in")
    assert (code, end.data["cases"]) == (0, ["CT-7"])
    assert "--series, or all: 1: MR 7 (echo 80 ms); 2: MR 7 (other)" in end.message


def _second_echo(dataset: Dataset, k: int) -> None:
    dataset.SOPInstanceUID = f"1.2.9.{k}"
    dataset.EchoTime = 80


def test_single_slice_file_asks_for_its_folder(
    tmp_path: Path, dicom_series: SeriesMaker, study: Study
) -> None:
    paths = dicom_series(tmp_path / "in")
    code, end = _command("study", "add", study.folder, paths[2])
    assert (code, "give the folder with all files" in end.message) == (4, True)


def test_references_that_could_not_be_written_are_written_on_adding_again(
    tmp_path: Path,
    dicom_series: SeriesMaker,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dicom_series(tmp_path / "in")
    (volume,) = scan(tmp_path / "in").volumes

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("semiseg.importing.keep_reference", full)
        with pytest.raises(StorageError):
            add_series(study, tmp_path / "in", volume)
    assert reference_of(study, "CT-7") is None
    assert add_series(study, tmp_path / "in", volume).id == "CT-7"
    assert reference_of(study, "CT-7") is not None
    assert list(study.cases) == ["CT-7"]
