"""The slice ledger of a case as rows of runs, from one end of the patient to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from semiseg.images.grid import PLANES, Grid, Plane, canonical
from semiseg.images.labels import Segment
from semiseg.report.colors import css
from semiseg.report.planes import views
from semiseg.study.ledger import FINISHED, Ledger, SliceState


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring slices in one state; `start` and `stop` count from the strip's left end."""

    start: int
    stop: int
    state: str
    title: str


@dataclass(frozen=True, kw_only=True)
class StripRow:
    """One structure, or all of them where they agree (then `color` is empty)."""

    name: str
    color: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One plane's slices; `low` and `high` are the patient directions at the strip's ends."""

    plane: Plane
    count: int
    done: int
    low: str
    high: str
    low_index: int
    high_index: int
    rows: tuple[StripRow, ...]


def ledger_strips(ledger: Ledger, grid: Grid, segments: Sequence[Segment]) -> tuple[Strip, ...]:
    """A strip for every plane in which a slice was touched, for the structures of the protocol."""
    strips = (_strip(ledger, grid, segments, plane) for plane in PLANES)
    return tuple(strip for strip in strips if any(row.runs for row in strip.rows))


def _strip(ledger: Ledger, grid: Grid, segments: Sequence[Segment], plane: Plane) -> Strip:
    turn = canonical(grid)
    axis = PLANES.index(plane)
    count = turn.grid.shape_zyx[axis]
    order = list(range(count))[:: -1 if turn.flips[axis] else 1]
    states = {
        segment.id: [ledger.state(plane, index, segment.id) for index in order]
        for segment in segments
    }
    low, high = _ends(turn.grid, plane)
    finished = sum(any(column[n] in FINISHED for column in states.values()) for n in range(count))
    return Strip(
        plane=plane,
        count=count,
        done=finished,
        low=low,
        high=high,
        low_index=order[0],
        high_index=order[-1],
        rows=_rows(states, segments, order),
    )


def _rows(
    states: dict[int, list[SliceState]], segments: Sequence[Segment], order: list[int]
) -> tuple[StripRow, ...]:
    if len(states) > 1 and len({tuple(column) for column in states.values()}) == 1:
        runs = _runs(next(iter(states.values())), order, "all structures")
        return (StripRow(name="all structures", color="", runs=runs),)
    return tuple(
        StripRow(
            name=segment.name,
            color=css(segment.color),
            runs=_runs(states[segment.id], order, segment.name),
        )
        for segment in segments
    )


def _runs(column: list[SliceState], order: list[int], name: str) -> tuple[Run, ...]:
    """Runs of equal state, without the untouched ones."""
    found, start = [], 0
    for state, group in groupby(column):
        stop = start + len(list(group))
        if state is not SliceState.UNTOUCHED:
            first, last = sorted((order[start], order[stop - 1]))
            slices = f"slice {first}" if first == last else f"slices {first} to {last}"
            title = f"{name}: {slices} {_words(state)}"
            found.append(Run(start=start, stop=stop, state=state.value, title=title))
        start = stop
    return tuple(found)


def _words(state: SliceState) -> str:
    return "done and empty" if state is SliceState.EMPTY else state.value


def _ends(canonical_grid: Grid, plane: Plane) -> tuple[str, str]:
    """Patient directions at the first and at the last slice across `plane`."""
    faces = views(canonical_grid)
    if plane == "axial":
        return faces["coronal"].bottom, faces["coronal"].top
    if plane == "coronal":
        return faces["axial"].top, faces["axial"].bottom
    return faces["axial"].left, faces["axial"].right
