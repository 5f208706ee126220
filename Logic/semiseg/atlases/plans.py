"""What is to be done for each case, and which registrations that takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semiseg.atlases.filling import human_voxels
from semiseg.atlases.library import Library
from semiseg.atlases.records import content_key
from semiseg.config import PropagationConfig, to_json
from semiseg.images.grid import Grid, plane_axis
from semiseg.registration.cache import Source, entry_path
from semiseg.study.case import Case, CaseLabel
from semiseg.study.study import Study

_THIN = 2  # a structure that fewer done slices show is asked of the atlases too


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A registration that `propagate` will look for at `path`, and what goes into it."""

    target: str
    atlas: str
    path: Path
    fixed: Source
    moving: Source


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done for one case: own structures to fill, others to ask of `lenders`.

    Where the atlases serve it poorly, it `waits` until others that may hand on are done.
    """

    case: Case
    own: tuple[int, ...]
    asked: tuple[int, ...]
    lenders: tuple[str, ...]
    key: str
    waits: bool

    @property
    def id(self) -> str:
        """The case's."""
        return self.case.id


class Planner:
    """Plans for the cases of `study`."""

    def __init__(self, study: Study, library: Library, config: PropagationConfig) -> None:
        self._study, self._library, self._config = study, library, config

    def plan(self, case: Case) -> Plan:
        """For `case` as it is now."""
        library, label = self._library, self._study.label(case.id)
        own, lenders = library.ids(label), library.lenders(case)
        lent = {i for lender in lenders for i in library.lent_ids(lender)}
        thin = {i for i in own if label is not None and _slices_with(label, i, case.grid) < _THIN}
        asked = tuple(sorted(lent & (set(self._study.protocol.ids) - set(own) | thin)))
        lenders = tuple(i for i in lenders if set(asked) & set(library.lent_ids(i)))
        key = content_key(
            library.key(case.id), asked, [library.key(i) for i in lenders], to_json(self._config)
        )
        waits = bool(asked) and not own and library.may_hand_on(case)
        return Plan(case=case, own=own, asked=asked, lenders=lenders, key=key, waits=waits)

    def pair(self, plan: Plan, lender: str) -> Pair:
        """Structures that humans drew in both cases guide, but in a case kept for validation or
        testing: its own slices must not make what is compared with them look better."""
        shared: tuple[int, ...] = ()
        if plan.case.split == "train":
            shared = tuple(i for i in plan.own if i in self._library.lent_ids(lender))
        fixed, moving = (self._library.known(i, shared) for i in (plan.id, lender))
        folder = self._study.cache_dir / "registration"
        config = self._config.registration
        return Pair(
            target=plan.id,
            atlas=lender,
            path=entry_path(folder, fixed, moving, config, both_ways=True),
            fixed=fixed,
            moving=moving,
        )


def _slices_with(label: CaseLabel, structure_id: int, grid: Grid) -> int:
    """How many done slices show a structure."""
    there, count = human_voxels(label) & (label.array == structure_id), 0
    for plane in label.ledger.planes_done(structure_id):
        axis = plane_axis(grid, plane)
        done = there.take(label.ledger.done(plane, structure_id), axis)
        count += int(done.any(axis=tuple({0, 1, 2} - {axis})).sum())
    return count
