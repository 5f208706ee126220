"""Drafts: strokes that are on the disk at once, survive anything, and are merged exactly."""

from __future__ import annotations

import errno
import json
import os
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semiseg.errors import (
    GeometryMismatchError,
    LabelError,
    ProtocolError,
    StorageError,
    StudyError,
)
from semiseg.images.grid import PLANES, Grid, plane_axis
from semiseg.images.reading import write_image
from semiseg.study import draft_files
from semiseg.study.case import PROTECTED, GateRecord, Origin
from semiseg.study.drafts import Draft, last_words
from semiseg.study.ledger import SliceState
from semiseg.study.merge import Mark
from semiseg.study.owner import Owner
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

_GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.0, 0.0, 1.0, 0.6, -0.8, 0.0, 0.8, 0.6, 0.0),
)
_SHAPE = _GRID.shape_zyx
_ACCEPT = GateRecord(verdict="accept", score=0.9)
_quickly = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


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
        study.add_case(tmp_path / f"{name}.nii.gz", case_id=name)
    return study


def _map(value: int = 0) -> NDArray[np.uint16]:
    return np.full(_SHAPE, value, np.uint16)


def _box(value: int = 1) -> NDArray[np.uint16]:
    """A drawing that leaves room on each side."""
    drawn = _map()
    drawn[1:3, 1:4, 2:5] = value
    return drawn


def _mark(state: SliceState, *indices: int, ids: tuple[int, ...] = (1, 2)) -> Mark:
    return Mark(plane="axial", indices=indices, state=state, ids=ids)


def _axial(index: int) -> tuple[slice | int, ...]:
    return (slice(None),) * plane_axis(_GRID, "axial") + (index,)


def _files(study: Study, case_id: str = "c") -> list[str]:
    return sorted(path.name for path in (study.folder / "drafts" / case_id).iterdir())


def _rewrite(path: Path, **changes: Any) -> None:
    """The draft at `path` with another head."""
    arrays = dict(np.load(path, allow_pickle=False))
    head = {**json.loads(arrays["head"].tobytes()), **changes}
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def test_a_draft_is_read_back_as_it_was_drawn(study: Study) -> None:
    one, two = _map()[:2, :3], _map()[:2, :3]
    one[0, 1, 2:4], two[1, 2, 1:3] = 1, 2
    marks = [_mark(SliceState.DONE, 3, 1), _mark(SliceState.EMPTY, 0, ids=(2,))]
    number = study.save_draft("c", [one, two], offset_zyx=(1, 2, 0), marks=marks, author="A")
    draft = Study.open(study.folder).draft("c")
    assert draft is not None
    assert (draft.number, draft.case_id, draft.author) == (number, "c", "A")
    assert (draft.offset_zyx, draft.shape_zyx) == ((1, 2, 0), _SHAPE)
    assert draft.marks == (_mark(SliceState.DONE, 1, 3), _mark(SliceState.EMPTY, 0, ids=(2,)))
    assert [np.array_equal(*pair) for pair in zip(draft.layers, (one, two), strict=True)]
    full = _map()
    full[1:3, 2:5] = one + two
    assert np.array_equal(draft.full(), full)
    assert draft.ids() == {1, 2}


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    box=st.tuples(*(st.integers(0, n) for n in _SHAPE)),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int64, np.bool_]),
    seed=st.integers(0, 9),
    order=st.sampled_from("CF"),
)
def test_any_box_of_whole_numbers_survives(
    study: Study, box: tuple[int, int, int], dtype: type, seed: int, order: str
) -> None:
    rng = np.random.default_rng(seed)
    layer = np.asarray(rng.integers(0, 3, box).astype(dtype), order=order)  # type: ignore[call-overload]
    study.save_draft("c", [layer])
    draft = study.draft("c")
    assert draft is not None
    assert np.array_equal(draft.layers[0], layer)


def test_numpy_alone_can_read_a_draft(study: Study) -> None:
    study.save_draft("c", [_box()])
    arrays = np.load(study.folder / "drafts/c/000001.npz", allow_pickle=False)
    assert set(arrays) == {"head", "values0", "lengths0"}
    assert np.repeat(arrays["values0"], arrays["lengths0"]).sum() == _box().sum()


