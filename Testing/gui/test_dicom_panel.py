"""DICOM in the panel: series of Slicer's database, with real children on tiny series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from semiseg.jobs import Job
from semiseg.study.scanner import reference_of

Until = Callable[..., bool]
SeriesMaker = Callable[..., list[Path]]
TILT = (1.0, 0.0, 0.0, 0.0, 0.9483237, -0.3173047)


@pytest.fixture
def database(application: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty database of Slicer's."""
    import ctk
    import slicer

    made = ctk.ctkDICOMDatabase()
    monkeypatch.setattr(slicer, "dicomDatabase", made)
    return made


@pytest.fixture
def job_class(request: pytest.FixtureRequest, jobs: Any) -> Any:
    """Real children, or, where a test asks for it by parameter, the same commands inline."""
    if getattr(request, "param", "") != "inline":
        return Job
    jobs.hold = lambda _arguments: False
    return jobs


@pytest.fixture
def live(
    live_session: Any, job_class: Any, database: Any, tmp_path: Path
) -> Iterator[SimpleNamespace]:
    """The Cases section on an empty study."""
    from SemiSegModuleLib.sections.cases import CasesSection

    session = live_session(job_class)
    found = CasesSection(session, str)
    session.listen(found.refresh)
    session.create_study(tmp_path / "study", "s")
    yield SimpleNamespace(section=found, session=session, database=database)
    found.close()
    found.widget.deleteLater()


@pytest.fixture
def loaded(scene: Any, database: Any) -> Callable[..., Any]:
    """Puts a series into the database and, as the DICOM module does, into the scene."""

    def load(paths: list[Path], name: str = "7: phantom", step_mm: float = 2.5) -> Any:
        import slicer

        for path in paths:
            database.insert(str(path))
        uids = [database.instanceForFile(str(path)) for path in paths]
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(10, 12, len(paths))
        image.AllocateScalars(4, 1)
        node.SetAndObserveImageData(image)
        slicer.util.arrayFromVolume(node)[:] = np.arange(120).reshape(1, 12, 10)
        node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
        node.SetSpacing(1.25, 1.5, step_mm)
        node.SetOrigin(20.0, -30.0, 100.0)
        node.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
        return node

    return load


def accept(live: SimpleNamespace) -> None:
    live.section._chooser.buttons.accepted.emit()


def test_a_loaded_series_becomes_a_case_that_can_be_exported_as_seg(
    live: SimpleNamespace,
    loaded: Any,
    until: Until,
    tmp_path: Path,
    dicom_series: SeriesMaker,
) -> None:
    node = loaded(dicom_series(tmp_path / "in"))
    live.section.addDicomButton.click()
    accept(live)
    assert until(live.session, seconds=60)
    assert list(live.session.study.cases) == ["CT-7"], live.session.message
    assert node.GetAttribute("SemiSeg.CaseId") == "CT-7"
    assert live.session.nodes("CT-7").volume is node
    reference = reference_of(live.session.study, "CT-7")
    assert reference is not None
    assert len(reference.files) == 5
    assert not live.session.message_is_error, live.session.message


def test_a_tilted_series_is_shown_straight_and_a_sentence_says_so(
    live: SimpleNamespace,
    loaded: Any,
    until: Until,
    tmp_path: Path,
    scene: Any,
    dicom_series: SeriesMaker,
) -> None:
    places = [(0, 0, 4.0 * k) for k in range(5)]
    node = loaded(dicom_series(tmp_path / "in", orientation=TILT, positions=places))
    transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "acquisition transform")
    node.SetAndObserveTransformNodeID(transform.GetID())
    live.section.addDicomButton.click()
    assert live.section._chooser.chosen(), "not refused: the files count, not where it lies"
    accept(live)
    assert until(live.session, seconds=60)
    assert list(live.session.study.cases) == ["CT-7"], live.session.message
    shown = live.session.nodes("CT-7").volume
    assert shown is not None
    assert shown is not node
    assert "lies on another grid than the study's image" in live.session.message


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_without_its_files_a_volume_is_copied_and_a_sentence_says_what_is_lost(
    live: SimpleNamespace,
    loaded: Any,
    until: Until,
    tmp_path: Path,
    dicom_series: SeriesMaker,
) -> None:
    paths = dicom_series(tmp_path / "in")
    node = loaded(paths)
    paths[2].unlink()
    live.section.addDicomButton.click()
    accept(live)
    assert until(live.session, seconds=60)
    (case_id,) = live.session.study.cases
    assert reference_of(live.session.study, case_id) is None
    assert node.GetAttribute("SemiSeg.CaseId") == case_id
    assert "DICOM SEG and RTSTRUCT cannot be exported for it" in live.session.message


