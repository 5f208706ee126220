"""DICOM out of the panel and annotations into it, with real children on tiny series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.jobs import Job
from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def study(dicom_study: Callable[..., Study], tmp_path: Path) -> Study:
    """CT-7 from DICOM and c0 from NRRD, both annotated."""
    made = dicom_study()
    grid = Grid(size_xyz=(9, 8, 7), spacing_mm_xyz=(3.0, 3.0, 4.0))
    values = np.random.default_rng(0).normal(0, 100, grid.shape_zyx).astype(np.float32)
    write_image(tmp_path / "c0.nrrd", values, grid)
    made.add_case(tmp_path / "c0.nrrd", case_id="c0", modality="CT")
    drawn = np.zeros(grid.shape_zyx, np.uint16)
    drawn[2:5, 2:6, 2:6] = 1
    made.annotate("c0", drawn, plane="axial", indices=range(7))
    return made


@pytest.fixture
def job_class(request: pytest.FixtureRequest, jobs: Any) -> Any:
    """Real children, or, where a test asks for it by parameter, the same commands inline."""
    if getattr(request, "param", "") != "inline":
        return Job
    jobs.hold = lambda _arguments: False
    return jobs


@pytest.fixture
def session(live_session: Any, job_class: Any, study: Study, until: Until) -> Any:
    """The study opened, CT-7 shown."""
    made = live_session(job_class)
    made.open_study(study.folder)
    made.select("CT-7")
    assert until(made, seconds=60)
    return made


@pytest.fixture
def exporting(session: Any) -> Iterator[Any]:
    """The Export section on the session."""
    from SemiSegModuleLib.sections.export import ExportSection

    found = ExportSection(session, str)
    session.listen(found.refresh)
    yield found
    found.close()
    found.widget.deleteLater()


@pytest.fixture
def annotating(session: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Any]]:
    """`annotating(path)`: the Cases section's dialog for a label file."""
    import qt

    from SemiSegModuleLib.sections.cases import CasesSection

    found = CasesSection(session, str)
    session.listen(found.refresh)

    def ask(path: Path) -> Any:
        chosen = SimpleNamespace(getOpenFileName=lambda *_values: str(path))
        monkeypatch.setattr(qt, "QFileDialog", chosen)
        found.annotationButton.click()
        return found._chooser

    found.refresh({"study", "cases", "case"})
    yield ask
    found.close()
    found.widget.deleteLater()


def export(exporting: Any, until: Until, target: Path, *, identity: int) -> None:
    for name, box in exporting.formatBoxes.items():
        box.checked = name in ("dicom-seg", "rtstruct")
    assert not exporting.exportButton.enabled, "not before the question is answered"
    exporting.identityCombo.currentIndex = identity
    exporting.folderEdit.currentPath = str(target)
    exporting.exportButton.click()
    session = exporting._session
    assert until(session, lambda: not session.busy(), 60)
    assert until(session, seconds=60)
    assert not session.message_is_error, session.details


