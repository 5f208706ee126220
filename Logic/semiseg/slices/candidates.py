"""Three ways to say where a structure lies in slices that nobody drew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from semiseg.slices.flow import NeighbourFlow, chained, enlarged, halved, neighbour_flow, sample
from semiseg.slices.patches import Source, patch_vote, usual_difference
from semiseg.slices.stack import CLIP_PIXELS, Stack
from semiseg.slices.targets import Target
from semiseg.slices.walker import walked

FillMethod = Literal["guided", "interpolated", "nearest"]
FILL_METHODS: tuple[FillMethod, ...] = get_args(FillMethod)
_COARSE_RADIUS = 3
# Larger slices are first filled at half their resolution, which takes a quarter of the time.
_LARGE_PIXELS = 150**2
_LEAST_TOLERANCE, _MOST_TOLERANCE = 0.02, 0.1
_FINE_RADIUS, _FINE_TOLERANCE, _FINE_ROUNDS = 1, 0.07, 2
# On coarser pixels edges are blurred: at 3 mm walking took .02 Dice from an MR scan.
_WALKED_UP_TO_MM = 2.0
_BAND_PIXELS, _SURE_PIXELS = 3.0, 2.0  # where edges lead the outline

Opinion: TypeAlias = "tuple[Tensor, Tensor]"
"""Score in mm, positive inside, and agreement of the two sides in [0, 1]; both (T, 1, h, w)."""


def interpolated(stack: Stack, targets: Sequence[Target]) -> Opinion:
    """Signed distances blended linearly (Raya and Udupa 1990)."""
    below, above = _both_sides(stack, targets)
    share = _column(target.share for target in targets)
    score = (1 - share) * below + share * above
    return _ended(score, targets, stack.depth_mm), _agreement(below, above)


def nearest(stack: Stack, targets: Sequence[Target]) -> Opinion:
    """The nearest done slice, copied."""
    below, above = _both_sides(stack, targets)
    second = _column(float(target.share > 0.5) for target in targets)
    score = torch.where(second > 0, above, below)
    return _ended(score, targets, stack.depth_mm), _agreement(below, above)


class Guided:
    """The image leads: done slices follow its motion, then look-alike patches vote."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._factor = 1 if math.prod(stack.grey.shape[-2:]) <= _LARGE_PIXELS else 2
        self._grey = halved(stack.grey, self._factor)
        self._shapes = halved(stack.clipped, self._factor)
        self._flow = neighbour_flow(self._grey)
        self._upward = _upward_paths(self._flow, stack.done, len(stack.grey))
        self._downward = _downward_paths(self._flow, stack.done)

    def coarse(self, targets: Sequence[Target]) -> Opinion:
        """Opinion at the resolution of the motion, enlarged."""
        grey = self._grey[[target.place for target in targets]]
        sources = [
            self._source(targets, [t.below for t in targets], [1 - t.share for t in targets]),
            self._source(targets, [t.above for t in targets], [t.share for t in targets]),
        ]
        usual = usual_difference(grey, sources)
        tolerance = min(max(usual, _LEAST_TOLERANCE), _MOST_TOLERANCE)
        score, agreement = patch_vote(grey, sources, radius=_COARSE_RADIUS, tolerance=tolerance)
        like = self._stack.grey
        return enlarged(score, like, self._factor), enlarged(agreement, like, self._factor)

    def fine(self, targets: Sequence[Target]) -> Opinion:
        """The coarse opinion, settled between neighbours at full resolution, led to edges."""
        stack = self._stack
        score, agreement = self.coarse(targets)
        places = [target.place for target in targets]
        volume = torch.full_like(stack.grey, -stack.clip_mm)
        volume[list(stack.done)] = stack.clipped
        for _ in range(_FINE_ROUNDS):
            volume[places] = score
            itself = Source(grey=stack.grey[places], score=score, weight=torch.ones(len(places)))
            sources = [self._neighbour(volume, places, step) for step in (-1, 1)]
            score, _ = patch_vote(
                itself.grey, [*sources, itself], radius=_FINE_RADIUS, tolerance=_FINE_TOLERANCE
            )
        pixel_mm = stack.clip_mm / CLIP_PIXELS
        if pixel_mm <= _WALKED_UP_TO_MM:
            band, scale = _BAND_PIXELS * pixel_mm, _SURE_PIXELS * pixel_mm
            score = walked(stack.grey[places], score, band=band, scale=scale)
        return _ended(score, targets, stack.clip_mm), agreement

    def _source(
        self, targets: Sequence[Target], numbers: Sequence[int], weights: Sequence[float]
    ) -> Source:
        """Done slices `numbers`, moved onto the targets."""
        paths = []
        for target, number in zip(targets, numbers, strict=True):
            upward = target.place > self._stack.done[number]
            known = self._upward if upward else self._downward
            paths.append(known[number, target.place])
        path = torch.cat(paths)
        done = [self._stack.done[number] for number in numbers]
        return Source(
            grey=sample(self._grey[done], path),
            score=sample(self._shapes[list(numbers)], path),
            weight=torch.tensor(weights, dtype=torch.float32),
        )

    def _neighbour(self, volume: Tensor, places: Sequence[int], step: int) -> Source:
        """The slices next to `places`, moved onto them; of no weight beyond the stack."""
        grey = self._stack.grey
        there = [place + step for place in places]
        fits = [0 <= place < len(grey) for place in there]
        there = [place if fit else place - step for place, fit in zip(there, fits, strict=True)]
        flow = self._flow.down if step < 0 else self._flow.up
        row = [min(max(p - (step < 0), 0), len(flow) - 1) for p in places]
        shift = self._factor * enlarged(flow[row], grey, self._factor)
        return Source(
            grey=sample(grey[there], shift),
            score=sample(volume[there], shift),
            weight=torch.tensor(fits, dtype=torch.float32),
        )


def _upward_paths(
    flow: NeighbourFlow, done: Sequence[int], size: int
) -> dict[tuple[int, int], Tensor]:
    """(number, place) to where the place's pixels lie in that done slice below, up to the next."""
    paths = {}
    for number, start in enumerate(done):
        path: Tensor | None = None
        stop = done[number + 1] if number + 1 < len(done) else size - 1
        for place in range(start + 1, stop + 1):
            path = chained(flow.down[place - 1 : place], path)
            paths[number, place] = path
    return paths


def _downward_paths(flow: NeighbourFlow, done: Sequence[int]) -> dict[tuple[int, int], Tensor]:
    paths = {}
    for number, start in enumerate(done):
        path: Tensor | None = None
        stop = done[number - 1] if number > 0 else 0
        for place in range(start - 1, stop - 1, -1):
            path = chained(flow.up[place : place + 1], path)
            paths[number, place] = path
    return paths


def _both_sides(stack: Stack, targets: Sequence[Target]) -> Opinion:
    below = stack.distance[[target.below for target in targets]]
    return below, stack.distance[[target.above for target in targets]]


def _agreement(one: Tensor, other: Tensor) -> Tensor:
    return 1 - (one.sigmoid() - other.sigmoid()).abs()


def _ended(score: Tensor, targets: Sequence[Target], depth_mm: float) -> Tensor:
    """`score`, sinking as a ball gets narrower: nothing of it is left at a taper of 1."""
    narrowing = [1 - math.sqrt(max(0.0, 1 - target.taper**2)) for target in targets]
    return score - depth_mm * _column(narrowing)


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1, 1)
