"""What a study has and how good it is, in a few plain sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from semiseg.report.cases import CaseReport
from semiseg.report.evaluation_tables import EvaluationTable
from semiseg.report.learning import ModelReport


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure at the top of the report."""

    name: str
    value: str
    note: str


def summary_sentence(
    cases: Sequence[CaseReport],
    n_structures: int,
    models: Sequence[ModelReport],
    evaluations: Sequence[EvaluationTable],
) -> str:
    """What is there, how good it is, and how that was found out."""
    if not cases:
        return (
            "This study has no scans yet. Add scans, draw a few slices, and make the report anew."
        )
    return " ".join(
        part
        for part in (
            _scans(cases, n_structures),
            _work(cases),
            _quality(models, evaluations, segmented=any(c.prediction_version for c in cases)),
        )
        if part
    )


def tiles(
    cases: Sequence[CaseReport],
    n_structures: int,
    models: Sequence[ModelReport],
    evaluations: Sequence[EvaluationTable],
) -> tuple[Tile, ...]:
    """The figures that are asked for first."""
    slices = sum(case.human_slices for case in cases)
    drawn = sum(case.human_slices > 0 for case in cases)
    segmented = sum(case.prediction_version is not None for case in cases)
    found = [
        Tile(name="Scans", value=str(len(cases)), note=_kinds(cases)),
        Tile(name="Structures", value=str(n_structures), note="in the protocol"),
        Tile(
            name="Slices done by hand",
            value=str(slices),
            note=f"in {count(drawn, 'scan')}, each for one or more structures",
        ),
        Tile(
            name="Segmented by a model",
            value=f"{segmented} of {len(cases)}",
            note=f"{count(len(models), 'model')} trained",
        ),
    ]
    for group in evaluations[0].groups if evaluations else ():
        if group.overall.dice.value is not None:
            note = f"{evaluations[0].subject.lower()}, {group.n_scans}{group.use}"
            value = f"{group.overall.dice.value:.2f}"
            found.append(Tile(name=f"Mean Dice, {group.modality}", value=value, note=note))
    return tuple(found)


def count(number: int, noun: str) -> str:
    """`number` with `noun` in singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _kinds(cases: Sequence[CaseReport]) -> str:
    kinds = Counter(case.case.modality for case in cases)
    return " and ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def _scans(cases: Sequence[CaseReport], n_structures: int) -> str:
    return (
        f"This study has {count(len(cases), 'scan')} ({_kinds(cases)}) and "
        f"{count(n_structures, 'structure')} to segment."
    )


def _work(cases: Sequence[CaseReport]) -> str:
    slices = sum(case.human_slices for case in cases)
    drawn = sum(case.human_slices > 0 for case in cases)
    segmented = sum(case.prediction_version is not None for case in cases)
    if not slices:
        return "No slice has been done by hand yet."
    person = "A person"
    if all(case.simulated for case in cases if case.human_slices):
        person = "A simulated person, who copies a full label,"
    text = f"{person} finished {count(slices, 'slice')} in {count(drawn, 'scan')}"
    refused = sum(case.gate is not None and case.gate.verdict == "reject" for case in cases)
    if any(case.has_program for case in cases):
        text += "; propagation filled in what lies between and beyond"
    if segmented:
        text += f"; a model has segmented {segmented} of {count(len(cases), 'scan')}"
    text += "."
    if refused:
        text += f" Propagation was refused for {count(refused, 'scan')}: see the reasons below."
    return text


def _quality(
    models: Sequence[ModelReport], evaluations: Sequence[EvaluationTable], *, segmented: bool
) -> str:
    if evaluations and evaluations[0].in_words:
        newest = evaluations[0]
        text = (
            f"Compared with {newest.reference}, the {_lower_first(newest.subject)} reaches a mean "
            f"Dice of {newest.in_words}; 1 is perfect."
        )
        if newest.missed:
            times = "once" if newest.missed == 1 else f"{newest.missed} times"
            text += f" A structure was missed {times}."
        return text
    if models and models[-1].dice is not None:
        return (
            f"In validation the newest model reached a Dice of {models[-1].dice:.2f}"
            f"{_expected(models[-1])}; nothing has been compared with a reference."
        )
    return "How good the segmentations are has not been measured yet." if segmented else ""


def _expected(model: ModelReport) -> str:
    told = [one.interval for one in model.structures if one.is_of_everything and one.interval]
    return f" (in new patients {told[0]} on average)" if told else ""


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
