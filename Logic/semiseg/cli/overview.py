"""A study in rows: what `study status`, `check`, `models` and `history` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from semiseg.events import Json
from semiseg.images.grid import PLANES, plane_axis

if TYPE_CHECKING:
    from semiseg.study.case import Case
    from semiseg.study.study import Study

Row = dict[str, str]


def case_rows(study: Study) -> list[Row]:
    """One row per case, read without any voxels."""
    return [_case_row(study, case) for case in study.cases.values()]


def _case_row(study: Study, case: Case) -> Row:
    labels, predictions = study.label_versions(case.id), study.prediction_versions(case.id)
    return {
        "case": case.id,
        "modality": case.modality if case.modality_overridden else f"{case.modality} (guessed)",
        "split": case.split,
        "label": f"version {labels[-1]}" if labels else "-",
        "done": slices_done(study, case),
        "gate": "-" if case.gate is None else f"{case.gate.verdict} {case.gate.score:.2f}",
        "segmentation": f"version {predictions[-1]}" if predictions else "-",
    }


def volumes_of(study: Study, case_id: str) -> dict[str, Json]:
    """What the image shows ("sequence"), and the further volumes of its anatomy."""
    case = study.cases[case_id]
    names: list[Json] = [companion.name for companion in case.companions]
    return {"sequence": case.sequence, "companions": names}


def slices_done(study: Study, case: Case) -> str:
    """`axial 12 of 112`, for each plane in which a slice is done for some structure."""
    ledger = study.ledger(case.id)
    parts = []
    for plane in PLANES:
        done = {index for each in study.protocol.ids for index in ledger.done(plane, each)}
        if done:
            count = case.grid.shape_zyx[plane_axis(case.grid, plane)]
            parts.append(f"{plane} {len(done)} of {count}")
    return ", ".join(parts) or "-"


def problem_lines(study: Study) -> list[Json]:
    """The problems found when the study was opened, with what to do."""
    return [str(problem) for problem in study.problems]


def next_step(study: Study, folder: str) -> str:
    """The command that usually comes next for a study in this state."""
    if not study.protocol.structures:
        return f"semiseg study structures {folder} --add 1=liver"
    if not study.cases:
        return f"semiseg study add {folder} IMAGE --modality CT"
    if not study.models():
        return _next_before_training(study, folder)
    if not all(study.prediction_versions(case_id) for case_id in study.cases):
        return f"semiseg predict {folder}"
    return f"semiseg report {folder} --open"


def _next_before_training(study: Study, folder: str) -> str:
    if not any(study.ledger(case_id).any_done for case_id in study.cases):
        return f"semiseg annotate {folder} CASE LABEL --done 10,20,30"
    if all(case.gate is None for case in study.cases.values()):
        return f"semiseg propagate {folder}"
    return f"semiseg train {folder}"


def model_rows(study: Study) -> list[Row]:
    """One row per model, the latest last."""
    rows = []
    for model in study.models():
        info: Mapping[str, Json] = model.info
        validation = info.get("validation")
        score = validation.get("dice") if isinstance(validation, dict) else None
        rows.append(
            {
                "model": str(model.id),
                "method": _text(info.get("method")),
                "made": model.created,
                "steps": _text(info.get("steps")),
                "validation_dice": _text(score),
            }
        )
    return rows


def journal_rows(study: Study) -> list[tuple[str, str, str]]:
    """The journal as time, kind and details, the latest last."""
    return [
        (
            entry.time,
            entry.kind,
            ", ".join(f"{key} {_text(value)}" for key, value in entry.data.items()),
        )
        for entry in study.journal.read()
    ]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
