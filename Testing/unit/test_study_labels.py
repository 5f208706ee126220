"""Labels and predictions: versioned, never overwritten, joined under the lock."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.errors import (
    ConfigError,
    GeometryMismatchError,
    LabelError,
    ProtocolError,
    SchemaError,
    StorageError,
)
from semiseg.images.grid import Grid, plane_axis
from semiseg.images.labels import read_label
from semiseg.images.reading import write_image
from semiseg.study.case import GateRecord, Origin
from semiseg.study.ledger import Ledger, SliceState
from semiseg.study.protocol import Protocol, parse_structures
from semiseg.study.study import Study

_GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.0, 0.0, 1.0, 0.6, -0.8, 0.0, 0.8, 0.6, 0.0),
)
_ACCEPT = GateRecord(verdict="accept", score=0.9, reasons=("good",))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study with the case "c" and the structures 1 liver and 2 spleen."""
    noise = np.random.default_rng(0).normal(0, 300, _GRID.shape_zyx)
    write_image(tmp_path / "scan.nii.gz", noise.astype(np.int16), _GRID)
    study = Study.create(tmp_path / "study", name="s", protocol=parse_structures("liver,spleen"))
    study.add_case(tmp_path / "scan.nii.gz", case_id="c")
    return study


def _map(value: int = 0) -> NDArray[np.uint16]:
    return np.full(_GRID.shape_zyx, value, np.uint16)


def _axial(index: int) -> tuple[slice | int, ...]:
    return (slice(None),) * plane_axis(_GRID, "axial") + (index,)


def _propagate(study: Study, array: NDArray[np.uint16], weight: float = 0.5) -> int | None:
    confidence = np.full(_GRID.shape_zyx, weight, np.float32)
    return study.propagated(
        "c", array, confidence, structure_ids=[1, 2], gate=_ACCEPT, info={"atlases": ["a"]}
    )


def test_an_annotation_is_read_back_as_it_was_drawn(study: Study) -> None:
    drawn = _map()
    drawn[_axial(1)] = 2
    assert study.label("c") is None
    assert study.ledger("c") == Ledger()
    version = study.annotate(
        "c", drawn, plane="axial", indices=[1], empty=[0], author="A", note="first"
    )
    label = Study.open(study.folder).label("c")
    assert label is not None
    assert (version, label.version) == (1, 1)
    assert np.array_equal(label.array, drawn)
    assert (label.origin[_axial(1)] == Origin.HUMAN).all()
    assert (label.origin[_axial(0)] == Origin.HUMAN).all()
    assert (label.origin[_axial(2)] == Origin.NONE).all()
    assert label.ledger.state("axial", 0, 1) is SliceState.EMPTY
    assert label.ledger.state("axial", 1, 2) is SliceState.DONE
    assert (label.info["author"], label.info["note"]) == ("A", "first")
    assert study.ledger("c") == label.ledger


def test_a_label_file_is_a_segmentation_that_slicer_can_load(study: Study) -> None:
    study.annotate("c", _map(2))
    label = read_label(study.folder / "cases/c/labels/0001/label.seg.nrrd")
    assert [(s.id, s.name) for s in label.segments] == [(1, "liver"), (2, "spleen")]
    assert "SCT^78961009^Spleen" in label.segments[1].terminology
    assert label.grid.difference(_GRID) is None


def test_versions_only_grow_and_old_ones_stay(study: Study) -> None:
    for value in (1, 2, 1):
        study.annotate("c", _map(value))
    assert study.label_versions("c") == (1, 2, 3)
    values = [study.label("c", version) for version in (1, 2, 3)]
    assert [int(label.array[0, 0, 0]) for label in values if label] == [1, 2, 1]
    with pytest.raises(SchemaError, match="no version 9 in labels; it has 1, 2, 3"):
        study.label("c", 9)


