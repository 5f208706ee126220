"""Earlier versions: named, pinned, gone back to, compared, and pruned when nothing needs them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semiseg.errors import ConfigError, ProtocolError, SchemaError, StudyError
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.case import GateRecord, Origin
from semiseg.study.history import Item
from semiseg.study.ledger import SliceState
from semiseg.study.merge import by_human
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

_GRID = Grid(size_xyz=(7, 6, 5), spacing_mm_xyz=(1.0, 2.0, 3.0))
_SHAPE = _GRID.shape_zyx
_ACCEPT = GateRecord(verdict="accept", score=0.9)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The case "c" with 1 liver and 2 spleen."""
    return _new(tmp_path)


def _new(folder: Path) -> Study:
    study = Study.create(folder / "study", name="s", protocol=parse_structures("liver,spleen"))
    noise = np.random.default_rng(0).normal(0, 300, _SHAPE)
    write_image(folder / "c.nii.gz", noise.astype(np.int16), _GRID)
    study.add_case(folder / "c.nii.gz", case_id="c")
    return study


def _map(value: int = 0, first: int = 0) -> NDArray[np.uint16]:
    found = np.zeros(_SHAPE, np.uint16)
    found[first:] = value
    return found


def _weights(value: float = 0.5) -> NDArray[np.float32]:
    return np.full(_SHAPE, value, np.float32)


def _propagate(study: Study, value: int, ids: tuple[int, ...] = (1, 2)) -> int:
    version = study.propagated(
        "c", _map(value, 2), _weights(), structure_ids=ids, gate=_ACCEPT, info={"atlases": ["a"]}
    )
    assert version is not None
    return version


def _draw(study: Study, index: int, value: int = 2) -> int:
    drawn = study.human_map("c").array
    drawn[index, :3] = value
    return study.annotate("c", drawn, plane="axial", indices=[index])


def _predict(study: Study, value: int, model_id: int = 1) -> int:
    return study.predicted("c", _map(value, 1), _weights(0.25), model_id=model_id, info={})


def _add_model(study: Study) -> int:
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"w" * 1000)

    return study.add_model(write, {"method": "supervised"})


def _label(number: int) -> Item:
    return Item(kind="label", case_id="c", number=number)


def _prediction(number: int) -> Item:
    return Item(kind="prediction", case_id="c", number=number)


def _model(number: int) -> Item:
    return Item(kind="model", number=number)


def test_every_version_is_listed_with_how_it_came_about(study: Study) -> None:
    _draw(study, 0)
    _propagate(study, 1)
    _add_model(study)
    _predict(study, 1)

    rows = {row.item: row for row in study.version_rows()}

    assert list(rows) == [_label(1), _label(2), _prediction(1), _model(1)]
    whats = [row.what for row in rows.values()]
    assert whats == ["annotated", "propagated", "segmented by model 1", "supervised"]
    assert all(row.size_bytes > 0 and row.created and not row.problem for row in rows.values())
    assert [row.newest for row in rows.values()] == [False, True, True, True]
    assert str(_label(2)) == "c label 2"


def test_a_damaged_version_is_listed_with_its_problem_and_size(study: Study) -> None:
    _draw(study, 0)
    (study.folder / "cases" / "c" / "labels" / "0001" / "label.seg.nrrd").write_bytes(b"torn")

    row = study.version_rows(["c"])[0]

    assert "damaged" in row.problem
    assert row.size_bytes > 4


def test_names_and_pins_stay_until_taken_away(study: Study) -> None:
    _draw(study, 0)
    study.name_version(_label(1), " before tea ")
    study.pin_version(_label(1))
    row = Study.open(study.folder).version_rows()[0]
    assert (row.name, row.pinned) == ("before tea", True)

    study.name_version(_label(1), "")
    study.pin_version(_label(1), pinned=False)
    row = study.version_rows()[0]
    assert (row.name, row.pinned) == ("", False)


def test_a_version_that_is_not_there_cannot_be_named(study: Study) -> None:
    with pytest.raises(StudyError, match="no c label 3; there are none"):
        study.name_version(_label(3), "x")
    _draw(study, 0)
    with pytest.raises(StudyError, match="at most 80"):
        study.name_version(_label(1), "x" * 81)
    with pytest.raises(ConfigError):
        study.version_parent("picture")  # type: ignore[arg-type]


def test_unreadable_notes_are_as_if_never_said(study: Study) -> None:
    _draw(study, 0)
    study.pin_version(_label(1))
    (study.folder / "cases" / "c" / "labels" / "notes.json").write_text("{")
    assert not study.version_rows()[0].pinned


def test_rolling_back_brings_programs_voxels_back_and_keeps_the_humans(study: Study) -> None:
    first = _propagate(study, 1)
    _propagate(study, 2)
    _draw(study, 0)

    new = study.roll_back("c", first)

    label = study.label("c")
    assert label is not None
    assert label.version == new
    assert (label.array[2:] == 1).all()
    assert (label.array[0, :3] == 2).all()
    assert (label.origin[0, :3] == Origin.CORRECTED).all()
    assert label.ledger.state("axial", 0, 1) is SliceState.DONE
    said = study.newest_said("c")
    assert said is not None
    assert said.version == first


