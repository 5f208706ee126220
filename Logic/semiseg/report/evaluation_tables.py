"""Evaluations as tables: a mean per structure and modality, with every case beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from semiseg.events import Json

T = TypeVar("T")
Row = Mapping[str, Json]

_SUBJECTS = {
    "prediction": "Segmentation by the model",
    "label": "Labels (drawn by hand and propagated)",
    "combined": "Final result (the model's segmentation with the slices drawn by hand)",
}
_USES = {"train": " used for learning", "val": " for validation", "test": " for test"}


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over the scores that exist; None where there is none."""

    value: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """One structure (or all) over the scans of one group."""

    dice: Mean
    hd95_mm: Mean
    assd_mm: Mean
    missed: int
    absent: int
    not_compared: int

    @property
    def remarks(self) -> str:
        """What the means leave out or count as zero."""
        counts = (
            (self.missed, "missed"),
            (self.absent, "not applicable"),
            (self.not_compared, "not in the reference"),
        )
        return ", ".join(f"{number} {words}" for number, words in counts if number)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The scans of one modality and one use (learning, validation, test): never mixed."""

    modality: str
    use: str
    case_ids: tuple[str, ...]
    overall: Score

    @property
    def n_scans(self) -> str:
        return f"{len(self.case_ids)} scan{'' if len(self.case_ids) == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class StructureRow:
    """One structure: its score in each group, in the groups' order."""

    structure: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """One scan: its Dice for each structure, in the structures' order, and their mean."""

    case_id: str
    dice: tuple[float | None, ...]
    mean: Mean


@dataclass(frozen=True, kw_only=True)
class EvaluationTable:
    """One evaluation: what was scored, against what, and the figures."""

    number: int
    date: str
    subject: str
    caution: str
    reference: str
    policy: str
    model: str
    groups: tuple[Group, ...]
    rows: tuple[StructureRow, ...]
    cases: tuple[CaseRow, ...]
    missed: int

    @property
    def in_words(self) -> str:
        """The mean Dice of each group, e.g. "0.85 in CT (2 scans used for learning)"."""
        parts = [
            f"{group.overall.dice.value:.2f} in {group.modality} ({group.n_scans}{group.use})"
            for group in self.groups
            if group.overall.dice.value is not None
        ]
        return " and ".join(parts)


def evaluation_table(
    rows: Sequence[Row], settings: Row, *, number: int, date: str
) -> EvaluationTable:
    """The table of one stored evaluation; absent fields are taken as not said."""
    what = _text(settings, "what") or _said(rows, "what")
    note = _text(settings, "reference_note") or _said(rows, "reference_note")
    names = _in_order(_text(row, "structure") for row in rows)
    keys = _in_order((_text(row, "modality"), _text(row, "split")) for row in rows)
    groups = [[row for row in rows if _group_of(row) == key] for key in keys]
    return EvaluationTable(
        number=number,
        date=date,
        subject=_SUBJECTS.get(what, what or "Segmentation"),
        caution=_caution(what, {split for _, split in keys}),
        reference=note.rstrip(".") or "reference labels whose origin was not stated",
        policy=_text(settings, "policy"),
        model=", ".join(name for name in _in_order(_text(r, "model_id") for r in rows) if name),
        groups=tuple(_group(key, own) for key, own in zip(keys, groups, strict=True)),
        rows=tuple(
            StructureRow(
                structure=name, scores=tuple(_score(_of(own, "structure", name)) for own in groups)
            )
            for name in names
        ),
        cases=_case_rows(rows, names),
        missed=_score(rows).missed,
    )


def _caution(what: str, splits: Collection[str]) -> str:
    """What a reader should keep in mind about the figures."""
    cautions = []
    if what != "prediction":
        cautions.append("The slices drawn by hand are part of what is scored.")
    if "train" in splits and what != "label":
        cautions.append(
            "Used for learning: the model saw the finished slices of these scans, so their "
            "figures promise less for other patients."
        )
    return " ".join(cautions)


def newest_per_subject(tables: Sequence[EvaluationTable]) -> tuple[EvaluationTable, ...]:
    """The last evaluation of each subject, the segmentation first."""
    newest = {table.subject: table for table in tables}
    order = [name for name in _SUBJECTS.values() if name in newest]
    return tuple(newest[name] for name in _in_order([*order, *newest]))


def _group_of(row: Row) -> tuple[str, str]:
    return _text(row, "modality"), _text(row, "split")


def _group(key: tuple[str, str], rows: Sequence[Row]) -> Group:
    modality, split = key
    return Group(
        modality=modality,
        use=_USES.get(split, ""),
        case_ids=_in_order(_text(row, "case") for row in rows),
        overall=_score(rows),
    )


def _case_rows(rows: Sequence[Row], names: Sequence[str]) -> tuple[CaseRow, ...]:
    found = []
    for case_id in _in_order(_text(row, "case") for row in rows):
        own = _of(rows, "case", case_id)
        dice = {_text(row, "structure"): _number(row, "dice") for row in own}
        found.append(
            CaseRow(
                case_id=case_id,
                dice=tuple(dice.get(name) for name in names),
                mean=_mean(own, "dice"),
            )
        )
    return tuple(found)


def _score(rows: Sequence[Row]) -> Score:
    states = [_text(row, "state") for row in rows]
    return Score(
        dice=_mean(rows, "dice"),
        hd95_mm=_mean(rows, "hd95_mm"),
        assd_mm=_mean(rows, "assd_mm"),
        missed=states.count("missed"),
        absent=states.count("absent"),
        not_compared=states.count("not compared"),
    )


def _of(rows: Sequence[Row], key: str, value: str) -> list[Row]:
    return [row for row in rows if _text(row, key) == value]


def _mean(rows: Iterable[Row], key: str) -> Mean:
    values = [value for row in rows if (value := _number(row, key)) is not None]
    return Mean(value=sum(values) / len(values) if values else None, count=len(values))


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else None


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _said(rows: Sequence[Row], key: str) -> str:
    return "; ".join(value for value in _in_order(_text(row, key) for row in rows) if value)


def _in_order(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
