"""Segmentations as label maps: exact both ways, and only what differs is written."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
import vtk.util.numpy_support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semiseg.images.grid import PLANES, Grid, canonical, plane_axis
from semiseg.study.protocol import Protocol, common_structure
from SemiSegModuleLib.mrml import segments
from SemiSegModuleLib.mrml.geometry import SceneError

_LAW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
_SMALL = Grid(
    size_xyz=(5, 4, 3), spacing_mm_xyz=(1.0, 2.0, 3.0), direction=(-1, 0, 0, 0, 0, 1, 0, 1, 0)
)
_MAPS = hnp.arrays(np.uint16, _SMALL.shape_zyx, elements=st.sampled_from([0, 0, 3, 7]))


_LIVER = (3, np.s_[2:5, 3:9, 4:12])
_SPLEEN = (7, np.s_[4:8, 9:14, 10:19])


def test_drawn_and_suggestion_have_the_geometry_of_the_volume(case):
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    for node in case[1:]:
        assert node.GetNodeReference(role) is case[0]


def test_a_suggestion_is_lighter_named_so_and_in_no_chooser(world, case):
    _volume, drawn, suggestion = case
    assert suggestion.GetName() == "scan (suggested)"
    assert suggestion.GetHideFromEditors()
    tree = world.scene.GetSubjectHierarchyNode()
    assert tree.GetItemByDataNode(suggestion) == 0
    assert not drawn.GetHideFromEditors()
    assert suggestion.GetSegmentation().GetNthSegment(0).GetName() == "liver (suggested)"
    assert (
        suggestion.GetDisplayNode().GetOpacity2DFill() < drawn.GetDisplayNode().GetOpacity2DFill()
    )


def test_an_empty_drawing_reads_as_nothing(world, case, oblique):
    layers = segments.read_layers(case[1], oblique, world.protocol)
    assert layers.arrays[0].size == 0
    assert not layers.flat(oblique).any()


@given(array=_MAPS, before=_MAPS)
@_LAW
def test_a_map_that_is_set_is_read_back(world, array, before):
    volume = world.volume(_SMALL)
    node = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    segments.set_map(node, _SMALL, before)
    changed = segments.set_map(node, _SMALL, array)
    assert np.array_equal(world.read(node, _SMALL, world.protocol), array)
    assert changed == np.count_nonzero(array != before)


@given(array=_MAPS)
@_LAW
def test_a_map_on_the_same_voxels_in_another_order_is_read_back(world, array):
    turned = canonical(_SMALL)
    node = segments.create_drawn(world.scene, world.volume(turned.grid), world.protocol, "scan")
    segments.set_map(node, turned.grid, turned.apply(array))
    assert np.array_equal(world.read(node, _SMALL, world.protocol), array)
    half = array.copy()
    half[:, :2] = 7
    segments.set_map(node, _SMALL, half)
    assert np.array_equal(world.read(node, turned.grid, world.protocol), turned.apply(half))


@given(
    array=_MAPS,
    region=hnp.arrays(np.uint16, (2, 2, 3), elements=st.sampled_from([0, 3, 7])),
    where=hnp.arrays(np.bool_, (2, 2, 3)),
    offset=st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 1)),
)
@_LAW
def test_a_written_region_changes_nothing_else(world, array, region, where, offset):
    grid = Grid(size_xyz=(4, 5, 3), spacing_mm_xyz=(1.0, 2.0, 3.0))
    array = np.ascontiguousarray(np.resize(array, grid.shape_zyx))
    node = segments.create_drawn(world.scene, world.volume(grid), world.protocol, "scan")
    segments.set_map(node, grid, array)
    segments.write_region(node, grid, region, offset, where)
    z, y, x = offset
    array[z : z + 2, y : y + 2, x : x + 3][where] = region[where]
    assert np.array_equal(world.read(node, grid, world.protocol), array)


def test_slicer_shows_the_voxels_where_the_map_has_them(world, case, oblique):
    volume, drawn, _suggestion = case
    array = world.map(oblique, _LIVER, _SPLEEN)
    segments.set_map(drawn, oblique, array)
    for number in (3, 7):
        image = slicer.vtkOrientedImageData()
        drawn.GetBinaryLabelmapRepresentation(f"SemiSeg_{number}", image)
        reference = slicer.vtkSlicerSegmentationsModuleLogic
        frame = reference.CreateOrientedImageDataFromVolumeNode(volume)
        frame.UnRegister(None)
        onto = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            image, frame, onto
        )
        flat = vtk.util.numpy_support.vtk_to_numpy(onto.GetPointData().GetScalars())
        assert np.array_equal(flat.reshape(oblique.shape_zyx) != 0, array == number)


def test_the_labelmap_covers_little_more_than_what_is_drawn(case, oblique):
    drawn = case[1]
    segments.write_region(drawn, oblique, np.full((1, 2, 2), 3, np.uint16), (4, 5, 6))
    image = drawn.GetBinaryLabelmapInternalRepresentation("SemiSeg_3")
    assert image.GetExtent() == (6, 7, 5, 6, 4, 4)


def test_writing_within_the_labelmap_moves_no_memory(world, case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, world.map(oblique, _LIVER, _SPLEEN))
    image = drawn.GetBinaryLabelmapInternalRepresentation("SemiSeg_3")
    before = image.GetPointData().GetScalars()
    segments.write_region(drawn, oblique, np.full((1, 2, 2), 3, np.uint16), (4, 5, 6))
    assert image.GetPointData().GetScalars() is before
    assert drawn.GetBinaryLabelmapInternalRepresentation("SemiSeg_7") is image


def test_growing_step_by_step_does_not_copy_at_every_step(world):
    grid = Grid(size_xyz=(4, 4, 64), spacing_mm_xyz=(1.0, 1.0, 1.0))
    node = segments.create_drawn(world.scene, world.volume(grid), world.protocol, "scan")
    copies, before = 0, None
    for index in range(64):
        segments.write_region(node, grid, np.full((1, 4, 4), 3, np.uint16), (index, 0, 0))
        now = node.GetBinaryLabelmapInternalRepresentation("SemiSeg_3").GetPointData().GetScalars()
        copies += now is not before
        before = now
    assert copies <= 10
    assert (world.read(node, grid, world.protocol) == 3).all()


def test_setting_the_same_map_again_tells_nobody(world, case, oblique):
    drawn = case[1]
    array = world.map(oblique, _LIVER, _SPLEEN)
    segments.set_map(drawn, oblique, array)
    heard = []
    for event in ("SourceRepresentationModified", "SegmentModified"):
        drawn.AddObserver(getattr(slicer.vtkSegmentation, event), lambda *_: heard.append(1))
    assert segments.set_map(drawn, oblique, array) == 0
    assert heard == []
    array[0, 0, 0] = 3
    assert segments.set_map(drawn, oblique, array) == 1
    assert 1 <= len(heard) <= 6


def test_many_structures_get_values_beyond_a_byte(world, oblique):
    protocol = Protocol(tuple(common_structure(f"s{i}", i * 3) for i in range(1, 300)))
    node = segments.create_drawn(world.scene, world.volume(oblique), protocol, "scan")
    array = np.resize(np.arange(0, 900, 3, dtype=np.uint16), oblique.shape_zyx)
    segments.set_map(node, oblique, array)
    assert np.array_equal(world.read(node, oblique, protocol), array)


def test_an_id_without_segment_is_refused_and_nothing_is_written(world, case, oblique):
    array = world.map(oblique, _LIVER, (9, np.s_[0, 0, 0]))
    with pytest.raises(SceneError, match="scan has no segment for structure 9"):
        segments.set_map(case[1], oblique, array)
    assert not world.read(case[1], oblique, world.protocol).any()


def test_a_region_beyond_the_volume_is_refused(case, oblique):
    with pytest.raises(SceneError, match="beyond the volume"):
        segments.write_region(case[1], oblique, np.ones((2, 2, 2), np.uint16) * 3, (9, 0, 0))


def test_a_suggestion_is_taken_over_only_where_nothing_is_drawn(world, case, oblique):
    _volume, drawn, suggestion = case
    mine, said = world.map(oblique, _LIVER), world.map(oblique, (7, np.s_[0:6, 2:10, 2:10]))
    segments.set_map(drawn, oblique, mine)
    segments.set_map(suggestion, oblique, said)
    count = segments.take_over(drawn, suggestion, oblique, world.protocol)
    expected = np.where(mine != 0, mine, said)
    assert count == np.count_nonzero(expected != mine)
    assert np.array_equal(world.read(drawn, oblique, world.protocol), expected)
    assert np.array_equal(world.read(suggestion, oblique, world.protocol), said)


@pytest.mark.parametrize("plane", PLANES)
def test_one_slice_of_one_structure_is_taken_over(world, case, oblique, plane):
    _volume, drawn, suggestion = case
    said = world.map(oblique, (3, np.s_[0:8, 2:10, 2:10]), (7, np.s_[0:8, 10:12, 2:10]))
    segments.set_map(suggestion, oblique, said)
    segments.take_over(drawn, suggestion, oblique, world.protocol, ids=[3], plane=plane, index=5)
    where = [slice(None)] * 3
    where[plane_axis(oblique, plane)] = 5
    expected = np.zeros_like(said)
    expected[tuple(where)] = np.where(said == 3, 3, 0)[tuple(where)]
    assert expected.any()
    assert np.array_equal(world.read(drawn, oblique, world.protocol), expected)


def test_taking_over_an_empty_slice_changes_nothing(world, case, oblique):
    _volume, drawn, suggestion = case
    segments.set_map(suggestion, oblique, world.map(oblique, _LIVER))
    taken = segments.take_over(drawn, suggestion, oblique, world.protocol, plane="axial", index=9)
    assert taken == 0
