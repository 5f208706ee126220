"""How sure a model may be: a temperature fitted on held-back cases, and what is left of the error.

A network trained on few labels is too sure of itself. Probabilities p are turned into
p^(1/T) / sum p^(1/T), which keeps the most probable class (temperature scaling, Guo et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from semiseg.data.cases import TrainingCase
from semiseg.events import Json

_BINS = 15
_PER_CHUNK = 20_000
_FOREGROUND = 0.01
_LARGEST = math.log(20.0)
_FEWEST = 200
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature, and the expected calibration error of the most probable class.

    `structures` are (before, after) for each structure's own probability. "After" is measured on
    cases that the temperature was not fitted on where there are two or more (`held_out`).
    """

    temperature: float
    ece_before: float
    ece_after: float
    voxels: int
    cases: int
    held_out: bool
    structures: Mapping[int, tuple[float, float]]

    def to_json(self) -> dict[str, Json]:
        """Plain values for model.json."""
        return {
            "temperature": round(self.temperature, 4),
            "ece_before": round(self.ece_before, 5),
            "ece_after": round(self.ece_after, 5),
            "voxels": self.voxels,
            "cases": self.cases,
            "held_out": self.held_out,
            "structures": {
                str(i): {"ece_before": round(before, 5), "ece_after": round(after, 5)}
                for i, (before, after) in self.structures.items()
            },
        }


class Samples:
    """Probabilities and truth of known voxels near structures, gathered slice by slice."""

    def __init__(self, classes: tuple[int, ...], *, seed: int = 0) -> None:
        self._classes, self._rng = classes, np.random.default_rng(seed)
        self._logs: dict[str, list[Floats]] = {}
        self._truth: dict[str, list[NDArray[np.int64]]] = {}

    def add(self, case: TrainingCase, first: int, probabilities: Tensor) -> None:
        """Takes some voxels of `probabilities` (C, n, H, W), slices `first` on, of a case."""
        known = case.supervision
        if known is None:
            return
        part = slice(first, first + probabilities.shape[1])
        fully: NDArray[np.bool_] = np.asarray(known.patterns.all(axis=1))
        truth = known.label[part]
        seen = (known.valid[part] > 0) & fully[known.pattern[part]]
        near: NDArray[np.bool_] = (1 - probabilities[0] >= _FOREGROUND).cpu().numpy()
        places = np.flatnonzero(np.logical_and(seen, np.logical_or(near, truth > 0)))
        if places.size > _PER_CHUNK:
            places = self._rng.choice(places, _PER_CHUNK, replace=False)
        if places.size:
            chosen = probabilities.flatten(1)[:, torch.from_numpy(places)].T.double().cpu()
            logs = chosen.clamp_min(1e-12).log().numpy()
            self._logs.setdefault(case.id, []).append(logs)
            self._truth.setdefault(case.id, []).append(truth.ravel()[places].astype(np.int64))

    def calibration(self) -> Calibration | None:
        """None where too few voxels are known, or none is of a structure."""
        groups = [
            (np.concatenate(self._logs[case]), np.concatenate(self._truth[case]))
            for case in self._logs
        ]
        if not groups:
            return None
        logs, truth = (np.concatenate([group[k] for group in groups]) for k in (0, 1))
        if len(truth) < _FEWEST or not (truth > 0).any():
            return None
        held_out = len(groups) > 1
        after = np.concatenate(_without_each(groups)) if held_out else None
        temperature = fit_temperature(logs, truth)
        if after is None:
            after = tempered(logs, temperature)
        before = np.exp(logs)
        return Calibration(
            temperature=temperature,
            ece_before=top_ece(before, truth),
            ece_after=top_ece(after, truth),
            voxels=len(truth),
            cases=len(groups),
            held_out=held_out,
            structures={
                structure: (
                    ece(before[:, channel], truth == channel),
                    ece(after[:, channel], truth == channel),
                )
                for channel, structure in enumerate(self._classes)
                if channel and (truth == channel).any()
            },
        )


def fit_temperature(log_probabilities: Floats, truth: NDArray[np.int64]) -> float:
    """The temperature in [1/20, 20] under which `truth` (N,) is most likely."""

    def surprise(log_temperature: float) -> float:
        scaled = log_probabilities / math.exp(log_temperature)
        total = np.logaddexp.reduce(scaled, axis=1)
        return float(np.mean(total - scaled[np.arange(len(truth)), truth]))

    found = optimize.minimize_scalar(surprise, bounds=(-_LARGEST, _LARGEST), method="bounded")
    return math.exp(float(found.x))


def tempered(log_probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (N, C) under a temperature."""
    scaled = log_probabilities / temperature
    return np.asarray(np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)))


def top_ece(probabilities: Floats, truth: NDArray[np.int64]) -> float:
    """Expected calibration error of the most probable class of (N, C), in 15 equal bins."""
    best = probabilities.argmax(axis=1)
    return ece(probabilities[np.arange(len(best)), best], best == truth)


def ece(chance: Floats, happened: NDArray[np.bool_]) -> float:
    """Mean difference of stated chances and what happened, over 15 equal bins, by size."""
    bins = np.minimum((chance * _BINS).astype(np.int64), _BINS - 1)
    stated = np.bincount(bins, weights=chance, minlength=_BINS)
    found = np.bincount(bins, weights=happened.astype(np.float64), minlength=_BINS)
    return float(np.abs(stated - found).sum() / max(1, len(chance)))


def joined(found: Sequence[Mapping[str, Json]]) -> dict[str, Json] | None:
    """One description of several trainings' calibrations; None for none.

    The temperature is the geometric mean, errors are means.
    """
    if not found:
        return None
    numbers = {key: [cast(float, one[key]) for one in found] for key in _NUMBERS}
    total: dict[str, Json] = {
        "temperature": round(float(np.exp(np.mean(np.log(numbers["temperature"])))), 4),
        "ece_before": round(float(np.mean(numbers["ece_before"])), 5),
        "ece_after": round(float(np.mean(numbers["ece_after"])), 5),
        "voxels": int(sum(numbers["voxels"])),
        "cases": int(sum(numbers["cases"])),
        "held_out": all(bool(one["held_out"]) for one in found),
        "trainings": len(found),
    }
    return total if len(found) > 1 else dict(found[0])


_NUMBERS = ("temperature", "ece_before", "ece_after", "voxels", "cases")


def _without_each(groups: Sequence[tuple[Floats, NDArray[np.int64]]]) -> list[Floats]:
    """Each case's probabilities under the temperature of the others."""
    found = []
    for number, (logs, _) in enumerate(groups):
        others = [group for k, group in enumerate(groups) if k != number]
        rest, truth = (np.concatenate([group[k] for group in others]) for k in (0, 1))
        found.append(tempered(logs, fit_temperature(rest, truth)))
    return found
