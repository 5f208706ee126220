"""One image of a study, and what has been said and computed about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import MODALITIES, Modality
from semiseg.errors import ImageError, SchemaError
from semiseg.events import Json
from semiseg.images.grid import Grid
from semiseg.study.fields import Fields
from semiseg.study.ledger import Ledger

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Verdict = Literal["accept", "down_weight", "reject"]


class Origin(IntEnum):
    """Who set a voxel; programs never change HUMAN and CORRECTED ones."""

    NONE = 0
    HUMAN = 1
    PROPAGATED = 2
    PREDICTED = 3
    CORRECTED = 4


PROTECTED = (Origin.HUMAN, Origin.CORRECTED)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something in the study that cannot be used, and what to do about it."""

    path: Path
    message: str
    remedy: str
    case_id: str | None = None

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class ImageReference:
    """Where a case's image lies: beside the study (`relative`) or anywhere (`absolute`).

    Size and time tell quickly that the file is untouched; `sha256` decides.
    """

    relative: str | None
    absolute: str
    sha256: str
    copied: bool
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class GateRecord:
    """The trust gate's verdict on the label propagated to a case, with its reasons."""

    verdict: Verdict
    score: float
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Plain values for case.json."""
        return {"verdict": self.verdict, "score": self.score, "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, fields: Fields) -> GateRecord:
        """SchemaError when a value is missing or not one of the verdicts."""
        return cls(
            verdict=cast(Verdict, fields.choice("verdict", get_args(Verdict))),
            score=fields.number("score"),
            reasons=fields.texts("reasons"),
        )


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A further volume of a case's patient and anatomy: another phase or sequence.

    It fills the same space as the case's image, on a grid of its own. `image` is always a file
    inside the study.
    """

    name: str
    image: ImageReference
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image volume, with `companions` of the same anatomy; `split` is its patient's.

    `sequence` names what the image shows among phases and sequences; None for what its modality
    says.
    """

    id: str
    name: str
    patient: str
    modality: Modality
    modality_confidence: float
    modality_overridden: bool
    split: Split
    image: ImageReference
    grid: Grid
    gate: GateRecord | None = None
    companions: tuple[Companion, ...] = ()
    sequence: str | None = None

    @property
    def stream(self) -> str:
        """Which of several kinds of volumes the image is."""
        return self.sequence or self.modality

    def modality_of(self, companion: Companion) -> Modality:
        """That which it is named after, else the image's."""
        return next((found for found in MODALITIES if found == companion.name), self.modality)


@dataclass(frozen=True, kw_only=True)
class CaseLabel:
    """One version of a case's label; all arrays (z, y, x) on the image's own grid.

    `confidence` is 1 where a human decided and 0 where nothing is known. `propagated_ids` are
    the structures that programs have set everywhere, background included.
    """

    case_id: str
    version: int
    array: NDArray[np.uint16]
    origin: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    ledger: Ledger = field(default_factory=Ledger)
    propagated_ids: tuple[int, ...] = ()
    info: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's segmentation of a case; `uncertainty` is in [0, 1]."""

    case_id: str
    version: int
    array: NDArray[np.uint16]
    uncertainty: NDArray[np.float32]
    model_id: int
    info: Mapping[str, Json] = field(default_factory=dict)


def empty_label(case_id: str, grid: Grid) -> CaseLabel:
    """Version 0: nothing is known yet."""
    shape = grid.shape_zyx
    return CaseLabel(
        case_id=case_id,
        version=0,
        array=np.zeros(shape, np.uint16),
        origin=np.zeros(shape, np.uint8),
        confidence=np.zeros(shape, np.float32),
    )


def case_to_json(case: Case) -> dict[str, Json]:
    """Plain values for case.json; the split is the study's to keep."""
    values: dict[str, Json] = {
        "id": case.id,
        "name": case.name,
        "patient": case.patient,
        "modality": case.modality,
        "modality_confidence": case.modality_confidence,
        "modality_overridden": case.modality_overridden,
        "image": _reference_json(case.image),
        "grid": case.grid.to_json(),
        "gate": case.gate.to_json() if case.gate else None,
    }
    # Left out where there are none, so that earlier versions read what they could read before.
    if case.companions:
        values["companions"] = [_companion_json(companion) for companion in case.companions]
    if case.sequence is not None:
        values["sequence"] = case.sequence
    return values


def _companion_json(companion: Companion) -> dict[str, Json]:
    return {
        "name": companion.name,
        "image": _reference_json(companion.image),
        "grid": companion.grid.to_json(),
    }


def _reference_json(image: ImageReference) -> dict[str, Json]:
    return cast("dict[str, Json]", dict(vars(image)))


def case_from_json(values: Mapping[str, Json], where: str, split_of: Mapping[str, Split]) -> Case:
    """The case in `values` of the current schema; SchemaError says what is wrong with them."""
    fields = Fields(values, where)
    gate = fields.optional_part("gate")
    patient = fields.text("patient")
    return Case(
        id=fields.text("id"),
        name=fields.text("name"),
        patient=patient,
        modality=cast(Modality, fields.choice("modality", MODALITIES)),
        modality_confidence=fields.number("modality_confidence"),
        modality_overridden=fields.flag("modality_overridden"),
        split=split_of.get(patient, "train"),
        image=_reference(fields.part("image")),
        grid=_grid(fields),
        gate=GateRecord.from_json(gate) if gate else None,
        companions=tuple(_companion(part) for part in fields.parts("companions")),
        sequence=fields.optional_text("sequence"),
    )


def _companion(fields: Fields) -> Companion:
    return Companion(
        name=fields.text("name"),
        image=_reference(fields.part("image")),
        grid=_grid(fields),
    )


def _grid(fields: Fields) -> Grid:
    try:
        return Grid.from_json(fields.mapping("grid"))
    except ImageError as error:
        raise SchemaError(f"{fields.where}: {error}") from error


def _reference(fields: Fields) -> ImageReference:
    return ImageReference(
        relative=fields.optional_text("relative"),
        absolute=fields.text("absolute"),
        sha256=fields.text("sha256"),
        copied=fields.flag("copied"),
        size_bytes=fields.integer("size_bytes"),
        mtime_ns=fields.integer("mtime_ns"),
    )
