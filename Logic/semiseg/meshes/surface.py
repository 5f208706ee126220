"""Closed, smooth surfaces of masks, in millimetres, as large as the mask itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from semiseg.errors import ConfigError
from semiseg.images.grid import Grid, box_of

_PASSES = 60
_SHRINK, _GROW = 0.5, -0.505
# Less than half a voxel, or what is one voxel thin would fall in on itself.
_FARTHEST_VOXELS = 0.45
_VOLUME_TOLERANCE = 1e-5
_VOLUME_STEPS = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Triangles `faces` (M, 3), counter-clockwise from outside, over `vertices_mm` (N, 3)."""

    vertices_mm: NDArray[np.float64]
    faces: NDArray[np.int64]

    @property
    def volume_ml(self) -> float:
        """The volume inside."""
        return float(_cones(self.vertices_mm, self.faces).sum()) / 1000.0

    @property
    def area_cm2(self) -> float:
        """The area of all triangles."""
        return float(np.linalg.norm(_normals(self.vertices_mm, self.faces), axis=1).sum()) / 200.0


def surface(mask: NDArray[np.bool_], grid: Grid) -> Mesh | None:
    """The surface of `mask` (z, y, x) in LPS millimetres; None when the mask is empty.

    Closed also where the structure is cut off by the edge of the volume. Marching cubes (Lorensen
    1987), Taubin smoothing (1995) by at most 0.45 voxels, then along the normals until the
    volume is that of the voxels. ConfigError when scikit-image is not installed.
    """
    box = box_of(mask)
    if box is None:
        return None
    require_packages()
    from skimage.measure import marching_cubes  # noqa: PLC0415 - an optional package

    padded = np.pad(mask[box], 1).astype(np.float32)
    # Lorensen's table, since Lewiner's leaves holes where voxels touch at edges only.
    found, triangles, _, _ = marching_cubes(padded, 0.5, method="lorensen")
    faces = np.asarray(triangles, dtype=np.int64)
    first = np.array([part.start - 1 for part in box])
    voxels = _smooth(np.asarray(found, dtype=np.float64), faces) + first
    points = grid.to_world(voxels[:, ::-1])
    if _cones(points, faces).sum() < 0:
        faces = faces[:, ::-1].copy()
    step_mm = 0.25 * min(grid.spacing_mm_xyz)
    volume = np.count_nonzero(padded) * grid.voxel_ml * 1000.0
    return Mesh(vertices_mm=_with_volume(points, faces, volume, step_mm), faces=faces)


def require_packages() -> None:
    """ConfigError with the command that installs what meshes need, where that is missing."""
    try:
        import skimage.measure  # noqa: F401, PLC0415
        import trimesh  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            f"meshes need the package {error.name or 'trimesh'}, which is not installed; run: "
            f"{Path(sys.executable).name} -m pip install scikit-image trimesh"
        ) from error


def _smooth(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Taubin's low pass with equal weights; in voxels, which is the same as in millimetres."""
    mean = _neighbour_mean(len(vertices), faces)
    moved = vertices
    for _ in range(_PASSES):
        for share in (_SHRINK, _GROW):
            moved = moved + share * (mean @ moved - moved)
    return vertices + np.clip(moved - vertices, -_FARTHEST_VOXELS, _FARTHEST_VOXELS)


def _neighbour_mean(n_vertices: int, faces: NDArray[np.int64]) -> sparse.csr_array:
    rows = faces.ravel()
    columns = np.roll(faces, 1, axis=1).ravel()  # each edge once from either side's triangle
    once = sparse.coo_array((np.ones(rows.size), (rows, columns)), (n_vertices, n_vertices))
    links = (once + once.T).tocsr()
    scale = sparse.diags_array(1.0 / links.sum(axis=1))
    return (scale @ links).tocsr()


def _with_volume(
    points: NDArray[np.float64], faces: NDArray[np.int64], volume_mm3: float, step_mm: float
) -> NDArray[np.float64]:
    """`points` moved along their normals, `step_mm` at a time, until they enclose `volume_mm3`."""
    for _ in range(_VOLUME_STEPS):
        missing = volume_mm3 - _cones(points, faces).sum()
        if abs(missing) <= _VOLUME_TOLERANCE * volume_mm3:
            break
        outward = _outward(points, faces)
        length = np.linalg.norm(outward, axis=1, keepdims=True)
        # A vertex that moves by d along its normal adds d times a sixth of that normal's length.
        step = np.clip(6.0 * missing / length.sum(), -step_mm, step_mm)
        points = points + step * outward / np.maximum(length, 1e-12)
    return points


def _outward(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each vertex the sum of its triangles' normals."""
    rows, columns = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
    around = sparse.coo_array((np.ones(rows.size), (rows, columns)), (len(points), len(faces)))
    return np.asarray(around.tocsr() @ _normals(points, faces))


def _normals(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Twice the area of each triangle along its normal."""
    a, b, c = points[faces[:, 0]], points[faces[:, 1]], points[faces[:, 2]]
    return np.asarray(np.cross(b - a, c - a))


def _cones(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signed volume between each triangle and the middle of all points."""
    a, b, c = (points[faces[:, corner]] - points.mean(axis=0) for corner in range(3))
    return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0)