def test_without_anything_drawn_a_draft_still_has_its_marks(study: Study) -> None:
    study.save_draft("c", [], marks=[_mark(SliceState.EMPTY, 2)])
    draft = study.draft("c")
    assert draft is not None
    assert not draft.full().any()
    assert study.apply_draft("c") == 1
    assert study.ledger("c").state("axial", 2, 1) is SliceState.EMPTY


def test_a_newer_draft_takes_the_place_of_older_ones(study: Study) -> None:
    assert study.draft("c") is None
    assert [study.save_draft("c", [_box(value)]) for value in (1, 2, 1)] == [1, 2, 3]
    assert _files(study) == ["000003.npz"]
    assert study.drafts() == ("c",)


def test_numbers_grow_even_after_a_draft_was_applied(study: Study) -> None:
    study.save_draft("c", [_box()])
    study.apply_draft("c")
    assert study.drafts() == ()
    assert study.save_draft("c", [_box(2)]) == 2
    study.apply_draft("c")
    assert _files(study) == ["000002.applied"]


def test_saving_needs_no_lock(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "writing", lambda: pytest.fail("a draft waits for no lock"))
    study.save_draft("c", [_box()])
    assert study.drafts() == ("c",)


def test_what_does_not_fit_the_case_is_refused(study: Study) -> None:
    with pytest.raises(StudyError, match="no case 'x'"):
        study.save_draft("x", [_box()])
    for layers, offset in (([_box()], (1, 0, 0)), ([_box()[0]], (0, 0, 0)), ([_box()], (-1, 0, 0))):
        with pytest.raises(GeometryMismatchError, match="does not fit into the image of c"):
            study.save_draft("c", layers, offset_zyx=offset)
    with pytest.raises(GeometryMismatchError, match="one shape"):
        study.save_draft("c", [_box(), _box()[1:]])
    with pytest.raises(LabelError, match="whole numbers"):
        study.save_draft("c", [_box().astype(np.float32)])
    with pytest.raises(LabelError, match="found values 0 to 70000"):
        study.save_draft("c", [_box().astype(np.int32) * 70000])
    with pytest.raises(LabelError, match="no axial slice 99"):
        study.save_draft("c", [_box()], marks=[_mark(SliceState.DONE, 99)])
    assert study.drafts() == ()


def test_a_removed_case_takes_no_draft(study: Study) -> None:
    other = Study.open(study.folder)
    other.remove_case("c")
    with pytest.raises(StudyError, match="c is no longer in the study"):
        study.save_draft("c", [_box()])


def test_a_full_disk_is_told_and_the_older_draft_stays(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save_draft("c", [_box()])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        study.save_draft("c", [_box(2)])
    assert _files(study) == ["000001.npz"]


def test_a_draft_that_cannot_get_its_name_leaves_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="hardware error"):
        study.save_draft("c", [_box()])
    assert _files(study) == []


def test_what_a_killed_writer_left_is_not_a_draft(study: Study) -> None:
    study.save_draft("c", [_box()])
    folder = study.folder / "drafts" / "c"
    (folder / "000002.npz").touch()  # announced, never written
    (folder / ".tmp-00000000-1-1-00000000-draft").write_bytes(b"PK half")
    draft = study.draft("c")
    assert draft is not None
    assert draft.number == 1
    assert study.problems == ()
    assert study.save_draft("c", [_box(2)]) == 3


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b'"study"') + 3] ^= 1
    path.write_bytes(content)


def _encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] ^= 1  # one bit of the archive's list
    path.write_bytes(content)


