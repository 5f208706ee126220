"""A real scene of the slicer-core wheel, small volumes and the layout manager's part in views."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest

from semiseg.images.grid import Grid
from semiseg.study.protocol import Protocol, common_structure

try:
    import slicer
except ImportError:
    slicer = None
    collect_ignore_glob = ["test_mrml_*.py"]  # test_scene_wheel.py says so
if slicer is not None and "slicer.i18n" not in sys.modules:  # only the application has it
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text, _context=None: text
    slicer.i18n = sys.modules["slicer.i18n"] = i18n


class World:
    """A scene with the logics that the application would have."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        self.segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self.segmentations.SetMRMLScene(self.scene)
        self.volumes = slicer.vtkSlicerVolumesLogic()
        self.volumes.SetMRMLScene(self.scene)
        self.protocol = Protocol((common_structure("liver", 3), common_structure("spleen", 7)))

    def volume(self, grid: Grid, array: np.ndarray | None = None, name: str = "scan"):
        """A scalar volume node of `array` on `grid`."""
        import vtk
        import vtk.util.numpy_support

        from SemiSegModuleLib.mrml.geometry import affine_ras, to_vtk

        voxels = np.zeros(grid.shape_zyx, np.int16) if array is None else array
        image = vtk.vtkImageData()
        image.SetDimensions(*grid.size_xyz)
        scalars = vtk.util.numpy_support.numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=1)
        image.GetPointData().SetScalars(scalars)
        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.SetIJKToRASMatrix(to_vtk(affine_ras(grid)))
        node.SetAndObserveImageData(image)
        node.CreateDefaultDisplayNodes()
        return node

    def read(self, node, grid: Grid, protocol: Protocol | None = None) -> np.ndarray:
        """The map of what is drawn, which must not overlap."""
        from SemiSegModuleLib.mrml import segments

        layers = segments.read_layers(node, grid, protocol or self.protocol)
        assert layers.overlaps == ()
        return layers.flat(grid)

    def map(self, grid: Grid, *boxes) -> np.ndarray:
        """A map with a value in each box; the boxes are pairs of value and index."""
        array = np.zeros(grid.shape_zyx, np.uint16)
        for value, where in boxes:
            array[where] = value
        return array

    def place(self, array: np.ndarray, offset_zyx, grid: Grid) -> np.ndarray:
        """`array` at its place on the grid."""
        where = (slice(low, low + n) for low, n in zip(offset_zyx, array.shape, strict=True))
        return self.map(grid, (array, tuple(where)))

    def foreign(self, node, name: str, grid: Grid, box, affine=None) -> str:
        """A segment with a labelmap of its own (x0, x1, y0 ...), as an import makes one."""
        import vtk

        from SemiSegModuleLib.mrml.geometry import affine_ras, to_vtk

        image = slicer.vtkOrientedImageData()
        image.SetExtent(*box)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        image.GetPointData().GetScalars().Fill(1)
        image.SetImageToWorldMatrix(to_vtk(affine_ras(grid) if affine is None else affine))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetLabelValue(1)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment, name)
        return name

    def tag(self, node, segment_id: str, structure_id: int) -> None:
        """Say that the segment is the structure's."""
        segment = node.GetSegmentation().GetSegment(segment_id)
        segment.SetTag("SemiSeg.StructureId", str(structure_id))


class Editor:
    """Slicer's own segment editor logic on one node: what a user's brush does to the scene."""

    def __init__(self, world: World, volume, segmentation) -> None:
        self.node, self._volume = segmentation, volume
        self.settings = world.scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(world.scene)
        self.logic.SetSegmentEditorNode(self.settings)
        self.settings.SetAndObserveSegmentationNode(segmentation)
        self.settings.SetAndObserveSourceVolumeNode(volume)
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetSegmentation(segmentation.GetSegmentation())
        self.logic.SetSegmentationHistory(self._history)

    def paint(self, segment_id: str, extent: tuple[int, ...], *, erase: bool = False) -> None:
        """One stroke: voxels (x0, x1, y0, y1, z0, z1) of the volume, after saving for undo."""
        import vtk

        self.settings.SetSelectedSegmentID(segment_id)
        self.logic.SaveStateForUndo()
        stroke = slicer.vtkOrientedImageData()
        stroke.SetExtent(*extent)
        stroke.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        stroke.GetPointData().GetScalars().Fill(1)
        matrix = vtk.vtkMatrix4x4()
        self._volume.GetIJKToRASMatrix(matrix)
        stroke.SetImageToWorldMatrix(matrix)
        mode = self.logic.ModificationModeRemove if erase else self.logic.ModificationModeAdd
        self.logic.ModifySegmentByLabelmap(self.node, segment_id, stroke, mode, False, False)

    def allow_overlap(self) -> None:
        """The editor's setting "allow overlap" instead of "overwrite all"."""
        self.settings.SetOverwriteMode(self.settings.OverwriteNone)

    def save(self) -> None:
        """A state that `undo` comes back to."""
        self.logic.SaveStateForUndo()

    def forget(self) -> None:
        """No states to come back to."""
        self._history.RemoveAllStates()

    def undo(self) -> None:
        """The editor's undo button."""
        self.logic.Undo()


class SliceWidget:
    """A slice view's part of qMRMLSliceWidget: its logic, with a slice node of the real scene."""

    def __init__(self, scene, name: str, orientation: str) -> None:
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLScene(scene)
        node = self._logic.AddSliceNode(name)
        node.SetDimensions(400, 300, 1)
        node.SetDefaultOrientation(orientation)
        node.SetOrientation(orientation)

    def sliceLogic(self):  # noqa: N802
        """As in Slicer."""
        return self._logic

    def mrmlSliceNode(self):  # noqa: N802
        """As in Slicer."""
        return self._logic.GetSliceNode()


class LayoutManager:
    """Slicer's three slice views, without widgets."""

    def __init__(self, scene) -> None:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        orientations = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
        self._widgets = {
            name: SliceWidget(scene, name, orientation)
            for name, orientation in orientations.items()
        }

    def sliceViewNames(self):  # noqa: N802
        """As in Slicer."""
        return tuple(self._widgets)

    def sliceWidget(self, name):  # noqa: N802
        """As in Slicer."""
        return self._widgets.get(name)


@pytest.fixture
def layout_manager(world):
    """The slice views of the world's scene."""
    return LayoutManager(world.scene)


@pytest.fixture
def editor_of(world):
    """Makes the editor of a volume and a segmentation node."""
    return lambda volume, segmentation: Editor(world, volume, segmentation)


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh scene; emptied afterwards."""
    made = World()
    yield made
    made.scene.Clear(1)


@pytest.fixture
def oblique() -> Grid:
    """Anisotropic, rotated about z and tilted about x, left-handed."""
    a, b = 0.3, 0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return Grid(
        size_xyz=(20, 16, 10),
        spacing_mm_xyz=(1.0, 2.0, 3.0),
        origin_mm_lps=(10.0, -20.0, 30.0),
        direction=tuple(float(v) for v in (turn @ tilt @ np.diag([1, 1, -1])).ravel()),
    )


@pytest.fixture
def case(world, oblique):
    """A volume with an empty drawing and an empty suggestion."""
    from SemiSegModuleLib.mrml import segments

    volume = world.volume(oblique)
    drawn = segments.create_drawn(world.scene, volume, world.protocol, "scan")
    suggestion = segments.create_suggestion(world.scene, volume, world.protocol, "scan")
    return volume, drawn, suggestion
