"""The Annotate section: every button and key, what it refuses and why, editor and undo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from semiseg.images.grid import Grid
from semiseg.study.ledger import SliceState
from semiseg.study.merge import Mark
from semiseg.study.protocol import Protocol, common_structure

U, S, D, E = SliceState.UNTOUCHED, SliceState.SUGGESTED, SliceState.DONE, SliceState.EMPTY
PROTOCOL = Protocol((common_structure("liver", 1), common_structure("spleen", 2)))
GRID = Grid(size_xyz=(6, 5, 4), spacing_mm_xyz=(1.0, 1.0, 3.0))
BUTTONS = (
    "done",
    "empty",
    "not_done",
    "previous",
    "next",
    "next_slice",
    "take_over",
    "take_over_case",
)


class FakeSession:
    """What the section uses of a session; remembers what it was told to do."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self.study: Any = None
        self.current: str | None = None
        self.plane, self.follow_views = "axial", True
        self.index: int | None = 1
        self.states = [U, S, D, E]
        self.structures = PROTOCOL
        self.before_edit: Callable[[], None] = lambda: None
        self.uncertainty_shown = self.origin_shown = False
        self.held = SimpleNamespace(volume=None, drawn=None, suggestion=None, uncertainty=None)
        self.case: Any = None
        self.told: list[tuple[Any, ...]] = []
        self.said: list[str] = []

    def open(self) -> None:
        """A study with a case that is shown, with a suggestion."""
        self.study = SimpleNamespace(case=lambda _case_id: SimpleNamespace(grid=GRID))
        self.current = "c0"
        for role in ("drawn", "suggestion"):
            node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
            node.CreateDefaultDisplayNodes()
            setattr(self.held, role, node)
        self.held.volume = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        self.case = SimpleNamespace(
            dirty_since=None, marks=[], marks_sent={}, suggestion_text="model 3"
        )

    def nodes(self, _case_id: str) -> Any:
        return self.held

    def opened(self) -> Any:
        return self.case

    def protocol(self) -> Protocol:
        return self.structures

    def slice_index(self) -> int | None:
        return self.index

    def ledger_states(self) -> list[SliceState]:
        return self.states

    def proposed(self) -> frozenset[int]:
        return frozenset()

    def say(self, text: str, error: bool = False) -> None:
        self.said.append(text)

    def tell(self) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        known = ("mark_done", "mark_empty", "unmark", "next_done", "take_over", "jump_to")
        if name not in (*known, "next_slice", "show_uncertainty", "show_origin"):
            raise AttributeError(name)
        return lambda *values, **named: self.told.append((name, *values, *named.values()))


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch, application: Any) -> Callable[..., None]:
    """`content(drawn, suggested)`: what the shown slice of a fake session holds."""
    from SemiSegModuleLib.sections import annotate_state
    from SemiSegModuleLib.sections.slice_content import SliceContent

    def hold(drawn: tuple[str, ...] = (), suggested: tuple[str, ...] = ()) -> None:
        held = SliceContent(drawn, suggested, bool(suggested))
        monkeypatch.setattr(annotate_state, "content_of", lambda *_: held)

    hold(("liver",), ("spleen",))
    return hold


@pytest.fixture
def fake(scene: Any, content: Any) -> FakeSession:
    return FakeSession(scene)


@pytest.fixture
def section(scene: Any) -> Iterator[Callable[[Any], Any]]:
    """Makes the section on a session; closed afterwards."""
    from SemiSegModuleLib.sections.annotate import AnnotateSection

    made = []

    def make(session: Any) -> Any:
        made.append(AnnotateSection(session, str))
        made[-1].widget.resize(400, 600)
        made[-1].widget.show()
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.widget.hide()


def _enabled(section: Any) -> set[str]:
    """Without Next slice, which looks at no slice and has tests of its own."""
    found = {action for action, made in section.buttons.items() if made.enabled}
    return found - {"next_slice"}


