"""Patches cut through turned, scaled and gently bent space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Triple = tuple[float, float, float]
Zyx = tuple[int, int, int]
_KNOTS = 5


@dataclass(frozen=True, kw_only=True)
class SpatialRange:
    """How far space is moved: degrees about each axis (z, y, x), factors, knots' millimetres.

    `mirror` lists the array axes that may be mirrored: none by default, since mirrored left and
    right organs are other organs. `within_slices`: nothing moves from one axial slice to another.
    """

    rotation_deg_zyx: Triple = (20.0, 15.0, 15.0)
    log_scale: float = 0.3
    log_stretch: float = 0.15
    bend_mm: float = 8.0
    bend_chance: float = 0.5
    mirror: tuple[int, ...] = ()
    within_slices: bool = False


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Patch voxel q sees source voxel p + drift(p), p = `centre` + `matrix` (q - middle) + bend(q).

    All z, y, x. `bend` (3, *) at knots spread over the patch, `drift` over the source.
    """

    centre: NDArray[np.float64]
    matrix: NDArray[np.float64]
    bend: NDArray[np.float32] | None
    drift: NDArray[np.float32] | None = None


def draw_warp(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    spacing_mm_zyx: Triple,
    limits: SpatialRange | None,
) -> Warp:
    """A random warp around source voxel `centre`; the plain cut where `limits` is None."""
    if limits is None:
        return Warp(centre=centre, matrix=np.eye(3), bend=None)
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * limits.rotation_deg_zyx)
    if limits.within_slices:
        angles[1:] = 0
    scale = rng.uniform(-1, 1) * limits.log_scale + rng.uniform(-1, 1, 3) * limits.log_stretch
    mirror = np.ones(3)
    for axis in limits.mirror:
        mirror[axis] = rng.choice([-1.0, 1.0])
    in_mm = _rotation(angles) @ np.diag(np.exp(scale) * mirror)
    spacing = np.asarray(spacing_mm_zyx)
    bend = None
    if rng.random() < limits.bend_chance:
        shift = rng.normal(0, limits.bend_mm, (3, _KNOTS, _KNOTS, _KNOTS))
        bend = (shift / spacing[:, None, None, None]).astype(np.float32)
        bend[0] *= not limits.within_slices
    return Warp(centre=centre, matrix=in_mm * spacing / spacing[:, None], bend=bend)


class Source:
    """One case's voxels as tensors (D, H, W): where patches are cut from."""

    def __init__(
        self,
        image: Tensor,
        fill: float,
        picked: dict[str, Tensor],
        further: dict[str, Tensor] | None = None,
    ) -> None:
        self.image, self.fill = image, fill
        self.picked, self.further = picked, further or {}

    def cut(self, warp: Warp, patch_zyx: Zyx) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Image (linear), the maps and whether a voxel lies inside.

        All (*patch_zyx); maps are the `picked` (nearest) and the `further` ones (linear). Outside
        the image are `fill`, in further maps their darkest value, and in picked ones whatever lies
        at the edge.
        """
        points = _points(warp, patch_zyx, self.image.device)
        if warp.drift is not None:
            points = self._drifted(points, torch.as_tensor(warp.drift, device=points.device))
        nearest = points.round().long()
        size = torch.tensor(self.image.shape, device=points.device)
        inside = ((nearest >= 0) & (nearest < size)).all(dim=-1)
        z, y, x = nearest.clamp_min_(0).minimum(size - 1).unbind(-1)
        flat = (z * self.image.shape[1] + y) * self.image.shape[2] + x
        maps = {name: values.flatten()[flat] for name, values in self.picked.items()}
        for name, volume in self.further.items():
            maps[name] = _interpolate(volume, float(volume.min()), points)
        return _interpolate(self.image, self.fill, points), maps, inside

    def _drifted(self, points: Tensor, drift: Tensor) -> Tensor:
        """`points` (d, h, w, 3) moved by `drift` (3, *), which is that of the edge beyond it."""
        last = torch.tensor(self.image.shape, device=points.device) - 1
        relative = points * (2.0 / last.clamp(min=1)) - 1.0
        moved = functional.grid_sample(
            drift[None],
            relative.flip(-1)[None],
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        return points + moved[0].permute(1, 2, 3, 0)


def _interpolate(image: Tensor, fill: float, points: Tensor) -> Tensor:
    """Linear values at `points` (d, h, w, 3), which are zyx voxels; `fill` outside."""
    size = torch.tensor(image.shape, device=points.device)
    relative = (points + 0.5) * (2.0 / size) - 1.0
    values = functional.grid_sample(
        (image.float() - fill)[None, None],
        relative.flip(-1)[None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return values[0, 0] + fill


def _points(warp: Warp, patch_zyx: Zyx, device: torch.device) -> Tensor:
    """(d, h, w, 3) source voxel coordinates of each patch voxel."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in patch_zyx]
    matrix = torch.as_tensor(warp.matrix, dtype=torch.float32, device=device)
    centre = torch.as_tensor(warp.centre, dtype=torch.float32, device=device)
    z, y, x = (axes[i][:, None] * matrix[:, i] for i in range(3))
    points = (z + centre)[:, None, None] + y[:, None] + x
    if warp.bend is not None:
        bend = torch.as_tensor(warp.bend, device=device)[None]
        bent = functional.interpolate(bend, patch_zyx, mode="trilinear", align_corners=True)
        points = points + bent[0].permute(1, 2, 3, 0)
    return points


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation by `angles` about the z, y and x axes in turn, acting on (z, y, x)."""
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = (i for i in range(3) if i != axis)
        plane = np.eye(3)
        plane[[one, other], [one, other]] = np.cos(angle)
        plane[one, other], plane[other, one] = -np.sin(angle), np.sin(angle)
        turned = plane @ turned
    return turned
