"""Overlays: who set each voxel, and a preview while learning that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.images.grid import Grid
from semiseg.study.study import Study

Until = Callable[..., bool]
_SAID = np.zeros((10, 16, 16), np.uint16)
_SAID[3:8, 5:9, 5:9] = 2


@pytest.fixture
def study(phantom_study: Any) -> Study:
    """c0 is annotated, both are segmented."""
    made = phantom_study(annotated=1)
    for case_id in ("c0", "c1"):
        unsure = (_SAID > 0) * np.float32(0.4)
        made.predicted(case_id, _SAID, unsure, model_id=1, info={})
    return made


@pytest.fixture
def session(live_session: Any, jobs: Any, study: Study, until: Until) -> Any:
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def shown(session: Any) -> Any:
    from SemiSegModuleLib.mrml import volumes

    return volumes.array_of(session.overlay_node())


def foregrounds(session: Any) -> set[str | None]:
    names = session.layout_manager.sliceViewNames()
    logics = [session.layout_manager.sliceWidget(name).sliceLogic() for name in names]
    return {logic.GetSliceCompositeNode().GetForegroundVolumeID() for logic in logics}


def test_who_set_each_voxel_is_shown_in_the_legends_colors(
    session: Any, study: Study, until: Until
) -> None:
    from SemiSegModuleLib.session_overlays import origin_legend

    session.show_origin(True)
    assert until(session)
    assert [one.text for one in origin_legend()] == [
        "drawn",
        "corrected",
        "propagated",
        "predicted",
    ]
    array, view = shown(session), study.view("c0")
    assert view.suggestion is not None
    by_program = view.suggestion.array > 0
    assert set(np.unique(array[by_program])) == {4}
    assert set(np.unique(array[view.human.array > 0])) <= {1, 2}
    assert not array[(view.origin == 0)].any()
    node = session.overlay_node()
    colors = node.GetDisplayNode().GetColorNode()
    color = [0.0] * 4
    colors.GetColor(4, color)
    expected = np.array(origin_legend()[3].color) / 255
    np.testing.assert_allclose(color[:3], expected, atol=0.01)
    assert foregrounds(session) == {node.GetID()}


def test_one_overlay_at_a_time(session: Any, until: Until) -> None:
    session.show_origin(True)
    assert until(session)
    session.show_uncertainty(True)
    assert until(session)
    assert not session.origin_shown
    assert session.overlay_node() is None
    assert foregrounds(session) == {session.nodes("c0").uncertainty.GetID()}
    session.show_origin(True)
    assert until(session)
    assert not session.uncertainty_shown
    assert foregrounds(session) == {session.overlay_node().GetID()}
    session.show_origin(False)
    assert foregrounds(session) == {None}


def test_origin_follows_to_another_case_and_after_a_change(
    session: Any, study: Study, until: Until
) -> None:
    session.show_origin(True)
    assert until(session)
    session.select("c1")
    assert until(session)
    assert not (shown(session) == 1).any()
    drawn = np.zeros((10, 16, 16), np.uint16)
    drawn[0, 0, 0] = 1
    study.annotate("c1", drawn)
    session.reload_study()
    session.request_view("c1")
    assert until(session)
    assert shown(session)[0, 0, 0] == 1


def test_a_closed_study_leaves_no_overlay(session: Any, until: Until) -> None:
    session.show_origin(True)
    assert until(session)
    session.close_study()
    assert session.overlay_node() is None
    assert not session.origin_shown
    assert session.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_closed_scene_takes_the_overlay_along(session: Any, until: Until) -> None:
    session.show_origin(True)
    assert until(session)
    session.scene.Clear(0)
    session.tick()
    assert session.overlay == ""
    assert not session.message_is_error, session.details


@pytest.fixture
def learning(session: Any, jobs: Any, until: Until) -> Any:
    session.parameters.watch = True
    session.jump_to(4)
    session.learn(1.0, "cpu", "supervised", 0)
    assert until(session, lambda: jobs.told)
    return jobs.told[-1]


def say(learning: Any, session: Any, folder: Path, value: int) -> None:
    path = folder / "preview.npy"
    np.save(path, np.full((16, 16), value, np.uint16))
    place = {"case": "c0", "plane": "axial", "index": 4, "file": str(path)}
    learning.say("train", 1, 10, preview=place)
    session.tick()


def test_the_shown_slice_is_watched_while_learning(
    session: Any, learning: Any, tmp_path: Path
) -> None:
    at = learning.arguments.index("--watch")
    folder = str(learning.folder / "preview")
    assert learning.arguments[at : at + 4] == ["--watch", "c0:axial:4", "--watch-out", folder]
    say(learning, session, tmp_path, 2)
    assert session.overlay == "preview"
    assert (shown(session) == 2).all()
    grid = session.open_cases["c0"].grid
    origin = np.array(session.overlay_node().GetOrigin())
    expected = grid.to_world(np.array([0.0, 0.0, 4.0])) * (-1, -1, 1)
    np.testing.assert_allclose(origin, expected)
    node = session.overlay_node().GetID()
    say(learning, session, tmp_path, 1)
    assert session.overlay_node().GetID() == node
    assert (shown(session) == 1).all()


def test_the_preview_is_thrown_away_at_the_end(
    session: Any, study: Study, learning: Any, tmp_path: Path, until: Until
) -> None:
    before = study.label_versions("c0"), study.prediction_versions("c0")
    count = session.scene.GetNumberOfNodes()
    say(learning, session, tmp_path, 2)
    learning.end(model=1)
    assert until(session)
    assert session.overlay_node() is None
    assert session.previewed is None
    assert foregrounds(session) == {None}
    assert (study.label_versions("c0"), study.prediction_versions("c0")) == before
    assert session.scene.GetNumberOfNodes() <= count + 1  # the color table is kept


def test_the_preview_does_not_push_aside_what_the_user_looks_at(
    session: Any, learning: Any, tmp_path: Path, until: Until
) -> None:
    session.show_origin(True)
    assert until(session, lambda: session.overlay == "origin")
    say(learning, session, tmp_path, 2)
    assert session.overlay == "origin"
    session.show_origin(False)
    session.select("c1")
    say(learning, session, tmp_path, 2)
    assert session.overlay == ""
    session.select("c0")
    learning.say("train", 1, 10, preview={"file": str(tmp_path / "gone.npy")})
    session.tick()
    assert session.overlay == ""
    np.save(tmp_path / "preview.npy", np.zeros((3, 3), np.uint16))
    learning.say("train", 1, 10, preview={"file": str(tmp_path / "preview.npy")})
    session.tick()
    assert session.overlay == ""


def test_nothing_is_watched_unless_asked_for(session: Any, jobs: Any, until: Until) -> None:
    session.learn(1.0, "cpu", "supervised", 0)
    assert until(session, lambda: jobs.told)
    assert "--watch" not in jobs.told[-1].arguments


def test_the_checkboxes_ask_for_overlays_and_say_the_legend(
    panel: Any, session: Any, until: Until
) -> None:
    made = panel(session)
    section = made.sections["annotate"]
    assert not section.legendLabel.visible
    section.originCheckBox.checked = True
    assert until(session)
    assert session.overlay == "origin"
    assert section.legendLabel.visible
    assert "corrected" in section.legendLabel.text
    section.uncertaintyCheckBox.checked = True
    assert until(session)
    assert not section.originCheckBox.checked
    assert not section.legendLabel.visible
    work = made.sections["work"]
    work.watchCheckBox.checked = True
    assert session.parameters.watch


def test_a_swipe_runs_from_left_to_right_on_the_screen() -> None:
    from SemiSegModuleLib.session_overlays import swipe_axis, swiped

    first, second = np.zeros((2, 2, 4)), np.ones((2, 2, 4))
    assert swiped(first, second, 2, 0.25, flipped=False)[0, 0].tolist() == [0, 1, 1, 1]
    assert swiped(first, second, 2, 0.25, flipped=True)[0, 0].tolist() == [1, 1, 1, 0]
    assert [swipe_axis(plane) for plane in ("axial", "coronal", "sagittal")] == [2, 2, 1]


def test_a_slices_grid_lies_where_the_slice_does() -> None:
    from SemiSegModuleLib.session_overlays import _slice_grid

    grid = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(1.0, 2.0, 3.0), origin_mm_lps=(1.0, 1.0, 1.0))
    found = _slice_grid(grid, 1, 2)
    assert found.size_xyz == (4, 1, 6)
    assert found.origin_mm_lps == (1.0, 5.0, 1.0)
