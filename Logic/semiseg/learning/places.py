"""Where each voxel of a case lies in one reference case: anatomical correspondence by registration.

One registration per case, found in the same cache as those of propagation; CT and MR share the
reference.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from semiseg.atlases.library import Library
from semiseg.config import PropagationConfig
from semiseg.errors import ImageError, StudyError
from semiseg.events import Emit, Event
from semiseg.images.grid import Grid
from semiseg.learning.survey import Survey
from semiseg.registration.cache import cached_register
from semiseg.registration.field import Field
from semiseg.registration.linear import inside
from semiseg.registration.register import RegistrationResult
from semiseg.study.study import Study

_ASTRAY_MM = 6.0
_TIME_SHARE = 0.25
Places = NDArray[np.float16]


class Correspondence:
    """Places of the cases of `study` in its reference, a training case that shows most structures.

    New registrations are made as long as they take less than a quarter of `minutes` (None: of as
    many as there are); the cases that are left have no places, which an event says.
    """

    def __init__(self, study: Study, found: Survey, minutes: float | None, emit: Emit) -> None:
        self._study, self._emit = study, emit
        self._library = Library(study, PropagationConfig())
        self._limit_s = None if minutes is None else minutes * 60 * _TIME_SHARE
        self._spent_s = 0.0
        self.reference = reference_case(found)

    def of(self, case_id: str, grid: Grid) -> Places | None:
        """(3, z, y, x) millimetres x, y, z from the reference's centre at the voxels of `grid`.

        NaN where they are not known; None where the case cannot be registered, or not in time.
        """
        centre = self._study.case(self.reference).grid.centre_mm_lps
        if case_id == self.reference:
            return _relative(grid, centre, None)
        result = self.registered(case_id)
        return None if result is None else _relative(grid, centre, result)

    def registered(self, case_id: str, onto: str | None = None) -> RegistrationResult | None:
        """The case registered onto the reference, or another, both ways; None where impossible."""
        if self._limit_s is not None and self._spent_s > self._limit_s:
            self._say(f"{case_id}: no time to register it, so it has no counterparts")
            return None
        start = time.monotonic()
        library = self._library
        try:
            return cached_register(
                self._study.cache_dir / "registration",
                library.source(case_id),
                library.source(onto or self.reference),
                PropagationConfig().registration,
                both_ways=True,
            )
        except (ImageError, StudyError) as error:
            self._say(f"{case_id}: it has no counterparts, because {error}")
            return None
        finally:
            self._spent_s += time.monotonic() - start

    def _say(self, message: str) -> None:
        self._emit(Event(kind="progress", phase="prepare", message=message))


def reference_case(found: Survey) -> str:
    """The training case with most structures drawn by a human; the first of several."""
    return max(found.train, key=lambda facts: len(facts.human_ids)).id


def _relative(grid: Grid, centre: NDArray[np.float64], result: RegistrationResult | None) -> Places:
    """A slice at a time: the points of a large volume would fill the memory."""
    depth, height, width = grid.shape_zyx
    out = np.empty((3, depth, height, width), dtype=np.float16)
    y, x = np.mgrid[:height, :width]
    for z in range(depth):
        points = grid.to_world(np.stack([x, y, np.full_like(x, z)], axis=-1).astype(np.float64))
        there = points if result is None else followed(result, points)
        out[:, z] = np.moveaxis(there - centre, -1, 0)
    return out


def followed(result: RegistrationResult, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where `points_mm` (..., 3) lie in the reference; NaN where the way back leads elsewhere.

    Also outside of what either field covers: there is no image to go by.
    """
    there = result.field.moved(points_mm)
    sound = _covers(result.field, points_mm)
    if result.inverse is not None:
        astray = np.linalg.norm(result.inverse.moved(there) - points_mm, axis=-1)
        sound &= (astray <= _ASTRAY_MM) & _covers(result.inverse, there)
    return np.where(sound[..., None], there, np.nan)


def _covers(field: Field, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    voxel_zyx = field.grid.to_voxel(points_mm.reshape(-1, 3))[:, ::-1]
    return inside(field.grid.shape_zyx, voxel_zyx).reshape(points_mm.shape[:-1])
