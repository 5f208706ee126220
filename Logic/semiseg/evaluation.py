"""Scores of a study's cases against reference segmentations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import check_choice
from semiseg.errors import LabelError, StudyError
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.labels import LabelMap, place_on, read_label
from semiseg.metrics import StructureScore, score
from semiseg.study.case import Case
from semiseg.study.combined import combined
from semiseg.study.protocol import Protocol
from semiseg.study.study import Study

What = Literal["prediction", "label", "combined"]
POLICY = (
    "Neither has the structure: no score. One of the two has it: missed, Dice 0 and no distance. "
    "The reference does not cover it: not compared. Means leave out what has no score."
)
Row = dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What is judged: an array on the case's grid and the version it came from."""

    array: NDArray[np.uint16]
    version: int
    model_id: int | None


def evaluate(
    study: Study,
    references: Mapping[str, Path],
    what: What = "prediction",
    *,
    reference_note: str = "",
    emit: Emit = ignore,
) -> list[Row]:
    """One row per case and structure of the protocol; kept in the study as an evaluation.

    `references` are label files by case id, whose segments are matched by name or, in files
    without names, by number. `reference_note` says where they come from (drawn by whom, by which
    program) and stands in every row. Numbers that do not apply are None. GeometryMismatchError:
    a reference on another grid; StudyError: nothing to judge.
    """
    check_choice("what", what, get_args(What))
    if not references:
        raise StudyError("no reference was given; name a label file for at least one case")
    judged = {case_id: _judged(study, case_id, what) for case_id in references}
    rows: list[Row] = []
    progress = Progress(emit, "evaluate", len(references))
    for done, (case_id, path) in enumerate(references.items()):
        progress.update(done, f"comparing {case_id}")
        shared: Row = {"what": what, "reference": path.name, "reference_note": reference_note}
        rows += _rows(study, study.case(case_id), path, judged[case_id], shared)
    progress.update(len(references))
    settings: dict[str, Json] = {
        "what": what,
        "policy": POLICY,
        "reference_note": reference_note,
        "references": {case_id: str(path) for case_id, path in references.items()},
    }
    study.add_evaluation(rows, settings)
    return rows


def means(rows: list[Row], key: str = "dice") -> dict[str, tuple[float, int]]:
    """Mean of `key` per structure name and how many values went into it; None is left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row[key]
        if isinstance(value, int | float):
            values.setdefault(str(row["structure"]), []).append(float(value))
    return {name: (float(np.mean(found)), len(found)) for name, found in values.items()}


def reference_on_protocol(label: LabelMap, protocol: Protocol) -> tuple[LabelMap, set[int]]:
    """`label` with the protocol's ids, and the structures that it covers.

    Named segments are matched by name, values of files without names by id. What the protocol
    does not have becomes background. LabelError when nothing matches.
    """
    own = {s.name.casefold(): s.id for s in protocol.structures}
    table = np.zeros(65536, dtype=np.uint16)
    if label.segments:
        pairs = [(s.id, own.get(s.name.casefold())) for s in label.segments]
    else:
        present = np.flatnonzero(np.bincount(label.array.ravel(), minlength=1))
        pairs = [(int(v), int(v) if v in protocol.ids else None) for v in present if v]
    covered = {target for _, target in pairs if target is not None}
    if not covered:
        found = ", ".join([s.name for s in label.segments] or [str(v) for v, _ in pairs])
        raise LabelError(
            f"the reference has {found or 'no structure at all'}, none of which is in the "
            f"protocol ({', '.join(s.name for s in protocol.structures)}); rename its segments"
        )
    for value, target in pairs:
        table[value] = target or 0
    mapped = LabelMap(array=table[label.array], grid=label.grid, segments=protocol.segments())
    return mapped, covered


def _judged(study: Study, case_id: str, what: What) -> _Judged:
    case = study.case(case_id)
    label, prediction = study.label(case_id), study.prediction(case_id)
    if what == "label":
        if label is None:
            raise StudyError(f"{case_id} has no label to compare; annotate or propagate first")
        return _Judged(array=label.array, version=label.version, model_id=None)
    if prediction is None:
        raise StudyError(f"{case_id} has no prediction to compare; run predict first")
    array = prediction.array
    if what == "combined":
        array, _ = combined(array, label, case.grid, study.protocol.ids)
    return _Judged(array=array, version=prediction.version, model_id=prediction.model_id)


def _rows(study: Study, case: Case, path: Path, judged: _Judged, shared: Row) -> list[Row]:
    placed = place_on(read_label(path), case.grid, f"the reference {path.name} of {case.id}")
    reference, covered = reference_on_protocol(placed, study.protocol)
    ids = study.protocol.ids
    scores = score(judged.array, reference.array, ids, case.grid.spacing_mm_zyx)
    return [
        {
            "case": case.id,
            "modality": case.modality,
            "split": case.split,
            "structure": study.protocol.by_id(one.id).name,
            "structure_id": one.id,
            **_figures(one, compared=one.id in covered),
            "version": judged.version,
            "model_id": judged.model_id,
            **shared,
        }
        for one in scores
    ]


def _figures(one: StructureScore, *, compared: bool) -> Row:
    state = "absent" if one.absent else "missed" if one.missed else "compared"
    return {
        "state": state if compared else "not compared",
        "dice": _number(one.dice) if compared else None,
        "hd95_mm": _number(one.hd95_mm) if compared else None,
        "assd_mm": _number(one.assd_mm) if compared else None,
        "volume_ml": _number(one.volume_ml),
        "reference_ml": _number(one.reference_ml) if compared else None,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
