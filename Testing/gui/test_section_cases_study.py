"""The Cases section on a real session: what its buttons do to the study and the scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

NAME, MODALITY, DONE = range(3)


@pytest.fixture
def live(
    live_session: Any, jobs: Any, phantom_study: Any, until: Callable[..., bool]
) -> Iterator[SimpleNamespace]:
    """The section on a real session with the two phantoms c0 and c1."""
    from SemiSegModuleLib.sections.cases import CasesSection

    session = live_session(jobs)
    found = CasesSection(session, str)
    session.listen(found.refresh)
    session.open_study(phantom_study(annotated=1).folder)
    assert until(session)
    yield SimpleNamespace(section=found, session=session, jobs=jobs)
    found.close()
    found.widget.deleteLater()


def texts(section: Any, column: int) -> list[str]:
    model = section.table.view.model()
    return [model.index(row, column).data() for row in range(model.rowCount())]


def data(section: Any, case_id: str, column: int, role: str) -> Any:
    import qt

    model = section.table.view.model()
    row = section.table.visible().index(case_id)
    return model.index(row, column).data(getattr(qt.Qt, role))


def confirm(monkeypatch: pytest.MonkeyPatch, *, answer: bool) -> list[str]:
    import slicer

    asked: list[str] = []

    def ask(text: str, **_more: Any) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask, raising=False)
    return asked


def volume(scene: Any, name: str, **attributes: str) -> Any:
    import numpy as np
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(6, 1)
    node.SetAndObserveImageData(image)
    slicer.util.arrayFromVolume(node)[:] = np.arange(64).reshape(4, 4, 4)
    for key, value in attributes.items():
        node.SetAttribute(key.replace("_", "."), value)
    return node


def test_rows_of_a_study_are_shown_selected_and_unloaded(
    live: SimpleNamespace, until: Callable[..., bool]
) -> None:
    assert texts(live.section, NAME) == ["c0", "c1"]
    assert texts(live.section, DONE) == ["A 4/10", "none"]
    live.section.table.select(["c1"])
    live.section.showButton.click()
    assert until(live.session)
    assert live.session.current == "c1"
    assert data(live.section, "c1", NAME, "FontRole").bold()
    live.section.unloadButton.click()
    assert until(live.session)
    assert live.session.current is None
    assert not live.section.unloadButton.enabled


def test_a_modality_set_by_hand_reaches_the_study(
    live: SimpleNamespace, until: Callable[..., bool]
) -> None:
    live.section.table.select(["c0"])
    live.section.modalityCombo.activated.emit(2)
    assert data(live.section, "c0", MODALITY, "DisplayRole") == "MR"
    assert until(live.session)
    assert live.session.study.case("c0").modality == "MR"


def test_refused_files_are_named_together_and_the_rest_comes_in(
    live: SimpleNamespace,
    until: Callable[..., bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numpy as np
    import qt
    import SimpleITK as sitk

    (tmp_path / "broken.nrrd").write_text("no image")
    image = sitk.GetImageFromArray(np.arange(504, dtype=np.float32).reshape(7, 8, 9))
    sitk.WriteImage(image, tmp_path / "new 2.nii.gz")
    chosen = [str(tmp_path / name) for name in ("broken.nrrd", "gone.nrrd", "new 2.nii.gz")]
    dialog = SimpleNamespace(getOpenFileNames=lambda *_values: chosen)
    monkeypatch.setattr(qt, "QFileDialog", dialog)
    live.section.addFilesButton.click()
    assert until(live.session)
    assert len(texts(live.section, NAME)) == 3
    assert live.session.message_is_error
    assert live.session.message.startswith("Added 1 scan. Not added: ")
    assert "broken.nrrd" in live.session.message
    assert "gone.nrrd" in live.session.message


def test_a_volume_of_the_scene_becomes_a_case_of_its_dicom_modality(
    live: SimpleNamespace, until: Callable[..., bool], scene: Any
) -> None:
    import slicer

    node = volume(scene, "series 3", DICOM_instanceUIDs="1.2.3")
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = tree.GetItemByDataNode(node) or tree.CreateItem(tree.GetSceneItemID(), node)
    tree.SetItemAttribute(item, "DICOM.Modality", "MR")
    live.section.addDicomButton.click()
    live.section._chooser.buttons.accepted.emit()
    assert until(live.session)
    assert texts(live.section, NAME) == ["c0", "c1", "series 3"]
    assert texts(live.section, MODALITY)[2] == "MR"
    live.section.addDicomButton.click()
    assert not live.section._chooser.dialog.visible
    assert "Added 1 scan" not in live.session.message


def test_a_removed_case_leaves_the_table_and_is_kept_aside(
    live: SimpleNamespace, until: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm(monkeypatch, answer=True)
    live.section.table.select(["c0"])
    live.section.removeButton.click()
    assert until(live.session)
    assert texts(live.section, NAME) == ["c1"]
    assert live.section.table.selected() == ["c1"]
    assert list((live.session.study.folder / "removed").glob("c0-*"))


def test_the_scene_offers_volumes_that_are_no_cases_and_says_why_not_others(
    live: SimpleNamespace, until: Callable[..., bool], scene: Any
) -> None:
    import qt

    good = volume(scene, "abdomen")
    volume(
        scene,
        "known",
        SemiSeg_StudyId=live.session.study.id,
        SemiSeg_CaseId="a",
        SemiSeg_Role="volume",
    )
    volume(scene, "foreign", SemiSeg_StudyId="study-2", SemiSeg_Role="volume")
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    live.section.addSceneButton.click()
    chooser = live.section._chooser
    shown = [chooser.list.item(row).text() for row in range(chooser.list.count)]
    assert shown[0] == "abdomen"
    assert shown[1].startswith("foreign: It belongs to another study")
    assert "labels is no scalar volume" in shown[2]
    assert not chooser.list.item(2).flags() & qt.Qt.ItemIsUserCheckable
    assert [offer.node for offer in chooser.chosen()] == [good]
    chooser.buttons.button(qt.QDialogButtonBox.Ok).click()
    assert until(live.session)
    assert texts(live.section, NAME) == ["abdomen", "c0", "c1"]
    assert good.GetAttribute("SemiSeg.CaseId") == "abdomen"


def test_nothing_checked_cannot_be_added(live: SimpleNamespace, scene: Any) -> None:
    import qt

    volume(scene, "abdomen")
    live.section.addSceneButton.click()
    chooser = live.section._chooser
    chooser.list.item(0).setCheckState(qt.Qt.Unchecked)
    assert not chooser.buttons.button(qt.QDialogButtonBox.Ok).enabled
    chooser.buttons.button(qt.QDialogButtonBox.Cancel).click()
    assert not chooser.dialog.visible


def test_an_empty_scene_is_said_and_opens_no_dialog(live: SimpleNamespace) -> None:
    live.section.addSceneButton.click()
    assert "a case already" in live.session.message
    assert live.section._chooser is None
