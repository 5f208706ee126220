"""Carries human labels on: from slices to their volume, from volumes to other cases."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.atlases.filling import human_voxels
from semiseg.atlases.fusion import Fused, fuse, on_grid
from semiseg.atlases.gate import judge_fill, judge_transfer, volume_ratios
from semiseg.atlases.library import Library, body_girth_mm2
from semiseg.atlases.records import CaseOutcome, Records, content_key
from semiseg.atlases.transfer import Transfer, drawn_places, fusion_grid, transfer
from semiseg.config import PropagationConfig, to_json
from semiseg.errors import (
    ImageError,
    NotEnoughLabelsError,
    SemiSegError,
    StudyError,
    StudyLockedError,
    require_all,
)
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.grid import canonical
from semiseg.registration.cache import Source, cached_register, entry_path
from semiseg.registration.register import RegistrationResult
from semiseg.study.case import Case, CaseLabel, GateRecord
from semiseg.study.study import Study

__all__ = ["CaseOutcome", "Pair", "PropagationSummary", "missing_pairs", "propagate"]

_NO_ATLAS = (
    "no annotated case of the training split can lend it labels; draw a few slices in it, or in "
    "a case of that split"
)
_A_JURY = 3  # atlases
_THIN = 2  # with fewer done slices a structure is asked of the atlases too


@dataclass(frozen=True, kw_only=True)
class PropagationSummary:
    """What became of each case; `skipped` names cases that no atlas could serve, and why."""

    cases: tuple[CaseOutcome, ...]
    skipped: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A label to save, (z, y, x) on the case's own grid, for `ids`, with the gate's verdict."""

    array: NDArray[np.uint16]
    confidence: NDArray[np.float32]
    ids: tuple[int, ...]
    gate: GateRecord
    atlases: tuple[str, ...] = ()
    self_check: tuple[tuple[int, float], ...] = ()


def propagate(
    study: Study,
    config: PropagationConfig,
    emit: Emit = ignore,
    case_ids: Iterable[str] | None = None,
) -> PropagationSummary:
    """Fills annotated cases between their slices and brings labels to the others.

    `case_ids` are the cases to do (all by default). A human's voxels never change; results that
    the same input gave before are kept. A case that fails is said in an event, the others go on,
    and CasesFailedError ends the run. NotEnoughLabelsError when no slice is done anywhere.
    """
    return _Run(study, config, emit).over(case_ids)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A registration that `propagate` will look for at `path`, and what goes into it."""

    target: str
    atlas: str
    path: Path
    fixed: Source
    moving: Source


def missing_pairs(
    study: Study, config: PropagationConfig, case_ids: Iterable[str] | None = None
) -> Iterator[Pair]:
    """The registrations that `propagate` would have to make, found one by one.

    A case that cannot be read is passed over; `propagate` says so.
    """
    return _Run(study, config, ignore).missing(case_ids)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be done for one case: own structures to fill, others to ask of `lenders`."""

    case: Case
    own: tuple[int, ...]
    asked: tuple[int, ...]
    lenders: tuple[str, ...]
    key: str


