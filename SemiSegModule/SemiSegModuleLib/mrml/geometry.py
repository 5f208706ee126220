"""Where the voxels of the scene's images lie, and how they map onto a grid of the engine, exactly.

The scene works in RAS, the engine in LPS millimetres; arrays are (z, y, x) on both sides. Slicer
may turn an image round while it reads it (a left-handed one loses that by reversing its slices),
so a node's own voxel order is never taken for that of the study: everything goes through
`placement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError
from semiseg.images.grid import Grid

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE_VOXELS = 0.01


class SceneError(SemiSegError):
    """A node of the scene cannot be used as asked."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How an image's array lies on a grid: axes swapped and reversed, never interpolated.

    Axis i of the grid is the image's array axis `axes[i]`, reversed where `flips[i]`;
    `offset_zyx` is the grid's voxel that the first voxel then falls on (may be outside).
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    offset_zyx: tuple[int, int, int]

    def view(self, array: NDArray) -> NDArray:
        """`array` (z, y, x of the image) in the grid's axes; shares memory."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(self.axes)[steps]


def grid_of(volume_node) -> Grid:
    """The grid of a volume node's own voxels, without its parent transform.

    SceneError when it has no voxels; ImageError when its axes are sheared.
    """
    image = volume_node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1:
        raise SceneError(
            _("{name} has no voxels; load its file again.").format(name=volume_node.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    lps = _LPS_RAS @ to_numpy(matrix)
    spacing = np.asarray(volume_node.GetSpacing())
    x0, _x, y0, _y, z0, _z = image.GetExtent()
    origin = lps @ (x0, y0, z0, 1.0)
    return Grid(
        size_xyz=tuple(int(n) for n in image.GetDimensions()),
        spacing_mm_xyz=tuple(float(s) for s in spacing),
        origin_mm_lps=tuple(float(v) for v in origin[:3]),
        direction=tuple(float(v) for v in (lps[:3, :3] / spacing).ravel()),
    )


def affine_ras(grid: Grid) -> NDArray[np.float64]:
    """(4, 4) matrix from voxel (x, y, z, 1) to RAS millimetres."""
    return _LPS_RAS @ grid.affine_lps


def placement(image_to_ras: NDArray[np.float64], extent: tuple[int, ...], grid: Grid):
    """How an image with that matrix and extent (x0, x1, y0, y1, z0, z1) lies on `grid`.

    None when a voxel of it would lie more than a hundredth of a voxel off the grid's.
    """
    onto = np.linalg.inv(affine_ras(grid)) @ image_to_ras
    whole = np.rint(onto)
    turn = whole[:3, :3]
    if not np.array_equal(np.abs(turn) @ np.ones(3), np.ones(3)):
        return None
    if not np.array_equal(np.ones(3) @ np.abs(turn), np.ones(3)):
        return None
    corners = _corners(extent)
    found = corners @ onto[:3].T
    expected = corners @ whole[:3].T
    if np.abs(found - expected).max() > _TOLERANCE_VOXELS:
        return None
    return _placement(turn, expected.min(axis=0))


def lies_on(volume_node, grid: Grid) -> bool:
    """Whether the volume's voxels are those of `grid`, perhaps in another order."""
    image = volume_node.GetImageData()
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    found = placement(to_numpy(matrix), image.GetExtent(), grid)
    if found is None or found.offset_zyx != (0, 0, 0):
        return False
    shape = image.GetDimensions()[::-1]
    return tuple(shape[axis] for axis in found.axes) == grid.shape_zyx


def require_same_transform(volume_node, *nodes) -> None:
    """SceneError when one of `nodes` is moved by a transform and the volume not, or otherwise.

    Under one and the same transform the voxels stay where they are on each other.
    """
    expected = volume_node.GetParentTransformNode()
    for node in nodes:
        if node is None or node.GetParentTransformNode() is expected:
            continue
        moved = node if node.GetParentTransformNode() is not None else volume_node
        other = volume_node if moved is node else node
        raise SceneError(
            _(
                "{moved} is under the transform {transform} and {other} is not under the same one, "
                "so they no longer fit; in Transforms, move {moved} out of {transform}, or put "
                "both under it."
            ).format(
                moved=moved.GetName(),
                transform=moved.GetParentTransformNode().GetName(),
                other=other.GetName(),
            )
        )


def to_numpy(matrix) -> NDArray[np.float64]:
    """The (4, 4) array of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(array: NDArray[np.float64]):
    """The vtkMatrix4x4 of a (4, 4) array."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(value) for value in np.asarray(array).ravel()])
    return matrix


def _corners(extent: tuple[int, ...]) -> NDArray[np.float64]:
    x0, x1, y0, y1, z0, z1 = extent
    return np.array([(x, y, z, 1.0) for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)])


def _placement(turn: NDArray[np.float64], first_xyz: NDArray[np.float64]) -> Placement:
    source_of = np.abs(turn).argmax(axis=1)  # grid axis (x, y, z) -> image axis
    flips_xyz = [bool(turn[axis, source_of[axis]] < 0) for axis in range(3)]
    axes = tuple(2 - int(source_of[2 - axis]) for axis in range(3))
    flips = tuple(flips_xyz[2 - axis] for axis in range(3))
    x, y, z = (int(v) for v in first_xyz)
    return Placement(axes=axes, flips=flips, offset_zyx=(z, y, x))
