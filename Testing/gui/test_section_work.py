"""Propagate, Learn, Segment: every button, choice, enabled state, progress and curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from semiseg.events import Event
from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def section(live_session: Any, jobs: Any) -> Iterator[Any]:
    from SemiSegModuleLib.sections.work import WorkSection

    session = live_session(jobs)
    made = WorkSection(session, str)
    session.listen(made.refresh)
    made.session = session
    made.widget.show()
    yield made
    made.close()
    made.widget.hide()


@pytest.fixture
def ready(section: Any, phantom_study: Any, until: Until) -> Any:
    """The section with a study of two phantoms, c0 annotated and shown."""
    section.session.open_study(phantom_study(annotated=1).folder)
    section.session.select("c0")
    assert until(section.session)
    return section


def started(section: Any, jobs: Any, until: Until) -> Any:
    assert until(section.session, lambda: jobs.told)
    return jobs.told[-1]


def buttons(section: Any) -> tuple[Any, ...]:
    return section.propagateButton, section.learnButton, section.segmentButton


def make_model(study: Study) -> int:
    return study.add_model(
        lambda folder: (folder / "model.json").write_text("{}") and None, {"name": "a model"}
    )


def test_without_a_study_nothing_can_be_pressed_and_the_tool_tip_says_why(section: Any) -> None:
    for button in buttons(section):
        assert not button.enabled
        assert button.toolTip == "Make or open a study first"
    assert not section.caseArea.visible
    assert not section.progress.barArea.visible
    assert section.advancedArea.collapsed


def test_with_done_slices_propagate_and_learn_can_be_pressed(ready: Any) -> None:
    assert ready.propagateButton.enabled
    assert ready.learnButton.enabled
    assert not ready.segmentButton.enabled
    assert ready.segmentButton.toolTip == "Learn a model first"
    assert "Carry" in ready.propagateButton.toolTip


def test_without_done_slices_the_tool_tip_says_what_to_do(section: Any, phantom_study: Any) -> None:
    section.session.open_study(phantom_study(annotated=0).folder)
    assert not section.propagateButton.enabled
    assert section.propagateButton.toolTip == "Mark at least one slice as done first"
    section.session.select("c0")
    section.session.mark_empty(0)
    assert section.propagateButton.enabled


def test_each_button_starts_its_work_with_the_choices(ready: Any, jobs: Any, until: Until) -> None:
    make_model(ready.session.study)
    ready.session.reload_study()
    ready.session.tell()
    ready.thisCaseButton.checked = True
    ready.deviceBox.currentIndex = 1
    ready.propagateButton.click()
    job = started(ready, jobs, until)
    assert job.arguments[2:] == ["c0", "--device", "cpu"]
    job.end()
    assert until(ready.session)
    ready.minutesBox.value = 2.5
    ready.methodBox.currentText = "Uncertainty-aware mean teacher"
    ready.seedBox.value = 9
    ready.learnButton.click()
    assert until(ready.session, lambda: len(jobs.told) == 2)
    options = ["--minutes", "2.5", "--device", "cpu", "--method", "ua_mt", "--seed", "9"]
    assert jobs.told[1].arguments[2:] == options
    jobs.told[1].end(model=1)
    assert until(ready.session)
    ready.modelBox.currentIndex = 1
    ready.segmentButton.click()
    assert until(ready.session, lambda: len(jobs.told) == 3)
    assert jobs.told[2].arguments[2:] == ["c0", "--model", "1", "--device", "cpu"]


def test_the_scope_names_the_button(ready: Any) -> None:
    assert ready.segmentButton.text == "Segment all"
    ready.thisCaseButton.checked = True
    assert ready.segmentButton.text == "Segment this case"
    assert ready.session.parameters.scope == "case"
    ready.session.unload_case("c0")
    assert not ready.propagateButton.enabled
    assert "Choose a case" in ready.propagateButton.toolTip


def test_choices_live_in_the_parameter_node_and_come_back(ready: Any) -> None:
    choices = ready.session.parameters
    choices.minutes, choices.device, choices.seed, choices.scope = 42.0, "cuda", 5, "case"
    choices.method = "mean_teacher"
    ready.session.changed("study")
    ready.session.tell()
    assert ready.minutesBox.value == 42.0
    assert ready.deviceBox.currentText == "GPU (CUDA)"
    assert ready.methodBox.currentText == "Mean teacher"
    assert ready.seedBox.value == 5
    assert ready.thisCaseButton.checked
    assert ready.session.parameters.minutes == 42.0


def test_every_method_offered_is_one_that_the_engine_has(application: Any) -> None:
    from semiseg.methods.base import METHODS
    from SemiSegModuleLib.sections.work import method_titles

    assert set(method_titles()) == {"auto", *METHODS}
    assert next(iter(method_titles())) == "auto"


def test_models_are_listed_the_newest_first(ready: Any) -> None:
    for _ in range(2):
        make_model(ready.session.study)
    ready.session.reload_study()
    ready.session.tell()
    box = ready.modelBox
    assert [box.itemText(i) for i in range(box.count)] == ["Newest", "Model 2", "Model 1"]
    assert ready.segmentButton.enabled


def test_progress_shows_phase_share_and_time_left(ready: Any, jobs: Any, until: Until) -> None:
    ready.propagateButton.click()
    assert ready.progress.barArea.visible
    job = started(ready, jobs, until)
    job.say("propagate", 3, 12, "c1: registered", seconds_left=125.0)
    ready.session.tick()
    bar, label = ready.progress.bar, ready.progress.textLabel
    assert (bar.value, bar.maximum) == (3, 12)
    assert label.text == "Propagating  ·  c1: registered  ·  2 min left"
    for button in buttons(ready):
        assert not button.enabled
        assert "running" in button.toolTip
    job.say("loading_models")
    ready.session.tick()
    assert bar.maximum == 0, "busy without a known end"
    assert "loading models" in label.text
    job.end()
    ready.session.tick()
    assert not ready.progress.barArea.visible
    assert ready.propagateButton.enabled


def test_cancel_is_answered_at_once(ready: Any, jobs: Any, until: Until) -> None:
    ready.propagateButton.click()
    job = started(ready, jobs, until)
    ready.progress.cancelButton.click()
    assert job.cancelled
    assert not ready.progress.cancelButton.enabled
    assert ready.progress.textLabel.text == "Stopping ..."
    assert until(ready.session)
    assert ready.propagateButton.enabled
    assert not ready.progress.barArea.visible


def test_curves_grow_while_learning_and_stay_when_it_ended(
    ready: Any, jobs: Any, until: Until
) -> None:
    assert not ready.progress.plotArea.visible
    ready.learnButton.click()
    job = started(ready, jobs, until)
    for step in range(50):
        job.say("train", step, 50, loss=math.exp(-step / 20))
    ready.session.tick()
    plots = ready.progress._plots
    assert plots["loss"].visible
    assert not plots["dice"].visible
    job.say("train", 50, 50, dice=0.8)
    ready.session.tick()
    assert plots["dice"].visible
    table = ready.progress._curves.table("loss")
    assert table.GetTable().GetNumberOfRows() == 50
    job.end(model=1)
    assert until(ready.session)
    assert ready.progress.plotArea.visible
    ready.learnButton.click()
    assert until(ready.session, lambda: len(jobs.told) == 2)
    jobs.told[1].say("train", 1, 50, loss=0.5)
    ready.session.tick()
    assert ready.progress._curves.table("loss").GetTable().GetNumberOfRows() == 1


def test_closing_takes_the_plots_nodes_out_of_the_scene(
    ready: Any, jobs: Any, until: Until
) -> None:
    ready.learnButton.click()
    started(ready, jobs, until).say("train", 1, 2, loss=0.5)
    ready.session.tick()
    scene = ready.session.scene
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotViewNode") >= 2
    before = scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode")
    ready.close()
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == before - 2


def test_curves_outlive_a_closed_scene(ready: Any, jobs: Any, until: Until) -> None:
    folder = ready.session.study.folder
    ready.learnButton.click()
    started(ready, jobs, until).say("train", 1, 2, loss=0.5)
    ready.session.tick()
    ready.session.scene.Clear(0)
    ready.session.tick()
    ready.session.open_study(folder)
    ready.learnButton.click()
    assert until(ready.session, lambda: len(jobs.told) == 2)
    jobs.told[1].say("train", 1, 2, loss=0.5)
    ready.session.tick()
    assert not ready.session.message_is_error, ready.session.details
    assert ready.progress._plots["loss"].visible
    scene = ready.session.scene
    assert all(scene.IsNodePresent(node) for node in ready.progress._nodes)
    assert ready.progress._curves.table("loss").GetTable().GetNumberOfRows() == 1


def test_the_gates_verdict_is_shown_in_words_and_can_be_undone(
    ready: Any, jobs: Any, until: Until
) -> None:
    import numpy as np

    from semiseg.study.case import GateRecord

    session = ready.session
    session.select("c1")
    assert not ready.caseArea.visible
    said = np.zeros((10, 16, 16), np.uint16)
    said[4, 5:9, 5:9] = 1
    gate = GateRecord(verdict="down_weight", score=0.61, reasons=("the outlines differ",))
    Study.open(session.study.folder).propagated(
        "c1", said, said.astype(np.float32), structure_ids=(1,), gate=gate, info={}
    )
    session.reload_study()
    session.tell()
    assert ready.caseLabel.text.startswith("c1: doubtful")
    assert "the outlines differ" in ready.caseLabel.text
    assert ready.undoButton.enabled
    ready.undoButton.click()
    assert not ready.undoButton.enabled
    assert until(session)
    assert not ready.caseArea.visible


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1.0, ""),
        (3.0, "a few seconds left"),
        (42.0, "40 s left"),
        (600.0, "10 min left"),
        (9000.0, "2.5 h left"),
    ],
)
def test_time_left_is_rough_and_readable(application: Any, seconds: Any, text: str) -> None:
    from SemiSegModuleLib.progress_words import time_left

    assert time_left(seconds) == text


def test_a_stroke_does_not_rebuild_the_choices(ready: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(ready, "_fill_models", lambda: pytest.fail("rebuilt"))
    ready.session.stroke()
    ready.session.tell()


def test_a_task_keeps_no_figure_that_is_no_number(application: Any) -> None:
    from SemiSegModuleLib.tasks import TaskState

    state = TaskState(kind="learn")
    state.take(Event(kind="progress", phase="train", step=1, data={"loss": True, "dice": "x"}))
    assert state.curve == {"loss": [], "dice": []}
