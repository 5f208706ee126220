"""Where a structure that nobody found in a scan is to be expected, from scans that show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semiseg.suggestion.geometry import Floats

_MOST = 5


def shifted_profiles(
    profiles: Sequence[Floats], spacings_mm: Sequence[float], modalities: Sequence[str]
) -> list[Floats]:
    """`profiles` (S, n) of areas per case and slice, with what is missing filled in.

    Where a case lacks a structure, it is taken from up to five others (of the same modality
    first) that show it and share another structure, moved so that the shared ones lie alike.
    Rows stay zero where there is no such case.
    """
    centers = [_centers(*one) for one in zip(profiles, spacings_mm, strict=True)]
    found = [profile.copy() for profile in profiles]
    for case, own in enumerate(centers):
        for row in np.flatnonzero(np.isnan(own)):
            lenders = [k for k, other in enumerate(centers) if not np.isnan(other[row])]
            lenders = [k for k in lenders if not np.isnan(own - centers[k]).all()]
            lenders.sort(key=lambda k: modalities[k] != modalities[case])
            places = np.arange(profiles[case].shape[1]) * spacings_mm[case]
            parts = []
            for k in lenders[:_MOST]:
                there = np.arange(profiles[k].shape[1]) * spacings_mm[k]
                shift = float(np.nanmean(own - centers[k]))
                parts.append(np.interp(places - shift, there, profiles[k][row], 0, 0))
            if parts:
                found[case][row] = np.mean(parts, axis=0)
    return found


def _centers(profile: Floats, spacing_mm: float) -> Floats:
    """Mean place (S,) of each structure in mm, NaN where it is not found."""
    places = np.arange(profile.shape[1]) * spacing_mm
    total = profile.sum(axis=1)
    return np.asarray(
        np.where(total > 0, profile @ places / np.maximum(total, 1e-6), np.nan), dtype=np.float32
    )
