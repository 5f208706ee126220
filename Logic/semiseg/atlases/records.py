"""What propagation found last time, so that nothing is done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from semiseg.atlases.cycles import Triangle
from semiseg.atlases.filling import human_voxels
from semiseg.errors import SemiSegError
from semiseg.events import Json
from semiseg.study.case import Case, CaseLabel, Verdict
from semiseg.study.storage import make_folder, read_json, write_json_atomic

# Counts up whenever results change, so that kept outcomes are not mistaken for new ones.
ALGORITHM = 5


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
    """What became of one case; `version` is that of the label written, None if none was.

    `atlases` lent the labels, none where the case was filled between its own slices; over the
    case `via`, if not directly.
    `self_check` is the leave-one-slice-out Dice per structure id.
    """

    case_id: str
    verdict: Verdict
    score: float
    reasons: tuple[str, ...]
    seconds: float
    atlases: tuple[str, ...] = ()
    version: int | None = None
    unchanged: bool = False
    self_check: tuple[tuple[int, float], ...] = ()
    via: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Plain values for events and files."""
        values: dict[str, Json] = json.loads(json.dumps(asdict(self)))
        return values


def content_key(*parts: object) -> str:
    """A digest of plain values."""
    text = json.dumps([ALGORITHM, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def human_key(case: Case, label: CaseLabel | None) -> str:
    """A digest of the image and of all that humans said about it."""
    human = np.zeros(0, dtype=np.bool_) if label is None else human_voxels(label)
    if label is None or not (human.any() or label.ledger.states):
        return content_key(case.image.sha256, case.modality)
    drawn = hashlib.sha256(np.packbits(human).tobytes())
    drawn.update(label.array[human].tobytes())
    return content_key(case.image.sha256, case.modality, drawn.hexdigest(), label.ledger.to_json())


class Records:
    """Outcomes of earlier runs in `folder`, found again by what went into them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, case_id: str, key: str) -> CaseOutcome | None:
        """The outcome kept for the case if the same went into it; corrupt records count as none."""
        return self._read(case_id, key)

    def _read(self, case_id: str, key: str | None) -> CaseOutcome | None:
        path = self._folder / f"{case_id}.json"
        if not path.exists():
            return None
        try:
            values = read_json(path)
            if key is not None and values.get("key") != key:
                return None
            return _outcome(values)
        except (SemiSegError, KeyError, TypeError, ValueError):
            return None

    def kept(self, case_id: str, key: str, label: CaseLabel | None) -> CaseOutcome | None:
        """What `find` gives, if it left no label or the case's newest `label` is still its own."""
        found = self.find(case_id, key)
        if found is None or found.verdict == "reject":
            return found
        return found if label is not None and label.info.get("key") == key else None

    def any_of(self, case_id: str) -> CaseOutcome | None:
        """The outcome kept for the case, whatever went into it."""
        return self._read(case_id, None)

    def keep(self, outcome: CaseOutcome, key: str) -> None:
        """Remembers `outcome` under `key`."""
        make_folder(self._folder)
        write_json_atomic(
            self._folder / f"{outcome.case_id}.json", {"key": key, "outcome": outcome.to_json()}
        )


class Rings:
    """Rings of registrations around each case, kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, case_id: str, triangles: Sequence[Triangle]) -> None:
        """In place of what was known of rings around the case."""
        make_folder(self._folder)
        found: list[Json] = [triangle.to_json() for triangle in triangles]
        write_json_atomic(self._path(case_id), {"algorithm": ALGORITHM, "triangles": found})

    def of(self, case_ids: Iterable[str]) -> tuple[Triangle, ...]:
        """Those around all of `case_ids`; what cannot be read counts as none."""
        return tuple(triangle for case_id in case_ids for triangle in self._read(case_id))

    def _read(self, case_id: str) -> tuple[Triangle, ...]:
        path = self._path(case_id)
        if not path.exists():
            return ()
        try:
            values = read_json(path)
            found = values["triangles"]
            if values["algorithm"] != ALGORITHM or not isinstance(found, list):
                return ()
            return tuple(map(Triangle.from_json, found))
        except (SemiSegError, KeyError, TypeError, ValueError):
            return ()

    def _path(self, case_id: str) -> Path:
        return self._folder / f"{case_id}.json"


def _outcome(values: dict[str, Json]) -> CaseOutcome:
    found = values["outcome"]
    if not isinstance(found, dict):
        raise TypeError("no outcome in the record")
    fields: dict[str, object] = dict(found)
    reasons, atlases, checks = (fields[n] for n in ("reasons", "atlases", "self_check"))
    fields |= {
        "reasons": tuple(reasons),  # type: ignore[arg-type]
        "atlases": tuple(atlases),  # type: ignore[arg-type]
        "self_check": tuple((int(i), float(d)) for i, d in checks),  # type: ignore[attr-defined]
        "unchanged": True,
        "seconds": 0.0,
    }
    return CaseOutcome(**fields)  # type: ignore[arg-type]