def test_rolling_back_one_structure_leaves_the_other(study: Study) -> None:
    old = _map(1, 3)
    study.propagated("c", old, _weights(), structure_ids=(1,), gate=_ACCEPT, info={})
    both = _map(1, 4)
    both[2] = 2
    study.propagated("c", both, _weights(), structure_ids=(1, 2), gate=_ACCEPT, info={})

    study.roll_back("c", 1, structure_ids=[1])

    label = study.label("c")
    assert label is not None
    assert (label.array[3:] == 1).all()
    assert (label.array[2] == 2).all()


def test_rolling_back_everything_takes_later_drawings_too(study: Study) -> None:
    _draw(study, 0)
    _draw(study, 3)

    study.roll_back("c", 1, keep_human=False)

    label = study.label("c")
    assert label is not None
    assert not label.array[3].any()
    assert label.ledger.done("axial", 1) == (0,)


def test_rolling_back_a_structure_with_its_drawings_keeps_the_others_drawings(study: Study) -> None:
    drawn = _map()
    drawn[0, 0] = 1
    study.annotate("c", drawn, plane="axial", indices=[0])
    drawn[1, 0], drawn[1, 1] = 1, 2
    study.annotate("c", drawn, plane="axial", indices=[1])

    study.roll_back("c", 1, structure_ids=[1], keep_human=False)

    label = study.label("c")
    assert label is not None
    assert (label.array[0, 0] == 1).all()
    assert not label.array[1, 0].any()
    assert (label.array[1, 1] == 2).all()
    assert label.ledger.done("axial", 1) == (0,)
    assert label.ledger.done("axial", 2) == (0, 1)


def test_a_waiting_drawing_forbids_to_take_drawings_back(study: Study) -> None:
    _draw(study, 0)
    study.save_draft("c", [_map(1)])
    with pytest.raises(StudyError, match="not merged yet"):
        study.roll_back("c", 1, keep_human=False)


