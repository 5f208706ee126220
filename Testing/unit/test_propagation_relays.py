"""Cases that atlases serve poorly are served by way of others, at a cost linear in cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from semiseg import propagation
from semiseg.atlases import lending
from semiseg.atlases.gate import Findings
from semiseg.atlases.records import CaseOutcome
from semiseg.config import PropagationConfig, RegistrationConfig
from semiseg.errors import CancelledError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.propagation import missing_pairs, propagate
from semiseg.registration.cache import Source
from semiseg.registration.field import Field
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import RegistrationResult
from semiseg.study.case import GateRecord
from semiseg.study.study import Study

CONFIG = PropagationConfig(
    atlases=2, registration=RegistrationConfig(spacing_mm=4.0, iterations=5, device="cpu")
)
Pairs = list[tuple[str, str]]


def constant(grid: Grid, shift_mm: tuple[float, float, float]) -> Field:
    shift = np.array(shift_mm, dtype=np.float32)[:, None, None, None]
    return Field(displacement_mm=np.broadcast_to(shift, (3, *grid.shape_zyx)).copy(), grid=grid)


class Planted:
    """Stands in for registration: the identity, but for `wrong` pairs; counts what is asked.

    A pair is found once, as from a cache; `asked` holds each pair once, in order.
    """

    def __init__(self, wrong: Mapping[tuple[str, str], float]) -> None:
        self.wrong, self.asked = dict(wrong), list[tuple[str, str]]()
        self.names: dict[str, str] = {}
        self.fails_at = -1

    def __call__(
        self, folder: Path, fixed: Source, moving: Source, *rest: object, both_ways: bool
    ) -> RegistrationResult:
        pair = (self.names[fixed.sha256], self.names[moving.sha256])
        if pair not in self.asked:
            if len(self.asked) == self.fails_at:
                raise CancelledError("stopped")
            self.asked.append(pair)
        here, there = fixed.load(), moving.load()
        error_mm = self.wrong.get(pair, 0.0)
        return self._result(here, there, error_mm)

    def _result(self, here: Prepared, there: Prepared, error_mm: float) -> RegistrationResult:
        return RegistrationResult(
            field=constant(here.grid, (error_mm, 0.0, 0.0)),
            inverse=constant(there.grid, (-error_mm, 0.0, 0.0)),
            folded=0.0,
            similarity_before=0.9,
            similarity_after=0.9,
            inverse_error_mm=0.0,
            start_certainty=1.0,
            start_reason="planted",
            seconds=0.0,
            ways_apart_mm=1.0 + 2 * error_mm,
        )


def judged(found: Findings, names: Mapping[int, str], config: PropagationConfig) -> GateRecord:
    """A gate that looks at the two searches only, so that what is planted decides."""
    apart_mm = max(one.ways_apart_mm for one in found.evidence)
    score = 0.9 if apart_mm < 5 else 0.6 if apart_mm < 50 else 0.4
    verdict = "accept" if score == 0.9 else "down_weight" if score == 0.6 else "reject"
    words = tuple(f"{names[i]} misses by {mm:.0f} mm" for i, mm in found.misses_mm.items())
    return GateRecord(verdict=verdict, score=score, reasons=words or ("planted",))  # type: ignore[arg-type]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planted]:
    def plant(study: Study, wrong: Mapping[tuple[str, str], float] | None = None) -> Planted:
        found = Planted(wrong or {})
        found.names = {case.image.sha256: case.id for case in study.cases.values()}
        monkeypatch.setattr(propagation, "cached_register", found)
        monkeypatch.setattr(lending, "judge_transfer", judged)
        return found

    return plant


def by_id(outcomes: tuple[CaseOutcome, ...]) -> dict[str, CaseOutcome]:
    return {outcome.case_id: outcome for outcome in outcomes}


def poor(*cases: str) -> dict[tuple[str, str], float]:
    """Both atlases, c0 and c1, are 30 mm off for `cases`."""
    return {(case, atlas): 30.0 for case in cases for atlas in ("c0", "c1")}


def test_a_case_that_atlases_serve_poorly_is_served_by_way_of_another(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2)
    asked = planted(study, poor("c3"))
    events: list[Event] = []
    found = by_id(propagate(study, CONFIG, events.append).cases)
    assert (found["c2"].via, found["c2"].verdict) == (None, "accept")
    assert (found["c3"].via, found["c3"].verdict) == ("c2", "accept")
    assert found["c3"].atlases == ("c0", "c1")
    assert asked.asked.count(("c3", "c2")) == 1
    label, right = study.label("c3"), study.label("c2")
    assert label is not None
    assert right is not None
    assert label.info["via"] == "c2"
    overlap = (label.array == right.array) & (right.array > 0)
    assert overlap.sum() > 0.8 * (right.array > 0).sum()
    gate = study.cases["c3"].gate
    assert gate is not None
    assert any("c0 and c1 came by way of c2" in reason for reason in gate.reasons)
    told = [e.data for e in events if e.data.get("case") == "c3" and "verdict" in e.data]
    assert [one["via"] for one in told] == ["c2"]
    steps = [e for e in events if e.phase == "propagate"]
    assert steps[-1].step == steps[-1].total
    counts = [e.step for e in steps if e.step is not None]
    assert counts == sorted(counts)


def test_a_way_over_another_case_is_not_taken_where_it_is_no_better(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2)
    planted(study, {**poor("c3"), ("c3", "c2"): 40.0})
    found = by_id(propagate(study, CONFIG).cases)["c3"]
    assert (found.via, found.verdict) == (None, "reject")
    assert "misses by" in found.reasons[0]  # the rings are evidence all the same
    assert study.label("c3") is None


def test_a_doubtful_case_hands_on_to_one_that_is_served_worse(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2)
    doubtful = {("c2", atlas): 5.0 for atlas in ("c0", "c1")}
    asked = planted(study, {**doubtful, **poor("c3")})
    found = by_id(propagate(study, CONFIG).cases)
    assert (found["c3"].via, found["c3"].verdict) == ("c2", "down_weight")
    assert (found["c2"].via, found["c2"].verdict) == (None, "down_weight")
    assert ("c2", "c3") not in asked.asked


def test_nothing_is_done_twice_with_intermediates_either(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2)
    asked = planted(study, poor("c3"))
    propagate(study, CONFIG)
    versions = {i: study.label_versions(i) for i in study.cases}
    before = len(asked.asked)
    again = by_id(propagate(study, CONFIG).cases)
    assert all(outcome.unchanged for outcome in again.values())
    assert again["c3"].via == "c2"
    assert {i: study.label_versions(i) for i in study.cases} == versions
    assert len(asked.asked) == before
    assert not [pair for pair in missing_pairs(study, CONFIG) if pair.target == "c3"]


def test_an_intermediate_that_is_gone_gives_way_to_the_atlases(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2)
    planted(study, poor("c3"))
    propagate(study, CONFIG)
    study.set_split("c2", "test")
    found = propagate(study, CONFIG, case_ids=["c3"]).cases[0]
    assert (found.via, found.verdict) == (None, "reject")
    gate = study.cases["c3"].gate
    assert gate is not None
    assert gate.verdict == "reject"


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted], tmp_path: Path
) -> None:
    study = phantom_study(("CT",) * 5, annotated=2)
    whole = planted(study, poor("c2", "c4"))
    for stop in range(1, 8):
        whole.fails_at = stop
        with pytest.raises(CancelledError):
            propagate(study, CONFIG)
    whole.fails_at = -1
    found = by_id(propagate(study, CONFIG).cases)
    assert {i: found[i].via for i in ("c2", "c3", "c4")} == {"c2": "c3", "c3": None, "c4": "c3"}
    assert all(study.label_versions(i) == (1,) for i in ("c2", "c3", "c4"))


@pytest.mark.parametrize("n", [3, 6])
def test_the_cost_is_at_most_one_registration_more_per_case(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted], n: int
) -> None:
    study = phantom_study(("CT",) * (2 + 2 * n), annotated=2)
    targets = [f"c{2 + k}" for k in range(2 * n)]
    asked = planted(study, poor(*targets[::2]))
    propagate(study, CONFIG)
    assert len(asked.asked) == 2 * len(targets) + n  # two atlases each; one more for the poor


@pytest.mark.parametrize("split", ["val", "test"])
def test_cases_kept_for_validation_and_testing_hand_nothing_on(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted], split: str
) -> None:
    splits = ("train", "train", split, "train")
    study = phantom_study(("CT",) * 4, annotated=2, splits=splits)
    asked = planted(study, poor("c3"))
    found = by_id(propagate(study, CONFIG).cases)
    assert (found["c3"].via, found["c3"].verdict) == (None, "reject")
    assert ("c3", "c2") not in asked.asked


def test_human_labels_of_held_out_cases_never_travel(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    splits = ("train", "train", "test", "train", "train")
    study = phantom_study(("CT",) * 5, annotated=3, splits=splits)
    asked = planted(study, poor("c4"))
    found = by_id(propagate(study, CONFIG).cases)
    assert found["c4"].via == "c3"
    assert all("c2" not in pair for pair in asked.asked)
    assert all("c2" not in outcome.atlases for outcome in found.values())


def test_a_case_kept_for_testing_may_be_reached_over_a_training_case(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2, splits=("train", "train", "train", "test"))
    planted(study, poor("c3"))
    assert by_id(propagate(study, CONFIG).cases)["c3"].via == "c2"


def test_a_map_that_rings_show_to_be_wrong_lends_nothing(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 4, annotated=2)
    planted(study, {("c3", "c1"): 30.0})
    found = by_id(propagate(study, CONFIG).cases)["c3"]
    assert (found.via, found.atlases, found.verdict) == (None, ("c0",), "accept")


def test_an_old_study_without_descriptors_or_rings_gets_them(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT",) * 9, annotated=2)
    planted(study, poor("c8"))
    propagate(study, CONFIG)
    folder = study.cache_dir / "descriptors"
    kept = sorted(path.name for path in folder.glob("*.npy"))
    assert len(kept) == 7
    for path in (*folder.glob("*"), *(study.cache_dir / "propagation" / "rings").glob("*")):
        path.unlink()
    assert by_id(propagate(study, CONFIG).cases)["c8"].unchanged
    assert sorted(path.name for path in folder.glob("*.npy")) == kept


def test_cases_of_the_other_modality_do_not_hand_on(
    phantom_study: Callable[..., Study], planted: Callable[..., Planted]
) -> None:
    study = phantom_study(("CT", "CT", "MR", "CT"), annotated=2)
    asked = planted(study, poor("c3"))
    assert by_id(propagate(study, CONFIG).cases)["c3"].via is None
    assert ("c3", "c2") not in asked.asked