# What is shown and allowed -----------------------------------------------------------------------


def test_without_a_study_everything_is_off_and_it_says_why(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    assert _enabled(shown) == set()
    assert shown.wordsLabel.text == "Make or open a study first."
    assert shown.editor.widget.enabled is False
    assert shown.strip.content.states == ()


def test_without_a_case_it_asks_for_one(fake: FakeSession, section: Any) -> None:
    fake.open()
    fake.current = None
    shown = section(fake)
    assert _enabled(shown) == set()
    assert "Choose a case" in shown.wordsLabel.text


def test_a_case_that_was_taken_out_of_the_scene_is_named(fake: FakeSession, section: Any) -> None:
    fake.open()
    fake.held.drawn = None
    shown = section(fake)
    assert _enabled(shown) == set()
    assert "c0 is not loaded" in shown.wordsLabel.text


def test_without_structures_the_editor_can_add_one_but_no_slice_can_be_marked(
    fake: FakeSession, section: Any
) -> None:
    fake.open()
    fake.structures = Protocol()
    shown = section(fake)
    assert _enabled(shown) == set()
    assert shown.editor.widget.enabled is True
    assert "no structure yet" in shown.wordsLabel.text
    shown.onDone()
    assert "no structure yet" in fake.said[-1]
    assert fake.told == []


def test_a_slice_is_told_in_words(fake: FakeSession, section: Any) -> None:
    fake.open()
    shown = section(fake)
    said = "Slice 1 of 0\u20133, axial: suggested. Liver drawn, spleen suggested."
    assert shown.wordsLabel.text == said


@pytest.mark.parametrize(
    ("drawn", "suggested", "words"),
    [
        ((), (), ""),
        (("liver",), (), "Liver drawn."),
        (("liver", "left kidney"), (), "Liver and left kidney drawn."),
        ((), ("liver", "spleen", "aorta"), "Liver, spleen and aorta suggested."),
        (tuple("abcde"), ("x",), "A, b, c and 2 more drawn, x suggested."),
    ],
)
def test_structures_are_listed_as_in_a_sentence(
    application: Any, drawn: tuple[str, ...], suggested: tuple[str, ...], words: str
) -> None:
    from SemiSegModuleLib.sections.slice_words import content_in_words

    assert content_in_words(drawn, suggested) == words


@pytest.mark.parametrize(
    ("index", "drawn", "suggested", "enabled"),
    [
        (1, ("liver",), (), {"done", "next", "take_over_case"}),
        (1, (), ("spleen",), {"done", "empty", "next", "take_over", "take_over_case"}),
        (0, (), (), {"empty", "next", "take_over_case"}),
        (2, ("liver",), (), {"done", "not_done", "next", "take_over_case"}),
        (3, (), (), {"empty", "not_done", "previous", "take_over_case"}),
        (None, (), (), {"previous", "next", "take_over_case"}),
    ],
)
def test_what_can_be_done_follows_the_slice(
    fake: FakeSession,
    section: Any,
    content: Any,
    index: int,
    drawn: Any,
    suggested: Any,
    enabled: set[str],
) -> None:
    content(drawn, suggested)
    fake.open()
    fake.index = index
    assert _enabled(section(fake)) == enabled


def test_every_button_that_is_off_says_why_in_its_tool_tip(
    fake: FakeSession, section: Any, content: Any
) -> None:
    content((), ())
    fake.open()
    fake.index, fake.held.suggestion, fake.states = 0, None, [U, U, U, U]
    shown = section(fake)
    reasons = {action: made.toolTip.splitlines()[-1] for action, made in shown.buttons.items()}
    assert "Nothing is drawn" in reasons["done"]
    assert "not marked" in reasons["not_done"]
    assert "No slice of this axis is done yet" in reasons["previous"] == reasons["next"]
    assert "Nothing is suggested in this slice" in reasons["take_over"]
    assert "Nothing is suggested for this case" in reasons["take_over_case"]
    assert shown.suggestionCheckBox.enabled is False


def test_a_key_that_cannot_do_its_work_says_why(
    fake: FakeSession, section: Any, content: Any
) -> None:
    content(("liver",), ())
    fake.open()
    shown = section(fake)
    shown.onEmpty()
    assert "Structures are drawn in this slice" in fake.said[-1]
    shown.onNotDone()
    assert "not marked" in fake.said[-1]
    assert fake.told == []


def test_marks_on_their_way_to_the_disk_are_shown_as_being_saved(
    fake: FakeSession, section: Any
) -> None:
    fake.open()
    fake.case.marks = [
        Mark(plane="axial", indices=(2,), state=D, ids=(1, 2)),
        Mark(plane="axial", indices=(1, 3), state=D, ids=(1, 2)),
        Mark(plane="coronal", indices=(0,), state=D, ids=(1, 2)),
    ]
    fake.case.marks_sent = {7: 1}
    shown = section(fake)
    assert shown.strip.content.pending == frozenset()
    fake.case.dirty_since = 1.0
    shown.refresh({"ledger"})
    assert shown.strip.content.pending == {1, 3}
    assert "suggested, being saved" in shown.wordsLabel.text


# Buttons -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "index", "told"),
    [
        ("done", 1, ("mark_done", 1, True)),
        ("empty", 3, ("mark_empty",)),
        ("not_done", 2, ("unmark",)),
        ("previous", 3, ("next_done", -1)),
        ("next", 1, ("next_done", 1)),
        ("take_over", 1, ("take_over",)),
        ("take_over_case", 1, ("take_over", True)),
    ],
)
def test_each_button_asks_the_session(
    fake: FakeSession, section: Any, content: Any, action: str, index: int, told: Any
) -> None:
    content(() if action == "empty" else ("liver",), ("spleen",))
    fake.open()
    fake.index = index
    section(fake).buttons[action].click()
    assert fake.told == [told]


