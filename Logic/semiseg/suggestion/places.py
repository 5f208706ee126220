"""Where slices of different scans lie in one body: a rough registration of each scan, kept.

It is what makes "the same place" mean the same in scans that show more or less of the body.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SemiSegError
from semiseg.images.grid import PLANES, Plane
from semiseg.study.case import Case
from semiseg.study.study import Study
from semiseg.suggestion.geometry import Floats, Turned, axis_of
from semiseg.suggestion.kept import Arrays, kept, known
from semiseg.suggestion.looks import Looks

_FORMAT = 1
_SPACING_MM = 5.0
_CERTAIN = 0.2
Places = Mapping[Plane, Floats]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Point p (z, y, x in LPS millimetres) of a scan is `matrix @ p + offset_mm` of another."""

    matrix: NDArray[np.float64]
    offset_mm: NDArray[np.float64]
    certainty: float


def places_of(
    study: Study,
    cases: Sequence[Case],
    looks: Mapping[str, Looks],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Places]:
    """Per case and plane where the centers of its looks lie in the first case's body, 0 to 1.

    What is not known yet is found out for up to about `seconds`; cases that are left, or that the
    registration is not sure of, are missing. Beyond the first case's body places go on.
    """
    if len(cases) < 2:
        return {}
    first, end = cases[0], clock() + seconds
    prepared: dict[str, object] = {}
    found = {first.id: _along(first, first, looks, _SAME)}
    for case in cases[1:]:
        path = study.cache_dir / "suggestion" / case.id / "place.npz"
        key = f"{_FORMAT}-{case.image.sha256}-{first.image.sha256}"
        arrays = known(path, key)
        if arrays is None and clock() < end:
            arrays = kept(path, key, lambda case=case: _registered(study, case, first, prepared))  # type: ignore[misc]
        frame = None if arrays is None else _frame(arrays)
        if frame is not None and frame.certainty >= _CERTAIN:
            found[case.id] = _along(case, first, looks, frame)
    return found


_SAME = Frame(matrix=np.eye(3), offset_mm=np.zeros(3), certainty=1.0)


def _frame(arrays: Arrays) -> Frame:
    return Frame(
        matrix=arrays["matrix"].astype(np.float64),
        offset_mm=arrays["offset_mm"].astype(np.float64),
        certainty=float(np.asarray(arrays["certainty"], dtype=np.float64)),
    )


def _along(case: Case, first: Case, looks: Mapping[str, Looks], frame: Frame) -> Places:
    own, other = Turned(case.grid), Turned(first.grid)
    return {
        plane: _on_axis(plane, own, other, looks[case.id], looks[first.id], frame)
        for plane in PLANES
    }


def _on_axis(
    plane: Plane, own: Turned, other: Turned, looks: Looks, of_first: Looks, frame: Frame
) -> Floats:
    axis = axis_of(plane)
    centers = looks[plane].centers
    points = np.tile((np.asarray(own.shape_zyx) - 1) / 2.0, (len(centers), 1))
    points[:, axis] = centers
    there = own.to_mm_zyx(points) @ frame.matrix.T + frame.offset_mm
    index = other.to_index_zyx(there)[:, axis]
    low, high = (float(of_first[plane].centers[k]) for k in (0, -1))
    return np.asarray((index - low) / max(1.0, high - low), dtype=np.float32)


def _registered(study: Study, case: Case, first: Case, prepared: dict[str, object]) -> Arrays:
    """The best translation after bringing both bodies to one size; certainty 0 where none is."""
    # Only where something is missing: this loads torch, which takes a second.
    from semiseg.config import RegistrationConfig  # noqa: PLC0415
    from semiseg.registration.prepared import Prepared, prepare  # noqa: PLC0415
    from semiseg.registration.start import body_scale, find_starts  # noqa: PLC0415

    config = RegistrationConfig(spacing_mm=_SPACING_MM, device="cpu")

    def ready(one: Case) -> Prepared:
        return prepare(study.image(one.id), one.modality, config)

    try:
        reference = prepared.setdefault(first.id, None) or ready(first)
        prepared[first.id] = reference
        assert isinstance(reference, Prepared)
        mine = ready(case)
        scale = body_scale(mine.overview, reference.overview)
        (start,) = find_starts(mine.overview, reference.overview, count=1, scale=scale)
    except SemiSegError:
        return {"matrix": np.eye(3), "offset_mm": np.zeros(3), "certainty": np.array(0.0)}
    return {
        "matrix": start.matrix.numpy().astype(np.float64),
        "offset_mm": start.offset_mm.numpy().astype(np.float64),
        "certainty": np.array(start.certainty),
    }
