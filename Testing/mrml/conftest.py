"""A real scene of the slicer-core wheel, small volumes and the layout manager's part in views."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest

from semiseg.images.grid import Grid
from semiseg.study.protocol import Protocol, common_structure

slicer = pytest.importorskip("slicer", reason="the slicer-core wheel is not installed")
pytest.importorskip("vtk")
if "slicer.i18n" not in sys.modules:  # only the application has it
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


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh scene; emptied afterwards."""
    made = World()
    yield made
    made.scene.Clear(1)
    del made
    gc.collect()


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
