"""The models of a study: how they were trained and validated, and their learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from semiseg.errors import SemiSegError
from semiseg.events import Json
from semiseg.report.curves import Chart, Points, line_chart
from semiseg.study.storage import read_json
from semiseg.study.study import ModelRecord

_STEPS = ("step", "steps")
_NOT_CURVES = ("step", "steps", "seconds", "minutes", "time", "epoch", "learning_rate")
_FACTS = (
    "method",
    "modalities",
    "steps",
    "minutes",
    "seed",
    "device",
    "spacing_mm_zyx",
    "patch_zyx",
    "batch_size",
    "learning_rate",
)
_VALIDATIONS = {
    "split": "on cases set aside for validation, by patient, which teach nothing",
    "leave_one_out": "by leaving one case out at a time",
    "slices": "on done slices that were held back from learning (there is no spare case)",
    "none": "not at all: nothing was left to validate on",
}
Values = Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model; `facts` are (name, value) pairs in words."""

    number: int
    name: str
    facts: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    validation: str
    best_dice: float | None
    complaint: str = ""


def report_model(record: ModelRecord) -> ModelReport:
    """What model.json tells of one model; unknown or absent fields are left out."""
    try:
        values = read_json(record.folder / "model.json")
        complaint = ""
    except SemiSegError as error:
        values, complaint = dict(record.info), f"Its description cannot be read: {error}"
    history = [entry for entry in _list(values.get("history")) if isinstance(entry, Mapping)]
    return ModelReport(
        number=record.id,
        name=record.name,
        facts=tuple(_facts(values)),
        charts=tuple(learning_charts(history)),
        validation=_validation(values.get("validation")),
        best_dice=_best(history, values.get("validation")),
        complaint=complaint,
    )


def learning_charts(history: Sequence[Values]) -> list[Chart]:
    """Loss and validation Dice against steps, as far as `history` has them."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for position, entry in enumerate(history):
        x = next((float(v) for key in _STEPS if _is_number(v := entry.get(key))), float(position))
        for name, value in _flat(entry).items():
            curves.setdefault(name, []).append((x, value))
    losses = {name: points for name, points in curves.items() if "loss" in name}
    scores = {name: points for name, points in curves.items() if "dice" in name}
    charts = (
        line_chart("Loss", "steps", _plain_names(losses)),
        line_chart("Validation Dice", "steps", _plain_names(scores), y_top=1.0),
    )
    return [chart for chart in charts if chart is not None]


def _facts(values: Values) -> list[tuple[str, str]]:
    """Name and value of what a reader asks first."""
    return [(_words(name), in_words(values[name])) for name in _FACTS if name in values]


def in_words(value: Json) -> str:
    """A JSON value for a reader: lists by commas, numbers without needless digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not set"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(in_words(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {in_words(item)}" for name, item in value.items())
    return str(value)


def _words(name: str) -> str:
    return (
        name.replace("_mm_zyx", " in mm (z, y, x)").replace("_zyx", " (z, y, x)").replace("_", " ")
    )


def _validation(value: Json) -> str:
    if isinstance(value, Mapping):
        kind = str(value.get("kind", value.get("how", "")))
        rest = {name: item for name, item in value.items() if name not in ("kind", "how")}
        return ", ".join(part for part in (_VALIDATIONS.get(kind, kind), in_words(rest)) if part)
    return _VALIDATIONS.get(str(value), str(value)) if value else ""


def _best(history: Sequence[Values], validation: Json) -> float | None:
    if isinstance(validation, Mapping):
        for name in ("best_dice", "dice"):
            value = validation.get(name)
            if _is_number(value):
                return float(value)
    scores = [value for entry in history for name, value in _flat(entry).items() if "dice" in name]
    return max(scores, default=None)


def _flat(entry: Values, lead: str = "") -> dict[str, float]:
    """Numbers of `entry` and of the objects in it, by their path."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{lead}{name}/"))
        elif _is_number(value) and name not in _NOT_CURVES:
            found[f"{lead}{name}"] = float(value)
    return found


def _is_number(value: Json) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain_names(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Points]:
    """Curves under the last part of their path."""
    return {name.rpartition("/")[2].replace("_", " "): points for name, points in curves.items()}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
