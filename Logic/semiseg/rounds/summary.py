"""A mean score and its interval, as scores are told and as model.json keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semiseg.events import Json

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """Mean of a score over `n` patients; `low` and `high` are None where `n` is 1."""

    modality: str
    structure: str
    mean: float
    n: int
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Json]:
        """Plain values for events."""
        return dict(vars(self))

    @property
    def is_of_everything(self) -> bool:
        """Whether it stands for all modalities and structures together."""
        return self.modality == self.structure == ALL


def read_summaries(validation: Json) -> tuple[ScoreSummary, ...]:
    """Those in a model's "validation"; what is not one is left out, for older models have none."""
    listed = validation.get("summaries") if isinstance(validation, dict) else None
    found = (_read(one) for one in (listed if isinstance(listed, list) else []))
    return tuple(one for one in found if one is not None)


def read_overall(validation: Json) -> ScoreSummary | None:
    """The one that stands for everything; None where there is none."""
    return next((one for one in read_summaries(validation) if one.is_of_everything), None)


def _read(one: Json) -> ScoreSummary | None:
    if not isinstance(one, Mapping):
        return None
    values: dict[str, Any] = {key: one.get(key) for key in ScoreSummary.__dataclass_fields__}
    low, high = values["low"], values["high"]
    both = _is_number(low) and _is_number(high)
    whole = both or (low is None and high is None)
    named = isinstance(values["modality"], str) and isinstance(values["structure"], str)
    counted = isinstance(values["n"], int) and values["n"] > 0
    return (
        ScoreSummary(**values)
        if whole and named and counted and _is_number(values["mean"])
        else None
    )


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
