"""Whole scans on one frame, for methods that register scans instead of cutting patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from semiseg.config import MODALITIES, TrainConfig
from semiseg.data.batch import Batch
from semiseg.data.cases import TrainingCase
from semiseg.data.supervision import Supervision
from semiseg.data.training_grid import TrainingImage
from semiseg.errors import ConfigError, NotEnoughLabelsError
from semiseg.events import Emit, Event
from semiseg.images.grid import Grid, canonical
from semiseg.learning.places import reference_case
from semiseg.learning.plan import Plan
from semiseg.learning.survey import Survey
from semiseg.methods.frame import Box, Frame, box_around, grid_points, ready, voxels_of
from semiseg.networks import NetworkSpec
from semiseg.registration.linear import inside
from semiseg.registration.start import Start
from semiseg.study.study import Study

VOXELS = {"cpu": 200_000, "cuda": 1_000_000}
ATLASES = 5
_MOSTLY = 0.5
_MARGIN_MM, _MARGIN_SHARE = 10.0, 0.1
_CHANNELS, _CONVOLUTIONS = (4, 16, 32), (1, 3, 3)
Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Framed:
    """What one run needs of a frame: itself, and the labelled scans to predict from."""

    frame: Frame
    atlases: Batch


class Framing:
    """The frame of a study, around all that is labelled in its training cases."""

    def __init__(self, study: Study, found: Survey, device: str, emit: Emit) -> None:
        self._study, self._emit = study, emit
        self._reference = reference_case(found)
        self._starts: dict[str, Start] = {}
        case = study.case(self._reference)
        reference = ready(study.image(case.id), case.modality)
        whole = Box(origin_mm_zyx=(0.0, 0.0, 0.0), spacing_mm=1.0, shape_zyx=(1, 1, 1))
        self.frame = Frame.of(reference, whole)
        self.frame = Frame.of(reference, self._box(found, VOXELS[device]))
        self._share: dict[str, float] = {}
        self._n_classes, self._device = len(found.classes), device

    @property
    def plan(self) -> Plan:
        """One step: an atlas of each modality that is labelled, and a target."""
        box = self.frame.box
        strides = ((2, 2, 2),) * (len(_CHANNELS) - 1)
        network = NetworkSpec(
            n_classes=self._n_classes,
            channels=_CHANNELS,
            strides=strides,
            convolutions=_CONVOLUTIONS,
        )
        return Plan(
            spacing_mm_zyx=box.grid.spacing_mm_zyx,
            patch_zyx=box.shape_zyx,
            n_labelled=2,
            n_unlabelled=1,
            network=network,
            device=self._device,
            whole=True,
        )

    def placed(self, case: TrainingCase) -> TrainingCase:
        """The case on the frame, with what is known of it."""
        start, grid = self._start(case.id), self.frame.box.grid
        at = voxels_of(grid_points(grid), case.image.grid, start)
        here = inside(case.shape_zyx, at)
        self._share[case.id] = float(here.mean())
        known = case.supervision
        return replace(
            case,
            image=TrainingImage(
                array=self.frame.placed(case.image, start), grid=grid, orientation=canonical(grid)
            ),
            supervision=None if known is None else _picked(known, at, here, grid),
        )

    def framed(self, cases: Iterable[TrainingCase]) -> Framed:
        """The frame with the atlases among `cases`, which lie on it.

        Per modality at most five that humans drew on; those that registration labelled where
        there is none. NotEnoughLabelsError where nowhere most of a scan is known.
        """
        shares = {case.id: self._known(case) for case in cases}
        whole = [case for case in cases if shares[case.id] >= _MOSTLY]
        if not whole:
            raise NotEnoughLabelsError(_too_little(shares))
        chosen: list[TrainingCase] = []
        for modality in MODALITIES:
            ours = [case for case in whole if case.modality == modality]
            human = [case for case in ours if case.supervision and case.supervision.by_human]
            ranked = sorted(human or ours, key=lambda case: (-shares[case.id], case.id))
            chosen += ranked[:ATLASES]
        return Framed(frame=self.frame, atlases=whole_scans(chosen))

    def _known(self, case: TrainingCase) -> float:
        """The share of the scan, as far as it lies on the frame, that something is known of."""
        if case.supervision is None or not self._share[case.id]:
            return 0.0
        return float((case.supervision.valid > 0).mean()) / self._share[case.id]

    def _start(self, case_id: str) -> Start:
        """Leads from the reference to the case; sought once."""
        if case_id not in self._starts:
            case = self._study.case(case_id)
            message = f"placing {case.name} on the common frame"
            self._emit(Event(kind="progress", phase="prepare", message=message))
            scan = ready(self._study.image(case_id), case.modality)
            self._starts[case_id] = self.frame.start(scan)
        return self._starts[case_id]

    def _box(self, found: Survey, voxels: int) -> Box:
        """Around the labels of all training cases, with a margin for those that have none."""
        corners = np.concatenate(
            [self._label_corners(facts.id, found) for facts in found.train if facts.labelled]
        )
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = _MARGIN_MM + _MARGIN_SHARE * (high - low)
        finest = float(np.median([min(facts.spacing_mm_zyx) for facts in found.train]))
        return box_around(low - margin, high + margin, voxels=voxels, finest_mm=finest)

    def _label_corners(self, case_id: str, found: Survey) -> Points:
        """(8, 3) z, y, x in the reference of the box around a case's labels; (0, 3) without any."""
        label = self._study.label(case_id)
        if label is None:
            return np.empty((0, 3))
        drawn = np.isin(label.array, found.classes[1:])
        ends = []
        for axis in (2, 1, 0):
            seen = np.flatnonzero(drawn.any(axis=tuple({0, 1, 2} - {axis})))
            if not seen.size:
                return np.empty((0, 3))
            ends.append((float(seen[0]), float(seen[-1])))
        voxels = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3)
        world = self._study.case(case_id).grid.to_world(voxels)[:, ::-1]
        home = self._start(case_id).inverse()
        at: Points = world @ home.matrix.double().cpu().numpy().T
        return np.asarray(at + home.offset_mm.double().cpu().numpy())


