"""From few done slices to the whole volume: label, confidence and a self-check per structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.config import SliceConfig
from semiseg.errors import GeometryMismatchError, NotEnoughLabelsError
from semiseg.slices.candidates import FILL_METHODS, FillMethod
from semiseg.slices.check import SelfCheck, best_method
from semiseg.slices.planes import Opinions, StructurePlane, Volume, structure_plane
from semiseg.slices.stack import Box

KnownLines = Mapping[int, Mapping[int, NDArray[np.bool_]]]
"""Structure id to array axis (0, 1, 2) to which slices along that axis are done, (n,)."""
# Measured on abdominal CT and MR: about so often an outline is off by a voxel.
_DOUBT_AT_OUTLINE, _OUTLINE_MM = 0.4, 2.0
_NEARER_COUNTS = 4  # between planes, the nearer slice decides more sharply than it is trusted
_CONTESTED = 0.5  # what is left of the confidence where two structures claim a voxel


@dataclass(frozen=True, kw_only=True)
class StructureFill:
    """How a structure was filled: `dice` is its leave-one-slice-out Dice by the `method` taken.

    None where there was nothing to check. `dice_by_method` has those of the other ways too.
    """

    method: FillMethod
    dice: float | None
    dice_by_method: Mapping[FillMethod, float]


@dataclass(frozen=True, kw_only=True)
class SliceFill:
    """`array` (z, y, x) of structure ids and `confidence` in [0, 1], background's included.

    Both speak of the structures of `structures` only; others are unknown.
    """

    array: NDArray[np.uint16]
    confidence: Volume
    structures: Mapping[int, StructureFill]

    @property
    def self_check(self) -> dict[int, float]:
        """Leave-one-slice-out Dice of the structures that could be checked."""
        return {i: fill.dice for i, fill in self.structures.items() if fill.dice is not None}


def fill_slices(
    image: NDArray[np.float32],
    label: NDArray[np.uint16],
    known: KnownLines,
    spacing_mm_zyx: tuple[float, float, float],
    config: SliceConfig,
    *,
    human: NDArray[np.bool_] | None = None,
) -> SliceFill:
    """Fills between the done slices of `label`; every array is (z, y, x).

    On its done slices `label` decides alone. Voxels of `human`, drawn ones by default, come back
    as they are. Structures without a done slice are left out. GeometryMismatchError when shapes
    differ; NotEnoughLabelsError when no slice is done.
    """
    human = label != 0 if human is None else human
    lines = _checked(image, label, known, human)
    canvas = _Canvas(label.shape)
    structures = {}
    for structure_id, by_axis in lines.items():
        mask = label == structure_id
        planes = [
            structure_plane(image, mask, line, axis, spacing_mm_zyx)
            for axis, line in by_axis.items()
        ]
        structures[structure_id] = _chosen(planes, config)
        method = structures[structure_id].method
        canvas.add(structure_id, _Structure(planes, method, config), mask, by_axis)
    array, confidence = canvas.finished()
    array[human], confidence[human] = label[human], 1.0
    return SliceFill(array=array, confidence=confidence, structures=structures)


def _checked(
    image: NDArray[np.float32],
    label: NDArray[np.uint16],
    known: KnownLines,
    human: NDArray[np.bool_],
) -> dict[int, dict[int, NDArray[np.bool_]]]:
    """The lines with at least one done slice, by structure."""
    if not image.shape == label.shape == human.shape:
        raise GeometryMismatchError(
            f"image {image.shape}, label {label.shape} and human voxels {human.shape} differ in "
            "shape (z, y, x); they must share one grid"
        )
    lines: dict[int, dict[int, NDArray[np.bool_]]] = {}
    for structure_id, by_axis in known.items():
        for axis, line in by_axis.items():
            if line.shape != (image.shape[axis],):
                raise GeometryMismatchError(
                    f"done slices along axis {axis} are given for {line.shape[0]} slices, the "
                    f"image has {image.shape[axis]}"
                )
            if line.any():
                lines.setdefault(structure_id, {})[axis] = line
    if not lines:
        raise NotEnoughLabelsError(
            "no slice is done; draw the structures in a few slices and mark these as done"
        )
    return lines


def _chosen(planes: Sequence[StructurePlane], config: SliceConfig) -> StructureFill:
    """The way of filling that does best on held-out slices of all axes."""
    check = SelfCheck()
    for plane in planes:
        check = check.joined(plane.check(image_guided=config.image_guided))
    method = config.method
    if method == "auto":
        method = best_method(check, image_guided=config.image_guided)
    measured = {m: check.dice(m) for m in FILL_METHODS}
    return StructureFill(
        method=method,
        dice=measured[method],
        dice_by_method={m: dice for m, dice in measured.items() if dice is not None},
    )


class _Structure:
    """One structure, told along all its axes; nearer done slices count more."""

    def __init__(
        self, planes: Sequence[StructurePlane], method: FillMethod, config: SliceConfig
    ) -> None:
        self._planes = planes
        self._sigma_mm = config.confidence_distance_mm
        self._opinions = [plane.opinions(method) for plane in planes]

    def nearness(self, box: Box | None = None) -> Volume:
        """exp(-distance / sigma) of the nearest done slice; broadcasts to the volume or `box`."""
        parts = [self._weight(plane, box) for plane in self._planes]
        nearest: Volume = parts[0]
        for part in parts[1:]:
            nearest = np.maximum(nearest, part)
        return nearest

    @property
    def box(self) -> Box | None:
        """Where the structure may be; None when it is in no done slice."""
        boxes = [opinion.box for opinion in self._opinions if opinion is not None]
        if not boxes:
            return None
        sides = [
            slice(min(box[k].start for box in boxes), max(box[k].stop for box in boxes))
            for k in range(3)
        ]
        return sides[0], sides[1], sides[2]

    def told(self, box: Box) -> tuple[Volume, Volume]:
        """Score in mm and confidence on `box`, fused over the axes."""
        parts = [
            (self._weight(plane, box), *_spread_out(opinion, box))
            for plane, opinion in zip(self._planes, self._opinions, strict=True)
        ]
        votes = [near**_NEARER_COUNTS * (agreement + 1e-6) for near, _, agreement in parts]
        total = sum(votes) + np.float32(1e-30)
        weighed = sum(vote * part for vote, (_, part, _) in zip(votes, parts, strict=True))
        score: Volume = np.asarray(weighed / total, dtype=np.float32)
        share, confidence = _share(score), np.zeros_like(score)
        for near, part, agreement in parts:
            sure = near * agreement * (1 - np.abs(_share(part) - share))
            np.maximum(confidence, sure, out=confidence)
        doubt = np.float32(_DOUBT_AT_OUTLINE) * np.exp(-np.abs(score) / np.float32(_OUTLINE_MM))
        return score, confidence * (1 - doubt)

    def _weight(self, plane: StructurePlane, box: Box | None) -> Volume:
        distance_mm = plane.distance_mm if box is None else plane.distance_mm[box[plane.axis]]
        shape = [1, 1, 1]
        shape[plane.axis] = len(distance_mm)
        weight: Volume = np.exp(-distance_mm / np.float32(self._sigma_mm)).reshape(shape)
        return weight


def _spread_out(opinion: Opinions | None, box: Box) -> tuple[Volume, Volume]:
    """Score and agreement on `box`, which holds the opinion's own; background around it."""
    shape = tuple(side.stop - side.start for side in box)
    lowest = np.float32(-10.0) if opinion is None else opinion.score.min()
    score = np.full(shape, lowest, dtype=np.float32)
    agreement = np.ones(shape, dtype=np.float32)
    if opinion is not None:
        inner = tuple(
            slice(own.start - side.start, own.stop - side.start)
            for own, side in zip(opinion.box, box, strict=True)
        )
        score[inner], agreement[inner] = opinion.score, opinion.agreement
    return score, agreement


