"""Slice views: one case at a time, each where it was left, and exact slice numbers."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semiseg.images.grid import PLANES, Grid, plane_axis
from SemiSegModuleLib.mrml import segments, volumes
from SemiSegModuleLib.mrml.binding import CaseNodes, SceneBinding
from SemiSegModuleLib.mrml.geometry import affine_ras, to_numpy, to_vtk
from SemiSegModuleLib.mrml.views import Views

_ORDERS = {
    "straight": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal": (0, 0, -1, 1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, 1, 0, -1, 0),
}


def _grid(name: str, oblique: Grid) -> Grid:
    if name == "oblique":
        return oblique
    return Grid(
        size_xyz=(20, 16, 10),
        spacing_mm_xyz=(1.0, 2.0, 3.0),
        origin_mm_lps=(-31.0, 17.5, 400.25),
        direction=tuple(float(v) for v in _ORDERS[name]),
    )


def _case(world, binding: SceneBinding, case_id: str, grid: Grid) -> CaseNodes:
    volume = world.volume(grid, name=case_id)
    binding.bind(case_id, "volume", volume)
    drawn = segments.create_drawn(world.scene, volume, world.protocol, case_id)
    binding.bind(case_id, "drawn", drawn)
    suggestion = segments.create_suggestion(world.scene, volume, world.protocol, case_id)
    binding.bind(case_id, "suggestion", suggestion)
    return binding.nodes_of(case_id)


@pytest.fixture
def binding(world):
    """A binding of the study "study"."""
    made = SceneBinding(world.scene, "study")
    yield made
    made.close()


@pytest.fixture
def views(world, layout_manager):
    """The views of the scene."""
    made = Views(layout_manager, world.scene)
    yield made
    made.close()


def _composites(layout_manager) -> list:
    names = layout_manager.sliceViewNames()
    return [layout_manager.sliceWidget(n).sliceLogic().GetSliceCompositeNode() for n in names]


def _foregrounds(layout_manager) -> set:
    return {composite.GetForegroundVolumeID() for composite in _composites(layout_manager)}


def _slice_nodes(layout_manager) -> list:
    names = layout_manager.sliceViewNames()
    return [layout_manager.sliceWidget(name).mrmlSliceNode() for name in names]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", [*_ORDERS, "oblique"])
def test_each_slice_is_reached_and_recognised(world, binding, views, oblique, name, plane):
    grid = _grid(name, oblique)
    views.show(_case(world, binding, "c1", grid), "c1")
    count = grid.shape_zyx[plane_axis(grid, plane)]
    for index in range(count):
        views.jump(plane, grid, index)
        assert views.slice_index(plane, grid) == index


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", [*_ORDERS, "oblique"])
def test_a_jump_puts_the_view_into_the_middle_of_the_slice(
    world, binding, views, layout_manager, oblique, name, plane
):
    grid = _grid(name, oblique)
    views.show(_case(world, binding, "c1", grid), "c1")
    views.jump(plane, grid, 4)
    axis = 2 - plane_axis(grid, plane)
    inverse = np.linalg.inv(affine_ras(grid))
    depths = []
    for node in _slice_nodes(layout_manager):
        to_world = to_numpy(node.GetXYToRAS())
        corners = [inverse @ to_world @ (x, y, 0, 1) for x in (0, 399) for y in (0, 299)]
        depths.append(np.array(corners)[:, axis])
    assert min(np.abs(depth - 4).max() for depth in depths) < 1e-6


def test_the_slice_number_changes_half_way_between_slices(
    world, binding, views, layout_manager, oblique
):
    grid = _grid("straight", oblique)
    views.show(_case(world, binding, "c1", grid), "c1")
    views.jump("axial", grid, 4)
    red = _slice_nodes(layout_manager)[0]
    middle = red.GetSliceOffset()
    red.SetSliceOffset(middle + 1.49)
    assert views.slice_index("axial", grid) == 4
    red.SetSliceOffset(middle + 1.51)
    assert views.slice_index("axial", grid) == 5
    red.SetSliceOffset(middle + 300.0)
    assert views.slice_index("axial", grid) is None


def test_a_tilted_view_shows_no_slice_until_a_jump_turns_it_back(
    world, binding, views, layout_manager, oblique
):
    views.show(_case(world, binding, "c1", oblique), "c1")
    red = _slice_nodes(layout_manager)[0]
    red.SetOrientationToAxial()
    assert views.slice_index("axial", oblique) is None
    views.jump("axial", oblique, 3)
    assert views.slice_index("axial", oblique) == 3


@given(moved=st.tuples(*[st.floats(-50, 50)] * 3), turned=st.floats(-0.7, 0.7))
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_slices_of_a_moved_volume_are_found_where_it_is_shown(
    world, layout_manager, oblique, moved, turned
):
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]
    matrix[:3, 3] = moved
    node = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(to_vtk(matrix))
    volume = world.volume(oblique)
    volume.SetAndObserveTransformNodeID(node.GetID())
    views = Views(layout_manager, world.scene)
    views.show(CaseNodes(volume=volume), "c1")
    for plane in PLANES:
        views.jump(plane, oblique, 2)
        assert views.slice_index(plane, oblique) == 2
    views.close()


def test_showing_a_case_shows_its_nodes_and_hides_the_others(
    world, binding, views, layout_manager, oblique
):
    one, two = (_case(world, binding, case_id, oblique) for case_id in ("c1", "c2"))
    mine = world.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "of the user")
    mine.CreateDefaultDisplayNodes()
    for shown, hidden in ((one, two), (two, one), (one, two)):
        views.show(shown, shown.volume.GetName())
        for composite in _composites(layout_manager):
            assert composite.GetBackgroundVolumeID() == shown.volume.GetID()
        assert all(node.GetDisplayVisibility() for node in (shown.drawn, shown.suggestion))
        assert not any(node.GetDisplayVisibility() for node in (hidden.drawn, hidden.suggestion))
        assert mine.GetDisplayVisibility()


def test_each_case_comes_back_where_it_was_left(world, binding, views, layout_manager, oblique):
    one = _case(world, binding, "c1", oblique)
    two = _case(world, binding, "c2", _grid("flipped", oblique))
    views.show(one, "c1")
    views.jump("axial", oblique, 7)
    red = _slice_nodes(layout_manager)[0]
    red.SetFieldOfView(12.0, 9.0, 1.0)
    red.SetXYZOrigin(3.0, -2.0, 0.0)
    left = [to_numpy(node.GetXYToRAS()) for node in _slice_nodes(layout_manager)]
    views.show(two, "c2")
    assert not np.allclose(left[0], to_numpy(red.GetXYToRAS()))
    views.jump("axial", _grid("flipped", oblique), 2)
    views.show(one, "c1")
    for node, expected in zip(_slice_nodes(layout_manager), left, strict=True):
        assert np.allclose(to_numpy(node.GetXYToRAS()), expected, atol=1e-9)
    assert views.slice_index("axial", oblique) == 7
    views.show(two, "c2")
    assert views.slice_index("axial", _grid("flipped", oblique)) == 2


def test_a_straight_case_after_an_oblique_one_is_shown_straight(
    world, binding, views, layout_manager, oblique
):
    views.show(_case(world, binding, "c1", oblique), "c1")
    views.show(_case(world, binding, "c2", _grid("straight", oblique)), "c2")
    found = [node.GetOrientation() for node in _slice_nodes(layout_manager)]
    assert found == ["Axial", "Coronal", "Sagittal"]


def test_an_orientation_that_the_user_chose_is_kept_for_the_next_case(
    world, binding, views, layout_manager, oblique
):
    views.show(_case(world, binding, "c1", _grid("straight", oblique)), "c1")
    _slice_nodes(layout_manager)[0].SetOrientation("Sagittal")
    views.show(_case(world, binding, "c2", _grid("flipped", oblique)), "c2")
    assert _slice_nodes(layout_manager)[0].GetOrientation() == "Sagittal"


def test_pixels_stay_square_when_the_window_changed_its_shape_meanwhile(
    world, binding, views, layout_manager, oblique
):
    one, two = (_case(world, binding, case_id, oblique) for case_id in ("c1", "c2"))
    views.show(one, "c1")
    red = _slice_nodes(layout_manager)[0]
    pixel_mm = red.GetFieldOfView()[0] / 400
    views.show(two, "c2")
    red.SetDimensions(250, 700, 1)
    views.show(one, "c1")
    assert red.GetFieldOfView()[:2] == pytest.approx((250 * pixel_mm, 700 * pixel_mm))


def test_the_view_that_the_layout_shows_is_preferred(
    world, binding, views, layout_manager, oblique
):
    grid = _grid("straight", oblique)
    views.show(_case(world, binding, "c1", grid), "c1")
    red, green, _yellow = _slice_nodes(layout_manager)
    green.SetOrientation("Axial")
    green.SetMappedInLayout(1)
    before = red.GetSliceOffset()
    views.jump("axial", grid, 7)
    assert red.GetSliceOffset() == before
    assert views.slice_index("axial", grid) == 7
    assert views.active_plane(grid) == "axial"


def test_window_and_level_stay_with_the_volume(world, binding, views, oblique):
    one, two = (_case(world, binding, case_id, oblique) for case_id in ("c1", "c2"))
    views.show(one, "c1")
    one.volume.GetDisplayNode().SetAutoWindowLevel(False)
    one.volume.GetDisplayNode().SetWindowLevel(350.0, 40.0)
    views.show(two, "c2")
    two.volume.GetDisplayNode().SetAutoWindowLevel(False)
    two.volume.GetDisplayNode().SetWindowLevel(900.0, 500.0)
    views.show(one, "c1")
    assert one.volume.GetDisplayNode().GetWindow() == 350.0
    assert one.volume.GetDisplayNode().GetLevel() == 40.0


def test_showing_the_shown_case_again_moves_nothing(world, binding, views, layout_manager, oblique):
    one, two = (_case(world, binding, case_id, oblique) for case_id in ("c1", "c2"))
    for nodes, case_id in ((one, "c1"), (two, "c2"), (one, "c1")):
        views.show(nodes, case_id)
        views.show(nodes, case_id)
        views.jump("axial", oblique, 8)
        _slice_nodes(layout_manager)[0].SetXYZOrigin(3.0, -2.0, 0.0)
        before = to_numpy(_slice_nodes(layout_manager)[0].GetXYToRAS())
        views.show(nodes, case_id)
        assert np.array_equal(to_numpy(_slice_nodes(layout_manager)[0].GetXYToRAS()), before)


def test_a_case_of_the_same_name_in_another_study_is_looked_at_anew(
    world, binding, views, layout_manager, oblique
):
    views.show(_case(world, binding, "c1", oblique), "c1")
    fitted = _slice_nodes(layout_manager)[0].GetFieldOfView()
    _slice_nodes(layout_manager)[0].SetFieldOfView(1.0, 1.0, 1.0)
    other = SceneBinding(world.scene, "other study")
    views.show(_case(world, other, "c1", oblique), "c1")
    assert _slice_nodes(layout_manager)[0].GetFieldOfView() == fitted
    other.close()


def test_views_keep_no_removed_volume_alive(world, binding, views, oblique):
    nodes = _case(world, binding, "c1", oblique)
    views.show(nodes, "c1")
    gone = []
    nodes.volume.AddObserver("DeleteEvent", lambda *_: gone.append(1))
    world.scene.RemoveNode(nodes.volume)
    del nodes
    gc.collect()
    assert gone
    assert views.slice_index("axial", oblique) is not None


def test_a_forgotten_case_is_looked_at_anew(world, binding, views, layout_manager, oblique):
    nodes = _case(world, binding, "c1", oblique)
    views.show(nodes, "c1")
    fitted = _slice_nodes(layout_manager)[0].GetFieldOfView()
    _slice_nodes(layout_manager)[0].SetFieldOfView(1.0, 1.0, 1.0)
    views.forget("c1")
    views.show(nodes, "c1")
    assert _slice_nodes(layout_manager)[0].GetFieldOfView() == fitted


def test_the_uncertainty_lies_over_the_volume_until_it_is_taken_away(
    world, binding, views, layout_manager, oblique
):
    nodes = _case(world, binding, "c1", oblique)
    array = np.zeros(oblique.shape_zyx, np.uint8)
    overlay = volumes.create_overlay(world.scene, oblique, array, "unsure", sure_below=20)
    binding.bind("c1", "uncertainty", overlay)
    views.show(nodes, "c1")
    views.show_overlay(overlay)
    assert _foregrounds(layout_manager) == {overlay.GetID()}
    views.show(binding.nodes_of("c1"), "c1")
    assert _foregrounds(layout_manager) == {overlay.GetID()}
    views.show_overlay(None)
    assert _foregrounds(layout_manager) == {None}
    views.show_overlay(overlay)
    views.show(_case(world, binding, "c2", oblique), "c2")
    assert _foregrounds(layout_manager) == {None}


def test_a_foreground_of_the_user_is_left_alone(world, binding, views, layout_manager, oblique):
    nodes = _case(world, binding, "c1", oblique)
    other = world.volume(oblique, name="PET")
    for composite in _composites(layout_manager):
        composite.SetForegroundVolumeID(other.GetID())
    views.show(nodes, "c1")
    assert _foregrounds(layout_manager) == {other.GetID()}


def test_showing_nothing_empties_the_views(world, binding, views, layout_manager, oblique):
    nodes = _case(world, binding, "c1", oblique)
    views.show(nodes, "c1")
    views.show(CaseNodes(), "")
    assert {c.GetBackgroundVolumeID() for c in _composites(layout_manager)} == {None}
    assert not nodes.drawn.GetDisplayVisibility()


def test_the_active_plane_is_that_of_the_view_under_the_mouse(
    world, binding, views, layout_manager, oblique
):
    views.show(_case(world, binding, "c1", oblique), "c1")
    assert views.active_plane(oblique) == "axial"
    crosshair = world.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    for node, plane in zip(_slice_nodes(layout_manager), PLANES, strict=True):
        crosshair.SetCursorPositionXYZ([1.0, 1.0, 0.0], node)
        assert views.active_plane(oblique) == plane
    crosshair.SetCursorPositionInvalid()
    assert views.active_plane(oblique) == "sagittal"


def test_without_a_layout_manager_nothing_is_shown_and_nothing_breaks(world, binding, oblique):
    views = Views(None, world.scene)
    views.show(_case(world, binding, "c1", oblique), "c1")
    views.jump("axial", oblique, 3)
    assert views.slice_index("axial", oblique) is None
    assert views.active_plane(oblique) == "axial"
    views.close()
