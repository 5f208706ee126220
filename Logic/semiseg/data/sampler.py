"""Training batches as a pure function of seed and step, so that a resumed run sees the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.config import MODALITIES, Modality
from semiseg.data.batch import Batch
from semiseg.data.cases import TrainingCase
from semiseg.data.greys import GreyRange, change_greys
from semiseg.data.levels import level_maps
from semiseg.data.spatial import Source, SpatialRange, Zyx, draw_warp
from semiseg.errors import NotEnoughLabelsError
from semiseg.images.grid import Triple

_MAX_CENTRES = 20_000
_BACKGROUND_CHANCE = 0.15
_REACH = 0.7
_DRIFT_CHANCE = 0.5
Strata = Mapping[tuple[Modality, bool], NDArray[np.int64]]
"""Numbers of cases by modality, and by whether a human drew on them."""


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Size of batches, and how far their samples are changed (None: not at all).

    `modalities_in_turn`: CT and MR alternate, not drawn. `streams`: the kinds of volumes of a case
    that batches hold. Patches that are one slice deep make 2-D batches. These always stay
    `within_slices`: nothing moves from one slice to another, and level sets are those of slices.
    """

    patch_zyx: Zyx
    n_labelled: int
    n_unlabelled: int = 0
    n_classes: int
    spacing_mm_zyx: Triple
    seed: int = 0
    spatial: SpatialRange | None = field(default_factory=SpatialRange)
    greys: GreyRange | None = field(default_factory=GreyRange)
    level_sets: bool = False
    places: bool = False
    within_slices: bool = False
    modalities_in_turn: bool = False
    streams: tuple[str, ...] = ()
    plain_images: bool = False

    @property
    def flat(self) -> bool:
        """Whether samples are slices."""
        return self.patch_zyx[0] == 1

    @property
    def planar(self) -> bool:
        """Whether nothing may move from one slice to another."""
        return self.flat or self.within_slices

    @property
    def movements(self) -> SpatialRange | None:
        """How far space is moved for patches of this kind."""
        if self.spatial is None or not self.planar:
            return self.spatial
        return replace(self.spatial, within_slices=True)