def test_left_and_right_follow_the_strip_where_slices_count_from_the_right(
    fake: FakeSession, section: Any
) -> None:
    fake.open()
    fake.plane, fake.index = "coronal", 2
    shown = section(fake)
    assert shown.strip.content.mirrored
    shown.buttons["previous"].click()
    assert fake.told == [("next_done", 1)]


def test_a_click_on_the_strip_goes_there(fake: FakeSession, section: Any) -> None:
    fake.open()
    shown = section(fake)
    shown.strip.jump(shown.strip.x_of(3))
    assert fake.told == [("jump_to", 3)]


def test_axis_is_pinned_or_follows_the_views(fake: FakeSession, section: Any) -> None:
    fake.open()
    shown = section(fake)
    assert shown.axisCombo.currentIndex == 0
    shown.axisCombo.setCurrentIndex(2)
    assert (fake.follow_views, fake.plane) == (False, "coronal")
    shown.refresh({"slice"})
    assert shown.axisCombo.currentIndex == 2
    shown.axisCombo.setCurrentIndex(0)
    assert (fake.follow_views, fake.plane) == (True, "coronal")


def test_suggestion_is_hidden_and_made_fainter(fake: FakeSession, section: Any) -> None:
    fake.open()
    shown = section(fake)
    display = fake.held.suggestion.GetDisplayNode()
    shown.opacitySlider.value = 40
    assert display.GetOpacity() == pytest.approx(0.4)
    shown.suggestionCheckBox.checked = False
    assert not display.GetVisibility()
    assert shown.opacitySlider.enabled is False
    display.SetVisibility(True)  # as showing the case anew does
    shown.refresh({"suggestion"})
    assert not display.GetVisibility()
    assert "model 3" in shown.suggestionCheckBox.toolTip


