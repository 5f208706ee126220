"""The Cases section: the table, its filter and order, every button, key and menu entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semiseg.study.case import GateRecord
from semiseg.study.overview import CaseOverview

NAME, MODALITY, DONE, STATE, TRUST, UNSURE, DICE = range(7)
STUDY = "study-1"


def overview(number: int, **values: Any) -> CaseOverview:
    planes = {"axial": (0, 112), "coronal": (0, 256), "sagittal": (0, 250)}
    plain: dict[str, Any] = {
        "id": f"scan_{number}",
        "name": f"scan {number}",
        "modality": "CT",
        "modality_overridden": False,
        "modality_confidence": 0.99,
        "patient": f"P{number}",
        "split": "train",
        "done": planes | values.pop("done", {}),
        "state": "new",
        "gate": None,
        "uncertainty": None,
        "score": None,
        "label_version": None,
        "prediction_version": None,
        "has_draft": False,
        "problem": "",
    }
    return CaseOverview(**(plain | values))


class FakeSession:
    """What the section uses of a session; remembers what it was told to do."""

    def __init__(self, scene: Any, rows: list[CaseOverview]) -> None:
        self.scene, self.listed = scene, rows
        self.study: Any = SimpleNamespace(id=STUDY, folder=Path("/studies/one"))
        self.current: str | None = None
        self.open_cases: dict[str, Any] = {}
        self.told: list[tuple[Any, ...]] = []
        self.said: list[str] = []
        self.waiting: tuple[Any, ...] = ()

    def busy(self) -> bool:
        return False

    def rows(self) -> tuple[CaseOverview, ...]:
        return tuple(self.listed)

    def row(self, case_id: str) -> CaseOverview:
        return next(row for row in self.listed if row.id == case_id)

    def say(self, text: str, *, error: bool = False) -> None:
        self.said.append(text)

    def select(self, case_id: str) -> None:
        self.current = case_id
        self.open_cases[case_id] = object()
        self.told.append(("select", case_id))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in ("add_files", "add_volumes", "remove_case", "unload_case", "set_modality"):
            raise AttributeError(name)
        return lambda *values: self.told.append((name, *values))


@pytest.fixture
def session(scene: Any) -> FakeSession:
    return FakeSession(
        scene,
        [
            overview(10, modality="MR", modality_confidence=0.6),
            overview(9, state="segmented", score=0.9, uncertainty=0.05, done={"axial": (12, 112)}),
            overview(1, state="propagated", score=0.75, has_draft=True),
        ],
    )


@pytest.fixture
def section(session: FakeSession) -> Iterator[Any]:
    from SemiSegModuleLib.sections.cases import CasesSection

    found = CasesSection(session, str)
    found.widget.resize(600, 400)
    found.widget.show()
    yield found
    found.close()
    found.widget.close()


def texts(section: Any, column: int) -> list[str]:
    model = section.table.view.model()
    return [model.index(row, column).data() for row in range(model.rowCount())]


def data(section: Any, case_id: str, column: int, role: str) -> Any:
    import qt

    model = section.table.view.model()
    row = section.table.visible().index(case_id)
    return model.index(row, column).data(getattr(qt.Qt, role))


def sort(section: Any, column: int, *, rising: bool = True) -> None:
    import qt

    order = qt.Qt.AscendingOrder if rising else qt.Qt.DescendingOrder
    section.table.view.sortByColumn(column, order)


def press(section: Any, key: str, *, shift: bool = False) -> None:
    import qt

    test = pytest.importorskip("PySide6.QtTest").QTest
    modifier = qt.Qt.ShiftModifier if shift else qt.Qt.NoModifier
    section.widget.activateWindow()
    test.qWaitForWindowActive(section.widget, 1000)
    section.table.view.setFocus()
    test.keyClick(section.table.view, getattr(qt.Qt, key), modifier)


def confirm(monkeypatch: pytest.MonkeyPatch, *, answer: bool) -> list[str]:
    import slicer

    asked: list[str] = []

    def ask(text: str, **_more: Any) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask, raising=False)
    return asked


def test_numbers_in_names_and_figures_are_sorted_as_numbers(section: Any) -> None:
    assert texts(section, NAME) == ["scan 1 *", "scan 9", "scan 10"]
    sort(section, DICE, rising=False)
    assert texts(section, DICE) == ["0.90", "0.75", "-"]
    sort(section, DONE, rising=False)
    assert texts(section, DONE)[0] == "A 12/112"


def test_what_is_done_per_plane_is_told_whole_in_the_tooltip(
    section: Any, session: FakeSession
) -> None:
    session.listed.append(overview(2, done={"axial": (3, 112), "sagittal": (1, 250)}))
    section.refresh({"cases"})
    row = section.table.visible().index("scan_2")
    assert texts(section, DONE)[row] == "A 3  S 1"
    assert "coronal: 0 of 256" in data(section, "scan_2", DONE, "ToolTipRole")


def test_an_unsure_modality_has_a_question_mark_and_says_why(section: Any) -> None:
    assert data(section, "scan_10", MODALITY, "DisplayRole") == "MR?"
    assert "60 %" in data(section, "scan_10", MODALITY, "ToolTipRole")
    assert data(section, "scan_9", MODALITY, "DisplayRole") == "CT"


def test_a_verdict_is_a_word_with_the_reasons_behind_it(section: Any, session: FakeSession) -> None:
    gate = GateRecord(verdict="down_weight", score=0.5, reasons=("borders do not fit",))
    session.listed[0] = replace(session.listed[0], gate=gate)
    section.refresh({"cases"})
    assert data(section, "scan_10", TRUST, "DisplayRole") == "doubtful"
    assert "borders do not fit" in data(section, "scan_10", TRUST, "ToolTipRole")


def test_a_narrow_panel_keeps_names_readable_and_the_verdict_as_icon(
    section: Any, session: FakeSession
) -> None:
    gate = GateRecord(verdict="accept", score=0.9)
    session.listed[0] = replace(session.listed[0], gate=gate, name="abdomen 12 of January")
    section.widget.resize(380, 400)
    section.refresh({"cases"})
    assert data(section, "scan_10", TRUST, "DisplayRole") == ""
    assert data(section, "scan_10", TRUST, "AccessibleTextRole") == "good"
    assert section.table.view.columnWidth(NAME) >= 90
    section.widget.resize(900, 400)
    section.refresh({"cases"})
    assert data(section, "scan_10", TRUST, "DisplayRole") == "good"


def test_a_problem_is_told_in_every_cell_of_a_marked_row(
    section: Any, session: FakeSession
) -> None:
    session.listed[1] = replace(session.listed[1], problem="The image is gone; put it back.")
    section.refresh({"cases"})
    assert data(section, "scan_9", STATE, "DisplayRole") == "problem"
    for column in range(7):
        assert data(section, "scan_9", column, "ToolTipRole").startswith("The image is gone")
        assert data(section, "scan_9", column, "BackgroundRole") is not None


def test_the_filter_wants_every_word_somewhere(section: Any) -> None:
    section.filterEdit.text = "ct segm"
    assert texts(section, NAME) == ["scan 9"]
    assert section.countLabel.text == "1 of 3"
    section.filterEdit.text = "unsaved"
    assert texts(section, NAME) == ["scan 1 *"]
    section.filterEdit.text = ""
    assert len(texts(section, NAME)) == 3


def test_selection_survives_refresh_sort_and_filter(section: Any, session: FakeSession) -> None:
    section.table.select(["scan_9"])
    session.listed[1] = replace(session.listed[1], state="annotated", name="a first")
    section.refresh({"cases"})
    sort(section, STATE)
    assert section.table.selected() == ["scan_9"]
    section.filterEdit.text = "mr"
    assert section.table.selected() == []
    assert not section.removeButton.enabled
    section.filterEdit.text = ""
    assert section.table.selected() == ["scan_9"]


def test_the_neighbour_is_selected_when_the_selected_case_goes(
    section: Any, session: FakeSession
) -> None:
    section.table.select(["scan_9"])
    session.listed = [row for row in session.listed if row.id != "scan_9"]
    section.refresh({"cases"})
    assert section.table.selected() == ["scan_10"]


def test_the_shown_case_is_bold_and_selected(section: Any, session: FakeSession) -> None:
    session.current = "scan_9"
    section.refresh({"case"})
    assert section.table.selected() == ["scan_9"]
    assert data(section, "scan_9", NAME, "FontRole").bold()
    session.current = "scan_1"
    section.refresh({"case"})
    assert not data(section, "scan_9", NAME, "FontRole").bold()


def test_arrows_select_and_return_shows(section: Any, session: FakeSession) -> None:
    section.table.select(["scan_1"])
    press(section, "Key_Down")
    assert section.table.selected() == ["scan_9"]
    assert session.told == []
    press(section, "Key_Return")
    assert session.told == [("select", "scan_9")]
    press(section, "Key_Down")
    press(section, "Key_Enter")
    assert session.told[-1] == ("select", "scan_10")


def test_next_and_previous_follow_the_order_of_the_table(
    section: Any, session: FakeSession
) -> None:
    section.nextButton.click()
    section.refresh({"case"})
    assert session.current == "scan_1"
    assert not section.previousButton.enabled
    press(section, "Key_PageDown", shift=True)
    assert session.current == "scan_1", "the key is another module's until this one is shown"
    section.enter()
    press(section, "Key_PageDown", shift=True)
    section.refresh({"case"})
    assert session.current == "scan_9"
    section.nextButton.click()
    section.refresh({"case"})
    assert not section.nextButton.enabled
    section.previousButton.click()
    assert session.current == "scan_9"


def test_delete_asks_and_says_what_is_kept(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = confirm(monkeypatch, answer=False)
    section.table.select(["scan_9"])
    press(section, "Key_Delete")
    assert "scan 9" in asked[0]
    assert "removed" in asked[0]
    assert session.told == []
    confirm(monkeypatch, answer=True)
    section.removeButton.click()
    assert session.told == [("remove_case", "scan_9")]


def test_unload_is_for_loaded_cases_only(section: Any, session: FakeSession) -> None:
    section.table.select(["scan_9", "scan_1"])
    assert not section.unloadButton.enabled
    session.open_cases["scan_1"] = object()
    section.refresh({"cases"})
    section.unloadButton.click()
    assert session.told == [("unload_case", "scan_1")]


def test_the_modality_is_set_for_all_selected_by_combo_and_menu(
    section: Any, session: FakeSession
) -> None:
    section.table.select(["scan_9", "scan_10"])
    section.modalityCombo.activated.emit(2)
    assert session.told == [("set_modality", "scan_9", "MR"), ("set_modality", "scan_10", "MR")]
    assert section.modalityCombo.currentIndex == 0
    session.told.clear()
    section.table.select(["scan_1"])
    section.actions[3].trigger()
    assert session.told == [("set_modality", "scan_1", "auto")]


def test_menu_entries_do_what_the_buttons_do(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm(monkeypatch, answer=True)
    section.table.select(["scan_1"])
    section.actions[0].trigger()
    section.refresh({"case"})
    section.actions[-2].trigger()
    section.actions[-1].trigger()
    assert [told[0] for told in session.told] == ["select", "unload_case", "remove_case"]


def test_chosen_files_are_handed_on_and_the_folder_is_remembered(
    section: Any, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    asked: list[tuple[Any, ...]] = []
    answers = [["/data/a.nii.gz", "/data/b.nrrd"], []]

    def choose(*values: Any) -> list[str]:
        asked.append(values)
        return answers[len(asked) - 1]

    monkeypatch.setattr(qt, "QFileDialog", SimpleNamespace(getOpenFileNames=choose))
    section.addFilesButton.click()
    section.addFilesButton.click()
    assert session.told == [("add_files", [Path("/data/a.nii.gz"), Path("/data/b.nrrd")])]
    assert "*.nii.gz" in asked[0][3]
    assert asked[1][2] == "/data"


def test_the_dicom_button_goes_to_slicers_module(
    section: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import slicer

    gone: list[str] = []
    monkeypatch.setattr(slicer.util, "selectModule", gone.append, raising=False)
    section.dicomButton.click()
    assert gone == ["DICOM"]


def test_without_a_study_only_the_dicom_browser_is_offered(
    section: Any, session: FakeSession
) -> None:
    session.study = None
    section.refresh({"study"})
    assert not section.addFilesButton.enabled
    assert not section.addSceneButton.enabled
    assert section.dicomButton.enabled
    assert section.hintLabel.visible
    assert not section.table.view.visible


def test_an_empty_study_says_how_to_begin(section: Any, session: FakeSession) -> None:
    session.listed = []
    section.refresh({"cases"})
    assert "Add" in section.hintLabel.text
    assert section.addFilesButton.enabled
    assert not section.filterEdit.visible
