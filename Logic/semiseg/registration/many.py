"""Registration of many pairs, as many at once as the device's memory holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from semiseg.config import RegistrationConfig
from semiseg.devices import is_out_of_memory
from semiseg.errors import SemiSegError
from semiseg.events import Emit, Event, Progress, ignore
from semiseg.registration.aligned import Pair, align
from semiseg.registration.register import (
    RegistrationResult,
    likely_starts,
    measured,
    require_same_spacing,
)
from semiseg.registration.stacked import in_groups
from semiseg.registration.start import Start
from semiseg.registration.trial import choose_starts

_SHARE_OF_FREE = 0.5  # the rest is for what other work on the device may ask for meanwhile
_BYTES_PER_VOXEL = 250  # of the larger image: features, costs, flows with their gradients, fields
_MOST = 64  # beyond it, batches hardly get faster

Outcome = RegistrationResult | SemiSegError


def register_many(
    pairs: Sequence[Pair],
    config: RegistrationConfig,
    emit: Emit = ignore,
    *,
    both_ways: bool = False,
    at_once: int | None = None,
) -> list[Outcome]:
    """What `register` gives for each pair, or why one could not be registered; the others go on.

    Pairs of like size are matched as one batch, padded to a common grid whose padding nothing
    reads, so that fields differ from those of `register` by rounding alone: to 0.1 mm. `at_once`
    is the size of a batch: by default what half of the free memory of a GPU holds, 1 on a CPU. A
    batch for which memory does not suffice after all is halved, which an event says.
    """
    outcomes: dict[int, Outcome] = {}
    fit: list[int] = []
    for number, pair in enumerate(pairs):
        try:
            require_same_spacing(pair.fixed, pair.moving)
            fit.append(number)
        except SemiSegError as error:
            outcomes[number] = error
    progress = Progress(emit, "register", len(pairs))
    for group in _groups(pairs, fit, at_once):
        found = _together([pairs[number] for number in group], config, emit, both_ways=both_ways)
        outcomes |= zip(group, found, strict=True)
        progress.update(len(outcomes))
    return [outcomes[number] for number in range(len(pairs))]


def pairs_at_once(pair: Pair) -> int:
    """How many pairs of this size a batch may hold; 1 on a CPU."""
    device = pair.fixed.device
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(_MOST, int(free * _SHARE_OF_FREE / (_BYTES_PER_VOXEL * _size(pair)))))


def _size(pair: Pair) -> int:
    return max(pair.fixed.array.size, pair.moving.array.size)


def _groups(
    pairs: Sequence[Pair], numbers: Sequence[int], at_once: int | None
) -> list[Sequence[int]]:
    """The pairs of one spacing by size, so that little is padded; largest first."""
    groups: list[Sequence[int]] = []
    for spacing_mm in sorted({pairs[i].fixed.spacing_mm for i in numbers}):
        alike = [i for i in numbers if pairs[i].fixed.spacing_mm == spacing_mm]
        alike.sort(key=lambda i: -_size(pairs[i]))
        groups += in_groups(alike, at_once or pairs_at_once(pairs[alike[0]]))
    return groups


def _together(
    pairs: Sequence[Pair], config: RegistrationConfig, emit: Emit, *, both_ways: bool
) -> list[Outcome]:
    """One batch; in halves where memory does not suffice."""
    try:
        return _batch(pairs, config, both_ways=both_ways)
    except (RuntimeError, MemoryError) as error:
        if len(pairs) == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    text = f"{len(pairs)} registrations at once need more memory than there is; half as many now."
    emit(Event(kind="progress", phase="register", message=text))
    half = len(pairs) // 2
    return [
        outcome
        for part in (pairs[:half], pairs[half:])
        for outcome in _together(part, config, emit, both_ways=both_ways)
    ]


def _batch(pairs: Sequence[Pair], config: RegistrationConfig, *, both_ways: bool) -> list[Outcome]:
    clock = time.perf_counter()
    starts = _starts(pairs, config)
    found = align(pairs, starts, config, both_ways=both_ways)
    outcomes: list[Outcome] = []
    for pair, start, one in zip(pairs, starts, found, strict=True):
        try:
            outcomes.append(measured(pair, start, one))
        except SemiSegError as error:
            outcomes.append(error)
    seconds = (time.perf_counter() - clock) / len(pairs)
    return [
        one if isinstance(one, SemiSegError) else replace(one, seconds=seconds) for one in outcomes
    ]


def _starts(pairs: Sequence[Pair], config: RegistrationConfig) -> list[Start]:
    likely = [likely_starts(pair.fixed, pair.moving) for pair in pairs]
    images = [(pair.fixed, pair.moving) for pair in pairs]
    tried = sum(map(len, likely)) if len(pairs) > 1 else 1
    return choose_starts(images, likely, seed=config.seed, at_once=tried)
