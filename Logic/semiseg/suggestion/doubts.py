"""Where programs are probably wrong in a case, by plane, slice and structure."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SchemaError, StorageError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane
from semiseg.study.case import Case, CaseLabel, Origin, Prediction
from semiseg.study.ledger import Ledger
from semiseg.study.merge import by_human
from semiseg.study.study import Study
from semiseg.suggestion.geometry import Floats, Turned, axis_of, distance_mm, near
from semiseg.suggestion.kept import Arrays, kept

_FORMAT = 4
_STAIRS = np.pi / 4  # a straight line at a random angle is so much shorter than its stairs
_LEAST = 0.02
_MISSED = 0.25
_GOES_ON_MM = 40.0  # so much further an unfinished structure goes on average
_BEFORE = 0.25  # a model that saw fewer slices counts half of what the propagation does
_FIGURES = (
    "wrong_ml",
    "differ_mm2",
    "before_mm2",
    "beyond_mm2",
    "area_mm2",
    "contour_mm",
    "unsure",
)


@dataclass(frozen=True, kw_only=True)
class PlaneDoubts:
    """Figures per structure and slice (S, n); slices are counted along the patient.

    `wrong_ml` is the volume that is expected to be wrong, less what done slices of other planes
    make sure; `differ_mm2` the area where model and propagation say different things,
    `before_mm2` where the model and the one before it do; `area_mm2` what is said to be there,
    `beyond_mm2` what is not, but is to be expected where the outermost done slice still shows the
    structure; `contour_mm` what a drawing of the slice is expected to have; `unsure` the mean
    uncertainty over the structure's voxels.
    """

    wrong_ml: Floats
    differ_mm2: Floats
    before_mm2: Floats
    beyond_mm2: Floats
    area_mm2: Floats
    contour_mm: Floats
    unsure: Floats


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """Of one case; `by_model` and `by_propagation` say which programs spoke of it."""

    planes: dict[Plane, PlaneDoubts]
    by_model: bool
    by_propagation: bool

    @property
    def known(self) -> bool:
        """Whether any program spoke."""
        return self.by_model or self.by_propagation


def doubts_of(study: Study, case: Case, *, reach_mm: float) -> Doubts:
    """The doubts about a case's newest label and prediction, from the cache if nothing changed."""
    labels, predictions = study.label_versions(case.id), study.prediction_versions(case.id)
    ids = study.protocol.ids
    teacher = _before(study, case)
    newest = labels[-1:], predictions[-1:], teacher
    key = f"{_FORMAT}-{case.image.sha256}-{newest}-{ids}-{reach_mm}"
    found = kept(
        _path(study, case),
        key,
        lambda: _arrays(case, _read(study, case, teacher), ids, reach_mm),
    )
    planes = {
        plane: PlaneDoubts(
            **{name: found[f"{plane}_{name}"].astype(np.float32) for name in _FIGURES}
        )
        for plane in PLANES
    }
    spoke = found["spoke"]
    return Doubts(planes=planes, by_model=bool(spoke[0]), by_propagation=bool(spoke[1]))


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What was said of a case: the label, the model's and the earlier model's segmentation."""

    label: CaseLabel | None
    prediction: Prediction | None
    before: Prediction | None


def _before(study: Study, case: Case) -> int | None:
    """The newest segmentation by another model than the newest one's.

    An earlier round's model is a second opinion that costs nothing: teachers and partners of a
    training are not kept with its model.
    """
    newest: Json = None
    for number in reversed(study.prediction_versions(case.id)):
        with contextlib.suppress(SchemaError, StorageError):  # told among the study's problems
            model = study.prediction_info(case.id, number).info.get("model_id")
            if newest is not None and model != newest:
                return number
            newest = model
    return None


def _read(study: Study, case: Case, before: int | None) -> _Said:
    earlier = None
    if before is not None:
        with contextlib.suppress(SchemaError, StorageError):
            earlier = study.prediction(case.id, before)
    label, prediction = study.label(case.id), study.prediction(case.id)
    return _Said(label=label, prediction=prediction, before=earlier)


def _path(study: Study, case: Case) -> Path:
    return study.cache_dir / "suggestion" / case.id / "doubts.npz"


def _arrays(case: Case, said: _Said, ids: Sequence[int], reach_mm: float) -> Arrays:
    turned = Turned(case.grid)
    seen = _seen(said, case, ids)
    ledger = Ledger() if said.label is None else said.label.ledger
    views = _Views(
        expected=turned.view(seen.expected),
        other=turned.view(seen.other),
        before=turned.view(seen.before),
        chance=turned.view(seen.chance),
        turned=turned,
        n_ids=len(ids),
        reach_mm=reach_mm,
    )
    found: dict[str, NDArray[np.generic]] = {
        "spoke": np.array([seen.by_model, seen.by_propagation])
    }
    contours = views.contours_mm()
    for plane in PLANES:
        sure = _sure_elsewhere(turned, ledger, ids, plane, reach_mm)
        figures = views.plane(plane, contours[plane], sure)
        done = [turned.done(ledger, plane, i) for i in ids]
        figures |= _going_on(figures, done, turned.spacing_mm_zyx[axis_of(plane)])
        for name, values in figures.items():
            found[f"{plane}_{name}"] = values
    return found


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """`expected` and `other` say which structure (1.. in the protocol's order), (z, y, x).

    `other` is what the propagation says where it differs, `before` what the earlier model does;
    `chance` is that of being wrong.
    """

    expected: NDArray[np.uint16]
    other: NDArray[np.uint16]
    before: NDArray[np.uint16]
    chance: Floats
    by_model: bool
    by_propagation: bool


def _seen(said: _Said, case: Case, ids: Sequence[int]) -> _Seen:
    label, prediction = said.label, said.prediction
    shape = case.grid.shape_zyx
    table = np.zeros(65536, dtype=np.uint16)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    expected, chance = np.zeros(shape, np.uint16), np.zeros(shape, np.float32)
    other = before = expected
    carried = None if label is None else label.origin == Origin.PROPAGATED
    if prediction is not None:
        expected = table[prediction.array]
        chance = prediction.uncertainty / np.float32(2)  # 1: a toss-up
        other = before = expected
    if said.before is not None and prediction is not None:
        before = table[said.before.array]
        sure = np.float32(_BEFORE) * (1 - said.before.uncertainty)
        chance = np.maximum(chance, sure * (before != expected))
    if label is not None and carried is not None and carried.any():
        drawn = table[label.array]
        if prediction is None:
            expected = other = np.where(carried, drawn, np.uint16(0))
            np.copyto(chance, 1 - label.confidence, where=carried)
        else:
            other = np.where(carried, drawn, expected)
            differ = np.float32(0.5) * label.confidence * (other != expected)
            chance = np.maximum(chance, differ)
    if label is not None:
        human = by_human(label.origin)
        expected = np.where(human, table[label.array], expected)
        other, before = (np.where(human, expected, one) for one in (other, before))
        chance = np.where(human, np.float32(0), chance)
    return _Seen(
        expected=expected,
        other=other,
        before=before,
        chance=chance,
        by_model=prediction is not None,
        by_propagation=carried is not None and bool(carried.any()),
    )


@dataclass(frozen=True, kw_only=True)
class _Views:
    """Turned arrays of one case."""

    expected: NDArray[np.uint16]
    other: NDArray[np.uint16]
    before: NDArray[np.uint16]
    chance: Floats
    turned: Turned
    n_ids: int
    reach_mm: float

    def plane(self, plane: Plane, contour_mm: Floats, sure: Sequence[Floats]) -> dict[str, Floats]:
        """The figures of one plane; `sure` per axis, in [0, 1], what other planes settle."""
        axis, spacing = axis_of(plane), self.turned.spacing_mm_zyx
        pixel_mm2 = float(np.prod(spacing)) / spacing[axis]
        places = np.nonzero(self.chance > _LEAST)
        chance = self.chance[places]
        said, also = self.expected[places], self.other[places]
        earlier = self.before[places]
        settled = np.maximum.reduce([line[where] for line, where in zip(sure, places, strict=True)])
        owner = np.where(said > 0, said, np.where(also > 0, also, earlier))
        wrong = self._sum(axis, places, owner, chance * (1 - settled))
        doubt = self._sum(axis, places, owner, chance)
        drawn = np.nonzero(self.expected)
        area = self._sum(axis, drawn, self.expected[drawn], None)
        differ = self._differing(axis, places, said, also)
        before = self._differing(axis, places, said, earlier)
        shared = _share_background(wrong, contour_mm, area[1:], spacing[axis], self.reach_mm)
        unsure = 2 * doubt[1:] / np.maximum(area[1:], 1)
        return {
            "wrong_ml": shared * np.float32(pixel_mm2 * spacing[axis] / 1000),
            "differ_mm2": differ[1:] * np.float32(pixel_mm2),
            "before_mm2": before[1:] * np.float32(pixel_mm2),
            "area_mm2": area[1:] * np.float32(pixel_mm2),
            "contour_mm": contour_mm,
            "unsure": np.minimum(unsure, 1).astype(np.float32),
        }

    def _differing(
        self,
        axis: int,
        places: tuple[NDArray[np.int64], ...],
        said: NDArray[np.uint16],
        other: NDArray[np.uint16],
    ) -> Floats:
        """(S + 1, n): voxels in which only one of both says a structure."""
        apart = (said != other).astype(np.float32)
        return self._sum(axis, places, said, apart) + self._sum(axis, places, other, apart)

    def contours_mm(self) -> dict[Plane, Floats]:
        """Expected length of the contours (S, n) in each plane."""
        spacing = self.turned.spacing_mm_zyx
        total = {
            plane: np.zeros((self.n_ids + 1, self.turned.shape_zyx[axis_of(plane)]), np.float32)
            for plane in PLANES
        }
        for along in range(3):
            low = self.expected[(slice(None),) * along + (slice(None, -1),)]
            high = self.expected[(slice(None),) * along + (slice(1, None),)]
            places = np.nonzero(low != high)
            for plane in PLANES:
                axis = axis_of(plane)
                if axis == along:
                    continue
                side_mm = np.float32(spacing[({0, 1, 2} - {axis, along}).pop()])
                for ids in (low[places], high[places]):
                    total[plane] += side_mm * self._sum(axis, places, ids, None)
        return {
            plane: np.asarray(found[1:] * np.float32(_STAIRS)) for plane, found in total.items()
        }

    def _sum(
        self,
        axis: int,
        places: tuple[NDArray[np.int64], ...],
        ids: NDArray[np.uint16],
        weights: Floats | None,
    ) -> Floats:
        """(S + 1, n): voxels, or their weights, per structure (0: none) and slice."""
        count = self.turned.shape_zyx[axis]
        cells = ids.astype(np.int64) * count + places[axis]
        found = np.bincount(cells, weights=weights, minlength=(self.n_ids + 1) * count)
        return found.reshape(self.n_ids + 1, count).astype(np.float32)


def _share_background(
    sums: Floats, contour_mm: Floats, area: Floats, spacing_mm: float, reach_mm: float
) -> Floats:
    """Doubts about background go to the structures whose contours run in the slice.

    Further than the reach from a structure (`area` in pixels, (S, n)) they fade, and together
    they are at most half of it: a weak program doubts all of the body, and what it missed still
    lies beside what it found. A structure that is found nowhere may be anywhere.
    """
    total = contour_mm.sum(axis=0)
    equal = np.full_like(contour_mm, 1 / max(1, len(contour_mm)))
    share = np.divide(contour_mm, total, out=equal, where=total > 0)
    doubts = sums[:1] * share
    for row, pixels in enumerate(area):
        there = np.flatnonzero(pixels)
        if there.size:
            gaps = distance_mm(len(pixels), there, spacing_mm)
            doubts[row] *= near(gaps, reach_mm / 2)
            most = np.float32(_MISSED) * pixels.sum()
            doubts[row] *= most / max(float(doubts[row].sum()), float(most))
    return np.asarray(sums[1:] + doubts)


def _going_on(
    figures: dict[str, Floats], done: Sequence[NDArray[np.int64]], spacing_mm: float
) -> dict[str, Floats]:
    """Figures with what is to be expected beyond done slices that still show a structure."""
    area, contour = figures["area_mm2"], figures["contour_mm"].copy()
    beyond = np.zeros_like(area)
    places = np.arange(area.shape[1])
    for row, slices in enumerate(done):
        for end, outside in _ends(slices, places):
            there = np.exp(-np.abs(places[outside] - end) * spacing_mm / _GOES_ON_MM)
            beyond[row, outside] = np.maximum(area[row, end] * there - area[row, outside], 0)
            expected = contour[row, end] * there
            contour[row, outside] = np.maximum(contour[row, outside], expected)
    wrong = figures["wrong_ml"] + beyond * np.float32(spacing_mm / 1000)
    return {"beyond_mm2": beyond, "contour_mm": contour, "wrong_ml": wrong}


def _ends(
    done: NDArray[np.int64], places: NDArray[np.int64]
) -> list[tuple[int, NDArray[np.bool_]]]:
    """The outermost done slices, each with the places outside of it."""
    if not done.size:
        return []
    first, last = int(done[0]), int(done[-1])
    return [(first, places < first), (last, places > last)]


def _sure_elsewhere(
    turned: Turned, ledger: Ledger, ids: Sequence[int], plane: Plane, reach_mm: float
) -> list[Floats]:
    """Per axis and slice, how sure done slices of the other planes make its voxels."""
    lines = []
    for other in PLANES:
        axis = axis_of(other)
        count, spacing = turned.shape_zyx[axis], turned.spacing_mm_zyx[axis]
        line = np.zeros(count, dtype=np.float32)
        if other != plane and ids:
            each = [
                near(distance_mm(count, turned.done(ledger, other, i), spacing), reach_mm / 2)
                for i in ids
            ]
            line = np.minimum.reduce(each)
        lines.append(line)
    return lines


def uncertainty_by_structure(doubts: Doubts, ids: Sequence[int]) -> dict[int, float]:
    """Mean uncertainty of a case per structure, in [0, 1], over the voxels said to be of it.

    Structures that no program found are left out.
    """
    plane = doubts.planes["axial"]
    area = plane.area_mm2.sum(axis=1)
    mean = (plane.unsure * plane.area_mm2).sum(axis=1) / np.maximum(area, 1e-6)
    return {i: float(mean[row]) for row, i in enumerate(ids) if area[row] > 0}
