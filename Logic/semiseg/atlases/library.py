"""The annotated cases of a study as atlases: loaded when needed, chosen for a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from semiseg.atlases.filling import CaseFill, done_ids, fill_case
from semiseg.atlases.records import content_key, human_key
from semiseg.atlases.transfer import Atlas
from semiseg.config import PropagationConfig, to_json
from semiseg.errors import NotEnoughLabelsError
from semiseg.registration.cache import Source
from semiseg.registration.landmarks import landmark_map
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import prepare
from semiseg.registration.sampling import FeatureMap
from semiseg.registration.start import find_start
from semiseg.study.case import Case, CaseLabel
from semiseg.study.study import Study

_IN_MEMORY = 8
_SHORTLIST = 3  # times as many atlases as are wanted are looked at closely
_SAME_MODALITY = 0.3  # worth this much certainty of the start


class Library:
    """Fills, atlases and prepared images of `study`, each made once and kept while in use."""

    def __init__(self, study: Study, config: PropagationConfig) -> None:
        self._study, self._config = study, config
        self.fill: Callable[[str], CaseFill] = lru_cache(_IN_MEMORY)(self._fill)
        self.prepared: Callable[[str], Prepared] = lru_cache(4 * _IN_MEMORY)(self._prepared)
        self._keys: dict[str, str] = {}

    def ids(self, label: CaseLabel | None) -> tuple[int, ...]:
        """The structures that a human finished on some slice of `label`."""
        return () if label is None else done_ids(label.ledger, self._study.protocol.ids)

    def annotated(self) -> tuple[str, ...]:
        """The cases with done slices."""
        study = self._study
        return tuple(i for i in study.cases if done_ids(study.ledger(i), study.protocol.ids))

    def lenders(self, target: Case) -> tuple[str, ...]:
        """The cases that may lend labels to `target`: annotated ones of the training split.

        Others would carry what is kept for validation and testing into what is learned from.
        """
        cases = self._study.cases
        return tuple(i for i in self.annotated() if cases[i].split == "train" and i != target.id)

    def lent_ids(self, case_id: str) -> tuple[int, ...]:
        """The structures that the case can lend."""
        return done_ids(self._study.ledger(case_id), self._study.protocol.ids)

    def key(self, case_id: str) -> str:
        """Changes with the image, what humans drew on it, or how it would be filled."""
        if case_id not in self._keys:
            case, label = self._study.cases[case_id], self._study.label(case_id)
            self._keys[case_id] = content_key(
                human_key(case, label), self._study.protocol.ids, to_json(self._config.slices)
            )
        return self._keys[case_id]

    def atlas(self, case_id: str) -> Atlas:
        """The case with its labels filled."""
        fill = self.fill(case_id)
        return Atlas(
            case_id=case_id,
            grid=self._study.cases[case_id].grid,
            array=np.where(np.isin(fill.array, fill.ids), fill.array, 0).astype(np.uint16),
            confidence=fill.confidence,
            ids=fill.ids,
        )

    def source(self, case_id: str) -> Source:
        """The case's image for registration."""
        case = self._study.cases[case_id]
        return Source(
            sha256=case.image.sha256,
            modality=case.modality,
            load=lambda: self.prepared(case_id),
        )

    def known(self, case_id: str, ids: tuple[int, ...]) -> Source:
        """The case's image for registration, with what its own done slices say of `ids`."""
        source = self.source(case_id)
        if not ids:
            return source

        def known() -> FeatureMap:
            fill, grid = self.fill(case_id), self._study.cases[case_id].grid
            return landmark_map(self.prepared(case_id), fill.array, fill.confidence, grid, ids)

        return replace(source, known_key=content_key(self.key(case_id), ids), known=known)

    def choose(self, target: Case, lenders: Sequence[str]) -> tuple[str, ...]:
        """The atlases for `target`: those whose place in it is found most surely.

        The same modality is preferred. Only the few most similar in modality and extent are looked
        at, so that the cost per target does not grow with the study.
        """
        wanted = self._config.atlases
        if len(lenders) <= wanted:
            return tuple(lenders)
        cases = self._study.cases
        near = sorted(
            lenders, key=lambda i: (cases[i].modality != target.modality, _unlike(cases[i], target))
        )
        fixed = self.prepared(target.id).features

        def promise(case_id: str) -> float:
            bonus = _SAME_MODALITY if cases[case_id].modality == target.modality else 0.0
            return find_start(fixed, self.prepared(case_id).features).certainty + bonus

        ranked = sorted(near[: _SHORTLIST * wanted], key=promise, reverse=True)
        return tuple(ranked[:wanted])

    def _fill(self, case_id: str) -> CaseFill:
        label = self._study.label(case_id)
        if label is None:
            raise NotEnoughLabelsError(f"{case_id} has no label; draw and finish a few slices")
        return fill_case(self._study.image(case_id), label, self.ids(label), self._config.slices)

    def _prepared(self, case_id: str) -> Prepared:
        case = self._study.cases[case_id]
        return prepare(self._study.image(case_id), case.modality, self._config.registration)


def _unlike(one: Case, other: Case) -> float:
    """How far the extents of two images differ, as logarithms."""
    sizes = [np.multiply(case.grid.size_xyz, case.grid.spacing_mm_xyz) for case in (one, other)]
    return float(np.abs(np.log(sizes[0] / sizes[1])).sum())


def body_girth_mm2(image: Prepared) -> float:
    """Mean area of the body's cross-sections; says how large a body is, however much of it."""
    areas = image.mask.sum(axis=(1, 2))
    seen = areas[areas > 0]
    return float(seen.mean()) * image.spacing_mm**2 if seen.size else 1.0
