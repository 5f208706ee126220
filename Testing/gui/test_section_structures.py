"""The Structures section: the protocol as a table, every button, refusal and dialog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from semiseg.study.protocol import Protocol, parse_structures
from semiseg.study.terminology import Code

LABEL, NAME, TERM = range(3)


class FakeSession:
    """What the section uses of a session."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self.study: Any = SimpleNamespace(retired={})
        self.now = parse_structures("1=liver,2=left kidney,5=lesion")
        self.forced: list[bool] = []
        self.said: list[tuple[str, bool]] = []
        self.drawn: dict[int, list[str]] = {}

    def protocol(self) -> Protocol:
        return self.now

    def set_protocol(self, protocol: Protocol, *, force: bool = False) -> None:
        self.now = protocol
        self.forced.append(force)

    def structure_usage(self, structure_id: int) -> list[str]:
        return self.drawn.get(structure_id, [])

    def say(self, text: str, *, error: bool = False) -> None:
        self.said.append((text, error))


@pytest.fixture
def session(scene: Any) -> FakeSession:
    return FakeSession(scene)


@pytest.fixture
def section(session: FakeSession) -> Iterator[Any]:
    from SemiSegModuleLib.sections.structures import StructuresSection

    found = StructuresSection(session, str)
    found.widget.resize(420, 300)
    found.widget.show()
    yield found
    found.close()
    found.widget.close()


def column(section: Any, number: int) -> list[str]:
    return [section.table.item(row, number).text() for row in range(section.table.rowCount)]


def typing_in(section: Any) -> bool:
    return any(child.inherits("QLineEdit") for child in section.table.viewport().children())


def choose(section: Any, name: str) -> None:
    section.table.setCurrentCell(column(section, NAME).index(name), NAME)


def confirm(monkeypatch: pytest.MonkeyPatch, *, answer: bool) -> list[str]:
    import slicer

    asked: list[str] = []

    def ask(text: str, **_more: Any) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask, raising=False)
    return asked


def test_the_table_shows_label_name_and_term(section: Any) -> None:
    assert column(section, LABEL) == ["1", "2", "5"]
    assert column(section, NAME) == ["liver", "left kidney", "lesion"]
    assert column(section, TERM) == ["Liver", "Kidney, left", "-"]
    assert "SCT 10200004" in section.table.item(0, TERM).toolTip()


def test_a_typed_name_brings_color_and_code(section: Any, session: FakeSession) -> None:
    section.nameEdit.text = "  Right   kidney "
    section.addButton.click()
    added = session.now.structures[-1]
    assert (added.id, added.name, added.code.value) == (6, "Right kidney", "64033007")
    assert section.nameEdit.text == ""
    assert section.selected() == 6


def test_names_complete_as_a_clinician_writes_them(section: Any) -> None:
    completer = section.nameEdit.completer()
    completer.completionPrefix = "kidn"
    found = [
        completer.completionModel().index(row, 0).data()
        for row in range(completer.completionModel().rowCount())
    ]
    assert "left kidney" in found
    assert not any("_" in name for name in found)


def test_return_in_the_completions_adds_and_empties_the_field(
    section: Any, session: FakeSession, application: Any
) -> None:
    import qt

    test = pytest.importorskip("PySide6.QtTest").QTest
    section.widget.activateWindow()
    test.qWaitForWindowActive(section.widget, 1000)
    section.nameEdit.setFocus()
    test.keyClicks(section.nameEdit, "right kidn")
    application.processEvents()
    popup = section.nameEdit.completer().popup()
    test.keyClick(popup, qt.Qt.Key_Down)
    test.keyClick(popup, qt.Qt.Key_Return)
    application.processEvents()
    assert session.now.structures[-1].name == "right kidney"
    assert section.nameEdit.text == ""
    assert session.said == []


@pytest.mark.parametrize(("name", "said"), [("", "needs a name"), ("LIVER", "liver already")])
def test_empty_and_taken_names_are_refused(
    section: Any, session: FakeSession, name: str, said: str
) -> None:
    section.nameEdit.text = name
    section.addButton.click()
    assert said in session.said[0][0]
    assert session.said[0][1]
    assert session.forced == []