class Sampler:
    """Draws labelled and unlabelled patches, both with replacement.

    Labelled: modality, then human or propagated labels, then case, then class, each evenly; the
    patch holds a known voxel of that class. Unlabelled: modality, case and place, evenly; labelled
    cases are among them. With modalities in turn, one of two begins by chance and they alternate
    from the first labelled to the last unlabelled sample, but where a part has cases of one only.
    """

    def __init__(
        self, cases: Sequence[TrainingCase], settings: SamplerSettings, device: torch.device
    ) -> None:
        self.settings = settings
        self._device = device
        self._cases = list(cases)
        self._sources = [_source(case, device, settings) for case in cases]
        self._patterns = [_pattern_table(case, settings.n_classes, device) for case in cases]
        self._centres = [_centres(case, settings.seed) for case in cases]
        self._labelled = _strata(
            [
                (i, (case.modality, case.supervision.by_human))
                for i, case in enumerate(cases)
                if case.supervision is not None
            ]
        )
        self._all = _strata([(i, (case.modality, False)) for i, case in enumerate(cases)])
        if not self._labelled:
            raise NotEnoughLabelsError(
                "no slice of any training case is done; annotate some and mark them as done"
            )

    def batch(self, step: int, *, unlabelled: bool = True) -> Batch:
        """The batch of `step`; the same whenever and wherever it is asked for.

        Labelled samples are the same with and without `unlabelled` ones.
        """
        settings = self.settings
        rng = np.random.default_rng((settings.seed, step))
        n, n_unlabelled = settings.n_labelled, settings.n_unlabelled if unlabelled else 0
        turns: list[int | None] = [None] * (n + n_unlabelled)
        if settings.modalities_in_turn:
            first = int(rng.integers(len(MODALITIES)))
            turns = [first + i for i in range(n + n_unlabelled)]
        labelled = [self._sample(rng, _group(rng, self._labelled, turn)) for turn in turns[:n]]
        other = [self._sample(rng, _group(rng, self._all, t), blind=True) for t in turns[n:]]
        samples = labelled + other
        numbers = [number for number, _ in samples]
        stacked = {
            name: torch.stack([tensors[name] for _, tensors in samples]) for name in samples[0][1]
        }
        modality = [MODALITIES.index(self._cases[i].modality) for i in numbers]
        return Batch(
            **stacked,
            modality=torch.tensor(modality, device=self._device),
            case=tuple(self._cases[i].id for i in numbers),
            n_labelled=settings.n_labelled,
            spacing_mm_zyx=settings.spacing_mm_zyx,
        )

    def _sample(
        self, rng: np.random.Generator, group: NDArray[np.int64], *, blind: bool = False
    ) -> tuple[int, dict[str, Tensor]]:
        """A case's number and its patch; `blind` to every label."""
        settings = self.settings
        number = int(group[rng.integers(len(group))])
        case = self._cases[number]
        voxel = _anywhere(rng, case.shape_zyx) if blind else self._known_voxel(rng, number)
        centre = _patch_centre(rng, voxel, case.shape_zyx, settings.patch_zyx)
        warp = draw_warp(rng, centre, case.image.grid.spacing_mm_zyx, settings.movements)
        if case.warps is not None and not blind:
            warp = replace(warp, drift=_drift(rng, case.warps, flat=settings.planar))
        plain, maps, inside = self._sources[number].cut(warp, settings.patch_zyx)
        image = plain
        if settings.greys is not None:
            generator = torch.Generator(self._device).manual_seed(int(rng.integers(2**62)))
            image = change_greys(plain, rng, generator, settings.greys)
        seen = torch.zeros_like(inside) if blind else inside
        known = self._supervision(number, maps, seen)
        sample = {"image": image[None], **known, **self._place(maps, inside)}
        if settings.plain_images:
            sample["plain"] = plain[None]
        if settings.streams:
            sample |= self._volumes(rng, number, image, maps)
        if settings.flat:
            sample = {n: t.squeeze(-3) if t.dim() > 1 else t for n, t in sample.items()}
        return number, sample

    def _volumes(
        self, rng: np.random.Generator, number: int, image: Tensor, maps: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The volumes of all streams, each with greys changed on its own, and what they count."""
        case, streams = self._cases[number], self.settings.streams
        counts = {companion.stream: companion.trust for companion in case.companions}
        counts[case.stream] = 1.0
        missing = torch.zeros_like(image)
        volumes = [
            image
            if name == case.stream
            else self._other_greys(rng, maps[f"stream {name}"])
            if name in counts
            else missing
            for name in streams
        ]
        present = [counts.get(name, 0.0) for name in streams]
        return {
            "companions": torch.stack(volumes),
            "present": torch.tensor(present, device=self._device),
        }

    def _other_greys(self, rng: np.random.Generator, image: Tensor) -> Tensor:
        if self.settings.greys is None:
            return image
        generator = torch.Generator(self._device).manual_seed(int(rng.integers(2**62)))
        return change_greys(image, rng, generator, self.settings.greys)

    def _place(self, maps: dict[str, Tensor], inside: Tensor) -> dict[str, Tensor]:
        """Places (3, *) in the reference case, NaN outside of the image; no label says them."""
        if not self.settings.places:
            return {}
        unknown = torch.full((3, *inside.shape), math.nan, device=self._device)
        if "place0" not in maps:
            return {"place": unknown}
        found = torch.stack([maps[f"place{axis}"] for axis in range(3)]).float()
        return {"place": torch.where(inside, found, unknown)}

    def _supervision(self, number: int, maps: dict[str, Tensor], seen: Tensor) -> dict[str, Tensor]:
        if self._cases[number].supervision is None:
            label = torch.zeros(seen.shape, dtype=torch.int64, device=self._device)
            known = torch.zeros((1, *seen.shape), dtype=torch.bool, device=self._device)
            return {
                "label": label,
                "valid": label.float(),
                "known": known.expand(self.settings.n_classes, *seen.shape),
                "origin": label.to(torch.uint8),
                **self._levels(maps, seen),
            }
        known = self._patterns[number][maps["pattern"].long()] & seen[..., None]
        return {
            "label": maps["label"].long() * seen,
            "valid": maps["valid"].float() * seen,
            "known": known.movedim(-1, 0),
            "origin": maps["origin"] * seen,
            **self._levels(maps, seen),
        }

    def _levels(self, maps: dict[str, Tensor], seen: Tensor) -> dict[str, Tensor]:
        """Signed distances (C - 1, *), NaN where they are not known or not to be seen."""
        if not self.settings.level_sets:
            return {}
        n = self.settings.n_classes - 1
        unknown = torch.full((n, *seen.shape), math.nan, device=self._device)
        if "level0" not in maps:
            return {"level": unknown}
        found = torch.stack([maps[f"level{k}"] for k in range(n)]).float()
        return {"level": torch.where(seen, found, unknown)}

    def _known_voxel(self, rng: np.random.Generator, number: int) -> NDArray[np.int64]:
        centres = self._centres[number]
        drawn = sorted(centre for centre in centres if centre > 0)
        background = 0 in centres and (not drawn or rng.random() < _BACKGROUND_CHANCE)
        voxels = centres[0 if background else drawn[rng.integers(len(drawn))]]
        flat = voxels[rng.integers(len(voxels))]
        return np.array(np.unravel_index(flat, self._cases[number].shape_zyx))


def _source(case: TrainingCase, device: torch.device, settings: SamplerSettings) -> Source:
    """The case's voxels on `device`, in few bytes each."""
    maps = _known_maps(case, settings)
    if settings.places and case.places is not None:
        maps |= {f"place{axis}": torch.from_numpy(part) for axis, part in enumerate(case.places)}
    image = torch.from_numpy(case.image.array).to(device)
    wanted = [companion for companion in case.companions if companion.stream in settings.streams]
    further = {f"stream {one.stream}": torch.from_numpy(one.array).to(device) for one in wanted}
    picked = {name: values.to(device) for name, values in maps.items()}
    return Source(image, case.image.fill, picked, further)


def _known_maps(case: TrainingCase, settings: SamplerSettings) -> dict[str, Tensor]:
    """What is known of the case, by name; nothing where nothing is."""
    known = case.supervision
    if known is None:
        return {}
    maps = {
        "label": torch.from_numpy(known.label),
        "valid": torch.from_numpy(known.valid).half(),
        "origin": torch.from_numpy(known.origin),
        "pattern": torch.from_numpy(known.pattern),
    }
    if settings.level_sets:
        spacing = case.image.grid.spacing_mm_zyx
        levels = level_maps(known, spacing, within_slices=settings.planar)
        maps |= {f"level{k}": torch.from_numpy(level) for k, level in enumerate(levels)}
    return maps


def _pattern_table(case: TrainingCase, n_classes: int, device: torch.device) -> Tensor:
    known = case.supervision
    table = np.zeros((1, n_classes), dtype=bool) if known is None else known.patterns
    return torch.from_numpy(table).to(device)


def _centres(case: TrainingCase, seed: int) -> dict[int, NDArray[np.int64]]:
    """Per channel, flat indices of (at most `_MAX_CENTRES`) known voxels of it."""
    known = case.supervision
    if known is None:
        return {}
    rng = np.random.default_rng((seed, 0))
    found = {}
    for channel in np.unique(known.label[known.valid > 0]):
        voxels = np.flatnonzero((known.label == channel) & (known.valid > 0))
        if voxels.size > _MAX_CENTRES:
            voxels = rng.choice(voxels, _MAX_CENTRES, replace=False)
        found[int(channel)] = voxels
    return found


def _strata(numbered: list[tuple[int, tuple[Modality, bool]]]) -> Strata:
    """Case numbers by group."""
    groups: dict[tuple[Modality, bool], list[int]] = {}
    for number, group in numbered:
        groups.setdefault(group, []).append(number)
    return {group: np.array(groups[group]) for group in sorted(groups)}


def _group(rng: np.random.Generator, strata: Strata, turn: int | None) -> NDArray[np.int64]:
    """One of `strata` by chance, among those of the modality whose turn it is."""
    found = list(strata.values())
    if turn is not None:
        modalities = sorted({modality for modality, _ in strata})
        due = modalities[turn % len(modalities)]
        found = [group for (modality, _), group in strata.items() if modality == due]
    return found[rng.integers(len(found))]


def _anywhere(rng: np.random.Generator, shape_zyx: Zyx) -> NDArray[np.int64]:
    return rng.integers(0, shape_zyx)


def _drift(
    rng: np.random.Generator, warps: NDArray[np.float32], *, flat: bool
) -> NDArray[np.float32] | None:
    """One of `warps` (K, 3, *) by a random part of the way; None every other time."""
    strength, chosen = rng.uniform(0, 1), warps[rng.integers(len(warps))]
    if rng.random() >= _DRIFT_CHANCE:
        return None
    drift = np.asarray(chosen * strength, dtype=np.float32)
    drift[0] *= not flat
    return drift


def _patch_centre(
    rng: np.random.Generator, voxel: NDArray[np.int64], shape_zyx: Zyx, patch_zyx: Zyx
) -> NDArray[np.float64]:
    """Middle of a patch that holds `voxel` somewhere and leaves the image as little as may be."""
    patch, shape = np.asarray(patch_zyx), np.asarray(shape_zyx)
    within = np.rint(rng.uniform(0.5 - _REACH / 2, 0.5 + _REACH / 2, 3) * patch)
    start = voxel - np.minimum(within, patch - 1)
    room = shape - patch
    start = np.clip(start, np.minimum(room, 0) // 2, np.where(room >= 0, room, room // 2))
    return np.asarray(start + (patch - 1) / 2, dtype=np.float64)
