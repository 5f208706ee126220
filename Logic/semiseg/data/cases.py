"""The cases of a study as arrays on the training grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.config import Modality
from semiseg.data.supervision import Supervision, Wanted, supervise
from semiseg.data.training_grid import TrainingImage, to_training_grid
from semiseg.images.grid import Grid, Triple
from semiseg.study.case import Case, CaseLabel, Origin
from semiseg.study.study import Study


@dataclass(frozen=True, kw_only=True)
class CompanionVolume:
    """A further volume (z, y, x) of a case on its training grid, normalised.

    `trust` is 1 for a volume of the case's own, less for one of another patient that stands in.
    """

    stream: str
    array: NDArray[np.float32]
    trust: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingCase:
    """One case on its training grid; `supervision` None where nothing of it is known.

    `places` (3, z, y, x): where each voxel lies in the study's reference case, in millimetres
    x, y, z from its centre, NaN where that is not known; None where nobody asked. `warps`
    (K, 3, d, h, w): voxels z, y, x that knots spread evenly over the image move on the way to
    other patients' anatomy; None for no such augmentation. `stream` says what the image is among
    several kinds of volumes, `companions` are volumes of other kinds; none where nobody asked.
    """

    id: str
    patient: str
    modality: Modality
    image: TrainingImage
    supervision: Supervision | None
    places: NDArray[np.float16] | None = None
    warps: NDArray[np.float32] | None = None
    stream: str = ""
    companions: tuple[CompanionVolume, ...] = ()

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape on the training grid."""
        return self.image.grid.shape_zyx

    @property
    def labelled(self) -> bool:
        """Whether anything of it is known."""
        return self.supervision is not None


def load_training_case(
    study: Study, case: Case, spacing_mm_zyx: Triple, wanted: Wanted
) -> TrainingCase:
    """The image and the newest label of `case`, brought to about `spacing_mm_zyx`."""
    image = to_training_grid(study.image(case.id), case.modality, spacing_mm_zyx)
    return TrainingCase(
        id=case.id,
        patient=case.patient,
        modality=case.modality,
        image=image,
        supervision=case_supervision(study, case.id, image, wanted),
        stream=case.stream,
    )


def case_supervision(
    study: Study, case_id: str, image: TrainingImage, wanted: Wanted
) -> Supervision | None:
    """What the newest label of a case says on the grid of `image`; None if that is nothing."""
    label = study.label(case_id)
    if label is None:
        return None
    found = supervise(label, image.orientation, image.grid.shape_zyx, wanted)
    return found if found.any else None


def drawn_ids(label: CaseLabel, grid: Grid, ids: tuple[int, ...]) -> tuple[set[int], set[int]]:
    """Those of `ids` that have a voxel that is known: through a human, through a program."""
    human: set[int] = set()
    for axis, lines in label.ledger.known_lines(grid, ids).items():
        for index in np.flatnonzero(lines.any(axis=0)):
            drawn = np.unique(np.take(label.array, index, axis=axis))
            human |= {i for i, done in zip(ids, lines[:, index], strict=True) if done} & set(drawn)
    by_program = (label.origin == Origin.PROPAGATED) & (label.confidence > 0)
    drawn = np.unique(label.array[by_program])
    return human, set(ids) & set(label.propagated_ids) & {int(i) for i in drawn}
