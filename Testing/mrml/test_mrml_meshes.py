"""Slicer's own model reader puts exported meshes where the voxels are, whichever space they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer

from semiseg.config import MeshFormat, MeshSpace
from semiseg.images.grid import Grid
from semiseg.meshes.files import Named, write_meshes
from semiseg.meshes.surface import surface

DIRECTIONS = {
    "oblique": (0.6, 0.8, 0.0, 0.8, -0.6, 0.0, 0.0, 0.0, 1.0),
    "flipped": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("format_", ["stl", "obj", "ply"])
@pytest.mark.parametrize("space", ["LPS", "RAS"])
@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_slicer_shows_a_mesh_on_the_right_side_of_the_body(
    tmp_path: Path, format_: MeshFormat, space: MeshSpace, direction: str
) -> None:
    import vtk

    grid = Grid(
        size_xyz=(14, 12, 8),
        spacing_mm_xyz=(1.0, 1.5, 3.0),
        origin_mm_lps=(-90.0, 40.0, 200.0),
        direction=DIRECTIONS[direction],
    )
    mask = np.zeros(grid.shape_zyx, bool)
    mask[2:6, 3:9, 8:13] = True
    mesh = surface(mask, grid)
    assert mesh is not None
    path = tmp_path / f"liver.{format_}"
    write_meshes(path, [Named(name="liver", color=(1, 2, 3), mesh=mesh)], format_, space)
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLModelNode")
    storage = scene.AddNewNodeByClass("vtkMRMLModelStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    shape = node.GetPolyData()  # in RAS, as all of Slicer's scene
    mass = vtk.vtkMassProperties()
    triangles = vtk.vtkTriangleFilter()
    triangles.SetInputData(shape)
    mass.SetInputConnection(triangles.GetOutputPort())
    assert mass.GetVolume() == pytest.approx(mask.sum() * 4.5, rel=0.01)
    middle = grid.to_world(np.argwhere(mask)[:, ::-1].mean(axis=0)) * [-1, -1, 1]
    bounds = np.array(shape.GetBounds()).reshape(3, 2)
    np.testing.assert_allclose(bounds.mean(axis=1), middle, atol=0.5)
    edges = vtk.vtkFeatureEdges()
    edges.SetInputConnection(triangles.GetOutputPort())
    edges.FeatureEdgesOff()
    merged = vtk.vtkCleanPolyData()  # STL repeats the corners of its triangles
    merged.SetInputConnection(triangles.GetOutputPort())
    edges.SetInputConnection(merged.GetOutputPort())
    edges.Update()
    assert edges.GetOutput().GetNumberOfCells() == 0
