"""The search for the next slices: the scan whose best few slices gain most Dice per minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.images.grid import Plane
from semiseg.study.ledger import FINISHED
from semiseg.study.study import Study
from semiseg.suggestion.cohort import Board, board_of, scan_of
from semiseg.suggestion.geometry import Floats, axis_of, distance_mm
from semiseg.suggestion.plans import Plan, best_plan
from semiseg.suggestion.settings import SliceSuggestion, SuggestConfig
from semiseg.suggestion.views import CaseView, Node, doubts_near
from semiseg.suggestion.words import Facts, reason

_OTHER_PLANE = 0.5  # a scan is drawn in one plane, unless another is much better
# A scan that is known tells the scan most like it so much: of all that is there while no program
# spoke, and of the errors that are left afterwards.
_CARRIED, _IMPROVED = 0.5, 0.1
_NEWS = 0.05  # of what is known of a scan, that its plan is made anew for


class Sheet:
    """A board with what was chosen: each case's scan, and its plan until something changes it.

    What is known of a scan is carried to others, from each of its nodes to those most like it: one
    slice alone tells of others little more than of its own scan, several around an organ tell all.
    """

    def __init__(self, board: Board, views: Sequence[CaseView], ids: Sequence[int]) -> None:
        self.board = board
        self.scans = [scan_of(board, view, number, ids) for number, view in enumerate(views)]
        owners = np.array([node.case for node in board.nodes])
        self.nodes = [np.flatnonzero(owners == number) for number in range(len(views))]
        self.plans: dict[int, Plan | None] = {}
        others = board.alike * (owners[:, None] != owners[None, :])
        self._nearest = [others[mine].argmax(axis=0) for mine in self.nodes]
        spoken = np.array([views[node.case].doubts.known for node in board.nodes])
        alike = np.stack([others[mine].max(axis=0) for mine in self.nodes])
        share = alike / np.maximum(alike.max(axis=0), 1e-6)
        self._strength = share * np.where(spoken, _IMPROVED, _CARRIED).astype(np.float32)
        self._carry([number for number, view in enumerate(views) if not view.doubts.known])

    def elsewhere(self, case: int) -> Floats:
        """(S, n): what knowing each node of a case tells of other scans, in mean Dice."""
        nearest, count = self._nearest[case], len(self.nodes[case])
        news = np.maximum(self._strength[case] - self._covered(), 0) * self.board.demand
        rows = [np.bincount(nearest, weights=row, minlength=count) for row in news]
        return np.array(rows, dtype=np.float32).reshape(len(news), count)

    def told(self, node: int) -> Floats:
        """What is new (S, N), in mean Dice, once `node` is drawn."""
        case = self.board.nodes[node].case
        mine = self.nodes[case]
        own = self.scans[case].with_each()[:, node - mine[0]]
        known = self._spread(case, own)
        known[:, mine] = own
        return np.asarray(np.maximum(known - self._covered(), 0) * self.board.demand)

    def take(self, node: int) -> None:
        """As if `node` were drawn."""
        case = self.board.nodes[node].case
        self.scans[case] = self.scans[case].drawn(int(node - self.nodes[case][0]))
        known = self._spread(case, self.scans[case].covered)
        for number, mine in enumerate(self.nodes):
            if number != case:
                self.cover(number, known[:, mine])
        self.plans.pop(case, None)

    def cover(self, case: int, known: Floats) -> None:
        """As if something else told so much of a case's nodes (S, n)."""
        scan = self.scans[case]
        if (known - scan.covered).max() > _NEWS:
            self.plans.pop(case, None)
        scan.covered = np.maximum(scan.covered, known)

    def _spread(self, case: int, covered: Floats) -> Floats:
        """What `covered` (S, n) of a case tells of all nodes (S, N) of others."""
        return np.asarray(covered[:, self._nearest[case]] * self._strength[case])

    def _carry(self, silent: Sequence[int]) -> None:
        """What is drawn tells of the cases of which no program spoke."""
        known = [self._spread(case, scan.covered) for case, scan in enumerate(self.scans)]
        for number in silent:
            for one in known:
                self.cover(number, one[:, self.nodes[number]])

    def _covered(self) -> Floats:
        return np.concatenate([scan.covered for scan in self.scans], axis=1)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The node to draw first of a plan that gains so much Dice per minute."""

    sheet: Sheet
    node: int
    rate: float


class Search:
    """Chooses slices one after the other, each given those before it."""

    def __init__(
        self, study: Study, config: SuggestConfig, views: Sequence[CaseView], allowed: set[int]
    ) -> None:
        self._config, self._views, self._allowed = config, views, sorted(allowed)
        self._structures, self._ids = study.protocol.structures, study.protocol.ids
        self._at = config.at
        self._chosen: set[tuple[int, Plane, int]] = set()
        self._full: set[tuple[Plane, int]] = set()
        reach_mm = config.reach_mm
        boards = [board_of(views, p, self._ids, reach_mm=reach_mm) for p in config.planes]
        self._sheets = [Sheet(board, views, self._ids) for board in boards]

    def best(self) -> tuple[SliceSuggestion, ...]:
        """The slices, best first."""
        found: list[SliceSuggestion] = []
        while len(found) < self._config.n:
            one = self._next()
            if one is None:
                break
            found.append(one)
        return tuple(found)

    def _next(self) -> SliceSuggestion | None:
        """The best undone slice of the node that the best plan begins with."""
        while (choice := self._choice()) is not None:
            sheet, number = choice.sheet, choice.node
            plane, node = sheet.board.plane, sheet.board.nodes[number]
            place = self._slice(plane, node)
            if place is None:
                self._full.add((plane, number))
                sheet.plans.pop(node.case)
                continue
            told = self._told(choice, place)
            self._chosen.add((node.case, plane, place))
            sheet.take(number)
            self._settle(sheet, number)
            self._move_to(node.case)
            return told
        return None

    def _choice(self) -> _Choice | None:
        best: _Choice | None = None
        for sheet in self._sheets:
            for case in self._allowed:
                if case not in sheet.plans:
                    sheet.plans[case] = self._plan(sheet, case)
                plan = sheet.plans[case]
                if plan is None:
                    continue
                rate = plan.rate * self._fitness(case, sheet.board.plane)
                if best is None or rate > best.rate:
                    node = int(sheet.nodes[case][plan.first])
                    best = _Choice(sheet=sheet, node=node, rate=rate)
        return best

    def _plan(self, sheet: Sheet, case: int) -> Plan | None:
        mine, plane = sheet.nodes[case], sheet.board.plane
        free = np.array([(plane, int(k)) not in self._full for k in mine])
        minutes = self._minutes(sheet.board, mine)
        opening = 0.0 if self._views[case].case.id == self._at else self._config.case_s / 60
        return best_plan(sheet.scans[case], sheet.elsewhere(case), minutes, opening, free)

    def _minutes(self, board: Board, nodes: NDArray[np.int64]) -> Floats:
        """What drawing each of `nodes` costs, in a scan that is open."""
        contours_mm = board.contour_mm[:, nodes].sum(axis=0)
        return np.asarray((self._config.slice_s + contours_mm / self._config.mm_per_s) / 60)

    def _move_to(self, case: int) -> None:
        """The case is open now, and the one that was is not: both are planned anew."""
        for sheet in self._sheets:
            for number, view in enumerate(self._views):
                if number == case or view.case.id == self._at:
                    sheet.plans.pop(number, None)
        self._at = self._views[case].case.id

    def _fitness(self, case: int, plane: Plane) -> float:
        """How well a plane is suited: square pixels, and the plane that was drawn in before."""
        view = self._views[case]
        spacing = list(view.turned.spacing_mm_zyx)
        del spacing[axis_of(plane)]
        fitness = float(np.sqrt(min(spacing) / max(spacing)))
        drawn = {one for i in self._ids for one in view.ledger.planes_done(i)}
        drawn |= {one for number, one, _ in self._chosen if number == case}
        return fitness * (_OTHER_PLANE if drawn and plane not in drawn else 1.0)

    def _slice(self, plane: Plane, node: Node) -> int | None:
        """The best undone slice of a node, counted along the patient; None if all are done."""
        view = self._views[node.case]
        free = [k for k in range(node.first, node.end) if self._is_free(view, plane, node, k)]
        if not free:
            return None
        if view.doubts.known:
            spacing = view.turned.spacing_mm_zyx[axis_of(plane)]
            doubts = view.doubts.planes[plane]
            near = doubts_near(doubts, node.first, node.end, spacing, self._config.reach_mm / 2)
            volume = np.maximum(doubts.area_mm2.sum(axis=1), 1e-6)
            worth = (near / volume[:, None]).sum(axis=0)
            if worth.any():
                return max(free, key=lambda k: float(worth[k - node.first]))
        return min(free, key=lambda k: abs(k - node.center))

    def _is_free(self, view: CaseView, plane: Plane, node: Node, place: int) -> bool:
        entry = view.ledger.states.get(plane, {}).get(view.turned.index(plane, place), {})
        done = all(entry.get(i) in FINISHED for i in self._ids)
        spacing = view.turned.spacing_mm_zyx[axis_of(plane)]
        chosen = [k for case, one, k in self._chosen if (case, one) == (node.case, plane)]
        near = any(abs(place - k) * spacing < self._config.reach_mm / 2 for k in chosen)
        return not done and not near and place not in chosen

    def _settle(self, taken: Sheet, number: int) -> None:
        """What is drawn in one plane says something of the same case in the others, too."""
        case = taken.board.nodes[number].case
        share = float(taken.board.alike[number][taken.nodes[case]].mean())
        for sheet in self._sheets:
            if sheet is not taken:
                sheet.cover(case, np.full_like(sheet.scans[case].covered, share))

    def _told(self, choice: _Choice, place: int) -> SliceSuggestion:
        board, node = choice.sheet.board, choice.sheet.board.nodes[choice.node]
        view = self._views[node.case]
        facts = self._facts(choice.sheet, choice.node, place)
        minutes = float(self._minutes(board, np.array([choice.node]))[0])
        if view.case.id != self._at:
            minutes += self._config.case_s / 60
        return SliceSuggestion(
            case_id=view.case.id,
            plane=board.plane,
            index=view.turned.index(board.plane, place),
            gain=choice.rate * minutes,
            minutes=minutes,
            structure_id=None if facts.row is None else self._ids[facts.row],
            reason=reason(facts, [s.name for s in self._structures]),
        )

    def _facts(self, sheet: Sheet, number: int, place: int) -> Facts:
        board, node = sheet.board, sheet.board.nodes[number]
        view, figures = self._views[node.case], self._views[node.case].doubts.planes[board.plane]
        news = sheet.told(number)
        row = int(news.sum(axis=1).argmax())
        reached = {
            n.case
            for k, n in enumerate(board.nodes)
            if news[:, k].max() > 0 and board.alike[number, k] > 0.1
        }
        axis = axis_of(board.plane)
        done = self._done(view, node.case, board.plane)
        gaps = distance_mm(view.turned.shape_zyx[axis], done, view.turned.spacing_mm_zyx[axis])
        known = view.doubts.known
        return Facts(
            row=row if known else None,
            by_model=view.doubts.by_model,
            by_propagation=view.doubts.by_propagation,
            differ_mm2=float(figures.differ_mm2[row, place]) if known else 0.0,
            before_mm2=float(figures.before_mm2[row, place]) if known else 0.0,
            beyond_mm2=float(figures.beyond_mm2[row, place]) if known else 0.0,
            missed=not (figures.area_mm2[row] + figures.beyond_mm2[row]).any(),
            unsure=float(figures.unsure[row, place]) if known else 0.0,
            nearest_mm=float(gaps[place]),
            others=len(reached - {node.case}),
            n_cases=len(self._views),
        )

    def _done(self, view: CaseView, number: int, plane: Plane) -> NDArray[np.int64]:
        """Slices that are done for all structures, or chosen, counted along the patient."""
        each = [set(map(int, view.turned.done(view.ledger, plane, i))) for i in self._ids]
        places = set.intersection(*each) if each else set()
        places |= {place for case, one, place in self._chosen if (case, one) == (number, plane)}
        return np.array(sorted(places), dtype=np.int64)
