"""What is known of each case, and the slices of it that may be drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane
from semiseg.study.case import Case
from semiseg.study.ledger import Ledger
from semiseg.study.study import Study
from semiseg.suggestion.doubts import Doubts, PlaneDoubts, uncertainty_by_structure
from semiseg.suggestion.geometry import Floats, Turned, near
from semiseg.suggestion.looks import Looks
from semiseg.suggestion.places import Places


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """What is known of one case; `places` of its looks' centers in the cohort's first body.

    Without `places` those in its own body stand for them.
    """

    case: Case
    ledger: Ledger
    looks: Looks
    doubts: Doubts
    places: Places | None = None

    @cached_property
    def turned(self) -> Turned:
        """The case's slices, counted along the patient."""
        return Turned(self.case.grid)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Some neighbouring slices of a case, of which one may be drawn: from `first` up to `end`.

    Counted along the patient; `place` is that of their center in the body's extent, 0 to 1.
    """

    case: int
    first: int
    end: int
    center: int
    place: float


def doubts_near(
    doubts: PlaneDoubts, first: int, end: int, spacing_mm: float, reach_mm: float
) -> Floats:
    """Wrong millilitres (S, end - first) that a drawing of each slice would set right."""
    count = doubts.wrong_ml.shape[1]
    places = np.arange(count)
    kernel = near((places[first:end, None] - places[None, :]) * spacing_mm, reach_mm)
    return np.asarray(doubts.wrong_ml @ kernel.T, dtype=np.float32)


def uncertainties(study: Study, views: Iterable[CaseView]) -> dict[str, Json]:
    """Per case: "structures" {id: mean uncertainty} and "slices" {plane: one value per slice}.

    Slices count as in the ledger; a slice's value is the mean over its structures. Cases of which
    no program spoke are left out.
    """
    found: dict[str, Json] = {}
    for view in views:
        if not view.doubts.known:
            continue
        mean = uncertainty_by_structure(view.doubts, study.protocol.ids)
        structures: dict[str, Json] = {str(i): round(value, 4) for i, value in mean.items()}
        slices: dict[str, Json] = {plane: _by_slice(view, plane) for plane in PLANES}
        found[view.case.id] = {"structures": structures, "slices": slices}
    return found


def _by_slice(view: CaseView, plane: Plane) -> list[Json]:
    doubts = view.doubts.planes[plane]
    area = doubts.area_mm2.sum(axis=0)
    mean = (doubts.unsure * doubts.area_mm2).sum(axis=0) / np.maximum(area, 1e-6)
    count = len(mean)
    return [round(float(mean[view.turned.index(plane, k)]), 4) for k in range(count)]
