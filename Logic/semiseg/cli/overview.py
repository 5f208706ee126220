"""A study in rows: what `study status`, `check`, `models` and `history` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from semiseg.errors import SemiSegError
from semiseg.events import Emit, Json, Progress
from semiseg.images.grid import PLANES, plane_axis

if TYPE_CHECKING:
    from semiseg.study.case import Case, CaseLabel
    from semiseg.study.study import Study

Row = dict[str, str]


def case_rows(study: Study) -> list[Row]:
    """One row per case; a case that cannot be read says so instead of stopping the list."""
    return [_case_row(study, case) for case in study.cases.values()]


def _case_row(study: Study, case: Case) -> Row:
    try:
        label, prediction = study.label(case.id), study.prediction(case.id)
    except SemiSegError as error:
        return _row(case, "unreadable", str(error), "-")
    gate = "-" if case.gate is None else f"{case.gate.verdict} {case.gate.score:.2f}"
    segmented = "-" if prediction is None else f"version {prediction.version}"
    if label is None:
        return _row(case, "-", "-", segmented, gate)
    return _row(case, f"version {label.version}", slices_done(label, study, case), segmented, gate)


def _row(case: Case, label: str, done: str, segmented: str, gate: str = "-") -> Row:
    return {
        "case": case.id,
        "modality": case.modality if case.modality_overridden else f"{case.modality} (guessed)",
        "split": case.split,
        "label": label,
        "done": done,
        "gate": gate,
        "segmentation": segmented,
    }


def slices_done(label: CaseLabel, study: Study, case: Case) -> str:
    """`axial 12 of 112`, for each plane in which a slice is done for some structure."""
    parts = []
    for plane in PLANES:
        done = {
            index
            for structure_id in study.protocol.ids
            for index in label.ledger.done(plane, structure_id)
        }
        if done:
            count = case.grid.shape_zyx[plane_axis(case.grid, plane)]
            parts.append(f"{plane} {len(done)} of {count}")
    return ", ".join(parts) or "-"


def problem_lines(study: Study) -> list[Json]:
    """The problems found when the study was opened, with what to do."""
    return [str(problem) for problem in study.problems]


def check_study(study: Study, emit: Emit) -> tuple[str, ...]:
    """Every problem of the study: those from opening it, and files that cannot be read."""
    found = [str(line) for line in problem_lines(study)]
    progress = Progress(emit, "check", len(study.cases))
    for step, case in enumerate(study.cases.values(), start=1):
        for read in (study.image, study.label, study.prediction):
            try:
                read(case.id)
            except SemiSegError as error:
                found.append(f"{case.id}: {error}")
        progress.update(step, case.id)
    return tuple(dict.fromkeys(found))


def next_step(study: Study, folder: str) -> str:
    """The command that usually comes next for a study in this state."""
    if not study.protocol.structures:
        return f"semiseg study structures {folder} --add 1=liver"
    if not study.cases:
        return f"semiseg study add {folder} IMAGE --modality CT"
    if not study.models():
        return _next_before_training(study, folder)
    if any(study.prediction(case_id) is None for case_id in study.cases):
        return f"semiseg predict {folder}"
    return f"semiseg report {folder} --open"


def _next_before_training(study: Study, folder: str) -> str:
    labels = [label for label in map(study.label, study.cases) if label is not None]
    if not any(label.ledger.any_done for label in labels):
        return f"semiseg annotate {folder} CASE LABEL --done 10,20,30"
    if not any(label.propagated_ids for label in labels):
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
                "made": _text(info.get("created")),
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
