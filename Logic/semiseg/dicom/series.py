"""Slices of a folder sorted into series, and series into volumes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from semiseg.dicom.frames import Frame
from semiseg.dicom.geometry import SAME_PLACE_MM, lay_out, normal_of, same_direction
from semiseg.errors import ImageError
from semiseg.events import Json
from semiseg.images.grid import Grid


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Slices that make one image; `problem` says why they do not.

    `part` tells volumes of one series apart (an echo, a time point); `siblings` is how many
    there are.
    """

    number: int = 0
    frames: tuple[Frame, ...]
    part: str = ""
    siblings: int = 1
    grid: Grid | None = None
    exact: bool = False
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def ready(self) -> bool:
        """Whether the slices make an image."""
        return not self.problem

    @property
    def first(self) -> Frame:
        """The slice whose header speaks for all."""
        return self.frames[0]

    def to_json(self) -> dict[str, Json]:
        """The row of the table of a scan; the description may hold names that people wrote."""
        frame = self.first
        return {
            "number": self.number,
            "modality": frame.modality,
            "series_number": frame.series_number,
            "series_uid": frame.key.series_uid,
            "study_uid": frame.key.study_uid,
            "description": frame.description,
            "patient": frame.patient_key[:10],
            "part": self.part,
            "siblings": self.siblings,
            "slices": len(self.frames),
            "folder": frame.name.rpartition("/")[0],
            "grid": None if self.grid is None else self.grid.to_json(),
            "exact": self.exact,
            "notes": list(self.notes),
            "problem": self.problem,
        }


Same = Callable[[Frame, Frame], bool]


def volumes_of(
    frames: Iterable[Frame], same: Same, *, bridge_gaps: bool = False
) -> tuple[Volume, ...]:
    """All volumes that `frames` make, numbered from 1 in an order that files' names do not change.

    Copies of one slice count once: `same` compares the pixels of two. A series may give several
    volumes: of different size or orientation, echoes, time points.
    """
    series: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        series[frame.key[:3]].append(frame)
    found: list[Volume] = []
    for key in sorted(series, key=lambda k: (_series_order(series[k]), str(k))):
        parts = [
            _laid_out(volume, bridge_gaps=bridge_gaps)
            for volume in _parts_of_series(series[key], same)
        ]
        usable = sum(part.ready for part in parts)
        found += [replace(part, siblings=usable if part.ready else 1) for part in parts]
    return tuple(replace(volume, number=n) for n, volume in enumerate(found, 1))


def _series_order(frames: Sequence[Frame]) -> tuple[str, int]:
    number = frames[0].series_number
    return frames[0].key.study_uid, -1 if number is None else number


def _laid_out(volume: Volume, *, bridge_gaps: bool) -> Volume:
    if volume.problem:
        return volume
    try:
        layout = lay_out(volume.frames, bridge_gaps=bridge_gaps)
    except ImageError as error:
        return replace(volume, problem=str(error))
    return replace(
        volume,
        grid=layout.grid,
        exact=layout.exact,
        notes=(*volume.notes, *layout.notes),
    )


def _parts_of_series(frames: Sequence[Frame], same: Same) -> list[Volume]:
    """The series split by size and direction, then by what shares its places."""
    stacks = _by_orientation(frames)
    found = []
    for number, stack in enumerate(stacks, 1):
        name = _stack_name(number, stacks)
        unique, copies = _without_copies(stack)
        notes = (f"{copies} copies of slices were left out",) if copies else ()
        found += [
            replace(
                part,
                part=", ".join(filter(None, (name, part.part))),
                notes=(*part.notes, *notes),
            )
            for part in _by_place(unique, same)
        ]
    return found


def _stack_name(number: int, stacks: Sequence[Sequence[Frame]]) -> str:
    """What tells a stack from the others of its series: its size, else its direction."""
    if len(stacks) < 2:
        return ""
    sizes = [(stack[0].key.columns, stack[0].key.rows) for stack in stacks]
    if len(set(sizes)) == len(stacks):
        return f"{sizes[number - 1][0]} x {sizes[number - 1][1]} pixels"
    return f"direction {number}"


def _by_orientation(frames: Sequence[Frame]) -> list[list[Frame]]:
    stacks: list[list[Frame]] = []
    index: dict[Hashable, list[list[Frame]]] = defaultdict(list)
    for frame in frames:
        key = (frame.key, tuple(round(s, 4) for s in frame.spacing_mm))
        for stack in index[key]:
            if same_direction(stack[0].orientation, frame.orientation):
                stack.append(frame)
                break
        else:
            fresh = [frame]
            index[key].append(fresh)
            stacks.append(fresh)
    return stacks


