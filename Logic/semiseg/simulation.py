"""A human who draws a few slices, played with a full label: for demonstrations and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import check_choice, check_range
from semiseg.errors import NotEnoughLabelsError
from semiseg.images.grid import PLANES, Grid, Plane, plane_axis
from semiseg.study.study import Study

Per = Literal["organ", "volume"]


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """`slices` per structure ("organ") or per case ("volume"), evenly over the extent, tips too.

    With a `seed` the inner slices move at random by up to a third of their distance.
    """

    slices: int = 5
    per: Per = "organ"
    plane: Plane = "axial"
    seed: int | None = None

    def __post_init__(self) -> None:
        check_range("slices", self.slices, 1, 100_000)
        check_choice("per", self.per, get_args(Per))
        check_choice("plane", self.plane, PLANES)


def choose_slices(
    label_zyx: NDArray[np.integer], grid: Grid, ids: Sequence[int], config: SimulationConfig
) -> tuple[int, ...]:
    """The slices of the plane that are drawn, sorted; NotEnoughLabelsError for an empty label."""
    axis = plane_axis(grid, config.plane)
    others = tuple(a for a in range(3) if a != axis)
    rng = None if config.seed is None else np.random.default_rng(config.seed)
    masks = [label_zyx == structure_id for structure_id in ids]
    if config.per == "volume":
        masks = [np.isin(label_zyx, list(ids))]
    chosen: set[int] = set()
    for mask in masks:
        found = np.flatnonzero(mask.any(axis=others))
        if found.size:
            chosen.update(_evenly(int(found[0]), int(found[-1]), config.slices, rng))
    if not chosen:
        raise NotEnoughLabelsError("the full label has none of the structures; nothing to draw")
    return tuple(sorted(chosen))


def simulate(
    study: Study,
    case_id: str,
    label_zyx: NDArray[np.integer],
    config: SimulationConfig,
    structure_ids: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Annotate the chosen slices of a case as a human would, all structures on each.

    `label_zyx` has the protocol's ids on the case's grid. Returns the slices drawn.
    """
    grid = study.cases[case_id].grid
    ids = study.protocol.ids if structure_ids is None else tuple(structure_ids)
    indices = choose_slices(label_zyx, grid, ids, config)
    drawn = np.zeros(label_zyx.shape, dtype=np.uint16)
    where: list[slice | list[int]] = [slice(None)] * 3
    where[plane_axis(grid, config.plane)] = list(indices)
    kept = np.where(np.isin(label_zyx, ids), label_zyx, 0).astype(np.uint16)
    drawn[tuple(where)] = kept[tuple(where)]
    note = f"simulated: {config.slices} slices per {config.per}"
    study.annotate(
        case_id,
        drawn,
        plane=config.plane,
        indices=indices,
        structure_ids=ids,
        author="simulated",
        note=note,
    )
    return indices


def _evenly(first: int, last: int, count: int, rng: np.random.Generator | None) -> list[int]:
    if count == 1:
        return [(first + last) // 2]
    places = np.linspace(first, last, count)
    if rng is not None:
        reach = (last - first) / (count - 1) / 3
        places[1:-1] += rng.uniform(-reach, reach, size=count - 2)
    return [int(place) for place in np.rint(places)]