def test_series_that_are_not_loaded_are_listed_filtered_and_added(
    live: SimpleNamespace, until: Until, tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def localizer(dataset: Dataset, _k: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.SeriesNumber = 1
        dataset.SeriesDescription = "scout"

    kinds: list[dict[str, Any]] = [{"key": "a"}, {"key": "s", "n": 3, "change": localizer}]
    kinds += [{"key": "m", "modality": "MR"}, {"key": "p", "modality": "PT"}]
    for number, kind in enumerate(kinds):
        for path in dicom_series(tmp_path / str(number), **kind):
            live.database.insert(str(path))
    live.section.databaseButton.click()
    dialog = live.section._chooser
    assert dialog.tree.topLevelItem(0).text(0) == "Doe Jane   2026-01-02"
    rows = {series.modality + series.number: (series, item) for series, item in dialog._items}
    assert "localizer" in rows["CT1"][0].refusal
    assert rows["PT7"][0].refusal == "PT is no CT or MR image"
    assert rows["CT7"][0].images == 5
    dialog.filterEdit.text = "mr"
    assert [s.modality for s, item in dialog._items if not item.isHidden()] == ["MR"]
    tick(rows["CT7"][1])
    tick(rows["MR7"][1])
    assert len(dialog.chosen()) == 2
    accept(live)
    assert until(live.session, seconds=60)
    assert sorted(live.session.study.cases) == ["CT-7", "MR-7"], live.session.message
    kept = b"".join(p.read_bytes() for p in live.session.study.folder.rglob("*") if p.is_file())
    assert b"jane" not in kept.lower()
    assert b"mrn-0815" not in kept.lower()


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_a_series_is_not_added_twice_and_lost_files_are_told_by_the_series_name(
    live: SimpleNamespace, until: Until, tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = [*dicom_series(tmp_path / "in"), *dicom_series(tmp_path / "b", key="b", modality="MR")]
    for path in paths:
        live.database.insert(str(path))
    uids = [live.database.seriesForFile(str(path)) for path in (paths[0], paths[-1])]
    for path in paths[5:]:
        path.unlink()
    for _turn in range(2):
        live.session.add_database_series(uids)
        assert until(live.session)
    assert list(live.session.study.cases) == ["CT-7"]
    said = live.session.message
    assert "CT 7: the series is in the study already, as the case 'CT-7'" in said
    assert "MR 7: its files are not there any more" in said


def tick(item: Any) -> None:
    import qt

    item.setCheckState(0, qt.Qt.Checked)


def test_an_empty_database_says_where_to_begin(live: SimpleNamespace) -> None:
    live.section.databaseButton.click()
    assert "holds no series" in live.session.message
    assert live.section._chooser is None


@pytest.mark.parametrize("job_class", ["inline"], indirect=True)
def test_a_folder_with_echoes_and_gaps_asks_and_adds_what_is_checked(
    live: SimpleNamespace,
    until: Until,
    tmp_path: Path,
    dicom_series: SeriesMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import qt

    def echo(dataset: Dataset, k: int) -> None:
        dataset.EchoTime, dataset.SeriesNumber = 1.0 + k // 5, 9

    heights = [2.5 * k for k in range(5)] * 2
    folder = tmp_path / "in"
    dicom_series(folder / "m", heights=heights, modality="MR", key="m", change=echo)
    dicom_series(folder / "c", n=6)[3].unlink()
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dicom_series(folder / "s", key="s", change=lambda d, _k: setattr(d, "ImageType", scout))
    chosen = SimpleNamespace(getExistingDirectory=lambda *_values: str(folder))
    monkeypatch.setattr(qt, "QFileDialog", chosen)
    live.section.addFolderButton.click()
    assert until(live.session, seconds=60)
    dialog = live.section._chooser
    assert dialog is not None, live.session.message
    texts = [item.text() for item in dialog._items]
    assert len(texts) == 3
    assert "fill its gaps" in texts[2]
    assert "Say which volumes to add" in live.session.message
    assert "left out: 5 files: is a localiser" in live.session.message
    dialog._items[1].setCheckState(qt.Qt.Checked)
    dialog._items[2].setCheckState(qt.Qt.Checked)
    accept(live)
    assert until(live.session, seconds=60)
    cases = sorted(live.session.study.cases)
    assert cases == ["CT-7", "MR-9-echo-2-ms"], live.session.message
    assert "slices are missing" in live.session.message
