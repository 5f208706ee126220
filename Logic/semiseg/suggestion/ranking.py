"""Which slices to draw next: those that are expected to gain most Dice per minute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from semiseg.errors import SemiSegError, StudyError
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.grid import PLANES, Plane
from semiseg.study.ledger import Ledger, SliceState
from semiseg.study.study import Study
from semiseg.suggestion.doubts import doubts_of
from semiseg.suggestion.looks import looks_of
from semiseg.suggestion.places import places_of
from semiseg.suggestion.search import Search
from semiseg.suggestion.settings import SliceSuggestion, SuggestConfig
from semiseg.suggestion.views import CaseView

__all__ = ["SliceSuggestion", "SuggestConfig", "case_views", "mark_suggested", "suggest"]

_OTHER_PLANE = 0.5  # a scan is drawn in one plane, unless another is much better


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
    return Search(study, config, views, allowed).best()


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
