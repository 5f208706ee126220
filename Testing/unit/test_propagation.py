"""Propagation: from slices to volumes and on to other cases, with a gate and a human's rights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semiseg.atlases import library
from semiseg.atlases.library import Library
from semiseg.config import PropagationConfig, RegistrationConfig, SliceConfig
from semiseg.errors import CasesFailedError, NotEnoughLabelsError, SemiSegError
from semiseg.events import Event
from semiseg.images.grid import Grid, canonical
from semiseg.images.reading import write_image
from semiseg.propagation import propagate
from semiseg.study.case import Origin
from semiseg.study.ledger import SliceState
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

SHAPE = (20, 24, 26)
SPACING = (4.0, 3.0, 6.0)  # x, y, z
TURNED = (0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0)
ALL_DONE = tuple(range(2, 18, 3))
FAST = PropagationConfig(
    registration=RegistrationConfig(spacing_mm=5.0, iterations=10, grid_mm=20.0, device="cpu")
)
ACCEPTING = PropagationConfig(registration=FAST.registration, accept_above=0.0, reject_below=0.0)


def body(shift: int = 0, modality: str = "CT", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A body with two organs and a spine, moved by `shift` voxels along y."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE, dtype=np.float64)
    y = y - shift
    inside = ((y - 12) / 9) ** 2 + ((x - 13) / 11) ** 2 < 1
    liver = ((z - 10) / 8) ** 2 + ((y - 11) / 5) ** 2 + ((x - 8) / 4) ** 2 < 1
    spleen = ((z - 11) / 7) ** 2 + ((y - 13) / 4) ** 2 + ((x - 18) / 3) ** 2 < 1
    spine = ((y - 18) / 2) ** 2 + ((x - 13) / 2) ** 2 < 1
    parts = [spine, liver, spleen, inside]
    greys = {"CT": (400.0, 110.0, 170.0, 0.0), "MR": (100.0, 500.0, 250.0, 900.0)}[modality]
    image = np.select(parts, greys, -1000.0 if modality == "CT" else 0.0)
    image = image + rng.normal(0, 8, SHAPE)
    label = np.select([liver, spleen], [1, 2]).astype(np.uint16)
    return image.astype(np.float32), label


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    def build(*cases: tuple[str, str, int], direction: tuple[float, ...] | None = None) -> Study:
        """A study with cases (id, modality, shift); those whose id starts with "a" have slices."""
        protocol = Protocol((common_structure("liver", 1), common_structure("spleen", 2)))
        study = Study.create(tmp_path / "study", name="bodies", protocol=protocol)
        for number, (case_id, modality, shift) in enumerate(cases):
            image, label = body(shift, modality, number)
            grid = Grid(size_xyz=SHAPE[::-1], spacing_mm_xyz=SPACING)
            path = tmp_path / f"{case_id}.nii.gz"
            write_image(path, image, grid)
            study.add_case(path, case_id=case_id, modality=modality)  # type: ignore[arg-type]
            if case_id.startswith("a"):
                study.annotate(case_id, drawn(label), plane="axial", indices=ALL_DONE)
        return study

    return build


def drawn(label: np.ndarray, indices: tuple[int, ...] = ALL_DONE) -> np.ndarray:
    out = np.zeros_like(label)
    out[list(indices)] = label[list(indices)]
    return out


def overlap(array: np.ndarray, label: np.ndarray, number: int) -> float:
    found, true = array == number, label == number
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


def test_an_annotated_case_is_filled_between_its_slices(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0))
    (outcome,) = propagate(study, FAST).cases
    label = study.label("a0")
    assert label is not None
    assert outcome.verdict == "accept"
    assert outcome.version == label.version == 2
    assert overlap(label.array, body()[1], 1) > 0.9
    assert set(np.unique(label.origin)) >= {Origin.HUMAN, Origin.PROPAGATED}
    assert dict(outcome.self_check)[1] > 0.8
    assert "Dice" in outcome.reasons[0]
    gate = study.cases["a0"].gate
    assert gate is not None
    assert gate.reasons == outcome.reasons


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_labels_reach_a_case_that_nobody_drew(make: Callable[..., Study], modality: str) -> None:
    study = make(("a0", "CT", 0), ("u1", modality, 2))
    summary = propagate(study, ACCEPTING)
    outcome = summary.cases[1]
    label = study.label("u1")
    assert label is not None
    assert outcome.atlases == ("a0",)
    assert overlap(label.array, body(2)[1], 1) > 0.75
    assert not np.isin(label.origin, [Origin.HUMAN, Origin.CORRECTED]).any()
    assert 0 <= label.confidence.min() <= label.confidence.max() <= 1


def test_several_atlases_agree_or_say_that_they_do_not(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("a1", "MR", 1), ("u2", "CT", 2))
    outcome = propagate(study, ACCEPTING, case_ids=["u2"]).cases[0]
    assert set(outcome.atlases) == {"a0", "a1"}
    label = study.label("u2")
    assert label is not None
    assert overlap(label.array, body(2)[1], 1) > 0.75
    assert study.label_versions("a0") == (1,)  # lends without being asked for itself


def test_an_atlas_without_a_structure_does_not_vote_against_it(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("b1", "CT", 1), ("b2", "CT", 1), ("u3", "CT", 2))
    for case_id in ("b1", "b2"):
        without = np.where(body(1)[1] == 2, 0, body(1)[1]).astype(np.uint16)
        study.annotate(case_id, drawn(without), plane="axial", indices=ALL_DONE)
    outcome = propagate(study, ACCEPTING, case_ids=["u3"]).cases[0]
    label = study.label("u3")
    assert label is not None
    assert len(outcome.atlases) == 3
    assert overlap(label.array, body(2)[1], 2) > 0.7
    assert Library(study, ACCEPTING).atlas("b1").ids == (1,)


def test_one_more_atlas_brings_what_the_others_do_not_have(make: Callable[..., Study]) -> None:
    study = make(("b0", "CT", 0), ("b1", "CT", 1), ("u2", "CT", 2))
    for case_id, shift, structure in (("b0", 0, 1), ("b1", 1, 2)):
        alone = np.where(body(shift)[1] == structure, structure, 0).astype(np.uint16)
        study.annotate(case_id, drawn(alone), plane="axial", indices=ALL_DONE)
    events: list[Event] = []
    one = replace(ACCEPTING, atlases=1)
    outcome = propagate(study, one, events.append, case_ids=["u2"]).cases[0]
    label = study.label("u2")
    assert label is not None
    assert set(outcome.atlases) == {"b0", "b1"}
    assert overlap(label.array, body(2)[1], 1) > 0.7
    assert overlap(label.array, body(2)[1], 2) > 0.7
    assert all(event.step <= event.total for event in events if event.total)


def test_a_rejected_case_gets_a_verdict_and_no_voxels(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 2))
    strict = PropagationConfig(registration=FAST.registration, accept_above=1.0, reject_below=1.0)
    outcome = propagate(study, strict, case_ids=["u1"]).cases[0]
    assert outcome.verdict == "reject"
    assert outcome.version is None
    assert study.label("u1") is None
    gate = study.cases["u1"].gate
    assert gate is not None
    assert gate.verdict == "reject"
    assert propagate(study, strict, case_ids=["u1"]).cases[0].unchanged


def test_weighting_down_lowers_the_confidence(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 2))
    propagate(study, ACCEPTING, case_ids=["u1"])
    sure = study.label("u1")
    doubting = PropagationConfig(registration=FAST.registration, accept_above=1.0, reject_below=0.0)
    assert propagate(study, doubting, case_ids=["u1"]).cases[0].verdict == "down_weight"
    unsure = study.label("u1")
    assert sure is not None
    assert unsure is not None
    assert unsure.version == sure.version + 1
    assert unsure.confidence.max() < 0.6 * sure.confidence.max()


def test_nothing_is_done_twice(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 1))
    first = propagate(study, ACCEPTING)
    events: list[Event] = []
    second = propagate(study, ACCEPTING, events.append)
    assert [o.unchanged for o in first.cases] == [False, False]
    assert [o.unchanged for o in second.cases] == [True, True]
    assert [study.label_versions(i) for i in ("a0", "u1")] == [(1, 2), (1,)]
    assert any("unchanged" in event.message for event in events)
    study.mark_slices("a0", "axial", [10], SliceState.DONE)
    third = propagate(study, ACCEPTING)
    assert [o.unchanged for o in third.cases] == [False, False]


def test_a_damaged_record_is_no_record(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0))
    propagate(study, FAST)
    (path,) = (study.cache_dir / "propagation").glob("*.json")
    for content in ("{", "[]", json.dumps({**json.loads(path.read_text()), "outcome": 3})):
        path.write_text(content)
        assert not propagate(study, FAST).cases[0].unchanged


def test_human_voxels_are_never_changed(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 2))
    scribble = np.zeros(SHAPE, dtype=np.uint16)
    scribble[10, 2:4, 2:4] = 2  # where no spleen is: a human's word all the same
    study.annotate("u1", scribble)
    before = {case_id: study.label(case_id) for case_id in study.cases}
    propagate(study, ACCEPTING)
    propagate(study, PropagationConfig(registration=FAST.registration, atlases=1))
    for case_id, old in before.items():
        new = study.label(case_id)
        assert old is not None
        assert new is not None
        human = old.origin == Origin.HUMAN
        np.testing.assert_array_equal(new.array[human], old.array[human])
        assert (new.origin[human] == Origin.HUMAN).all()
        assert (new.confidence[human] == 1).all()


def test_a_lost_human_voxel_stops_the_work(
    make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(("a0", "CT", 0))
    honest = study.label

    def forgetful(case_id: str, version: int | None = None):
        label = honest(case_id, version)
        if label is not None and version == 2:
            label.array[...] = 0
        return label

    monkeypatch.setattr(study, "label", forgetful)
    with pytest.raises(SemiSegError, match="version 1 still has them"):
        propagate(study, FAST)


def test_missing_structures_are_lent_to_a_case_that_is_drawn_in_part(
    make: Callable[..., Study],
) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 1))
    label = body(1)[1]
    only_liver = np.where(label == 1, label, 0).astype(np.uint16)
    study.annotate("u1", drawn(only_liver), plane="axial", indices=ALL_DONE, structure_ids=[1])
    outcome = propagate(study, ACCEPTING, case_ids=["u1"]).cases[0]
    found = study.label("u1")
    assert found is not None
    assert outcome.atlases == ("a0",)
    assert overlap(found.array, label, 1) > 0.9
    assert overlap(found.array, label, 2) > 0.6
    assert any("from other cases" in reason for reason in outcome.reasons)


def test_a_rejected_loan_leaves_the_own_slices(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 1))
    label = np.where(body(1)[1] == 1, 1, 0).astype(np.uint16)
    label[8] = np.roll(label[8], 2, axis=1)  # so that even its own slices are not accepted
    study.annotate(
        "u1",
        drawn(label),
        plane="axial",
        indices=ALL_DONE,
        structure_ids=[1],
    )
    strict = PropagationConfig(registration=FAST.registration, accept_above=1, reject_below=1)
    outcome = propagate(study, strict, case_ids=["u1"]).cases[0]
    found = study.label("u1")
    assert found is not None
    assert set(np.unique(found.array)) == {0, 1}
    assert outcome.verdict == "down_weight"


def test_only_the_training_split_lends_labels(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 1))
    study.set_split("a0", "test")
    summary = propagate(study, ACCEPTING)
    assert [outcome.case_id for outcome in summary.cases] == ["a0"]
    assert "training split" in summary.skipped["u1"]


def test_without_any_done_slice_it_says_what_to_do(make: Callable[..., Study]) -> None:
    with pytest.raises(NotEnoughLabelsError, match="mark these as done"):
        propagate(make(("u0", "CT", 0)), FAST)


def test_each_case_is_told_as_soon_as_it_is_ready(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0), ("u1", "CT", 1))
    events: list[Event] = []
    propagate(study, ACCEPTING, events.append)
    results = [event for event in events if "verdict" in event.data]
    assert [event.data["case"] for event in results] == ["a0", "u1"]
    assert all(event.data["saved"] == (event.data["version"] is not None) for event in results)
    steps = [e for e in events if e.kind == "progress" and e.phase == "propagate"]
    assert steps[-1].step == steps[-1].total == 2
    assert events.index(results[0]) < len(events) - 1
    for event in events:
        json.loads(event.to_line())


def test_a_case_that_is_removed_meanwhile_is_told_and_the_others_go_on(
    make: Callable[..., Study],
) -> None:
    study = make(("a0", "CT", 0), ("a1", "CT", 1), ("a2", "CT", 1))
    events: list[Event] = []

    def emit(event: Event) -> None:
        if not events:
            Study.open(study.folder).remove_case("a1")
        events.append(event)

    with pytest.raises(CasesFailedError, match=r"2 of 3 cases .*a1 was removed from the study"):
        propagate(study, FAST, emit)
    saved = [event.data["case"] for event in events if event.data.get("saved")]
    assert saved == ["a0", "a2"]
    assert [event.data["case"] for event in events if "error" in event.data] == ["a1"]
    assert not (study.folder / "cases" / "a1").exists()


def test_turned_and_flipped_files_give_the_same_result(
    make: Callable[..., Study], tmp_path: Path
) -> None:
    study = make(("a0", "CT", 0))
    image, label = body()
    straight = Grid(size_xyz=SHAPE[::-1], spacing_mm_xyz=SPACING)
    turned = Grid(
        size_xyz=(SHAPE[0], SHAPE[1], SHAPE[2]),
        spacing_mm_xyz=(6.0, 3.0, 4.0),
        origin_mm_lps=(0.0, 3.0 * (SHAPE[1] - 1), 0.0),
        direction=TURNED,
    )
    turn = canonical(turned)
    assert turn.grid.difference(straight) is None
    write_image(tmp_path / "t.nii.gz", turn.invert(image) + 1e-3, turned)
    study.add_case(tmp_path / "t.nii.gz", case_id="a1", modality="CT")
    study.annotate("a1", turn.invert(drawn(label)), plane="axial", indices=ALL_DONE)
    propagate(study, FAST)
    first, second = study.label("a0"), study.label("a1")
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(turn.apply(second.array), first.array)
    np.testing.assert_allclose(turn.apply(second.confidence), first.confidence, atol=0.02)


def test_the_same_modality_and_a_sure_place_choose_the_atlas(
    make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(("a0", "MR", 0), ("a1", "CT", 0), ("a2", "CT", 1), ("u3", "CT", 1))
    one = PropagationConfig(registration=FAST.registration, atlases=1)
    chosen = library.Library(study, one)
    target = study.cases["u3"]
    assert chosen.lenders(target) == ("a0", "a1", "a2")
    (best,) = chosen.choose(target, chosen.lenders(target))
    assert study.cases[best].modality == "CT"


def test_slices_alone_can_be_asked_for_by_shape(make: Callable[..., Study]) -> None:
    study = make(("a0", "CT", 0))
    by_shape = PropagationConfig(slices=SliceConfig(image_guided=False))
    assert propagate(study, by_shape).cases[0].verdict == "accept"
    label = study.label("a0")
    assert label is not None
    assert label.info["config"]["slices"]["image_guided"] is False  # type: ignore[index, call-overload]


def test_a_case_with_empty_slices_alone_lends_nothing(make: Callable[..., Study]) -> None:
    study = make(("a1", "CT", 0), ("b1", "CT", 1), ("c1", "CT", 0))
    study.mark_slices("b1", "axial", [0, 19], SliceState.EMPTY, [1, 2])
    found = {case.case_id: case for case in propagate(study, ACCEPTING).cases}
    assert found["c1"].atlases == ("a1",)
    only = {case.case_id: case for case in propagate(study, ACCEPTING, case_ids=["a1"]).cases}
    assert only["a1"].atlases == ()


def test_empty_slices_do_not_keep_other_cases_labels_away(make: Callable[..., Study]) -> None:
    study = make(("a1", "CT", 0), ("b1", "CT", 1))
    study.mark_slices("b1", "axial", [0, 1, 19], SliceState.EMPTY, [1, 2])
    propagate(study, ACCEPTING)
    label = study.label("b1")
    assert label is not None
    assert overlap(label.array, body(1)[1], 1) > 0.5
    assert not label.array[[0, 1, 19]].any()
