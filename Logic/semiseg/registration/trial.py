"""Trying starts out: a quick registration from each tells which one to trust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiseg.registration.dense import DenseSettings, mean_distance, refine
from semiseg.registration.discrete import search_both_ways
from semiseg.registration.prepared import Prepared
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.start import Start

_QUICK = DenseSettings(iterations=20, smoothness=0.4, knot_mm=18.0, points=5_000)
_REACH = 2
_PROBES = 2_000
_SAME_MM = 20.0
_CLEARLY_WORSE = 0.03


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """Where a start led: mean squared feature `distance`, and `places` (N, 3) of probe points."""

    distance: float
    places: Tensor


def choose_start(
    fixed: Prepared, moving: Prepared, starts: Sequence[Start], *, seed: int = 0
) -> Start:
    """The start from which a quick registration matches best.

    Its certainty is the share of equally good trials that lead to the same places: 1 where all
    agree or the others match clearly worse. The smaller body is matched to the larger one, so
    that every trial compares the same voxels.
    """
    if len(starts) == 1:
        return starts[0]
    swap = fixed.mask.sum() > moving.mask.sum()
    small, large = (moving, fixed) if swap else (fixed, moving)
    probes = _probes(small.features, seed)
    trials = [
        _tried(small, large, start.inverse() if swap else start, probes, seed) for start in starts
    ]
    best = min(range(len(trials)), key=lambda i: trials[i].distance)
    return replace(starts[best], certainty=_consensus(trials[best], trials))


def _tried(fixed: Prepared, moving: Prepared, start: Start, probes: Tensor, seed: int) -> _Trial:
    found = search_both_ways(fixed.plain.large_cells, moving.plain.large_cells, start, reach=_REACH)
    here, there = fixed.features, moving.features
    spline = refine(here, there, start, found.forth, replace(_QUICK, seed=seed))
    moved = spline.on(here).flatten(1).T
    return _Trial(
        distance=mean_distance(here, there, start, moved),
        places=start(here.points()[probes] + moved[probes]),
    )


def _probes(features: FeatureMap, seed: int) -> Tensor:
    """Numbers of some body nodes."""
    body = features.mask.flatten().nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    return body[torch.randint(len(body), (_PROBES,), generator=draw).to(body.device)]


def _consensus(best: _Trial, trials: Sequence[_Trial]) -> float:
    """Mean agreement with `best` over `trials`, each weighted by how well it matches."""
    total = agreed = 0.0
    clearly = max(_CLEARLY_WORSE * best.distance, 1e-9)  # an image onto itself leaves nothing
    for trial in trials:
        weight = math.exp((best.distance - trial.distance) / clearly)
        apart = (trial.places - best.places).norm(dim=1)
        total += weight
        agreed += weight * float((-(apart / _SAME_MM).square() / 2).exp().mean())
    return agreed / total