def require_no_sizes(config: TrainConfig) -> None:
    """ConfigError where sizes are asked for that a frame decides."""
    asked = {"spacing": config.spacing_mm, "patch": config.patch, "batch size": config.batch_size}
    given = [name for name, value in asked.items() if value is not None]
    if given or config.dims not in ("auto", "3"):
        raise ConfigError(
            f"{config.method} looks at whole scans on a frame that it chooses itself, so it takes "
            f"no {given[0] if given else 'slices'}; leave that out, or choose another method"
        )


def whole_scans(cases: Sequence[TrainingCase]) -> Batch:
    """Labelled cases of one shape as a batch, as they are."""
    known = [case.supervision for case in cases if case.supervision is not None]

    def stacked(arrays: list[NDArray[np.generic]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays))

    table = stacked([np.moveaxis(one.patterns[one.pattern], -1, 0) for one in known])
    return Batch(
        image=stacked([case.image.array for case in cases])[:, None],
        label=stacked([one.label for one in known]).long(),
        valid=stacked([one.valid for one in known]),
        known=table,
        origin=stacked([one.origin for one in known]),
        modality=torch.tensor([MODALITIES.index(case.modality) for case in cases]),
        case=tuple(case.id for case in cases),
        n_labelled=len(cases),
        spacing_mm_zyx=cases[0].image.grid.spacing_mm_zyx,
    )


def _picked(
    known: Supervision, at: Points, here: NDArray[np.bool_], grid: Grid
) -> Supervision | None:
    """What is known at voxel coordinates `at` (N, 3); nothing where they are not `here`."""
    last = np.asarray(known.label.shape) - 1
    z, y, x = np.clip(np.rint(at), 0, last).astype(int).T

    def read(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.where(here, values[z, y, x], 0).astype(values.dtype).reshape(grid.shape_zyx)

    return Supervision(
        label=read(known.label).astype(np.int16),
        valid=read(known.valid).astype(np.float32),
        origin=read(known.origin).astype(np.uint8),
        pattern=read(known.pattern).astype(np.int32),
        patterns=known.patterns,
    )


def _too_little(shares: dict[str, float]) -> str:
    best = max(shares, key=lambda name: shares[name])
    return (
        "this method carries the labels of whole scans to others, but no training scan is labelled "
        f"on at least half of its voxels (the best, {best}, on about {shares[best]:.0%}); "
        "propagate the labels first, or choose another method"
    )
