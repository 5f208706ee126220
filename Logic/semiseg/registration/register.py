"""Registration of one volume onto another: start, discrete search, refinement, checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from semiseg.config import RegistrationConfig
from semiseg.errors import ConfigError, ImageError
from semiseg.events import Emit, Progress, ignore
from semiseg.registration.aligned import Aligned, Pair, align
from semiseg.registration.features import CHANNELS
from semiseg.registration.field import Field, folded_fraction, inverse_error_mm
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.start import Start, body_scale, find_starts
from semiseg.registration.trial import choose_start
from semiseg.registration.warp import warp_image, warp_label, warp_onehot

# Counts up whenever results change, so that kept registrations are not mistaken for new ones.
ALGORITHM = 9

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
    require_same_spacing(fixed, moving)
    clock = time.perf_counter()
    progress = Progress(emit, "register", 3 + both_ways)
    start = best_start(fixed, moving, config)
    progress.update(1, start.reason)
    pair = Pair(fixed=fixed, moving=moving, landmarks=landmarks)
    (found,) = align([pair], [start], config, both_ways=both_ways)
    progress.update(2)
    result = measured(pair, start, found)
    progress.update(3 + both_ways)
    return replace(result, seconds=time.perf_counter() - clock)


def measured(pair: Pair, start: Start, found: Aligned) -> RegistrationResult:
    """What was found, with how good it is; `seconds` is left to the caller.

    ImageError where it is not finite.
    """
    fixed = pair.fixed
    if not np.isfinite(found.field.displacement_mm).all():
        raise ImageError(
            "the registration did not stay finite; at least one of the two images holds values "
            "that are no numbers: look at both, and leave out the one that is damaged"
        )
    error_mm = None
    if found.inverse is not None:
        error_mm = inverse_error_mm(found.field, found.inverse, fixed.mask)
    return RegistrationResult(
        field=found.field,
        inverse=found.inverse,
        folded=folded_fraction(found.field, fixed.mask),
        similarity_before=_similarity(pair, start, None),
        similarity_after=_similarity(pair, start, found.displacement_mm),
        inverse_error_mm=error_mm,
        start_certainty=start.certainty,
        start_reason=start.reason,
        seconds=0.0,
        ways_apart_mm=found.ways_apart_mm,
    )


def best_start(fixed: Prepared, moving: Prepared, config: RegistrationConfig) -> Start:
    """The placement, out of the likely ones, from which a quick trial matches best."""
    return choose_start(fixed, moving, likely_starts(fixed, moving), seed=config.seed)


def likely_starts(fixed: Prepared, moving: Prepared) -> tuple[Start, ...]:
    """Placements to be tried; the moving body is first brought to the size of the fixed one."""
    scale = body_scale(fixed.overview, moving.overview)
    return find_starts(fixed.overview, moving.overview, scale=scale)


def _similarity(pair: Pair, start: Start, displacement_mm: Tensor | None) -> float:
    """1 - mean squared feature distance in the fixed body, where the moving image reaches."""
    here, there = pair.fixed.features, pair.moving.features
    body = here.mask.flatten()
    points = here.points() if displacement_mm is None else here.points() + displacement_mm
    values, inside = there.sample(start(points[body]))
    squared = (values - here.table[body]).square().sum(dim=1)
    return 1 - float((squared * inside).sum() / inside.sum().clamp(min=1)) / CHANNELS


def require_same_spacing(fixed: Prepared, moving: Prepared) -> None:
    """ConfigError where the two cannot be compared."""
    if abs(fixed.spacing_mm - moving.spacing_mm) > 1e-6:
        raise ConfigError(
            f"the fixed image was prepared at {fixed.spacing_mm:g} mm and the moving one at "
            f"{moving.spacing_mm:g} mm; prepare both with the same settings"
        )
