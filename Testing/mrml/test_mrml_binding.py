"""Which node is whose: bound, copied, removed, closed; and nothing is kept alive."""

from __future__ import annotations

import gc
import weakref

import pytest
import slicer

from SemiSegModuleLib.mrml import segments
from SemiSegModuleLib.mrml.binding import CaseNodes, SceneBinding, bound_to, studies_in
from SemiSegModuleLib.mrml.geometry import SceneError


class Told:
    """Writes down every callback."""

    def __init__(self, binding: SceneBinding) -> None:
        self.log: list[tuple] = []
        for name in vars(binding.callbacks):
            setattr(binding.callbacks, name, self._listener(name))

    def _listener(self, name: str):
        return lambda *arguments: self.log.append((name, *arguments))


@pytest.fixture
def binding(world):
    """A binding of the study "study"."""
    made = SceneBinding(world.scene, "study")
    yield made
    made.close()


@pytest.fixture
def nodes(world, oblique, binding):
    """Volume, drawing and suggestion of case c1, bound."""
    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    suggestion = segments.create_suggestion(world.scene, volume, world.protocol, "scan")
    made = CaseNodes(volume=volume, drawn=drawn, suggestion=suggestion)
    for role in ("volume", "drawn", "suggestion"):
        binding.bind("c1", role, getattr(made, role))
    return made


def test_bound_nodes_are_found_by_case_and_role(binding, nodes):
    assert binding.nodes_of("c1") == nodes
    assert binding.nodes_of("c2") == CaseNodes()
    assert binding.case_ids() == ("c1",)
    assert binding.case_of(nodes.drawn) == ("c1", "drawn")
    assert bound_to(nodes.drawn) == ("study", "c1", "drawn")
    assert nodes.all() == (nodes.volume, nodes.drawn, nodes.suggestion)


def test_a_new_binding_finds_what_an_old_one_bound(world, binding, nodes):
    binding.close()
    again = SceneBinding(world.scene, "study")
    assert again.nodes_of("c1") == nodes
    again.close()


def test_nodes_of_another_study_are_left_alone(world, binding, nodes):
    other = SceneBinding(world.scene, "other")
    assert other.nodes_of("c1") == CaseNodes()
    assert studies_in(world.scene) == ("study",)
    assert bound_to(nodes.drawn) == ("study", "c1", "drawn")
    other.close()


def test_a_copy_of_a_node_is_no_node_of_the_case(world, binding, nodes):
    copy = world.scene.CopyNode(nodes.drawn)
    assert bound_to(copy) is None
    assert binding.nodes_of("c1") == nodes


def test_a_copy_that_got_its_attributes_late_is_found_out_before_saving(world, binding, nodes):
    late = world.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "late")
    late.Copy(nodes.drawn)
    assert bound_to(late) is not None
    world.scene.InvokeEvent(slicer.vtkMRMLScene.StartSaveEvent)
    assert bound_to(late) is None
    assert binding.nodes_of("c1") == nodes


def test_binding_another_node_frees_the_first(world, binding, nodes):
    other = world.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    binding.bind("c1", "drawn", other)
    assert binding.nodes_of("c1").drawn is other
    assert bound_to(nodes.drawn) is None


def test_a_freed_node_is_no_longer_watched(binding, nodes):
    told = Told(binding)
    binding.unbind(nodes.drawn)
    nodes.drawn.GetSegmentation().GetSegment("SemiSeg_3").SetName("x")
    assert told.log == []
    assert binding.nodes_of("c1").drawn is None


def test_binding_twice_does_not_tell_twice(binding, nodes):
    binding.bind("c1", "drawn", nodes.drawn)
    binding.find()
    told = Told(binding)
    nodes.drawn.GetSegmentation().GetSegment("SemiSeg_3").SetName("x")
    assert told.log.count(("on_segments_changed", "c1")) == 1


