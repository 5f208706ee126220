"""Scenes and segmentations saved by Slicer and read again still know their structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer

from semiseg.images.labels import read_label
from SemiSegModuleLib.mrml import segments, structures
from SemiSegModuleLib.mrml.binding import Callbacks, SceneBinding, studies_in


@pytest.fixture
def case(world, oblique):
    """A drawing of two structures, bound; a stored volume as scenes need it."""
    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    array = np.zeros(oblique.shape_zyx, np.uint16)
    array[2:5, 3:9, 4:12], array[4:8, 9:14, 10:19] = 3, 7
    segments.set_map(drawn, oblique, array)
    binding = SceneBinding(world.scene, "study")
    binding.bind("c1", "volume", volume)
    binding.bind("c1", "drawn", drawn)
    yield drawn, array
    binding.close()


def _scene(tmp_path: Path):
    """A scene that can open bundles."""
    scene = slicer.vtkMRMLScene()
    logics = [slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkMRMLRemoteIOLogic()]
    for logic in logics:
        logic.SetMRMLScene(scene)
    logics[1].AddDataIOToScene()
    (tmp_path / "cache").mkdir()
    scene.GetCacheManager().SetRemoteCacheDirectory(str(tmp_path / "cache"))
    return scene, logics


def _save_mrml(scene, folder: Path) -> Path:
    for class_name, suffix in (
        ("vtkMRMLScalarVolumeNode", ".nrrd"),
        ("vtkMRMLSegmentationNode", ".seg.nrrd"),
    ):
        for number in range(scene.GetNumberOfNodesByClass(class_name)):
            node = scene.GetNthNodeByClass(number, class_name)
            node.AddDefaultStorageNode()
            node.GetStorageNode().SetFileName(str(folder / f"{class_name}{number}{suffix}"))
            assert node.GetStorageNode().WriteData(node)
    path = folder / "scene.mrml"
    scene.SetRootDirectory(str(folder))
    assert scene.Commit(str(path))
    return path


def _check(node, array, grid, protocol) -> None:
    found = [info.structure(info.structure_id) for info in structures.structures_in(node)]
    assert found == list(protocol.structures)
    layers = segments.read_layers(node, grid, protocol)
    assert layers.overlaps == layers.strangers == ()
    assert np.array_equal(layers.flat(grid), array)


def _import(scene, path: Path) -> None:
    scene.SetURL(str(path))
    assert scene.Import()


def test_a_saved_scene_comes_back_bound(world, case, oblique, tmp_path):
    path = _save_mrml(world.scene, tmp_path)
    scene, _logics = _scene(tmp_path)
    loaded: list[str] = []
    binding = SceneBinding(scene, "study", Callbacks(on_scene_loaded=lambda: loaded.append("x")))
    _import(scene, path)
    nodes = binding.nodes_of("c1")
    assert loaded == ["x"]
    assert studies_in(scene) == ("study",)
    assert nodes.volume is not None
    _check(nodes.drawn, case[1], oblique, world.protocol)
    binding.close()


def test_a_bundle_comes_back_bound(world, case, oblique, tmp_path):
    assert world.scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene, _logics = _scene(tmp_path)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    binding = SceneBinding(scene, "study")
    _check(binding.nodes_of("c1").drawn, case[1], oblique, world.protocol)
    binding.close()


def test_the_same_scene_read_twice_leaves_the_first_nodes_bound(world, case, tmp_path):
    path = _save_mrml(world.scene, tmp_path)
    scene, _logics = _scene(tmp_path)
    binding = SceneBinding(scene, "study")
    _import(scene, path)
    first = binding.nodes_of("c1")
    heard: list[str] = []
    binding.callbacks.on_drawn_modified = heard.append
    _import(scene, path)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    assert binding.nodes_of("c1") == first
    bound = [
        scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode").GetAttribute("SemiSeg.CaseId")
        for number in range(2)
    ]
    assert set(bound) == {"c1", None}
    assert heard == []
    binding.close()


def test_a_saved_segmentation_keeps_ids_names_colours_codes_and_voxels(
    world, case, oblique, tmp_path
):
    path = tmp_path / "drawn.seg.nrrd"
    case[0].AddDefaultStorageNode()
    case[0].GetStorageNode().SetFileName(str(path))
    assert case[0].GetStorageNode().WriteData(case[0])
    node = world.segmentations.LoadSegmentationFromFile(str(path))
    _check(node, case[1], oblique, world.protocol)
    assert [info.segment_id for info in structures.structures_in(node)] == [
        "SemiSeg_3",
        "SemiSeg_7",
    ]


def test_the_engine_reads_what_slicer_saved(case, oblique, tmp_path):
    path = tmp_path / "drawn.seg.nrrd"
    case[0].AddDefaultStorageNode()
    case[0].GetStorageNode().SetFileName(str(path))
    case[0].GetStorageNode().SetCropToMinimumExtent(False)
    assert case[0].GetStorageNode().WriteData(case[0])
    label = read_label(path)
    assert np.array_equal(label.array, case[1])
    assert label.grid.difference(oblique) is None


def test_new_label_values_after_saving_change_no_structure(world, case, oblique, tmp_path):
    segmentation = case[0].GetSegmentation()
    segmentation.SeparateSegmentLabelmap("SemiSeg_7")
    assert segmentation.GetNumberOfLayers() == 2
    segmentation.CollapseBinaryLabelmaps(False)
    _check(case[0], case[1], oblique, world.protocol)
    path = tmp_path / "drawn.seg.nrrd"
    case[0].AddDefaultStorageNode()
    case[0].GetStorageNode().SetFileName(str(path))
    assert case[0].GetStorageNode().WriteData(case[0])
    node = world.segmentations.LoadSegmentationFromFile(str(path))
    rest = world.protocol.remove(3)
    structures.sync_segments(node, rest)
    _check(node, np.where(case[1] == 7, 7, 0), oblique, rest)


def test_overlapping_segments_survive_a_file(world, case, oblique, tmp_path):
    two = np.zeros_like(case[1])
    two[4:6, 5:9, 4:8] = 7
    segments.set_layers(case[0], oblique, (np.where(case[1] == 3, 3, 0), two), (0, 0, 0))
    before = segments.read_layers(case[0], oblique, world.protocol).overlaps
    path = tmp_path / "drawn.seg.nrrd"
    case[0].AddDefaultStorageNode()
    case[0].GetStorageNode().SetFileName(str(path))
    assert case[0].GetStorageNode().WriteData(case[0])
    node = world.segmentations.LoadSegmentationFromFile(str(path))
    assert before == ((3, 7, 16),)
    assert segments.read_layers(node, oblique, world.protocol).overlaps == before