def test_saving_the_same_again_makes_no_version(study: Study) -> None:
    first = study.annotate("c", _map(1), plane="axial", indices=[0])
    assert study.annotate("c", _map(1), plane="axial", indices=[0]) == first
    study.mark_slices("c", "axial", [0], SliceState.DONE)
    assert study.label_versions("c") == (1,)


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (np.zeros((4, 5, 7), np.uint16), GeometryMismatchError, r"shape \(4, 5, 7\)"),
        (np.zeros((4, 5), np.uint16), GeometryMismatchError, "shape"),
        (np.full(_GRID.shape_zyx, 3), LabelError, "value 3"),
        (np.full(_GRID.shape_zyx, -1), LabelError, "from -1"),
        (np.full(_GRID.shape_zyx, 70000), LabelError, "70000"),
        (np.ones(_GRID.shape_zyx, np.float32), LabelError, "float32"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(
    study: Study, array: NDArray[np.integer], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        study.annotate("c", array)
    assert study.label_versions("c") == ()


def test_slices_and_structures_that_are_not_there_are_refused(study: Study) -> None:
    with pytest.raises(LabelError, match="no axial slice 99"):
        study.annotate("c", _map(), plane="axial", indices=[99])
    with pytest.raises(ConfigError, match="without a plane"):
        study.annotate("c", _map(), indices=[0])
    with pytest.raises(ProtocolError, match="no structure 5"):
        study.annotate("c", _map(), structure_ids=[5])
    with pytest.raises(LabelError, match="said to be empty"):
        study.annotate("c", _map(1), plane="axial", empty=[0])
    assert study.label_versions("c") == ()


def test_an_empty_protocol_is_told(tmp_path: Path, study: Study) -> None:
    study.set_protocol(Protocol())
    with pytest.raises(ProtocolError, match="no structures yet"):
        study.annotate("c", _map())
    with pytest.raises(LabelError, match="add structures to the protocol"):
        study.annotate("c", _map(1))


def test_propagation_joins_the_newest_label_and_keeps_the_human(study: Study) -> None:
    drawn = _map()
    drawn[_axial(1)] = 1
    study.annotate("c", drawn, plane="axial", indices=[1])
    assert _propagate(study, _map(2)) == 2
    label = study.label("c")
    assert label is not None
    assert (label.array[_axial(1)] == 1).all()
    assert (label.array[_axial(2)] == 2).all()
    assert (label.origin[_axial(2)] == Origin.PROPAGATED).all()
    assert label.confidence[_axial(2)].max() == np.float32(0.5)
    assert label.confidence[_axial(1)].min() == 1
    assert label.propagated_ids == (1, 2)
    assert label.info["atlases"] == ["a"]
    assert Study.open(study.folder).cases["c"].gate == _ACCEPT


def test_a_rejected_propagation_leaves_its_verdict_only(study: Study) -> None:
    gate = GateRecord(verdict="reject", score=0.1, reasons=("folds",))
    found = study.propagated(
        "c", _map(1), np.ones(_GRID.shape_zyx), structure_ids=[1], gate=gate, info={}
    )
    assert found is None
    assert study.label_versions("c") == ()
    assert study.cases["c"].gate == gate
    assert Study.open(study.folder).cases["c"].gate == gate


@pytest.mark.parametrize(
    ("value", "weight", "words"), [(3, 0.5, "value 3"), (1, 1.5, "to 1.5"), (1, np.nan, "nan")]
)
def test_a_propagation_that_makes_no_sense_is_refused(
    study: Study, value: int, weight: float, words: str
) -> None:
    with pytest.raises(LabelError, match=words):
        _propagate(study, _map(value), weight)
    assert study.cases["c"].gate is None


def test_an_edit_counts_only_where_it_differs_from_what_was_shown(study: Study) -> None:
    _propagate(study, _map(1))
    shown = study.label("c")
    assert shown is not None
    _propagate(study, _map(2))
    edited = shown.array.copy()
    edited[0, 0, 0] = 0
    study.annotate("c", edited, base_version=shown.version)
    label = study.label("c")
    assert label is not None
    assert (label.array[0, 0, 0], label.origin[0, 0, 0]) == (0, Origin.CORRECTED)
    assert label.array[0, 0, 1] == 2
    assert label.origin[0, 0, 1] == Origin.PROPAGATED
    from_nothing = _map()
    from_nothing[1, 0, 0] = 1
    study.annotate("c", from_nothing, base_version=0)
    again = study.label("c")
    assert again is not None
    assert (again.array[1, 0, 0], again.array[0, 0, 1]) == (1, 2)


def test_marking_a_slice_done_confirms_what_is_there(study: Study) -> None:
    _propagate(study, _map(1))
    study.mark_slices("c", "axial", [0], SliceState.DONE, [1])
    study.mark_slices("c", "axial", [1], SliceState.EMPTY, [1])
    study.mark_slices("c", "axial", [2], SliceState.SUGGESTED)
    label = study.label("c")
    assert label is not None
    assert (label.origin[_axial(0)] == Origin.HUMAN).all()
    assert (label.origin[_axial(1)] == Origin.CORRECTED).all()
    assert (label.array[_axial(1)] == 0).all()
    assert (label.origin[_axial(2)] == Origin.PROPAGATED).all()
    with pytest.raises(LabelError, match="said to be empty"):
        study.mark_slices("c", "axial", [0], SliceState.EMPTY, [1])
    study.mark_slices("c", "axial", [0, 1, 2], SliceState.UNTOUCHED)
    assert study.ledger("c") == Ledger()


def test_slices_can_be_marked_before_anything_is_drawn(study: Study) -> None:
    study.mark_slices("c", "axial", [0], SliceState.EMPTY)
    label = study.label("c")
    assert label is not None
    assert (label.origin[_axial(0)] == Origin.HUMAN).all()
    assert not label.array.any()


def test_a_structure_added_later_is_free_in_slices_done_before(study: Study) -> None:
    study.annotate("c", _map(), plane="axial", empty=[0])
    study.set_protocol(study.protocol.add(parse_structures("7=aorta").structures[0]))
    label = study.label("c")
    assert label is not None
    assert (label.origin == Origin.NONE).all()
    assert label.ledger.done("axial", 1) == (0,)
    confidence = np.ones(_GRID.shape_zyx, np.float32)
    study.propagated("c", _map(7), confidence, structure_ids=[7], gate=_ACCEPT, info={})
    after = study.label("c")
    assert after is not None
    assert (after.array == 7).all()


def test_a_structure_with_drawn_voxels_goes_only_by_force_and_its_id_is_kept(study: Study) -> None:
    drawn = _map(1)
    drawn[0, 0, 0] = 2
    study.annotate("c", drawn)
    liver = study.protocol.remove(2)
    with pytest.raises(ProtocolError, match=r"spleen \(drawn in c\) cannot be removed"):
        study.set_protocol(liver)
    study.set_protocol(liver, force=True)
    label = study.label("c")
    assert label is not None
    assert label.array[0, 0, 0] == 0
    assert label.origin[0, 0, 0] == Origin.NONE
    opened = Study.open(study.folder)
    with pytest.raises(ProtocolError, match="the id 2 belonged to 'spleen'"):
        opened.set_protocol(liver.add(parse_structures("2=aorta").structures[0]))
    opened.set_protocol(parse_structures("liver,spleen"))
    back = opened.label("c")
    assert back is not None
    assert np.array_equal(back.array, drawn)


def test_a_structure_without_voxels_goes_freely_and_leaves_its_id(study: Study) -> None:
    study.annotate("c", _map(1))
    study.set_protocol(study.protocol.remove(2))
    study.set_protocol(study.protocol.add(parse_structures("2=aorta").structures[0]))
    assert study.protocol.by_id(2).name == "aorta"


def test_a_renamed_structure_keeps_its_voxels(study: Study) -> None:
    study.annotate("c", _map(1))
    study.set_protocol(study.protocol.rename(1, "Leber"))
    label = study.label("c")
    assert label is not None
    assert (label.array == 1).all()


def test_a_prediction_lies_beside_the_label(study: Study) -> None:
    assert study.prediction("c") is None
    weights = np.full(_GRID.shape_zyx, 0.25, np.float32)
    assert study.predicted("c", _map(1), weights, model_id=4, info={"seconds": 1.5}) == 1
    assert study.predicted("c", _map(2), weights, model_id=5, info={}) == 2
    opened = Study.open(study.folder)
    newest, first = opened.prediction("c"), opened.prediction("c", 1)
    assert newest is not None
    assert first is not None
    assert (newest.model_id, newest.version, int(newest.array.max())) == (5, 2, 2)
    assert (first.model_id, first.info["seconds"]) == (4, 1.5)
    assert np.array_equal(first.uncertainty, weights)
    assert opened.label("c") is None
    assert opened.prediction_versions("c") == (1, 2)
    with pytest.raises(LabelError, match="to 2"):
        study.predicted("c", _map(1), weights * 8, model_id=4, info={})


def _spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "name", ["label.seg.nrrd", "origin.nrrd", "confidence.nrrd", "ledger.json", "version.json"]
)
@pytest.mark.parametrize("how", ["spoil", "cut", "remove"])
def test_a_damaged_newest_version_is_told_and_the_one_before_used(
    study: Study, name: str, how: str
) -> None:
    study.annotate("c", _map(1), plane="axial", indices=[0])
    study.annotate("c", _map(2), plane="axial", indices=[0])
    path = study.folder / "cases/c/labels/0002" / name
    if how == "spoil":
        _spoil(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.unlink()
    opened = Study.open(study.folder)
    label = opened.label("c")
    assert label is not None
    assert (label.version, int(label.array[0, 0, 0])) == (1, 1)
    (problem,) = opened.problems
    assert "version 2 of c cannot be used" in problem.message
    assert "the newest version before it" in problem.remedy
    with pytest.raises(SchemaError):
        opened.label("c", 2)
    assert any("version 2" in found.message for found in opened.check())
    assert opened.annotate("c", _map(1)) in (1, 3)
    assert path.parent.exists()


def test_a_version_on_a_bad_sector_gives_way_to_the_one_before_it(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.annotate("c", _map(1))
    study.annotate("c", _map(2))
    digest = hashlib.file_digest

    def read(file: Any, name: str) -> Any:
        if "/0002/origin" in Path(file.name).as_posix():
            raise OSError(errno.EIO, "Input/output error")
        return digest(file, name)

    monkeypatch.setattr("hashlib.file_digest", read)
    label = study.label("c")
    assert label is not None
    assert label.version == 1
    assert "Input/output error" in str(study.problems)


def test_a_damaged_prediction_is_told_and_the_one_before_used(study: Study) -> None:
    for value in (1, 2):
        study.predicted("c", _map(value), np.zeros(_GRID.shape_zyx), model_id=1, info={})
    _spoil(study.folder / "cases/c/predictions/0002/label.seg.nrrd")
    found = study.prediction("c")
    assert found is not None
    assert found.version == 1
    assert "predictions version 2 of c cannot be used" in study.problems[0].message


def test_a_ledger_is_read_from_the_newest_whole_version(study: Study) -> None:
    study.annotate("c", _map(1), plane="axial", indices=[0])
    study.annotate("c", _map(1), plane="axial", indices=[1])
    (study.folder / "cases/c/labels/0002/ledger.json").write_text("{")
    assert study.ledger("c").done("axial", 1) == (0,)
    assert study.problems
    shutil.rmtree(study.folder / "cases/c/labels/0001")
    assert study.ledger("c") == Ledger()


def test_a_version_with_impossible_content_is_damaged(study: Study) -> None:
    study.annotate("c", _map(1), plane="axial", indices=[0])
    folder = study.folder / "cases/c/labels/0001"
    small = Grid(size_xyz=(2, 2, 2), spacing_mm_xyz=(1, 1, 1))
    for name, array, grid in (
        ("origin.nrrd", np.full(_GRID.shape_zyx, 77, np.uint8), _GRID),
        ("confidence.nrrd", np.zeros(small.shape_zyx, np.uint8), small),
        ("label.seg.nrrd", np.zeros(small.shape_zyx, np.uint8), small),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("semiseg.study.labels.require_content", lambda manifest: None)
            patch.setattr("semiseg.study.versions._require_size", lambda path, size: None)
            content = (folder / name).read_bytes()
            write_image(folder / name, array, grid)
            with pytest.raises(SchemaError, match="damaged"):
                study.label("c", 1)
            (folder / name).write_bytes(content)


def _failing_after(calls: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = getattr(os, name)
    left = [calls]

    def fail(*args: object, **kwargs: object) -> object:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("name", ["fsync", "rename", "replace", "mkdir"])
def test_a_full_disk_at_any_moment_loses_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    study.annotate("c", _map(1), plane="axial", indices=[0])
    study.predicted("c", _map(1), np.zeros(_GRID.shape_zyx), model_id=1, info={})
    confirmed, told = 1, []
    for calls in range(0, 100, 3):
        with monkeypatch.context() as patch:
            _failing_after(calls, patch, name)
            try:
                confirmed = study.annotate("c", _map(1 + calls % 2), plane="axial", indices=[1])
                study.predicted("c", _map(2), np.zeros(_GRID.shape_zyx), model_id=2, info={})
                _propagate(study, _map(2))
                study.set_modality("c", "MR")
                study.set_split("c", "val")
                break
            except StorageError as error:
                told.append(str(error))
        opened = Study.open(study.folder)
        label = opened.label("c")
        assert label is not None
        assert label.version >= confirmed
        assert opened.label("c", 1) is not None
        assert opened.prediction("c") is not None
        assert not (study.folder / "lock.json").exists()
        assert opened.problems == ()
    else:
        pytest.fail("the disk never had enough room")
    assert told
    assert all("full" in sentence for sentence in told)
    assert Study.open(study.folder).problems == ()
    left = [path for path in study.folder.rglob("*") if path.name.startswith(".")]
    assert left == []


def test_a_file_that_the_disk_took_only_in_part_is_told_without_its_passing_name(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path, *args: object) -> None:
        raise StorageError(f"{path} could not be written whole")

    monkeypatch.setattr("semiseg.study.labels.write_image", cut)
    with pytest.raises(StorageError, match=r"save the label in .*MB are free") as caught:
        study.annotate("c", _map(1))
    assert ".tmp-" not in str(caught.value)
    assert study.label_versions("c") == ()


def test_a_journal_that_cannot_be_written_does_not_undo_what_was_saved(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("semiseg.study.journal._write_all", refuse)
    assert study.annotate("c", _map(1)) == 1
    assert "the journal does not say so" in study.problems[0].message
    assert study.label("c") is not None