def test_a_removed_structure_gets_its_id_back_and_no_other_takes_it(
    section: Any, session: FakeSession
) -> None:
    session.study.retired = {8: "Spleen"}
    section.nameEdit.text = "pancreas"
    section.addButton.click()
    section.nameEdit.text = "spleen"
    section.addButton.click()
    assert session.now.ids == (1, 2, 5, 9, 8)


def test_a_set_leaves_out_what_is_there_by_name_or_code(section: Any, session: FakeSession) -> None:
    session.now = parse_structures("1=liver,2=kidney_left")
    section.refresh({"structures"})
    section.presetCombo.activated.emit(1)
    names = [structure.name for structure in session.now.structures]
    assert names == ["liver", "kidney_left", "spleen", "right kidney", "pancreas", "gallbladder"]
    assert session.now.ids == (1, 2, 3, 4, 5, 6)
    assert section.presetCombo.currentIndex == 0


def test_renaming_in_the_table_keeps_the_id_and_finds_a_code(
    section: Any, session: FakeSession
) -> None:
    section.table.item(2, NAME).setText("spleen")
    assert session.now.by_id(5).name == "spleen"
    assert session.now.by_id(5).code.meaning == "Spleen"
    assert column(section, TERM)[2] == "Spleen"


def test_a_refused_name_is_taken_back(section: Any, session: FakeSession) -> None:
    section.table.item(2, NAME).setText("liver")
    assert "liver already" in session.said[0][0]
    assert column(section, NAME)[2] == "lesion"
    section.table.item(2, NAME).setText("   ")
    assert column(section, NAME)[2] == "lesion"
    assert session.now.by_id(5).name == "lesion"


def test_rename_starts_typing_in_the_table(section: Any) -> None:
    choose(section, "lesion")
    section.renameButton.click()
    assert typing_in(section)


def test_order_changes_and_label_values_do_not(section: Any, session: FakeSession) -> None:
    choose(section, "lesion")
    section.upButton.click()
    assert session.now.ids == (1, 5, 2)
    assert section.selected() == 5
    section.upButton.click()
    assert not section.upButton.enabled
    section.downButton.click()
    section.downButton.click()
    assert session.now.ids == (1, 2, 5)
    assert not section.downButton.enabled