def test_what_does_not_exist_cannot_be_gone_back_to(study: Study) -> None:
    with pytest.raises(SchemaError, match="no version 4"):
        study.roll_back("c", 4)
    _draw(study, 0)
    with pytest.raises(ProtocolError):
        study.roll_back("c", 1, structure_ids=[9])


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from("dpbs"), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_no_way_back_changes_a_human_voxel_unless_told(
    steps: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study, rng = _new(tmp_path_factory.mktemp("study")), np.random.default_rng(seed)
    _draw(study, 0)
    for step in steps:
        before = study.human_map("c").array
        if step == "d":
            _draw(study, int(rng.integers(0, 5)), int(rng.integers(1, 3)))
        elif step == "p":
            _propagate(study, int(rng.integers(1, 3)))
        else:
            ids = [int(rng.integers(1, 3))] if step == "s" else None
            version = int(rng.choice(study.label_versions("c")))
            study.roll_back("c", version, structure_ids=ids)
        if step != "d":
            label = study.label("c")
            assert label is not None
            np.testing.assert_array_equal(np.where(by_human(label.origin), label.array, 0), before)


def test_segmentations_after_the_one_gone_back_to_are_taken_back(study: Study) -> None:
    for value in (1, 2, 1):
        _predict(study, value)
    assert study.roll_back_prediction("c", 1) == (2, 3)
    assert study.prediction_versions("c") == (1,)
    with pytest.raises(StudyError, match="no segmentation 3"):
        study.roll_back_prediction("c", 3)


def test_some_structures_of_an_earlier_segmentation_are_accepted(study: Study) -> None:
    first, second = _map(1), _map(2, 3)
    first[0] = 2
    second[:1] = 1
    study.predicted("c", first, _weights(0.2), model_id=1, info={})
    study.predicted("c", second, _weights(0.6), model_id=2, info={})

    new = study.accept_prediction("c", 1, [2])

    assert new == 3
    mixed = study.prediction("c")
    assert mixed is not None
    assert mixed.model_id == 2
    np.testing.assert_array_equal(mixed.array[0], 2)
    np.testing.assert_array_equal(mixed.array[1:], 0)
    np.testing.assert_allclose(mixed.uncertainty[0], 0.2, atol=0.01)
    np.testing.assert_allclose(mixed.uncertainty[1:3], 0.6, atol=0.01)
    assert study.version_rows()[-1].what == "some structures as in version 1"
    for version in (3, 7):
        with pytest.raises(StudyError, match="not the newest"):
            study.accept_prediction("c", version, [2])


def test_comparing_counts_what_each_structure_gained_and_lost(study: Study) -> None:
    _predict(study, 1)
    _predict(study, 2)
    _propagate(study, 1)

    found = study.compare("c", _prediction(1), _prediction(2))

    layer = _SHAPE[1] * _SHAPE[2]
    assert found.removed == {1: 4 * layer}
    assert found.added == {2: 4 * layer}
    assert found.changed.sum() == 4 * layer
    assert found.voxel_ml == pytest.approx(0.006)
    across = study.compare("c", _prediction(1), _label(1))
    assert across.removed == {1: layer}


def test_only_maps_of_the_same_case_are_compared(study: Study) -> None:
    _predict(study, 1)
    _add_model(study)
    with pytest.raises(StudyError, match="no label or segmentation of c"):
        study.compare("c", _prediction(1), _model(1))
    with pytest.raises(StudyError, match="no c prediction 2"):
        study.compare("c", _prediction(1), _prediction(2))


def test_pruning_gives_back_what_nothing_needs(study: Study) -> None:
    for index in range(4):
        _draw(study, index)
    free = study.prunable()
    assert [row.item for row in free] == [_label(1), _label(2)]

    given = study.prune([row.item for row in free])

    assert given == sum(row.size_bytes for row in free)
    assert study.label_versions("c") == (3, 4)
    assert _draw(study, 4) == 5
    assert study.prune([]) == 0


def test_pinned_named_and_judged_versions_are_never_pruned(study: Study) -> None:
    for index in range(5):
        _draw(study, index)
    study.pin_version(_label(1))
    study.name_version(_label(2), "good")
    study.add_evaluation([{"case": "c", "version": 3, "model_id": None}], {})

    assert [row.item for row in study.prunable(keep=1)] == [_label(4)]
    for number in (1, 3, 5):
        with pytest.raises(StudyError, match="cannot go"):
            study.prune([_label(number)])
    assert len(study.label_versions("c")) == 5


def test_where_pins_cannot_be_read_nothing_is_pruned_and_nothing_said_is_lost(
    study: Study,
) -> None:
    for index in range(3):
        _draw(study, index)
    for _ in range(3):
        _predict(study, 1)
    study.pin_version(_label(1))
    notes = study.folder / "cases" / "c" / "labels" / "notes.json"
    notes.write_text(notes.read_text()[:-3])
    torn = notes.read_text()

    assert [row.item.kind for row in study.prunable(keep=1)] == ["prediction"]
    assert ["notes.json is corrupt" in str(problem) for problem in study.problems] == [True]
    for change in (study.pin_version, lambda item: study.name_version(item, "good")):
        with pytest.raises(SchemaError, match=r"notes.json is corrupt.*or delete it"):
            change(_label(2))
    assert notes.read_text() == torn


def test_models_stay_while_a_segmentation_of_theirs_does(study: Study) -> None:
    for _ in range(4):
        _add_model(study)
    for number in (1, 2, 1, 3):
        _predict(study, 1, number)

    free = {row.item for row in study.prunable(keep=1)}

    assert free == {_prediction(1), _prediction(2), _model(2)}


def test_what_taking_back_leads_to_is_kept(study: Study) -> None:
    for index in range(3):
        _draw(study, index)
    _propagate(study, 1)
    for index in (3, 4):
        _draw(study, index)

    study.prune([row.item for row in study.prunable(keep=1)], keep=1)

    assert study.label_versions("c") == (3, 4, 6)
    study.withdraw_suggestion("c")
    label = study.label("c")
    assert label is not None
    assert not (label.origin == Origin.PROPAGATED).any()


def test_a_withdrawn_propagation_does_not_come_back_through_pruning(study: Study) -> None:
    _draw(study, 0)
    study.pin_version(_label(_propagate(study, 1)))
    study.withdraw_suggestion("c")
    for index in (1, 2, 3):
        _draw(study, index)

    study.prune([row.item for row in study.prunable(keep=1)], keep=1)

    assert study.newest_said("c") is None


def test_a_way_back_stays_while_what_it_passed_over_does(study: Study) -> None:
    first = _propagate(study, 1)
    study.pin_version(_label(_propagate(study, 2)))
    study.roll_back("c", first)
    for index in (0, 1, 2):
        _draw(study, index)

    study.prune([row.item for row in study.prunable(keep=1)], keep=1)

    said = study.newest_said("c")
    assert said is not None
    assert said.version == first


def test_a_way_back_goes_when_only_what_it_led_to_is_kept(study: Study) -> None:
    first = _propagate(study, 1)
    study.pin_version(_label(first))
    _draw(study, 0)
    back = study.roll_back("c", first)
    for index in (1, 2):
        _draw(study, index)
    assert _label(back) in [row.item for row in study.prunable(keep=1)]


def test_damaged_newest_versions_do_not_count_as_newest(study: Study) -> None:
    for index in range(3):
        _draw(study, index)
    (study.folder / "cases" / "c" / "labels" / "0003" / "version.json").unlink()
    assert [row.item for row in study.prunable(keep=1)] == [_label(1)]
    for number in (1, 2):
        (study.folder / "cases" / "c" / "labels" / f"000{number}" / "version.json").unlink()
    assert study.prunable(keep=1) == ()
