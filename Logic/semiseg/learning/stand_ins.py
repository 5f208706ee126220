"""Scans of other patients in place of a modality that a case lacks, brought onto its grid.

For methods that look at several volumes of a case, in studies whose CT and MR are of different
patients. One registration per training case, kept in the cache of all registrations.
"""

from __future__ import annotations

from semiseg.config import MODALITIES, Modality
from semiseg.data.cases import CompanionVolume, TrainingCase
from semiseg.data.training_grid import to_training_grid
from semiseg.learning.places import Correspondence
from semiseg.learning.survey import CaseFacts, Survey
from semiseg.registration.warp import warp_image
from semiseg.study.study import Study

TRUST = 0.25
"""What a stand-in's own loss counts: the case's label fits it only as well as it is registered."""


def stand_ins(
    study: Study, found: Survey, correspondence: Correspondence, case: TrainingCase
) -> tuple[CompanionVolume, ...]:
    """A volume for each modality of the training cases that `case` has no volume of.

    Of the same patient, or else the one whose scan shows most structures; none where it cannot be
    registered, or not in time.
    """
    have = {case.stream, case.modality, *(companion.stream for companion in case.companions)}
    found_for = [
        _warped(study, correspondence, case, lender, modality)
        for modality in MODALITIES
        if modality not in have and (lender := _lender(study, found, case, modality)) is not None
    ]
    return tuple(volume for volume in found_for if volume is not None)


def _lender(study: Study, found: Survey, case: TrainingCase, modality: Modality) -> str | None:
    there = [facts for facts in found.train if study.cases[facts.id].stream == modality]

    def promise(facts: CaseFacts) -> tuple[bool, int]:
        return facts.patient == case.patient, len(facts.human_ids)

    return max(there, key=promise).id if there else None


def _warped(
    study: Study,
    correspondence: Correspondence,
    case: TrainingCase,
    lender: str,
    modality: Modality,
) -> CompanionVolume | None:
    result = correspondence.registered(case.id, onto=lender)
    if result is None:
        return None
    grid = case.image.grid
    ready = to_training_grid(study.image(lender), modality, grid.spacing_mm_zyx)
    array = warp_image(ready.array, ready.grid, result.field, grid, fill=ready.fill)
    return CompanionVolume(stream=modality, array=array, trust=TRUST)
