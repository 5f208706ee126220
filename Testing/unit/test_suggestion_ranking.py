"""Which slice next: by what programs doubt, by distance, by what scans look like, by cost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.cli.app import run
from semiseg.errors import ConfigError, StudyError
from semiseg.images.grid import PLANES, Grid
from semiseg.images.reading import write_image
from semiseg.study.case import GateRecord
from semiseg.study.ledger import SliceState
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study
from semiseg.suggestion.cohort import board_of
from semiseg.suggestion.doubts import doubts_of
from semiseg.suggestion.geometry import Turned, distance_mm
from semiseg.suggestion.kept import kept
from semiseg.suggestion.looks import looks_of
from semiseg.suggestion.ranking import (
    SliceSuggestion,
    SuggestConfig,
    case_views,
    mark_suggested,
    suggest,
)
from semiseg.suggestion.search import Sheet
from semiseg.suggestion.words import Facts, reason

_SHAPE = (30, 28, 26)
_FLIPPED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_ACCEPT = GateRecord(verdict="accept", score=0.9)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _grid(*, flipped: bool = False) -> Grid:
    z, y, x = _SHAPE
    direction = _FLIPPED if flipped else Grid.direction
    return Grid(size_xyz=(x, y, z), spacing_mm_xyz=(3.0, 3.0, 5.0), direction=direction)


def _ball(center: tuple[int, int, int], radius: float) -> NDArray[np.bool_]:
    places = np.indices(_SHAPE)
    return sum((places[k] - center[k]) ** 2 for k in range(3)) <= radius**2


def _truth(shift: int = 0) -> NDArray[np.uint16]:
    label = np.zeros(_SHAPE, np.uint16)
    label[_ball((10 + shift, 12, 9), 6)] = 1
    label[_ball((20 + shift, 14, 18), 4)] = 2
    return label


def _study(folder: Path, n_cases: int = 3, **grid: bool) -> Study:
    study = Study.create(folder / "study", name="s", protocol=parse_structures("liver,kidney_left"))
    for number in range(n_cases):
        rng = np.random.default_rng(number)
        body = _ball((14, 14, 13), 13) * 100.0
        image = body + _truth(number) * 60.0 + rng.normal(0, 3, _SHAPE)
        path = folder / f"c{number}.nii.gz"
        write_image(path, image.astype(np.float32), _grid(**grid))
        study.add_case(path, case_id=f"c{number}", modality="CT", split="train")
    return study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three like scans, nothing drawn."""
    return _study(tmp_path)


def _draw(study: Study, case_id: str, indices: list[int], shift: int = 0) -> None:
    drawn = np.zeros(_SHAPE, np.uint16)
    drawn[indices] = _truth(shift)[indices]
    study.annotate(case_id, drawn, plane="axial", indices=indices)


def _propagate(study: Study, case_id: str, label: NDArray[np.uint16], confidence: float) -> None:
    weights = np.full(_SHAPE, confidence, np.float32)
    study.propagated(case_id, label, weights, structure_ids=[1, 2], gate=_ACCEPT, info={})


def _predict(
    study: Study, case_id: str, label: NDArray[np.uint16], uncertainty: NDArray[np.float32]
) -> None:
    study.predicted(case_id, label, uncertainty, model_id=1, info={})


def _sure() -> NDArray[np.float32]:
    return np.zeros(_SHAPE, np.float32)


def test_before_any_label_slices_stand_for_most_of_the_scans(study: Study) -> None:
    found = suggest(study, SuggestConfig(n=4, planes=("axial",)))

    assert len(found) == 4
    assert found[0].structure_id is None
    assert "other scans" in found[0].reason
    assert "no slice of this scan is done" in found[0].reason
    assert len({(one.case_id, one.index) for one in found}) == 4
    places = [one.index for one in found]
    assert max(places) - min(places) >= 5  # spread over the body
    gains = [one.gain for one in found]
    assert gains[0] > gains[-1] > 0


def test_the_first_scan_is_drawn_around_before_another_is_opened(study: Study) -> None:
    found = suggest(study, SuggestConfig(n=3, planes=("axial",)))
    assert len({one.case_id for one in found[:2]}) == 1

    first = found[0].case_id
    _draw(study, first, [found[0].index], int(first[1:]))
    (after,) = suggest(study, SuggestConfig(n=1, planes=("axial",), at=first))
    assert after.case_id == first


