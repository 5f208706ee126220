"""All scans of a study side by side: what is known of each slice, and which slices are alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane
from semiseg.study.case import Case
from semiseg.study.ledger import Ledger
from semiseg.study.study import Study
from semiseg.suggestion.doubts import Doubts, PlaneDoubts, uncertainty_by_structure
from semiseg.suggestion.geometry import Floats, Turned, axis_of, distance_mm, near
from semiseg.suggestion.looks import Looks, PlaneLooks
from semiseg.suggestion.places import Places

_OTHER_CASE = 0.5  # at most so much does a slice tell of another scan's
_OTHER_MODALITY = 0.5
_ALIKE_POWER = 4
_SAME_PLACE = 0.25  # of the body's extent
_SMALLEST_ML = 0.5
_UNKNOWN_CONTOUR_MM = 400.0
_ABSENT = 0.2


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

    @property
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


@dataclass(frozen=True, kw_only=True)
class Board:
    """One plane of the whole cohort: N nodes, S structures.

    `alike` (N, N) says how much drawing node i tells of node j, in [0, 1]; `demand` (S, N) how
    much Dice of the cohort's mean is missing there; `covered` (S, N) how much of it what is
    drawn already tells; `contour_mm` (S, N) the drawing to expect; `present` (S, N) how far a
    slice shows the structure at all: one beyond its end tells little of it.
    """

    plane: Plane
    nodes: tuple[Node, ...]
    alike: Floats
    demand: Floats
    covered: Floats
    contour_mm: Floats
    present: Floats


def board_of(
    views: Sequence[CaseView], plane: Plane, ids: Sequence[int], *, reach_mm: float
) -> Board:
    """The board of one plane."""
    nodes = tuple(node for number, view in enumerate(views) for node in _nodes(number, view, plane))
    alike = _alike(views, nodes, plane, reach_mm)
    areas, contours = _drawings(views, nodes, plane, alike, reach_mm / 2)
    demand = _demand(views, nodes, plane, areas)
    covered = _covered(views, nodes, plane, ids, alike, reach_mm)
    return Board(
        plane=plane,
        nodes=nodes,
        alike=alike,
        demand=demand,
        covered=covered,
        contour_mm=contours,
        present=_present(nodes, areas),
    )


def _nodes(number: int, view: CaseView, plane: Plane) -> list[Node]:
    looks, count = view.looks[plane], view.turned.shape_zyx[axis_of(plane)]
    borders = np.clip(looks.borders, 0, count)
    low, high = int(looks.centers[0]), int(looks.centers[-1])
    own = (looks.centers - low) / max(1, high - low)
    places = own if view.places is None else view.places[plane]
    return [
        Node(
            case=number,
            first=int(borders[k]),
            end=max(int(borders[k + 1]), int(borders[k]) + 1),
            center=int(center),
            place=float(places[k]),
        )
        for k, center in enumerate(looks.centers)
    ]


def _alike(
    views: Sequence[CaseView], nodes: Sequence[Node], plane: Plane, reach_mm: float
) -> Floats:
    looks: list[PlaneLooks] = [view.looks[plane] for view in views]
    grey, edges = (np.concatenate([getattr(o, name) for o in looks]) for name in ("grey", "edges"))
    modality = np.array([views[node.case].case.modality for node in nodes])
    same = modality[:, None] == modality[None, :]
    seen = np.where(same, grey @ grey.T, np.float32(_OTHER_MODALITY) * (edges @ edges.T))
    place = np.array([node.place for node in nodes], dtype=np.float32)
    found = np.clip(seen, 0, 1) ** _ALIKE_POWER
    found *= near(place[:, None] - place[None, :], _SAME_PLACE)
    found *= np.float32(_OTHER_CASE)
    starts = np.cumsum([0, *(len(o.centers) for o in looks)])
    for number, view in enumerate(views):
        part = slice(int(starts[number]), int(starts[number + 1]))
        spacing = view.turned.spacing_mm_zyx[axis_of(plane)]
        places_mm = looks[number].centers.astype(np.float32) * np.float32(spacing)
        found[part, part] = near(places_mm[:, None] - places_mm[None, :], reach_mm)
    return np.asarray(found, dtype=np.float32)


def _drawings(
    views: Sequence[CaseView],
    nodes: Sequence[Node],
    plane: Plane,
    alike: Floats,
    around_mm: float,
) -> tuple[Floats, Floats]:
    """Area and contour (S, N) to expect; from the most alike nodes where nothing is known.

    The contour is the longest within `around_mm`: where a slice is doubtful because a structure
    may reach further than programs say, drawing it costs as much as drawing its neighbours.
    """
    each = [view.doubts.planes[plane] for view in views]
    around = [
        max(1, round(around_mm / view.turned.spacing_mm_zyx[axis_of(plane)])) for view in views
    ]
    areas = np.stack([each[n.case].area_mm2[:, n.center] for n in nodes], axis=1)
    contours = np.stack(
        [
            each[n.case]
            .contour_mm[:, max(0, n.center - around[n.case]) : n.center + around[n.case] + 1]
            .max(axis=1)
            for n in nodes
        ],
        axis=1,
    )
    spoken = [bool(one.area_mm2.any()) for one in each]
    known = np.array([spoken[node.case] for node in nodes])
    if known.all():
        return areas, contours
    if not known.any():
        body = np.concatenate([view.looks[plane].body for view in views])
        flat = np.ones_like(contours) * np.float32(_UNKNOWN_CONTOUR_MM / max(1, len(contours)))
        return np.asarray(np.ones_like(areas) * body), flat
    weights = alike[np.ix_(~known, known)] ** 2
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
    areas[:, ~known] = areas[:, known] @ weights.T
    contours[:, ~known] = contours[:, known] @ weights.T
    return areas, contours


def _present(nodes: Sequence[Node], areas: Floats) -> Floats:
    """By the area against half of the structure's largest in the same case, in [0.2, 1]."""
    owner = np.array([node.case for node in nodes])
    found = np.zeros_like(areas)
    for number in np.unique(owner):
        mine = owner == number
        largest = areas[:, mine].max(axis=1, keepdims=True)
        found[:, mine] = np.minimum(1, 2 * areas[:, mine] / np.maximum(largest, 1e-6))
    return np.asarray(np.maximum(found, _ABSENT), dtype=np.float32)


