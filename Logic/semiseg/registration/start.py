"""The robust start: every translation tried at once, on contrast-free features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from semiseg.registration.sampling import FeatureMap, lattice_points

_APART_MM = 30.0
_LARGEST_SCALE = 1.4
_SEARCHED = "found by search over all translations"
_MIN_OVERLAP = 0.6  # of the smaller body, or nearly as much as two crossed bodies can
_NEARLY = 0.9
_LIKE_TONES = 0.0  # correlation of greys; of pairs of one contrast it was 0.06 to 0.45


@dataclass(frozen=True, kw_only=True)
class Start:
    """Fixed point p maps to `matrix @ p + offset_mm` (z, y, x); `certainty` in [0, 1], why."""

    matrix: Tensor
    offset_mm: Tensor
    certainty: float
    reason: str

    def __call__(self, points_mm_zyx: Tensor) -> Tensor:
        """Where `points_mm_zyx` (N, 3) lie in the moving image."""
        return points_mm_zyx @ self.matrix.T + self.offset_mm

    def inverse(self) -> Start:
        """The same start from moving to fixed."""
        back = torch.linalg.inv(self.matrix)
        return replace(self, matrix=back, offset_mm=-back @ self.offset_mm)


def find_start(fixed: FeatureMap, moving: FeatureMap) -> Start:
    """The first of `find_starts`."""
    return find_starts(fixed, moving, count=1)[0]


def find_starts(
    fixed: FeatureMap, moving: FeatureMap, *, count: int = 4, scale: Tensor | None = None
) -> tuple[Start, ...]:
    """Up to `count` translations, at least 3 cm apart, best first, after `scale` (z, y, x).

    Best is the least mean feature distance where the two bodies overlap. Both maps need the same
    spacing. The certainty compares a place with the best one more than 3 cm away. Where there is
    nothing to compare, the centres are put together: certainty 0, with the reason.
    """
    trouble = _trouble(fixed, "fixed") or _trouble(moving, "moving")
    if trouble:
        return (_centred(fixed, moving, trouble),)
    scale = torch.ones_like(fixed.origin_mm_zyx) if scale is None else scale
    resized = _resized(moving, scale)
    cost = _translation_costs(fixed, resized)
    seen = cost[torch.isfinite(cost)]
    spread = float(seen.std()) if len(seen) > 1 else 0.0
    peaks = _peaks(cost, count + 1, fixed.spacing_mm)
    starts: list[Start] = []
    for rank, (place, value) in enumerate(peaks[:count]):
        rival = peaks[0 if rank else 1][1] if len(peaks) > 1 else None
        shift = _signed(place, cost.shape, resized.shape).to(cost.device) * fixed.spacing_mm
        offset = scale * (resized.origin_mm_zyx - fixed.origin_mm_zyx + shift)
        certainty = _certainty(value, rival, spread)
        found = Start(
            matrix=torch.diag(scale), offset_mm=offset, certainty=certainty, reason=_SEARCHED
        )
        starts.append(found)
    return tuple(starts)


def body_scale(fixed: FeatureMap, moving: FeatureMap) -> Tensor:
    """Size of the moving body over that of the fixed one, (z, y, x), from their cross-sections.

    Stout bodies are wider, but hardly longer: along z it is the root of the ratio.
    """
    ratio = _girth_mm(moving) / _girth_mm(fixed)
    across = min(max(ratio, 1 / _LARGEST_SCALE), _LARGEST_SCALE)
    return torch.tensor([math.sqrt(across), across, across], device=fixed.table.device)


def tones_agree(fixed: FeatureMap, moving: FeatureMap, start: Start) -> bool:
    """Whether bright places of one body are bright in the other, as roughly placed by `start`.

    Both maps hold greys. Sequences of MR may show the same tissue bright and dark.
    """
    body = _core(fixed).flatten().nonzero()[:, 0]
    points = start(fixed.points()[body])
    there, inside = moving.sample(points)
    core = replace(moving, table=_core(moving).reshape(-1, 1).float())
    both = inside & (core.sample(points)[0][:, 0] > 0.5)
    tones = torch.stack([fixed.table[body][both, 0], there[both, 0]])
    if tones.shape[1] < 2 or float(tones.std(dim=1).min()) < 1e-6:
        return False
    return float(torch.corrcoef(tones)[0, 1]) > _LIKE_TONES


def _core(features: FeatureMap) -> Tensor:
    """The body without its skin, two nodes deep: bodies always resemble each other there."""
    outside = functional.max_pool3d((~features.mask)[None].float(), 5, stride=1, padding=2)
    return outside[0] < 0.5


def _girth_mm(features: FeatureMap) -> float:
    """Root of the body's median cross-section; slices with little of it do not count."""
    areas = features.mask.sum(dim=(1, 2)).float()
    whole = areas[areas > 0.3 * areas.max()]
    return math.sqrt(float(whole.median())) * features.spacing_mm if len(whole) else 1.0


