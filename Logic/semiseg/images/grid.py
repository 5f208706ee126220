"""Where the voxels of a volume lie in the patient, and how to turn them to one orientation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import GeometryMismatchError, ImageError
from semiseg.events import Json

if TYPE_CHECKING:
    import SimpleITK as sitk

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = get_args(Plane)
Triple = tuple[float, float, float]
Scalar = TypeVar("Scalar", bound=np.generic)
_SHEAR_TOLERANCE = 1e-3
_TIE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A regular voxel grid in LPS millimetres; `direction` holds 9 cosines, row-major.

    ImageError when the spacing is not positive, a number is not finite or the axes are sheared.
    """

    size_xyz: tuple[int, int, int]
    spacing_mm_xyz: Triple
    origin_mm_lps: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.size_xyz) != 3 or min(self.size_xyz) < 1:
            raise ImageError(f"the grid has no voxels: size {_join(self.size_xyz)}, expected >= 1")
        if not all(math.isfinite(s) and s > 0 for s in self.spacing_mm_xyz):
            raise ImageError(
                f"the voxel spacing is {_join(self.spacing_mm_xyz)} mm, expected positive numbers; "
                "correct the header (in Slicer: Volumes, Volume Information) and save the file anew"
            )
        if not all(math.isfinite(value) for value in (*self.origin_mm_lps, *self.direction)):
            raise ImageError(
                "the position of the volume is not a number; correct the header and save it anew"
            )
        _require_orthonormal(self._axes)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the arrays that live on this grid."""
        x, y, z = self.size_xyz
        return z, y, x

    @property
    def spacing_mm_zyx(self) -> Triple:
        """Spacing in the order of the array axes."""
        x, y, z = self.spacing_mm_xyz
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return math.prod(self.spacing_mm_xyz) / 1000.0

    @cached_property
    def affine_lps(self) -> NDArray[np.float64]:
        """(4, 4) matrix from voxel (x, y, z, 1) to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, :3] = self._axes * np.asarray(self.spacing_mm_xyz)
        matrix[:3, 3] = self.origin_mm_lps
        return matrix

    @property
    def centre_mm_lps(self) -> NDArray[np.float64]:
        """Middle of the volume."""
        return self.to_world((np.asarray(self.size_xyz) - 1) / 2.0)

    def to_world(self, voxel_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS millimetres of voxel coordinates (..., 3) in x, y, z order."""
        return np.asarray(voxel_xyz) @ self.affine_lps[:3, :3].T + self.affine_lps[:3, 3]

    def to_voxel(self, point_mm_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel coordinates (..., 3), x, y, z, of points in LPS millimetres."""
        inverse = np.linalg.inv(self.affine_lps[:3, :3])
        return (np.asarray(point_mm_lps) - self.affine_lps[:3, 3]) @ inverse.T

    def difference(self, other: Grid, *, tolerance_mm: float = 1e-3) -> str | None:
        """What differs from `other`, with both values; None where all corners coincide."""
        if self.size_xyz != other.size_xyz:
            return f"size {_join(self.size_xyz)} against {_join(other.size_xyz)} voxels"
        distance = np.linalg.norm(self._corners - other._corners, axis=1).max()
        if distance <= tolerance_mm:
            return None
        for name, unit, mine, theirs in (
            ("spacing", " mm", self.spacing_mm_xyz, other.spacing_mm_xyz),
            ("direction", "", self.direction, other.direction),
            ("origin", " mm", self.origin_mm_lps, other.origin_mm_lps),
        ):
            if _join(mine) != _join(theirs):
                return f"{name} {_join(mine)} against {_join(theirs)}{unit}"
        return f"corners up to {distance:.4g} mm apart"

    def require_same(self, other: Grid, what: str) -> None:
        """GeometryMismatchError, naming `what`, unless both grids are the same."""
        difference = self.difference(other)
        if difference is not None:
            raise GeometryMismatchError(
                f"{what}: the grids differ, {difference}; resample one onto the other first"
            )

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Grid:
        """The grid of a 3-D SimpleITK image."""
        return cls(
            size_xyz=cast("tuple[int, int, int]", tuple(int(n) for n in image.GetSize()[:3])),
            spacing_mm_xyz=cast(Triple, tuple(float(s) for s in image.GetSpacing()[:3])),
            origin_mm_lps=cast(Triple, tuple(float(o) for o in image.GetOrigin()[:3])),
            direction=tuple(float(d) for d in image.GetDirection()),
        )

    def to_sitk_header(self, image: sitk.Image) -> sitk.Image:
        """Give `image` this grid's spacing, origin and direction; returns it."""
        image.SetSpacing(self.spacing_mm_xyz)
        image.SetOrigin(self.origin_mm_lps)
        image.SetDirection(self.direction)
        return image

    def to_json(self) -> dict[str, Json]:
        """Plain values that `from_json` takes back without loss."""
        return {
            "size_xyz": list(self.size_xyz),
            "spacing_mm_xyz": list(self.spacing_mm_xyz),
            "origin_mm_lps": list(self.origin_mm_lps),
            "direction": list(self.direction),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> Grid:
        """ImageError when a value is missing or is not a list of numbers."""
        return cls(
            size_xyz=cast("tuple[int, int, int]", tuple(map(int, _numbers(values, "size_xyz", 3)))),
            spacing_mm_xyz=cast(Triple, _numbers(values, "spacing_mm_xyz", 3)),
            origin_mm_lps=cast(Triple, _numbers(values, "origin_mm_lps", 3)),
            direction=_numbers(values, "direction", 9),
        )

    @property
    def _axes(self) -> NDArray[np.float64]:
        if len(self.direction) != 9:
            raise ImageError(f"a volume's direction has 9 numbers, got {len(self.direction)}")
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3)

    @cached_property
    def _corners(self) -> NDArray[np.float64]:
        last = np.asarray(self.size_xyz) - 1
        return self.to_world(np.array(list(itertools.product((0, 1), repeat=3))) * last)


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """Axis permutation and flips from `source` to `grid`, whose array axes run to S, P, L.

    Output array axis i is input axis `axes[i]`, reversed where `flips[i]`.
    """

    source: Grid
    grid: Grid
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """`array` (..., z, y, x) of the source grid, turned; a contiguous copy."""
        self._require_shape(array, self.source)
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return turned[self._slices].copy(order="C")

    def invert(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """`array` (..., z, y, x) of the canonical grid, exactly back on the source grid; a copy."""
        self._require_shape(array, self.grid)
        lead = array.ndim - 3
        back = [lead + self.axes.index(axis) for axis in range(3)]
        return array[self._slices].transpose(*range(lead), *back).copy(order="C")

    @property
    def _slices(self) -> tuple[EllipsisType | slice, ...]:
        return (..., *(slice(None, None, -1 if flip else 1) for flip in self.flips))

    @staticmethod
    def _require_shape(array: NDArray[Scalar], grid: Grid) -> None:
        if array.shape[-3:] != grid.shape_zyx:
            raise GeometryMismatchError(
                f"an array of shape {_join(array.shape)} does not fit the grid's "
                f"{_join(grid.shape_zyx)} (z y x)"
            )


def canonical(grid: Grid) -> Orientation:
    """How to turn arrays on `grid` so that their axes [z, y, x] run to S, P, L.

    Only permutes and flips: an oblique grid keeps its rotation.
    """
    axes_xyz = _closest_axes(grid)
    cosines = grid._axes
    signs = [1.0 if cosines[world, axis] >= 0 else -1.0 for world, axis in enumerate(axes_xyz)]
    first = np.zeros(3)
    for axis, sign in zip(axes_xyz, signs, strict=True):
        first[axis] = 0 if sign > 0 else grid.size_xyz[axis] - 1
    turned = Grid(
        size_xyz=cast("tuple[int, int, int]", tuple(grid.size_xyz[a] for a in axes_xyz)),
        spacing_mm_xyz=cast(Triple, tuple(grid.spacing_mm_xyz[a] for a in axes_xyz)),
        origin_mm_lps=cast(Triple, tuple(float(v) for v in grid.to_world(first))),
        direction=tuple(float(v) for v in (cosines[:, axes_xyz] * signs).ravel()),
    )
    z, y, x = (2 - axis for axis in reversed(axes_xyz))
    flip_z, flip_y, flip_x = (sign < 0 for sign in reversed(signs))
    return Orientation(source=grid, grid=turned, axes=(z, y, x), flips=(flip_z, flip_y, flip_x))


def box_of(mask: NDArray[np.generic]) -> tuple[slice, slice, slice] | None:
    """The smallest box (z, y, x) around all of `mask` that is not 0; None where nothing is."""
    found = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not found[0].size:
        return None
    z, y, x = (slice(int(some[0]), int(some[-1]) + 1) for some in found)
    return z, y, x


def plane_axis(grid: Grid, plane: Plane) -> int:
    """The array axis (0 z, 1 y, 2 x) along which the slices of `plane` are counted."""
    if plane not in PLANES:
        raise ImageError(f"there is no plane {plane!r}; expected one of {', '.join(PLANES)}")
    return 2 - _closest_axes(grid)[2 - PLANES.index(plane)]


def _closest_axes(grid: Grid) -> tuple[int, int, int]:
    """For L, P, S the voxel axis (x 0, y 1, z 2) that runs along it; each is used once."""
    cosines = np.abs(grid._axes)
    best, found = -1.0, (0, 1, 2)
    for a, b, c in itertools.permutations(range(3)):
        score = cosines[0, a] + cosines[1, b] + cosines[2, c]
        if score > best + _TIE:
            best, found = score, (a, b, c)
    return found


def _require_orthonormal(axes: NDArray[np.float64]) -> None:
    error = np.abs(axes.T @ axes - np.eye(3)).max()
    if error > _SHEAR_TOLERANCE:
        raise ImageError(
            f"the axes of the volume are not at right angles (off by {error:.3g}), as after a "
            "gantry tilt; resample it onto a straight grid first (in Slicer: Resample Scalar "
            "Volume, or load the series with the acquisition transform applied)"
        )


def _numbers(values: Mapping[str, Json], name: str, count: int) -> tuple[float, ...]:
    found = values.get(name)
    if not isinstance(found, list) or len(found) != count:
        raise ImageError(f"the grid's {name} should be {count} numbers, found {found!r}")
    numbers = tuple(
        float(v) for v in found if isinstance(v, int | float) and not isinstance(v, bool)
    )
    if len(numbers) != count:
        raise ImageError(f"the grid's {name} should be {count} numbers, found {found!r}")
    return numbers


def _join(values: tuple[float, ...] | tuple[int, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
