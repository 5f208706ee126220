"""One row per case, as a table shows it, without reading a voxel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from semiseg.config import Modality
from semiseg.errors import SchemaError, StorageError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane, plane_axis
from semiseg.study.case import Case, GateRecord, Split
from semiseg.study.companion_files import companion_states
from semiseg.study.ledger import FINISHED, Ledger
from semiseg.study.opening import CASE_NAME
from semiseg.study.picture import file_state, places
from semiseg.study.study import Study
from semiseg.study.versions import Manifest

State = Literal["new", "annotated", "propagated", "segmented", "problem"]
_VERDICTS = {
    "accept": "looks right: counts in full",
    "down_weight": "doubtful: counts less, please check",
    "reject": "not used: does not fit this image",
}


@dataclass(frozen=True, kw_only=True)
class CaseOverview:
    """A case in a table.

    `done` per plane: slices finished for at least one structure, and slices there are.
    `uncertainty` is the newest prediction's mean over what it segmented and its border, in
    [0, 1]; `score` the mean Dice of the case in the newest evaluation of it. Versions are None
    where there is none. `problem` is empty where all is well. `companions` names further volumes
    of the same anatomy, `sequence` which one of them the image itself is, where that was said.
    """

    id: str
    name: str
    modality: Modality
    modality_overridden: bool
    modality_confidence: float
    patient: str
    split: Split
    done: Mapping[Plane, tuple[int, int]]
    state: State
    gate: GateRecord | None
    uncertainty: float | None
    score: float | None
    label_version: int | None
    prediction_version: int | None
    has_draft: bool
    problem: str
    companions: tuple[str, ...] = ()
    sequence: str | None = None


_Kept = dict[str, tuple[Hashable, CaseOverview]]
_kept: WeakKeyDictionary[Study, _Kept] = WeakKeyDictionary()


def case_overviews(study: Study) -> tuple[CaseOverview, ...]:
    """A row per case, in the study's order; what other programs changed meanwhile is noticed.

    Rows whose files are as they were are not made anew. `study` itself is brought up to date.
    """
    study.refresh()
    kept = _kept.setdefault(study, {})
    scores = _Scores(study)
    drafts = frozenset(study.drafts())
    rows = []
    for case_id in study.cases:
        signature = (_signature(study, case_id), scores.numbers, case_id in drafts)
        known = kept.get(case_id)
        if known is None or known[0] != signature:
            row = _row(study, case_id, scores, has_draft=case_id in drafts)
            known = kept[case_id] = (signature, row)
        rows.append(known[1])
    return tuple(rows)


def gate_in_words(gate: GateRecord) -> str:
    """The trust gate's verdict as one sentence, with its reasons."""
    why = f" ({'; '.join(gate.reasons)})" if gate.reasons else ""
    return f"{_VERDICTS[gate.verdict]}, score {gate.score:.2f}{why}"


def finished_slices(ledger: Ledger, plane: Plane) -> int:
    """How many slices of `plane` are done, or done and empty, for at least one structure."""
    slices = ledger.states.get(plane, {})
    return sum(any(state in FINISHED for state in entry.values()) for entry in slices.values())


class _Scores:
    """The newest figures per case; evaluations are read when first asked for."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self.numbers = study.evaluation_numbers()
        self._dice: dict[str, float] | None = None

    def of(self, case_id: str) -> float | None:
        """Mean Dice over structures in the newest evaluation of the case."""
        if self._dice is None:
            self._dice = {}
            for evaluation in self._study.evaluations():
                self._dice |= _mean_dice(evaluation.rows)
        return self._dice.get(case_id)


def _mean_dice(rows: tuple[Mapping[str, Json], ...]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        dice = row.get("dice")
        if isinstance(dice, int | float) and not isinstance(dice, bool):
            found.setdefault(str(row.get("case")), []).append(float(dice))
    return {case_id: sum(values) / len(values) for case_id, values in found.items()}


def _signature(study: Study, case_id: str) -> Hashable:
    """Changes whenever a file that a row is made of does."""
    case, folder = study.cases[case_id], study.folder / "cases" / case_id
    images = tuple(file_state(path) for path in places(case.image, study.folder))
    return (
        study.signature,
        file_state(folder / CASE_NAME),
        study.label_versions(case_id),
        study.prediction_versions(case_id),
        images,
        companion_states(study.folder, case),
    )


def _row(study: Study, case_id: str, scores: _Scores, *, has_draft: bool) -> CaseOverview:
    case, problems = study.reread_case(case_id)
    label = _newest(study.label_versions(case_id), study.label_info, case_id)
    prediction = _newest(study.prediction_versions(case_id), study.prediction_info, case_id)
    ledger = study.ledger(case_id)
    problem = "; ".join(map(str, problems))
    return CaseOverview(
        id=case.id,
        name=case.name,
        modality=case.modality,
        modality_overridden=case.modality_overridden,
        modality_confidence=case.modality_confidence,
        patient=case.patient,
        split=case.split,
        done={plane: _done(case, ledger, plane) for plane in PLANES},
        state="problem" if problem else _state(label, prediction),
        gate=case.gate,
        uncertainty=None if prediction is None else _number(prediction[1].info, "uncertainty"),
        score=scores.of(case_id),
        label_version=None if label is None else label[0],
        prediction_version=None if prediction is None else prediction[0],
        has_draft=has_draft,
        problem=problem,
        companions=tuple(companion.name for companion in case.companions),
        sequence=case.sequence,
    )


def _newest(
    versions: tuple[int, ...], info: Callable[[str, int], Manifest], case_id: str
) -> tuple[int, Manifest] | None:
    """The newest version that is whole."""
    for version in reversed(versions):
        with contextlib.suppress(SchemaError, StorageError):
            return version, info(case_id, version)
    return None


def _done(case: Case, ledger: Ledger, plane: Plane) -> tuple[int, int]:
    return finished_slices(ledger, plane), case.grid.shape_zyx[plane_axis(case.grid, plane)]


def _state(label: tuple[int, Manifest] | None, prediction: tuple[int, Manifest] | None) -> State:
    if prediction is not None:
        return "segmented"
    if label is None:
        return "new"
    return "propagated" if label[1].info.get("propagated_ids") else "annotated"


def _number(values: Mapping[str, Json], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else None