def _sheet(study: Study) -> Sheet:
    config = SuggestConfig(planes=("axial",))
    views = case_views(study, config)
    board = board_of(views, "axial", study.protocol.ids, reach_mm=config.reach_mm)
    return Sheet(board, views, study.protocol.ids)


def test_a_scan_that_is_drawn_around_tells_the_others_all_that_one_slice_cannot(
    study: Study,
) -> None:
    _draw(study, "c0", [10])
    one = _sheet(study)
    _draw(study, "c0", [3, 18])
    around = _sheet(study)

    for case in (1, 2):
        assert not one.scans[case].low_shows.any()
        assert around.scans[case].covered.mean() > 1.5 * one.scans[case].covered.mean()
        assert around.scans[case].covered.max() == pytest.approx(0.5, abs=0.02)
    told = one.elsewhere(0)
    assert told.shape == one.scans[0].demand.shape
    assert 0 < told.sum() < sum(one.scans[case].demand.sum() for case in (1, 2))
    assert around.elsewhere(0).sum() < told.sum()


def test_where_programs_spoke_another_scans_slices_correct_little(study: Study) -> None:
    _draw(study, "c0", [3, 10, 18])
    _propagate(study, "c1", _truth(1), 0.5)
    sheet = _sheet(study)

    assert not sheet.scans[1].covered.any()
    assert sheet.scans[2].covered.max() > 0.4
    before = sheet.scans[2].covered.copy()
    sheet.take(int(sheet.nodes[1][0]))
    assert sheet.scans[0].covered.max() <= 1
    assert (sheet.scans[2].covered >= before).all()
    assert sheet._strength[0][sheet.nodes[1]].max() == pytest.approx(0.1, abs=0.02)


def test_a_single_scan_is_spread_over_from_its_looks_alone(tmp_path: Path) -> None:
    found = suggest(_study(tmp_path, 1), SuggestConfig(n=3, planes=("axial",)))

    assert "nothing is known of this part of the scan yet" in found[0].reason
    assert len({one.index for one in found}) == 3
    assert "mm from the nearest done slice" in found[1].reason


def test_slices_where_the_model_is_unsure_come_first(study: Study) -> None:
    for k in range(3):
        unsure = _sure()
        if k == 1:
            unsure[18:23] = (_truth(k)[18:23] > 0) * np.float32(0.9)
        _predict(study, f"c{k}", _truth(k), unsure)

    best = suggest(study, SuggestConfig(n=1, planes=("axial",)))[0]

    assert best.case_id == "c1"
    assert 17 <= best.index <= 23
    assert best.structure_id == 2
    assert best.reason.startswith("the model is unsure of the kidney left here")


def test_disagreement_of_model_and_propagation_is_told(study: Study) -> None:
    for k in range(3):
        carried = _truth(k)
        if k == 2:
            carried = carried.copy()
            carried[8:14][carried[8:14] == 1] = 0
        _propagate(study, f"c{k}", carried, 0.9)
        _predict(study, f"c{k}", _truth(k), _sure())

    best = suggest(study, SuggestConfig(n=1, planes=("axial",)))[0]

    assert best.case_id == "c2"
    assert 7 <= best.index <= 14
    assert best.reason.startswith("the model and the propagation disagree on the liver here (")


def test_doubtful_propagation_alone_is_told(study: Study) -> None:
    for k in range(3):
        _propagate(study, f"c{k}", _truth(k), 0.3 if k == 0 else 1.0)

    best = suggest(study, SuggestConfig(n=1, planes=("axial",)))[0]

    assert best.case_id == "c0"
    assert best.reason.startswith("the propagation is unsure of the")


def test_done_slices_are_never_suggested_and_their_surroundings_late(study: Study) -> None:
    _predict(study, "c0", _truth(), np.full(_SHAPE, 0.4, np.float32))
    before = suggest(study, SuggestConfig(n=1, planes=("axial",), case_ids=("c0",)))[0]

    _draw(study, "c0", [before.index])
    after = suggest(study, SuggestConfig(n=3, planes=("axial",), case_ids=("c0",)))

    assert before.index not in {one.index for one in after}
    assert all(abs(one.index - before.index) > 1 for one in after[:2])
    assert "mm from the nearest done slice" in after[0].reason


