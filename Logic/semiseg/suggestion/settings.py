"""What is asked of the ranking, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from semiseg.config import check_choice, check_range
from semiseg.errors import StudyError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane


@dataclass(frozen=True, kw_only=True)
class SuggestConfig:
    """`n` slices to draw one after the other; `planes` and `case_ids` (None: all) limit them.

    `at` is the case that is open now. A drawn slice tells of others up to about `reach_mm` away.
    The minutes are `slice_s` per slice, `case_s` for opening another case and the contours'
    length at `mm_per_s`. Before programs spoke, scans are brought to one body for up to
    `register_s` per call.
    """

    n: int = 5
    planes: tuple[Plane, ...] = PLANES
    case_ids: tuple[str, ...] | None = None
    at: str | None = None
    reach_mm: float = 20.0
    slice_s: float = 10.0
    case_s: float = 20.0
    mm_per_s: float = 8.0
    register_s: float = 1.0

    def __post_init__(self) -> None:
        check_range("n", self.n, 1, 1000)
        check_range("reach_mm", self.reach_mm, 1.0, 500.0)
        check_range("slice_s", self.slice_s, 0.1, 3600.0)
        check_range("case_s", self.case_s, 0.0, 3600.0)
        check_range("mm_per_s", self.mm_per_s, 0.1, 1000.0)
        check_range("register_s", self.register_s, 0.0, 1e6)
        for plane in self.planes:
            check_choice("plane", plane, get_args(Plane))
        if not self.planes:
            raise StudyError("no plane to draw in; name axial, coronal or sagittal")


@dataclass(frozen=True, kw_only=True)
class SliceSuggestion:
    """Draw slice `index` (as in the ledger) of a plane of a case.

    `gain` is the mean Dice over the study's cases that this is expected to add: its share of what
    the next few slices of its scan add together. `minutes` is what it costs, `structure_id` the
    structure that gains most (None before any program spoke).
    """

    case_id: str
    plane: Plane
    index: int
    gain: float
    minutes: float
    structure_id: int | None
    reason: str

    @property
    def gain_per_minute(self) -> float:
        """What the ranking goes by."""
        return self.gain / self.minutes

    def to_json(self) -> dict[str, Json]:
        """Plain values for events."""
        return {
            "case": self.case_id,
            "plane": self.plane,
            "index": self.index,
            "gain": round(self.gain, 6),
            "minutes": round(self.minutes, 3),
            "gain_per_minute": round(self.gain_per_minute, 6),
            "structure": self.structure_id,
            "reason": self.reason,
        }