def test_nobody_agrees_to_a_suggestion_that_is_hidden(fake: FakeSession, section: Any) -> None:
    fake.open()
    shown = section(fake)
    shown.suggestionCheckBox.checked = False
    assert shown.wordsLabel.text.endswith("Liver drawn.")
    assert _enabled(shown) == {"done", "next"}
    assert "hidden" in shown.buttons["take_over_case"].toolTip
    shown.buttons["done"].click()
    assert fake.told == [("mark_done", 1, False)]


def test_uncertainty_is_asked_for_once_per_click(fake: FakeSession, section: Any) -> None:
    fake.open()
    shown = section(fake)
    shown.uncertaintyCheckBox.checked = True
    assert fake.told == [("show_uncertainty", True)]
    fake.uncertainty_shown = True
    shown.refresh({"suggestion"})
    assert fake.told == [("show_uncertainty", True)]


def test_origin_is_asked_for_once_per_click_and_has_a_legend(
    fake: FakeSession, section: Any
) -> None:
    fake.open()
    shown = section(fake)
    shown.originCheckBox.checked = True
    assert fake.told == [("show_origin", True)]
    assert not shown.legendLabel.visible
    fake.origin_shown = True
    shown.refresh({"suggestion"})
    assert shown.legendLabel.visible
    assert fake.told == [("show_origin", True)]


