"""The trust gate: may a propagated label be learned from, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from semiseg.atlases.filling import CaseFill
from semiseg.atlases.transfer import Evidence
from semiseg.config import PropagationConfig
from semiseg.study.case import GateRecord, Verdict

_UNCHECKED_FILL = 0.7  # the score of a filled case with too few done slices for a self-check
_VOICES = 0.3
_WAYS_MM = 50.0
_GIRTH_POWER = 0.5  # organs grow less than bodies do, and fields of view cut bodies
_VOTE_GAIN = 0.15  # by so much a vote is better than two of its atlases agree
# Similarity of features where labels land: of pairs that failed, and of the best ones.
_UNLIKE, _ALIKE = 0.89, 0.95
BORDERS = 0.4
_BLURRED = 0.2
_RINGS = 0.1  # more gained nothing
_RING_MM = 40.0
_LOW = 0.6  # below, a factor is told as a reason


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One finding: `value` in [0, 1] (1: nothing to object to), its weight, and how to say it."""

    value: float
    weight: float
    words: str


def judge_fill(fill: CaseFill, names: Mapping[int, str], config: PropagationConfig) -> GateRecord:
    """A case filled between its own slices; the self-check is of slices twice as far apart.

    Never rejected: the drawn slices are a human's.
    """
    checks = fill.self_check
    if not checks:
        text = "too few drawn slices to check the filling between them; draw a third one"
        return GateRecord(verdict="accept", score=_UNCHECKED_FILL, reasons=(text,))
    score = (1 + float(np.mean(list(checks.values())))) / 2
    worst = min(checks, key=lambda structure_id: checks[structure_id])
    reasons = [
        f"a drawn slice, left out and filled in from the others, is met with a Dice of "
        f"{np.mean(list(checks.values())):.2f} on average"
    ]
    if checks[worst] < _LOW:
        reasons.append(
            f"{names[worst]} changes much between its drawn slices (Dice {checks[worst]:.2f}); "
            "more drawn slices there help most"
        )
    verdict: Verdict = "accept" if score >= config.accept_above else "down_weight"
    return GateRecord(verdict=verdict, score=round(score, 3), reasons=tuple(reasons))


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known of labels from atlases, per structure but for `evidence`, one per atlas.

    `ratios` are volumes found by those expected for this body size, `borders` the same of the
    contrast at borders; `agreement` is the Dice among atlases; `misses_mm` those of rings of
    registrations, where there are any.
    """

    evidence: Sequence[Evidence]
    agreement: Mapping[int, float]
    ratios: Mapping[int, float]
    borders: Mapping[int, float] = field(default_factory=dict)
    misses_mm: Mapping[int, float] = field(default_factory=dict)


def judge_transfer(
    found: Findings, names: Mapping[int, str], config: PropagationConfig
) -> GateRecord:
    """Labels from atlases; `names` are the structures'."""
    factors = factors_of(found, names)
    score = score_of(factors)
    return GateRecord(
        verdict=_verdict(score, config),
        score=round(score, 3),
        reasons=tuple(factor.words for factor in factors if factor.value < _LOW)
        or ("images, volumes and atlases fit together",),
    )


def factors_of(found: Findings, names: Mapping[int, str]) -> list[Factor]:
    """All that speaks for or against."""
    return [
        _folding(found.evidence),
        _there_and_back(found.evidence),
        _ways(found.evidence),
        _image(found.evidence),
        _start(found.evidence),
        *_volumes(found.ratios, names),
        *_borders(found.borders, names),
        *_voices(found.agreement, names),
        *_rings(found.misses_mm, names),
    ]


def score_of(factors: Sequence[Factor]) -> float:
    """Their weighted geometric mean."""
    total = sum(factor.weight for factor in factors)
    return math.exp(sum(f.weight * math.log(max(f.value, 1e-3)) for f in factors) / total)


