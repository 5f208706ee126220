"""Sizes for networks that see single axial slices, or those with their neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from semiseg.config import TrainConfig
from semiseg.images.grid import Triple
from semiseg.learning.means import Means
from semiseg.networks import NetworkSpec

Zyx = tuple[int, int, int]
FloatArray = np.ndarray[Any, Any]
_COVER = 0.75
_AT_ONCE = 8
_LABELLED_AT_LEAST, _LABELLED_AT_MOST = 4, 12
_PIXELS_AT_LEAST, _PIXELS_AT_MOST = 96**2, 256**2
_SLAB = 4
_THICK, _FEW = 3.0, 16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What `Plan` takes from here."""

    spacing_mm_zyx: Triple
    patch_zyx: Zyx
    n_labelled: int
    network: NetworkSpec


def choose_dims(config: TrainConfig, native_mm: FloatArray, extent_mm: FloatArray) -> str:
    """What `config.dims` says; "auto" takes slices where scans are few thick ones, else volumes.

    Few: fewer than 16. Thick: at least three times the spacing within. There 2-D networks were
    far ahead after the same time (Testing/benchmarks/methods.py acdc, --dims 2 and 3).
    """
    if config.dims != "auto":
        return config.dims
    if config.patch is not None:
        return "2" if config.patch[0] == 1 else "3"
    thick = native_mm[0] >= _THICK * native_mm[1:].max()
    return "2" if thick and extent_mm[0] / native_mm[0] < _FEW else "3"


def slice_plan(
    config: TrainConfig,
    means: Means,
    native_mm: FloatArray,
    extent_mm: FloatArray,
    *,
    voxels_per_step: float,
    n_classes: int,
    neighbours: bool,
) -> Sizes:
    """Whole slices where `voxels_per_step` allow for eight of them, else coarser ones.

    With `neighbours` a patch is a slab of four slices for a 2.5-D network. Slices stay as far
    apart as they were scanned. All arrays and triples z, y, x.
    """
    room = float(np.clip(voxels_per_step / _AT_ONCE, _PIXELS_AT_LEAST, _PIXELS_AT_MOST))
    affordable = math.sqrt(math.prod(_COVER * extent_mm[1:]) / room)
    wish = config.spacing_mm or affordable
    spacing = cast(Triple, (float(native_mm[0]), *(float(max(wish, n)) for n in native_mm[1:])))
    steps = len(means.slice_channels) - 1
    network = NetworkSpec(
        n_classes=n_classes,
        channels=means.slice_channels,
        convolutions=(means.convolutions[0], *(2,) * steps),
        strides=((1, 2, 2) if neighbours else (2, 2),) * steps,
        within_slices=neighbours,
    )
    depth = _SLAB if neighbours else 1
    sides = _patch(extent_mm / np.asarray(spacing), room, network.multiple_zyx)
    patch = config.patch or (depth, *sides)
    fitting = round(voxels_per_step / 2 / math.prod(patch[1:]))
    slices = min(max(fitting, _LABELLED_AT_LEAST), _LABELLED_AT_MOST)
    return Sizes(
        spacing_mm_zyx=spacing,
        patch_zyx=patch,
        n_labelled=config.batch_size or max(slices // depth, 1),
        network=network,
    )


def _patch(extent_voxels: FloatArray, room: float, multiple: Zyx) -> tuple[int, int]:
    """(y, x): as much of the median slice as `room` pixels hold, in its proportions."""
    share = min(1.0, math.sqrt(room / math.prod(extent_voxels[1:])))
    y, x = (
        max(2 * m, round(n * share / m) * m)
        for n, m in zip(extent_voxels[1:], multiple[1:], strict=True)
    )
    return y, x