def _emptied(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


def _deflated(path: Path) -> None:
    arrays = dict(np.load(path))
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _pickled(path: Path) -> None:
    arrays = dict(np.load(path))
    packed = BytesIO()
    np.savez(packed, **{**arrays, "values0": np.array([{}], dtype=object)})
    path.write_bytes(packed.getvalue())


def _short_runs(path: Path) -> None:
    arrays = dict(np.load(path))
    arrays["lengths0"] = arrays["lengths0"][:-1]
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _no_object(path: Path) -> None:
    arrays = dict(np.load(path))
    with path.open("wb") as file:
        np.savez(file, **{**arrays, "head": np.frombuffer(b"[]", np.uint8)})


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (_torn, "is corrupt"),
        (_flipped, "is corrupt"),
        (_encrypted, "is corrupt"),
        (_emptied, "is corrupt"),
        (_deflated, "packed or too large"),
        (_pickled, "is corrupt"),
        (_short_runs, "do not fill its box"),
        (_no_object, "no object"),
        (lambda path: _rewrite(path, box=[9, 9, 9]), "outside of its image"),
        (lambda path: _rewrite(path, box=[1, 2]), "three sizes"),
        (lambda path: _rewrite(path, format=2), "newer SemiSeg"),
        (lambda path: _rewrite(path, case="d"), "another image"),
        (lambda path: _rewrite(path, image="0" * 64), "another image"),
        (lambda path: _rewrite(path, study="x"), "another image"),
        (lambda path: _rewrite(path, shape=[9, 9, 9]), "has the shape"),
        (lambda path: _rewrite(path, marks=[{"plane": "x"}]), "plane"),
    ],
)
def test_a_draft_that_is_not_sound_is_told_and_the_one_before_it_counts(
    study: Study, damage: Any, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:  # else the first would be removed
        patched.setattr(draft_files.DraftFiles, "_remove_before", lambda *_: None)
        study.save_draft("c", [_box()])
        study.save_draft("c", [_box(2)])
    path = study.folder / "drafts" / "c" / "000002.npz"
    damage(path)
    draft = study.draft("c")
    assert draft is not None
    assert draft.number == 1
    assert [p.case_id for p in study.problems if cause in p.message] == ["c"]
    assert study.apply_draft("c") == 1
    assert _files(study) == ["000001.applied", "000002.kept"]
    label = study.label("c")
    assert label is not None
    assert set(np.unique(label.array)) == {0, 1}


def test_without_a_sound_draft_nothing_is_applied(study: Study) -> None:
    study.save_draft("c", [_box()])
    _torn(study.folder / "drafts/c/000001.npz")
    assert study.draft("c") is None
    assert study.apply_draft("c") is None
    assert study.label("c") is None
    assert _files(study) == ["000001.kept"]
    assert study.apply_draft("c") is None


def test_a_check_of_the_study_reads_drafts_too(study: Study) -> None:
    study.save_draft("c", [_box()])
    study.save_draft("d", [_box()])
    assert study.check() == ()
    _torn(study.folder / "drafts/d/000001.npz")
    (found,) = study.check()
    assert found.case_id == "d"
    assert "draft 1 of d cannot be used" in found.message


def test_a_disk_that_does_not_answer_leaves_the_draft_where_it_is(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save_draft("c", [_box()])
    honest = Path.open

    def dead(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.suffix == ".npz":
            raise OSError(errno.EIO, "Input/output error")
        return honest(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", dead)
        assert study.draft("c") is None
        with pytest.raises(StorageError, match="hardware error"):
            study.apply_draft("c")
    assert study.apply_draft("c") == 1


def test_a_draft_that_is_replaced_while_it_is_read_is_no_problem(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save_draft("c", [_box()])
    honest, other = draft_files.DraftFiles.read, Study.open(study.folder)

    def slow(files: draft_files.DraftFiles, number: int) -> Any:
        if number == 1:
            other.save_draft("c", [_box(2)])
        return honest(files, number)

    monkeypatch.setattr(draft_files.DraftFiles, "read", slow)
    draft = study.draft("c")
    assert draft is not None
    assert draft.number == 2
    assert study.problems == ()


def test_a_draft_that_is_applied_while_it_is_read_is_none(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save_draft("c", [_box()])
    numbers = iter([(1,), (1,), ()])
    monkeypatch.setattr(draft_files.DraftFiles, "numbers", lambda _: next(numbers, (1,)))
    (study.folder / "drafts/c/000001.npz").unlink()
    assert study.draft("c") is None
    assert study.draft("c") is None  # it gives up in the end
    assert study.problems == ()


def test_a_draft_that_cannot_be_taken_away_is_merged_all_the_same(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.save_draft("c", [_box()])
    honest = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.suffix == ".npz":
            raise PermissionError(errno.EACCES, "in use")
        return honest(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        assert study.apply_draft("c") == 1
    assert [p.message for p in study.problems if "its draft stays" in p.message]
    assert study.apply_draft("c") == 1
    assert study.drafts() == ()


def _as_if_by_another(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Owner:
    owner = replace(Owner.current(), **changes)
    monkeypatch.setattr(Owner, "current", classmethod(lambda cls: owner))
    return owner


def test_the_draft_of_another_living_program_is_kept_aside(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        _as_if_by_another(patched, pid=os.getppid(), started=0.0)
        patched.setattr(Owner, "alive", lambda self: True)
        study.save_draft("c", [_box(2)])
    monkeypatch.setattr(Owner, "alive", lambda self: True)
    study.save_draft("c", [_box(1)])
    assert _files(study) == ["000001.npz", "000002.npz"]
    study.apply_draft("c")
    assert _files(study) == ["000001.kept", "000002.applied"]
    assert [p.message for p in study.problems] == [
        "c: another program drew in this case at the same time"
    ]
    label = study.label("c")
    assert label is not None
    assert set(np.unique(label.array)) == {0, 1}


@pytest.mark.parametrize(("alive", "age_s", "left"), [(False, 0, 1), (None, 0, 2), (None, 1e6, 1)])
def test_the_draft_of_a_program_that_ended_is_replaced(
    study: Study, monkeypatch: pytest.MonkeyPatch, alive: bool | None, age_s: float, left: int
) -> None:
    with monkeypatch.context() as patched:
        _as_if_by_another(patched, host="elsewhere")
        study.save_draft("c", [_box(2)])
    path = study.folder / "drafts/c/000001.npz"
    os.utime(path, (time.time() - age_s,) * 2)
    monkeypatch.setattr(Owner, "alive", lambda self: alive)
    study.save_draft("c", [_box(1)])
    assert len(_files(study)) == left


def test_two_writers_never_take_the_same_number(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_files.DraftFiles, "_listed", lambda *_: ())
    assert [study.save_draft("c", [_box()]) for _ in range(3)] == [1, 2, 3]


def test_overlapping_structures_are_refused_with_their_names_and_the_draft_stays(
    study: Study,
) -> None:
    other = _map()
    other[2, 1:4, 2:5] = 2
    study.save_draft("c", [_box(1), other])
    with pytest.raises(LabelError, match="liver and spleen overlap in 9 voxels; a voxel can"):
        study.apply_draft("c")
    assert study.drafts() == ("c",)
    assert study.label("c") is None


def test_the_worst_of_several_overlaps_is_told() -> None:
    one, two = np.array([[[1, 1, 3]]], np.uint16), np.array([[[2, 2, 4]]], np.uint16)
    draft = Draft(
        case_id="c", number=1, layers=(one, two), offset_zyx=(0, 0, 0), shape_zyx=(1, 1, 3)
    )
    with pytest.raises(LabelError, match="structure 1 and structure 2 overlap in 2 voxels, and 1"):
        draft.full()
    same = replace(draft, layers=(one, one))
    assert np.array_equal(same.full(), one)


def test_a_structure_that_the_protocol_does_not_have_is_refused_and_the_draft_stays(
    study: Study,
) -> None:
    study.save_draft("c", [_box(7)])
    with pytest.raises(LabelError, match="structure 7, which the protocol does not have"):
        study.apply_draft("c")
    assert study.drafts() == ("c",)


def test_without_structures_the_draft_stays(study: Study) -> None:
    study.save_draft("c", [], marks=[_mark(SliceState.DONE, 1)])
    study.set_protocol(parse_structures(""))
    with pytest.raises(ProtocolError, match="no structures yet"):
        study.apply_draft("c")
    assert study.drafts() == ("c",)


def test_a_slice_that_is_said_to_be_empty_but_drawn_is_refused_and_the_draft_stays(
    study: Study,
) -> None:
    study.save_draft("c", [_map(1)], marks=[_mark(SliceState.EMPTY, 1)])
    with pytest.raises(LabelError, match="axial slice 1 is said to be empty"):
        study.apply_draft("c")
    assert study.drafts() == ("c",)


def test_a_structure_drawn_in_a_draft_only_is_not_removed(study: Study) -> None:
    study.save_draft("d", [_box(2)])
    with pytest.raises(ProtocolError, match=r"spleen \(drawn in d\)"):
        study.set_protocol(study.protocol.remove(2))
    _torn(study.folder / "drafts/d/000001.npz")
    study.set_protocol(study.protocol.remove(2))


def _propagate(study: Study) -> None:
    rng = np.random.default_rng(3)
    found = rng.integers(0, 3, _SHAPE).astype(np.uint16)
    weights = np.full(_SHAPE, 0.5, np.float32)
    study.propagated("c", found, weights, structure_ids=[1, 2], gate=_ACCEPT, info={})


_DRAWINGS = st.tuples(
    st.integers(0, 50),
    st.lists(
        st.tuples(
            st.sampled_from(PLANES),
            st.sets(st.integers(0, 3), max_size=3),
            st.sampled_from([SliceState.DONE, SliceState.UNTOUCHED]),
        ),
        max_size=3,
    ),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawings=st.lists(_DRAWINGS, min_size=1, max_size=3), program=st.booleans())
def test_applying_is_annotating_and_doing_it_again_changes_nothing(
    study: Study, drawings: list[Any], program: bool
) -> None:
    if program:
        _propagate(study)
    for seed, words in drawings:
        drawn = np.random.default_rng(seed).choice([0, 0, 1, 2], _SHAPE).astype(np.uint16)
        marks = [Mark(plane=p, indices=tuple(i), state=s, ids=(1, 2)) for p, i, s in words]
        study.save_draft("c", [drawn], marks=marks)
        version = study.apply_draft("c")
        label = study.label("c")
        assert label is not None
        assert label.version == version
        assert np.array_equal(study.human_map("c").array, drawn)
        human = np.isin(label.origin, PROTECTED)
        assert (label.confidence[human] == 1).all()
        study.save_draft("c", [drawn], marks=marks)
        assert study.apply_draft("c") == version
        shown = study.human_map("c")
        study.save_draft("c", [shown.array])
        assert study.apply_draft("c") == shown.version == version


def test_a_draft_does_as_annotate_does(study: Study) -> None:
    for case_id in "cd":
        study.annotate(case_id, _map(2), plane="axial", indices=[0])
    drawn = _box()
    study.save_draft("c", [drawn], marks=[_mark(SliceState.DONE, 1), _mark(SliceState.EMPTY, 0)])
    study.apply_draft("c")
    study.annotate("d", drawn, plane="axial", indices=[1], empty=[0])
    one, two = study.label("c"), study.label("d")
    assert one is not None
    assert two is not None
    assert one.ledger == two.ledger
    for name in ("array", "origin", "confidence"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_a_program_is_corrected_where_a_finished_slice_differs(study: Study) -> None:
    _propagate(study)
    study.save_draft("c", [_map()], marks=[_mark(SliceState.DONE, 1)])
    study.apply_draft("c")
    label = study.label("c")
    assert label is not None
    assert not label.array[_axial(1)].any()
    assert np.isin(label.origin[_axial(1)], [Origin.CORRECTED, Origin.HUMAN]).all()
    assert (label.origin[_axial(2)] == Origin.PROPAGATED).any()


def test_of_each_slice_and_structure_the_last_word_counts() -> None:
    done, untouched = SliceState.DONE, SliceState.UNTOUCHED
    marks = [_mark(done, 1, 2), _mark(untouched, 2), _mark(SliceState.EMPTY, 1, ids=(2, 9))]
    assert set(last_words(marks, {1, 2})) == {
        _mark(done, 1, ids=(1,)),
        _mark(SliceState.EMPTY, 1, ids=(2,)),
        _mark(untouched, 2),
    }


def test_a_slice_that_was_done_and_then_not_keeps_what_programs_said(study: Study) -> None:
    _propagate(study)
    before = study.label("c")
    marks = [_mark(SliceState.DONE, 1), _mark(SliceState.UNTOUCHED, 1)]
    study.save_draft("c", [_map()], marks=marks)
    study.apply_draft("c")
    after = study.label("c")
    assert before is not None
    assert after is not None
    assert np.array_equal(after.array, before.array)
    assert not after.ledger.any_done
