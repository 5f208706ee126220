"""Segments and the structures of the protocol, kept in step both ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import slicer

from semiseg.study.protocol import Protocol, Structure, common_structure
from SemiSegModuleLib.mrml import segments, structures

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


def test_the_protocols_changes_reach_the_segments_without_touching_voxels(world, case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, world.map(oblique, _LIVER, _SPLEEN))
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
    assert np.array_equal(world.read(drawn, oblique, changed), world.map(oblique, _LIVER, _SPLEEN))
    assert not structures.sync_segments(drawn, changed)
    assert drawn.GetSegmentation().GetNumberOfLayers() == 1


def test_a_structure_that_left_the_protocol_leaves_the_node(world, case, oblique):
    segments.set_map(case[1], oblique, world.map(oblique, _LIVER, _SPLEEN))
    rest = world.protocol.remove(3)
    structures.sync_segments(case[1], rest)
    assert [info.structure_id for info in structures.structures_in(case[1])] == [7]
    assert np.array_equal(world.read(case[1], oblique, rest), world.map(oblique, _SPLEEN))


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
    segments.set_map(drawn, oblique, world.map(oblique, _LIVER))
    other = slicer.vtkSegmentation()
    other.DeepCopy(drawn.GetSegmentation())
    drawn.GetSegmentation().CopySegmentFromSegmentation(other, "SemiSeg_3")
    assert drawn.GetSegmentation().GetNumberOfSegments() == 3
    found = structures.protocol_from(drawn, world.protocol)
    assert found.ids == (3, 7, 8)
    assert found.by_id(8).name == "liver 2"
    layers = segments.read_layers(drawn, oblique, found)
    assert layers.overlaps == ((3, 8, 3 * 6 * 8),)


def test_a_segment_that_comes_with_voxels_is_the_empty_structure_of_its_name(world, case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, world.map(oblique, _SPLEEN))
    world.foreign(drawn, "Liver", oblique, (4, 11, 3, 8, 2, 3))
    found = structures.protocol_from(drawn, world.protocol)
    assert found.ids == (3, 7)
    structures.sync_segments(drawn, found)
    expected = world.map(oblique, _SPLEEN, (3, np.s_[2:4, 3:9, 4:12]))
    assert np.array_equal(world.read(drawn, oblique, found), expected)
    assert drawn.GetSegmentation().GetNumberOfSegments() == 2


def test_a_segment_that_comes_with_voxels_replaces_nothing_that_is_drawn(world, case, oblique):
    drawn = case[1]
    segments.set_map(drawn, oblique, world.map(oblique, _LIVER))
    world.foreign(drawn, "Liver", oblique, (14, 15, 3, 8, 2, 3))
    drawn.GetSegmentation().AddEmptySegment("", "Spleen", [1.0, 0.0, 0.5])
    found = structures.protocol_from(drawn, world.protocol)
    assert [structure.name for structure in found.structures] == [
        "liver",
        "spleen",
        "Liver 2",
        "Spleen 2",
    ]
    expected = world.map(oblique, _LIVER, (8, np.s_[2:4, 3:9, 14:16]))
    assert np.array_equal(world.read(drawn, oblique, found), expected)


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


def test_a_code_that_is_gone_from_the_protocol_goes_from_the_segment(world, case):
    plain = Protocol(tuple(replace(s, code=None) for s in world.protocol.structures))
    assert structures.sync_segments(case[1], plain)
    assert {info.terminology for info in structures.structures_in(case[1])} == {""}
    assert structures.protocol_from(case[1], plain) == plain


def test_after_the_last_id_the_first_free_one_is_given(world, case):
    last = world.protocol.add(Structure(id=65535, name="last", color=(1, 2, 3)))
    structures.sync_segments(case[1], last)
    case[1].GetSegmentation().AddEmptySegment("", "tumour", [1.0, 0.0, 0.5])
    found = structures.protocol_from(case[1], last, retired=(1, 2))
    assert found.by_name("tumour").id == 4


def test_names_of_any_script_survive(world, oblique):
    names = ("Leber, rechts - Ä", "肝臓", "الكبد")
    protocol = Protocol(
        tuple(Structure(id=i, name=name, color=(i, 0, 9)) for i, name in enumerate(names, 1))
    )
    node = segments.create_drawn(world.scene, world.volume(oblique), protocol, "Größe - 患者")
    assert structures.protocol_from(node, protocol) == protocol
    assert not structures.sync_segments(node, protocol)
    assert node.GetName() == "Größe - 患者"


def test_the_editors_first_segment_in_a_study_without_structures_can_be_painted(
    world, oblique, editor_of
):
    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, Protocol(), "scan")
    segment_id = drawn.GetSegmentation().AddEmptySegment("", "  \t", [1.0, 0.0, 0.5])
    editor_of(volume, drawn).paint(segment_id, (3, 6, 3, 6, 2, 4))
    protocol = structures.protocol_from(drawn, Protocol())
    assert protocol.by_id(1).name == segment_id
    found = world.read(drawn, oblique, protocol)
    assert np.array_equal(found, world.map(oblique, (1, np.s_[2:5, 3:7, 3:7])))
    segments.set_map(drawn, oblique, world.map(oblique, (1, np.s_[1:9, 3:7, 3:7])))
    assert (world.read(drawn, oblique, protocol)[1:9, 3:7, 3:7] == 1).all()
