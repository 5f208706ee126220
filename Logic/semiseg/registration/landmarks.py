"""Labels as landmarks: structures known in both images draw each other together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semiseg.images.grid import Grid
from semiseg.images.resampling import resample_image
from semiseg.registration.prepared import Prepared
from semiseg.registration.sampling import FeatureMap, pooled, rows

_BLURS = 3  # each over a neighbour, so that an outline is felt from about 2 cm away
_WEIGHT = 10.0  # of a whole structure missed, against squared feature distance
_LEAST_TRUST = 0.5  # what is less sure does not guide


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """What is known of some structures in the fixed and the moving image.

    Tables (N, K + 1) on the features' lattices: blurred shares of K structures, then trust.
    """

    fixed: FeatureMap
    moving: FeatureMap
    weight: float = _WEIGHT

    def turned(self) -> Landmarks:
        """The same for the way back."""
        return Landmarks(fixed=self.moving, moving=self.fixed, weight=self.weight)

    def both_ways(self, p: Tensor, onto_moving: Tensor, q: Tensor, onto_fixed: Tensor) -> Tensor:
        """Mean `distance` of fixed nodes `p` and of moving nodes `q`."""
        return (self.distance(p, onto_moving) + self.turned().distance(q, onto_fixed)) / 2

    def distance(self, nodes: Tensor, points_mm_zyx: Tensor) -> Tensor:
        """Weighted mean squared difference between fixed `nodes` and moving points (N, 3).

        Only what both images know counts; nothing where they share nothing.
        """
        values, inside = self.moving.sample(points_mm_zyx)
        wanted = self.fixed.table[nodes]
        trust = inside * wanted[:, -1] * values[:, -1]
        squared = (values[:, :-1] - wanted[:, :-1]).square().sum(dim=1)
        return self.weight * (squared * trust).sum() / max(len(nodes), 1)


def landmark_map(
    image: Prepared,
    array: NDArray[np.integer],
    confidence: NDArray[np.float32],
    grid: Grid,
    ids: Sequence[int],
) -> FeatureMap:
    """Shares of `ids` in the label `array` (z, y, x) on `grid`, at the features of `image`.

    Voxels whose `confidence` is below one half are unknown.
    """
    sure = np.where(confidence >= _LEAST_TRUST, confidence, 0).astype(np.float32)
    volumes = [(array == i).astype(np.float32) for i in ids]
    here = [resample_image(volume, grid, image.grid, fill=0.0) for volume in (*volumes, sure)]
    fine = image.places(torch.from_numpy(np.stack(here)).to(image.device))
    coarse = pooled(fine, 2)
    shares = coarse.volume[None, :-1]
    for _ in range(_BLURS):
        shares = functional.avg_pool3d(shares, 3, stride=1, padding=1, count_include_pad=False)
    table = torch.cat([rows(shares[0]), coarse.table[:, -1:]], dim=1)
    return FeatureMap(
        table=table.contiguous(),
        mask=coarse.mask,
        origin_mm_zyx=coarse.origin_mm_zyx,
        spacing_mm=coarse.spacing_mm,
    )
