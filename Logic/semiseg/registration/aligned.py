"""The dense match of many pairs at once: search, refinement, fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.config import RegistrationConfig
from semiseg.registration.batch import as_pairs
from semiseg.registration.dense import refine
from semiseg.registration.descent import DenseSettings
from semiseg.registration.discrete import search_both_ways
from semiseg.registration.field import Field
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.matching import refine_velocity
from semiseg.registration.prepared import Prepared, View
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.spline import Splines
from semiseg.registration.stacked import Stack, stack
from semiseg.registration.start import Start, tones_agree
from semiseg.registration.velocity import Flow, integrated

_FLOW_REPEATS = 4
_POINTS_EACH_WAY = 5_000
_FLOW_VOXELS = 2  # a flow is as smooth as its knots are apart: half the resolution is enough


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images; `landmarks` help where both show structures that are known."""

    fixed: Prepared
    moving: Prepared
    landmarks: Landmarks | None = None


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """`displacement_mm` (N, 3), z, y, x, of the fixed feature nodes before the start; the fields.

    `inverse` is None where nobody asked for it.
    """

    displacement_mm: Tensor
    field: Field
    inverse: Field | None
    ways_apart_mm: float


def align(
    pairs: Sequence[Pair],
    starts: Sequence[Start],
    config: RegistrationConfig,
    *,
    both_ways: bool = False,
) -> list[Aligned]:
    """The maps from each fixed image to its moving one, and back where `both_ways`."""
    settings = _settings(config)
    way = _velocities if config.diffeomorphic else _splines
    return way(pairs, starts, settings, both_ways)


def _velocities(
    pairs: Sequence[Pair], starts: Sequence[Start], settings: DenseSettings, both_ways: bool
) -> list[Aligned]:
    """One velocity per pair for both ways: they undo each other."""
    here, there = _views(pairs, starts)
    found = search_both_ways([v.cells for v in here], [v.cells for v in there], starts)
    batch = as_pairs(
        [view.features for view in here],
        [view.features for view in there],
        starts,
        [pair.landmarks for pair in pairs],
    )
    velocity = refine_velocity(batch, found.forth, settings)
    apart_mm: list[float] = found.apart_mm.tolist()
    return [
        _flowed(pair, start, velocity.one(number), apart, both_ways)
        for number, (pair, start, apart) in enumerate(zip(pairs, starts, apart_mm, strict=True))
    ]


def _flowed(
    pair: Pair, start: Start, velocity: Splines, apart_mm: float, both_ways: bool
) -> Aligned:
    inverse = None
    if both_ways:
        points = _voxels(pair.moving).points()
        back = start.inverse()(points)
        home = _flow(velocity, pair.moving, -1)
        inverse = _field(pair.moving, points, back + home.at(back[None])[0])
    flow = _flow(velocity, pair.fixed, 1)
    points = _voxels(pair.fixed).points()
    return Aligned(
        displacement_mm=flow.at(pair.fixed.features.points()[None])[0],
        field=_field(pair.fixed, points, start(points + flow.at(points[None])[0])),
        inverse=inverse,
        ways_apart_mm=apart_mm,
    )


def _flow(velocity: Splines, image: Prepared, direction: int) -> Flow:
    spacing_mm = _FLOW_VOXELS * image.spacing_mm
    return integrated(velocity, spacing_mm, directions=(direction,), repeats=_FLOW_REPEATS)


def _splines(
    pairs: Sequence[Pair], starts: Sequence[Start], settings: DenseSettings, both_ways: bool
) -> list[Aligned]:
    """Each way on its own."""
    here, there = _views(pairs, starts)
    found = search_both_ways([v.cells for v in here], [v.cells for v in there], starts)
    known = [pair.landmarks for pair in pairs]
    images = [view.features for view in here], [view.features for view in there]
    forth = refine(as_pairs(*images, starts, known), found.forth, settings)
    inverses: list[Field | None] = [None] * len(pairs)
    if both_ways:
        home = [start.inverse() for start in starts]
        turned = [one if one is None else one.turned() for one in known]
        back = refine(as_pairs(*images[::-1], home, turned), found.back, settings)
        inverses = [
            _spline_field(pair.moving, start, back.one(number))
            for number, (pair, start) in enumerate(zip(pairs, home, strict=True))
        ]
    return [
        Aligned(
            displacement_mm=_spline_steps(forth.one(number), stack([pair.fixed.features])),
            field=_spline_field(pair.fixed, starts[number], forth.one(number)),
            inverse=inverses[number],
            ways_apart_mm=float(found.apart_mm[number]),
        )
        for number, pair in enumerate(pairs)
    ]


def _spline_steps(spline: Splines, places: Stack) -> Tensor:
    """Displacements (N, 3) of one pair at the nodes of `places`."""
    return spline.on(places)[0].flatten(1).T


def _spline_field(image: Prepared, start: Start, spline: Splines) -> Field:
    voxels = _voxels(image)
    points = voxels.points()
    return _field(image, points, start(points + _spline_steps(spline, stack([voxels]))))


def _views(pairs: Sequence[Pair], starts: Sequence[Start]) -> tuple[list[View], list[View]]:
    """What is compared: greys as well where both images show tissues in like greys."""
    here: list[View] = []
    there: list[View] = []
    for pair, start in zip(pairs, starts, strict=True):
        fixed, moving = pair.fixed, pair.moving
        alike = fixed.modality == moving.modality
        alike = alike and tones_agree(fixed.tones, moving.tones, start)
        here.append(fixed.toned if alike else fixed.plain)
        there.append(moving.toned if alike else moving.plain)
    return here, there


def _settings(config: RegistrationConfig) -> DenseSettings:
    return DenseSettings(
        points=_POINTS_EACH_WAY if config.diffeomorphic else DenseSettings.points,
        iterations=config.iterations,
        smoothness=0.4 * config.smoothness,
        knot_mm=config.grid_mm,
        seed=config.seed,
    )


def _voxels(image: Prepared) -> FeatureMap:
    """The image's voxels as places; its mask as their only feature."""
    return image.places(torch.from_numpy(image.mask)[None].float().to(image.device))


def _field(image: Prepared, points_zyx: Tensor, moved_zyx: Tensor) -> Field:
    """The way from the image's voxels (N, 3) to `moved_zyx`, as LPS displacement."""
    shape = image.grid.shape_zyx
    zyx: NDArray[np.float32] = (moved_zyx - points_zyx).T.reshape(3, *shape).cpu().numpy()
    return Field(displacement_mm=np.ascontiguousarray(zyx[::-1]), grid=image.grid)