def _share(score: Volume) -> Volume:
    return np.asarray(1 / (1 + np.exp(-score)), dtype=np.float32)


class _Canvas:
    """Where the structures meet: the highest score wins a voxel."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._array = np.zeros(shape, dtype=np.uint16)
        self._best = np.zeros(shape, dtype=np.float32)
        self._own = np.zeros(shape, dtype=np.float32)
        self._background = np.ones(shape, dtype=np.float32)
        self._claims = np.zeros(shape, dtype=np.uint8)

    def add(
        self,
        structure_id: int,
        structure: _Structure,
        mask: NDArray[np.bool_],
        lines: Mapping[int, NDArray[np.bool_]],
    ) -> None:
        """Lets `structure` claim voxels; on its done `lines`, `mask` alone says which."""
        box = structure.box
        if box is None:
            np.minimum(self._background, structure.nearness(), out=self._background)
            return
        score, confidence = structure.told(box)
        done = _done(lines, box)
        score[done] = np.where(mask[box][done], np.float32(1e6), np.float32(-1e6))
        confidence[done] = 1.0
        inside = self._background[box].copy()
        np.minimum(self._background, structure.nearness(), out=self._background)
        self._background[box] = np.minimum(inside, confidence)
        wins = score > self._best[box]
        self._claims[box] += score > 0
        self._array[box][wins] = structure_id
        self._own[box][wins] = confidence[wins]
        self._best[box][wins] = score[wins]

    def finished(self) -> tuple[NDArray[np.uint16], Volume]:
        """Label and confidence."""
        own = np.where(self._claims > 1, np.float32(_CONTESTED) * self._own, self._own)
        own[self._best >= 1e6] = 1.0
        confidence = np.where(self._array > 0, own, self._background)
        return self._array, np.clip(confidence, 0, 1)


def _done(lines: Mapping[int, NDArray[np.bool_]], box: Box) -> NDArray[np.bool_]:
    done = np.zeros([side.stop - side.start for side in box], dtype=np.bool_)
    for axis, line in lines.items():
        shape = [1, 1, 1]
        shape[axis] = -1
        done |= line[box[axis]].reshape(shape)
    return done
