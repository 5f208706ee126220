"""Registration of one volume onto another: start, discrete search, refinement, checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.config import RegistrationConfig
from semiseg.errors import ConfigError
from semiseg.events import Emit, Progress, ignore
from semiseg.registration.dense import DenseSettings, mean_distance, refine
from semiseg.registration.discrete import search_both_ways
from semiseg.registration.features import CHANNELS
from semiseg.registration.field import Field, folded_fraction, inverse_error_mm
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.prepared import Prepared, View, prepare
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.spline import Spline
from semiseg.registration.start import Start, body_scale, find_starts, tones_agree
from semiseg.registration.trial import choose_start
from semiseg.registration.velocity import Flow, integrated, refine_velocity
from semiseg.registration.warp import warp_image, warp_label, warp_onehot

# Counts up whenever results change, so that kept registrations are not mistaken for new ones.
ALGORITHM = 7
_FLOW_REPEATS = 4
_POINTS_EACH_WAY = 10_000
_FLOW_VOXELS = 2  # a flow is as smooth as its knots are apart: half the resolution is enough

__all__ = [
    "ALGORITHM",
    "Field",
    "Prepared",
    "RegistrationResult",
    "best_start",
    "prepare",
    "register",
    "warp_image",
    "warp_label",
    "warp_onehot",
]


@dataclass(frozen=True, kw_only=True)
class RegistrationResult:
    """`field` leads from fixed to moving space, `inverse` (if asked for) back.

    `folded` is the share of the body where the map turns inside out. Similarities are 1 - mean
    squared feature distance in the fixed body (1 is best). `inverse_error_mm` is the 95th
    percentile of the way there and back. `start_certainty` in [0, 1] with `start_reason`.
    `ways_apart_mm` is the median way there and back of two searches that did not know each other.
    """

    field: Field
    inverse: Field | None
    folded: float
    similarity_before: float
    similarity_after: float
    inverse_error_mm: float | None
    start_certainty: float
    start_reason: str
    seconds: float
    ways_apart_mm: float = 0.0


def register(
    fixed: Prepared,
    moving: Prepared,
    config: RegistrationConfig,
    emit: Emit = ignore,
    *,
    both_ways: bool = False,
    landmarks: Landmarks | None = None,
) -> RegistrationResult:
    """Find where each point of `fixed` lies in `moving`; `both_ways` also the way back.

    `landmarks` help where both images show structures that are known.
    """
    _require_same_spacing(fixed, moving)
    clock = time.perf_counter()
    progress = Progress(emit, "register", 3 + both_ways)
    start = best_start(fixed, moving, config)
    progress.update(1, start.reason)
    views = _views(fixed, moving, start)
    task = _Task(fixed, moving, *views, start, _settings(config), landmarks, both_ways)
    found = _velocity(task) if config.diffeomorphic else _splines(task)
    progress.update(2)
    result = _measured(fixed, moving, start, found)
    progress.update(3)
    if found.inverse is not None:
        error = inverse_error_mm(result.field, found.inverse, fixed.mask)
        result = replace(result, inverse=found.inverse, inverse_error_mm=error)
        progress.update(4)
    return replace(result, seconds=time.perf_counter() - clock)


@dataclass(frozen=True, kw_only=True)
class _Aligned:
    """`displacement_mm` (N, 3), z, y, x, of the fixed feature nodes before the start; the fields.

    `inverse` is None where nobody asked for it.
    """

    displacement_mm: Tensor
    field: Field
    inverse: Field | None
    ways_apart_mm: float


@dataclass(frozen=True)
class _Task:
    """What the dense match works on."""

    fixed: Prepared
    moving: Prepared
    here: View
    there: View
    start: Start
    settings: DenseSettings
    landmarks: Landmarks | None
    both_ways: bool


def _splines(task: _Task) -> _Aligned:
    """Each way on its own."""
    fixed, moving, start = task.fixed, task.moving, task.start
    found = search_both_ways(task.here.cells, task.there.cells, start)
    here, there, known = task.here.features, task.there.features, task.landmarks
    forward = refine(here, there, start, found.forth, task.settings, known)
    inverse = None
    if task.both_ways:
        home = start.inverse()
        turned = None if known is None else known.turned()
        backward = refine(there, here, home, found.back, task.settings, turned)
        inverse = _splined(moving, home, backward)
    return _Aligned(
        displacement_mm=forward.on(fixed.features).flatten(1).T,
        field=_splined(fixed, start, forward),
        inverse=inverse,
        ways_apart_mm=found.apart_mm,
    )


def _splined(image: Prepared, start: Start, spline: Spline) -> Field:
    voxels = _voxels(image)
    points = voxels.points()
    return _field(image, points, start(points + spline.on(voxels).flatten(1).T))


def _velocity(task: _Task) -> _Aligned:
    """One velocity for both ways: they undo each other."""
    fixed, moving, start = task.fixed, task.moving, task.start
    found = search_both_ways(task.here.cells, task.there.cells, start)
    here, there = task.here.features, task.there.features
    velocity = refine_velocity(here, there, start, found.forth, task.settings, task.landmarks)
    inverse = None
    if task.both_ways:
        points = _voxels(moving).points()
        back = start.inverse()(points)
        inverse = _field(moving, points, back + _flow(velocity, moving, -1).at(back))
    flow = _flow(velocity, fixed, 1)
    points = _voxels(fixed).points()
    return _Aligned(
        displacement_mm=flow.at(fixed.features.points()),
        field=_field(fixed, points, start(points + flow.at(points))),
        inverse=inverse,
        ways_apart_mm=found.apart_mm,
    )


def _flow(velocity: Spline, image: Prepared, direction: int) -> Flow:
    spacing_mm = _FLOW_VOXELS * image.spacing_mm
    return integrated(velocity, spacing_mm, backward=direction < 0, repeats=_FLOW_REPEATS)


def _views(fixed: Prepared, moving: Prepared, start: Start) -> tuple[View, View]:
    """What is compared: greys as well where both images show tissues in like greys."""
    alike = fixed.modality == moving.modality and tones_agree(fixed.tones, moving.tones, start)
    return (fixed.toned, moving.toned) if alike else (fixed.plain, moving.plain)


def _measured(
    fixed: Prepared, moving: Prepared, start: Start, found: _Aligned
) -> RegistrationResult:
    return RegistrationResult(
        field=found.field,
        inverse=None,
        folded=folded_fraction(found.field, fixed.mask),
        similarity_before=_similarity(fixed, moving, start, None),
        similarity_after=_similarity(fixed, moving, start, found.displacement_mm),
        inverse_error_mm=None,
        start_certainty=start.certainty,
        start_reason=start.reason,
        seconds=0.0,
        ways_apart_mm=found.ways_apart_mm,
    )


def best_start(fixed: Prepared, moving: Prepared, config: RegistrationConfig) -> Start:
    """The placement, out of the likely ones, from which a quick trial matches best.

    The moving body is first brought to the size of the fixed one.
    """
    scale = body_scale(fixed.overview, moving.overview)
    starts = find_starts(fixed.overview, moving.overview, scale=scale)
    return choose_start(fixed, moving, starts, seed=config.seed)


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


def _similarity(
    fixed: Prepared, moving: Prepared, start: Start, displacement_mm: Tensor | None
) -> float:
    apart = mean_distance(fixed.features, moving.features, start, displacement_mm)
    return 1 - apart / CHANNELS


def _require_same_spacing(fixed: Prepared, moving: Prepared) -> None:
    if abs(fixed.spacing_mm - moving.spacing_mm) > 1e-6:
        raise ConfigError(
            f"the fixed image was prepared at {fixed.spacing_mm:g} mm and the moving one at "
            f"{moving.spacing_mm:g} mm; prepare both with the same settings"
        )
