"""The annotated cases of a study as atlases: loaded when needed, chosen for a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from semiseg.atlases.borders import border_contrast
from semiseg.atlases.descriptor import ALGORITHM, Vector, describe, kept_descriptor, likeness
from semiseg.atlases.filling import CaseFill, done_ids, fill_case, human_voxels
from semiseg.atlases.records import content_key, human_key
from semiseg.atlases.transfer import Atlas
from semiseg.config import Modality, PropagationConfig, to_json
from semiseg.errors import NotEnoughLabelsError
from semiseg.images.resampling import resample_label
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
_EXTENT = 0.5  # of likeness, for each factor e by which a side of the images differs
_SAME_MODALITY = 0.3  # worth this much certainty of the start


class Library:
    """Fills, atlases and prepared images of `study`, each made once and kept while in use."""

    def __init__(self, study: Study, config: PropagationConfig) -> None:
        self._study, self._config = study, config
        self.fill: Callable[[str], CaseFill] = lru_cache(_IN_MEMORY)(self._fill)
        self.prepared: Callable[[str], Prepared] = lru_cache(4 * _IN_MEMORY)(self._prepared)
        self.descriptor: Callable[[str], Vector] = cache(self._descriptor)
        self.borders: Callable[[str], dict[int, float]] = cache(self._borders)
        self.lent_ids: Callable[[str], tuple[int, ...]] = cache(self._lent_ids)
        self.annotated: Callable[[], tuple[str, ...]] = cache(self._annotated)
        self._hands_on: Callable[[Modality], tuple[str, ...]] = cache(self._handing_on)
        self._chosen: dict[tuple[str, tuple[str, ...], tuple[int, ...]], tuple[str, ...]] = {}
        self._keys: dict[str, str] = {}

    def ids(self, label: CaseLabel | None) -> tuple[int, ...]:
        """The structures that a human finished on some slice of `label`."""
        return () if label is None else done_ids(label.ledger, self._study.protocol.ids)

    def lenders(self, target: Case) -> tuple[str, ...]:
        """The cases that may lend labels to `target`: annotated ones of the training split.

        Others would carry what is kept for validation and testing into what is learned from.
        """
        cases = self._study.cases
        return tuple(i for i in self.annotated() if cases[i].split == "train" and i != target.id)

    def may_hand_on(self, target: Case) -> bool:
        """Whether there are other cases that may hand labels on to `target`."""
        return any(i != target.id for i in self._hands_on(target.modality))

    def intermediates(self, target: Case) -> tuple[str, ...]:
        """The cases that may hand labels on to `target`: of its modality and the training split.

        Annotated ones lend labels themselves.
        """
        return tuple(i for i in self._hands_on(target.modality) if i != target.id)

    def key(self, case_id: str) -> str:
        """Changes with the image, what humans drew on it, or how it would be filled."""
        if case_id not in self._keys:
            case, label = self._study.cases[case_id], self._study.label(case_id)
            self._keys[case_id] = content_key(
                human_key(case, label), self._study.protocol.ids, to_json(self._config.slices)
            )
        return self._keys[case_id]

    def atlas(self, case_id: str) -> Atlas:
        """The case with its labels filled.

        Structures of which its done slices show nothing are not among them: where they lie in
        others it cannot tell, and it would vote for background there.
        """
        fill, lent = self.fill(case_id), self.lent_ids(case_id)
        return Atlas(
            case_id=case_id,
            grid=self._study.cases[case_id].grid,
            array=np.where(np.isin(fill.array, lent), fill.array, 0).astype(np.uint16),
            confidence=fill.confidence,
            ids=tuple(i for i in fill.ids if i in lent),
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

    def choose(
        self, target: Case, lenders: Sequence[str], asked: tuple[int, ...] = ()
    ) -> tuple[str, ...]:
        """The atlases for `target`: those whose place in it is found most surely.

        The same modality is preferred. Each structure `asked` is in one of them, and they are as
        many as the settings say, or more where that takes more. Only the few most alike by
        descriptor are looked at, so that the cost per target does not grow with the study.
        """
        wanted, key = self._config.atlases, (target.id, tuple(lenders), asked)
        if len(lenders) <= wanted:
            return tuple(lenders)
        if key not in self._chosen:
            lent = {i: set(self.lent_ids(i)) & set(asked) for i in lenders}
            self._chosen[key] = covering(self._surest(target, lenders, lent), wanted, lent)
        return self._chosen[key]

    def _surest(
        self, target: Case, lenders: Sequence[str], lent: Mapping[str, set[int]]
    ) -> tuple[str, ...]:
        near = list(self.nearest(target, lenders, _SHORTLIST * self._config.atlases))
        seen = {i for lender in near for i in lent[lender]}
        for structure in sorted({i for ids in lent.values() for i in ids} - seen):
            near += self.nearest(target, [i for i in lenders if structure in lent[i]], 1)
        fixed = self.prepared(target.id).features

        def promise(case_id: str) -> float:
            same = self._study.cases[case_id].modality == target.modality
            certainty = find_start(fixed, self.prepared(case_id).features).certainty
            return certainty + (_SAME_MODALITY if same else 0.0)

        return tuple(sorted(dict.fromkeys(near), key=promise, reverse=True))

    def nearest(self, target: Case, others: Sequence[str], count: int) -> tuple[str, ...]:
        """The `count` most like `target` by descriptor and extent; its own modality comes first."""
        if len(others) <= count:
            return tuple(others)
        cases = self._study.cases
        alike = likeness(self.descriptor(target.id), [self.descriptor(i) for i in others])
        order = sorted(
            range(len(others)),
            key=lambda k: (
                cases[others[k]].modality != target.modality,
                _EXTENT * _unlike(cases[others[k]], target) - float(alike[k]),
            ),
        )
        return tuple(others[k] for k in order[:count])

    def _handing_on(self, modality: Modality) -> tuple[str, ...]:
        lend = set(self.annotated())
        return tuple(
            case.id
            for case in self._study.cases.values()
            if case.split == "train" and case.modality == modality and case.id not in lend
        )

    def _annotated(self) -> tuple[str, ...]:
        """The cases with done slices."""
        study = self._study
        return tuple(i for i in study.cases if done_ids(study.ledger(i), study.protocol.ids))

    def _lent_ids(self, case_id: str) -> tuple[int, ...]:
        """The structures that the case can lend: those that a human drew in it."""
        label = self._study.label(case_id)
        drawn = () if label is None else np.unique(label.array[human_voxels(label)])
        return tuple(i for i in self.ids(label) if i in drawn)

    def _borders(self, case_id: str) -> dict[int, float]:
        """How its structures stand out in the case itself."""
        atlas, image = self.atlas(case_id), self.prepared(case_id)
        return border_contrast(
            image, resample_label(atlas.array, atlas.grid, image.grid), atlas.ids
        )

    def _descriptor(self, case_id: str) -> Vector:
        """Kept in the study's cache, by content."""
        case, spacing_mm = self._study.cases[case_id], self._config.registration.spacing_mm
        key = content_key("descriptor", ALGORITHM, case.image.sha256, case.modality, spacing_mm)
        path = self._study.cache_dir / "descriptors" / f"{key}.npy"
        return kept_descriptor(path, lambda: describe(self.prepared(case_id)))

    def _fill(self, case_id: str) -> CaseFill:
        label = self._study.label(case_id)
        if label is None:
            raise NotEnoughLabelsError(f"{case_id} has no label; draw and finish a few slices")
        return fill_case(self._study.image(case_id), label, self.ids(label), self._config.slices)

    def _prepared(self, case_id: str) -> Prepared:
        case = self._study.cases[case_id]
        return prepare(self._study.image(case_id), case.modality, self._config.registration)


