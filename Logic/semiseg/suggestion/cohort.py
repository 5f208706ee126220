"""All scans of a study side by side: what is known of each slice, and which slices are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semiseg.images.grid import Plane
from semiseg.suggestion.expected import drawings, missing_dice
from semiseg.suggestion.geometry import Floats, axis_of, distance_mm, near
from semiseg.suggestion.looks import PlaneLooks
from semiseg.suggestion.plans import Scan
from semiseg.suggestion.views import CaseView, Node

_OTHER_CASE = 0.5  # at most so much does a slice tell of another scan's
_OTHER_MODALITY = 0.5
_ALIKE_POWER = 4
_SAME_PLACE = 0.25  # of the body's extent
_ABSENT = 0.2


@dataclass(frozen=True, kw_only=True)
class Board:
    """One plane of the whole cohort: N nodes, S structures.

    `alike` (N, N) says how much drawing node i tells of node j, in [0, 1]; `demand` (S, N) how
    much Dice of the cohort's mean is missing there; `covered` (S, N) how much of it what is
    drawn already tells; `contour_mm` (S, N) the drawing to expect; `shows` (S, N), in [0, 1], how
    far a slice is expected to show the structure.
    """

    plane: Plane
    nodes: tuple[Node, ...]
    alike: Floats
    demand: Floats
    covered: Floats
    contour_mm: Floats
    shows: Floats

    @property
    def present(self) -> Floats:
        """(S, N): how much of a structure a slice tells; one beyond its end tells a little."""
        return np.maximum(self.shows, np.float32(_ABSENT))


def board_of(
    views: Sequence[CaseView], plane: Plane, ids: Sequence[int], *, reach_mm: float
) -> Board:
    """The board of one plane."""
    nodes = tuple(node for number, view in enumerate(views) for node in _nodes(number, view, plane))
    alike = _alike(views, nodes, plane, reach_mm)
    areas, contours = drawings(views, nodes, plane, ids, alike, reach_mm / 2)
    return Board(
        plane=plane,
        nodes=nodes,
        alike=alike,
        demand=missing_dice(views, nodes, plane, areas),
        covered=_covered(views, nodes, plane, ids, reach_mm),
        contour_mm=contours,
        shows=_shows(nodes, areas),
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


def _covered(
    views: Sequence[CaseView],
    nodes: Sequence[Node],
    plane: Plane,
    ids: Sequence[int],
    reach_mm: float,
) -> Floats:
    """What finished slices tell of their own scans (S, N)."""
    covered = np.zeros((len(ids), len(nodes)), dtype=np.float32)
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
    return covered


def _shows(nodes: Sequence[Node], areas: Floats) -> Floats:
    """By the area against half of the structure's largest in the same case, in [0, 1]."""
    owner = np.array([node.case for node in nodes])
    found = np.zeros_like(areas)
    for number in np.unique(owner):
        mine = owner == number
        largest = areas[:, mine].max(axis=1, keepdims=True)
        found[:, mine] = np.minimum(1, 2 * areas[:, mine] / np.maximum(largest, 1e-6))
    return np.asarray(found, dtype=np.float32)


def scan_of(board: Board, view: CaseView, number: int, ids: Sequence[int]) -> Scan:
    """One case of a board, with what its done slices show."""
    axis = axis_of(board.plane)
    spacing = view.turned.spacing_mm_zyx[axis]
    mine = np.array([k for k, node in enumerate(board.nodes) if node.case == number])
    centers = np.array([board.nodes[int(k)].center for k in mine], dtype=np.float32)
    figures = view.doubts.planes[board.plane]
    drawn = []
    for row, structure in enumerate(ids):
        done = view.turned.done(view.ledger, board.plane, structure)
        area = figures.area_mm2[row]
        largest = max(float(area.max()), 1e-6)
        shows = np.minimum(1, 2 * area[done] / largest).astype(np.float32)
        drawn.append(((done * spacing).astype(np.float32), shows))
    return Scan.of(
        centers * np.float32(spacing),
        board.demand[:, mine],
        board.present[:, mine],
        board.shows[:, mine],
        board.covered[:, mine],
        drawn,
    )