def test_seg_and_rtstruct_are_written_and_read_by_other_libraries(
    exporting: Any, until: Until, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    export(exporting, until, tmp_path / "out", identity=2)
    (seg,) = (tmp_path / "out").rglob("*seg.dcm")
    (rtstruct,) = (tmp_path / "out").rglob("*rtstruct.dcm")
    found = highdicom.seg.segread(seg)
    assert {s.SegmentLabel for s in found.SegmentSequence} == {"liver", "odd thing"}
    assert str(found.PatientName) != "Doe^Jane"
    outlines = pydicom.dcmread(rtstruct)
    assert outlines.Modality == "RTSTRUCT"
    assert len(outlines.ROIContourSequence) == 2
    shown = exporting.resultLabel.text + exporting._session.message
    assert "c0 did not come from DICOM" in shown, shown


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_kept_identity_is_the_patients_and_slicers_database_gets_the_files(
    exporting: Any, until: Until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ctk
    import slicer

    pytest.importorskip("highdicom")
    database = ctk.ctkDICOMDatabase()
    monkeypatch.setattr(slicer, "dicomDatabase", database)
    exporting.databaseCheckBox.checked = True
    export(exporting, until, tmp_path / "out", identity=1)
    (seg,) = (tmp_path / "out").rglob("*seg.dcm")
    assert str(pydicom.dcmread(seg).PatientName) == "Doe^Jane"
    assert database.instanceForFile(str(seg)) == pydicom.dcmread(seg).SOPInstanceUID
    assert "Added to Slicer's DICOM database: 2." in exporting.resultLabel.text


def shifted(session: Any, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A label file for CT-7 that says something else than the study."""
    label = np.zeros(session.study.case("CT-7").grid.shape_zyx, np.uint16)
    label[1:4, 5:8, 1:4] = 2
    write_image(tmp_path / "label.nii.gz", label, session.study.case("CT-7").grid)
    return tmp_path / "label.nii.gz", label


def drawn(session: Any) -> np.ndarray:
    from SemiSegModuleLib.mrml import segments

    grid = session.study.case("CT-7").grid
    layers = segments.read_layers(session.nodes("CT-7").drawn, grid, session.protocol())
    return layers.flat(grid)


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_an_annotation_takes_the_place_of_what_was_drawn_and_is_shown(
    session: Any, annotating: Any, until: Until, tmp_path: Path
) -> None:
    path, label = shifted(session, tmp_path)
    dialog = annotating(path)
    assert "takes the place of all that you drew" in dialog.noteLabel.text
    dialog.buttons.accepted.emit()
    assert until(session, seconds=60)
    assert "finished slices in it: 5" in session.message, session.message
    assert np.array_equal(drawn(session), label)
    assert np.array_equal(session.study.human_map("CT-7").array, label)


def test_only_the_named_slices_are_taken_after_strokes_were_applied(
    session: Any, annotating: Any, until: Until, tmp_path: Path
) -> None:
    from SemiSegModuleLib.mrml import segments

    before = drawn(session)
    stroke = np.full((1, 2, 2), 2, np.uint16)
    grid = session.study.case("CT-7").grid
    segments.write_region(session.nodes("CT-7").drawn, grid, stroke, (4, 9, 1))
    session.touched("CT-7")
    path, label = shifted(session, tmp_path)
    dialog = annotating(path)
    dialog.someButton.checked = True
    ok = dialog.buttons.buttons()[0]
    assert not ok.enabled
    dialog.slicesEdit.text = "2"
    assert ok.enabled
    dialog.buttons.accepted.emit()
    assert until(session, seconds=60)
    wanted = before.copy()
    wanted[4, 9:11, 1:3] = 2
    wanted[2] = label[2]
    assert np.array_equal(drawn(session), wanted)
    assert not session.message_is_error, session.message


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_a_label_file_may_come_in_without_a_finished_slice(
    session: Any, annotating: Any, until: Until, tmp_path: Path
) -> None:
    path, label = shifted(session, tmp_path)
    dialog = annotating(path)
    dialog.noneButton.checked = True
    dialog.buttons.accepted.emit()
    assert until(session, seconds=60)
    assert "finished slices in it: 0" in session.message, session.message
    assert np.array_equal(drawn(session), label)


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_a_dicom_seg_of_the_study_comes_back_as_an_annotation(
    session: Any, exporting: Any, annotating: Any, until: Until, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    before = drawn(session)
    export(exporting, until, tmp_path / "out", identity=1)
    (seg,) = (tmp_path / "out").rglob("*seg.dcm")
    path, label = shifted(session, tmp_path)
    for file in (path, seg):
        annotating(file).buttons.accepted.emit()
        assert until(session, seconds=60)
        assert not session.message_is_error, session.message
        assert np.array_equal(drawn(session), label if file is path else before)


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_a_label_of_another_grid_is_refused_and_nothing_changes(
    session: Any, annotating: Any, until: Until, tmp_path: Path
) -> None:
    before = drawn(session)
    write_image(
        tmp_path / "other.nrrd",
        np.ones((3, 4, 5), np.uint16),
        Grid(size_xyz=(5, 4, 3), spacing_mm_xyz=(1.0, 1.0, 1.0)),
    )
    annotating(tmp_path / "other.nrrd").buttons.accepted.emit()
    assert until(session, seconds=60)
    assert session.message_is_error
    assert np.array_equal(drawn(session), before)
