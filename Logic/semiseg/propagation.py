"""Carries human labels on: from slices to their volume, from volumes to other cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from semiseg.atlases.cycles import Edge, wrong_edges
from semiseg.atlases.filling import human_voxels
from semiseg.atlases.gate import judge_fill
from semiseg.atlases.lending import Lending
from semiseg.atlases.library import Library
from semiseg.atlases.plans import Pair, Plan, Planner
from semiseg.atlases.proposal import Proposal, joined
from semiseg.atlases.records import CaseOutcome, Records, Rings
from semiseg.atlases.relaying import Relaying, Surroundings
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
from semiseg.registration.cache import cached_register, register_missing
from semiseg.registration.register import RegistrationResult
from semiseg.study.case import CaseLabel
from semiseg.study.study import Study

Found = TypeVar("Found")

__all__ = ["CaseOutcome", "Pair", "PropagationSummary", "missing_pairs", "propagate"]

_NO_ATLAS = (
    "no annotated case of the training split can lend it labels; draw a few slices in it, or in "
    "a case of that split"
)


@dataclass(frozen=True, kw_only=True)
class PropagationSummary:
    """What became of each case; `skipped` names cases that no atlas could serve, and why."""

    cases: tuple[CaseOutcome, ...]
    skipped: dict[str, str]


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


def missing_pairs(
    study: Study, config: PropagationConfig, case_ids: Iterable[str] | None = None
) -> Iterator[Pair]:
    """The registrations that `propagate` would have to make, found one by one.

    A case that cannot be read is passed over; `propagate` says so.
    """
    return _Run(study, config, ignore).missing(case_ids)


class _Run:
    """One call of `propagate`."""

    def __init__(self, study: Study, config: PropagationConfig, emit: Emit) -> None:
        self._study, self._config, self._emit = study, config, emit
        self._library = Library(study, config)
        self._names = {s.id: s.name for s in study.protocol.structures}
        self._planner = Planner(study, self._library, config)
        self._lending = Lending(self._library, config, self._names)
        self._relaying = Relaying(
            study, self._library, self._planner, self._lending, self._registered
        )
        folder = study.cache_dir / "propagation"
        self._records, self._direct = Records(folder), Records(folder / "direct")
        self._rings = Rings(folder / "rings")
        self._progress = Progress(emit, "propagate", 1)
        self._step = self._until = 0
        self._waiting: list[Plan] = []
        self._failed: dict[str, str] = {}

    def over(self, case_ids: Iterable[str] | None) -> PropagationSummary:
        """All plans, annotated cases first; then those that wait for others."""
        wanted = list(self._study.cases if case_ids is None else case_ids)
        if not self._library.annotated():
            raise NotEnoughLabelsError(
                "no slice of any case is done; draw the structures in a few slices of one scan, "
                "mark these as done and propagate again"
            )
        plans = [self._planner.plan(self._study.case(case_id)) for case_id in wanted]
        ready = sorted((plan for plan in plans if plan.own or plan.asked), key=lambda p: not p.own)
        self._progress = Progress(self._emit, "propagate", sum(map(self._steps, ready)))
        self._register_as_batches(wanted)
        outcomes = self._each(ready, self._outcome, self._steps)
        outcomes |= self._handed_on()
        skipped = {plan.id: _NO_ATLAS for plan in plans if not (plan.own or plan.asked)}
        for case_id, why in skipped.items():
            self._progress.update(self._step, f"{case_id}: {why}", {"case": case_id, "why": why})
        require_all(len(ready), self._failed, "propagated")
        cases = tuple(outcomes[plan.id] for plan in ready)
        return PropagationSummary(cases=cases, skipped=skipped)

    def _register_as_batches(self, case_ids: Sequence[str]) -> None:
        """On a GPU, all that is missing first; nothing on a CPU."""
        register_missing(
            self._study.cache_dir / "registration",
            ((pair.fixed, pair.moving) for pair in self.missing(case_ids)),
            self._config.registration,
            self._emit,
            both_ways=True,
        )

    def missing(self, case_ids: Iterable[str] | None) -> Iterator[Pair]:
        """What is not in the cache, of cases that are not done already."""
        for case_id in list(self._study.cases if case_ids is None else case_ids):
            try:
                plan = self._planner.plan(self._study.case(case_id))
                if not plan.asked or self._known(plan):
                    continue
                chosen = self._library.choose(plan.case, plan.lenders, plan.asked)
                pairs = [self._planner.pair(plan, lender) for lender in chosen]
            except (ImageError, StudyError):
                continue
            yield from (pair for pair in pairs if not pair.path.exists())

    def _each(
        self,
        plans: Sequence[Plan],
        work: Callable[[Plan], Found | None],
        steps: Callable[[Plan], int],
    ) -> dict[str, Found]:
        """What `work` gave for each plan, if anything; why it failed goes to `_failed`."""
        found: dict[str, Found] = {}
        for plan in plans:
            before = self._step
            try:
                result = work(plan)
            except StudyLockedError:
                raise
            except (ImageError, StudyError) as error:
                self._failed[plan.id] = why = str(error)
                self._step = before + steps(plan)
                data: dict[str, Json] = {"case": plan.id, "error": why}
                self._progress.update(self._step, f"{plan.id}: {why}", data)
                continue
            if result is not None:
                found[plan.id] = result
        return found

    def _steps(self, plan: Plan) -> int:
        return bool(plan.own) + min(len(plan.lenders), self._config.atlases) + plan.waits

    def _outcome(self, plan: Plan) -> CaseOutcome | None:
        """None where the case waits for others."""
        start, before, last = time.monotonic(), self._study.label(plan.id), self._step
        self._until = last + self._steps(plan)
        outcome = self._records.kept(plan.id, plan.key, before)
        if outcome is None:
            if self._direct.find(plan.id, plan.key) is not None:
                self._wait(plan, last)
                return None
            proposal = self._proposal(plan, before)
            if plan.waits and proposal.gate.verdict != "accept":
                self._direct.keep(_told(plan, proposal, None, start), plan.key)
                self._wait(plan, last)
                return None
            outcome = self._saved(plan, plan.key, proposal, start)
        self._step = last + self._steps(plan)
        self._tell(outcome)
        return outcome

    def _wait(self, plan: Plan, last: int) -> None:
        self._waiting.append(plan)
        self._step = last + self._steps(plan) - 1
        self._progress.update(self._step, f"{plan.id}: the atlases alone serve it poorly")

    def _saved(self, plan: Plan, key: str, proposal: Proposal, start: float) -> CaseOutcome:
        version = self._save(plan, key, proposal)
        outcome = _told(plan, proposal, version, start)
        self._records.keep(outcome, key)
        return outcome

    def _tell(self, outcome: CaseOutcome) -> None:
        word = "unchanged" if outcome.unchanged else outcome.verdict.replace("_", " ")
        data = {
            **outcome.to_json(),
            "case": outcome.case_id,
            "saved": outcome.version is not None,
        }
        self._progress.update(self._step, f"{outcome.case_id}: {word}", data)

    def _known(self, plan: Plan) -> bool:
        """Whether its atlases were brought to it earlier."""
        if plan.waits and self._direct.find(plan.id, plan.key) is not None:
            return True
        return self._records.kept(plan.id, plan.key, self._study.label(plan.id)) is not None

    def _proposal(self, plan: Plan, label: CaseLabel | None) -> Proposal:
        fill = self._filled(plan) if plan.own else None
        if not plan.asked:
            if fill is None:
                raise StudyError(f"{plan.id}: there is nothing to propagate")
            return fill
        chosen = self._library.choose(plan.case, plan.lenders, plan.asked)
        ways = {lender: self._aligned(plan, lender) for lender in chosen}
        lent = self._lending.proposal(plan.case, plan.asked, ways)
        return lent if fill is None or label is None else joined(fill, lent, human_voxels(label))

    def _filled(self, plan: Plan) -> Proposal:
        """Between the case's own slices."""
        fill = self._library.fill(plan.id)
        gate = judge_fill(fill, self._names, self._config)
        factor = np.float32(1.0 if gate.verdict == "accept" else gate.score)
        self._done(1, f"{plan.id}: filled between its slices")
        return Proposal(
            array=fill.array,
            confidence=fill.confidence * factor,
            ids=fill.ids,
            gate=gate,
            self_check=tuple(fill.self_check.items()),
        )

    def _aligned(self, plan: Plan, lender: str) -> RegistrationResult:
        self._done(0, f"{plan.id}: aligning {lender}")
        result = self._registered(plan, lender)
        # A structure that few atlases have may take more of them than was counted on.
        self._done(int(self._step < self._until), f"{plan.id}: {lender} is aligned")
        return result

    def _registered(self, plan: Plan, lender: str) -> RegistrationResult:
        pair = self._planner.pair(plan, lender)
        return cached_register(
            pair.path.parent,
            pair.fixed,
            pair.moving,
            self._config.registration,
            self._emit,
            both_ways=True,
        )

    def _handed_on(self) -> dict[str, CaseOutcome]:
        """The cases that waited: by way of another one where the gate finds that better.

        Rings are closed for all of them first, so that each case's say what is wrong with others.
        """
        around = self._each(self._waiting, self._surroundings, lambda _: 1)
        wrong = wrong_edges(self._rings.of(self._study.cases))

        def finish(plan: Plan) -> CaseOutcome:
            return self._second(plan, around[plan.id], wrong)

        return self._each([p for p in self._waiting if p.id in around], finish, lambda _: 0)

    def _surroundings(self, plan: Plan) -> Surroundings:
        """What surrounds the case; the rings are kept, for other cases and for later."""
        self._done(0, f"{plan.id}: looking for a case to reach it by")
        found = self._relaying.surroundings(plan, self._records, self._direct)
        self._rings.keep(plan.id, found.rings)
        self._done(1, f"{plan.id}: its surroundings are known")
        return found

    def _second(self, plan: Plan, around: Surroundings, wrong: frozenset[Edge]) -> CaseOutcome:
        start = time.monotonic()
        key = self._relaying.key(plan, around, wrong)
        outcome = self._records.kept(plan.id, key, self._study.label(plan.id))
        if outcome is None:
            proposal = self._relaying.proposal(plan, around, wrong)
            outcome = self._saved(plan, key, proposal, start)
        self._tell(outcome)
        return outcome

    def _save(self, plan: Plan, key: str, proposal: Proposal) -> int | None:
        """A new label version, joined with the newest under the study's lock."""
        before = self._study.label(plan.id)
        version = self._study.propagated(
            plan.id,
            proposal.array,
            proposal.confidence,
            structure_ids=proposal.ids,
            gate=proposal.gate,
            info={
                "key": key,
                "structures": list(proposal.ids),
                "atlases": list(proposal.atlases),
                "via": proposal.via,
                "self_check": {str(i): dice for i, dice in proposal.self_check},
                "config": to_json(self._config),
            },
        )
        if version is not None and before is not None:
            _require_human_untouched(before, self._study.label(plan.id, version))
        return version

    def _done(self, steps: int, message: str) -> None:
        self._step += steps
        self._progress.update(self._step, message)


def _told(plan: Plan, proposal: Proposal, version: int | None, start: float) -> CaseOutcome:
    return CaseOutcome(
        case_id=plan.id,
        verdict=proposal.gate.verdict,
        score=proposal.gate.score,
        reasons=proposal.gate.reasons,
        seconds=round(time.monotonic() - start, 2),
        atlases=proposal.atlases,
        via=proposal.via,
        version=version,
        self_check=proposal.self_check,
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
