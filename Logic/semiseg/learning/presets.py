"""Protocols of published tables as ready settings, to be held against what was published."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from semiseg.config import TrainConfig
from semiseg.errors import ConfigError

if TYPE_CHECKING:
    from semiseg.learning.survey import Survey

_AS_SCANNED_MM = 0.2


@dataclass(frozen=True, kw_only=True)
class Preset:
    """`settings` of `TrainConfig` by name, and in words where they are from and what is not."""

    settings: Mapping[str, object]
    words: str


PRESETS: Mapping[str, Preset] = {
    "dtc-la": Preset(
        # The released training of the left atrium; spacing is never finer than that of the scans.
        settings={
            "method": "dtc+optimizer=sgd",
            "minutes": None,
            "steps": 6000,
            "learning_rate": 0.01,
            "batch_size": 2,
            "dims": "3",
            "patch": (80, 112, 112),
            "spacing_mm": _AS_SCANNED_MM,
            "use_propagated": False,
            "sparing": False,
            "deep_supervision": False,
            "atlas_warps": False,
            "bridging": False,
            "start_from": None,
        },
        words=(
            "DTC's table on the left atrium (AAAI 2021): 6000 steps of 2 labelled and 2 unlabelled "
            "patches of 112 x 112 x 80 voxels, SGD from 0.01, a tenth after 2500 and 5000. "
            "Network, augmentation, warm-up, clipped gradients and averaged weights are ours."
        ),
    ),
}


def preset_help() -> str:
    """All presets for `--help`."""
    return " ".join(f"{name}: {preset.words}" for name, preset in PRESETS.items())


def with_preset(name: str, config: TrainConfig, asked: Collection[str] = ()) -> TrainConfig:
    """`config` with all that the preset sets.

    ConfigError for an unknown preset, and where the user `asked` for another value of a setting.
    """
    settings = _preset(name).settings
    _require_same(name, config, [key for key in settings if key in asked])
    return replace(config, preset=name, **settings)  # type: ignore[arg-type]


def require_preset(config: TrainConfig, found: Survey, *, processes: int) -> None:
    """ConfigError where what the preset promises cannot hold for these scans and processes."""
    if config.preset is None:
        return
    name = config.preset
    _require_same(name, config, _preset(name).settings)
    if processes > 1:
        raise ConfigError(
            f"the preset {name!r} learns from 4 patches a step, and {processes} processes would "
            f"make {4 * processes} of them; train with one process, or without the preset"
        )
    if all(facts.human_ids for facts in found.train):
        raise ConfigError(
            f"the preset {name!r} takes half of its patches from scans without labels, and all "
            f"{len(found.train)} training scans have some; add scans, or train without the preset"
        )
    if len(found.classes) > 2:
        raise ConfigError(
            f"the preset {name!r} was published for one structure, and {len(found.classes) - 1} "
            "are drawn; train on one, or without the preset"
        )


def _require_same(name: str, config: TrainConfig, keys: Collection[str]) -> None:
    settings = _preset(name).settings
    for key in keys:
        value = getattr(config, key)
        if value != settings[key]:
            raise ConfigError(
                f"the preset {name!r} sets {key} to {settings[key]}, but {value} was asked for; "
                f"leave {key} to the preset, or train without it"
            )


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
