"""Segmentations as label maps: exact both ways, nothing flattened, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import vtk
import vtk.util.numpy_support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import slicer
from semiseg.images.grid import PLANES, Grid, canonical, plane_axis
from semiseg.study.protocol import Protocol, Structure, common_structure
from SemiSegModuleLib.mrml import segments, structures
from SemiSegModuleLib.mrml.geometry import SceneError, affine_ras, to_vtk
from SemiSegModuleLib.mrml.volumes import grid_of

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


@pytest.fixture
def case(world, oblique):
    """A volume with an empty drawing and an empty suggestion."""
    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    suggestion = segments.create_suggestion(world.scene, volume, world.protocol, "scan")
    return volume, drawn, suggestion


def _read(node, grid, protocol) -> np.ndarray:
    layers = segments.read_layers(node, grid, protocol)
    assert layers.overlaps == ()
    return layers.flat(grid)


def _map(grid: Grid, *boxes) -> np.ndarray:
    array = np.zeros(grid.shape_zyx, np.uint16)
    for value, where in boxes:
        array[where] = value
    return array


_LIVER = (3, np.s_[2:5, 3:9, 4:12])
_SPLEEN = (7, np.s_[4:8, 9:14, 10:19])


def test_new_segments_say_what_the_protocol_says(world, case):
    for node in case[1:]:
        found = [info.structure(info.structure_id) for info in structures.structures_in(node)]
        assert found == list(world.protocol.structures)
        assert node.GetSegmentation().GetNumberOfLayers() == 1
    ids = [info.segment_id for info in structures.structures_in(case[1])]
    assert ids == ["SemiSeg_3", "SemiSeg_7"]


def test_label_values_are_the_ids_of_the_structures_as_far_as_a_byte_holds_them(world, case):
    more = world.protocol.add(common_structure("pancreas", 400))
    structures.sync_segments(case[1], more)
    segmentation = case[1].GetSegmentation()
    values = [segmentation.GetNthSegment(number).GetLabelValue() for number in range(3)]
    assert values == [3, 7, 1]  # Slicer's brush cannot be trusted with values over 255
    assert segmentation.GetNumberOfLayers() == 1


def test_slicer_understands_the_terminology_of_a_segment(world, case):
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    entry = slicer.vtkSlicerTerminologyEntry()
    for info in structures.structures_in(case[1]):
        assert logic.DeserializeTerminologyEntry(info.terminology, entry)
        code = world.protocol.by_id(info.structure_id).code
        assert entry.GetTypeObject().GetCodeValue() == code.value
        assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
        assert logic.SerializeTerminologyEntry(entry) == info.terminology


def test_drawn_and_suggestion_have_the_geometry_of_the_volume(case):
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    for node in case[1:]:
        assert node.GetNodeReference(role) is case[0]


def test_a_suggestion_is_lighter_named_so_and_in_no_chooser(case):
    _volume, drawn, suggestion = case
    assert suggestion.GetName() == "scan (suggested)"
    assert suggestion.GetHideFromEditors()
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
    assert np.array_equal(_read(node, _SMALL, world.protocol), array)
    assert changed == np.count_nonzero(array != before)


@given(array=_MAPS)
@_LAW
def test_a_map_on_the_same_voxels_in_another_order_is_read_back(world, array):
    turned = canonical(_SMALL)
    node = segments.create_drawn(world.scene, world.volume(turned.grid), world.protocol, "scan")
    segments.set_map(node, turned.grid, turned.apply(array))
    assert np.array_equal(_read(node, _SMALL, world.protocol), array)
    half = array.copy()
    half[:, :2] = 7
    segments.set_map(node, _SMALL, half)
    assert np.array_equal(_read(node, turned.grid, world.protocol), turned.apply(half))


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
    assert np.array_equal(_read(node, grid, world.protocol), array)


def test_slicer_shows_the_voxels_where_the_map_has_them(world, case, oblique):
    volume, drawn, _suggestion = case
    array = _map(oblique, _LIVER, _SPLEEN)
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


def test_writing_within_the_labelmap_moves_no_memory(case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, _map(oblique, _LIVER, _SPLEEN))
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
    assert (_read(node, grid, world.protocol) == 3).all()


def test_setting_the_same_map_again_tells_nobody(case, oblique):
    drawn = case[1]
    array = _map(oblique, _LIVER, _SPLEEN)
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
    assert np.array_equal(_read(node, oblique, protocol), array)


def test_an_id_without_segment_is_refused_and_nothing_is_written(world, case, oblique):
    array = _map(oblique, _LIVER, (9, np.s_[0, 0, 0]))
    with pytest.raises(SceneError, match="scan has no segment for structure 9"):
        segments.set_map(case[1], oblique, array)
    assert not _read(case[1], oblique, world.protocol).any()


def test_a_region_beyond_the_volume_is_refused(case, oblique):
    with pytest.raises(SceneError, match="beyond the volume"):
        segments.write_region(case[1], oblique, np.ones((2, 2, 2), np.uint16) * 3, (9, 0, 0))


def _foreign(node, name: str, grid: Grid, box, affine=None, value: int = 1) -> str:
    """A segment with a labelmap of its own, as an import makes one."""
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetLabelValue(value)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*box)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(value)
    image.SetImageToWorldMatrix(to_vtk(affine_ras(grid) if affine is None else affine))
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment, name)
    return name


def _tag(node, segment_id: str, structure_id: int) -> None:
    node.GetSegmentation().GetSegment(segment_id).SetTag("SemiSeg.StructureId", str(structure_id))


def test_overlapping_segments_stay_apart_and_are_counted(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    _tag(node, _foreign(node, "a", oblique, (0, 3, 0, 3, 0, 3)), 3)
    _tag(node, _foreign(node, "b", oblique, (2, 5, 2, 5, 3, 4)), 7)
    layers = segments.read_layers(node, oblique, world.protocol)
    assert layers.overlaps == ((3, 7, 4),)
    assert len(layers.arrays) == 2
    assert layers.offset_zyx == (0, 0, 0)
    counts = sorted(np.count_nonzero(array) for array in layers.arrays)
    assert counts == [32, 64]


def test_overlapping_layers_come_back_as_they_were(world, case, oblique):
    one, two = _map(oblique, _LIVER), _map(oblique, (7, np.s_[4:6, 5:9, 4:8]))
    segments.set_layers(case[1], oblique, (one, two), (0, 0, 0))
    layers = segments.read_layers(case[1], oblique, world.protocol)
    assert layers.overlaps == ((3, 7, 4 * 4),)
    again = segments.create_drawn(world.scene, case[0], world.protocol, "again")
    segments.set_layers(again, oblique, layers.arrays, layers.offset_zyx)
    found = segments.read_layers(again, oblique, world.protocol)
    for number in (3, 7):
        expected = {3: one, 7: two}[number] == number
        for read in (layers, found):
            full = [_place(array, read.offset_zyx, oblique) == number for array in read.arrays]
            assert np.array_equal(np.logical_or.reduce(full), expected)


def _place(array, offset, grid) -> np.ndarray:
    full = np.zeros(grid.shape_zyx, np.uint16)
    z, y, x = offset
    full[z : z + array.shape[0], y : y + array.shape[1], x : x + array.shape[2]] = array
    return full


def test_a_region_written_over_an_overlap_leaves_the_rest_of_it(world, case, oblique):
    one, two = _map(oblique, _LIVER), _map(oblique, (7, np.s_[4:6, 5:9, 4:8]))
    segments.set_layers(case[1], oblique, (one, two), (0, 0, 0))
    segments.write_region(case[1], oblique, np.zeros((1, 1, 1), np.uint16), (4, 5, 4))
    assert segments.read_layers(case[1], oblique, world.protocol).overlaps == ((3, 7, 15),)


def test_a_segment_outside_the_volume_is_refused_not_lost(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    _tag(node, _foreign(node, "a", oblique, (-1, 0, 0, 3, 0, 3)), 3)
    with pytest.raises(SceneError, match="16 voxels of scan lie outside the volume"):
        segments.read_layers(node, oblique, world.protocol)


def test_an_empty_rim_outside_the_volume_does_no_harm(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    _tag(node, _foreign(node, "a", oblique, (-2, 3, -1, 3, 0, 12), value=1), 3)
    image = node.GetBinaryLabelmapInternalRepresentation("a")
    flat = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    voxels = flat.reshape(image.GetDimensions()[::-1])
    voxels[...] = 0
    voxels[5, 2, 3] = 1
    assert list(zip(*np.nonzero(_read(node, oblique, world.protocol)), strict=True)) == [(5, 1, 1)]


def test_a_segment_between_the_voxels_is_refused_by_name(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    moved = affine_ras(oblique)
    moved[:3, 3] += 0.4 * moved[:3, 0]
    _tag(node, _foreign(node, "a", oblique, (0, 3, 0, 3, 0, 3), affine=moved), 3)
    with pytest.raises(SceneError, match="voxels of a in scan do not coincide"):
        segments.read_layers(node, oblique, world.protocol)


def test_a_segment_shifted_by_whole_voxels_is_read_exactly(world, oblique):
    node = segments.create_drawn(world.scene, world.volume(oblique), Protocol(), "scan")
    moved = affine_ras(oblique)
    moved[:3, 3] += moved[:3, :3] @ (4, 3, 2)
    _tag(node, _foreign(node, "a", oblique, (0, 1, 0, 2, 0, 3), affine=moved), 3)
    expected = _map(oblique, (3, np.s_[2:6, 3:6, 4:6]))
    assert np.array_equal(_read(node, oblique, world.protocol), expected)


def test_surfaces_are_refused_with_the_way_out(world, case, oblique):
    segments.set_map(case[1], oblique, _map(oblique, _LIVER))
    assert case[1].CreateClosedSurfaceRepresentation()
    case[1].GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(SceneError, match="scan is made of surfaces"):
        segments.read_layers(case[1], oblique, world.protocol)


def test_a_surface_shown_in_3d_is_made_anew_after_a_change(world, case, oblique):
    segments.set_map(case[1], oblique, _map(oblique, _LIVER))
    assert case[1].CreateClosedSurfaceRepresentation()
    before = case[1].GetClosedSurfaceInternalRepresentation("SemiSeg_3").GetNumberOfPoints()
    segments.set_map(case[1], oblique, _map(oblique, _LIVER, (3, np.s_[6:9, 3:9, 4:12])))
    after = case[1].GetClosedSurfaceInternalRepresentation("SemiSeg_3").GetNumberOfPoints()
    assert after > before


def test_no_surface_is_made_for_who_does_not_look_at_one(case, oblique):
    segments.set_map(case[1], oblique, _map(oblique, _LIVER))
    assert not case[1].GetSegmentation().ContainsRepresentation("Closed surface")


def test_segments_that_are_no_structure_are_named_and_keep_their_voxels(world, case, oblique):
    drawn = case[1]
    extra = drawn.GetSegmentation().AddEmptySegment("", "helper", [1, 0, 0])
    assert drawn.GetSegmentation().GetNumberOfLayers() == 1
    _tag(drawn, extra, 9)
    with_helper = world.protocol.add(Structure(id=9, name="helper", color=(255, 0, 0)))
    segments.set_map(drawn, oblique, _map(oblique, _LIVER, (9, np.s_[0:2, 0:2, 0:2])))
    drawn.GetSegmentation().GetSegment(extra).RemoveTag("SemiSeg.StructureId")
    layers = segments.read_layers(drawn, oblique, world.protocol)
    assert layers.strangers == ("helper",)
    assert set(np.unique(layers.arrays[0])) == {0, 3}
    segments.set_map(drawn, oblique, _map(oblique, (7, np.s_[:, :, :])))
    _tag(drawn, extra, 9)
    found = segments.read_layers(drawn, oblique, with_helper)
    assert found.overlaps == ((7, 9, 8),)


def test_a_suggestion_is_taken_over_only_where_nothing_is_drawn(world, case, oblique):
    _volume, drawn, suggestion = case
    mine, said = _map(oblique, _LIVER), _map(oblique, (7, np.s_[0:6, 2:10, 2:10]))
    segments.set_map(drawn, oblique, mine)
    segments.set_map(suggestion, oblique, said)
    count = segments.take_over(drawn, suggestion, oblique, world.protocol)
    expected = np.where(mine != 0, mine, said)
    assert count == np.count_nonzero(expected != mine)
    assert np.array_equal(_read(drawn, oblique, world.protocol), expected)
    assert np.array_equal(_read(suggestion, oblique, world.protocol), said)


@pytest.mark.parametrize("plane", PLANES)
def test_one_slice_of_one_structure_is_taken_over(world, case, oblique, plane):
    _volume, drawn, suggestion = case
    said = _map(oblique, (3, np.s_[0:8, 2:10, 2:10]), (7, np.s_[0:8, 10:12, 2:10]))
    segments.set_map(suggestion, oblique, said)
    segments.take_over(drawn, suggestion, oblique, world.protocol, ids=[3], plane=plane, index=5)
    where = [slice(None)] * 3
    where[plane_axis(oblique, plane)] = 5
    expected = np.zeros_like(said)
    expected[tuple(where)] = np.where(said == 3, 3, 0)[tuple(where)]
    assert expected.any()
    assert np.array_equal(_read(drawn, oblique, world.protocol), expected)


def test_taking_over_an_empty_slice_changes_nothing(world, case, oblique):
    _volume, drawn, suggestion = case
    segments.set_map(suggestion, oblique, _map(oblique, _LIVER))
    taken = segments.take_over(drawn, suggestion, oblique, world.protocol, plane="axial", index=9)
    assert taken == 0


def test_a_take_over_spares_voxels_of_segments_that_are_no_structure(world, case, oblique):
    _volume, drawn, suggestion = case
    _foreign(drawn, "note", oblique, (4, 5, 3, 4, 2, 2))
    segments.set_map(suggestion, oblique, _map(oblique, _LIVER))
    taken = segments.take_over(drawn, suggestion, oblique, world.protocol)
    assert taken == 3 * 6 * 8 - 4


def test_the_protocols_changes_reach_the_segments_without_touching_voxels(world, case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, _map(oblique, _LIVER, _SPLEEN))
    changed = Protocol(
        (
            common_structure("pancreas", 12),
            Structure(id=7, name="Milz", color=(1, 2, 3)),
            common_structure("liver", 3),
        )
    )
    assert structures.sync_segments(drawn, changed)
    found = [info.structure(info.structure_id) for info in structures.structures_in(drawn)]
    assert found == list(changed.structures)
    assert np.array_equal(_read(drawn, oblique, changed), _map(oblique, _LIVER, _SPLEEN))
    assert not structures.sync_segments(drawn, changed)
    assert drawn.GetSegmentation().GetNumberOfLayers() == 1


def test_a_structure_that_left_the_protocol_leaves_the_node(world, case, oblique):
    segments.set_map(case[1], oblique, _map(oblique, _LIVER, _SPLEEN))
    rest = world.protocol.remove(3)
    structures.sync_segments(case[1], rest)
    assert [info.structure_id for info in structures.structures_in(case[1])] == [7]
    assert np.array_equal(_read(case[1], oblique, rest), _map(oblique, _SPLEEN))


def test_a_segment_of_the_user_becomes_the_next_structure(world, case):
    segmentation = case[1].GetSegmentation()
    segment_id = segmentation.AddEmptySegment("", "tumour", [1.0, 0.0, 0.5])
    found = structures.protocol_from(case[1], world.protocol)
    assert found.by_id(8).name == "tumour"
    assert found.by_id(8).color == (255, 0, 128)
    assert structures.structure_id_of(segmentation.GetSegment(segment_id)) == 8
    assert structures.protocol_from(case[1], found) == found
    assert not structures.sync_segments(case[1], found)


def test_a_segment_of_the_user_never_gets_the_id_of_a_removed_structure(world, case):
    case[1].GetSegmentation().AddEmptySegment("", "tumour", [1.0, 0.0, 0.5])
    found = structures.protocol_from(case[1], world.protocol, {8: "cyst", 11: "vein"})
    assert found.ids == (3, 7, 12)


def test_a_renamed_segment_renames_its_structure_and_a_taken_name_gets_a_number(world, case):
    segmentation = case[1].GetSegmentation()
    segmentation.GetSegment("SemiSeg_3").SetName("Leber")
    segmentation.AddEmptySegment("", "SPLEEN", [1.0, 0.0, 0.5])
    found = structures.protocol_from(case[1], world.protocol)
    assert [structure.name for structure in found.structures] == ["Leber", "spleen", "SPLEEN 2"]
    assert not structures.sync_segments(case[1], found)


def test_a_copied_segment_becomes_a_structure_of_its_own(world, case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, _map(oblique, _LIVER))
    other = slicer.vtkSegmentation()
    other.DeepCopy(drawn.GetSegmentation())
    drawn.GetSegmentation().CopySegmentFromSegmentation(other, "SemiSeg_3")
    assert drawn.GetSegmentation().GetNumberOfSegments() == 3
    found = structures.protocol_from(drawn, world.protocol)
    assert found.ids == (3, 7, 8)
    assert found.by_id(8).name == "liver 2"
    layers = segments.read_layers(drawn, oblique, found)
    assert layers.overlaps == ((3, 8, 3 * 6 * 8),)


def test_a_removed_segment_leaves_the_protocol_as_it_is(world, case):
    case[1].GetSegmentation().RemoveSegment("SemiSeg_3")
    assert structures.protocol_from(case[1], world.protocol) == world.protocol
    assert structures.sync_segments(case[1], world.protocol)
    assert [info.structure_id for info in structures.structures_in(case[1])] == [3, 7]


def test_the_code_that_a_user_chooses_reaches_the_protocol(world, case):
    entry = (
        "Segmentation category and type - DICOM master list~SCT^49755003^Morphologically "
        "Altered Structure~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
    )
    segment = case[1].GetSegmentation().GetSegment("SemiSeg_3")
    segment.SetTag(segment.GetTerminologyEntryTagName(), entry)
    found = structures.protocol_from(case[1], world.protocol)
    assert found.by_id(3).code.value == "4147007"
    assert found.by_id(3).category.value == "49755003"
    assert found.by_id(3).terminology == entry


def test_segmentations_follow_the_volume_into_its_transform(world, oblique):
    volume = world.volume(oblique)
    moving = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    moving.SetMatrixTransformToParent(to_vtk(np.diag([1.0, -1.0, -1.0, 1.0])))
    volume.SetAndObserveTransformNodeID(moving.GetID())
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    assert drawn.GetParentTransformNode() is moving
    array = _map(oblique, _LIVER)
    segments.set_map(drawn, grid_of(volume), array)
    assert np.array_equal(_read(drawn, oblique, world.protocol), array)


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
    segments.set_map(case[1], oblique, _map(oblique, _LIVER))
    world.scene.RemoveNode(case[0])
    assert np.array_equal(_read(case[1], oblique, world.protocol), _map(oblique, _LIVER))


def test_the_editors_first_segment_in_a_study_without_structures_can_be_painted(
    world, oblique, editor_of
):
    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, Protocol(), "scan")
    segment_id = drawn.GetSegmentation().AddEmptySegment("", "  \t", [1.0, 0.0, 0.5])
    editor_of(volume, drawn).paint(segment_id, (3, 6, 3, 6, 2, 4))
    protocol = structures.protocol_from(drawn, Protocol())
    assert protocol.by_id(1).name == segment_id
    found = _read(drawn, oblique, protocol)
    assert np.array_equal(found, _map(oblique, (1, np.s_[2:5, 3:7, 3:7])))
    segments.set_map(drawn, oblique, _map(oblique, (1, np.s_[1:9, 3:7, 3:7])))
    assert (_read(drawn, oblique, protocol)[1:9, 3:7, 3:7] == 1).all()
