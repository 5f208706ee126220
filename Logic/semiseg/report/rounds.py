"""The rounds of a study: what each cost, what had to be corrected, and whether to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from semiseg.errors import StorageError
from semiseg.report.curves import Chart, line_chart
from semiseg.rounds.corrections import record_corrections
from semiseg.rounds.rounds import Round, hint, rounds
from semiseg.study.study import Study

_ADVICE = {True: "Go on", False: "Stop", None: "Not known yet"}


@dataclass(frozen=True, kw_only=True)
class RoundsReport:
    """Each round, the Dice of what was suggested against minutes of drawing, and the advice."""

    rounds: tuple[Round, ...]
    advice: str
    reason: str
    charts: tuple[Chart, ...]


def report_rounds(study: Study) -> RoundsReport | None:
    """None before the first model; what was corrected and is not kept yet is worked out now."""
    with contextlib.suppress(StorageError):  # a study that can only be read is reported, too
        record_corrections(study)
    found = rounds(study)
    if len(found) == 1:
        return None
    told = hint(found)
    chart = _learning_curve(found)
    return RoundsReport(
        rounds=found,
        advice=_ADVICE[told.go_on],
        reason=told.reason,
        charts=() if chart is None else (chart,),
    )


def _learning_curve(found: Sequence[Round]) -> Chart | None:
    minutes, curves = 0.0, dict[str, list[tuple[float, float]]]()
    for one in found:
        # A round's model learned from what was drawn in the rounds before it.
        for name, value in (("what was suggested", one.dice), ("validation", one.validation)):
            if value is not None and one.number:
                curves.setdefault(name, []).append((minutes, value))
        minutes += one.minutes
    return line_chart("Dice", "minutes of drawing", curves, x_end=minutes, y_top=1.0)
