"""Suggestions: what programs say where no human decided, and taking it back; removed cases."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semiseg.errors import ProtocolError, SchemaError, StudyError
from semiseg.export import export_study, segmentation
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.report.history import label_history
from semiseg.study.case import PROTECTED, GateRecord, Origin
from semiseg.study.ledger import SliceState
from semiseg.study.measures import mean_uncertainty
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study
from semiseg.study.suggestion import Suggestion

_GRID = Grid(size_xyz=(7, 6, 5), spacing_mm_xyz=(1.0, 2.0, 3.0))
_SHAPE = _GRID.shape_zyx
_ACCEPT = GateRecord(verdict="accept", score=0.9)
_DOUBT = GateRecord(verdict="down_weight", score=0.4, reasons=("thin",))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study with the cases "c" and "d" and the structures 1 liver and 2 spleen."""
    study = Study.create(tmp_path / "study", name="s", protocol=parse_structures("liver,spleen"))
    for number, name in enumerate("cd"):
        noise = np.random.default_rng(number).normal(0, 300, _SHAPE)
        write_image(tmp_path / f"{name}.nii.gz", noise.astype(np.int16), _GRID)
        study.add_case(tmp_path / f"{name}.nii.gz", case_id=name, patient="p")
    return study


def _map(value: int = 0) -> NDArray[np.uint16]:
    return np.full(_SHAPE, value, np.uint16)


def _weights(value: float = 0.5) -> NDArray[np.float32]:
    return np.full(_SHAPE, value, np.float32)


def _propagate(study: Study, value: int, *, gate: GateRecord = _ACCEPT, atlas: str = "d") -> int:
    """Sets the last three slices; the version."""
    found = _map()
    found[2:] = value
    version = study.propagated(
        "c", found, _weights(), structure_ids=[1, 2], gate=gate, info={"atlases": [atlas]}
    )
    assert version is not None
    return version


def _predict(study: Study, value: int, model_id: int = 1) -> int:
    found = _map()
    found[1:4] = value
    return study.predicted("c", found, _weights(0.25), model_id=model_id, info={})


def _draw(study: Study) -> None:
    """The human has slice 2 done, with the spleen in half of it."""
    drawn = _map()
    drawn[2, :3] = 2
    study.annotate("c", drawn, plane="axial", indices=[2])


def _suggested(study: Study) -> Suggestion:
    found = study.suggestion("c")
    assert found is not None
    return found


def test_without_a_program_nothing_is_suggested(study: Study) -> None:
    assert study.suggestion("c") is None
    assert study.newest_said("c") is None
    human = study.human_map("c")
    assert (human.version, human.array.any()) == (0, False)
    _draw(study)
    assert study.suggestion("c") is None
    with pytest.raises(StudyError, match="c: there is no propagation or segmentation to take"):
        study.withdraw_suggestion("c")


def test_the_human_map_holds_what_was_drawn_or_corrected_and_nothing_else(study: Study) -> None:
    _propagate(study, 1)
    drawn = _map()
    drawn[3] = 2
    study.annotate("c", drawn)
    human = study.human_map("c")
    assert human.version == 2
    assert np.array_equal(human.array, drawn)


def test_a_removed_structure_is_in_neither_map(study: Study) -> None:
    _draw(study)
    _predict(study, 1)
    study.set_protocol(study.protocol.remove(2), force=True)
    assert not study.human_map("c").array.any()
    study.set_protocol(parse_structures("2=spleen"), force=True)
    assert (study.human_map("c").array == 2).any()
    assert not _suggested(study).array.any()


def test_a_damaged_label_gives_way_to_the_one_before_it(study: Study) -> None:
    _draw(study)
    study.annotate("c", _map(1))
    (study.folder / "cases/c/labels/0002/origin.nrrd").write_bytes(b"x")
    assert study.human_map("c").version == 1
    assert any("labels version 2" in problem.message for problem in study.problems)


def test_a_propagation_is_suggested_where_no_human_decided(study: Study) -> None:
    _draw(study)
    _propagate(study, 1)
    found = _suggested(study)
    assert (found.source, found.version, found.text) == ("propagated", 2, "propagated from d")
    expected = _map()
    expected[3:] = 1
    assert np.array_equal(found.array, expected)
    assert found.uncertainty is not None
    assert np.allclose(found.uncertainty[3:], 0.5)
    assert not found.uncertainty[2].any()


def test_a_case_filled_between_its_own_slices_says_so(study: Study) -> None:
    _draw(study)
    study.propagated(
        "c", _map(1), _weights(), structure_ids=[1], gate=_ACCEPT, info={"atlases": []}
    )
    assert _suggested(study).text == "filled between the drawn slices"


