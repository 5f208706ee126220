"""What propagated labels say of a case, to be heard beside a network that segments it.

Early in a study a registered atlas knows more than a network that saw one drawn scan, later the
network does. Both opinions are pooled (`own_grid.pooled`); this module says what the labels say,
which of them are trusted, and how much their word counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.errors import SchemaError
from semiseg.events import Json
from semiseg.images.grid import Grid, Triple, canonical
from semiseg.images.resampling import spaced_grid, zoom_nearest
from semiseg.study.case import Case, CaseLabel, Origin
from semiseg.study.merge import by_human, present_ids
from semiseg.study.study import Study

# Chosen on development scans (see the benchmarks): how far borders are blurred, and how often
# labels may be wrong far from any border.
SIGMA_MM = 3.0
DOUBT = 0.01
_REACH = 3.0  # standard deviations
_UNKNOWN, _NONE_OF_THEM, _FIRST = 0, 1, 2


def weight_of(network: float | None, labels: float) -> float:
    """w = (1 - d) / ((1 - d) + (1 - g)), at most a half: whoever errs more is heard less.

    d, `network`, is the Dice that the network reached on cases it had not learned from, g,
    `labels`, the trust gate's score. A half, too, where no such d is known: then too few patients
    were drawn in to leave one out, which is when registration helps most.
    """
    if network is None or network + labels >= 2:
        return 0.5
    return min(0.5, (1 - network) / (2 - network - labels))


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Propagated labels that count: `array` (z, y, x) of ids where `said`, on the image's grid.

    `ids` are the structures that the labels may speak of; `array` may hold others. `score` is the
    trust gate's.
    """

    array: NDArray[np.uint16]
    said: NDArray[np.bool_]
    ids: tuple[int, ...]
    score: float


