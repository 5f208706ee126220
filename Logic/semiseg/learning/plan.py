"""Spacing, patch, batch and network for these data, this machine and this much time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np

from semiseg.config import TrainConfig
from semiseg.errors import ConfigError
from semiseg.images.grid import Triple
from semiseg.learning.means import MEANS, Means, voxels_per_step
from semiseg.learning.slice_plan import Sizes, choose_dims, slice_plan
from semiseg.learning.survey import CaseFacts, Survey
from semiseg.networks import NetworkSpec

Zyx = tuple[int, int, int]
_COVER = 0.75
_WIDTHS_PER_VOXEL = 5.0
_SMALLEST_SIDE = 16
_SMALLEST_ROOM = 40**3
_FINER_AT_MOST = 0.7
_COARSER = 1.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one run learns; kept with its checkpoints, so that it goes on as it began.

    `streams`: the kinds of volumes of a case, where the method looks at several. `whole`: patches
    are whole scans on one frame, which cannot be made smaller.
    """

    spacing_mm_zyx: Triple
    patch_zyx: Zyx
    n_labelled: int
    n_unlabelled: int
    network: NetworkSpec
    device: str
    streams: tuple[str, ...] = ()
    whole: bool = False

    @property
    def voxels_per_step(self) -> int:
        """Voxels of one batch."""
        return math.prod(self.patch_zyx) * (self.n_labelled + self.n_unlabelled)

    def smaller(self) -> Plan | None:
        """The next plan to try when memory is out: patch, then batch, then the CPU; None: none."""
        multiple = self.network.multiple_zyx
        side = max(range(3), key=lambda axis: self.patch_zyx[axis] / multiple[axis])
        halved = _whole(self.patch_zyx[side] / 2, multiple[side])
        if not self.whole and halved >= max(_SMALLEST_SIDE, 2 * multiple[side]):
            patch = cast(
                Zyx, tuple(halved if i == side else n for i, n in enumerate(self.patch_zyx))
            )
            return replace(self, patch_zyx=patch)
        if self.n_labelled > 1 or self.n_unlabelled > 1:
            fewer = max(1, self.n_labelled // 2)
            return replace(self, n_labelled=fewer, n_unlabelled=(self.n_unlabelled + 1) // 2)
        return replace(self, device="cpu") if self.device != "cpu" else None

    def in_words(self, validation: str) -> str:
        """What is about to happen; `validation` says how it will be scored."""
        spacing = " x ".join(f"{s:.2g}" for s in self.spacing_mm_zyx)
        patch = " x ".join(map(str, self.patch_zyx))
        return (
            f"training at {spacing} mm on {self.n_labelled} patches of {patch} voxels a step "
            f"({self.device}); validation: {validation}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` made."""
        return cls(
            spacing_mm_zyx=cast(Triple, tuple(map(float, values["spacing_mm_zyx"]))),
            patch_zyx=cast(Zyx, tuple(map(int, values["patch_zyx"]))),
            n_labelled=int(values["n_labelled"]),
            n_unlabelled=int(values["n_unlabelled"]),
            network=NetworkSpec.from_json(values["network"]),
            device=str(values["device"]),
            streams=tuple(map(str, values.get("streams", ()))),
            whole=bool(values.get("whole", False)),
        )


def make_plan(
    found: Survey,
    config: TrainConfig,
    device: str,
    *,
    voxels_per_s: float | None = None,
    uses_unlabelled: bool = False,
) -> Plan:
    """A plan for what `found` holds; settings that `config` gives are taken as they are.

    `voxels_per_s` is the measured speed of training on `device`, None for the nominal one.
    """
    means = MEANS[device]
    native = _native(found.train)
    extent = _median([facts.extent_mm_zyx for facts in found.train])
    dims = choose_dims(config, native, extent)
    stem = dims == "3" and _wants_stem(found, config, means, extent)
    voxels = voxels_per_step(config, means, voxels_per_s, stem=stem)
    if dims != "3":
        sizes = slice_plan(
            config,
            means,
            native,
            extent,
            voxels_per_step=voxels,
            n_classes=len(found.classes),
            neighbours=dims == "2.5",
        )
    else:
        share = 0.5 if uses_unlabelled else 1.0
        sizes = _volume_plan(found, config, means, voxels * share, stem=stem)
    _check_patch(sizes.patch_zyx, sizes.network)
    return Plan(
        spacing_mm_zyx=sizes.spacing_mm_zyx,
        patch_zyx=sizes.patch_zyx,
        n_labelled=sizes.n_labelled,
        n_unlabelled=sizes.n_labelled if uses_unlabelled else 0,
        network=replace(sizes.network, deep_supervision=config.deep_supervision),
        device=device,
    )


def _volume_plan(
    found: Survey, config: TrainConfig, means: Means, voxels: float, *, stem: bool
) -> Sizes:
    """Patches of a volume, as large and as fine as `voxels` labelled ones per step allow."""
    n_labelled = config.batch_size or means.n_labelled
    room = float(np.clip(voxels / n_labelled, _SMALLEST_ROOM, means.patch_voxels))
    extent = _median([facts.extent_mm_zyx for facts in found.train])
    spacing = _spacing(found, config, means, extent, room)
    first, *strides = _strides(spacing, len(means.channels) + 1)
    network = NetworkSpec(
        n_classes=len(found.classes),
        channels=means.channels,
        convolutions=means.convolutions,
        strides=tuple(strides) if stem else (first, *strides[:-1]),
        stem=first if stem else (),
    )
    return Sizes(
        spacing_mm_zyx=spacing,
        patch_zyx=config.patch or _patch(extent / np.asarray(spacing), room, network.multiple_zyx),
        n_labelled=n_labelled,
        network=network,
    )


def _wants_stem(
    found: Survey, config: TrainConfig, means: Means, extent: np.ndarray[Any, Any]
) -> bool:
    """Where time makes voxels coarser than scans are, the network begins at half resolution.

    There it took 2.6 times as many steps and was far ahead after the same time; elsewhere that was
    not measured (Testing/benchmarks/ablation.py). A patch that is given has to fit.
    """
    if not means.stem:
        return False
    room = voxels_per_step(config, means, None, stem=False) / means.n_labelled
    room = float(np.clip(room, _SMALLEST_ROOM, means.patch_voxels))
    if min(_spacing(found, config, means, extent, room)) < _COARSER * _native(found.train).min():
        return False
    fits = 2 ** len(means.channels)
    return config.patch is None or all(n % fits == 0 and n >= 2 * fits for n in config.patch)


def _spacing(
    found: Survey, config: TrainConfig, means: Means, extent: np.ndarray[Any, Any], room: float
) -> Triple:
    """As fine as `room` allows for patches that cover most of the body.

    No finer than the images are, along each axis. Small structures ask for finer voxels, but get
    them only as far as patches still show a good part of the body.
    """
    native = _native(found.train)
    if config.spacing_mm is not None:
        wish = config.spacing_mm
    else:
        affordable = (math.prod(_COVER * extent) / room) ** (1 / 3)
        bearable = min(means.coarsest_mm, found.smallest_mm / _WIDTHS_PER_VOXEL)
        wish = max(min(affordable, bearable), _FINER_AT_MOST * affordable, float(native.min()))
    z, y, x = (float(max(wish, n)) for n in native)
    return z, y, x


def _native(train: tuple[CaseFacts, ...]) -> np.ndarray[Any, Any]:
    """The spacing along each axis: median over cases, of the modality that is finest there."""
    by_modality = [
        _median([facts.spacing_mm_zyx for facts in train if facts.modality == modality])
        for modality in sorted({facts.modality for facts in train})
    ]
    return np.asarray(np.min(by_modality, axis=0))


def _strides(spacing: Triple, levels: int) -> tuple[Zyx, ...]:
    """Halve the finest axes first, until all are alike, then all."""
    now = np.asarray(spacing, dtype=float)
    strides = []
    for _ in range(levels - 1):
        step = np.where(now < 1.5 * now.min(), 2, 1)
        strides.append(cast(Zyx, tuple(int(s) for s in step)))
        now = now * step
    return tuple(strides)


def _patch(extent_voxels: np.ndarray[Any, Any], room: float, multiple: tuple[int, ...]) -> Zyx:
    """As much of the median image as `room` voxels hold, in its proportions."""
    share = min(1.0, (room / math.prod(extent_voxels)) ** (1 / 3))
    sides = [_whole(n * share, m) for n, m in zip(extent_voxels, multiple, strict=True)]
    return cast(Zyx, tuple(max(n, 2 * m) for n, m in zip(sides, multiple, strict=True)))


def _check_patch(patch: Zyx, network: NetworkSpec) -> None:
    multiple, dims = network.multiple_zyx, network.dims
    sides = list(zip(patch, multiple, strict=True))[-dims:]
    if any(n < 2 * m or n % m for n, m in sides) or (dims == 2 and patch[0] != 1):
        wanted = " x ".join(map(str, multiple))
        slices = "; a patch of a 2-D network is one slice deep" if dims == 2 else ""
        raise ConfigError(
            f"patch {' x '.join(map(str, patch))} does not fit the network: its sides (z, y, x) "
            f"must be multiples of {wanted}, and at least twice that{slices}"
        )


def _whole(size: float, multiple: int) -> int:
    """`size` rounded to a multiple, at least one."""
    return max(multiple, round(size / multiple) * multiple)


def _median(rows: list[Triple]) -> np.ndarray[Any, Any]:
    return np.asarray(np.median(rows, axis=0))
