"""What a study has to learn from: read once, before anything is decided."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.config import Modality
from semiseg.data.cases import drawn_ids
from semiseg.errors import NotEnoughLabelsError
from semiseg.images.grid import Triple, canonical
from semiseg.study.case import Case, CaseLabel
from semiseg.study.study import Study


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """One case in numbers; axes S, P, L.

    `digest` names the images and the label that were found, `widths_mm` the typical width of each
    drawn structure.
    """

    id: str
    patient: str
    modality: Modality
    spacing_mm_zyx: Triple
    extent_mm_zyx: Triple
    human_ids: frozenset[int]
    program_ids: frozenset[int]
    widths_mm: Mapping[int, float]
    digest: str

    @property
    def labelled(self) -> bool:
        """Whether anything of it is known."""
        return bool(self.human_ids | self.program_ids)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Training and validation cases; `classes` are protocol ids by channel, 0 first."""

    train: tuple[CaseFacts, ...]
    validation: tuple[CaseFacts, ...]
    classes: tuple[int, ...]

    @property
    def smallest_mm(self) -> float:
        """Typical width of the smallest structure."""
        widths: dict[int, list[float]] = {}
        for facts in self.train:
            for structure, width in facts.widths_mm.items():
                widths.setdefault(structure, []).append(width)
        return min(float(np.median(found)) for found in widths.values())


def survey(study: Study, *, use_propagated: bool) -> Survey:
    """Facts of all training cases and of the annotated validation cases; test cases are not read.

    NotEnoughLabelsError when no training case has a done slice with a structure on it.
    """
    cases = study.cases.values()
    train = tuple(
        _facts(study, case, use_propagated=use_propagated)
        for case in cases
        if case.split == "train"
    )
    held = (_facts(study, case, use_propagated=False) for case in cases if case.split == "val")
    seen = frozenset[int]().union(*(facts.human_ids | facts.program_ids for facts in train))
    if not any(facts.human_ids for facts in train):
        raise NotEnoughLabelsError(_nothing_done(study, train))
    classes = (0, *(i for i in study.protocol.ids if i in seen))
    return Survey(train=train, validation=tuple(f for f in held if f.human_ids), classes=classes)


def _nothing_done(study: Study, train: tuple[CaseFacts, ...]) -> str:
    if not study.protocol.ids:
        return "the protocol has no structure; add the structures to be segmented first"
    if not train:
        return "the study has no training case; add an image, or move a case to the train split"
    return (
        f"none of the {len(train)} training cases has a done slice with a structure on it; draw "
        "some slices and mark them as done"
    )


def _facts(study: Study, case: Case, *, use_propagated: bool) -> CaseFacts:
    grid = canonical(case.grid).grid
    label = study.label(case.id)
    human, program = set[int](), set[int]()
    if label is not None:
        human, program = drawn_ids(label, case.grid, study.protocol.ids)
    program = program if use_propagated else set()
    return CaseFacts(
        id=case.id,
        patient=case.patient,
        modality=case.modality,
        spacing_mm_zyx=grid.spacing_mm_zyx,
        extent_mm_zyx=_product(grid.shape_zyx, grid.spacing_mm_zyx),
        human_ids=frozenset(human),
        program_ids=frozenset(program),
        widths_mm={} if label is None else _widths(label, case, human | program),
        digest=_digest(case, label),
    )


def _widths(label: CaseLabel, case: Case, ids: set[int]) -> dict[int, float]:
    """Diameter of a disk as large as the structure's mean cut, in any plane that has cuts."""
    areas = np.prod(case.grid.spacing_mm_zyx) / np.asarray(case.grid.spacing_mm_zyx)
    found = {}
    for structure in ids:
        cuts = _cuts(label.array == structure)
        widest = [cut.mean() * area for cut, area in zip(cuts, areas, strict=True) if cut.size]
        found[structure] = 2 * math.sqrt(max(widest) / math.pi)
    return found


def _cuts(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Per axis, the voxel counts of the slices that are not empty."""
    counts = [np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return [np.asarray(count)[np.asarray(count) > 0] for count in counts]


def _digest(case: Case, label: CaseLabel | None) -> str:
    content = hashlib.sha256(f"{case.image.sha256} {case.modality}".encode())
    for companion in case.companions:
        content.update(f"{companion.name} {companion.image.sha256}".encode())
    if case.sequence is not None:
        content.update(case.sequence.encode())
    if label is not None:
        for array in (label.array, label.origin, label.confidence):
            content.update(np.ascontiguousarray(array).tobytes())
        content.update(json.dumps(label.ledger.to_json(), sort_keys=True).encode())
        content.update(repr(sorted(label.propagated_ids)).encode())
    return content.hexdigest()


def _product(counts: tuple[int, int, int], sizes: Triple) -> Triple:
    z, y, x = (float(n * size) for n, size in zip(counts, sizes, strict=True))
    return z, y, x
