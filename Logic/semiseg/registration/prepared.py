"""A volume made ready for registration: straight millimetre grid, body, features made once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.config import Modality, RegistrationConfig
from semiseg.devices import choose_device
from semiseg.images.grid import Grid, canonical
from semiseg.images.intensity import body_mask, normalise
from semiseg.images.reading import Image
from semiseg.images.resampling import resample_image, spaced_grid, zoom_linear
from semiseg.registration.discrete import Blocks, blocks
from semiseg.registration.features import mind_ssc
from semiseg.registration.sampling import FeatureMap, feature_map, pooled, rows

_STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_MARGIN_VOXELS = 2
_TONE_WEIGHT = 1.0


@dataclass(frozen=True)
class View:
    """A body as it is compared with another: `features`, and coarser cells of them."""

    features: FeatureMap

    @cached_property
    def cells(self) -> Blocks:
        """Blocks of 3 feature nodes, 18 mm at the default spacing, for the coarse match."""
        return blocks(self.features, 3)

    @cached_property
    def large_cells(self) -> Blocks:
        """Blocks of 4 feature nodes, for trying out starts."""
        return blocks(self.features, 4)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """`array` (z, y, x) in [-1, 1] and `mask` on `grid`: axes along L, P, S, one spacing.

    The grid is cut to the body. Features are computed on first use and kept.
    """

    array: NDArray[np.float32]
    mask: NDArray[np.bool_]
    grid: Grid
    modality: Modality
    device: torch.device

    @cached_property
    def features(self) -> FeatureMap:
        """MIND-SSC at half the working resolution, averaged from the full one."""
        volume = torch.from_numpy(self.array).to(self.device)
        return pooled(self.places(mind_ssc(volume)), 2)

    @cached_property
    def plain(self) -> View:
        """As compared with any image."""
        return View(self.features)

    @cached_property
    def toned(self) -> View:
        """As compared with an image of the same contrast: greys in [-1, 1] are a feature too."""
        tones = _TONE_WEIGHT * self.tones.table
        table = torch.cat([self.features.table, tones], dim=1).contiguous()
        return View(replace(self.features, table=table))

    @cached_property
    def tones(self) -> FeatureMap:
        """The greys at half the working resolution."""
        return pooled(self.places(torch.from_numpy(self.array)[None].to(self.device)), 2)

    @cached_property
    def overview(self) -> FeatureMap:
        """MIND-SSC of the image at three times the working spacing, for the start."""
        volume = torch.from_numpy(self.array).to(self.device)
        small = pooled(self.places(volume[None]), 3)
        return replace(small, table=rows(mind_ssc(small.volume[0], dilation=1)))

    @property
    def spacing_mm(self) -> float:
        """Spacing of the grid along every axis."""
        return self.grid.spacing_mm_xyz[0]

    def places(self, volume: Tensor) -> FeatureMap:
        """`volume` (C, D, H, W), one value per voxel of the grid, as something to read in mm."""
        mask = torch.from_numpy(self.mask).to(self.device)
        origin = torch.tensor(self.grid.origin_mm_lps[::-1], dtype=torch.float32)
        return feature_map(volume, mask, origin.to(self.device), self.spacing_mm)


def prepare(image: Image, modality: Modality, config: RegistrationConfig) -> Prepared:
    """`image` resampled to `config.spacing_mm`, normalised and cut to the body."""
    turn = canonical(image.grid)
    array = turn.apply(image.array)
    mask = body_mask(array, turn.grid, modality)
    values = normalise(array, modality, mask)
    coarse = spaced_grid(turn.grid, (config.spacing_mm,) * 3)
    straight = _straight_grid(coarse, config.spacing_mm)
    body = resample_image(_zoomed(mask, coarse), coarse, straight, fill=0.0) > 0.5
    work = resample_image(_zoomed(values, coarse), coarse, straight, fill=float(values.min()))
    box = _body_box(body)
    return Prepared(
        array=np.ascontiguousarray(work[box]),
        mask=np.ascontiguousarray(body[box]),
        grid=_cut(straight, box),
        modality=modality,
        device=choose_device(config.device),
    )


def _zoomed(array: NDArray[np.generic], coarse: Grid) -> NDArray[np.float32]:
    return zoom_linear(np.asarray(array, dtype=np.float32), coarse.shape_zyx)


def _straight_grid(grid: Grid, spacing_mm: float) -> Grid:
    """The grid along L, P, S around `grid` with exactly `spacing_mm`, about the same centre."""
    last = np.asarray(grid.size_xyz) - 1
    corners = np.array(np.meshgrid(*[(0.0, float(n)) for n in last])).reshape(3, -1).T
    world = grid.to_world(corners)
    low, high = world.min(axis=0), world.max(axis=0)
    count = np.rint((high - low) / spacing_mm).astype(int)
    origin = (low + high) / 2 - count * spacing_mm / 2
    x, y, z = (int(n) + 1 for n in count)
    return Grid(
        size_xyz=(x, y, z),
        spacing_mm_xyz=(spacing_mm, spacing_mm, spacing_mm),
        origin_mm_lps=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=_STRAIGHT,
    )


def _body_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The mask's bounding box with a small margin; everything where the mask is empty."""
    sides: list[slice] = []
    for axis, n in enumerate(mask.shape):
        seen = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(seen[0]), int(seen[-1])) if seen.size else (0, n - 1)
        sides.append(slice(max(0, first - _MARGIN_VOXELS), min(n, last + 1 + _MARGIN_VOXELS)))
    return sides[0], sides[1], sides[2]


def _cut(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    z, y, x = box
    origin = grid.to_world(np.array([x.start, y.start, z.start], dtype=np.float64))
    return Grid(
        size_xyz=(x.stop - x.start, y.stop - y.start, z.stop - z.start),
        spacing_mm_xyz=grid.spacing_mm_xyz,
        origin_mm_lps=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=grid.direction,
    )
