"""Which patients learn, validate and test: decided once per patient, then kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

from semiseg.config import check_range
from semiseg.errors import ConfigError, SchemaError
from semiseg.events import Json
from semiseg.study.case import SPLITS, Split
from semiseg.study.fields import Fields

Fractions: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """`patients` that were assigned keep their split; `seed` and `fractions` rule new ones.

    `fractions` are of train, val and test. Without a seed, patients that nobody assigned count
    as "train" but stay free to be assigned.
    """

    seed: int | None = None
    fractions: Fractions | None = None
    patients: Mapping[str, Split] = field(default_factory=dict)

    def set(self, patient: str, split: Split) -> Splits:
        """With `patient` in `split`, because the user says so."""
        if split not in SPLITS:
            raise ConfigError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
        return replace(self, patients={**self.patients, patient: split})

    def with_patient(self, patient: str) -> Splits:
        """With a new patient assigned by seed and name alone, once there is a seed."""
        if self.seed is None or self.fractions is None or patient in self.patients:
            return self
        train, val, _ = self.fractions
        share = _share(self.seed, patient)
        split: Split = "train" if share < train else "val" if share < train + val else "test"
        return self.set(patient, split)

    def assign(self, patients: Iterable[str], seed: int, fractions: Fractions) -> Splits:
        """With all unassigned `patients` shared out; those assigned before stay.

        They are ordered by a hash of seed and name and fill up each split to its fraction of
        all patients, so that few patients, too, are shared out evenly; at least one learns.
        """
        _require_fractions(fractions)
        free = sorted(set(patients) - set(self.patients), key=lambda name: _share(seed, name))
        chosen = dict(self.patients)
        wanted = _counts(len(free) + len(chosen), fractions)
        room = {
            split: max(wanted[split] - list(chosen.values()).count(split), 0) for split in SPLITS
        }
        for patient in free:
            split = max(SPLITS, key=lambda name: (room[name] > 0, -SPLITS.index(name)))
            room[split] -= 1
            chosen[patient] = split
        return Splits(seed=seed, fractions=fractions, patients=chosen)

    def to_json(self) -> dict[str, Json]:
        """Plain values for study.json."""
        return {
            "seed": self.seed,
            "fractions": list(self.fractions) if self.fractions else None,
            "patients": dict(self.patients),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> Splits:
        """SchemaError when a patient has no valid split."""
        patients = Fields(fields.mapping("patients"), fields.where)
        found = {name: cast(Split, patients.choice(name, SPLITS)) for name in patients.values}
        seed = None if fields.values.get("seed") is None else fields.integer("seed")
        return cls(seed=seed, fractions=_fractions(fields), patients=found)


def _share(seed: int, patient: str) -> float:
    digest = hashlib.sha256(f"{seed}:{patient}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _counts(total: int, fractions: Fractions) -> dict[Split, int]:
    """Whole numbers that sum to `total`, by largest remainder; train is never left empty."""
    exact = [fraction * total for fraction in fractions]
    counts = [math.floor(value + 1e-9) for value in exact]
    order = sorted(range(3), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    if total and not counts[0]:
        counts[counts.index(max(counts))] -= 1
        counts[0] = 1
    return dict(zip(SPLITS, counts, strict=True))


def _require_fractions(fractions: Fractions) -> None:
    for split, fraction in zip(SPLITS, fractions, strict=True):
        check_range(f"the fraction of {split}", fraction, 0, 1)
    if abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"the fractions of the splits must sum to 1, got {sum(fractions):g}")


def _fractions(fields: Fields) -> Fractions | None:
    found = fields.items("fractions")
    if not found:
        return None
    numbers = [n for n in found if isinstance(n, int | float)]
    if len(numbers) != 3 or len(found) != 3:
        raise SchemaError(f"{fields.where}: 'fractions' should be three numbers, found {found}")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
