"""What kinds of devices can do, and the networks that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from semiseg.config import TrainConfig

_NOMINAL_MINUTES = 10.0
_STEM_SPEED = 3.0


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a kind of device can do: nominal training speed, and the limits that follow.

    `channels` are those of 3-D networks, `slice_channels` of 2-D ones. The nominal speed is used
    where no time is to be kept, so that a run of so many steps is the same everywhere. `stem`:
    whether 3-D networks may begin at half resolution; most of what that saves goes into steps.
    """

    voxels_per_s: float
    coarsest_mm: float
    steps_wanted: int
    patch_voxels: int
    n_labelled: int
    channels: tuple[int, ...]
    convolutions: tuple[int, ...]
    slice_channels: tuple[int, ...]
    stem: bool = False


MEANS: Mapping[str, Means] = {
    "cpu": Means(
        voxels_per_s=8e5,
        coarsest_mm=5.0,
        steps_wanted=1200,
        patch_voxels=80**3,
        n_labelled=2,
        channels=(16, 32, 64, 128),
        convolutions=(1, 2, 2, 2),
        slice_channels=(16, 32, 64, 128, 128),
        stem=True,
    ),
    "cuda": Means(
        voxels_per_s=4e7,
        coarsest_mm=3.0,
        steps_wanted=3000,
        patch_voxels=128**3,
        n_labelled=4,
        channels=(32, 64, 128, 256, 320),
        convolutions=(2, 2, 2, 2, 2),
        slice_channels=(32, 64, 128, 256, 512),
    ),
}


def voxels_per_step(
    config: TrainConfig, means: Means, measured_per_s: float | None, *, stem: bool
) -> float:
    """Voxels that a step may have so that enough steps fit into the time.

    Without a time it is that of ten minutes at the nominal speed, on every machine alike. With a
    `stem` steps are three times as fast, and three times as many are wanted.
    """
    measured = None if config.minutes is None else measured_per_s
    minutes = _NOMINAL_MINUTES if config.minutes is None else config.minutes
    factor = _STEM_SPEED if stem else 1.0
    speed = measured or means.voxels_per_s * factor
    return speed * minutes * 60 / (means.steps_wanted * factor)