def test_a_chosen_color_is_taken_and_a_cancelled_one_is_not(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    answers = [qt.QColor(1, 2, 3), qt.QColor()]
    dialog = SimpleNamespace(getColor=lambda *_values: answers.pop(0))
    monkeypatch.setattr(qt, "QColorDialog", dialog)
    choose(section, "liver")
    section.colorButton.click()
    section.colorButton.click()
    assert session.now.by_id(1).color == (1, 2, 3)
    assert len(session.forced) == 1


def test_the_terminology_selector_starts_at_the_term_and_gives_another(
    section: Any, session: FakeSession
) -> None:
    import qt
    import slicer

    choose(section, "lesion")
    section.termButton.click()
    chooser = section._chooser
    entry = slicer.vtkSlicerTerminologyEntry()
    text = (
        "Segmentation category and type - DICOM master list~SCT^49755003^Morphologically "
        "Altered Structure~SCT^4147007^Mass~SCT^7771000^Left~Anatomic codes - DICOM master "
        "list~^^~^^"
    )
    slicer.modules.terminologies.logic().DeserializeTerminologyEntry(text, entry)
    chooser.navigator.setTerminologyEntry(entry)
    chooser.buttons.button(qt.QDialogButtonBox.Ok).click()
    changed = session.now.by_id(5)
    assert changed.code == Code(scheme="SCT", value="4147007", meaning="Mass")
    assert changed.category.meaning == "Morphologically Altered Structure"
    assert changed.modifier.meaning == "Left"
    assert column(section, TERM)[2] == "Mass, left"
    section.termButton.click()
    shown = slicer.vtkSlicerTerminologyEntry()
    assert section._chooser.navigator.terminologyEntry(shown)
    assert shown.GetTypeObject().GetCodeValue() == "4147007"


def test_a_cancelled_terminology_changes_nothing(section: Any, session: FakeSession) -> None:
    import qt

    choose(section, "liver")
    section.termButton.click()
    section._chooser.buttons.button(qt.QDialogButtonBox.Cancel).click()
    assert not section._chooser.dialog.visible
    assert session.forced == []


def test_an_undrawn_structure_goes_without_a_question(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = confirm(monkeypatch, answer=False)
    choose(section, "lesion")
    section.deleteButton.click()
    assert session.now.ids == (1, 2)
    assert asked == []
    assert session.forced == [False]


def test_deleting_a_drawn_structure_says_in_how_many_scans(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.drawn = {1: ["ct_1", "mr_2"]}
    asked = confirm(monkeypatch, answer=False)
    choose(section, "liver")
    section.deleteButton.click()
    assert "liver is drawn in 2 scans (ct_1, mr_2)" in asked[0]
    assert session.now.ids == (1, 2, 5)
    confirm(monkeypatch, answer=True)
    section.deleteButton.click()
    assert session.now.ids == (2, 5)
    assert session.forced == [True]


def test_a_name_being_typed_survives_a_refresh(section: Any) -> None:
    choose(section, "lesion")
    section.renameButton.click()
    section.refresh({"structures", "study"})
    assert typing_in(section)


def test_a_change_from_elsewhere_is_shown_and_the_selection_stays(
    section: Any, session: FakeSession
) -> None:
    choose(section, "lesion")
    session.now = parse_structures("5=tumor,1=liver")
    section.refresh({"structures"})
    assert column(section, NAME) == ["tumor", "liver"]
    assert section.selected() == 5


def test_without_a_study_nothing_can_be_changed(section: Any, session: FakeSession) -> None:
    session.study = None
    section.refresh({"study"})
    for widget in (section.nameEdit, section.addButton, section.presetCombo, section.deleteButton):
        assert not widget.enabled
    assert section.hintLabel.visible
    assert not section.table.visible


@pytest.fixture
def live(
    live_session: Any, jobs: Any, phantom_study: Any, until: Callable[..., bool]
) -> Iterator[SimpleNamespace]:
    """The section on a real session with the phantom c0 shown; liver and spleen are drawn."""
    from SemiSegModuleLib.sections.structures import StructuresSection

    session = live_session(jobs)
    found = StructuresSection(session, str)
    session.listen(found.refresh)
    session.open_study(phantom_study(annotated=1).folder)
    session.select("c0")
    assert until(session)
    yield SimpleNamespace(section=found, session=session)
    found.close()
    found.widget.deleteLater()


def segment_names(session: Any) -> list[str]:
    segmentation = session.nodes("c0").drawn.GetSegmentation()
    return [
        segmentation.GetNthSegment(number).GetName()
        for number in range(segmentation.GetNumberOfSegments())
    ]


def test_changes_reach_the_drawn_segments_and_the_study(
    live: SimpleNamespace, until: Callable[..., bool]
) -> None:
    assert segment_names(live.session) == ["liver", "spleen"]
    live.section.nameEdit.text = "left kidney"
    live.section.addButton.click()
    live.section.upButton.click()
    live.section.table.item(0, NAME).setText("Liver lobe")
    assert segment_names(live.session) == ["Liver lobe", "left kidney", "spleen"]
    assert until(live.session)
    live.session.study.reload()
    names = [structure.name for structure in live.session.study.protocol.structures]
    assert names == ["Liver lobe", "left kidney", "spleen"]
    assert live.session.study.protocol.ids == (1, 3, 2)


def test_a_deleted_structure_comes_back_with_its_voxels(
    live: SimpleNamespace, until: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = confirm(monkeypatch, answer=True)
    choose(live.section, "spleen")
    live.section.deleteButton.click()
    assert "spleen is drawn in 1 scan (c0)" in asked[0]
    assert until(live.session)
    assert segment_names(live.session) == ["liver"]
    assert dict(live.session.study.retired) == {2: "spleen"}
    live.section.nameEdit.text = "spleen"
    live.section.addButton.click()
    assert until(live.session)
    assert live.session.study.protocol.ids == (1, 2)
    assert 2 in live.session.study.human_map("c0").array


def test_double_clicks_edit_what_was_clicked(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    dialog = SimpleNamespace(getColor=lambda *_values: qt.QColor(9, 8, 7))
    monkeypatch.setattr(qt, "QColorDialog", dialog)
    choose(section, "liver")
    section.table.cellDoubleClicked.emit(0, LABEL)
    assert session.now.by_id(1).color == (9, 8, 7)
    section.table.cellDoubleClicked.emit(0, TERM)
    assert section._chooser.dialog.visible
