"""Live preview: one watched slice, segmented anew now and then while the network learns."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semiseg.config import check_choice, check_range
from semiseg.data.cases import TrainingCase
from semiseg.devices import is_out_of_memory, release_memory
from semiseg.errors import StorageError, StudyError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane, plane_axis
from semiseg.learning.run import Run
from semiseg.learning.scoring import segment
from semiseg.study.storage import make_folder, write_bytes_atomic
from semiseg.study.study import Study

_SHARE = 0.05
_FILE = "preview.npy"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Slice `index` (as in the ledger) of a plane of a case, written into `folder`.

    Not more often than every `every_s` seconds.
    """

    case_id: str
    plane: Plane
    index: int
    folder: Path
    every_s: float = 3.0

    def __post_init__(self) -> None:
        check_choice("plane", self.plane, PLANES)
        check_range("every_s", self.every_s, 0.0, 3600.0)

    def check(self, study: Study) -> None:
        """StudyError unless the study has such a slice."""
        grid = study.case(self.case_id).grid
        count = grid.shape_zyx[plane_axis(grid, self.plane)]
        if not 0 <= self.index < count:
            raise StudyError(
                f"{self.case_id} has {self.plane} slices 0 to {count - 1}, not {self.index}"
            )


class Preview:
    """Call `after_step` after each step of `run`; it never takes more than 5 % of the time.

    What is written is a plain array (uint16 ids) shaped as the slice of the case's array. Nothing
    of the study is touched, and the training goes on as it would without.
    """

    def __init__(
        self,
        watched: Watched,
        case: TrainingCase,
        run: Run,
        classes: tuple[int, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched, self._run, self._clock = watched, run, clock
        self._case = case
        self._axis, place = _place(case, watched)
        self._slab, first = _slab(case, self._axis, place, run.plan.patch_zyx[self._axis])
        self._inside = place - first
        self._ids = np.asarray(classes, np.uint16)
        self._began = self._last = clock()
        self._first_step = run.learner.step
        self.spent_s = 0.0
        self._cost_s: float | None = None
        self.stopped = False

    def after_step(self) -> None:
        """Segment the slice if it is time and the time suffices."""
        now = self._clock()
        due = now - self._last >= self._watched.every_s
        if (
            self.stopped
            or not due
            or self.spent_s + self._expected(now) > _SHARE * (now - self._began)
        ):
            return
        try:
            self._write(self._segmented())
        except StorageError as error:
            self._stop(f"the preview ends: {error}")
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._stop("the preview ends: there is too little memory for it beside the training")
        self._last = self._clock()
        self._cost_s = self._last - now
        self.spent_s += self._cost_s

    def _expected(self, now: float) -> float:
        """Seconds that the next one takes: as the last; before it, as to learn from its windows."""
        if self._cost_s is not None:
            return self._cost_s
        steps = max(1, self._run.learner.step - self._first_step)
        windows: int = math.prod(
            max(1, math.ceil(size / max(1, 0.75 * side)))
            for size, side in zip(
                self._slab.image.array.shape, self._run.plan.patch_zyx, strict=True
            )
        )
        samples = self._run.plan.n_labelled + self._run.plan.n_unlabelled
        return windows * (now - self._began) / (steps * samples)

    def _stop(self, why: str) -> None:
        self.stopped = True
        release_memory(torch.device(self._run.plan.device))
        self._run.tell(why, {})

    def _segmented(self) -> NDArray[np.uint16]:
        """The slice (as in the case's array) of structure ids."""
        chunks: list[Tensor] = []
        with self._run.learner.averaged() as method:
            segment(
                method,
                self._run.plan,
                self._slab,
                watch=lambda _case, _first, part: chunks.append(part.cpu()),
            )
        probabilities = torch.cat(chunks, dim=1).select(self._axis + 1, self._inside)
        return self._turned_back(probabilities)

    def _turned_back(self, probabilities: Tensor) -> NDArray[np.uint16]:
        """Ids on the case's own slice of probabilities (C, ., .) on that of the training grid."""
        turn, axis = self._case.image.orientation, self._axis
        size = [n for k, n in enumerate(turn.grid.shape_zyx) if k != axis]
        fine = functional.interpolate(probabilities[None].float(), size=size, mode="bilinear")[0]
        ids = np.expand_dims(self._ids[fine.argmax(dim=0).numpy()], axis)
        flipped = ids[tuple(slice(None, None, -1 if flip else 1) for flip in turn.flips)]
        own = flipped.transpose([turn.axes.index(k) for k in range(3)])
        return np.ascontiguousarray(own.take(0, axis=plane_axis(turn.source, self._watched.plane)))

    def _write(self, ids: NDArray[np.uint16]) -> None:
        watched, content = self._watched, io.BytesIO()
        np.save(content, ids, allow_pickle=False)
        make_folder(watched.folder)
        path = watched.folder.absolute() / _FILE
        write_bytes_atomic(path, content.getvalue())
        told: dict[str, Json] = {
            "case": watched.case_id,
            "plane": watched.plane,
            "index": watched.index,
            "file": str(path),
        }
        self._run.tell("", {"preview": told, "seconds_left": self._run.seconds_left()})


def _place(case: TrainingCase, watched: Watched) -> tuple[int, int]:
    """Axis and number of the watched slice on the training grid."""
    axis, orientation = PLANES.index(watched.plane), case.image.orientation
    count = orientation.grid.shape_zyx[axis]
    along = count - 1 - watched.index if orientation.flips[axis] else watched.index
    return axis, int((along + 0.5) * case.shape_zyx[axis] / count)


def _slab(case: TrainingCase, axis: int, place: int, side: int) -> tuple[TrainingCase, int]:
    """The part of the image that a network of patch side `side` looks at, and where it begins."""
    depth = min(side, case.shape_zyx[axis])
    first = min(max(0, place - depth // 2), case.shape_zyx[axis] - depth)
    part = (slice(None),) * axis + (slice(first, first + depth),)
    image = replace(case.image, array=np.ascontiguousarray(case.image.array[part]))
    return replace(case, image=image, supervision=None, places=None, warps=None), first
