"""The models of a study: how they were trained and validated, and their learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from semiseg.errors import SemiSegError
from semiseg.events import Json
from semiseg.report.curves import Chart, Points, line_chart
from semiseg.rounds.summary import ALL, read_summaries
from semiseg.study.storage import read_json
from semiseg.study.study import ModelRecord

_STEPS = ("step", "steps")
_NOT_CURVES = ("step", "steps", "seconds", "minutes", "time", "epoch", "learning_rate")
_FACTS = (
    "method",
    "modalities",
    "cases",
    "steps",
    "seconds",
    "device",
    "seed",
    "spacing_mm_zyx",
    "patch_zyx",
    "network",
    "normalisation",
    "settings",
    "versions",
)
_SOURCES = {"human": "drawn", "propagated": "propagated"}
_KINDS = {
    "split": "on scans set aside for it",
    "leave_one_out": "by leaving patients out in turn",
    "slices": "on slices that were held back",
    "none": "not at all",
}
Values = Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class Validated:
    """Dice of one structure, or of all; `interval` in words and `patients` where they are known."""

    modality: str
    structure: str
    dice: float
    interval: str = ""
    patients: int | None = None
    is_of_everything: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model; `facts` are (name, value) pairs in words, `validation` says how it was scored.

    `structures` are the rows of the validation, the one of everything last.
    """

    number: int
    name: str
    facts: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    validation: str
    dice: float | None
    structures: tuple[Validated, ...] = ()
    complaint: str = ""


def report_model(record: ModelRecord, names: Mapping[int, str]) -> ModelReport:
    """What model.json tells of one model; unknown or absent fields are left out.

    `names` are the structures by id.
    """
    try:
        values = read_json(record.folder / "model.json")
        complaint = ""
    except SemiSegError as error:
        values, complaint = dict(record.info), f"Its description cannot be read: {error}"
    history = [entry for entry in _list(values.get("history")) if isinstance(entry, Mapping)]
    validation = values.get("validation")
    details = validation if isinstance(validation, Mapping) else {}
    return ModelReport(
        number=record.id,
        name=record.name,
        facts=tuple(_facts(values)),
        charts=tuple(learning_charts(history)),
        validation=_how(validation),
        dice=_number(details.get("dice")),
        structures=tuple(_validated(details, names)),
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
    scores = {name: points for name, points in curves.items() if name.endswith("dice")}
    end = max((x for points in curves.values() for x, _ in points), default=None)
    charts = (
        line_chart("Loss", "steps", _plain_names(losses), x_end=end),
        line_chart("Validation Dice", "steps", _plain_names(scores), x_end=end, y_top=1.0),
    )
    return [chart for chart in charts if chart is not None]


def _facts(values: Values) -> list[tuple[str, str]]:
    """Name and value of what a reader asks first."""
    ready = dict(values)
    cases = values.get("cases")
    if isinstance(cases, Mapping):
        ready["cases"] = [_learned_from(name, found) for name, found in cases.items()]
    return [(_words(name), in_words(ready[name])) for name in _FACTS if name in ready]


def _learned_from(name: str, found: Json) -> str:
    if not isinstance(found, Mapping):
        return name
    parts = [words for key, words in _SOURCES.items() if found.get(key) is True]
    return f"{name} ({' and '.join(parts)})" if parts else name


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


def _how(validation: Json) -> str:
    """How the model was scored while learning, as its maker says it."""
    if not isinstance(validation, Mapping):
        return _KINDS.get(str(validation), str(validation)) if validation else ""
    kind = str(validation.get("kind") or "")
    return str(validation.get("how") or _KINDS.get(kind, kind)).rstrip(".")


def _validated(told: Values, names: Mapping[int, str]) -> list[Validated]:
    """A row per structure and modality; without intervals where slices were held back."""
    means = told.get("structures")
    found = [
        Validated(
            modality=one.modality if one.modality != ALL else "",
            structure=_named(one.structure, names),
            dice=one.mean,
            interval="" if one.low is None else f"{one.low:.2f} to {one.high:.2f}",
            patients=one.n,
            is_of_everything=one.is_of_everything,
        )
        for one in read_summaries(dict(told))
    ]
    return found or [
        Validated(modality="", structure=_named(key, names), dice=float(dice))
        for key, dice in (means.items() if isinstance(means, Mapping) else ())
        if _is_number(dice)
    ]


def _named(key: str, names: Mapping[int, str]) -> str:
    if key == ALL:
        return "all structures"
    return names.get(int(key), key) if key.isdecimal() else key


def _flat(entry: Values, lead: str = "") -> dict[str, float]:
    """Numbers of `entry` and of the objects in it, by their path."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{lead}{name}/"))
        elif _is_number(value) and name not in _NOT_CURVES:
            found[f"{lead}{name}"] = float(value)
    return found


def _number(value: Json) -> float | None:
    return float(value) if _is_number(value) else None


def _is_number(value: Json) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain_names(curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Points]:
    """Curves under the last part of their path."""
    return {name.rpartition("/")[2].replace("_", " "): points for name, points in curves.items()}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
