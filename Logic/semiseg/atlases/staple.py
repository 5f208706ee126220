"""Truth and reliability of atlases estimated together, on soft labels with local weights.

Sources: Warfield et al., TMI 2004 (STAPLE); Asman and Landman, MedIA 2013 (local weights, and
leaving out what nobody disputes).
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 20
_CONVERGED = 1e-4
_SURE_OF_ATLAS = 0.99  # no atlas is believed beyond this, however it agrees
_PSEUDO_VOXELS = 20.0  # of an atlas that is right in _USUAL of its voxels; steadies small organs
_USUAL = 0.8
_PRIOR = 0.02, 0.98


def staple(shares: Tensor, weights: Tensor) -> Tensor:
    """Probability (N,) that each voxel is of the structure; 0 or 1 where all atlases agree.

    `shares` (K, N) in [0, 1] are what K atlases say, `weights` (K, N), adding up to 1 or less in
    each voxel, how much they are heard just there. Background: their weighted mean is the prior.
    """
    total = weights.sum(dim=0).clamp(min=1e-12)
    heard = weights / total
    vote = (heard * shares).sum(dim=0)
    disputed = (shares.amax(dim=0) > 0) & (shares.amin(dim=0) < 1)
    if len(shares) < 2 or not bool(disputed.any()):
        return vote
    vote[disputed] = _settled(shares[:, disputed], heard[:, disputed], vote[disputed])
    return vote


def _settled(shares: Tensor, heard: Tensor, vote: Tensor) -> Tensor:
    """Expectation and maximization until the truth stays."""
    prior = torch.logit(vote.clamp(*_PRIOR))
    truth = vote
    votes = heard * len(shares)
    for _ in range(_ROUNDS):
        found = _reliability(shares, heard, truth)
        missing = _reliability(1 - shares, heard, 1 - truth)
        for_it = torch.log(found / (1 - missing))[:, None] * shares
        against = torch.log((1 - found) / missing)[:, None] * (1 - shares)
        last, truth = truth, torch.sigmoid(prior + (votes * (for_it + against)).sum(dim=0))
        if float((truth - last).abs().mean()) < _CONVERGED:
            break
    return truth


def _reliability(shares: Tensor, heard: Tensor, truth: Tensor) -> Tensor:
    """Of each atlas the share (K,) of what is true that it says, where it is heard."""
    right = (heard * shares * truth).sum(dim=1) + _PSEUDO_VOXELS * _USUAL
    reliable = right / ((heard * truth).sum(dim=1) + _PSEUDO_VOXELS)
    return reliable.clamp(1 - _SURE_OF_ATLAS, _SURE_OF_ATLAS)