def covering(order: Sequence[str], wanted: int, lent: Mapping[str, set[int]]) -> tuple[str, ...]:
    """The first `wanted` of `order`, and others for structures that none of these have.

    Such a one replaces the last that is not needed for any; where all are, it is one more.
    """
    chosen = list(order[:wanted])
    for structure in sorted({i for lender in order for i in lent[lender]}):
        if any(structure in lent[i] for i in chosen):
            continue
        chosen.append(next(i for i in order if structure in lent[i]))
        if len(chosen) > wanted and (spare := _spare(chosen, lent)) is not None:
            chosen.remove(spare)
    return tuple(i for i in order if i in chosen)


def _spare(chosen: Sequence[str], lent: Mapping[str, set[int]]) -> str | None:
    """The last one but for the newest of whose structures another has each."""
    for one in reversed(chosen[:-1]):
        if lent[one] <= {i for other in chosen if other != one for i in lent[other]}:
            return one
    return None


def _unlike(one: Case, other: Case) -> float:
    """How far the extents of two images differ, as logarithms."""
    sizes = [np.multiply(case.grid.size_xyz, case.grid.spacing_mm_xyz) for case in (one, other)]
    return float(np.abs(np.log(sizes[0] / sizes[1])).sum())


def body_girth_mm2(image: Prepared) -> float:
    """Mean area of the body's cross-sections; says how large a body is, however much of it."""
    areas = image.mask.sum(axis=(1, 2))
    seen = areas[areas > 0]
    return float(seen.mean()) * image.spacing_mm**2 if seen.size else 1.0