def test_all_slices_done_leaves_nothing_to_suggest(tmp_path: Path) -> None:
    study = _study(tmp_path, 1)
    _draw(study, "c0", list(range(_SHAPE[0])))

    assert suggest(study, SuggestConfig(planes=("axial",))) == ()


def test_a_structure_without_a_done_slice_still_calls_for_drawing(tmp_path: Path) -> None:
    study = _study(tmp_path, 1)
    truth = _truth()
    for index in range(_SHAPE[0]):
        drawn = np.where(truth == 1, truth, np.uint16(0))
        study.annotate("c0", drawn, plane="axial", indices=[index], structure_ids=[1])
        break

    found = suggest(study, SuggestConfig(n=1, planes=("axial",)))

    assert len(found) == 1


def test_what_is_open_now_is_cheaper(study: Study) -> None:
    for k in range(3):
        _predict(study, f"c{k}", _truth(), np.full(_SHAPE, 0.4, np.float32))

    found = {at: suggest(study, SuggestConfig(n=1, at=at))[0] for at in ("c0", "c2")}

    assert {at: one.case_id for at, one in found.items()} == {"c0": "c0", "c2": "c2"}


def test_the_plane_that_was_drawn_in_is_kept_unless_another_is_much_better(study: Study) -> None:
    _draw(study, "c0", [9, 12])
    for k in range(3):
        _predict(study, f"c{k}", _truth(), np.full(_SHAPE, 0.3, np.float32))

    assert suggest(study, SuggestConfig(n=1, case_ids=("c0",)))[0].plane == "axial"


def test_slice_numbers_are_the_ledgers_in_flipped_images(tmp_path: Path) -> None:
    found = {}
    for flipped in (False, True):
        study = _study(tmp_path / str(flipped), 1, flipped=flipped)
        unsure = _sure()
        unsure[18:23] = (_truth()[18:23] > 0) * np.float32(0.9)
        _predict(study, "c0", _truth(), unsure)
        found[flipped] = suggest(study, SuggestConfig(n=1, planes=("axial",)))[0].index

    assert all(18 <= index <= 22 for index in found.values())


def test_cases_outside_of_the_training_split_are_not_drawn(study: Study) -> None:
    study.set_split("c0", "test")
    found = suggest(study, SuggestConfig(n=6, planes=("axial",)))
    assert "c0" not in {one.case_id for one in found}

    for patient in ("c1", "c2"):
        study.set_split(patient, "val")
    with pytest.raises(StudyError, match="training split"):
        suggest(study)
    assert suggest(study, SuggestConfig(n=1, case_ids=("c1",)))[0].case_id == "c1"


def test_an_unreadable_case_is_told_and_left_out(study: Study, tmp_path: Path) -> None:
    (tmp_path / "c1.nii.gz").unlink()
    events = []

    found = suggest(study, SuggestConfig(n=5), events.append)

    assert "c1" not in {one.case_id for one in found}
    assert [e.data["case"] for e in events if "error" in e.data] == ["c1"]
    with pytest.raises(StudyError, match="can be read"):
        suggest(study, SuggestConfig(case_ids=("c1",)))


