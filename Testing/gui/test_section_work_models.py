"""Models handed on, taken over and started from; scans that come back into the study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Until = Callable[..., bool]


@pytest.fixture
def ready(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Iterator[Any]:
    """The section of the work with a study of two phantoms and one model."""
    from SemiSegModuleLib.sections.work import WorkSection

    session = live_session(jobs)
    session.parameters.engine, session.parameters.start_from = "here", ""
    made = WorkSection(session, str)
    session.listen(made.refresh)
    study = phantom_study(annotated=1)
    study.add_model(lambda folder: (folder / "model.json").write_text("{}") and None, {"name": "m"})
    session.open_study(study.folder)
    assert until(session)
    made.session = session
    made.widget.show()
    made.advancedArea.collapsed = False
    yield made
    made.close()
    made.widget.hide()
    session.parameters.start_from = ""
    session.parameters.engine = "here"


def choose(monkeypatch: pytest.MonkeyPatch, name: str, answer: str) -> list[Any]:
    import qt

    asked: list[Any] = []
    dialog = SimpleNamespace(**{name: lambda *words: (asked.append(words), answer)[1]})
    monkeypatch.setattr(qt, "QFileDialog", dialog)
    return asked


def test_the_chosen_model_is_handed_on_as_a_bundle(
    ready: Any, jobs: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = str(ready.session.study.folder)
    asked = choose(monkeypatch, "getSaveFileName", "/tmp/share")
    ready.modelBox.currentIndex = 1
    ready.models.exportButton.click()
    assert asked[0][2].endswith("model-1.zip")
    assert until(ready.session, lambda: jobs.told)
    words = ["model", "export", study, "/tmp/share.zip", "--model", "1", "--overwrite"]
    assert jobs.told[0].arguments == words
    assert not ready.models.exportButton.enabled
    assert ready.progress.textLabel.text.startswith("Writing the model")
    jobs.told[0].end(model=1, bundle="/tmp/share.zip")
    assert until(ready.session)
    assert ready.session.message.startswith("Wrote model 1 to /tmp/share.zip")


def test_a_bundle_is_taken_over_as_a_model(
    ready: Any, jobs: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, "getOpenFileName", "/tmp/colleague.zip")
    ready.models.importButton.click()
    assert until(ready.session, lambda: jobs.told)
    assert jobs.told[0].arguments[:2] == ["model", "import"]
    assert jobs.told[0].arguments[3] == "/tmp/colleague.zip"
    jobs.told[0].fail("the study has no structure 'aorta'")
    assert until(ready.session)
    assert ready.session.message == "the study has no structure 'aorta'"
    ready.models.importButton.click()
    assert until(ready.session, lambda: len(jobs.told) == 2)
    jobs.told[1].end(model=2)
    assert until(ready.session)
    assert "model 2" in ready.session.message


def test_who_closes_the_dialog_gets_nothing(
    ready: Any, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, "getSaveFileName", "")
    ready.models.exportButton.click()
    choose(monkeypatch, "getOpenFileName", "")
    ready.models.importButton.click()
    assert jobs.told == []
    assert not ready.session.busy()


def test_without_a_model_none_can_be_handed_on(live_session: Any, jobs: Any) -> None:
    from SemiSegModuleLib.sections.work_models import ModelsArea

    area = ModelsArea(live_session(jobs))
    area.show()
    assert not area.exportButton.enabled
    assert not area.importButton.enabled
    assert area.importButton.toolTip == "Make or open a study first"


def test_learning_starts_from_a_bundle_and_the_panel_says_so(
    ready: Any, jobs: Any, until: Until, tmp_path: Path
) -> None:
    assert not ready.whereLabel.visible
    bundle = tmp_path / "colleague.zip"
    ready.models.startEdit.currentPath = str(bundle)
    assert ready.whereLabel.text == "Learn starts from colleague.zip."
    ready.learnButton.click()
    assert "is not there" in ready.session.message
    assert jobs.told == []
    bundle.write_bytes(b"")
    ready.learnButton.click()
    assert until(ready.session, lambda: jobs.told)
    assert jobs.told[0].arguments[-2:] == ["--start-from", str(bundle)]
    jobs.told[0].end(model=2)
    assert until(ready.session)
    ready.propagateButton.click()
    assert until(ready.session, lambda: len(jobs.told) == 2)
    assert "--start-from" not in jobs.told[1].arguments


def test_a_start_from_a_bundle_is_not_sent_to_a_cluster(ready: Any, jobs: Any) -> None:
    from SemiSegModuleLib.session_cluster import Keys

    ready.models.startEdit.currentPath = "/tmp/colleague.zip"
    ready.session.choose_engine("cluster", "https://cluster.hospital.org", Keys())
    assert not ready.learnButton.enabled
    assert "cannot be sent to a cluster" in ready.learnButton.toolTip
    ready.session.learn(1, "auto", "auto", 0)
    assert "cannot be sent to a cluster" in ready.session.message
    assert jobs.told == []
    assert ready.propagateButton.enabled
    ready.models.startEdit.currentPath = ""
    assert ready.learnButton.enabled


def test_a_removed_scan_is_put_back_with_what_was_drawn(ready: Any, until: Until) -> None:
    from SemiSegModuleLib.sections.cases_restoring import RestoreMenu

    session, menu = ready.session, RestoreMenu(ready.session)
    menu.menu.aboutToShow.emit()
    assert [one.text for one in menu.menu.actions()] == ["No scan was removed"]
    assert not menu.menu.actions()[0].enabled
    session.remove_case("c0")
    assert until(session)
    assert "Restore" in session.message
    menu.menu.aboutToShow.emit()
    action = menu.menu.actions()[0]
    assert action.text.startswith("c0   (removed 20")
    action.trigger()
    assert until(session)
    assert session.message == "c0 is in the study again, with all that was drawn in it."
    assert session.study.human_map("c0").array.any()
    session.restore_case(session.study.folder / "removed" / "c9-20260101T120000")
    assert until(session)
    assert session.message_is_error


@pytest.mark.parametrize(
    ("folder", "words"),
    [("ct-a-20260101T120000-2", "ct-a   (removed 2026-01-01"), ("odd", "odd")],
)
def test_a_removed_scan_is_named_with_its_time(application: Any, folder: str, words: str) -> None:
    from SemiSegModuleLib.sections.cases_restoring import _in_words

    assert _in_words(Path(folder)).startswith(words)
