"""What the report says of one case, read from the study; what cannot be read is said instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SemiSegError
from semiseg.images.grid import Plane
from semiseg.images.labels import Segment
from semiseg.report.gallery import Gallery, Scan, make_gallery
from semiseg.report.history import SIMULATED, LabelHistory, label_history
from semiseg.report.ledger_strip import Strip, ledger_strips
from semiseg.study.case import PROTECTED, Case, CaseLabel, GateRecord, Prediction
from semiseg.study.ledger import FINISHED, Ledger
from semiseg.study.study import Study

_VERDICTS = {
    "accept": "Accepted: the propagated label is trusted and teaches with its own confidence.",
    "down_weight": "Used with care: the propagated label teaches with a lower weight.",
    "reject": "Rejected: no propagated label was written to this scan.",
}


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """Volumes of one structure in millilitres; None where there is nothing to measure.

    `confidence` and `uncertainty` are means over what the program filled in and over what the
    model drew; `self_check` is the Dice of drawn slices that were left out and filled in.
    """

    segment: Segment
    human_ml: float | None
    program_ml: float | None
    predicted_ml: float | None
    confidence: float | None
    uncertainty: float | None
    self_check: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateView:
    """The trust gate's verdict in words."""

    verdict: str
    headline: str
    score: float
    reasons: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """Everything the report shows of one case."""

    case: Case
    anchor: str
    size: str
    gallery: Gallery | None
    gate: GateView | None
    strips: tuple[Strip, ...]
    volumes: tuple[VolumeRow, ...]
    human_slices: int
    simulated: bool
    authors: tuple[str, ...]
    label_version: int | None
    prediction_version: int | None
    model_id: int | None
    complaints: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def has_self_check(self) -> bool:
        return any(row.self_check is not None for row in self.volumes)

    @property
    def has_program(self) -> bool:
        return any(row.program_ml for row in self.volumes)


def report_case(study: Study, case: Case, segments: Sequence[Segment], number: int) -> CaseReport:
    """Read one case's volumes, draw them and measure them; then they can be forgotten."""
    reading = _Reading(study, case)
    label, prediction = reading.label(), reading.prediction()
    ledger = label.ledger if label else Ledger()
    history = label_history(study.folder / "cases" / case.id / "labels")
    volumes = volume_rows(label, prediction, segments, case.grid.voxel_ml)
    return CaseReport(
        case=case,
        anchor=f"case-{number}",
        size=_size(case),
        gallery=reading.gallery(label, prediction, segments, f"case-{number}"),
        gate=_gate_view(case.gate, history),
        strips=ledger_strips(ledger, case.grid, segments),
        volumes=tuple(
            replace(row, self_check=history.self_check.get(row.segment.id)) for row in volumes
        ),
        human_slices=sum(len(slices) for slices in done_slices(ledger).values()),
        simulated=history.authors == (SIMULATED,),
        authors=tuple(
            "a simulated person" if name == SIMULATED else name for name in history.authors
        ),
        label_version=label.version if label else None,
        prediction_version=prediction.version if prediction else None,
        model_id=prediction.model_id if prediction else None,
        complaints=tuple(reading.complaints),
        remarks=_remarks(prediction),
    )


def done_slices(ledger: Ledger) -> dict[Plane, dict[int, list[int]]]:
    """Per plane and slice, the structures that are done there; slices with none are left out."""
    found: dict[Plane, dict[int, list[int]]] = {}
    for plane, slices in ledger.states.items():
        for index, entry in slices.items():
            ids = [number for number, state in entry.items() if state in FINISHED]
            if ids:
                found.setdefault(plane, {})[index] = ids
    return found