def test_nothing_to_choose_from_is_said(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", name="s")
    with pytest.raises(StudyError, match="no structures"):
        suggest(study)
    study.set_protocol(parse_structures("liver"))
    with pytest.raises(StudyError, match="no case yet"):
        suggest(study)
    with pytest.raises(StudyError, match="no plane"):
        SuggestConfig(planes=())


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"reach_mm": 0.0}, {"planes": ("oblique",)}, {"mm_per_s": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SuggestConfig(**wrong)


def test_the_second_time_no_voxel_is_read(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    _predict(study, "c0", _truth(), _sure())
    first = suggest(study)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("voxels were read")

    for name in ("image", "label", "prediction"):
        monkeypatch.setattr(Study, name, forbidden)
    assert suggest(study) == first


def test_a_new_version_makes_doubts_anew(study: Study) -> None:
    _predict(study, "c0", _truth(), _sure())
    before = doubts_of(study, study.cases["c0"], reach_mm=20.0)
    _predict(study, "c0", _truth(), np.full(_SHAPE, 0.5, np.float32))
    after = doubts_of(study, study.cases["c0"], reach_mm=20.0)

    assert before.planes["axial"].wrong_ml.sum() == 0
    assert after.planes["axial"].wrong_ml.sum() > 0
    assert after.by_model
    assert not after.by_propagation
    assert after.known


def test_expected_contours_have_the_length_of_the_drawing(study: Study) -> None:
    _predict(study, "c0", _truth(), _sure())
    planes = doubts_of(study, study.cases["c0"], reach_mm=20.0).planes

    round_trip = 2 * np.pi * 6 * 3.0
    assert planes["axial"].contour_mm[0, 10] == pytest.approx(round_trip, rel=0.1)
    assert planes["axial"].area_mm2[0].sum() * 5.0 == pytest.approx(
        np.count_nonzero(_truth() == 1) * 45.0
    )
    for plane in PLANES:
        assert planes[plane].contour_mm.shape[0] == 2


def test_what_a_human_decided_is_not_doubted(study: Study) -> None:
    _predict(study, "c0", _truth(), np.full(_SHAPE, 0.5, np.float32))
    _draw(study, "c0", [10])

    planes = doubts_of(study, study.cases["c0"], reach_mm=20.0).planes

    assert planes["axial"].wrong_ml[:, 10].sum() == 0
    assert planes["axial"].wrong_ml[:, 11].sum() > 0
    # A done axial slice makes its surroundings in the other planes surer.
    assert planes["coronal"].wrong_ml.sum() < planes["axial"].wrong_ml.sum()


def test_looks_are_kept_and_damaged_files_made_anew(study: Study) -> None:
    case = study.cases["c0"]
    first = looks_of(study, case)["axial"]
    path = study.cache_dir / "suggestion" / "c0" / "looks.npz"
    path.write_bytes(b"PK torn")
    again = looks_of(study, case)["axial"]

    np.testing.assert_array_equal(first.centers, again.centers)
    assert np.all(np.diff(first.borders) > 0)
    norms = np.linalg.norm(first.grey, axis=1)
    assert norms.max() == pytest.approx(1, abs=0.01)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    made = kept(tmp_path / "file" / "a.npz", "key", lambda: {"a": np.arange(3)})
    np.testing.assert_array_equal(made["a"], np.arange(3))


def test_arrays_of_another_key_are_made_anew(tmp_path: Path) -> None:
    for key, value in (("one", 1), ("two", 2), ("two", 3)):
        made = kept(tmp_path / "a.npz", key, lambda value=value: {"a": np.array([value])})
    assert made["a"].item() == 2


def test_a_flat_image_has_looks_all_over(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", name="s", protocol=parse_structures("liver"))
    image = np.zeros((1, 12, 12), np.float32)
    image[0, 0, 0] = 1
    grid = Grid(size_xyz=(12, 12, 1), spacing_mm_xyz=(1.0, 1.0, 1.0))
    write_image(tmp_path / "flat.nii.gz", image, grid)
    case = study.add_case(tmp_path / "flat.nii.gz", modality="MR", split="train")

    assert looks_of(study, case)["axial"].borders.tolist() == [0, 2]
    assert len(suggest(study, SuggestConfig(n=1, planes=("axial",)))) == 1


def test_marked_slices_stand_in_the_ledger_and_older_marks_go(study: Study) -> None:
    found = suggest(study, SuggestConfig(n=2, planes=("axial",)))
    mark_suggested(study, found)
    for one in found:
        assert study.ledger(one.case_id).state("axial", one.index, 1) is SliceState.SUGGESTED

    other = SliceSuggestion(
        case_id="c1",
        plane="axial",
        index=3,
        gain=0.1,
        minutes=1.0,
        structure_id=None,
        reason="",
    )
    mark_suggested(study, [other])

    states = {c: study.ledger(c).states for c in study.cases}
    assert states["c1"] == {"axial": {3: {1: SliceState.SUGGESTED, 2: SliceState.SUGGESTED}}}
    assert not states["c0"]
    assert not states["c2"]


def test_a_mark_never_touches_what_is_done(study: Study) -> None:
    _draw(study, "c0", [10])
    one = SliceSuggestion(
        case_id="c0",
        plane="axial",
        index=10,
        gain=0.1,
        minutes=1.0,
        structure_id=1,
        reason="",
    )
    mark_suggested(study, [one])

    assert study.ledger("c0").state("axial", 10, 1) is SliceState.DONE


def test_distances_are_infinite_without_a_done_slice() -> None:
    assert np.isinf(distance_mm(3, np.empty(0, np.int64), 2.0)).all()
    assert distance_mm(4, np.array([1]), 2.0).tolist() == [2.0, 0.0, 2.0, 4.0]


def test_turned_slices_count_along_the_patient() -> None:
    turned = Turned(_grid(flipped=True))
    assert turned.index("axial", 0) == _SHAPE[0] - 1
    assert turned.index("sagittal", 4) == 4
    array = np.arange(np.prod(_SHAPE)).reshape(_SHAPE)
    np.testing.assert_array_equal(turned.view(array)[0], array[-1])


def _facts(**change: Any) -> Facts:
    plain: dict[str, Any] = {
        "row": 0,
        "by_model": True,
        "by_propagation": False,
        "differ_mm2": 0.0,
        "unsure": 0.0,
        "nearest_mm": 18.2,
        "others": 0,
        "n_cases": 2,
    }
    return Facts(**(plain | change))


def test_reasons_are_plain_sentences() -> None:
    names = ["kidney_left"]
    both = {"by_propagation": True, "differ_mm2": 320.0}
    assert reason(_facts(**both), names) == (
        "the model and the propagation disagree on the kidney left here (3.2 cm²); 18 mm from "
        "the nearest done slice"
    )
    assert "least backed by drawn slices" in reason(_facts(), names)
    assert "looks like nothing that is drawn" in reason(_facts(row=None), names)
    assert "parts of 1 other scan of" in reason(_facts(row=None, others=1), names)


def test_all_cases_are_viewed(study: Study) -> None:
    assert [v.case.id for v in case_views(study, SuggestConfig())] == ["c0", "c1", "c2"]


def test_the_command_tells_and_marks(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    events = []
    code = run(
        ["suggest", str(study.folder), "--n", "2", "--plane", "axial", "--mark"], events.append
    )

    assert code == 0
    found = events[-1].data["suggestions"]
    assert len(found) == 2
    assert {"case", "plane", "index", "minutes", "reason"} <= set(found[0])
    json.dumps(found, allow_nan=False)
    assert study.ledger(found[0]["case"]).state("axial", found[0]["index"], 1) == "suggested"

    assert run(["suggest", str(study.folder), "--plane", "axial", "--case", "c0"]) == 0
    assert "Draw next" in capsys.readouterr().out
    assert run(["suggest", str(study.folder), "--plane", "up"]) == 2


def test_the_command_says_when_all_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = _study(tmp_path, 1)
    _draw(study, "c0", list(range(_SHAPE[0])))
    assert run(["suggest", str(study.folder), "--plane", "axial"]) == 0
    assert "every slice that may be drawn is done" in capsys.readouterr().out


def test_uncertainty_is_told_by_case_structure_and_slice(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    unsure = np.where(_truth() == 2, np.float32(0.8), np.float32(0.1))
    _predict(study, "c0", _truth(), unsure.astype(np.float32))
    events = []
    assert run(["suggest", str(study.folder), "--doubts"], events.append) == 0

    told = events[-1].data["uncertainty"]
    assert set(told) == {"c0"}
    assert told["c0"]["structures"]["2"] == pytest.approx(0.8, abs=0.05)
    assert told["c0"]["structures"]["1"] < 0.3
    assert {plane: len(values) for plane, values in told["c0"]["slices"].items()} == {
        "axial": 30,
        "coronal": 28,
        "sagittal": 26,
    }
    assert told["c0"]["slices"]["axial"][20] > told["c0"]["slices"]["axial"][10] > 0
    assert run(["suggest", str(study.folder), "--doubts"]) == 0
    assert "Uncertainty" in capsys.readouterr().out


def test_slices_of_one_call_keep_a_distance(tmp_path: Path) -> None:
    study = _study(tmp_path, 1)
    _predict(study, "c0", _truth(), np.full(_SHAPE, 0.5, np.float32))

    found = suggest(study, SuggestConfig(n=30, planes=("axial",), reach_mm=40.0))

    places = sorted(one.index for one in found)
    assert len(places) > 3
    assert min(np.diff(places)) * 5.0 >= 20.0


def test_where_the_model_and_the_one_before_it_disagree_is_worth_drawing(study: Study) -> None:
    for case_id in study.cases:
        _predict(study, case_id, _truth(), _sure())
    before = doubts_of(study, study.case("c1"), reach_mm=20.0)
    assert not before.planes["axial"].before_mm2.any()
    assert not before.planes["axial"].wrong_ml.any()
    other = _truth()
    half = other[18:21, :14]
    half[half == 2] = 0
    study.predicted("c1", other, _sure(), model_id=2, info={})

    doubts = doubts_of(study, study.case("c1"), reach_mm=20.0).planes["axial"]
    found = suggest(study, SuggestConfig(n=1, planes=("axial",)))

    assert np.flatnonzero(doubts.before_mm2[1]).tolist() == [18, 19, 20]
    pixels = int((_truth()[19, :14] == 2).sum())
    assert doubts.before_mm2[1, 19] == pytest.approx(9 * pixels)
    assert doubts.wrong_ml.sum() > 0
    assert not doubts.differ_mm2.any()
    assert found[0].case_id == "c1"
    assert found[0].index in (18, 19, 20)
    assert "the model and the one before it disagree on the kidney left" in found[0].reason


def test_only_another_models_segmentation_is_a_second_opinion(study: Study) -> None:
    _predict(study, "c0", np.zeros(_SHAPE, np.uint16), _sure())
    _predict(study, "c0", _truth(), _sure())
    assert not doubts_of(study, study.case("c0"), reach_mm=20.0).planes["axial"].before_mm2.any()


def test_a_damaged_second_opinion_is_none(study: Study) -> None:
    _predict(study, "c0", np.zeros(_SHAPE, np.uint16), _sure())
    study.predicted("c0", _truth(), _sure(), model_id=2, info={})
    for path in (study.folder / "cases/c0/predictions/0001").iterdir():
        if path.suffix != ".json":
            path.write_bytes(b"x")
    assert not doubts_of(study, study.case("c0"), reach_mm=20.0).planes["axial"].before_mm2.any()
    assert suggest(study, SuggestConfig(n=1))


def _cut_study(folder: Path) -> Study:
    """Two scans of one torso, the second showing its upper half only; CT and MR alike in shape."""
    study = Study.create(folder / "study", name="s", protocol=parse_structures("liver"))
    z, y, x = np.indices((40, 32, 32), dtype=np.float32)
    wide = 9 + 3 * np.sin(z / 6.0)
    body = ((y - 16) / wide) ** 2 + ((x - 16) / (wide + 2)) ** 2 < 1
    organ = (z - 27) ** 2 + (y - 14) ** 2 + (x - 11) ** 2 < 30
    spine = ((y - 22) ** 2 + (x - 16) ** 2 < 6) & (np.sin(z) > -0.5)
    whole = body * 100.0 + organ * 60.0 + spine * 200.0
    rng = np.random.default_rng(0)
    whole = (whole + rng.normal(0, 2, whole.shape)).astype(np.float32)
    for name, first in (("whole", 0), ("upper", 18)):
        part = whole[first:]
        grid = Grid(size_xyz=(32, 32, len(part)), spacing_mm_xyz=(8.0, 8.0, 8.0))
        write_image(folder / f"{name}.nii.gz", part, grid)
        study.add_case(folder / f"{name}.nii.gz", case_id=name, modality="CT", split="train")
    return study


def test_scans_that_show_different_parts_are_brought_to_one_body(tmp_path: Path) -> None:
    study = _cut_study(tmp_path)
    config = SuggestConfig(n=1, planes=("axial",), register_s=1e6)
    whole, upper = case_views(study, config)
    assert whole.places is not None
    assert upper.places is not None
    for view, index in ((whole, 27), (upper, 27 - 18)):
        assert view.places is not None
        centers = view.looks["axial"].centers
        place = np.interp(index, centers, view.places["axial"])
        assert place == pytest.approx(27 / 39, abs=0.1)
    (again,) = [one for one in case_views(study, SuggestConfig(register_s=0.0)) if one is not None][
        1:
    ]
    assert again.places is not None
    np.testing.assert_array_equal(again.places["axial"], upper.places["axial"])


def test_without_time_or_certainty_a_scans_own_body_stands_for_its_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _cut_study(tmp_path)
    whole, upper = case_views(study, SuggestConfig(register_s=0.0))
    assert whole.places is not None
    assert upper.places is None
    assert suggest(study, SuggestConfig(n=2, register_s=0.0))
    monkeypatch.setattr("semiseg.suggestion.places._CERTAIN", 2.0)
    _whole, unsure = case_views(study, SuggestConfig(register_s=1e6))
    assert unsure.places is None


def test_once_programs_spoke_of_all_scans_nothing_is_registered(study: Study) -> None:
    for case_id in study.cases:
        _predict(study, case_id, _truth(), _sure())
    views = case_views(study, SuggestConfig(register_s=1e6))
    assert [view.places for view in views] == [None] * 3
    assert not list(study.cache_dir.rglob("place.npz"))


def test_a_weak_propagations_doubts_about_background_stay_beside_what_it_found(
    study: Study,
) -> None:
    """Else drawing empty slices far from everything is cheap and seems to gain most."""
    for case_id in study.cases:
        _propagate(study, case_id, _truth(), 0.3)
    doubts = doubts_of(study, study.case("c0"), reach_mm=20.0).planes["axial"]
    organ_ml = (_truth() == 1).sum() * 3 * 3 * 5 / 1000
    assert doubts.wrong_ml[0].sum() <= organ_ml
    assert not (doubts.wrong_ml[:, 28:] > 0.05 * doubts.wrong_ml.max()).any()

    found = suggest(study, SuggestConfig(n=4, planes=("axial",)))

    assert all(3 <= one.index <= 25 for one in found)


def test_where_the_last_done_slice_still_shows_a_structure_it_is_expected_to_go_on(
    study: Study,
) -> None:
    _draw(study, "c0", [8, 12])
    figures = doubts_of(study, study.case("c0"), reach_mm=20.0).planes["axial"]
    area = (_truth()[12] == 1).sum() * 9.0
    assert figures.beyond_mm2[0, 13] == pytest.approx(area * np.exp(-5 / 40), rel=1e-4)
    assert figures.beyond_mm2[0, 16] == pytest.approx(area * np.exp(-20 / 40), rel=1e-4)
    assert not figures.beyond_mm2[0, 8:13].any()
    assert figures.wrong_ml[0, 13] == pytest.approx(figures.beyond_mm2[0, 13] * 5 / 1000)
    assert figures.contour_mm[0, 13] > 0


def test_a_done_slice_without_the_structure_ends_what_is_expected(study: Study) -> None:
    _draw(study, "c0", [8, 12, 18])
    figures = doubts_of(study, study.case("c0"), reach_mm=20.0).planes["axial"]
    assert not figures.beyond_mm2[0, 13:].any()
    assert figures.beyond_mm2[0, :8].any()


def test_what_programs_say_beyond_is_not_expected_twice(study: Study) -> None:
    _draw(study, "c0", [8, 12])
    _propagate(study, "c0", _truth(), 0.5)
    figures = doubts_of(study, study.case("c0"), reach_mm=20.0).planes["axial"]
    said = (_truth()[13] == 1).sum() * 9.0
    expected = (_truth()[12] == 1).sum() * 9.0 * np.exp(-5 / 40)
    assert figures.beyond_mm2[0, 13] == pytest.approx(max(expected - said, 0), rel=1e-4)


def test_an_unfinished_structure_is_followed_to_its_end(tmp_path: Path) -> None:
    study = _study(tmp_path, 1)
    _draw(study, "c0", [9, 11])
    cut = (_truth() == 1) & (np.arange(30)[:, None, None] >= 12)
    _propagate(study, "c0", np.where(cut, 0, _truth()).astype(np.uint16), 0.95)
    one = suggest(study, SuggestConfig(n=1, planes=("axial",)))[0]
    assert 13 <= one.index <= 22
    assert "liver probably goes on" in one.reason


def test_a_structure_missing_in_one_scan_is_looked_for_beside_the_others(tmp_path: Path) -> None:
    study = _study(tmp_path, 2)
    for case_id in ("c0", "c1"):
        study.mark_slices(case_id, "axial", [0, 29], SliceState.EMPTY, [1, 2])
    _propagate(study, "c0", _truth(), 1.0)
    _propagate(study, "c1", np.where(_truth(1) == 1, 1, 0).astype(np.uint16), 1.0)
    one = suggest(study, SuggestConfig(n=1, planes=("axial",), case_ids=("c1",)))[0]
    assert one.structure_id == 2
    assert 17 <= one.index <= 25
    assert one.reason.startswith("the kidney left was not found in this scan yet")
