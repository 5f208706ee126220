"""The files of a case's companions: found again, and checked to be the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

from semiseg.study.case import Case, Companion, Problem
from semiseg.study.picture import content_problem, file_state, places, quick_problem

_REMEDY = (
    "take it out (semiseg study remove-companion) and add it anew; the case itself is not touched"
)


def as_case(case: Case, companion: Companion) -> Case:
    """The companion as what finds and checks images knows them."""
    return replace(
        case,
        id=f"{case.id} ({companion.name})",
        image=companion.image,
        grid=companion.grid,
        companions=(),
    )


def companion_problems(folder: Path, case: Case, *, thorough: bool = False) -> list[Problem]:
    """What is wrong with the files of a case's companions; `thorough` reads them."""
    look = content_problem if thorough else quick_problem
    found = [look(as_case(case, companion), folder) for companion in case.companions]
    return [replace(p, case_id=case.id, remedy=_REMEDY) for p in found if p is not None]


def companion_states(folder: Path, case: Case) -> tuple[Hashable, ...]:
    """Changes whenever a companion's file does."""
    files = (path for companion in case.companions for path in places(companion.image, folder))
    return tuple(file_state(path) for path in files)
