"""Slicer's own segment editor on the nodes of a case: strokes are seen, undo stays sound."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from semiseg.images.grid import canonical
from semiseg.study.protocol import common_structure
from SemiSegModuleLib.mrml import segments, structures
from SemiSegModuleLib.mrml.binding import Callbacks, SceneBinding

_STROKE = (3, 6, 3, 6, 2, 4)  # x0 x1 y0 y1 z0 z1
_VOXELS = np.s_[2:5, 3:7, 3:7]


@pytest.fixture
def case(world, oblique, editor_of):
    """A drawing with its editor, bound to case c1, and what the binding told."""
    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    heard: list[str] = []
    binding = SceneBinding(
        world.scene,
        "study",
        Callbacks(
            on_drawn_modified=heard.append,
            on_segments_changed=lambda case_id: heard.append(f"segments of {case_id}"),
        ),
    )
    binding.bind("c1", "volume", volume)
    binding.bind("c1", "drawn", drawn)
    yield drawn, editor_of(volume, drawn), binding, heard
    binding.close()


def _read(node, grid, protocol) -> np.ndarray:
    return segments.read_layers(node, grid, protocol).flat(grid)


def test_a_stroke_is_read_voxel_by_voxel(world, case, oblique):
    drawn, editor, _binding, _heard = case
    editor.paint("SemiSeg_3", _STROKE)
    expected = np.zeros(oblique.shape_zyx, np.uint16)
    expected[_VOXELS] = 3
    assert np.array_equal(_read(drawn, oblique, world.protocol), expected)


def test_a_stroke_is_told(case):
    _drawn, editor, _binding, heard = case
    editor.paint("SemiSeg_3", _STROKE)
    assert "c1" in heard


def test_erasing_and_undo_are_told_and_read(world, case, oblique):
    drawn, editor, _binding, heard = case
    editor.paint("SemiSeg_3", _STROKE)
    heard.clear()
    editor.paint("SemiSeg_3", _STROKE, erase=True)
    assert "c1" in heard
    assert not _read(drawn, oblique, world.protocol).any()
    heard.clear()
    editor.undo()
    assert "c1" in heard
    assert (_read(drawn, oblique, world.protocol)[_VOXELS] == 3).all()


def test_a_structure_whose_id_needs_two_bytes_can_be_painted(world, case, oblique):
    drawn, editor, _binding, _heard = case
    more = world.protocol.add(common_structure("pancreas", 400))
    structures.sync_segments(drawn, more)
    editor.paint("SemiSeg_400", _STROKE)
    expected = np.zeros(oblique.shape_zyx, np.uint16)
    expected[_VOXELS] = 400
    assert np.array_equal(_read(drawn, oblique, more), expected)


def test_a_second_structure_overwrites_the_first_by_default(world, case, oblique):
    drawn, editor, _binding, _heard = case
    editor.paint("SemiSeg_3", _STROKE)
    editor.paint("SemiSeg_7", (5, 9, 3, 6, 2, 4))
    layers = segments.read_layers(drawn, oblique, world.protocol)
    assert layers.overlaps == ()
    assert drawn.GetSegmentation().GetNumberOfLayers() == 1
    assert np.count_nonzero(layers.flat(oblique) == 7) == 3 * 4 * 5


def test_overlapping_strokes_are_kept_apart(world, case, oblique):
    drawn, editor, _binding, _heard = case
    editor.allow_overlap()
    editor.paint("SemiSeg_3", _STROKE)
    editor.paint("SemiSeg_7", (5, 9, 3, 6, 2, 4))
    layers = segments.read_layers(drawn, oblique, world.protocol)
    assert layers.overlaps == ((3, 7, 2 * 4 * 3),)
    assert len(layers.arrays) == 2


def test_our_own_change_is_not_told_as_a_stroke(case, oblique):
    drawn, editor, binding, heard = case
    with binding.quiet("c1"):
        segments.write_region(drawn, oblique, np.full((2, 2, 2), 3, np.uint16), (0, 0, 0))
    assert heard == []
    editor.paint("SemiSeg_3", _STROKE)
    assert heard


def test_undo_takes_back_a_take_over_whole(world, case, oblique):
    drawn, editor, _binding, _heard = case
    editor.paint("SemiSeg_3", _STROKE)
    before = _read(drawn, oblique, world.protocol)
    editor.save()
    far = np.full((2, 3, 4), 7, np.uint16)
    segments.write_region(drawn, oblique, far, (8, 12, 15))
    segments.write_region(drawn, oblique, far[:1, :1, :1], (2, 3, 3))
    assert not np.array_equal(_read(drawn, oblique, world.protocol), before)
    editor.undo()
    assert np.array_equal(_read(drawn, oblique, world.protocol), before)


def test_older_undo_states_are_not_touched_by_writing_in_place(world, case, oblique):
    drawn, editor, _binding, _heard = case
    editor.paint("SemiSeg_3", _STROKE)
    one = _read(drawn, oblique, world.protocol)
    editor.paint("SemiSeg_7", (4, 9, 8, 9, 2, 6))
    two = _read(drawn, oblique, world.protocol)
    editor.save()
    segments.set_map(drawn, oblique, np.full(oblique.shape_zyx, 7, np.uint16))
    editor.undo()
    assert np.array_equal(_read(drawn, oblique, world.protocol), two)
    editor.undo()
    assert np.array_equal(_read(drawn, oblique, world.protocol), one)


def test_painting_goes_on_after_a_write_and_an_undo(world, case, oblique):
    drawn, editor, _binding, _heard = case
    editor.save()
    segments.set_map(drawn, oblique, np.full(oblique.shape_zyx, 7, np.uint16))
    editor.undo()
    editor.paint("SemiSeg_3", _STROKE)
    segments.write_region(drawn, oblique, np.full((1, 1, 1), 7, np.uint16), (9, 15, 19))
    found = _read(drawn, oblique, world.protocol)
    assert (found[_VOXELS] == 3).all()
    assert found[9, 15, 19] == 7
    assert np.count_nonzero(found) == 3 * 4 * 4 + 1


def test_a_new_renamed_or_removed_segment_is_told_as_such(case):
    drawn, _editor, _binding, heard = case
    segmentation = drawn.GetSegmentation()
    new = segmentation.AddEmptySegment("", "tumour", [1.0, 0.0, 0.5])
    assert "segments of c1" in heard
    heard.clear()
    segmentation.GetSegment(new).SetName("cyst")
    assert "segments of c1" in heard
    heard.clear()
    segmentation.RemoveSegment(new)
    assert "segments of c1" in heard


def test_strokes_are_told_after_the_nodes_segmentation_was_replaced(case):
    drawn, _editor, _binding, heard = case
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(drawn.GetSegmentation())
    drawn.SetAndObserveSegmentation(copy)
    heard.clear()
    copy.GetSegment("SemiSeg_3").GetRepresentation("Binary labelmap").Modified()
    assert "c1" in heard


def test_nothing_is_told_after_closing_the_binding(case):
    _drawn, editor, binding, heard = case
    binding.close()
    editor.paint("SemiSeg_3", _STROKE)
    assert heard == []


def test_display_changes_are_no_strokes(case):
    drawn, _editor, _binding, heard = case
    drawn.GetDisplayNode().SetSegmentVisibility("SemiSeg_3", False)
    drawn.GetDisplayNode().SetOpacity2DFill(0.1)
    drawn.SetDisplayVisibility(False)
    assert heard == []


def test_a_volume_loaded_anew_with_its_voxels_in_another_order_can_be_painted_on(
    world, case, oblique, editor_of
):
    drawn, editor, binding, _heard = case
    editor.paint("SemiSeg_3", _STROKE)
    turned = canonical(oblique)
    again = world.volume(turned.grid, name="again")
    binding.bind("c1", "volume", again)
    editor_of(again, drawn).paint("SemiSeg_7", (12, 15, 9, 11, 6, 8))
    second = np.zeros(turned.grid.shape_zyx, np.uint16)
    second[6:9, 9:12, 12:16] = 7
    expected = turned.invert(second)
    expected[_VOXELS] = 3
    layers = segments.read_layers(drawn, oblique, world.protocol)
    assert layers.overlaps == ()
    assert np.array_equal(layers.flat(oblique), expected)