def _without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], int]:
    """Each slice once: files that carry the same unique id are copies of one slice."""
    seen: set[tuple[str, int]] = set()
    kept = []
    for frame in frames:
        key = (frame.sop_instance_uid, frame.number)
        if frame.sop_instance_uid and key in seen:
            continue
        seen.add(key)
        kept.append(frame)
    return kept, len(frames) - len(kept)


def _by_place(frames: list[Frame], same: Same) -> list[Volume]:
    """One volume where all places differ, else one per echo, time point and the like."""
    if _distinct(frames):
        return [Volume(frames=tuple(frames))]
    for name, key in _KEYS:
        groups = _grouped(frames, key)
        if len(groups) > 1 and all(_distinct(group) for _, group in groups):
            return [
                Volume(frames=tuple(group), part=name.format(n=n, m=len(groups), value=value))
                for n, (value, group) in enumerate(_told_apart(groups), 1)
            ]
    return _by_turn(frames, same)


def _by_turn(frames: list[Frame], same: Same) -> list[Volume]:
    """The k-th slice of every place makes volume k, if every place has as many."""
    places = _places(frames)
    counts = {len(place) for place in places}
    if len(counts) > 1:
        return [_without_twins(frames, places, same)]
    count = counts.pop()
    turns = [[place[k] for place in places] for k in range(count)]
    return [
        Volume(frames=tuple(turn), part=f"image {k} of {count} of each place")
        for k, turn in enumerate(turns, 1)
    ]


def _without_twins(frames: list[Frame], places: list[list[Frame]], same: Same) -> Volume:
    """One slice of each place where the others show the same; else a problem."""
    several = [place for place in places if len(place) > 1]
    unlike = sum(not same(place[0], other) for place in several for other in place[1:])
    if unlike:
        return Volume(
            frames=tuple(frames),
            problem=f"has {len(several)} places with several slices that differ, and no tag that "
            "says which of them belong together; export one of the images as a series of its own",
        )
    spare = len(frames) - len(places)
    return Volume(
        frames=tuple(place[0] for place in places),
        notes=(f"{spare} copies of slices were left out",),
    )


def _grouped(
    frames: Sequence[Frame], key: Callable[[Frame], Hashable]
) -> list[tuple[Hashable, list[Frame]]]:
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return sorted(groups.items(), key=lambda item: _sortable(item[0]))


def _sortable(value: Hashable) -> tuple[float, str]:
    number = value if isinstance(value, int | float) else 0.0
    return float(number), str(value)


def _told_apart(
    groups: list[tuple[Hashable, list[Frame]]],
) -> list[tuple[Hashable, list[Frame]]]:
    """Groups whose keys are words: only the words that not all of them have."""
    words = [set(key) for key, _ in groups if isinstance(key, tuple)]
    if len(words) < len(groups):
        return groups
    common = set.intersection(*words)
    return [
        (", ".join(str(w) for w in key if w not in common) or "other", group)
        for key, group in groups
        if isinstance(key, tuple)
    ]


_KEYS: tuple[tuple[str, Callable[[Frame], Hashable]], ...] = (
    ("{value}", lambda f: f.order.kind),
    ("time point {n} of {m}", lambda f: f.order.temporal),
    ("acquisition {value:g}", lambda f: f.order.acquisition),
    ("trigger time {value:g} ms", lambda f: f.order.trigger_ms),
    ("time point {n} of {m}", lambda f: f.order.acquired),
    ("time point {n} of {m}", lambda f: f.order.content),
    (
        "{value}",
        lambda f: (
            *f.order.kind,
            f"time {f.order.temporal:g}",
            f"acquisition {f.order.acquisition:g}",
        ),
    ),
)


def _distinct(frames: Sequence[Frame]) -> bool:
    """Whether no two slices lie in one place."""
    heights = np.sort(_heights(frames))
    return len(heights) < 2 or float(np.diff(heights).min()) >= SAME_PLACE_MM


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The slices of each place, in the order in which they were taken."""
    heights = _heights(frames)
    order = np.argsort(heights, kind="stable")
    places: list[list[Frame]] = []
    last = -np.inf
    for index in order:
        if heights[index] - last >= SAME_PLACE_MM:
            places.append([])
            last = heights[index]
        places[-1].append(frames[index])
    for place in places:
        place.sort(key=lambda f: (f.order[1:], f.name, f.number))
    return places


def _heights(frames: Sequence[Frame]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    places = np.array([frame.position for frame in frames])
    heights: np.ndarray[tuple[int], np.dtype[np.float64]] = places @ normal_of(
        frames[0].orientation
    )
    return heights