def volume_rows(
    label: CaseLabel | None,
    prediction: Prediction | None,
    segments: Sequence[Segment],
    voxel_ml: float,
) -> tuple[VolumeRow, ...]:
    """Volumes by who drew them, per structure that is in the label or in the prediction."""
    size = max((segment.id for segment in segments), default=0) + 1
    human = program = confidence = predicted = uncertainty = None
    if label is not None:
        drawn = np.isin(label.origin, PROTECTED)
        human, _ = _sums(label.array, drawn, None, size)
        program, confidence = _sums(label.array, ~drawn, label.confidence, size)
    if prediction is not None:
        everywhere = np.ones((), bool)
        predicted, uncertainty = _sums(prediction.array, everywhere, prediction.uncertainty, size)
    rows = (
        VolumeRow(
            segment=segment,
            human_ml=_millilitres(human, segment.id, voxel_ml),
            program_ml=_millilitres(program, segment.id, voxel_ml),
            predicted_ml=_millilitres(predicted, segment.id, voxel_ml),
            confidence=_mean(confidence, program, segment.id),
            uncertainty=_mean(uncertainty, predicted, segment.id),
        )
        for segment in segments
    )
    return tuple(row for row in rows if row.human_ml or row.program_ml or row.predicted_ml)


class _Reading:
    """Reads a case's files; an error becomes a complaint, and the rest is still shown."""

    def __init__(self, study: Study, case: Case) -> None:
        self._study, self._case = study, case
        self.complaints: list[str] = []

    def label(self) -> CaseLabel | None:
        try:
            return self._study.label(self._case.id)
        except SemiSegError as error:
            self.complaints.append(f"The label cannot be shown: {error}")
            return None

    def prediction(self) -> Prediction | None:
        try:
            return self._study.prediction(self._case.id)
        except SemiSegError as error:
            self.complaints.append(f"The segmentation cannot be shown: {error}")
            return None

    def gallery(
        self,
        label: CaseLabel | None,
        prediction: Prediction | None,
        segments: Sequence[Segment],
        key: str,
    ) -> Gallery | None:
        try:
            image = self._study.image(self._case.id)
        except SemiSegError as error:
            self.complaints.append(f"The image cannot be shown: {error}")
            return None
        return make_gallery(
            Scan(
                key=key,
                image=image.array,
                grid=image.grid,
                modality=self._case.modality,
                segments=segments,
                label=label.array if label else None,
                human=np.isin(label.origin, PROTECTED) if label else None,
                prediction=prediction.array if prediction else None,
                uncertainty=prediction.uncertainty if prediction else None,
                done=done_slices(label.ledger) if label else None,
                with_labels=prediction is not None and bool(prediction.info.get("prior")),
            )
        )


def _gate_view(gate: GateRecord | None, history: LabelHistory) -> GateView | None:
    if gate is None:
        return None
    source = "Filled in between its own slices." if history.propagated else ""
    if history.atlases:
        source = f"Labels lent by {', '.join(history.atlases)}."
    return GateView(
        verdict=gate.verdict,
        headline=_VERDICTS[gate.verdict],
        score=gate.score,
        reasons=gate.reasons,
        source=source,
    )


def _remarks(prediction: Prediction | None) -> tuple[str, ...]:
    """What was noted while the model segmented the case."""
    info = {} if prediction is None else prediction.info
    notes = info.get("notes")
    found = [str(note) for note in notes] if isinstance(notes, list) else []
    seconds = info.get("seconds")
    if isinstance(seconds, int | float):
        device = info.get("device")
        found.append(f"Segmented in {seconds:.3g} s" + (f" on {device}" if device else ""))
    return tuple(found)


def _size(case: Case) -> str:
    voxels = " x ".join(str(n) for n in case.grid.size_xyz)
    spacing = " x ".join(f"{s:.3g}" for s in case.grid.spacing_mm_xyz)
    return f"{voxels} voxels of {spacing} mm"


def _sums(
    label: NDArray[np.uint16],
    where: NDArray[np.bool_],
    weights: NDArray[np.float32] | None,
    size: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per id below `size`: voxels of `label` inside `where`, and the sum of their `weights`."""
    chosen = np.flatnonzero((label > 0) & where)
    ids = label.ravel()[chosen]
    count = np.bincount(ids, minlength=size)[:size].astype(np.float64)
    if weights is None:
        return count, np.zeros(size)
    total = np.bincount(ids, weights.ravel()[chosen], minlength=size)[:size]
    return count, total.astype(np.float64)


def _millilitres(count: NDArray[np.float64] | None, number: int, voxel_ml: float) -> float | None:
    return None if count is None else float(count[number]) * voxel_ml


def _mean(
    total: NDArray[np.float64] | None, count: NDArray[np.float64] | None, number: int
) -> float | None:
    if total is None or count is None or not count[number]:
        return None
    return float(total[number] / count[number])