class _Run:
    """One call of `propagate`."""

    def __init__(self, study: Study, config: PropagationConfig, emit: Emit) -> None:
        self._study, self._config, self._emit = study, config, emit
        self._library = Library(study, config)
        self._records = Records(study.cache_dir / "propagation")
        self._names = {s.id: s.name for s in study.protocol.structures}
        self._progress = Progress(emit, "propagate", 1)
        self._step = 0

    def over(self, case_ids: Iterable[str] | None) -> PropagationSummary:
        """All plans, annotated cases first."""
        wanted = list(self._study.cases if case_ids is None else case_ids)
        if not self._library.annotated():
            raise NotEnoughLabelsError(
                "no slice of any case is done; draw the structures in a few slices of one scan, "
                "mark these as done and propagate again"
            )
        plans = [self._plan(self._study.case(case_id)) for case_id in wanted]
        ready = sorted((plan for plan in plans if plan.own or plan.asked), key=lambda p: not p.own)
        self._progress = Progress(self._emit, "propagate", sum(map(self._steps, ready)))
        outcomes, failed = self._outcomes(ready)
        skipped = {plan.case.id: _NO_ATLAS for plan in plans if not (plan.own or plan.asked)}
        for case_id, why in skipped.items():
            self._progress.update(self._step, f"{case_id}: {why}", {"case": case_id, "why": why})
        require_all(len(ready), failed, "propagated")
        return PropagationSummary(cases=tuple(outcomes), skipped=skipped)

    def missing(self, case_ids: Iterable[str] | None) -> Iterator[Pair]:
        """What is not in the cache, of cases that are not done already."""
        for case_id in list(self._study.cases if case_ids is None else case_ids):
            try:
                plan = self._plan(self._study.case(case_id))
                if not plan.asked or self._kept(plan, self._study.label(case_id)) is not None:
                    continue
                chosen = self._library.choose(plan.case, plan.lenders)
                pairs = [self._pair(plan, lender) for lender in chosen]
            except (ImageError, StudyError):
                continue
            yield from (pair for pair in pairs if not pair.path.exists())

    def _outcomes(self, plans: Sequence[_Plan]) -> tuple[list[CaseOutcome], dict[str, str]]:
        """What became of each plan; and why some could not be carried out."""
        outcomes: list[CaseOutcome] = []
        failed: dict[str, str] = {}
        step = 0
        for plan in plans:
            step += self._steps(plan)
            try:
                outcomes.append(self._outcome(plan))
            except StudyLockedError:
                raise
            except (ImageError, StudyError) as error:
                case_id, why = plan.case.id, str(error)
                failed[case_id] = why
                self._step = step
                data: dict[str, Json] = {"case": case_id, "error": why}
                self._progress.update(step, f"{case_id}: {why}", data)
        return outcomes, failed

    def _plan(self, case: Case) -> _Plan:
        library, label = self._library, self._study.label(case.id)
        own, lenders = library.ids(label), library.lenders(case)
        lent = {i for lender in lenders for i in library.lent_ids(lender)}
        thin = set() if label is None else {i for i in own if _done_slices(label, i) < _THIN}
        asked = tuple(sorted(lent & (set(self._names) - set(own) | thin)))
        lenders = lenders if asked else ()
        key = content_key(
            library.key(case.id), asked, [library.key(i) for i in lenders], to_json(self._config)
        )
        return _Plan(case=case, own=own, asked=asked, lenders=lenders, key=key)

    def _steps(self, plan: _Plan) -> int:
        return bool(plan.own) + min(len(plan.lenders), self._config.atlases)

    def _outcome(self, plan: _Plan) -> CaseOutcome:
        start, before = time.monotonic(), self._study.label(plan.case.id)
        outcome = self._kept(plan, before)
        if outcome is None:
            proposal = self._proposal(plan, before)
            version = self._save(plan, proposal, before)
            outcome = CaseOutcome(
                case_id=plan.case.id,
                verdict=proposal.gate.verdict,
                score=proposal.gate.score,
                reasons=proposal.gate.reasons,
                seconds=round(time.monotonic() - start, 2),
                atlases=proposal.atlases,
                version=version,
                self_check=proposal.self_check,
            )
            self._records.keep(outcome, plan.key)
        else:
            self._done(self._steps(plan), f"{plan.case.id}: unchanged")
        word = "unchanged" if outcome.unchanged else outcome.verdict.replace("_", " ")
        data = {**outcome.to_json(), "case": plan.case.id, "saved": outcome.version is not None}
        self._progress.update(self._step, f"{plan.case.id}: {word}", data)
        return outcome

    def _kept(self, plan: _Plan, label: CaseLabel | None) -> CaseOutcome | None:
        """The earlier outcome, if the same went into it and its label is still there."""
        found = self._records.find(plan.case.id, plan.key)
        if found is None or found.verdict == "reject":
            return found
        return found if label is not None and label.info.get("key") == plan.key else None

    def _proposal(self, plan: _Plan, label: CaseLabel | None) -> Proposal:
        fill = self._filled(plan) if plan.own else None
        if not plan.asked:
            if fill is None:
                raise StudyError(f"{plan.case.id}: there is nothing to propagate")
            return fill
        lent = self._lent(plan)
        return lent if fill is None or label is None else _joined(fill, lent, human_voxels(label))

    def _filled(self, plan: _Plan) -> Proposal:
        """Between the case's own slices."""
        fill = self._library.fill(plan.case.id)
        gate = judge_fill(fill, self._names, self._config)
        factor = np.float32(1.0 if gate.verdict == "accept" else gate.score)
        self._done(1, f"{plan.case.id}: filled between its slices")
        return Proposal(
            array=fill.array,
            confidence=fill.confidence * factor,
            ids=fill.ids,
            gate=gate,
            self_check=tuple(fill.self_check.items()),
        )

    def _lent(self, plan: _Plan) -> Proposal:
        """From the best atlases among the plan's lenders."""
        chosen = self._library.choose(plan.case, plan.lenders)
        turn = canonical(plan.case.grid)
        transfers, fused = self._transfers(plan, chosen)
        array, confidence = on_grid(fused, turn.grid)
        gate = judge_transfer(
            [t.evidence for t in transfers],
            fused.agreement,
            self._volume_ratios(plan.case, array, transfers),
            self._names,
            self._config,
        )
        # Votes of several atlases are calibrated as they are; a single one cannot be outvoted.
        factor = gate.score / (1 if gate.verdict == "accept" else 2)
        if gate.verdict == "accept" and len(chosen) >= _A_JURY:
            factor = 1.0
        return Proposal(
            array=turn.invert(array),
            confidence=turn.invert(confidence) * np.float32(factor),
            ids=fused.ids,
            gate=gate,
            atlases=chosen,
        )

    def _transfers(self, plan: _Plan, chosen: Sequence[str]) -> tuple[list[Transfer], Fused]:
        """The chosen atlases' labels on the part of the target where they land, and their vote."""
        atlases, results = [], []
        for lender in chosen:
            self._done(0, f"{plan.case.id}: aligning {lender}")
            results.append(self._registered(plan, lender))
            atlases.append(self._library.atlas(lender).limited(plan.asked))
            self._done(1, f"{plan.case.id}: {lender} is aligned")
        places = [
            result.inverse.moved(drawn_places(atlas))
            for atlas, result in zip(atlases, results, strict=True)
            if result.inverse is not None
        ]
        grid = fusion_grid(canonical(plan.case.grid).grid, places)
        fixed = self._library.prepared(plan.case.id)
        transfers = [
            transfer(atlas, result, (fixed, self._library.prepared(atlas.case_id)), grid)
            for atlas, result in zip(atlases, results, strict=True)
        ]
        return transfers, fuse(transfers, grid, self._config.fusion)

    def _registered(self, plan: _Plan, lender: str) -> RegistrationResult:
        pair = self._pair(plan, lender)
        return cached_register(
            pair.path.parent,
            pair.fixed,
            pair.moving,
            self._config.registration,
            self._emit,
            both_ways=True,
        )

    def _pair(self, plan: _Plan, lender: str) -> Pair:
        """Structures that humans drew in both cases guide, but in a case kept for validation or
        testing: its own slices must not make what is compared with them look better."""
        shared: tuple[int, ...] = ()
        if plan.case.split == "train":
            shared = tuple(i for i in plan.own if i in self._library.lent_ids(lender))
        fixed, moving = (self._library.known(i, shared) for i in (plan.case.id, lender))
        folder = self._study.cache_dir / "registration"
        config = self._config.registration
        return Pair(
            target=plan.case.id,
            atlas=lender,
            path=entry_path(folder, fixed, moving, config, both_ways=True),
            fixed=fixed,
            moving=moving,
        )

    def _volume_ratios(
        self, case: Case, array: NDArray[np.uint16], transfers: Sequence[Transfer]
    ) -> dict[int, float]:
        girth = body_girth_mm2(self._library.prepared(case.id))
        scales = [girth / body_girth_mm2(self._library.prepared(t.case_id)) for t in transfers]
        evidence = [given.evidence for given in transfers]
        return volume_ratios(array, case.grid.voxel_ml, evidence, scales)

    def _save(self, plan: _Plan, proposal: Proposal, before: CaseLabel | None) -> int | None:
        """A new label version, joined with the newest under the study's lock."""
        version = self._study.propagated(
            plan.case.id,
            proposal.array,
            proposal.confidence,
            structure_ids=proposal.ids,
            gate=proposal.gate,
            info={
                "key": plan.key,
                "structures": list(proposal.ids),
                "atlases": list(proposal.atlases),
                "self_check": {str(i): dice for i, dice in proposal.self_check},
                "config": to_json(self._config),
            },
        )
        if version is not None and before is not None:
            _require_human_untouched(before, self._study.label(plan.case.id, version))
        return version

    def _done(self, steps: int, message: str) -> None:
        self._step += steps
        self._progress.update(self._step, message)