def test_a_volume_that_takes_anothers_place_is_the_one_drawn_on(world, binding, nodes, oblique):
    world.volumes.CenterVolume(nodes.volume)
    with pytest.raises(SceneError, match="was moved"):
        segments.read_layers(nodes.drawn, oblique, world.protocol)
    told = Told(binding)
    binding.bind("c1", "volume", world.volume(oblique, name="loaded again"))
    assert bound_to(nodes.volume) is None
    segments.read_layers(nodes.drawn, oblique, world.protocol)
    assert told.log == []


def test_a_removed_node_is_told_while_its_voxels_are_still_there(world, binding, nodes):
    counted = []
    binding.callbacks.on_node_removed = lambda case_id, role: counted.append(
        (case_id, role, binding.nodes_of(case_id).drawn.GetSegmentation().GetNumberOfSegments())
    )
    world.scene.RemoveNode(nodes.drawn)
    assert counted == [("c1", "drawn", 2)]
    assert binding.nodes_of("c1").drawn is None


def test_other_nodes_that_go_are_not_told(world, binding, nodes):
    told = Told(binding)
    world.scene.RemoveNode(world.scene.AddNewNodeByClass("vtkMRMLModelNode"))
    assert told.log == []


def test_a_closing_scene_is_told_before_and_after(world, binding, nodes):
    told = Told(binding)
    seen = []
    binding.callbacks.on_scene_closing = lambda: seen.append(binding.nodes_of("c1") == nodes)
    world.scene.Clear(0)
    assert seen == [True]
    assert told.log == [("on_scene_closed",)]
    assert binding.nodes_of("c1") == CaseNodes()
    assert binding.case_ids() == ()


def test_a_scene_can_be_filled_again_after_it_was_closed(world, binding, nodes, oblique):
    world.scene.Clear(0)
    volume = world.volume(oblique)
    binding.bind("c1", "volume", volume)
    assert binding.nodes_of("c1").volume is volume


def test_being_quiet_is_per_case_and_can_be_nested(world, binding, nodes, oblique):
    other = segments.create_drawn(world.scene, nodes.volume, world.protocol, "two")
    binding.bind("c2", "drawn", other)
    told = Told(binding)
    with binding.quiet("c1"):
        with binding.quiet("c1"):
            pass
        nodes.drawn.GetSegmentation().GetSegment("SemiSeg_3").SetName("x")
        other.GetSegmentation().GetSegment("SemiSeg_3").SetName("y")
    assert {entry[1] for entry in told.log} == {"c2"}


def test_an_error_ends_the_quiet(binding, nodes):
    told = Told(binding)
    with pytest.raises(ValueError, match="oh"), binding.quiet("c1"):
        raise ValueError("oh")
    nodes.drawn.GetSegmentation().GetSegment("SemiSeg_3").SetName("x")
    assert told.log


def test_a_closed_binding_keeps_neither_itself_nor_nodes_alive(world, nodes, binding):
    def drop() -> tuple:
        made = SceneBinding(world.scene, "study")
        made.callbacks.on_scene_closed = lambda: made
        made.close()
        return (weakref.ref(made),)

    (gone,) = drop()
    gc.collect()
    assert gone() is None


def test_a_binding_that_is_forgotten_without_closing_does_no_harm(world, nodes):
    made = SceneBinding(world.scene, "study")
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
    nodes.drawn.GetSegmentation().GetSegment("SemiSeg_3").SetName("x")
    world.scene.Clear(0)


def test_removed_nodes_are_given_free(world, binding, oblique):
    drawn = segments.create_drawn(world.scene, world.volume(oblique), world.protocol, "scan")
    binding.bind("c1", "drawn", drawn)
    count = []
    drawn.AddObserver("DeleteEvent", lambda *_: count.append(1))
    world.scene.RemoveNode(drawn)
    del drawn
    gc.collect()
    assert count == [1]


def test_hidden_nodes_go_along_into_the_volumes_transform(world, binding, nodes):
    moving = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    nodes.volume.SetAndObserveTransformNodeID(moving.GetID())
    assert nodes.suggestion.GetParentTransformNode() is moving
    assert nodes.drawn.GetParentTransformNode() is None
    nodes.volume.SetAndObserveTransformNodeID(None)
    assert nodes.suggestion.GetParentTransformNode() is None
