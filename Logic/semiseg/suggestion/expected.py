"""What a drawing of each slice is expected to show, and the Dice that is missing there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import Plane
from semiseg.suggestion.geometry import Floats, axis_of, distance_mm, near
from semiseg.suggestion.guesses import shifted_profiles
from semiseg.suggestion.views import CaseView, Node

_SMALLEST_ML = 0.5
_UNKNOWN_CONTOUR_MM = 400.0
_ROUND = 3.5  # a circle's outline by the root of its area
_SEARCHED_MM = 20.0  # around a done slice without it, a structure is hardly to be found


def drawings(
    views: Sequence[CaseView],
    nodes: Sequence[Node],
    plane: Plane,
    ids: Sequence[int],
    alike: Floats,
    around_mm: float,
) -> tuple[Floats, Floats]:
    """Area and contour (S, N) to expect.

    A structure that nobody found in a case is guessed from other cases: where it lies beside
    others, else where the most alike slices are. The contour is the longest within `around_mm`:
    where a slice is doubtful because a structure may reach further than programs say, drawing it
    costs as much as drawing its neighbours.
    """
    said = [_said(view, plane) for view in views]
    spacings = [view.turned.spacing_mm_zyx[axis_of(plane)] for view in views]
    profiles = shifted_profiles(said, spacings, [view.case.modality for view in views])
    areas = np.stack([profiles[n.case][:, n.center] for n in nodes], axis=1)
    contours = np.stack([_longest(views[n.case], n, plane, around_mm) for n in nodes], axis=1)
    owner = np.array([node.case for node in nodes])
    found = np.stack([one.any(axis=1) for one in said], axis=1)[:, owner]
    guessed = np.stack([one.any(axis=1) for one in profiles], axis=1)[:, owner]
    contours = np.where(found, contours, np.float32(_ROUND) * np.sqrt(areas))
    for row, known in enumerate(guessed):
        if not known.any():
            areas[row] = np.concatenate([view.looks[plane].body for view in views])
            contours[row] = _UNKNOWN_CONTOUR_MM / len(areas)
        elif not known.all():
            weights = alike[np.ix_(~known, known)] ** 2
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
            areas[row, ~known] = weights @ areas[row, known]
            contours[row, ~known] = weights @ contours[row, known]
    for number, view in enumerate(views):
        mine = owner == number
        centers = np.array([node.center for node in nodes if node.case == number])
        areas[:, mine] *= _unsearched(view, plane, ids)[:, centers]
    return areas, contours


def missing_dice(
    views: Sequence[CaseView], nodes: Sequence[Node], plane: Plane, areas: Floats
) -> Floats:
    """What the cohort's mean Dice misses at each node (S, N).

    Expected errors; all of a structure, spread as `areas` (S, N), where it was not found.
    """
    missing = np.zeros_like(areas)
    owner = np.array([node.case for node in nodes])
    for number, view in enumerate(views):
        mine = np.flatnonzero(owner == number)
        total = areas[:, mine].sum(axis=1, keepdims=True)
        of_errors = _of_errors(view, [nodes[int(k)] for k in mine], plane)
        found = _is_found(view, plane)[:, None]
        missing[:, mine] = np.where(found, of_errors, areas[:, mine] / np.maximum(total, 1e-6))
    return np.asarray(missing / np.float32(max(1, len(areas)) * max(1, len(views))))


def _said(view: CaseView, plane: Plane) -> Floats:
    """Areas (S, n) in mm² that are drawn or said by programs, and those beyond them."""
    figures = view.doubts.planes[plane]
    return figures.area_mm2 + figures.beyond_mm2


def _is_found(view: CaseView, plane: Plane) -> NDArray[np.bool_]:
    """(S,): whether a person or a program said where each structure is."""
    return np.asarray(_said(view, plane).any(axis=1))


def _longest(view: CaseView, node: Node, plane: Plane, around_mm: float) -> Floats:
    """The longest contour (S,) around a node's center."""
    around = max(1, round(around_mm / view.turned.spacing_mm_zyx[axis_of(plane)]))
    part = slice(max(0, node.center - around), node.center + around + 1)
    return np.asarray(view.doubts.planes[plane].contour_mm[:, part].max(axis=1))


def _unsearched(view: CaseView, plane: Plane, ids: Sequence[int]) -> Floats:
    """(S, n): less than 1 beside done slices, for structures that were found nowhere."""
    axis, found = axis_of(plane), _is_found(view, plane)
    count, spacing = view.turned.shape_zyx[axis], view.turned.spacing_mm_zyx[axis]
    left = np.ones((len(ids), count), dtype=np.float32)
    for row, structure in enumerate(ids):
        if not found[row]:
            done = view.turned.done(view.ledger, plane, structure)
            left[row] -= near(distance_mm(count, done, spacing), _SEARCHED_MM)
    return left


def _of_errors(view: CaseView, nodes: Sequence[Node], plane: Plane) -> NDArray[np.float32]:
    """The Dice (S, N) that errors cost; of what lies beyond, all is left out.

    Errors of volume W in a structure of volume V cost about W / 2V, what is left out, L of L + V,
    costs L / (L + 2V).
    """
    doubts = view.doubts.planes[plane]
    thickness = view.turned.spacing_mm_zyx[axis_of(plane)]
    seen_ml = doubts.area_mm2.sum(axis=1, keepdims=True) * thickness / 1000
    beyond_ml = doubts.beyond_mm2 * np.float32(thickness / 1000)
    left_out = beyond_ml.sum(axis=1, keepdims=True)
    lost = (doubts.wrong_ml - beyond_ml) / (2 * np.maximum(seen_ml + left_out, _SMALLEST_ML))
    lost += beyond_ml / np.maximum(left_out + 2 * seen_ml, _SMALLEST_ML)
    missing = np.stack([lost[:, n.first : n.end].sum(axis=1) for n in nodes], axis=1)
    total = missing.sum(axis=1, keepdims=True)
    return np.asarray(missing / np.maximum(total, 1), dtype=np.float32)
