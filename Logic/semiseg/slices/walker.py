"""Clean-up at the outline: random walks that the image's edges stop.

Source: Grady, CVPR 2005 (random walker with priors), solved only in a band around the outline by
preconditioned conjugate gradients, all slices at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PRIOR = 0.2  # weight of what was thought before, against one neighbour of the same grey
_LEAST_CONTRAST = 0.02  # of greys in [0, 1]; smaller steps are noise
_FLOOR = 1e-3
_ROUNDS = 30
_CONVERGED = 1e-4
_MOST_SURE = 0.01


def walked(grey: Tensor, score: Tensor, *, band: float, scale: float) -> Tensor:
    """`score` (N, 1, H, W) with its zero line drawn towards edges of `grey`, in [0, 1].

    Only within `band` of the line anything changes; `scale` is the score at which one is
    fairly sure (both in the units of the score).
    """
    free = score.abs() < band
    if not bool(free.any()):
        return score
    prior = torch.sigmoid(score / scale)
    links = _links(grey, free)
    found = _solved(links, torch.where(free, prior, (score > 0).float()), prior, free)
    sure = found.clamp(_MOST_SURE, 1 - _MOST_SURE)
    return torch.where(free, scale * torch.logit(sure), score)


def _links(grey: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """How easily one walks between rows and between columns, near 0 across edges."""
    down, right = grey.diff(dim=-2), grey.diff(dim=-1)
    near = torch.cat([down[free[..., 1:, :]], right[free[..., 1:]]]).abs()
    contrast = max(float(near.median()) if len(near) else 0.0, _LEAST_CONTRAST)
    y, x = (torch.exp(-(step / contrast).square()) + _FLOOR for step in (down, right))
    return y, x


def _pulled(links: tuple[Tensor, Tensor], values: Tensor) -> Tensor:
    """The weighted Laplacian of `values`."""
    out = _PRIOR * values
    for link, axis in zip(links, (-2, -1), strict=True):
        flow = link * values.diff(dim=axis)
        size = values.shape[axis] - 1
        out.narrow(axis, 0, size).sub_(flow)
        out.narrow(axis, 1, size).add_(flow)
    return out


def _solved(links: tuple[Tensor, Tensor], start: Tensor, prior: Tensor, free: Tensor) -> Tensor:
    """Conjugate gradients on the free pixels; the others keep the values of `start`."""
    mask = free.float()
    weight = _pulled(links, torch.zeros_like(start))
    for link, axis in zip(links, (-2, -1), strict=True):
        size = start.shape[axis] - 1
        weight.narrow(axis, 0, size).add_(link)
        weight.narrow(axis, 1, size).add_(link)
    weight = weight + _PRIOR
    rest = mask * (_PRIOR * prior - _pulled(links, start))
    found, preconditioned = start, rest / weight
    direction, product = preconditioned, (rest * preconditioned).sum()
    goal = _CONVERGED**2 * float(product)
    for _ in range(_ROUNDS):
        if float(product) <= max(goal, 1e-20):
            break
        image = mask * _pulled(links, direction)
        step = product / (direction * image).sum()
        found, rest = found + step * direction, rest - step * image
        preconditioned = rest / weight
        last, product = product, (rest * preconditioned).sum()
        direction = preconditioned + (product / last) * direction
    return found
