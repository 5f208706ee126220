"""Contrastive losses over features of length one: by class, and by given positives."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_contrast(feature: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss in which each class counts alike, however many members it has.

    loss_i = log(sum over k != i of exp(s_ik) / w_ik) - mean over positives p of s_ip, with
    s = z z^T / temperature, w_ik = n(y_k) - [y_k = y_i]: every class enters the denominator with
    its mean. The mean of s_ip is z_i times the mean feature of its class (Eq. 5 of CCT-R).
    `feature` (N, D) of length one, `label` (N,). 0 with a gradient without any positive.
    """
    scores = feature @ feature.T / temperature
    same = label[:, None] == label
    oneself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    weight = (same.sum(dim=0) - same.int()).clamp(min=1)
    positive = same & ~oneself
    counts = positive.any(dim=1)
    if not counts.any():
        return 0.0 * feature.sum()
    balanced = (scores - weight.log()).masked_fill(oneself, -torch.inf)[counts]
    attracted = (scores * positive).sum(dim=1)[counts] / positive.sum(dim=1)[counts]
    return (balanced.logsumexp(dim=1) - attracted).mean()


def info_nce(
    anchor: Tensor, positive: Tensor, negatives: Tensor, repels: Tensor, temperature: float
) -> Tensor:
    """Mean over anchors of -log(exp(a p / t) / (exp(a p / t) + sum over n of exp(a n / t))).

    `anchor` and `positive` (A, D), `negatives` (N, D), `repels` (A, N) bool: which negatives are
    an anchor's; features of length one. 0 with a gradient without anchors.
    """
    if not len(anchor):
        return 0.0 * anchor.sum()
    near = (anchor * positive).sum(dim=1, keepdim=True) / temperature
    far = (anchor @ negatives.T / temperature).masked_fill(~repels, -torch.inf)
    return (torch.cat([near, far], dim=1).logsumexp(dim=1) - near[:, 0]).mean()
