"""Trying starts out: a quick registration from each tells which one to trust."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from semiseg.registration.batch import Body, as_pairs, mean_distances, of_nodes
from semiseg.registration.dense import refine
from semiseg.registration.descent import DenseSettings
from semiseg.registration.discrete import search_both_ways
from semiseg.registration.prepared import Prepared
from semiseg.registration.sampling import FeatureMap, thinned
from semiseg.registration.stacked import in_groups
from semiseg.registration.start import Start

_QUICK = DenseSettings(iterations=20, smoothness=0.4, knot_mm=18.0, points=5_000)
_REACH = (2, 2, 2)
_PROBES = 2_000
_MANY = 20_000  # nodes in the body
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
    """`choose_starts` for one pair."""
    return choose_starts([(fixed, moving)], [starts], seed=seed)[0]


def choose_starts(
    pairs: Sequence[tuple[Prepared, Prepared]],
    starts: Sequence[Sequence[Start]],
    *,
    seed: int = 0,
    at_once: int | None = None,
) -> list[Start]:
    """Of each pair (fixed, moving) the start from which a quick registration matches best.

    `at_once` starts are tried as one batch: by default all on a GPU, 1 on a CPU. A certainty is
    the share of equally good trials that lead to the same places: 1 where all agree or the others
    match clearly worse. The smaller body is matched to the larger one, so that every trial of a
    pair compares the same voxels.
    """
    tasks = [_tasks(*pair, likely) for pair, likely in zip(pairs, starts, strict=True)]
    flat = [task for some in tasks for task in some]
    trials: dict[int, _Trial] = {}
    for thin in (True, False):
        numbers = [number for number, task in enumerate(flat) if task.thin is thin]
        size = at_once or (len(numbers) if _on_gpu(pairs) else 1)
        for group in in_groups(numbers, max(size, 1)):
            trials |= zip(group, _tried([flat[number] for number in group], seed), strict=True)
    ordered = iter(trials[number] for number in range(len(flat)))
    return [
        _best(likely, list(itertools.islice(ordered, len(some))))
        for likely, some in zip(starts, tasks, strict=True)
    ]


def _on_gpu(pairs: Sequence[tuple[Prepared, Prepared]]) -> bool:
    return all(fixed.device.type == "cuda" for fixed, _ in pairs)


@dataclass(frozen=True, kw_only=True)
class _Task:
    small: Prepared
    large: Prepared
    start: Start

    @cached_property
    def thin(self) -> bool:
        """Whether every second node along each axis will do: much quicker."""
        return int(self.small.features.mask.sum()) >= _MANY

    @property
    def nodes(self) -> FeatureMap:
        """The features that are looked for in the larger image."""
        return thinned(self.small.features, 2) if self.thin else self.small.features


def _tasks(fixed: Prepared, moving: Prepared, starts: Sequence[Start]) -> list[_Task]:
    """What has to be tried; nothing where there is no choice."""
    if len(starts) == 1:
        return []
    if fixed.mask.sum() > moving.mask.sum():
        return [_Task(small=moving, large=fixed, start=start.inverse()) for start in starts]
    return [_Task(small=fixed, large=moving, start=start) for start in starts]


def _best(starts: Sequence[Start], trials: Sequence[_Trial]) -> Start:
    if not trials:
        return starts[0]
    best = min(range(len(trials)), key=lambda i: trials[i].distance)
    return replace(starts[best], certainty=_consensus(trials[best], trials))


def _tried(tasks: Sequence[_Task], seed: int) -> list[_Trial]:
    """A quick registration from each start, all at once."""
    starts = [task.start for task in tasks]
    found = search_both_ways(
        [task.small.plain.large_cells for task in tasks],
        [task.large.plain.large_cells for task in tasks],
        starts,
        reach=_REACH,
    )
    batch = as_pairs(
        [task.nodes for task in tasks], [task.large.features for task in tasks], starts
    )
    spline = refine(batch, found.forth, replace(_QUICK, seed=seed))
    places = batch.fixed.points() + spline.on(batch.fixed).flatten(2).transpose(1, 2)
    places, body = batch.starts(places), Body(batch.fixed)
    chance = torch.rand(_PROBES, generator=torch.Generator().manual_seed(seed))
    probes = body.some(chance.to(places.device))
    whole = body.some(torch.zeros(body.most, device=places.device))
    moved = [of_nodes(places, some.rows) for some in (whole, probes)]
    distances: list[float] = mean_distances(batch.moving, moved[0], whole).tolist()
    return [
        _Trial(distance=distance, places=places[:size])
        for distance, places, size in zip(distances, moved[1], probes.sizes, strict=True)
    ]


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
