"""Many maps as one batch, so that one set of operations serves many pairs of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.sampling import FeatureMap, around, lattice_points, weighted
from semiseg.registration.start import Start

Shape = tuple[int, int, int]
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """B maps, padded behind their ends to one grid (D, H, W); pair b reads map b and no padding.

    `table` is (B * D * H * W, C), `mask` (B, D, H, W), zero in the padding, `origin_mm_zyx`
    (B, 1, 3). `shapes` are the maps' own. All have the same spacing.
    """

    table: Tensor
    mask: Tensor
    origin_mm_zyx: Tensor
    spacing_mm: float
    shapes: tuple[Shape, ...]

    @property
    def shape(self) -> Shape:
        """The common grid."""
        depth, height, width = self.mask.shape[1:]
        return depth, height, width

    @property
    def ragged(self) -> bool:
        """Whether there is any padding."""
        return any(shape != self.shape for shape in self.shapes)

    @property
    def volume(self) -> Tensor:
        """The features as (B, C, D, H, W), a view."""
        return self.rows.transpose(1, 2).reshape(len(self.shapes), -1, *self.shape)

    @property
    def rows(self) -> Tensor:
        """The table as (B, D * H * W, C), a view."""
        return self.table.view(len(self.shapes), -1, self.table.shape[-1])

    @cached_property
    def last(self) -> Tensor:
        """The last own node along each axis, (B, 1, 3)."""
        last = torch.tensor(self.shapes, dtype=torch.float32) - 1
        return last[:, None].to(self.table.device)

    @cached_property
    def own(self) -> Tensor:
        """Which nodes are not padding, (B, D, H, W)."""
        return within(self.shapes, self.shape, self.table.device)

    def with_rows(self, rows: Tensor) -> Stack:
        """The same grid with other features (B, D * H * W, C)."""
        return replace(self, table=rows.reshape(-1, rows.shape[-1]))

    def points(self) -> Tensor:
        """Positions (B, D * H * W, 3) of the nodes in mm, z, y, x; the padding's lie behind."""
        zero = torch.zeros(3, device=self.table.device)
        return lattice_points(self.shape, zero, self.spacing_mm).view(1, -1, 3) + self.origin_mm_zyx

    def sample(self, points_mm_zyx: Tensor) -> tuple[Tensor, Tensor]:
        """Trilinear features (B, N, C) at points (B, N, 3), and whether each lies inside."""
        place = (points_mm_zyx - self.origin_mm_zyx) / self.spacing_mm
        place = place.nan_to_num(0.0)  # a pair gone astray must not read another's rows
        inside = ((place >= -0.5) & (place <= self.last + 0.5)).all(dim=-1)
        index, weights = around(place, self.last, self.shape)
        first = torch.arange(len(self.shapes), device=index.device) * self.mask[0].numel()
        rows = (index + first[:, None, None]).flatten(0, 1)
        values = weighted(self.table, rows, weights.flatten(0, 1))
        return values.view(*inside.shape, -1), inside

    def own_numbers(self, pair: int, rows: Tensor) -> Tensor:
        """The numbers that `rows` (N,) of map `pair` had before it was padded."""
        _, height, width = self.shape
        z, rest = rows // (height * width), rows % (height * width)
        _, own_height, own_width = self.shapes[pair]
        return (z * own_height + rest // width) * own_width + rest % width

    def bordered(self, volume: Tensor) -> Tensor:
        """`volume` (B, C, D, H, W) with one node more on each side: its own edge repeated."""
        if not self.ragged:
            return functional.pad(volume, (1,) * 6, mode="replicate")
        for axis, n in enumerate(self.shape):
            place = torch.arange(-1, n + 1, device=volume.device).clamp(min=0)
            place = torch.minimum(place, self.last[:, 0, axis, None].long())
            view = [len(self.shapes), 1, 1, 1, 1]
            view[axis + 2] = n + 2
            shape = list(volume.shape)
            shape[axis + 2] = n + 2
            volume = volume.gather(axis + 2, place.view(view).expand(shape))
        return volume


@dataclass(frozen=True, kw_only=True)
class Starts:
    """The starts of B pairs: `matrix` (B, 3, 3) and `offset_mm` (B, 1, 3)."""

    matrix: Tensor
    offset_mm: Tensor

    def __call__(self, points_mm_zyx: Tensor) -> Tensor:
        """Where `points_mm_zyx` (B, N, 3) lie in the moving images."""
        return self.turned(points_mm_zyx) + self.offset_mm

    def turned(self, steps_mm_zyx: Tensor) -> Tensor:
        """Displacements (B, N, 3) as they are in the moving images."""
        return steps_mm_zyx @ self.matrix.mT


def in_groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in order, at most `size` together."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def stack(maps: Sequence[FeatureMap]) -> Stack:
    """`maps` as one batch; where some have fewer channels, theirs are filled up with zeros."""
    first = maps[0]
    shapes = tuple(one.shape for one in maps)
    origins = torch.stack([one.origin_mm_zyx for one in maps])[:, None]
    if len(maps) == 1:
        return Stack(
            table=first.table,
            mask=first.mask[None],
            origin_mm_zyx=origins,
            spacing_mm=first.spacing_mm,
            shapes=shapes,
        )
    wide = largest(shapes)
    channels = max(one.table.shape[1] for one in maps)
    table = first.table.new_zeros(len(maps), *wide, channels)
    mask = first.mask.new_zeros(len(maps), *wide)
    for part, body, one in zip(table, mask, maps, strict=True):
        z, y, x = one.shape
        part[:z, :y, :x, : one.table.shape[1]] = one.table.view(z, y, x, -1)
        body[:z, :y, :x] = one.mask
    return Stack(
        table=table.view(-1, channels),
        mask=mask,
        origin_mm_zyx=origins,
        spacing_mm=first.spacing_mm,
        shapes=shapes,
    )


def stack_starts(starts: Sequence[Start]) -> Starts:
    """`starts` as one batch."""
    return Starts(
        matrix=torch.stack([start.matrix for start in starts]),
        offset_mm=torch.stack([start.offset_mm for start in starts])[:, None],
    )


def largest(shapes: Sequence[Shape]) -> Shape:
    """The smallest grid that holds all of `shapes`."""
    z, y, x = (max(sizes) for sizes in zip(*shapes, strict=True))
    return z, y, x


def within(shapes: Sequence[Shape], wide: Shape, device: torch.device) -> Tensor:
    """Which nodes of the grid `wide` lie in each of `shapes`, (B, D, H, W)."""
    sizes = torch.tensor(shapes, device=device)
    z, y, x = (torch.arange(n, device=device) < sizes[:, axis, None] for axis, n in enumerate(wide))
    return z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :]