def test_keys_are_listed_on_demand(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    assert shown.keysLabel.visible is False
    shown.keysButton.checked = True
    assert shown.keysLabel.visible is True
    assert "Shift+D" in shown.keysLabel.text


def test_topics_of_others_cost_nothing(
    fake: FakeSession, section: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = section(fake)
    monkeypatch.setattr(shown, "_show", lambda: pytest.fail("drawn anew"))
    shown.refresh({"message", "task", "cases"})


# The real session and editor ---------------------------------------------------------------------


@pytest.fixture
def shown(
    phantom_study: Any, live_session: Any, jobs: Any, section: Any, until: Any
) -> Iterator[SimpleNamespace]:
    """A study of two cases without annotation, c0 shown in the section; `suggest(array)`."""
    study = phantom_study(annotated=0)
    session = live_session(jobs)
    made = section(session)
    session.listen(made.refresh)
    session.open_study(study.folder)
    session.select("c0")
    made.enter()
    until(session)
    grid = study.case("c0").grid

    def suggest(array: np.ndarray) -> None:
        session._show_suggestion("c0", "model 3", array)
        session.tick()

    yield SimpleNamespace(section=made, session=session, grid=grid, suggest=suggest, until=until)
    made.exit()


def _array(shown: SimpleNamespace, *blocks: tuple[int, slice, slice, slice]) -> np.ndarray:
    array = np.zeros(shown.grid.shape_zyx, np.uint16)
    for structure, *where in blocks:
        array[tuple(where)] = structure
    return array


def _draw(shown: SimpleNamespace, paint: Any, structure: int, voxels: np.ndarray) -> None:
    nodes = shown.session.nodes("c0")
    segment_id = nodes.drawn.GetSegmentation().GetNthSegmentID(structure - 1)
    paint(nodes.drawn, segment_id, nodes.volume, voxels, editor=shown.section.editor.widget)
    shown.session.tick()


def _drawn(shown: SimpleNamespace) -> np.ndarray:
    from SemiSegModuleLib.mrml import segments

    node = shown.session.nodes("c0").drawn
    return segments.read_layers(node, shown.grid, shown.session.protocol()).flat(shown.grid)


LIVER = (1, slice(2, 8), slice(3, 8), slice(3, 8))
SPLEEN = (2, slice(4, 6), slice(10, 14), slice(10, 14))


def test_editor_works_on_the_drawn_segmentation_and_never_on_the_suggestion(
    shown: SimpleNamespace,
) -> None:
    editor, nodes = shown.section.editor.widget, shown.session.nodes("c0")
    assert editor.segmentationNode() is nodes.drawn
    assert editor.sourceVolumeNode() is nodes.volume
    node = editor.mrmlSegmentEditorNode()
    assert node.GetSingletonTag() == "SemiSeg"
    assert node.GetOverwriteMode() == node.OverwriteAllSegments
    assert not editor.segmentationNodeSelectorVisible
    assert not editor.sourceVolumeNodeSelectorVisible
    assert not editor.autoShowSourceVolumeNode
    assert editor.maximumNumberOfUndoStates >= 5


def test_what_the_user_chose_of_overwriting_is_kept(shown: SimpleNamespace) -> None:
    node = shown.section.editor.widget.mrmlSegmentEditorNode()
    node.SetOverwriteMode(node.OverwriteNone)
    shown.session.select("c1")
    shown.session.select("c0")
    node = shown.section.editor.widget.mrmlSegmentEditorNode()
    assert node.GetOverwriteMode() == node.OverwriteNone


def test_slice_done_takes_over_what_is_not_drawn_and_undo_takes_the_mark_back(
    shown: SimpleNamespace, paint: Any
) -> None:
    session, buttons = shown.session, shown.section.buttons
    shown.suggest(_array(shown, LIVER, SPLEEN))
    session.jump_to(5)
    _draw(shown, paint, 1, _array(shown, (1, slice(5, 6), *LIVER[2:])) > 0)
    assert shown.section.wordsLabel.text.endswith("Liver drawn, spleen suggested.")
    buttons["done"].click()
    assert session.ledger_states()[5] is D
    assert (_drawn(shown)[5] == 2).sum() == 16
    assert (_drawn(shown)[4] == 2).sum() == 0
    shown.section.editor.widget.undo()
    session.tick()
    session.tick()
    assert (_drawn(shown)[5] == 2).sum() == 0
    assert session.ledger_states()[5] is not D
    assert "not done" in session.message
    assert (_drawn(shown)[5] == 1).sum() == 25


def test_slice_done_leaves_a_hidden_suggestion_alone(shown: SimpleNamespace, paint: Any) -> None:
    shown.suggest(_array(shown, LIVER, SPLEEN))
    shown.session.jump_to(5)
    _draw(shown, paint, 1, _array(shown, (1, slice(5, 6), *LIVER[2:])) > 0)
    shown.section.suggestionCheckBox.checked = False
    shown.section.buttons["done"].click()
    assert shown.session.ledger_states()[5] is D
    assert (_drawn(shown) == 2).sum() == 0


def test_a_mark_without_suggestion_is_not_taken_back_by_undoing_a_stroke(
    shown: SimpleNamespace, paint: Any
) -> None:
    shown.session.jump_to(5)
    _draw(shown, paint, 1, _array(shown, (1, slice(5, 6), *LIVER[2:])) > 0)
    shown.section.buttons["done"].click()
    _draw(shown, paint, 1, _array(shown, (1, slice(5, 6), slice(0, 1), slice(0, 1))) > 0)
    shown.section.editor.widget.undo()
    shown.session.tick()
    shown.session.tick()
    assert shown.session.ledger_states()[5] is D


def test_take_over_slice_and_case_are_steps_of_the_editors_undo(
    shown: SimpleNamespace,
) -> None:
    shown.suggest(_array(shown, LIVER, SPLEEN))
    shown.session.jump_to(4)
    shown.section.buttons["take_over"].click()
    shown.session.tick()
    assert np.flatnonzero(_drawn(shown).any(axis=(1, 2))).tolist() == [4]
    shown.section.buttons["take_over_case"].click()
    shown.session.tick()
    assert (_drawn(shown) > 0).sum() == 6 * 25 + 2 * 16
    shown.section.editor.widget.undo()
    shown.session.tick()
    assert np.flatnonzero(_drawn(shown).any(axis=(1, 2))).tolist() == [4]


def test_slice_empty_is_refused_while_something_is_drawn_and_then_taken(
    shown: SimpleNamespace, paint: Any
) -> None:
    session = shown.session
    session.jump_to(5)
    _draw(shown, paint, 1, _array(shown, (1, slice(5, 6), *LIVER[2:])) > 0)
    assert not shown.section.buttons["empty"].enabled
    session.jump_to(9)
    shown.section.buttons["empty"].click()
    assert session.ledger_states()[9] is E
    assert "done and empty" in shown.section.wordsLabel.text
    shown.section.buttons["not_done"].click()
    assert session.ledger_states()[9] is U


def test_marks_reach_the_disk_with_the_drawing(shown: SimpleNamespace, paint: Any) -> None:
    shown.session.jump_to(5)
    _draw(shown, paint, 1, _array(shown, (1, slice(5, 6), *LIVER[2:])) > 0)
    shown.section.buttons["done"].click()
    assert shown.section.strip.content.pending == {5}
    shown.until(shown.session, lambda: not shown.session.saving)
    shown.session.tick()
    assert shown.section.strip.content.pending == frozenset()
    draft = shown.session.study.draft("c0")
    assert [mark.indices for mark in draft.marks] == [(5,)]
    assert (draft.full() == 1).sum() == 25


def test_scrolling_moves_the_mark_on_the_strip(shown: SimpleNamespace) -> None:
    shown.session.views.jump("axial", shown.grid, 2)
    shown.session.tick()
    assert shown.section.strip.content.current == 2
    shown.session.views.jump("axial", shown.grid, 7)
    shown.session.tick()
    assert shown.section.strip.content.current == 7
    assert shown.section.wordsLabel.text.startswith("Slice 7 of 0\u20139, axial")


def test_axis_follows_the_view_that_is_scrolled_not_one_that_is_passed_over(
    shown: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = shown.session
    monkeypatch.setattr(session.views, "active_plane", lambda _grid: "coronal")
    session.tick()
    assert session.plane == "axial"
    session.views.jump("coronal", shown.grid, 3)
    session.tick()
    assert session.plane == "coronal"
    assert len(shown.section.strip.content.states) == 16
    assert shown.section.wordsLabel.text.startswith("Slice 3 of 0\u201315, coronal")


def test_a_pinned_axis_stays_whatever_is_scrolled(
    shown: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = shown.session
    monkeypatch.setattr(session.views, "active_plane", lambda _grid: "coronal")
    shown.section.axisCombo.setCurrentIndex(3)
    for index in (2, 5):
        session.views.jump("coronal", shown.grid, index)
        session.tick()
    assert session.plane == "sagittal"
    assert shown.section.axisCombo.currentIndex == 3


def test_keys_do_what_the_buttons_do(shown: SimpleNamespace, paint: Any) -> None:
    session = shown.session
    session.jump_to(9)
    pressed = {s.key().toString(): s for s in shown.section.shortcuts._shortcuts}
    pressed["Shift+E"].activated.emit()
    assert session.ledger_states()[9] is E
    session.jump_to(2)
    pressed["Shift+Right"].activated.emit()
    assert session.slice_index() == 9
    pressed["Shift+U"].activated.emit()
    assert session.ledger_states()[9] is U
    pressed["Shift+D"].activated.emit()
    assert "Nothing is drawn in this slice" in session.message


def test_a_structure_added_in_the_editor_can_be_finished_at_once(
    shown: SimpleNamespace, paint: Any, until: Any
) -> None:
    session, nodes = shown.session, shown.session.nodes("c0")
    segment_id = nodes.drawn.GetSegmentation().AddEmptySegment("", "aorta")
    session.jump_to(5)
    paint(nodes.drawn, segment_id, nodes.volume, _array(shown, LIVER) > 0)
    assert until(session, lambda: len(session.protocol().structures) == 3)
    session.tick()
    assert "Aorta drawn" in shown.section.wordsLabel.text
    shown.section.buttons["done"].click()
    assert session.ledger_states()[5] is D


def test_tool_and_structure_are_taken_along_to_another_case(shown: SimpleNamespace) -> None:
    editor = shown.section.editor.widget
    editor.setActiveEffectByName("Paint")
    second = editor.segmentationNode().GetSegmentation().GetNthSegmentID(1)
    editor.setCurrentSegmentID(second)
    shown.session.select("c1")
    node = editor.mrmlSegmentEditorNode()
    assert editor.segmentationNode() is shown.session.nodes("c1").drawn
    assert node.GetActiveEffectName() == "Paint"
    segment = editor.segmentationNode().GetSegmentation().GetSegment(editor.currentSegmentID())
    assert segment.GetName() == "spleen"


def test_a_tool_with_a_preview_of_the_volume_is_not_taken_along(shown: SimpleNamespace) -> None:
    editor = shown.section.editor.widget
    editor.setActiveEffectByName("Threshold")
    shown.session.select("c1")
    assert not editor.mrmlSegmentEditorNode().GetActiveEffectName()


def test_tool_is_put_down_when_the_module_is_left_and_taken_up_again(
    shown: SimpleNamespace,
) -> None:
    editor = shown.section.editor.widget
    editor.setActiveEffectByName("Erase")
    shown.section.exit()
    assert not editor.mrmlSegmentEditorNode().GetActiveEffectName()
    shown.section.enter()
    assert editor.mrmlSegmentEditorNode().GetActiveEffectName() == "Erase"


def test_closing_the_scene_frees_the_editor_before_its_nodes_go(
    shown: SimpleNamespace, scene: Any
) -> None:
    import slicer

    editor = shown.section.editor.widget
    editor.setActiveEffectByName("Paint")
    held: list[Any] = []
    event = slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent
    # What its selector shows is updated by the application only after the closing.
    tag = scene.AddObserver(event, lambda *_: held.append(editor.mrmlSegmentEditorNode()))
    scene.Clear(0)
    scene.RemoveObserver(tag)
    shown.session.tick()
    assert held
    assert set(held) == {None}
    assert editor.segmentationNode() is None
    assert editor.sourceVolumeNode() is None
    assert shown.section.wordsLabel.text == "Make or open a study first."


def test_the_editor_never_turns_to_a_suggestion(shown: SimpleNamespace, scene: Any) -> None:
    shown.suggest(_array(shown, (1, slice(2, 4), slice(2, 6), slice(2, 6))))
    nodes = shown.session.nodes("c0")
    assert nodes.suggestion is not None
    scene.RemoveNode(nodes.drawn)  # and before the panel hears of it:
    editor = shown.section.editor.widget
    assert editor.segmentationNode() is None
    assert editor.mrmlSegmentEditorNode().GetSegmentationNode() is None


def test_a_deleted_segmentation_empties_the_editor(shown: SimpleNamespace, scene: Any) -> None:
    scene.RemoveNode(shown.session.nodes("c0").drawn)
    shown.session.tick()
    assert shown.section.editor.widget.segmentationNode() is None
    assert "not loaded" in shown.section.wordsLabel.text
    shown.session.select("c0")
    drawn = shown.session.nodes("c0").drawn
    assert shown.section.editor.widget.segmentationNode() is drawn is not None


def test_a_closed_section_leaves_the_session_alone(
    phantom_study: Any, live_session: Any, jobs: Any, scene: Any
) -> None:
    from SemiSegModuleLib.sections.annotate import AnnotateSection

    session = live_session(jobs)
    section = AnnotateSection(session, str)
    session.open_study(phantom_study(annotated=0).folder)
    session.select("c0")
    section.refresh({"case"})
    section.close()
    session.before_edit()
    node = scene.GetSingletonNode("SemiSeg", "vtkMRMLSegmentEditorNode")
    assert node.GetSegmentationNode() is None
