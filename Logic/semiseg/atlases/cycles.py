"""Rings of three registrations: where they lead home, all three are right; else one is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.atlases.transfer import Atlas
from semiseg.events import Json
from semiseg.registration.field import Field

Edge = tuple[str, str]
ASTRAY_MM = 20.0  # rings of good registrations miss by 6 to 17 mm
_PROBES = 500


@dataclass(frozen=True, kw_only=True)
class Triangle:
    """`unsure_mm` per edge says how little it is to be trusted; `miss_mm` is per structure.

    The miss is the median way between a structure's surface and where the ring leads it.
    """

    unsure_mm: Mapping[Edge, float]
    miss_mm: Mapping[int, float]

    @property
    def misses(self) -> bool:
        """Whether it does not lead home."""
        return bool(self.miss_mm) and float(np.median(list(self.miss_mm.values()))) > ASTRAY_MM

    def to_json(self) -> Json:
        """Plain values."""
        edges: list[Json] = [[*edge, mm] for edge, mm in self.unsure_mm.items()]
        return {"edges": edges, "miss_mm": {str(i): mm for i, mm in self.miss_mm.items()}}

    @classmethod
    def from_json(cls, values: Json) -> Triangle:
        """KeyError, TypeError or ValueError where it is none."""
        if not isinstance(values, dict):
            raise TypeError("a triangle is an object")
        edges, miss = values["edges"], values["miss_mm"]
        if not isinstance(edges, list) or not isinstance(miss, dict):
            raise TypeError("a triangle has edges and misses")
        return cls(
            unsure_mm=dict(_edge_from_json(value) for value in edges),
            miss_mm={int(i): float(mm) for i, mm in miss.items()},  # type: ignore[arg-type]
        )


def _edge_from_json(value: Json) -> tuple[Edge, float]:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], int | float):
        raise TypeError("an edge is two cases and a distance")
    return edge(str(value[0]), str(value[1])), float(value[2])


def edge(one: str, other: str) -> Edge:
    """The pair of cases, whichever comes first."""
    return (one, other) if one < other else (other, one)


def round_trip_mm(atlas: Atlas, ring: Sequence[Field]) -> dict[int, float]:
    """Median miss per structure of `atlas` after going along `ring`, which leads home to it."""
    found = {}
    for structure_id in atlas.ids:
        start = surface_places(atlas, structure_id)
        if not len(start):
            continue
        place = start
        for field in ring:
            place = field.moved(place)
        miss = np.linalg.norm(place - start, axis=1)
        found[structure_id] = round(float(np.median(miss)), 2)
    return found


def surface_places(atlas: Atlas, structure_id: int) -> NDArray[np.float64]:
    """World points (N, 3) of a regular choice of the structure's outermost voxels."""
    inside = np.pad(atlas.array == structure_id, 1)
    core = inside.copy()
    for axis in range(3):
        for step in (1, -1):
            core &= np.roll(inside, step, axis)
    index = np.argwhere((inside & ~core)[1:-1, 1:-1, 1:-1])
    chosen = index[:: max(1, len(index) // _PROBES)]
    return atlas.grid.to_world(chosen[:, ::-1].astype(np.float64))


def wrong_edges(triangles: Iterable[Triangle]) -> frozenset[Edge]:
    """The edges that are to blame for most of the triangles they are part of.

    For a triangle that misses, the least sure of its edges is to blame.
    """
    seen: Counter[Edge] = Counter()
    blamed: Counter[Edge] = Counter()
    for triangle in triangles:
        seen.update(triangle.unsure_mm.keys())
        if triangle.misses:
            blamed[max(triangle.unsure_mm, key=lambda e: triangle.unsure_mm[e])] += 1
    return frozenset(found for found, count in blamed.items() if 2 * count > seen[found])


def typical_misses(triangles: Sequence[Triangle]) -> dict[int, float]:
    """Per structure the median over `triangles`."""
    ids = sorted({i for triangle in triangles for i in triangle.miss_mm})
    return {i: float(np.median([t.miss_mm[i] for t in triangles if i in t.miss_mm])) for i in ids}