def test_a_newer_prediction_is_suggested_without_what_humans_finished(study: Study) -> None:
    _propagate(study, 1)
    _draw(study)
    _predict(study, 1, model_id=4)
    found = _suggested(study)
    assert (found.source, found.version, found.text) == ("predicted", 1, "model 4")
    expected = _map()
    expected[[1, 3]] = 1
    assert np.array_equal(found.array, expected)
    assert found.uncertainty is not None
    assert np.allclose(found.uncertainty, 0.25)


def test_a_propagation_after_a_prediction_is_the_newer_word(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    _predict(study, 1)
    monkeypatch.setattr("semiseg.study.versions.utc_now", lambda: "2999-01-01T00:00:00.000+00:00")
    _propagate(study, 2)
    assert _suggested(study).source == "propagated"
    _draw(study)  # a later label version is no later word of a program
    assert _suggested(study).version == 1


def test_a_prediction_is_taken_back_and_its_folder_stays(study: Study) -> None:
    _propagate(study, 2)
    for model_id in (1, 2):
        _predict(study, 1, model_id)
    assert study.withdraw_suggestion("c") == "c: took back model 2; shown now: model 1"
    other = Study.open(study.folder)
    assert other.prediction_versions("c") == (1,)
    prediction = other.prediction("c")
    assert prediction is not None
    assert (prediction.version, prediction.model_id) == (1, 1)
    assert other.prediction("c", 2) is not None
    assert "shown now: propagated from d" in study.withdraw_suggestion("c")
    assert study.prediction("c") is None
    assert _predict(study, 1, 3) == 3
    assert study.prediction_versions("c") == (3,)
    assert _suggested(study).text == "model 3"
    assert study.journal.read()[-2].data == {"case": "c", "source": "predicted", "version": 1}


def test_a_propagation_is_taken_back_to_the_one_before_it(study: Study) -> None:
    _draw(study)
    _propagate(study, 1, gate=_DOUBT)
    one = study.label("c")
    _propagate(study, 2)
    drawn = study.human_map("c").array
    drawn[4, 0] = 2
    study.annotate("c", drawn)
    assert "shown now: propagated from d" in study.withdraw_suggestion("c")
    back = study.label("c")
    assert one is not None
    assert back is not None
    assert back.version == 5
    human = np.isin(back.origin, PROTECTED)
    assert (back.array[human] == drawn[human]).all()
    for name in ("array", "origin", "confidence"):
        assert np.array_equal(getattr(back, name)[~human], getattr(one, name)[~human])
    assert study.cases["c"].gate == _DOUBT
    assert _suggested(study).version == 2
    assert study.withdraw_suggestion("c").endswith("nothing is suggested now")
    assert study.suggestion("c") is None
    label = study.label("c")
    assert label is not None
    assert label.propagated_ids == ()
    assert not (label.origin == Origin.PROPAGATED).any()
    assert np.array_equal(study.human_map("c").array, drawn)
    assert Study.open(study.folder).cases["c"].gate is None
    assert study.label_versions("c") == (1, 2, 3, 4, 5, 6)
    _propagate(study, 1)
    assert _suggested(study).version == 7
    assert not label_history(study.folder / "cases/c/labels").authors
    study.withdraw_suggestion("c")
    assert not label_history(study.folder / "cases/c/labels").propagated


def test_what_a_human_said_meanwhile_is_not_undone(study: Study) -> None:
    _propagate(study, 1)
    _propagate(study, 2)
    study.mark_slices("c", "axial", [3], SliceState.DONE)
    study.withdraw_suggestion("c")
    label = study.label("c")
    assert label is not None
    assert (label.array[3] == 2).all()
    assert (label.array[2] == 1).all()
    assert label.ledger.done("axial", 1) == (3,)


def test_a_damaged_version_does_not_stand_in_the_way(study: Study) -> None:
    _propagate(study, 1)
    _predict(study, 1)
    _predict(study, 2)
    for name in ("labels/0002", "predictions/0002"):
        folder = study.folder / "cases/c" / name
        folder.mkdir(exist_ok=True)
        (folder / "version.json").write_text("{")
    assert _suggested(study).version == 1
    (study.folder / "cases/c/predictions/0001/label.seg.nrrd").write_bytes(b"x")
    assert study.suggestion("c") is not None
    assert _suggested(study).source == "propagated"


def test_a_prediction_whose_voxels_are_damaged_is_told_and_not_shown(study: Study) -> None:
    _predict(study, 1)
    path = study.folder / "cases/c/predictions/0001/label.seg.nrrd"
    path.write_bytes(bytes(path.stat().st_size))
    assert study.suggestion("c") is None
    assert any("predictions version 1" in problem.message for problem in study.problems)


def test_an_unreadable_list_of_withdrawals_is_told_and_all_count(study: Study) -> None:
    _predict(study, 1)
    study.withdraw_suggestion("c")
    (study.folder / "cases/c/predictions/withdrawn.json").write_text("{")
    assert study.prediction_versions("c") == (1,)
    assert any("were taken back is not known" in problem.message for problem in study.problems)
    with pytest.raises(SchemaError):
        study.withdraw_suggestion("c")


def test_export_uses_what_is_not_withdrawn(study: Study, tmp_path: Path) -> None:
    _draw(study)
    for value in (1, 2):
        _predict(study, value, value)
    study.withdraw_suggestion("c")
    found = segmentation(study, "c", "combined")
    assert found is not None
    assert found.source == "prediction 1 (model 1) under label 1"
    study.withdraw_suggestion("c")
    found = segmentation(study, "c", "combined")
    assert found is not None
    assert found.source == "label 1"
    events = []
    export_study(study, tmp_path / "out", format_="csv", case_ids=["c"], emit=events.append)
    assert [event.data["case"] for event in events if event.data.get("saved")] == ["c"]


def test_predicting_leaves_the_label_as_it_is(study: Study) -> None:
    _predict(study, 1)
    assert study.label("c") is None
    _draw(study)
    _predict(study, 1)
    label = study.label("c")
    assert label is not None
    assert not (label.origin == Origin.PREDICTED).any()


_STEPS = st.lists(
    st.sampled_from(["draw", "one", "two", "predict", "withdraw", "withdraw"]),
    min_size=1,
    max_size=7,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_STEPS, seed=st.integers(0, 5))
def test_taking_back_never_touches_a_humans_voxel(
    study: Study, steps: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for step in steps:
        before, version = study.human_map("c").array, max(study.label_versions("c"), default=0)
        if step == "draw":
            before = rng.choice([0, 0, 0, 1, 2], _SHAPE).astype(np.uint16)
            study.annotate("c", before, plane="axial", indices=[int(rng.integers(5))])
        elif step == "predict":
            _predict(study, 1)
        elif step == "withdraw":
            if study.newest_said("c") is not None:
                study.withdraw_suggestion("c")
        else:
            _propagate(study, 1 if step == "one" else 2)
        assert np.array_equal(study.human_map("c").array, before)
        assert max(study.label_versions("c"), default=0) >= version
        shown = study.view("c")
        if shown.suggestion is not None:
            assert not (shown.suggestion.array[before != 0]).any()


def test_uncertainty_is_the_mean_over_what_is_segmented_and_its_border() -> None:
    array = np.zeros((5, 5, 5), np.uint16)
    uncertainty = np.zeros((5, 5, 5), np.float32)
    assert mean_uncertainty(array, uncertainty) is None
    array[2, 2, 2] = 3
    uncertainty[2, 2, 2], uncertainty[2, 2, 3], uncertainty[0, 0, 0] = 0.7, 0.7, 1.0
    assert mean_uncertainty(array, uncertainty) == pytest.approx(0.2)
    array[...] = 1
    assert mean_uncertainty(array, uncertainty) == pytest.approx(2.4 / 125, abs=1e-5)


def test_uncertainty_is_kept_with_the_prediction(study: Study) -> None:
    version = _predict(study, 1)
    assert study.prediction_info("c", version).info["uncertainty"] == 0.25


def test_a_removed_case_is_gone_and_comes_back_whole(study: Study) -> None:
    _draw(study)
    _predict(study, 1)
    study.save_draft("c", [_map(1)])
    study.set_split("p", "val")
    place = study.remove_case("c")
    assert place.parent == study.folder / "removed"
    for seen in (study, Study.open(study.folder)):
        assert tuple(seen.cases) == ("d",)
        assert seen.problems == ()
        assert seen.drafts() == ()
        with pytest.raises(StudyError, match=f"c was removed .*study restore STUDY {place.name}"):
            seen.case("c")
    assert study.removed_cases() == (place,)
    assert study.cases["d"].split == "val"
    case = Study.open(study.folder).restore_case(Path(place.name))
    assert (case.id, case.split) == ("c", "val")
    assert study.refresh()
    assert tuple(study.cases) == ("d", "c")
    assert study.drafts() == ("c",)
    assert study.human_map("c").array.any()
    assert study.prediction("c") is not None
    assert [entry.kind for entry in study.journal.read()[-2:]] == ["case_removed", "case_restored"]
    assert Study.open(study.folder).problems == ()


def test_the_same_image_can_be_added_again_and_then_the_old_case_stays_away(
    study: Study, tmp_path: Path
) -> None:
    places = [study.remove_case("c")]
    study.add_case(tmp_path / "c.nii.gz", case_id="c")
    with pytest.raises(StudyError, match="has a case 'c' again"):
        study.restore_case(places[0])
    places.append(study.remove_case("c"))
    assert len(set(places)) == 2
    study.add_case(tmp_path / "c.nii.gz", case_id="e")
    with pytest.raises(StudyError, match="image of c is in the study again, as the case 'e'"):
        study.restore_case(places[0])


class _Killed(BaseException):
    """Stands for SIGKILL: nothing of the program runs after it."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends the program at the `step`-th change of a name in a folder."""
    left = [step]

    def dying(honest: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return honest(*arguments, **named)

        return call

    for name in ("rename", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))


@pytest.mark.parametrize("step", range(14))
def test_a_case_is_there_or_can_be_restored_wherever_its_removal_is_killed(
    study: Study, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    _draw(study)
    study.save_draft("c", [_map(1)])
    with monkeypatch.context() as patched, contextlib.suppress(_Killed):
        _kill_at(patched, step)
        Study.open(study.folder).remove_case("c")
    found = Study.open(study.folder)
    if "c" in found.cases:
        assert found.problems == ()
        found.remove_case("c")
    (place,) = found.removed_cases()
    with monkeypatch.context() as patched, contextlib.suppress(_Killed):
        _kill_at(patched, step)
        Study.open(study.folder).restore_case(place)
    found = Study.open(study.folder)
    if "c" not in found.cases:
        found.restore_case(place)
    assert set(Study.open(study.folder).cases) == {"c", "d"}
    assert found.human_map("c").array.any()
    draft = found.draft("c")
    assert draft is not None
    assert np.array_equal(draft.full(), _map(1))


@pytest.mark.parametrize("step", range(12))
def test_a_suggestion_is_there_or_taken_back_wherever_that_is_killed(
    study: Study, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    _propagate(study, 1)
    _propagate(study, 2)
    with monkeypatch.context() as patched, contextlib.suppress(_Killed):
        _kill_at(patched, step)
        Study.open(study.folder).withdraw_suggestion("c")
    found = Study.open(study.folder)
    value = int(_suggested(found).array.max())
    assert value in (1, 2)
    assert value == _suggested(found).version
    found.withdraw_suggestion("c")
    assert (found.suggestion("c") is None) == (value == 1)


def test_only_removed_cases_of_this_study_are_restored(study: Study, tmp_path: Path) -> None:
    place = study.remove_case("c")
    (place.parent / "e-20260101T000000").mkdir()
    for path in (tmp_path, Path("x"), Path(".."), place / "labels"):
        with pytest.raises(StudyError, match=f"is no removed case .*{place.name}"):
            study.restore_case(path)
    with pytest.raises(SchemaError):
        study.restore_case(place.parent / "e-20260101T000000")
    assert study.removed_cases() == (place,)


def test_the_ids_of_a_removed_case_are_not_given_to_another_structure(study: Study) -> None:
    _draw(study)
    study.remove_case("c")
    study.set_protocol(study.protocol.remove(2))
    with pytest.raises(ProtocolError, match="the id 2 belonged to 'spleen'"):
        study.set_protocol(parse_structures("1=liver,2=aorta"))


def test_a_program_that_works_on_a_removed_case_is_told(study: Study) -> None:
    worker = Study.open(study.folder)
    study.remove_case("c")
    for work in (lambda: _predict(worker, 1), lambda: _propagate(worker, 1)):
        with pytest.raises(StudyError, match="c was removed from the study"):
            work()
    assert not (study.folder / "cases" / "c").exists()


def test_another_case_with_a_longer_name_is_not_taken_for_the_removed_one(
    study: Study, tmp_path: Path
) -> None:
    study.remove_case("c")
    with pytest.raises(StudyError, match="there is no case 'c-2'"):
        study.case("c-2")


def test_the_modality_can_be_guessed_anew(study: Study) -> None:
    study.set_modality("c", "MR")
    assert study.cases["c"].modality_overridden
    study.set_modality("c", None)
    case = Study.open(study.folder).cases["c"]
    assert not case.modality_overridden
    assert case.modality_confidence < 1
