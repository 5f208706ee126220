"""Overlaps, segments of others, moved nodes: nothing flattened, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
import vtk.util.numpy_support

from semiseg.study.protocol import Protocol, Structure
from SemiSegModuleLib.mrml import segments
from SemiSegModuleLib.mrml.geometry import SceneError, affine_ras, to_vtk
from SemiSegModuleLib.mrml.volumes import grid_of

_LIVER = (3, np.s_[2:5, 3:9, 4:12])
_SPLEEN = (7, np.s_[4:8, 9:14, 10:19])


def test_overlapping_segments_stay_apart_and_are_counted(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    world.tag(node, world.foreign(node, "a", oblique, (0, 3, 0, 3, 0, 3)), 3)
    world.tag(node, world.foreign(node, "b", oblique, (2, 5, 2, 5, 3, 4)), 7)
    layers = segments.read_layers(node, oblique, world.protocol)
    assert layers.overlaps == ((3, 7, 4),)
    assert len(layers.arrays) == 2
    assert layers.offset_zyx == (0, 0, 0)
    counts = sorted(np.count_nonzero(array) for array in layers.arrays)
    assert counts == [32, 64]


def test_layers_that_do_not_overlap_are_read_as_one_map(world, case, oblique):
    array = world.map(oblique, _LIVER, _SPLEEN)
    segments.set_map(case[1], oblique, array)
    case[1].GetSegmentation().SeparateSegmentLabelmap("SemiSeg_7")
    assert case[1].GetSegmentation().GetNumberOfLayers() == 2
    layers = segments.read_layers(case[1], oblique, world.protocol)
    assert len(layers.arrays) == 1
    assert np.array_equal(layers.flat(oblique), array)


def test_overlapping_layers_come_back_as_they_were(world, case, oblique):
    one, two = world.map(oblique, _LIVER), world.map(oblique, (7, np.s_[4:6, 5:9, 4:8]))
    segments.set_layers(case[1], oblique, (one, two), (0, 0, 0))
    layers = segments.read_layers(case[1], oblique, world.protocol)
    assert layers.overlaps == ((3, 7, 4 * 4),)
    again = segments.create_drawn(world.scene, case[0], world.protocol, "again")
    segments.set_layers(again, oblique, layers.arrays, layers.offset_zyx)
    found = segments.read_layers(again, oblique, world.protocol)
    for number in (3, 7):
        expected = {3: one, 7: two}[number] == number
        for read in (layers, found):
            full = [world.place(array, read.offset_zyx, oblique) == number for array in read.arrays]
            assert np.array_equal(np.logical_or.reduce(full), expected)


def test_a_region_written_over_an_overlap_leaves_the_rest_of_it(world, case, oblique):
    one, two = world.map(oblique, _LIVER), world.map(oblique, (7, np.s_[4:6, 5:9, 4:8]))
    segments.set_layers(case[1], oblique, (one, two), (0, 0, 0))
    segments.write_region(case[1], oblique, np.zeros((1, 1, 1), np.uint16), (4, 5, 4))
    assert segments.read_layers(case[1], oblique, world.protocol).overlaps == ((3, 7, 15),)


def test_writing_in_place_reaches_no_copy_of_the_node(world, case, oblique):
    before = world.map(oblique, _LIVER, _SPLEEN)
    segments.set_map(case[1], oblique, before)
    copies = [world.scene.CopyNode(case[1]), slicer.vtkMRMLSegmentationNode()]
    world.scene.AddNode(copies[1])
    copies[1].CopyContent(case[1])
    segments.write_region(case[1], oblique, np.full((2, 2, 2), 7, np.uint16), (3, 4, 5))
    for copy in copies:
        assert np.array_equal(world.read(copy, oblique), before)


def test_a_segment_outside_the_volume_is_refused_not_lost(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    world.tag(node, world.foreign(node, "a", oblique, (-1, 0, 0, 3, 0, 3)), 3)
    with pytest.raises(SceneError, match="16 voxels of scan lie outside the volume"):
        segments.read_layers(node, oblique, world.protocol)


def test_an_empty_rim_outside_the_volume_does_no_harm(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    world.tag(node, world.foreign(node, "a", oblique, (-2, 3, -1, 3, 0, 12)), 3)
    image = node.GetBinaryLabelmapInternalRepresentation("a")
    flat = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    voxels = flat.reshape(image.GetDimensions()[::-1])
    voxels[...] = 0
    voxels[5, 2, 3] = 1
    assert list(zip(*np.nonzero(world.read(node, oblique, world.protocol)), strict=True)) == [
        (5, 1, 1)
    ]


def test_a_segment_between_the_voxels_is_refused_by_name(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    moved = affine_ras(oblique)
    moved[:3, 3] += 0.4 * moved[:3, 0]
    world.tag(node, world.foreign(node, "a", oblique, (0, 3, 0, 3, 0, 3), affine=moved), 3)
    with pytest.raises(SceneError, match="voxels of a in scan do not coincide"):
        segments.read_layers(node, oblique, world.protocol)


def test_a_segment_shifted_by_whole_voxels_is_read_exactly(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    moved = affine_ras(oblique)
    moved[:3, 3] += moved[:3, :3] @ (4, 3, 2)
    world.tag(node, world.foreign(node, "a", oblique, (0, 1, 0, 2, 0, 3), affine=moved), 3)
    expected = world.map(oblique, (3, np.s_[2:6, 3:6, 4:6]))
    assert np.array_equal(world.read(node, oblique, world.protocol), expected)


def test_surfaces_are_refused_with_the_way_out(world, case, oblique):
    segments.set_map(case[1], oblique, world.map(oblique, _LIVER))
    assert case[1].CreateClosedSurfaceRepresentation()
    case[1].GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(SceneError, match="scan is made of surfaces"):
        segments.read_layers(case[1], oblique, world.protocol)


def test_a_surface_shown_in_3d_is_made_anew_after_a_change(world, case, oblique):
    segments.set_map(case[1], oblique, world.map(oblique, _LIVER))
    assert case[1].CreateClosedSurfaceRepresentation()
    before = case[1].GetClosedSurfaceInternalRepresentation("SemiSeg_3").GetNumberOfPoints()
    segments.set_map(case[1], oblique, world.map(oblique, _LIVER, (3, np.s_[6:9, 3:9, 4:12])))
    after = case[1].GetClosedSurfaceInternalRepresentation("SemiSeg_3").GetNumberOfPoints()
    assert after > before


def test_no_surface_is_made_for_who_does_not_look_at_one(world, case, oblique):
    segments.set_map(case[1], oblique, world.map(oblique, _LIVER))
    assert not case[1].GetSegmentation().ContainsRepresentation("Closed surface")


def test_segments_that_are_no_structure_are_named_and_keep_their_voxels(world, case, oblique):
    drawn = case[1]
    extra = drawn.GetSegmentation().AddEmptySegment("", "helper", [1, 0, 0])
    assert drawn.GetSegmentation().GetNumberOfLayers() == 1
    world.tag(drawn, extra, 9)
    with_helper = world.protocol.add(Structure(id=9, name="helper", color=(255, 0, 0)))
    segments.set_map(drawn, oblique, world.map(oblique, _LIVER, (9, np.s_[0:2, 0:2, 0:2])))
    drawn.GetSegmentation().GetSegment(extra).RemoveTag("SemiSeg.StructureId")
    layers = segments.read_layers(drawn, oblique, world.protocol)
    assert layers.strangers == ("helper",)
    assert set(np.unique(layers.arrays[0])) == {0, 3}
    segments.set_map(drawn, oblique, world.map(oblique, (7, np.s_[:, :, :])))
    world.tag(drawn, extra, 9)
    found = segments.read_layers(drawn, oblique, with_helper)
    assert found.overlaps == ((7, 9, 8),)


def test_a_take_over_spares_voxels_of_segments_that_are_no_structure(world, case, oblique):
    _volume, drawn, suggestion = case
    world.foreign(drawn, "note", oblique, (4, 5, 3, 4, 2, 2))
    segments.set_map(suggestion, oblique, world.map(oblique, _LIVER))
    taken = segments.take_over(drawn, suggestion, oblique, world.protocol)
    assert taken == 3 * 6 * 8 - 4


def test_a_region_written_beside_a_segment_that_is_no_structure_leaves_it_in_place(
    world, case, oblique
):
    drawn = case[1]
    segments.set_map(drawn, oblique, world.map(oblique, _LIVER, _SPLEEN))
    segmentation = drawn.GetSegmentation()
    segmentation.GetSegment("SemiSeg_7").RemoveTag("SemiSeg.StructureId")
    where = np.zeros((2, 6, 8), bool)
    where[0, 0, 0] = True
    segments.write_region(drawn, oblique, np.zeros((2, 6, 8), np.uint16), (3, 8, 9), where)
    assert segmentation.GetNumberOfLayers() == 1
    where[:] = True
    segments.write_region(drawn, oblique, np.zeros((2, 6, 8), np.uint16), (3, 8, 9), where)
    assert segmentation.GetNumberOfLayers() == 2
    world.tag(drawn, "SemiSeg_7", 7)
    found = world.read(drawn, oblique, world.protocol)
    assert np.array_equal(found == 7, world.map(oblique, _SPLEEN) == 7)


def test_segmentations_follow_the_volume_into_its_transform(world, oblique):
    volume = world.volume(oblique)
    moving = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    moving.SetMatrixTransformToParent(to_vtk(np.diag([1.0, -1.0, -1.0, 1.0])))
    volume.SetAndObserveTransformNodeID(moving.GetID())
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    assert drawn.GetParentTransformNode() is moving
    array = world.map(oblique, _LIVER)
    segments.set_map(drawn, grid_of(volume), array)
    assert np.array_equal(world.read(drawn, oblique, world.protocol), array)


def test_a_drawing_alone_under_a_transform_is_refused_by_name(world, case, oblique):
    volume, drawn, _suggestion = case
    moving = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    drawn.SetAndObserveTransformNodeID(moving.GetID())
    with pytest.raises(SceneError, match="scan is under the transform registration"):
        segments.read_layers(drawn, oblique, world.protocol)
    volume.SetAndObserveTransformNodeID(moving.GetID())
    segments.read_layers(drawn, oblique, world.protocol)


@pytest.mark.parametrize("change", ["centred", "spacing"])
def test_a_drawing_on_a_volume_that_was_moved_is_refused_by_name(world, case, oblique, change):
    volume, drawn, _suggestion = case
    before = volume.GetOrigin()
    if change == "centred":
        world.volumes.CenterVolume(volume)
        assert volume.GetOrigin() != before
    else:
        volume.SetSpacing(1.0, 2.0, 2.5)
    with pytest.raises(SceneError, match="scan, on which scan is drawn, was moved or resampled"):
        segments.read_layers(drawn, oblique, world.protocol)
    volume.SetOrigin(*before)
    volume.SetSpacing(1.0, 2.0, 3.0)
    segments.read_layers(drawn, oblique, world.protocol)


def test_a_drawing_whose_volume_is_gone_can_still_be_read(world, case, oblique):
    segments.set_map(case[1], oblique, world.map(oblique, _LIVER))
    world.scene.RemoveNode(case[0])
    assert np.array_equal(world.read(case[1], oblique, world.protocol), world.map(oblique, _LIVER))
