"""Label files of any numbering, brought to the ids and the grid of a study."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import LabelError, ProtocolError
from semiseg.images.grid import Grid
from semiseg.images.labels import LabelMap, place_on
from semiseg.study.protocol import Protocol

_LARGEST = 65535


def to_protocol(
    label: LabelMap, protocol: Protocol, grid: Grid, mapping: Mapping[int, int] | None = None
) -> NDArray[np.uint16]:
    """`label` on `grid` (z, y, x) with the protocol's ids.

    A value goes where `mapping` says (0 drops it), else to the structure with its segment's name,
    else, in a file without names, to the structure with its number; never by position.
    LabelError for a value that has no place; GeometryMismatchError when the grids differ.
    """
    placed = place_on(label, grid)
    values = np.flatnonzero(np.bincount(placed.array.ravel(), minlength=1)[1:]) + 1
    table = np.zeros(_LARGEST + 1, dtype=np.uint16)
    names = {segment.id: segment.name for segment in label.segments}
    for value in (int(v) for v in values):
        table[value] = _target(value, names.get(value), protocol, mapping or {})
    return table[placed.array]


def _target(value: int, name: str | None, protocol: Protocol, mapping: Mapping[int, int]) -> int:
    if value in mapping:
        wanted = mapping[value]
        return protocol.by_id(wanted).id if wanted else 0
    try:
        return (protocol.by_id(value) if name is None else protocol.by_name(name)).id
    except ProtocolError as error:
        what = f"value {value}" if name is None else f"segment {name!r} (value {value})"
        raise LabelError(
            f"the label file has {what}, which no structure of the study is; {error}. "
            f"Map it (for example {value}=liver, or {value}=0 to leave it out) or add the structure"
        ) from error
