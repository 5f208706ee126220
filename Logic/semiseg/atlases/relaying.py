"""Cases that atlases serve poorly, served by way of one that they served better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from semiseg.atlases.chain import chained
from semiseg.atlases.cycles import Edge, Triangle, edge, round_trip_mm, typical_misses
from semiseg.atlases.lending import Lending, by_way_of
from semiseg.atlases.library import Library
from semiseg.atlases.plans import Plan, Planner
from semiseg.atlases.proposal import Proposal
from semiseg.atlases.records import CaseOutcome, Records, content_key
from semiseg.registration.register import RegistrationResult
from semiseg.study.study import Study

_NEIGHBOURS = 5
_BETTER = 0.1  # of the score; less was lost on the way over a third case


@dataclass(frozen=True, kw_only=True)
class Relay:
    """A case that hands on to another one, from the atlases that served itself better."""

    plan: Plan
    atlases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Who hands on to a case, if anybody, and the rings of registrations that this closes."""

    relay: Relay | None
    rings: tuple[Triangle, ...]


class Relaying:
    """Finds and uses intermediates; `registered` lays an atlas, or any case, onto a plan's."""

    def __init__(
        self,
        study: Study,
        library: Library,
        planner: Planner,
        lending: Lending,
        registered: Callable[[Plan, str], RegistrationResult],
    ) -> None:
        self._study, self._library, self._planner = study, library, planner
        self._lending, self._registered = lending, registered
        self._scores: dict[str, float] = {}

    def surroundings(self, plan: Plan, records: Records, direct: Records) -> Surroundings:
        """Costs one registration, where there is somebody to hand on.

        `records` are of cases that atlases served well, `direct` of those that wait, too.
        """
        relay = self._relay(plan, records, direct)
        rings = () if relay is None else self._triangles(plan, relay)
        return Surroundings(relay=relay, rings=rings)

    def key(self, plan: Plan, around: Surroundings, wrong: frozenset[Edge]) -> str:
        """Changes with all that goes into `proposal`."""
        relay = around.relay
        if relay is None:
            return content_key(plan.key, None)
        near = sorted(pair for pair in wrong if {plan.id, relay.plan.id} & set(pair))
        return content_key(plan.key, relay.plan.id, relay.plan.key, relay.atlases, near)

    def proposal(self, plan: Plan, around: Surroundings, wrong: frozenset[Edge]) -> Proposal:
        """From the atlases directly or over another case, whichever the gate scores higher.

        Registrations that are `wrong` are left out.
        """
        misses = typical_misses(around.rings)
        chosen = self._library.choose(plan.case, plan.lenders, plan.asked)
        sound = [i for i in chosen if edge(plan.id, i) not in wrong] or list(chosen)
        ways = {lender: self._registered(plan, lender) for lender in sound}
        direct = self._lending.proposal(plan.case, plan.asked, ways, misses)
        over = {} if around.relay is None else self._chains(plan, around.relay, wrong)
        if not over or around.relay is None:
            return direct
        other = self._lending.proposal(plan.case, plan.asked, over, misses)
        better = set(other.ids) >= set(direct.ids) and other.gate.score > direct.gate.score
        return by_way_of(other, around.relay.plan.id) if better else direct

    def _relay(self, plan: Plan, records: Records, direct: Records) -> Relay | None:
        """Of the cases most like this one the one that was served best, and better than this."""
        library, own = self._library, direct.find(plan.id, plan.key)
        least = _BETTER + (0.0 if own is None else own.score)
        others = [
            i for i in library.intermediates(plan.case) if self._last(i, records, direct) >= least
        ]
        served: list[tuple[float, Relay]] = []
        for case_id in library.nearest(plan.case, others, _NEIGHBOURS):
            other = self._planner.plan(self._study.case(case_id))
            found = records.kept(case_id, other.key, self._study.label(case_id))
            found = found or direct.find(case_id, other.key)
            if found is not None and _serves(found) >= least:
                served.append((found.score, Relay(plan=other, atlases=found.atlases)))
        return max(served, key=lambda pair: pair[0])[1] if served else None

    def _last(self, case_id: str, records: Records, direct: Records) -> float:
        """How well the case was served when it was last looked at; each is looked up once."""
        if case_id not in self._scores:
            known = (records.any_of(case_id), direct.any_of(case_id))
            self._scores[case_id] = max(_serves(found) for found in known)
        return self._scores[case_id]

    def _triangles(self, plan: Plan, relay: Relay) -> tuple[Triangle, ...]:
        """From each atlas that reaches both cases over the other one to this one, and home."""
        between = self._registered(plan, relay.plan.id)
        direct = self._library.choose(plan.case, plan.lenders, plan.asked)
        found = []
        for atlas in (i for i in direct if i in relay.atlases):
            here, there = self._registered(plan, atlas), self._registered(relay.plan, atlas)
            if between.inverse is None or there.inverse is None:
                continue
            lent = self._library.atlas(atlas).limited(plan.asked)
            ring = (there.inverse, between.inverse, here.field)
            sides = {
                edge(plan.id, atlas): here.ways_apart_mm,
                edge(plan.id, relay.plan.id): between.ways_apart_mm,
                edge(relay.plan.id, atlas): there.ways_apart_mm,
            }
            found.append(Triangle(unsure_mm=sides, miss_mm=round_trip_mm(lent, ring)))
        return tuple(found)

    def _chains(
        self, plan: Plan, relay: Relay, wrong: frozenset[Edge]
    ) -> dict[str, RegistrationResult]:
        """The ways over the other case to its atlases."""
        if edge(plan.id, relay.plan.id) in wrong:
            return {}
        first, body = self._registered(plan, relay.plan.id), self._library.prepared(plan.id).mask
        return {
            atlas: chained(first, self._registered(relay.plan, atlas), body)
            for atlas in relay.atlases
            if edge(relay.plan.id, atlas) not in wrong
        }


def _serves(found: CaseOutcome | None) -> float:
    """The score of labels that came directly and were not refused, 0 for others."""
    if found is None or found.verdict == "reject" or found.via is not None or not found.atlases:
        return 0.0
    return found.score