def trusted_labels(study: Study, case: Case) -> Trusted | None:
    """What propagation wrote into the newest label of `case`; None where that does not count.

    No voxel that a human drew or corrected is taken. Nothing counts that the trust gate refused
    when it judged last: the case, or a structure that other cases were asked for. In a case kept
    for validation or testing labels count only where no human ever drew in it, so that they are
    other cases' alone; its own slices must not make what is compared with them look better.
    """
    if case.gate is not None and case.gate.verdict == "reject":
        return None
    label = study.label(case.id)
    told = None if label is None else _propagation(study, label)
    if label is None or told is None:
        return None
    if case.split != "train" and not (told.get("atlases") and _untouched(study, label)):
        return None
    said = np.asarray(label.origin == Origin.PROPAGATED)
    accepted = _ids(told.get("structures"), label.propagated_ids)
    seen = present_ids(np.where(said, label.array, np.uint16(0)))
    # A structure that was not met anywhere was missed rather than shown to be absent.
    ids = tuple(i for i in label.propagated_ids if i in accepted and i in seen)
    score = _score(told)
    return Trusted(array=label.array, said=said, ids=ids, score=score) if ids else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """`codes` (z, y, x) on a training grid: 0 nothing is said, 1 none of `ids`, k + 2: ids[k].

    `words` are for the user. With the weight w the labels' word counts as w, the network's as
    1 - w.
    """

    codes: NDArray[np.uint16]
    ids: tuple[int, ...]
    weight: float
    spacing_mm_zyx: Triple
    words: str

    def to_json(self) -> dict[str, Json]:
        """What the record of a prediction says of it."""
        return {"weight": self.weight, "structures": list(self.ids), "sigma_mm": SIGMA_MM}

    def opinion(self, first: int, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(K + 1, n, y, x) probabilities of `n` slices from `first` on, and their weight (n, y, x).

        Row 0 is "none of them". h, the share of a kind of voxels under a Gaussian of `SIGMA_MM`,
        and k, their sum, give q = (h + DOUBT) / (k + DOUBT (K + 1)) and the weight w k: nothing is
        said where nothing is known. Beyond the edge the edge repeats.
        """
        shares = np.stack([self._share(kind, first, n) for kind in range(1, len(self.ids) + 2)])
        known = shares.sum(axis=0).clip(0, 1)
        doubt = np.float32(DOUBT)
        total = shares.sum(axis=0) + doubt * len(shares)
        return (shares + doubt) / total, np.float32(self.weight) * known

    def _share(self, kind: int, first: int, n: int) -> NDArray[np.float32]:
        """Only the slices that are asked for are blurred within themselves, which is cheaper."""
        weights, reach = _gaussian(self.spacing_mm_zyx[0])
        last = self.codes.shape[0] - 1
        total = np.zeros((n, *self.codes.shape[1:]), np.float32)
        for step in range(-reach, reach + 1):
            rows = np.clip(np.arange(first + step, first + step + n), 0, last)
            total += weights[step + reach] * (self.codes[rows] == kind)
        for axis in (1, 2):
            along, _ = _gaussian(self.spacing_mm_zyx[axis])
            total = ndimage.correlate1d(total, along, axis=axis, mode="nearest")
        return total


def prior_of(
    study: Study,
    case: Case,
    *,
    classes: Iterable[int],
    spacing_mm_zyx: Triple,
    dice: float | None,
) -> Prior | None:
    """What propagated labels of `case` say of `classes`, on the grid of a network's spacing.

    `dice` is what the network reached on cases of this modality that it had not learned from, as
    far as that is known. None where nothing counts (see `trusted_labels`).
    """
    trusted = trusted_labels(study, case)
    if trusted is None:
        return None
    wanted = set(classes)
    ids = tuple(i for i in trusted.ids if i in wanted)
    if not ids:
        return None
    weight = weight_of(dice, trusted.score)
    names = ", ".join(study.protocol.by_id(i).name for i in ids)
    codes, grid = _on_training_grid(_codes(trusted, ids), case.grid, spacing_mm_zyx)
    return Prior(
        codes=codes,
        ids=ids,
        weight=weight,
        spacing_mm_zyx=grid.spacing_mm_zyx,
        words=f"Propagated labels of {names} had a say of {weight:.0%} beside the network; the "
        "network's own validation score is without them.",
    )


def _propagation(study: Study, label: CaseLabel) -> Mapping[str, Json] | None:
    """What is told of the propagation whose labels `label` holds; None where that is not known."""
    told: Mapping[str, Json] = label.info
    while told.get("kind") != "propagated":
        before = told.get("to" if told.get("kind") == "rolled_back" else "follows")
        if not isinstance(before, int) or before < 1:
            return None
        try:
            told = study.label_info(label.case_id, before).info
        except SchemaError:  # pruned, or damaged
            return None
    return told


def _untouched(study: Study, label: CaseLabel) -> bool:
    """Whether no human has ever said anything about the case, as far as its versions tell."""
    if label.ledger.any_done or by_human(label.origin).any():
        return False
    versions = study.label_versions(label.case_id)
    return all(_kind(study, label.case_id, version) == "propagated" for version in versions)


def _kind(study: Study, case_id: str, version: int) -> Json:
    try:
        return study.label_info(case_id, version).info.get("kind")
    except SchemaError:  # damaged: it may have been a drawing
        return None


def _ids(told: Json, otherwise: tuple[int, ...]) -> set[int]:
    """Labels of earlier versions do not tell which structures they were propagated for."""
    return {i for i in told if isinstance(i, int)} if isinstance(told, list) else set(otherwise)


def _score(told: Mapping[str, Json]) -> float:
    """The gate's; 0 where it is not told, so that a network that is known to be good is heard."""
    gate = told.get("gate")
    score = gate.get("score") if isinstance(gate, dict) else None
    return float(score) if isinstance(score, int | float) else 0.0


def _codes(trusted: Trusted, ids: tuple[int, ...]) -> NDArray[np.uint16]:
    table = np.full(65536, _NONE_OF_THEM, np.uint16)
    table[list(ids)] = np.arange(_FIRST, _FIRST + len(ids))
    codes = table[trusted.array]
    codes[~trusted.said] = _UNKNOWN
    return codes


def _on_training_grid(
    codes: NDArray[np.uint16], grid: Grid, spacing_mm_zyx: Triple
) -> tuple[NDArray[np.uint16], Grid]:
    turn = canonical(grid)
    z, y, x = spacing_mm_zyx
    target = spaced_grid(turn.grid, (x, y, z))
    return zoom_nearest(turn.apply(codes), target.shape_zyx), target


def _gaussian(spacing_mm: float) -> tuple[NDArray[np.float32], int]:
    """Weights of neighboring voxels, which add up to 1, and how many there are on each side."""
    reach = int(_REACH * SIGMA_MM / spacing_mm + 0.5)
    steps = np.arange(-reach, reach + 1) * (spacing_mm / SIGMA_MM)
    weights = np.exp(-0.5 * steps**2)
    return (weights / weights.sum()).astype(np.float32), reach
