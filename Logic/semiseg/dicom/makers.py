"""Segments as DICOM tells them: what they are, how they look, who or what made them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal, NamedTuple

from semiseg import __version__

Method = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
PRODUCT = "SemiSeg"


class Term(NamedTuple):
    """A coded term: code value, coding scheme ("SCT" is SNOMED CT), meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Maker:
    """How voxels came to be; `name` and `version` identify the algorithm, empty for a human."""

    method: Method
    name: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class SegmentSpec:
    """One structure to write; its voxels carry `id` in the array that goes with it."""

    id: int
    name: str
    color: tuple[int, int, int]
    category: Term
    type: Term
    modifier: Term | None
    maker: Maker
    tracking_uid: str


HUMAN = Maker(method="MANUAL")


def maker_of(*, human: bool, propagated: bool, predicted: bool, model_id: int | None) -> Maker:
    """The maker of a structure from the origins that its voxels have."""
    if not propagated and not predicted:
        return HUMAN
    model = "" if model_id is None else f", model {model_id}"
    if predicted:
        corrected = ", corrected by hand" if human else ""
        return Maker(
            method="SEMIAUTOMATIC" if human else "AUTOMATIC",
            name=f"{PRODUCT} trained network{corrected}",
            version=f"{__version__}{model}",
        )
    return Maker(
        method="SEMIAUTOMATIC",
        name=f"{PRODUCT} propagation of drawn slices",
        version=__version__,
    )


def stable_uid(*words: object) -> str:
    """A unique id that the same words always give."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, words))).int}"