def _resized(features: FeatureMap, scale: Tensor) -> FeatureMap:
    """`features` with all positions divided by `scale`, on a lattice of the same spacing."""
    if bool((scale == 1).all()):
        return features
    shape = [max(1, math.ceil(n / s)) for n, s in zip(features.shape, scale.tolist(), strict=True)]
    origin = features.origin_mm_zyx / scale
    points = lattice_points(shape, origin, features.spacing_mm).reshape(-1, 3) * scale
    values, _ = features.sample(points)
    body, _ = replace(features, table=features.mask.reshape(-1, 1).float()).sample(points)
    return FeatureMap(
        table=values,
        mask=(body[:, 0] > 0.5).reshape(shape),
        origin_mm_zyx=origin,
        spacing_mm=features.spacing_mm,
    )


def _trouble(features: FeatureMap, which: str) -> str | None:
    if not bool(features.mask.any()):
        return f"no body was found in the {which} image"
    if float(features.table.var(dim=0).max()) < 1e-8:
        return f"the {which} image shows no structure"
    return None


def _centred(fixed: FeatureMap, moving: FeatureMap, reason: str) -> Start:
    offset = _centre(moving) - _centre(fixed)
    reason = f"{reason}; the volumes' centres were put together"
    matrix = torch.eye(3, device=offset.device)
    return Start(matrix=matrix, offset_mm=offset, certainty=0.0, reason=reason)


def _centre(features: FeatureMap) -> Tensor:
    last = torch.tensor(features.shape, device=features.table.device) - 1
    return features.origin_mm_zyx + last * features.spacing_mm / 2


def _translation_costs(fixed: FeatureMap, moving: FeatureMap) -> Tensor:
    """Mean squared distance for every shift (cyclic array), infinite where too little overlaps.

    sum Mf Mm |F - M|^2 over all shifts at once by correlation in Fourier space.
    """
    size = [_fast(a + b - 1) for a, b in zip(fixed.shape, moving.shape, strict=True)]

    def forward(volume: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfftn(volume, s=size, dim=(-3, -2, -1))
        return spectrum

    mask_f, mask_m = fixed.mask.float(), moving.mask.float()
    feature_f, feature_m = fixed.volume * mask_f, moving.volume * mask_m
    spectrum_f, spectrum_m = forward(mask_f).conj(), forward(mask_m)
    overlap = torch.fft.irfftn(spectrum_f * spectrum_m, s=size).round().clamp(min=0)
    total = spectrum_f * forward(feature_m.square().sum(0))
    total += forward(feature_f.square().sum(0)).conj() * spectrum_m
    for one, other in zip(feature_f, feature_m, strict=True):
        total -= 2 * forward(one).conj() * forward(other)
    cost = torch.fft.irfftn(total, s=size) / overlap.clamp(min=1)
    wanted = _MIN_OVERLAP * min(float(mask_f.sum()), float(mask_m.sum()))
    least = min(wanted, _NEARLY * float(overlap.max()))
    return torch.where(overlap >= least, cost, torch.inf)


def _fast(n: int) -> int:
    """The next even size."""
    return n + n % 2


def _peaks(cost: Tensor, count: int, spacing_mm: float) -> list[tuple[tuple[int, int, int], float]]:
    """The cheapest places of a cyclic array, best first, none within 3 cm of a better one."""
    left, peaks = cost.clone(), []
    for _ in range(count):
        place = _coordinates(int(left.argmin()), left.shape)
        value = float(left[place])
        if not math.isfinite(value):
            break
        peaks.append((place, value))
        left[_around(place, left.shape, spacing_mm).to(left.device)] = torch.inf
    return peaks


def _around(place: tuple[int, int, int], shape: torch.Size, spacing_mm: float) -> Tensor:
    """Where a cyclic array of `shape` is within 3 cm of `place`."""
    squares: list[Tensor] = []
    for centre, n in zip(place, shape, strict=True):
        steps = (torch.arange(n) - centre).abs()
        squares.append((torch.minimum(steps, n - steps) * spacing_mm).square())
    z, y, x = squares
    return z[:, None, None] + y[:, None] + x <= _APART_MM**2


def _certainty(value: float, rival: float | None, spread: float) -> float:
    """How far a place stands out from its rival, in units of the spread over all places.

    1 where no other place is possible at all.
    """
    if rival is None:
        return 1.0
    gap = rival - value
    return 1 - math.exp(-2 * gap / spread) if spread > 0 and gap > 0 else 0.0


def _coordinates(flat: int, shape: torch.Size) -> tuple[int, int, int]:
    z, rest = divmod(flat, shape[1] * shape[2])
    y, x = divmod(rest, shape[2])
    return z, y, x


def _signed(place: tuple[int, int, int], size: torch.Size, moving: tuple[int, int, int]) -> Tensor:
    """Shift in voxels: cyclic indices from the moving size on mean negative shifts."""
    pairs = zip(place, size, moving, strict=True)
    return torch.tensor([p if p < m else p - s for p, s, m in pairs], dtype=torch.float32)
