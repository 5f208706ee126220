"""History: rounds and versions, comparing, going back, accepting, naming, pruning, the advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from semiseg.events import Event
from semiseg.study.study import Study
from SemiSegModuleLib.history_lines import RoundLine, VersionLine, changes_in_words, lines_of

Until = Callable[..., bool]
_SAID = np.zeros((10, 16, 16), np.uint16)
_SAID[3:8, 5:9, 5:9] = 1
_OTHER = np.zeros((10, 16, 16), np.uint16)
_OTHER[3:8, 5:9, 5:11] = 1
_OTHER[3:5, 5:9, 5:7] = 2

_OVERALL = {"modality": "all", "structure": "all", "mean": 0.75, "n": 2, "low": 0.52, "high": 0.914}
_VALIDATION: Any = {"dice": 0.75, "summaries": [_OVERALL]}


def make_model(study: Study) -> int:
    return study.add_model(
        lambda folder: (folder / "model.json").write_text("{}") and None,
        {"name": "a model", "method": "dtc", "seconds": 90.0, "validation": _VALIDATION},
    )


@pytest.fixture
def study(phantom_study: Any) -> Study:
    """Two phantoms, c0 annotated; both segmented twice, by a model each time."""
    made = phantom_study(annotated=1)
    for said in (_SAID, _OTHER):
        model = make_model(made)
        for case_id in ("c0", "c1"):
            unsure = (said > 0) * np.float32(0.4)
            made.predicted(case_id, said, unsure, model_id=model, info={})
    return made


@pytest.fixture
def session(live_session: Any, jobs: Any, study: Study, until: Until) -> Any:
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c1")
    assert until(made)
    return made


@pytest.fixture
def section(session: Any, until: Until) -> Iterator[Any]:
    from SemiSegModuleLib.sections.history import HistorySection

    made = HistorySection(session, str)
    session.listen(made.refresh)
    made.session = session
    made.widget.resize(470, 600)
    made.widget.show()
    made.unfolded(on=True)
    assert until(session)
    yield made
    made.close()
    made.widget.hide()


def choose(section: Any, *keys: str) -> None:
    import qt

    table = section.versions.widget
    table.clearSelection()
    table.selectionMode = qt.QAbstractItemView.MultiSelection
    for number, one in enumerate(section._versions()):
        if one.key in keys:
            table.selectRow(number)


def texts(table: Any) -> list[list[str]]:
    rows, columns = table.widget.rowCount, table.widget.columnCount
    return [[table.widget.item(r, c).text() for c in range(columns)] for r in range(rows)]


def test_versions_of_the_case_and_models_are_listed_the_newest_first(section: Any) -> None:
    rows = texts(section.versions)
    assert [row[0] for row in rows] == ["segmentation 2", "model 2", "segmentation 1", "model 1"]
    newest, model = rows[0], rows[1]
    assert newest[2].endswith(" % unsure")
    assert newest[5].startswith("segmented by model 2: liver +")
    assert "spleen +" in newest[5]
    assert model[2:4] == ["75 % (52\u201391)", "1.5"]
    assert section.versions.widget.item(0, 0).font().bold()
    assert not section.versions.widget.item(2, 0).font().bold()


def test_rounds_say_what_they_cost_and_what_was_corrected(
    section: Any, study: Study, until: Until
) -> None:
    drawn = _SAID.copy()
    drawn[3:6, 8] = 0
    study.annotate("c1", drawn, plane="axial", indices=[3, 4, 5])
    section.session.reload_study()
    section.onRefresh()
    assert until(section.session)
    rows = texts(section.rounds)
    assert [row[0] for row in rows] == ["start", "model 1", "model 2"]
    assert (rows[0][3], rows[0][5]) == ("\u2013", "\u2013")
    checked = rows[2]
    assert checked[3] == "75 % (52\u201391)"
    assert (checked[2], checked[4]) == ("3", "3")
    assert checked[5].endswith(" %")
    assert float(checked[7]) > 0
    assert "Another round pays" in section.adviceLabel.text


def test_the_advice_comes_with_its_reason_and_without_a_model_there_is_none(
    section: Any, session: Any
) -> None:
    assert "Not known yet" in section.adviceLabel.text
    assert "at least 3 slices" in section.adviceLabel.text
    session._rounds_ended(
        None,
        Event(kind="result", phase="end", data={"rounds": [], "go_on": False, "reason": "good"}),
    )
    session.tell()
    assert section.adviceLabel.text == "<b>Time to stop.</b> Good."
    session.close_study()
    assert not section.adviceLabel.visible


def test_comparing_shows_changed_voxels_both_maps_and_a_swipe(
    section: Any, session: Any, until: Until
) -> None:
    from SemiSegModuleLib.mrml import volumes

    assert not section.compareButton.enabled
    choose(section, "prediction:1", "prediction:2")
    assert section.compareButton.enabled
    section.compareButton.click()
    assert until(session)
    assert session.overlay == "compare"
    assert "From segmentation 1 to segmentation 2" in section.comparedLabel.text
    assert "liver" in section.comparedLabel.text

    def shown() -> np.ndarray:
        return volumes.array_of(session.overlay_node())

    changed = np.zeros(_SAID.shape, np.uint8)
    changed[(_SAID == 0) & (_OTHER > 0)] = 1
    changed[(_SAID > 0) & (_OTHER > 0) & (_SAID != _OTHER)] = 3
    np.testing.assert_array_equal(shown(), changed)
    assert section.legendLabel.visible
    for place, expected in ((1, _SAID), (2, _OTHER)):
        section.modeBox.currentIndex = place
        np.testing.assert_array_equal(shown(), expected)
    section.modeBox.currentIndex = 3
    assert section.swipeSlider.visible
    assert not section.legendLabel.visible
    section.swipeSlider.value = 50
    half = np.concatenate([_SAID[..., :8], _OTHER[..., 8:]], axis=2)
    np.testing.assert_array_equal(shown(), half)
    for value, expected in ((0, _OTHER), (100, _SAID)):
        section.swipeSlider.value = value
        np.testing.assert_array_equal(shown(), expected)


def test_segments_give_way_to_a_comparison_and_come_back(
    section: Any, session: Any, until: Until
) -> None:
    display = session.nodes("c1").suggestion.GetDisplayNode()
    count = session.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    choose(section, "prediction:1", "prediction:2")
    section.compareButton.click()
    assert until(session)
    assert not display.GetVisibility2D()
    section.compareButton.click()
    assert display.GetVisibility2D()
    assert display.GetVisibility2DFill()
    assert session.overlay == ""
    assert not section.compareArea.visible
    assert session.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == count


def test_a_comparison_ends_when_another_case_is_shown(
    section: Any, session: Any, until: Until
) -> None:
    choose(section, "prediction:1", "prediction:2")
    section.compareButton.click()
    assert until(session)
    session.select("c0")
    assert until(session)
    assert session.compared is None
    assert session.overlay_node() is None
    assert {one.case for one in session.versions} == {"c0", None}


def test_going_back_makes_an_earlier_segmentation_count(
    section: Any, session: Any, study: Study, until: Until
) -> None:
    choose(section, "prediction:2")
    assert not section.backButton.enabled
    assert "newest" in section.backButton.toolTip
    choose(section, "prediction:1")
    section.backButton.click()
    assert until(session)
    assert study.prediction_versions("c1") == (1,)
    assert "took back 1" in session.message


def test_what_was_drawn_is_in_a_version_before_one_goes_back(
    section: Any, session: Any, jobs: Any, until: Until
) -> None:
    choose(section, "prediction:1")
    session.mark_empty(0)
    jobs.commands.clear()
    section.backButton.click()
    assert until(session)
    done = [words[:2] for words in jobs.commands]
    assert done.index(["study", "apply"]) < done.index(["history", "back"])


def test_one_structure_of_an_earlier_segmentation_is_accepted(
    section: Any, session: Any, study: Study, until: Until
) -> None:
    choose(section, "prediction:1")
    section.structureBox.currentIndex = 2
    assert section.structureBox.currentText == "spleen"
    section.backButton.click()
    assert until(session)
    mixed = study.prediction("c1")
    assert mixed is not None
    assert mixed.version == 3
    assert not (mixed.array == 2).any()
    np.testing.assert_array_equal(mixed.array == 1, _OTHER == 1)


def test_a_suggestion_is_accepted_for_one_structure_or_all(
    section: Any, session: Any, until: Until
) -> None:
    from SemiSegModuleLib.mrml import segments

    def drawn() -> np.ndarray:
        grid = session.open_cases["c1"].grid
        layers = segments.read_layers(session.nodes("c1").drawn, grid, session.protocol())
        return layers.flat(grid)

    section.structureBox.currentIndex = 2
    section.acceptButton.click()
    np.testing.assert_array_equal(drawn(), np.where(_OTHER == 2, 2, 0))
    section.structureBox.currentIndex = 0
    section.acceptButton.click()
    np.testing.assert_array_equal(drawn(), _OTHER)
    section.acceptButton.click()
    assert "nothing to accept" in session.message
    assert until(session)


def test_a_version_is_named_and_pinned_and_let_go(section: Any, until: Until) -> None:
    choose(section, "prediction:1")
    section.nameEdit.text = "before the meeting"
    section.nameButton.click()
    assert until(section.session)
    assert "segmentation 1, before the meeting" in [row[0] for row in texts(section.versions)]
    choose(section, "model:1")
    assert section.pinButton.text == "Pin"
    section.pinButton.click()
    assert until(section.session)
    choose(section, "model:1")
    assert section.pinButton.text == "Unpin"
    section.pinButton.click()
    assert until(section.session)
    assert not any("pinned" in row[0] for row in texts(section.versions))


def test_pruning_says_how_much_it_gives_back_and_asks(
    section: Any, session: Any, study: Study, until: Until
) -> None:
    assert section.pruneButton.text == "Nothing to prune"
    assert not section.pruneButton.enabled
    for _ in range(3):
        study.predicted("c1", _SAID, (_SAID > 0) * np.float32(0.1), model_id=2, info={})
    section.onRefresh()
    assert until(session)
    assert "of 3 versions" in section.pruneButton.text
    asked: list[str] = []
    session.confirm = lambda text: bool(asked.append(text))
    section.pruneButton.click()
    assert until(session)
    assert "Delete 3 earlier versions" in asked[0]
    assert len(study.prediction_versions("c1")) == 5
    session.confirm = lambda _text: True
    section.pruneButton.click()
    assert until(session)
    assert study.prediction_versions("c1") == (4, 5)
    assert section.pruneButton.text == "Nothing to prune"


def test_why_buttons_are_off_is_said(section: Any, session: Any) -> None:
    choose(section)
    assert "Ctrl+click" in section.compareButton.toolTip
    assert "Choose one version" in section.nameButton.toolTip
    choose(section, "model:1")
    assert "Advanced" in section.backButton.toolTip
    session.close_study()
    assert section.emptyLabel.visible
    assert "Make or open a study" in section.emptyLabel.text
    assert not section.acceptButton.enabled


def test_a_folded_section_costs_no_jobs(session: Any, jobs: Any, until: Until) -> None:
    jobs.commands.clear()
    session.select("c0")
    assert until(session)
    assert not [one for one in jobs.commands if one[:2] == ["history", "list"]]


def test_versions_of_a_case_that_is_no_longer_shown_are_not_listed_under_another(
    session: Any,
) -> None:
    texts_of = dict.fromkeys(("created", "what", "name", "problem"), "")
    line = {**texts_of, "kind": "label", "number": 1, "bytes": 1, "pinned": False, "newest": True}
    told = [{**line, "case": "c0"}, {**line, "case": session.current}]
    answer = Event(kind="result", phase="end", data={"versions": told})
    session._versions_ended(None, answer)
    assert [one.case for one in session.versions] == ["c1"]


def test_a_failure_is_told(session: Any) -> None:
    failed = Event(kind="error", phase="end", message="no such version")
    from SemiSegModuleLib.tasks import Task

    task = Task(kind="back", arguments=[], on_end=lambda *_: None)
    session._changed_ended(task, failed)
    assert session.message_is_error
    assert session.message == "no such version"


def test_lines_that_are_none_are_left_out() -> None:
    good = {
        "kind": "label",
        "number": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "what": "annotated",
        "name": "",
        "pinned": False,
        "newest": True,
        "bytes": 3,
        "problem": "",
    }
    bad = [{**good, "number": "1"}, {**good, "pinned": 1}, {**good, "score": "x"}, {}, 5, None]
    found = lines_of(VersionLine, [good, *bad])  # type: ignore[list-item]
    assert [one.number for one in found] == [1]
    assert found[0].when("2000-01-01") in ("2026-01-01", "2025-12-31")
    assert lines_of(RoundLine, "none") == ()
    line = VersionLine(**{**good, "changes": [{"id": 1, "added": 2, "removed": 3}, {"id": 9}]})
    assert changes_in_words(line, {1: "liver"}) == "liver +2 \u22123"


def test_the_panel_has_the_section_folded_until_it_is_asked_for(
    panel: Any, session: Any, jobs: Any, until: Until
) -> None:
    made = panel(session)
    area = made.areas["history"]
    assert area.collapsed
    jobs.commands.clear()
    area.collapsed = False
    assert until(session)
    assert ["history", "list"] in [one[:2] for one in jobs.commands]
    assert made.sections["history"].versions.widget.rowCount == 4
    assert "Not known yet" in made.sections["work"].adviceLabel.text
