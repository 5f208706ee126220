"""Registration of one volume onto another: start, discrete search, refinement, checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from semiseg.config import RegistrationConfig
from semiseg.errors import ConfigError
from semiseg.events import Emit, Progress, ignore
from semiseg.registration.dense import DenseSettings, mean_distance, refine
from semiseg.registration.discrete import Coarse, search_both_ways
from semiseg.registration.features import CHANNELS
from semiseg.registration.field import Field, folded_fraction, inverse_error_mm
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.sampling import feature_map
from semiseg.registration.spline import Spline
from semiseg.registration.start import Start, body_scale, find_starts
from semiseg.registration.trial import choose_start
from semiseg.registration.warp import warp_image, warp_label, warp_onehot

# Counts up whenever results change, so that kept registrations are not mistaken for new ones.
ALGORITHM = 4

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


def register(
    fixed: Prepared,
    moving: Prepared,
    config: RegistrationConfig,
    emit: Emit = ignore,
    *,
    both_ways: bool = False,
) -> RegistrationResult:
    """Find where each point of `fixed` lies in `moving`; `both_ways` also the way back."""
    _require_same_spacing(fixed, moving)
    clock = time.perf_counter()
    progress = Progress(emit, "register", 3 + both_ways)
    start = best_start(fixed, moving, config)
    progress.update(1, start.reason)
    there, back = search_both_ways(fixed.cells, moving.cells, start)
    progress.update(2)
    spline = _dense(fixed, moving, start, there, config)
    result = _measured(fixed, moving, start, spline)
    progress.update(3)
    if both_ways:
        home = start.inverse()
        inverse = _field(moving, home, _dense(moving, fixed, home, back, config))
        error = inverse_error_mm(result.field, inverse, fixed.mask)
        result = replace(result, inverse=inverse, inverse_error_mm=error)
        progress.update(4)
    return replace(result, seconds=time.perf_counter() - clock)


def _measured(
    fixed: Prepared, moving: Prepared, start: Start, spline: Spline
) -> RegistrationResult:
    field = _field(fixed, start, spline)
    return RegistrationResult(
        field=field,
        inverse=None,
        folded=folded_fraction(field, fixed.mask),
        similarity_before=_similarity(fixed, moving, start, None),
        similarity_after=_similarity(fixed, moving, start, spline),
        inverse_error_mm=None,
        start_certainty=start.certainty,
        start_reason=start.reason,
        seconds=0.0,
    )


def best_start(fixed: Prepared, moving: Prepared, config: RegistrationConfig) -> Start:
    """The placement, out of the likely ones, from which a quick trial matches best.

    The moving body is first brought to the size of the fixed one.
    """
    scale = body_scale(fixed.overview, moving.overview)
    starts = find_starts(fixed.overview, moving.overview, scale=scale)
    return choose_start(fixed, moving, starts, seed=config.seed)


def _dense(
    fixed: Prepared, moving: Prepared, start: Start, coarse: Coarse, config: RegistrationConfig
) -> Spline:
    settings = DenseSettings(
        iterations=config.iterations,
        smoothness=0.4 * config.smoothness,
        knot_mm=config.grid_mm,
        seed=config.seed,
    )
    return refine(fixed.features, moving.features, start, coarse, settings)


def _field(fixed: Prepared, start: Start, spline: Spline) -> Field:
    """Start and spline together on the fixed grid, as LPS displacement."""
    origin = torch.tensor(fixed.grid.origin_mm_lps[::-1], dtype=torch.float32).to(fixed.device)
    nodes = torch.from_numpy(fixed.mask).to(fixed.device)
    like = feature_map(nodes[None].float(), nodes, origin, fixed.spacing_mm)
    points = like.points()
    moved = start(points + spline.on(like).flatten(1).T)
    zyx: NDArray[np.float32] = (moved - points).T.reshape(-1, *like.shape).cpu().numpy()
    return Field(displacement_mm=np.ascontiguousarray(zyx[::-1]), grid=fixed.grid)


def _similarity(fixed: Prepared, moving: Prepared, start: Start, spline: Spline | None) -> float:
    return 1 - mean_distance(fixed.features, moving.features, start, spline) / CHANNELS


def _require_same_spacing(fixed: Prepared, moving: Prepared) -> None:
    if abs(fixed.spacing_mm - moving.spacing_mm) > 1e-6:
        raise ConfigError(
            f"the fixed image was prepared at {fixed.spacing_mm:g} mm and the moving one at "
            f"{moving.spacing_mm:g} mm; prepare both with the same settings"
        )
