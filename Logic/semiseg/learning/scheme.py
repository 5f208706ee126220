"""How a model's quality is to be estimated without ever looking at a test case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from semiseg.config import TrainConfig
from semiseg.data.supervision import Line
from semiseg.errors import NotEnoughLabelsError
from semiseg.learning.survey import CaseFacts, Survey
from semiseg.study.case import CaseLabel
from semiseg.study.study import Study

Kind = Literal["split", "leave_one_out", "slices", "none"]
_MAX_FOLDS = 3
_HIDDEN_SHARE = 0.25
_LEFT_AT_LEAST = 2


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Cases left out of an extra training, and scored with it."""

    name: str
    left_out: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """`folds` for leave_one_out, `hidden` slices by case for slices; `text` tells the user."""

    kind: Kind
    text: str
    folds: tuple[Fold, ...] = ()
    hidden: Mapping[str, frozenset[Line]] = field(default_factory=dict)


def choose_scheme(study: Study, found: Survey, config: TrainConfig) -> Scheme:
    """What `config.validation` asks for, or for "auto" the most honest that is possible.

    NotEnoughLabelsError when what was asked for by name is not possible.
    """
    if config.validation == "none":
        return Scheme(kind="none", text="no validation was asked for")
    makers = {"split": _split, "leave_one_out": _leave_one_out, "slices": _slices}
    wanted = (
        makers if config.validation == "auto" else {config.validation: makers[config.validation]}
    )
    for maker in wanted.values():
        scheme = maker(study, found, config)
        if scheme is not None:
            return scheme
    if config.validation == "auto":
        return Scheme(kind="none", text="too few slices are done to hold any back for validation")
    raise NotEnoughLabelsError(_WHY_NOT[config.validation])


_WHY_NOT = {
    "split": "validation on the split needs a done slice in a case of the validation split; "
    "annotate one, or choose validation auto",
    "leave_one_out": "leaving one patient out needs two annotated training patients of one "
    "modality; annotate another, or choose validation auto",
    "slices": "validation on slices needs three done slices in a training case, one of them "
    "inside of all structures; annotate more, or choose validation auto",
}


def _split(study: Study, found: Survey, config: TrainConfig) -> Scheme | None:  # noqa: ARG001
    if not found.validation:
        return None
    names = ", ".join(facts.id for facts in found.validation)
    return Scheme(kind="split", text=f"on the annotated slices of the validation cases {names}")


def _leave_one_out(study: Study, found: Survey, config: TrainConfig) -> Scheme | None:  # noqa: ARG001
    by_modality: dict[str, set[str]] = {}
    for facts in found.train:
        if facts.human_ids:
            by_modality.setdefault(facts.modality, set()).add(facts.patient)
    patients = sorted(set().union(*(p for p in by_modality.values() if len(p) > 1)))
    if not patients:
        return None
    rng = np.random.default_rng(config.seed)
    chosen = [patients[i] for i in rng.permutation(len(patients))[:_MAX_FOLDS]]
    folds = tuple(_fold(patient, found.train) for patient in sorted(chosen))
    text = (
        f"each of {len(folds)} annotated patients was left out of a shorter training and scored "
        "with it; labels propagated from that patient to others were not left out"
    )
    return Scheme(kind="leave_one_out", text=text, folds=folds)


def _fold(patient: str, train: Iterable[CaseFacts]) -> Fold:
    left_out = frozenset(facts.id for facts in train if facts.patient == patient)
    return Fold(name=patient, left_out=left_out)


def _slices(study: Study, found: Survey, config: TrainConfig) -> Scheme | None:
    rng = np.random.default_rng(config.seed)
    hidden: dict[str, frozenset[Line]] = {}
    for facts in found.train:
        label = study.label(facts.id)
        if label is not None and facts.human_ids:
            lines = hidden_lines(study, facts, label, rng)
            if lines:
                hidden[facts.id] = lines
    if not hidden:
        return None
    count = sum(len(lines) for lines in hidden.values())
    text = (
        f"{count} of the annotated slices were held back at first, scored at that point, and "
        "learned from afterwards; other slices of the same scans were known, so new scans will "
        "be harder"
    )
    return Scheme(kind="slices", text=text, hidden=hidden)


def hidden_lines(
    study: Study, facts: CaseFacts, label: CaseLabel, rng: np.random.Generator
) -> frozenset[Line]:
    """About a quarter of the done slices of a case, never the outermost ones of a structure."""
    ids = tuple(sorted(facts.human_ids))
    hidden: set[Line] = set()
    for axis, lines in label.ledger.known_lines(study.cases[facts.id].grid, ids).items():
        done = np.flatnonzero(lines.any(axis=0))
        outermost: set[int] = set()
        for row, structure in enumerate(ids):
            drawn = [
                int(i)
                for i in done
                if lines[row, i] and (np.take(label.array, i, axis=axis) == structure).any()
            ]
            outermost |= {*drawn[:1], *drawn[-1:]}
        inside = [int(i) for i in done if int(i) not in outermost]
        number = min(
            max(1, round(len(done) * _HIDDEN_SHARE)), len(inside), len(done) - _LEFT_AT_LEAST
        )
        if number > 0:
            chosen = rng.choice(inside, number, replace=False)
            hidden |= {(axis, int(i)) for i in chosen}
    return frozenset(hidden)