def _done_slices(label: CaseLabel, structure_id: int) -> int:
    ledger = label.ledger
    return sum(len(ledger.done(p, structure_id)) for p in ledger.planes_done(structure_id))


def _joined(fill: Proposal, lent: Proposal, human: NDArray[np.bool_]) -> Proposal:
    """The case's own slices first; atlases add what is not drawn here, or is far from any slice."""
    if lent.gate.verdict == "reject":
        return fill
    extra = tuple(sorted(set(lent.ids) - set(fill.ids)))
    adds = np.isin(lent.array, extra) & (fill.array == 0)
    shared = np.isin(lent.array, fill.ids) & np.isin(fill.array, [0, *lent.ids])
    adds |= shared & (lent.confidence > fill.confidence)
    adds &= ~human
    confidence = fill.confidence
    if extra:  # background now speaks of the added structures too
        confidence = np.where(fill.array == 0, np.minimum(confidence, lent.confidence), confidence)
    reasons = (*fill.gate.reasons, *(f"from other cases: {text}" for text in lent.gate.reasons))
    return Proposal(
        array=np.where(adds, lent.array, fill.array),
        confidence=np.where(adds, lent.confidence, confidence),
        ids=tuple(sorted({*fill.ids, *lent.ids})),
        gate=replace(fill.gate, reasons=reasons),
        atlases=lent.atlases,
        self_check=fill.self_check,
    )


def _require_human_untouched(before: CaseLabel, after: CaseLabel | None) -> None:
    """SemiSegError, a defect, if a program's label lost a human's voxel; the earlier one stays."""
    human = human_voxels(before)
    if after is None or after.version != before.version + 1:
        return  # a human was quicker; the study joined both under its lock
    if not np.array_equal(after.array[human], before.array[human]):
        raise SemiSegError(
            f"{before.case_id}: propagation changed voxels that a human drew; label version "
            f"{before.version} still has them: please report this"
        )
