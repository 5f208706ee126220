"""Losses that know what is known: masked, marginal over what is not, and safe when empty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def ramp(count: float, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = clip(count, 0, length) / length; 1 where `length` is 0.

    The sigmoid ramp-up of Laine and Aila (2017), as semi-supervised methods use it.
    """
    if length == 0:
        return 1.0
    share = min(max(count, 0.0), length) / length
    return math.exp(-5.0 * (1.0 - share) ** 2)


def one_hot(label: Tensor, n_classes: int) -> Tensor:
    """`label` (B, *) int64 as (B, `n_classes`, *) bool."""
    classes = torch.arange(n_classes, device=label.device).view(1, -1, *(1,) * (label.dim() - 1))
    return label.unsqueeze(1) == classes


def marginal_cross_entropy(logits: Tensor, label: Tensor, valid: Tensor, known: Tensor) -> Tensor:
    """-log of the probability of all classes that a voxel may be, mean over known voxels.

    A voxel may be its drawn class and every class that is not known there: on a slice done for
    the structures S, drawn background is -log(p_0 + sum of p_c for c not in S). `logits`
    (B, C, *), `label` and `valid` (B, *), `known` (B, C, *) bool. Each voxel's part is multiplied
    by `valid`, so labels of low confidence move the weights less. 0 with a gradient where `valid`
    is 0 everywhere.
    """
    logits, at_all = logits.float(), known.any(dim=1)
    # On a CPU the general way takes a quarter of a step; a GPU would have to wait for the answer.
    if logits.device.type == "cpu" and torch.equal(known.all(dim=1), at_all):
        per_voxel = functional.cross_entropy(logits, label, reduction="none")
    else:
        possible = one_hot(label, logits.shape[1]) | ~known
        among_possible = logits.masked_fill(~possible, torch.finfo(logits.dtype).min)
        per_voxel = logits.logsumexp(dim=1) - among_possible.logsumexp(dim=1)
    weight = valid * at_all
    return (per_voxel * weight).sum() / _positive((weight > 0).sum())


def soft_dice(
    probability: Tensor, target: Tensor, weight: Tensor, *, squared: bool = False, smooth: float
) -> Tensor:
    """1 - Dice per class (C,), sums over batch and space; all arguments (B, C, *).

    `squared` puts squares into the denominator (Milletari et al. 2016, V-Net); otherwise it is
    the plain sum.
    """
    over = [axis for axis in range(probability.dim()) if axis != 1]
    common = (probability * target * weight).sum(over)
    size = probability.square() if squared else probability
    total = ((size + target) * weight).sum(over)
    return 1 - (2 * common + smooth) / (total + smooth)


def masked_dice(logits: Tensor, label: Tensor, valid: Tensor, known: Tensor) -> Tensor:
    """Mean soft Dice loss of the structures that are drawn in this batch, background left out.

    Each class counts only voxels where it is known, weighted by `valid`; shapes as in
    `marginal_cross_entropy`. A class without a drawn voxel says nothing here (its false positives
    are the cross-entropy's part); one that is drawn counts as much as its voxels are trusted on
    average. 0 with a gradient where no structure is known.
    """
    target = one_hot(label, logits.shape[1])[:, 1:]
    weight = valid.unsqueeze(1) * known[:, 1:]
    probability = logits.float().softmax(dim=1)[:, 1:]
    per_class = soft_dice(probability, target.float(), weight, smooth=1e-5)
    over = [axis for axis in range(weight.dim()) if axis != 1]
    n_drawn = (target & (weight > 0)).sum(over)
    trust = (target * weight).sum(over) / _positive(n_drawn)
    return (per_class * trust).sum() / _positive((n_drawn > 0).sum())


def masked_squared_dice(logits: Tensor, label: Tensor, valid: Tensor, known: Tensor) -> Tensor:
    """Mean squared soft Dice loss over all classes that are known somewhere, background too.

    1 - (2 sum pt + e) / (sum p^2 + sum t^2 + e), sums over the batch, e = 1e-5 (Milletari et al.
    2016 as used by Luo et al. 2021); shapes as in `marginal_cross_entropy`. 0 with a gradient
    where nothing is known.
    """
    target = one_hot(label, logits.shape[1]).float()
    weight = valid.unsqueeze(1) * known
    probability = logits.float().softmax(dim=1)
    per_class = soft_dice(probability, target, weight, squared=True, smooth=1e-5)
    over = [axis for axis in range(weight.dim()) if axis != 1]
    counts = (weight > 0).sum(over) > 0
    return (per_class * counts).sum() / _positive(counts.sum())


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; 0 with a gradient where that is nowhere."""
    return torch.where(mask, values, 0.0).sum() / _positive(mask.sum())


def supervised_loss(logits: Tensor, label: Tensor, valid: Tensor, known: Tensor) -> Tensor:
    """Marginal cross-entropy plus masked Dice loss; shapes as in `marginal_cross_entropy`."""
    cross_entropy = marginal_cross_entropy(logits, label, valid, known)
    return cross_entropy + masked_dice(logits, label, valid, known)


def deep_supervised_loss(
    outputs: Sequence[Tensor], label: Tensor, valid: Tensor, known: Tensor
) -> Tensor:
    """`supervised_loss` over levels of resolution, finest first, each at half the weight before.

    Weights add up to 1 (Isensee et al. 2021, nnU-Net). A coarse voxel has the target of the voxel
    in its middle.
    """
    parts = []
    for level, logits in enumerate(outputs):
        targets = (coarsened(values, logits) for values in (label, valid, known))
        parts.append(supervised_loss(logits, *targets) * 0.5**level)
    return torch.stack(parts).sum() / (2 - 0.5 ** (len(parts) - 1))


def coarsened(values: Tensor, like: Tensor) -> Tensor:
    """`values` (..., *) at the middle of each voxel of `like` (B, C, *), which divides them."""
    for axis in range(2 - like.dim(), 0):
        step = values.shape[axis] // like.shape[axis]
        middle = torch.arange(like.shape[axis], device=values.device) * step + step // 2
        values = values.index_select(axis, middle)
    return values


def entropy(probability: Tensor) -> Tensor:
    """-sum p ln p over the classes of `probability` (B, C, *): (B, *), between 0 and ln C."""
    return -(probability * probability.clamp(min=1e-7).log()).sum(dim=1)


def normalised_entropy(probability: Tensor) -> Tensor:
    """`entropy` as a share of its largest value, in [0, 1]."""
    return entropy(probability) / math.log(probability.shape[1])


def _positive(total: Tensor) -> Tensor:
    """`total`, or 1 where it is 0, so that an empty sum divides to exactly 0."""
    return torch.where(total > 0, total, torch.ones_like(total))
