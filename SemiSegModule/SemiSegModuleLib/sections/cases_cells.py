"""What the table of cases says about a case, in words; no widgets."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from slicer.i18n import tr as _

from semiseg.study.overview import CaseOverview, gate_in_words

NAME, MODALITY, DONE, STATE, TRUST, UNCERTAINTY, SCORE = range(7)
SURE = 0.9
NOTHING = "-"
_DIGITS = re.compile(r"(\d+)")
_STATES = ("new", "annotated", "propagated", "segmented", "problem")
_TRUST = {"reject": 0, "down_weight": 1, "accept": 2}


class Cell(NamedTuple):
    """A cell's text, what it is sorted by, its tooltip, its tint and icon by name, and weight."""

    text: str
    order: float | str
    tip: str
    tint: str = ""
    icon: str = ""
    bold: bool = False


def headings() -> list[tuple[str, str]]:
    """Per column its heading and what it means."""
    return [
        (_("Scan"), _("Name of the scan. An arrow marks the one in the views, * unsaved strokes.")),
        (_("Type"), _("CT or MR. A question mark: guessed and not sure; right-click to set it.")),
        (_("Done"), _("Finished slices: axial (A), coronal (C), sagittal (S).")),
        (_("State"), _("How far the work on the scan is.")),
        (_("Trust"), _("What the check of the propagated labels found.")),
        (_("Unsure"), _("Mean uncertainty of the newest result, 0 to 1; correct high ones first.")),
        (_("Dice"), _("Mean Dice score of the newest evaluation, 0 to 1; 1 is perfect.")),
    ]


def cells(row: CaseOverview, *, shown: bool, loaded: bool) -> tuple[Cell, ...]:
    """The cells of one case in the order of `headings`; `loaded`: its nodes are in the scene."""
    found = (
        _name(row, shown=shown, loaded=loaded),
        _modality(row),
        _done(row.done),
        _state(row),
        _trust(row),
        _number(row.uncertainty, _("No result yet that has an uncertainty.")),
        _number(row.score, _("Not evaluated yet.")),
    )
    if not row.problem:
        return found
    return tuple(
        cell._replace(tip=f"{row.problem}\n\n{cell.tip}", tint=cell.tint or "problem")
        for cell in found
    )


def searchable(row: CaseOverview) -> str:
    """The text that the filter looks through, in lower case."""
    mark = _("unsaved") if row.has_draft else ""
    words = (row.name, row.id, row.modality, state_name(row.state), _trust_name(row), mark)
    return " ".join(words).casefold()


def matches(text: str, wanted: str) -> bool:
    """Whether each word of `wanted` occurs in `text` (of `searchable`)."""
    return all(word in text for word in wanted.casefold().split())


def natural(name: str) -> str:
    """A key that puts "scan 9" before "scan 10"."""
    return "".join(
        part.rjust(12, "0") if part.isdecimal() else part for part in _DIGITS.split(name.casefold())
    )


def state_name(state: str) -> str:
    """The state as the user reads it."""
    names = {
        "new": _("new"),
        "annotated": _("annotated"),
        "propagated": _("propagated"),
        "segmented": _("segmented"),
        "problem": _("problem"),
    }
    return names.get(state, state)


def _name(row: CaseOverview, *, shown: bool, loaded: bool) -> Cell:
    where = _("Not loaded.")
    if loaded:
        where = _("Loaded in the scene.")
    if shown:
        where = _("Shown in the views.")
    draft = _("Strokes are kept as a draft and join the labels soon.") if row.has_draft else ""
    patient = _("Patient: {patient}").format(patient=row.patient) if row.patient else ""
    lines = (row.name, where, draft, patient, _("Split: {split}").format(split=row.split))
    icon = "shown" if shown else "loaded" if loaded else "blank"
    text = f"{row.name} *" if row.has_draft else row.name
    tip = "\n".join(line for line in lines if line)
    return Cell(text, natural(row.name), tip, icon=icon, bold=shown)


def _modality(row: CaseOverview) -> Cell:
    sure = row.modality_overridden or row.modality_confidence >= SURE
    if row.modality_overridden:
        tip = _("{modality}, set by hand.").format(modality=row.modality)
    elif sure:
        tip = _("{modality}, recognized from the file.").format(modality=row.modality)
    else:
        tip = _("Perhaps {modality}: the guess is {percent} % sure. Set it by hand below.").format(
            modality=row.modality, percent=round(100 * row.modality_confidence)
        )
    text = row.modality if sure else f"{row.modality}?"
    return Cell(text, text, tip, tint=row.modality)


def _done(done: Mapping[str, tuple[int, int]]) -> Cell:
    letters = {"axial": _("A"), "coronal": _("C"), "sagittal": _("S")}
    words = {"axial": _("axial"), "coronal": _("coronal"), "sagittal": _("sagittal")}
    line = _("{plane}: {count} of {total} slices done")
    lines = [
        line.format(plane=words.get(plane, plane), count=count, total=total)
        for plane, (count, total) in done.items()
    ]
    some = {plane: counts for plane, counts in done.items() if counts[0]}
    # Planes without a finished slice, and totals of several, would take the width of the names.
    parts = [
        f"{letters.get(plane, plane)} {count}/{total}"
        if len(some) == 1
        else f"{letters.get(plane, plane)} {count}"
        for plane, (count, total) in some.items()
    ]
    text = "  ".join(parts) or _("none")
    return Cell(text, float(sum(n for n, _total in done.values())), "\n".join(lines))


def _state(row: CaseOverview) -> Cell:
    tips = {
        "new": _("Nothing drawn yet."),
        "annotated": _("Drawn by hand; not propagated and not segmented yet."),
        "propagated": _("Drawn slices were carried over to the rest or from other scans."),
        "segmented": _("A model has segmented it."),
        "problem": _("Something is wrong with the files of this scan."),
    }
    state = "problem" if row.problem else row.state
    order = float(_STATES.index(state)) if state in _STATES else -1.0
    tint = "problem" if state == "problem" else ""
    return Cell(state_name(state), order, tips.get(state, ""), tint=tint, icon=state)


def _trust(row: CaseOverview) -> Cell:
    if row.gate is None:
        return Cell(NOTHING, -1.0, _("Nothing was propagated into this scan yet."))
    order = _TRUST[row.gate.verdict] + min(max(row.gate.score, 0.0), 1.0) / 2
    verdict = row.gate.verdict
    words = gate_in_words(row.gate)
    tip = words[:1].upper() + words[1:]
    return Cell(_trust_name(row), order, tip, tint=verdict, icon=verdict)


def _trust_name(row: CaseOverview) -> str:
    names = {"accept": _("good"), "down_weight": _("doubtful"), "reject": _("not used")}
    return "" if row.gate is None else names[row.gate.verdict]


def _number(value: float | None, missing: str) -> Cell:
    if value is None:
        return Cell(NOTHING, -1.0, missing)
    return Cell(f"{value:.2f}", float(value), f"{value:.4f}")
