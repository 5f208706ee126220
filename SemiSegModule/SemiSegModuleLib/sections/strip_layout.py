"""Where the cells, ticks and words of a ledger strip go; pure arithmetic, no Qt."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from semiseg.images.grid import Grid, Plane, plane_axis
from semiseg.study.ledger import SliceState

# When several slices share a pixel, the one that the user would miss most is shown.
_IMPORTANCE = {
    SliceState.UNTOUCHED: 0,
    SliceState.SUGGESTED: 1,
    SliceState.EMPTY: 2,
    SliceState.DONE: 3,
}
_CELL_WITH_GAP = 4.0
_TICK_GAP = 10.0


@dataclass(frozen=True, kw_only=True)
class StripContent:
    """What a strip shows: a state per slice, the shown slice, and which are being saved.

    `proposed` are slices where drawing pays most.

    `low` and `high` are the patient directions at the left and the right end; with `mirrored`,
    slice 0 lies on the right, so that the strip runs as Slicer's own slice sliders do.
    """

    states: tuple[SliceState, ...] = ()
    current: int | None = None
    pending: frozenset[int] = frozenset()
    proposed: frozenset[int] = frozenset()
    low: str = ""
    high: str = ""
    mirrored: bool = False


@dataclass(frozen=True)
class Cell:
    """A rectangle in pixels, from `left` to `right`, that shows one state."""

    left: int
    right: int
    state: SliceState
    pending: bool


def cells(content: StripContent, width: int) -> list[Cell]:
    """What to draw from left to right over `width` pixels; neighbours in one state may be one."""
    count = len(content.states)
    if not count or width < 1:
        return []
    if width / count >= _CELL_WITH_GAP:
        return [_cell(content, place, width) for place in range(count)]
    return list(_runs(content, width))


def place_of(index: int, content: StripContent) -> int:
    """How many cells lie to the left of slice `index`; its own inverse."""
    return len(content.states) - 1 - index if content.mirrored else index


def index_at(x: float, content: StripContent, width: int) -> int:
    """The slice under `x`; outside of the strip, the slice at that end."""
    count = len(content.states)
    place = int(x * count // max(width, 1))
    return place_of(min(max(place, 0), count - 1), content)


def span_of(index: int, content: StripContent, width: int) -> tuple[int, int]:
    """Left and right pixel of slice `index`, at least one pixel apart."""
    place, count = place_of(index, content), len(content.states)
    left = min(place * width // count, width - 1)
    return left, max((place + 1) * width // count, left + 1)


def ticks(count: int, width: int, label_width: float) -> list[int]:
    """Slices to label: round steps from slice 0, as many as fit, and the last one."""
    if count < 1:
        return []
    room = max((label_width + _TICK_GAP) * count / max(width, 1), 1.0)
    step = next(
        base * 10**power for power in range(7) for base in (1, 2, 5) if base * 10**power >= room
    )
    found = list(range(0, count, step))
    last = count - 1
    while len(found) > 1 and found[-1] != last and last - found[-1] < room:
        found.pop()
    return found if found[-1] == last or last < room else [*found, last]


def ends(grid: Grid, plane: Plane) -> tuple[str, str, bool]:
    """Patient directions at the left and the right end, and whether slice 0 lies on the right.

    As in Slicer's sliders, offsets grow from left to right towards superior, anterior and right.
    """
    low, high, world, sign = {
        "axial": ("I", "S", 2, 1.0),
        "coronal": ("P", "A", 1, -1.0),
        "sagittal": ("L", "R", 0, -1.0),
    }[plane]
    axis_xyz = 2 - plane_axis(grid, plane)
    return low, high, bool(sign * grid.affine_lps[world, axis_xyz] < 0)


def most_important(states: Sequence[SliceState]) -> SliceState:
    """The state that stands for several slices."""
    return max(states, key=lambda state: _IMPORTANCE[state])


def _cell(content: StripContent, place: int, width: int) -> Cell:
    index = place_of(place, content)
    left, right = span_of(index, content, width)
    return Cell(left, right - 1, content.states[index], index in content.pending)


def _runs(content: StripContent, width: int) -> Iterator[Cell]:
    start = 0
    shown = _column(content, 0, width)
    for x in range(1, width + 1):
        now = _column(content, x, width) if x < width else None
        if now != shown:
            yield Cell(start, x, *shown)
            start, shown = x, now or shown


def _column(content: StripContent, x: int, width: int) -> tuple[SliceState, bool]:
    """What the slices of one pixel column show together."""
    count = len(content.states)
    first = x * count // width
    last = max((x + 1) * count // width, first + 1)
    indices = [place_of(place, content) for place in range(first, last)]
    return most_important([content.states[index] for index in indices]), _any(
        indices, content.pending
    )


def _any(indices: Sequence[int], among: Collection[int]) -> bool:
    return any(index in among for index in indices)