def _demand(
    views: Sequence[CaseView], nodes: Sequence[Node], plane: Plane, areas: Floats
) -> Floats:
    """Missing Dice (S, N): expected errors, or all of it where no program spoke."""
    n_ids = len(areas)
    demand = np.zeros_like(areas)
    owner = np.array([node.case for node in nodes])
    for number, view in enumerate(views):
        mine = np.flatnonzero(owner == number)
        if view.doubts.known:
            demand[:, mine] = _missing(view, [nodes[int(k)] for k in mine], plane)
        else:
            total = areas[:, mine].sum(axis=1, keepdims=True)
            demand[:, mine] = areas[:, mine] / np.maximum(total, 1e-6)
    return np.asarray(demand / np.float32(max(1, n_ids) * max(1, len(views))))


def _missing(view: CaseView, nodes: Sequence[Node], plane: Plane) -> Floats:
    """The Dice (S, N) that errors cost: half of the wrong volume by the structure's volume."""
    doubts = view.doubts.planes[plane]
    thickness = view.turned.spacing_mm_zyx[axis_of(plane)]
    volume_ml = doubts.area_mm2.sum(axis=1) * thickness / 1000
    wrong = np.stack([doubts.wrong_ml[:, n.first : n.end].sum(axis=1) for n in nodes], axis=1)
    missing = wrong / (2 * np.maximum(volume_ml, _SMALLEST_ML)[:, None])
    total = missing.sum(axis=1, keepdims=True)
    return np.asarray(missing / np.maximum(total, 1), dtype=np.float32)


def _covered(
    views: Sequence[CaseView],
    nodes: Sequence[Node],
    plane: Plane,
    ids: Sequence[int],
    alike: Floats,
    reach_mm: float,
) -> Floats:
    """What finished slices tell (S, N).

    Errors that programs make although a like slice of another scan is drawn are still there, so
    only slices of the same scan count where a program spoke.
    """
    covered = np.zeros((len(ids), len(nodes)), dtype=np.float32)
    spoken = np.array([views[node.case].doubts.known for node in nodes])
    owner = np.array([node.case for node in nodes])
    centers = np.array([node.center for node in nodes])
    for number, view in enumerate(views):
        mine = np.flatnonzero(owner == number)
        count = view.turned.shape_zyx[axis_of(plane)]
        spacing = view.turned.spacing_mm_zyx[axis_of(plane)]
        own_reach = reach_mm / 2 if view.doubts.known else reach_mm
        for row, structure in enumerate(ids):
            done = view.turned.done(view.ledger, plane, structure)
            if not done.size:
                continue
            gaps = distance_mm(count, done, spacing)[centers[mine]]
            covered[row, mine] = np.maximum(covered[row, mine], near(gaps, own_reach))
            drawn = mine[np.abs(centers[mine][:, None] - done[None, :]).argmin(axis=0)]
            told = np.where(spoken | (owner == number), 0, alike[drawn].max(axis=0))
            covered[row] = np.maximum(covered[row], told)
    return covered


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
