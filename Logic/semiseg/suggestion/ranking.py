"""Which slices to draw next: those that are expected to gain most Dice per minute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import check_choice, check_range
from semiseg.errors import SemiSegError, StudyError
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.grid import PLANES, Plane
from semiseg.study.ledger import FINISHED, Ledger, SliceState
from semiseg.study.study import Study
from semiseg.suggestion.cohort import Board, CaseView, Node, board_of, doubts_near
from semiseg.suggestion.doubts import doubts_of
from semiseg.suggestion.geometry import Floats, axis_of, distance_mm
from semiseg.suggestion.looks import looks_of
from semiseg.suggestion.places import places_of
from semiseg.suggestion.words import Facts, reason

_OTHER_PLANE = 0.5  # a scan is drawn in one plane, unless another is much better


@dataclass(frozen=True, kw_only=True)
class SuggestConfig:
    """`n` slices to draw one after the other; `planes` and `case_ids` (None: all) limit them.

    `at` is the case that is open now. A drawn slice tells of others up to about `reach_mm` away.
    The minutes are `slice_s` per slice, `case_s` for opening another case and the contours'
    length at `mm_per_s`. Before programs spoke, scans are brought to one body for up to
    `register_s` per call.
    """

    n: int = 5
    planes: tuple[Plane, ...] = PLANES
    case_ids: tuple[str, ...] | None = None
    at: str | None = None
    reach_mm: float = 20.0
    slice_s: float = 10.0
    case_s: float = 20.0
    mm_per_s: float = 8.0
    register_s: float = 1.0

    def __post_init__(self) -> None:
        check_range("n", self.n, 1, 1000)
        check_range("reach_mm", self.reach_mm, 1.0, 500.0)
        check_range("slice_s", self.slice_s, 0.1, 3600.0)
        check_range("case_s", self.case_s, 0.0, 3600.0)
        check_range("mm_per_s", self.mm_per_s, 0.1, 1000.0)
        check_range("register_s", self.register_s, 0.0, 1e6)
        for plane in self.planes:
            check_choice("plane", plane, get_args(Plane))
        if not self.planes:
            raise StudyError("no plane to draw in; name axial, coronal or sagittal")


@dataclass(frozen=True, kw_only=True)
class SliceSuggestion:
    """Draw slice `index` (as in the ledger) of a plane of a case.

    `gain` is the mean Dice over the study's cases that this is expected to add, `minutes` what
    it costs, `structure_id` the structure that gains most (None before any program spoke).
    """

    case_id: str
    plane: Plane
    index: int
    gain: float
    minutes: float
    structure_id: int | None
    reason: str

    @property
    def gain_per_minute(self) -> float:
        """What the ranking goes by."""
        return self.gain / self.minutes

    def to_json(self) -> dict[str, Json]:
        """Plain values for events."""
        return {
            "case": self.case_id,
            "plane": self.plane,
            "index": self.index,
            "gain": round(self.gain, 6),
            "minutes": round(self.minutes, 3),
            "gain_per_minute": round(self.gain_per_minute, 6),
            "structure": self.structure_id,
            "reason": self.reason,
        }


def suggest(
    study: Study, config: SuggestConfig | None = None, emit: Emit = ignore
) -> tuple[SliceSuggestion, ...]:
    """The slices to draw next, best first, each as if those before it were drawn.

    Only cases of the training split are drawn; all count. Cases whose image or labels cannot be
    read are said in an event and left out. Slices of one call keep half of `reach_mm` apart, so
    there may be fewer than `n`; none when all are done. StudyError when there is no case to draw.
    """
    config = config or SuggestConfig()
    candidates = _candidates(study, config)
    views = case_views(study, config, emit)
    allowed = {k for k, view in enumerate(views) if view.case.id in candidates}
    if not allowed:
        raise StudyError("no case that may be drawn can be read; see semiseg study check")
    return _Search(study, config, views, allowed).best()


def case_views(study: Study, config: SuggestConfig, emit: Emit = ignore) -> tuple[CaseView, ...]:
    """What is known of every case that can be read."""
    views: list[CaseView] = []
    progress = Progress(emit, "suggest", len(study.cases))
    for number, case in enumerate(study.cases.values(), 1):
        data: dict[str, Json] = {}
        try:
            looks = looks_of(study, case)
            doubts = doubts_of(study, case, reach_mm=config.reach_mm)
            ledger = study.ledger(case.id)
            views.append(CaseView(case=case, ledger=ledger, looks=looks, doubts=doubts))
        except SemiSegError as error:
            data = {"case": case.id, "error": str(error)}
        progress.update(number, f"looking at {case.name}", data)
    return _placed(study, views, config)


def _placed(study: Study, views: Sequence[CaseView], config: SuggestConfig) -> tuple[CaseView, ...]:
    """With places in one body, where a case of which no program spoke needs them."""
    if all(view.doubts.known for view in views):
        return tuple(views)
    looks = {view.case.id: view.looks for view in views}
    cases = [view.case for view in views]
    found = places_of(study, cases, looks, seconds=config.register_s)
    return tuple(replace(view, places=found.get(view.case.id)) for view in views)


def mark_suggested(study: Study, suggestions: Iterable[SliceSuggestion]) -> None:
    """Puts the slices into their ledgers as suggested, in place of earlier suggestions.

    What is done stays done.
    """
    chosen: dict[tuple[str, Plane], set[int]] = {}
    for one in suggestions:
        chosen.setdefault((one.case_id, one.plane), set()).add(one.index)
    ids = study.protocol.ids
    with study.writing():
        for case_id in study.cases:
            for plane in PLANES:
                ledger, wanted = study.ledger(case_id), chosen.get((case_id, plane), set())
                gone, new = _changes(ledger, plane, wanted, ids)
                if gone:
                    study.mark_slices(case_id, plane, gone, SliceState.UNTOUCHED, ids)
                for index, free in new.items():
                    study.mark_slices(case_id, plane, [index], SliceState.SUGGESTED, free)


def _changes(
    ledger: Ledger, plane: Plane, wanted: set[int], ids: Sequence[int]
) -> tuple[list[int], dict[int, tuple[int, ...]]]:
    """Slices whose suggestion goes, and structures that are suggested anew per slice."""
    slices = ledger.states.get(plane, {})
    gone = [
        index
        for index, entry in slices.items()
        if index not in wanted and set(entry.values()) == {SliceState.SUGGESTED}
    ]
    new = {}
    for index in sorted(wanted):
        states = {i: ledger.state(plane, index, i) for i in ids}
        free = tuple(i for i, state in states.items() if state is SliceState.UNTOUCHED)
        if free:
            new[index] = free
    return gone, new


def _candidates(study: Study, config: SuggestConfig) -> set[str]:
    if not study.protocol.structures:
        raise StudyError("the study has no structures yet; add some, then slices can be suggested")
    if not study.cases:
        raise StudyError("the study has no case yet; add images first")
    if config.case_ids is not None:
        return {study.case(case_id).id for case_id in config.case_ids}
    found = {case.id for case in study.cases.values() if case.split == "train"}
    if not found:
        raise StudyError(
            "no case is in the training split, and slices of others would teach nothing; put a "
            "case into it, or name the cases to draw"
        )
    return found


@dataclass
class _Plane:
    """A board with how far it is covered by what was chosen."""

    board: Board
    covered: Floats
    gain: Floats = field(default_factory=lambda: np.empty(0, np.float32))

    def weigh(self) -> None:
        """Gain (N,) of drawing each node, in mean Dice."""
        demand, self.gain = self.board.demand, np.zeros(len(self.board.nodes), np.float32)
        groups: dict[bytes, list[int]] = {}
        for row in range(len(demand)):
            groups.setdefault(self.covered[row].tobytes(), []).append(row)
        for rows in groups.values():
            news = np.maximum(self.board.alike - self.covered[rows[0]], 0)
            self.gain += ((news @ demand[rows].T) * self.board.present[rows].T).sum(axis=1)

    def take(self, node: int) -> None:
        """As if `node` were drawn."""
        told = self.board.present[:, node, None] * self.board.alike[node]
        self.covered = np.maximum(self.covered, told)
        self.weigh()


class _Search:
    """Chooses slices one after the other, each given those before it."""

    def __init__(
        self, study: Study, config: SuggestConfig, views: Sequence[CaseView], allowed: set[int]
    ) -> None:
        self._config, self._views, self._allowed = config, views, allowed
        self._structures = study.protocol.structures
        self._ids = study.protocol.ids
        self._at = config.at
        self._chosen: set[tuple[int, Plane, int]] = set()
        self._planes = []
        for plane in config.planes:
            board = board_of(views, plane, self._ids, reach_mm=config.reach_mm)
            self._planes.append(_Plane(board=board, covered=board.covered))

    def best(self) -> tuple[SliceSuggestion, ...]:
        """The slices, best first."""
        for plane in self._planes:
            plane.weigh()
        found: list[SliceSuggestion] = []
        while len(found) < self._config.n:
            one = self._next()
            if one is None:
                break
            found.append(one)
            self._at = one.case_id
        return tuple(found)

    def _next(self) -> SliceSuggestion | None:
        """The best node that has an undone slice, and its best slice."""
        rated = [self._rates(plane) for plane in self._planes]
        order = np.argsort(-np.concatenate(rated), kind="stable")
        sizes = np.cumsum([0, *(len(one) for one in rated)])
        for flat in order:
            which = int(np.searchsorted(sizes, flat, side="right")) - 1
            plane, number = self._planes[which], int(flat - sizes[which])
            if rated[which][number] == -np.inf:
                return None
            node = plane.board.nodes[number]
            place = self._slice(plane.board.plane, node)
            if place is not None:
                told = self._told(plane, number, place)
                self._chosen.add((node.case, plane.board.plane, place))
                plane.take(number)
                self._settle(plane, number)
                return told
        return None

    def _rates(self, plane: _Plane) -> Floats:
        """Gain per minute (N,), minus infinity where nothing may be drawn."""
        board = plane.board
        owner = np.array([node.case for node in board.nodes])
        rates = plane.gain / self._minutes(board)
        rates *= np.array([self._fitness(view, board.plane) for view in self._views])[owner]
        rates[~np.isin(owner, list(self._allowed))] = -np.inf
        return np.asarray(rates, dtype=np.float32)

    def _minutes(self, board: Board) -> Floats:
        at = np.array([self._views[node.case].case.id == self._at for node in board.nodes])
        seconds = self._config.slice_s + board.contour_mm.sum(axis=0) / self._config.mm_per_s
        return np.asarray((seconds + np.where(at, 0, self._config.case_s)) / 60)

    def _fitness(self, view: CaseView, plane: Plane) -> float:
        """How well a plane is suited: square pixels, and the plane that was drawn in before."""
        spacing = list(view.turned.spacing_mm_zyx)
        del spacing[axis_of(plane)]
        fitness = float(np.sqrt(min(spacing) / max(spacing)))
        drawn = {one for i in self._ids for one in view.ledger.planes_done(i)}
        number = next(k for k, one in enumerate(self._views) if one is view)
        drawn |= {one for case, one, _ in self._chosen if case == number}
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

    def _settle(self, taken: _Plane, number: int) -> None:
        """What is drawn in one plane says something of the same case in the others, too."""
        case = taken.board.nodes[number].case
        share = float(taken.board.alike[number][_of_case(taken.board, case)].mean())
        for plane in self._planes:
            if plane is not taken:
                mine = _of_case(plane.board, case)
                plane.covered = plane.covered.copy()
                plane.covered[:, mine] = np.maximum(plane.covered[:, mine], share)
                plane.weigh()

    def _told(self, plane: _Plane, number: int, place: int) -> SliceSuggestion:
        board, node = plane.board, plane.board.nodes[number]
        view = self._views[node.case]
        facts = self._facts(plane, number, place)
        return SliceSuggestion(
            case_id=view.case.id,
            plane=board.plane,
            index=view.turned.index(board.plane, place),
            gain=float(plane.gain[number]),
            minutes=float(self._minutes(board)[number]),
            structure_id=None if facts.row is None else self._ids[facts.row],
            reason=reason(facts, [s.name for s in self._structures]),
        )

    def _facts(self, plane: _Plane, number: int, place: int) -> Facts:
        board, node = plane.board, plane.board.nodes[number]
        view, figures = self._views[node.case], self._views[node.case].doubts.planes[board.plane]
        told = board.present[:, number, None] * board.alike[number]
        news = np.maximum(told - plane.covered, 0) * board.demand
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


def _of_case(board: Board, case: int) -> NDArray[np.int64]:
    return np.array([k for k, node in enumerate(board.nodes) if node.case == case])
