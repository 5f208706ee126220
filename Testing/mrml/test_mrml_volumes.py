"""Volume nodes: loaded, checked, written and overlaid, voxel for voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk

from semiseg.errors import ImageError, StorageError
from semiseg.images.grid import Grid
from semiseg.images.reading import read_map, to_sitk, write_image
from SemiSegModuleLib.mrml import volumes
from SemiSegModuleLib.mrml.geometry import affine_ras, placement
from SemiSegModuleLib.mrml.volumes import SceneError

_SUFFIXES = (".nrrd", ".nii", ".nii.gz", ".mha")
_COS, _SIN = float(np.cos(0.3)), float(np.sin(0.3))
_GRIDS = {
    "straight": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "oblique": (_COS, -_SIN, 0, _SIN, _COS, 0, 0, 0, 1),
    "left-handed": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal": (0, 0, -1, 1, 0, 0, 0, -1, 0),
}


def _grid(name: str) -> Grid:
    return Grid(
        size_xyz=(7, 6, 5),
        spacing_mm_xyz=(0.9, 2.0, 3.5),
        origin_mm_lps=(10.0, -20.0, 30.0),
        direction=tuple(float(v) for v in _GRIDS[name]),
    )


def _voxels(grid: Grid, dtype=np.int16) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 250, grid.shape_zyx).astype(dtype)


def _load(world, path: Path, array: np.ndarray, grid: Grid, name: str = "scan"):
    write_image(path, array, grid)
    return volumes.load_volume(world.scene, world.volumes, path, name)


def _on(node, grid: Grid) -> np.ndarray:
    found = placement(affine_ras(volumes.grid_of(node)), node.GetImageData().GetExtent(), grid)
    assert found is not None
    assert found.offset_zyx == (0, 0, 0)
    return found.view(volumes.array_of(node))


@pytest.mark.parametrize("suffix", _SUFFIXES)
@pytest.mark.parametrize("name", _GRIDS)
def test_a_loaded_volume_has_each_voxel_at_its_place(world, tmp_path, suffix, name):
    grid = _grid(name)
    array = _voxels(grid)
    node = _load(world, tmp_path / f"scan{suffix}", array, grid)
    assert np.array_equal(_on(node, grid), array)
    assert node.GetDisplayNode() is not None
    assert node.GetName() == "scan"


def test_a_volume_that_is_loaded_again_has_its_name_again(world, tmp_path):
    grid = _grid("straight")
    path = tmp_path / "scan.nrrd"
    world.scene.RemoveNode(_load(world, path, _voxels(grid), grid))
    node = volumes.load_volume(world.scene, world.volumes, path, "scan")
    second = volumes.load_volume(world.scene, world.volumes, path, "scan")
    assert node.GetName() == "scan"
    assert second.GetName() != "scan"


@pytest.mark.parametrize("suffix", _SUFFIXES)
@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_an_untouched_volume_gives_its_file(world, tmp_path, suffix, name):
    grid = _grid(name)
    path = tmp_path / f"scan{suffix}"
    node = _load(world, path, _voxels(grid), grid)
    node.SetName("renamed")
    node.SetAttribute("note", "x")
    assert volumes.file_of(node) == path


def _paint(node) -> None:
    volumes.array_of(node)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(node)
    node.GetImageData().Modified()


@pytest.mark.parametrize(
    "change",
    [
        _paint,
        lambda node: node.SetSpacing(1, 1, 1),
        lambda node: node.SetOrigin(1, 2, 3),
        lambda node: Path(node.GetStorageNode().GetFileName()).unlink(),
        lambda node: node.SetAndObserveStorageNodeID(None),
    ],
    ids=["voxels", "spacing", "origin", "file deleted", "never stored"],
)
def test_a_changed_volume_gives_no_file(world, tmp_path, change):
    grid = _grid("straight")
    node = _load(world, tmp_path / "scan.nrrd", _voxels(grid), grid)
    change(node)
    assert volumes.file_of(node) is None


def test_a_file_that_was_replaced_by_another_grid_is_not_given(world, tmp_path):
    path = tmp_path / "scan.nrrd"
    node = _load(world, path, _voxels(_grid("straight")), _grid("straight"))
    write_image(path, _voxels(_grid("oblique")), _grid("oblique"))
    assert volumes.file_of(node) is None


def test_a_file_in_a_format_that_the_engine_does_not_read_is_not_given(world, tmp_path):
    import SimpleITK as sitk

    grid = _grid("straight")
    for suffix in (".mhd", ".nhdr"):
        path = tmp_path / f"scan{suffix}"
        sitk.WriteImage(to_sitk(_voxels(grid), grid), str(path))
        node = world.volumes.AddArchetypeScalarVolume(str(path), "scan", 12, None)
        assert not node.GetModifiedSinceRead()
        assert volumes.file_of(node) is None


def test_files_beside_it_with_counting_names_are_not_loaded_with_it(world, tmp_path):
    grid = _grid("straight")
    for number in (1, 2, 3):
        write_image(tmp_path / f"scan{number}.nrrd", _voxels(grid) + number, grid)
    node = volumes.load_volume(world.scene, world.volumes, tmp_path / "scan2.nrrd", "two")
    assert np.array_equal(_on(node, grid), _voxels(grid) + 2)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int32, np.uint16])
@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_a_written_volume_is_the_node_voxel_by_voxel(world, tmp_path, dtype, name):
    grid = _grid(name)
    array = (_voxels(grid) * 0.25).astype(dtype) if dtype(0.5) else _voxels(grid, dtype)
    path = tmp_path / "out.nrrd"
    volumes.write_volume(world.volume(grid, array), path)
    read, found = read_map(path)
    assert read.dtype == dtype
    assert np.array_equal(read, array)
    assert found.difference(grid, tolerance_mm=1e-6) is None
    assert path.stat().st_size >= array.nbytes


def test_writing_into_a_missing_folder_is_refused_in_words(world, tmp_path):
    node = world.volume(_grid("straight"))
    with pytest.raises(StorageError, match="is not there; make it first"):
        volumes.write_volume(node, tmp_path / "no" / "out.nrrd")


def test_a_full_disk_is_told_in_words_and_leaves_no_file(world, tmp_path, monkeypatch):
    def fail(*_arguments, **_named):
        raise RuntimeError("no space left")

    monkeypatch.setattr("SimpleITK.WriteImage", fail)
    with pytest.raises(StorageError, match="could not be written"):
        volumes.write_volume(world.volume(_grid("straight")), tmp_path / "out.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_slicer_cannot_load_is_refused_and_leaves_no_node(world, tmp_path):
    path = tmp_path / "scan.nrrd"
    write_image(path, _voxels(_grid("straight")), _grid("straight"))
    path.write_bytes(path.read_bytes()[:-60])
    before = world.scene.GetNumberOfNodes()
    with pytest.raises(SceneError, match=r"Slicer cannot load scan\.nrrd"):
        volumes.load_volume(world.scene, world.volumes, path, "scan")
    assert world.scene.GetNumberOfNodes() == before


def test_a_volume_that_slicer_puts_elsewhere_is_refused_and_taken_away(world, tmp_path):
    path = tmp_path / "scan.nrrd"
    write_image(path, _voxels(_grid("straight")), _grid("straight"))

    class Centring:
        """Volumes logic with "center image" on."""

        def AddArchetypeScalarVolume(self, *arguments):  # noqa: N802
            node = world.volumes.AddArchetypeScalarVolume(*arguments)
            world.volumes.CenterVolume(node)
            return node

    with pytest.raises(SceneError, match="at another place than its header says"):
        volumes.load_volume(world.scene, Centring(), path, "scan")
    assert world.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_missing_file_is_refused_and_leaves_no_node(world, tmp_path):
    before = world.scene.GetNumberOfNodes()
    with pytest.raises(ImageError, match="is not there"):
        volumes.load_volume(world.scene, world.volumes, tmp_path / "none.nrrd", "scan")
    assert world.scene.GetNumberOfNodes() == before


def test_a_file_of_colours_or_time_points_is_refused(world, tmp_path):
    import SimpleITK as sitk

    flat = to_sitk(_voxels(_grid("straight"), np.uint8), _grid("straight"))
    sitk.WriteImage(sitk.Compose(flat, flat, flat), str(tmp_path / "rgb.nrrd"))
    sitk.WriteImage(sitk.JoinSeries([flat, flat]), str(tmp_path / "time.nrrd"))
    before = world.scene.GetNumberOfNodes()
    for name in ("rgb.nrrd", "time.nrrd"):
        with pytest.raises(SceneError, match="a grey-scale volume is expected"):
            volumes.load_volume(world.scene, world.volumes, tmp_path / name, "scan")
    assert world.scene.GetNumberOfNodes() == before


def test_a_usable_volume_is_not_refused(world, oblique):
    volumes.require_usable(world.volume(oblique))


@pytest.mark.parametrize(
    "kind", ["vtkMRMLLabelMapVolumeNode", "vtkMRMLVectorVolumeNode", "vtkMRMLSegmentationNode"]
)
def test_nodes_of_other_kinds_are_refused_by_name(world, kind):
    node = world.scene.AddNewNodeByClass(kind, "other")
    with pytest.raises(SceneError, match="other is no scalar volume"):
        volumes.require_usable(node)


def test_no_choice_is_refused_in_words():
    with pytest.raises(SceneError, match="No volume is chosen"):
        volumes.require_usable(None)


def test_a_volume_with_colours_is_refused(world):
    image = vtk.vtkImageData()
    image.SetDimensions(3, 3, 3)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = world.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "photo")
    node.SetAndObserveImageData(image)
    with pytest.raises(SceneError, match="photo has 3 values per voxel"):
        volumes.require_usable(node)


def test_an_empty_volume_is_refused(world):
    node = world.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(SceneError, match="nothing has no voxels"):
        volumes.require_usable(node)
    with pytest.raises(SceneError, match="nothing has no voxels"):
        volumes.array_of(node)


def test_a_volume_under_a_transform_is_refused_with_the_way_out(world, oblique):
    node = world.volume(oblique)
    moving = world.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    node.SetAndObserveTransformNodeID(moving.GetID())
    with pytest.raises(SceneError, match=r"under the transform registration.*harden"):
        volumes.require_usable(node)


def test_one_time_point_of_a_sequence_is_refused(world, oblique):
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLScene(world.scene)
    sequence = world.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    browser = world.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine browser")
    sequence.SetDataNodeAtValue(world.volume(oblique), "0")
    browser.AddSynchronizedSequenceNode(sequence)
    proxy = browser.AddProxyNode(world.volume(oblique, name="frame"), sequence, False)
    with pytest.raises(SceneError, match="one time point of the sequence cine browser"):
        volumes.require_usable(proxy)


def test_an_overlay_is_transparent_where_it_is_sure(world, oblique):
    array = np.linspace(0, 1, np.prod(oblique.shape_zyx), dtype=np.float32)
    array = array.reshape(oblique.shape_zyx)
    node = volumes.create_overlay(world.scene, oblique, array, "unsure", sure_below=0.25)
    assert np.array_equal(volumes.array_of(node), array)
    assert volumes.grid_of(node).difference(oblique) is None
    assert not node.GetSaveWithScene()
    assert node.GetHideFromEditors()
    display = node.GetDisplayNode()
    assert display.GetApplyThreshold()
    assert display.GetLowerThreshold() == 0.25
    display.GetOutputImageDataConnection().GetProducer().Update()
    shown = display.GetOutputImageDataConnection().GetProducer().GetOutput()
    import vtk.util.numpy_support

    alpha = vtk.util.numpy_support.vtk_to_numpy(shown.GetPointData().GetScalars())[:, 3]
    assert np.array_equal(alpha > 0, array.ravel() >= 0.25)


def test_overlays_share_one_table_of_colours_and_can_be_replaced(world, oblique):
    array = np.zeros(oblique.shape_zyx, np.uint8)
    one = volumes.create_overlay(world.scene, oblique, array, "one", sure_below=20)
    two = volumes.create_overlay(world.scene, oblique, array, "two", sure_below=20)
    assert one.GetDisplayNode().GetColorNode() is two.GetDisplayNode().GetColorNode()
    volumes.set_overlay(one, oblique, array + 9)
    assert (volumes.array_of(one) == 9).all()
    assert (volumes.array_of(two) == 0).all()