def volume_ratios(
    array: NDArray[np.integer],
    voxel_ml: float,
    evidence: Sequence[Evidence],
    girth_ratios: Sequence[float],
) -> dict[int, float]:
    """Volume found in `array` by volume expected: the atlases', scaled to this body's girth.

    `girth_ratios` are this body's girth by that of each atlas.
    """
    expected: dict[int, list[float]] = {}
    for one, ratio in zip(evidence, girth_ratios, strict=True):
        for structure_id, volume_ml in one.atlas_volumes_ml.items():
            if volume_ml > 0:
                expected.setdefault(structure_id, []).append(ratio**_GIRTH_POWER * volume_ml)
    counts = np.bincount(array.ravel(), minlength=max(expected, default=0) + 1)
    return {
        i: float(counts[i]) * voxel_ml / float(np.median(volumes_ml))
        for i, volumes_ml in expected.items()
    }


def _verdict(score: float, config: PropagationConfig) -> Verdict:
    if score < config.reject_below:
        return "reject"
    return "accept" if score >= config.accept_above else "down_weight"


def _folding(evidence: Sequence[Evidence]) -> Factor:
    folded = float(np.mean([e.folded for e in evidence]))
    words = f"the alignment tears or folds tissue in {folded:.1%} of the body"
    return Factor(value=math.exp(-folded / 0.1), weight=0.1, words=words)


def _there_and_back(evidence: Sequence[Evidence]) -> Factor:
    errors = [e.inverse_error_mm for e in evidence if e.inverse_error_mm is not None]
    if not errors:
        words = "the structures of the atlas fall outside of this image"
        return Factor(value=0.0, weight=0.3, words=words)
    error = float(np.median(errors))
    words = f"aligning there and back misses the structures by {error:.0f} mm"
    return Factor(value=math.exp(-error / 12), weight=0.1, words=words)


def _ways(evidence: Sequence[Evidence]) -> Factor:
    """Of pairs of CT and MR, 17 with a Dice above 0.7 had 11 to 44 mm, 12 below it 18 to 47."""
    apart = float(np.mean([e.ways_apart_mm for e in evidence]))
    words = f"searching from either side ends {apart:.0f} mm apart"
    return Factor(value=math.exp(-apart / _WAYS_MM), weight=0.3, words=words)


def _image(evidence: Sequence[Evidence]) -> Factor:
    similarity = float(np.mean([e.similarity for e in evidence]))
    value = min(max((similarity - _UNLIKE) / (_ALIKE - _UNLIKE), 0.0), 1.0)
    return Factor(
        value=value, weight=0.3, words="around the structures the images look little alike"
    )


def _start(evidence: Sequence[Evidence]) -> Factor:
    certainty = float(np.mean([e.start_certainty for e in evidence]))
    words = "it is unsure which part of the body this image shows"
    return Factor(value=(1 + certainty) / 2, weight=0.1, words=words)


def _volumes(ratios: Mapping[int, float], names: Mapping[int, str]) -> list[Factor]:
    found = []
    for structure_id, ratio in ratios.items():
        value = math.exp(-abs(math.log(max(ratio, 1e-3))))
        words = f"{names[structure_id]} is {ratio:.1f} times as large as expected for this body"
        found.append(Factor(value=value, weight=0.2 / len(ratios), words=words))
    return found


def _borders(ratios: Mapping[int, float], names: Mapping[int, str]) -> list[Factor]:
    return [
        Factor(
            value=min(max(ratio, _BLURRED), 1.0),
            weight=BORDERS / len(ratios),
            words=f"{names[structure_id]} stands out from its surroundings less than in the atlas",
        )
        for structure_id, ratio in ratios.items()
    ]


def _voices(agreement: Mapping[int, float], names: Mapping[int, str]) -> list[Factor]:
    return [
        Factor(
            value=min(1.0, dice + _VOTE_GAIN),
            weight=_VOICES / len(agreement),
            words=f"the atlases disagree on {names[structure_id]} (Dice {dice:.2f} among them)",
        )
        for structure_id, dice in agreement.items()
    ]


def _rings(misses_mm: Mapping[int, float], names: Mapping[int, str]) -> list[Factor]:
    return [
        Factor(
            value=math.exp(-miss / _RING_MM),
            weight=_RINGS / len(misses_mm),
            words=f"going round over another case misses {names[structure_id]} by {miss:.0f} mm",
        )
        for structure_id, miss in misses_mm.items()
    ]
