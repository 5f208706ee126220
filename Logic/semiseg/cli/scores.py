"""Rows of scores as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from semiseg.events import Json

if TYPE_CHECKING:
    from semiseg.rounds.summary import ScoreSummary

Row = Mapping[str, Json]


def score_columns() -> tuple[str, ...]:
    """The columns of `score_rows`."""
    return ("case", "structure", "Dice", "HD95 mm", "ASSD mm", "ml", "reference ml", "state")


def score_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line per structure of each case, then the case's mean."""
    lines: list[tuple[str, ...]] = []
    for case in dict.fromkeys(str(row["case"]) for row in rows):
        mine = [row for row in rows if row["case"] == case]
        lines += [_score_row(row) for row in mine]
        dice, hd95 = mean(mine, "dice"), mean(mine, "hd95_mm")
        lines.append((case, "mean", number(dice, 3), number(hd95, 1), "", "", "", ""))
    return lines


def _score_row(row: Row) -> tuple[str, ...]:
    return (
        str(row["case"]),
        str(row["structure"]),
        number(row["dice"], 3),
        number(row["hd95_mm"], 1),
        number(row["assd_mm"], 1),
        number(row["volume_ml"], 1),
        number(row["reference_ml"], 1),
        "" if row["state"] == "compared" else str(row["state"]),
    )


def summary_columns() -> tuple[str, ...]:
    """The columns of `summary_rows`."""
    return ("modality", "structure", "Dice", "from", "to", "patients")


def summary_rows(summaries: Sequence[ScoreSummary]) -> list[tuple[str, ...]]:
    """One line per modality and structure, with the interval of its mean."""
    return [
        (
            one.modality,
            one.structure,
            number(one.mean, 3),
            number(one.low, 3),
            number(one.high, 3),
            str(one.n),
        )
        for one in summaries
    ]


def loop_columns() -> tuple[str, ...]:
    """The columns of `loop_rows`."""
    return (
        "scan",
        "structure",
        "propagated Dice",
        "model Dice",
        "model HD95 mm",
        "reference ml",
    )


def loop_rows(labels: Sequence[Row], predictions: Sequence[Row]) -> list[tuple[str, ...]]:
    """Propagated label and model side by side, per scan and structure, then each scan's mean."""
    propagated = {(row["case"], row["structure"]): row["dice"] for row in labels}
    lines: list[tuple[str, ...]] = []
    for case in dict.fromkeys(str(row["case"]) for row in predictions):
        mine = [row for row in predictions if row["case"] == case]
        for row in mine:
            lines.append(
                (
                    case,
                    str(row["structure"]),
                    number(propagated.get((row["case"], row["structure"])), 3),
                    number(row["dice"], 3),
                    number(row["hd95_mm"], 1),
                    number(row["reference_ml"], 1),
                )
            )
        before = mean([row for row in labels if row["case"] == case], "dice")
        dice, hd95 = mean(mine, "dice"), mean(mine, "hd95_mm")
        lines.append((case, "mean", number(before, 3), number(dice, 3), number(hd95, 1), ""))
    return lines


def mean(rows: Sequence[Row], key: str) -> float | None:
    """The mean of the values that are there; None when none is."""
    values = [float(row[key]) for row in rows if isinstance(row[key], int | float)]  # type: ignore[arg-type]
    return sum(values) / len(values) if values else None


def number(value: Json, digits: int) -> str:
    """`value` with `digits` decimals; a dash when it does not apply."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"
