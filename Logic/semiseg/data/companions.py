"""Several volumes of one case on one grid: its image, and its companions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from semiseg.config import MODALITIES, Modality
from semiseg.data.cases import CompanionVolume, TrainingCase
from semiseg.data.training_grid import to_training_grid
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.images.resampling import resample_image
from semiseg.study.case import Case
from semiseg.study.study import Study

Volumes = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What the image of a case shows, and its further volumes as they were taken in."""

    stream: str
    images: Mapping[str, tuple[Image, Modality]] = field(default_factory=dict)


def streams_of(cases: Iterable[Case]) -> tuple[str, ...]:
    """All kinds of volumes of `cases`: modalities first, then what else has a name."""
    names: set[str] = set()
    for case in cases:
        names |= {case.stream, *(companion.name for companion in case.companions)}
    return (*(m for m in MODALITIES if m in names), *sorted(names - set(MODALITIES)))


def companions_of(study: Study, case: Case, streams: Sequence[str]) -> Companions:
    """Those of the case's volumes that `streams` names, read from the study."""
    wanted = [companion for companion in case.companions if companion.name in streams]
    images = {
        one.name: (study.companion(case.id, one.name), case.modality_of(one)) for one in wanted
    }
    return Companions(stream=case.stream, images=images)


def with_companions(study: Study, case: TrainingCase, streams: Sequence[str]) -> TrainingCase:
    """The training case with its own companions on its grid."""
    found = companions_of(study, study.case(case.id), streams)
    return replace(
        case,
        companions=tuple(
            CompanionVolume(stream=name, array=on_grid(image, modality, case.image.grid))
            for name, (image, modality) in found.images.items()
        ),
    )


def own_volumes(case: TrainingCase, streams: Sequence[str]) -> tuple[Volumes, tuple[bool, ...]]:
    """As `stacked`, of a training case's own volumes: nothing that stands in."""
    further = {one.stream: one.array for one in case.companions if one.trust == 1}
    return stacked(case.image.array, case.stream, further, streams)


def on_grid(image: Image, modality: Modality, grid: Grid) -> NDArray[np.float32]:
    """`image` normalised for `modality` on `grid`, through the space that both lie in."""
    ready = to_training_grid(image, modality, grid.spacing_mm_zyx)
    return resample_image(ready.array, ready.grid, grid, fill=ready.fill)


def stacked(
    own: NDArray[np.float32], stream: str, further: Mapping[str, Volumes], streams: Sequence[str]
) -> tuple[Volumes, tuple[bool, ...]]:
    """(K, z, y, x) with 0 where a stream is missing, and which ones are there."""
    given = {**further, stream: own}
    out = np.zeros((len(streams), *own.shape), dtype=np.float32)
    for k, name in enumerate(streams):
        if name in given:
            out[k] = given[name]
    return out, tuple(name in given for name in streams)
