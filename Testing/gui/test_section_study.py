"""The Study section: every button, what it shows, where it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semiseg.study.study import Study


@pytest.fixture
def section(live_session: Any, jobs: Any) -> Iterator[Any]:
    from SemiSegModuleLib.recent import forget_studies
    from SemiSegModuleLib.sections.study import StudySection

    forget_studies()
    session = live_session(jobs)
    made = StudySection(session, str)
    session.listen(made.refresh)
    made.session = session
    made.widget.show()
    yield made
    made.close()
    made.widget.hide()
    forget_studies()


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the folder dialog answers, and what it was asked."""
    import qt

    answer = SimpleNamespace(folder="", asked=[])

    def ask(*arguments: Any) -> str:
        answer.asked.append(arguments)
        return str(answer.folder)

    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", ask)
    return answer


def make(section: Any, folder: Path, name: str = "abdomen 1") -> None:
    section.newButton.click()
    section.nameEdit.text = name
    section.parentEdit.currentPath = str(folder)
    section.createButton.click()


def menu_texts(section: Any) -> list[str]:
    section.onFillRecent()
    return [action.text for action in section.recentMenu.actions() if action.text]


def test_at_first_there_is_nothing_to_close_and_no_folder(section: Any) -> None:
    assert section.newButton.visible
    assert section.openButton.visible
    assert not section.closeButton.visible
    assert not section.stateArea.visible
    assert not section.missingButton.visible


def test_a_study_is_made_by_name_and_folder(section: Any, tmp_path: Path) -> None:
    make(section, tmp_path)
    assert (tmp_path / "abdomen 1" / "study.json").is_file()
    assert section.session.study.name == "abdomen 1"
    assert not section.newArea.visible
    assert section.nameLabel.text == "abdomen 1"
    assert section.pathEdit.text == str(tmp_path / "abdomen 1")
    assert section.pathEdit.readOnly
    assert section.savedLabel.text.startswith("Saved ")


def test_create_needs_a_name_and_says_where_the_study_will_be(section: Any, tmp_path: Path) -> None:
    section.newButton.click()
    assert not section.createButton.enabled
    section.parentEdit.currentPath = str(tmp_path)
    section.nameEdit.text = "  "
    assert not section.createButton.enabled
    section.nameEdit.text = "a/b: c"
    assert section.createButton.enabled
    assert str(tmp_path / "a_b_ c") in section.whereLabel.text
    section.cancelNewButton.click()
    assert not section.newArea.visible


def test_a_study_that_is_there_already_is_refused_and_the_form_stays(
    section: Any, tmp_path: Path
) -> None:
    make(section, tmp_path)
    make(section, tmp_path)
    assert "holds a study already" in section.session.message
    assert section.newArea.visible
    assert section.nameEdit.text == "abdomen 1"


def test_opening_asks_for_a_folder_and_nothing_happens_without_one(
    section: Any, chosen: Any, phantom_study: Any
) -> None:
    section.openButton.click()
    assert len(chosen.asked) == 1
    assert section.session.study is None
    chosen.folder = phantom_study(annotated=0).folder
    section.openButton.click()
    assert section.session.study.folder == chosen.folder
    assert section.closeButton.visible


def test_a_wrong_folder_is_told(section: Any, chosen: Any, tmp_path: Path) -> None:
    chosen.folder = tmp_path
    section.openButton.click()
    assert section.session.message_is_error
    assert "is not a study" in section.session.message


def test_recent_studies_are_offered_the_latest_first_without_those_that_are_gone(
    section: Any, tmp_path: Path
) -> None:
    import shutil

    assert menu_texts(section) == ["No study was opened yet"]
    for name in ("one", "two", "three"):
        make(section, tmp_path, name)
    shutil.rmtree(tmp_path / "two")
    texts = menu_texts(section)
    assert [text.split()[0] for text in texts[:2]] == ["three", "one"]
    section.recentMenu.actions()[1].trigger()
    assert section.session.study.name == "one"
    section.onFillRecent()
    section.recentMenu.actions()[-1].trigger()
    assert menu_texts(section) == ["No study was opened yet"]


def test_closing_goes_back_to_no_study(section: Any, tmp_path: Path) -> None:
    make(section, tmp_path)
    section.closeButton.click()
    assert section.session.study is None
    assert not section.stateArea.visible


def test_while_work_runs_closing_asks_first(
    section: Any, jobs: Any, phantom_study: Any, until: Callable[..., bool]
) -> None:
    section.session.open_study(phantom_study().folder)
    section.session.propagate(all_cases=True)
    assert until(section.session, lambda: jobs.told)
    asked: list[str] = []
    section.session.confirm = lambda question: bool(asked.append(question))
    section.closeButton.click()
    assert "running" in asked[0]
    assert section.session.study is not None
    section.session.confirm = lambda _question: True
    section.closeButton.click()
    assert section.session.study is None
    assert jobs.told[0].cancelled


def test_the_saved_state_follows_the_strokes(
    section: Any, phantom_study: Any, until: Callable[..., bool]
) -> None:
    session = section.session
    session.open_study(phantom_study(annotated=0).folder)
    session.select("c0")
    session.stroke()
    session.tell()
    assert section.savedLabel.text == "Saving ..."
    assert until(session, lambda: not session.saving)
    session.tell()
    assert section.savedLabel.text == f"Saved {session.saved_at}"


def test_the_folder_is_shown_in_the_file_manager(
    section: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    opened: list[str] = []
    monkeypatch.setattr(
        qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile())
    )
    make(section, tmp_path)
    section.folderButton.click()
    assert opened == [str(tmp_path / "abdomen 1")]


def test_a_study_that_moved_can_be_looked_for(section: Any, chosen: Any, tmp_path: Path) -> None:
    moved = Study.create(tmp_path / "moved", name="moved")
    section.session.parameters.study_folder = str(tmp_path / "gone")
    section.session.open_named_study()
    assert section.missingButton.visible
    chosen.folder = moved.folder
    section.missingButton.click()
    assert section.session.study.name == "moved"
    assert not section.missingButton.visible
