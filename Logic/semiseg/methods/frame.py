"""A common frame for whole scans: one box in a reference scan, onto which others are placed.

Placing is the affine start of our registration, found on contrast-free features, so that CT and
MR come onto one frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semiseg.config import MODALITIES, Modality, RegistrationConfig
from semiseg.data.training_grid import TrainingImage, to_training_grid
from semiseg.images.grid import Grid, Triple
from semiseg.images.reading import Image
from semiseg.registration.affine import affine_start
from semiseg.registration.linear import inside, read_linear
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.start import Start

FRAME_MULTIPLE = 8
_STEPS = 32767.0
_SLAB_VOXELS = 2_000_000
_REGISTRATION = RegistrationConfig(device="cpu")
Zyx = tuple[int, int, int]
Points = NDArray[np.float64]


def ready(image: Image, modality: Modality) -> Prepared:
    """`image` as `Frame.start` wants it."""
    return prepare(image, modality, _REGISTRATION)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Part of the reference scan: its lowest corner voxel's centre in mm LPS, z, y, x."""

    origin_mm_zyx: Triple
    spacing_mm: float
    shape_zyx: Zyx

    @property
    def grid(self) -> Grid:
        """The box's voxels, axes S, P, L."""
        z, y, x = self.shape_zyx
        oz, oy, ox = self.origin_mm_zyx
        return Grid(
            size_xyz=(x, y, z), spacing_mm_xyz=(self.spacing_mm,) * 3, origin_mm_lps=(ox, oy, oz)
        )


def box_around(low_mm_zyx: Points, high_mm_zyx: Points, *, voxels: int, finest_mm: float) -> Box:
    """The box from `low_mm_zyx` to `high_mm_zyx` in about `voxels` voxels, none under `finest_mm`.

    Its sides are multiples of eight voxels, so it may reach a little further.
    """
    size = np.maximum(high_mm_zyx - low_mm_zyx, finest_mm)
    spacing = max((float(np.prod(size)) / voxels) ** (1 / 3), finest_mm)
    sides = np.ceil(size / spacing / FRAME_MULTIPLE).astype(int) * FRAME_MULTIPLE
    z, y, x = (float(v) for v in (low_mm_zyx + high_mm_zyx - (sides - 1) * spacing) / 2)
    return Box(
        origin_mm_zyx=(z, y, x),
        spacing_mm=spacing,
        shape_zyx=(int(sides[0]), int(sides[1]), int(sides[2])),
    )


class Frame(nn.Module):
    """The reference scan and the box in it, as buffers, so that a saved model brings them."""

    image: Tensor
    body: Tensor
    place: Tensor
    about: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("image", torch.zeros(1, 1, 1, dtype=torch.int16))
        self.register_buffer("body", torch.zeros(1, 1, 1, dtype=torch.bool))
        self.register_buffer("place", torch.ones(8, dtype=torch.float64))
        self.register_buffer("about", torch.tensor([0, 1, 1, 1]))

    @classmethod
    def of(cls, reference: Prepared, box: Box) -> Frame:
        """The frame `box` in a reference scan."""
        made = cls()
        # Integers: a running mean of weights takes them over as they are.
        made.image = torch.from_numpy(
            np.rint(reference.array.clip(-1, 1) * _STEPS).astype(np.int16)
        )
        made.body = torch.from_numpy(reference.mask.copy())
        lattice = (*reference.grid.origin_mm_lps[::-1], reference.spacing_mm)
        place = [*lattice, *box.origin_mm_zyx, box.spacing_mm]
        made.place = torch.tensor(place, dtype=torch.float64)
        made.about = torch.tensor([MODALITIES.index(reference.modality), *box.shape_zyx])
        return made

    @property
    def box(self) -> Box:
        """Where the frame lies in the reference."""
        z, y, x, spacing = self.place[4:].tolist()
        _, depth, height, width = (int(n) for n in self.about.tolist())
        return Box(origin_mm_zyx=(z, y, x), spacing_mm=spacing, shape_zyx=(depth, height, width))

    @property
    def reference(self) -> Prepared:
        """The reference scan, ready for registration."""
        depth, height, width = self.image.shape
        z, y, x, spacing = self.place[:4].tolist()
        return Prepared(
            array=self.image.cpu().numpy().astype(np.float32) / np.float32(_STEPS),
            mask=self.body.cpu().numpy(),
            grid=Grid(
                size_xyz=(width, height, depth),
                spacing_mm_xyz=(spacing,) * 3,
                origin_mm_lps=(x, y, z),
            ),
            modality=MODALITIES[int(self.about[0])],
            device=torch.device("cpu"),
        )

    def start(self, scan: Prepared) -> Start:
        """Leads from the reference to `scan`."""
        return affine_start(self.reference, scan, _REGISTRATION)

    def place_image(self, image: Image, modality: Modality) -> tuple[NDArray[np.float32], Start]:
        """Normalised grey values (z, y, x) of `image` on the frame, and its start."""
        start = self.start(ready(image, modality))
        spacing = self.box.spacing_mm
        zoomed = to_training_grid(image, modality, (spacing,) * 3)
        return self.placed(zoomed, start), start

    def placed(self, image: TrainingImage, start: Start) -> NDArray[np.float32]:
        """`image` on the frame, its darkest value outside of it."""
        grid = self.box.grid
        at = voxels_of(grid_points(grid), image.grid, start)
        values = read_linear(image.array[None], at)[0]
        values[~inside(image.array.shape, at)] = image.fill
        found: NDArray[np.float32] = values.reshape(grid.shape_zyx)
        return found

    def back(self, probabilities: Tensor, grid: Grid, start: Start) -> Iterator[tuple[int, Tensor]]:
        """(first slice, (C, n, H, W)) on `grid` of the scan; background beyond the frame."""
        values = np.ascontiguousarray(probabilities.float().cpu().numpy())
        own = self.box.grid
        home = start.inverse()
        depth, height, width = grid.shape_zyx
        step = max(1, _SLAB_VOXELS // (height * width))
        for first in range(0, depth, step):
            planes = range(first, min(first + step, depth))
            at = voxels_of(grid_points(grid, planes), own, home)
            read = read_linear(values, at)
            outside = ~inside(own.shape_zyx, at)
            read[:, outside] = 0
            read[0, outside] = 1
            yield first, torch.from_numpy(read.reshape(len(values), len(planes), height, width))


def grid_points(grid: Grid, planes: range | None = None) -> Points:
    """(N, 3) world millimetres z, y, x of the voxels of `grid` in `planes` (None: all)."""
    depth, height, width = grid.shape_zyx
    z, y, x = np.meshgrid(
        np.arange(depth) if planes is None else np.asarray(planes),
        np.arange(height),
        np.arange(width),
        indexing="ij",
    )
    voxels = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.float64)
    return grid.to_world(voxels)[:, ::-1]


def voxels_of(points_mm_zyx: Points, grid: Grid, start: Start) -> Points:
    """Voxel coordinates (N, 3) z, y, x of `grid` where `start` leads `points_mm_zyx` (N, 3)."""
    matrix = start.matrix.double().cpu().numpy()
    moved = points_mm_zyx @ matrix.T + start.offset_mm.double().cpu().numpy()
    return grid.to_voxel(moved[:, ::-1])[:, ::-1]
