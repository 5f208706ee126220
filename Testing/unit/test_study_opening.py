"""A study opens as far as it can be read, and says what cannot be and what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semiseg.errors import SchemaError, StorageError, StudyError, StudyLockedError
from semiseg.images.grid import Grid
from semiseg.images.labels import Segment, write_label
from semiseg.images.reading import sha256_file, write_image
from semiseg.study import core, migrate
from semiseg.study.case import Origin
from semiseg.study.journal import JOURNAL_NAME, Journal
from semiseg.study.migrate import SCHEMA, migrate_case, schema_of
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

_GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.0, 0.0, 1.0, 0.6, -0.8, 0.0, 0.8, 0.6, 0.0),
)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def image(tmp_path: Path) -> Callable[[int], Path]:
    """Writes the little image number n."""

    def make(number: int = 0) -> Path:
        path = tmp_path / f"scan {number}.nii.gz"
        noise = np.random.default_rng(number).normal(0, 300, _GRID.shape_zyx)
        write_image(path, noise.astype(np.int16), _GRID)
        return path

    return make


@pytest.fixture
def study(tmp_path: Path, image: Callable[[int], Path]) -> Study:
    """A study with the annotated cases "a" and "b"."""
    study = Study.create(tmp_path / "study", name="s", protocol=parse_structures("liver"))
    for number, name in enumerate("ab"):
        study.add_case(image(number), case_id=name)
        study.annotate(name, np.ones(_GRID.shape_zyx, np.uint16), plane="axial", indices=[0])
    return study


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path, "not a study"),
        (tmp_path / "missing", "not a study"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(StudyError, match=words):
            Study.open(path)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right on Windows")
def test_a_study_behind_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match="loop of symbolic links"):
        Study.open(tmp_path / "loop")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right on Windows")
def test_a_case_behind_a_loop_of_links_leaves_the_others_open(study: Study) -> None:
    shutil.rmtree(study.folder / "cases" / "a")
    (study.folder / "cases" / "a").symlink_to(study.folder / "cases" / "a")
    shutil.rmtree(study.folder / "backups" / "cases")
    opened = Study.open(study.folder)
    assert list(opened.cases) == ["b"]
    assert "loop of symbolic links" in opened.problems[0].message


def test_a_second_study_in_the_same_folder_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds a study already"):
        Study.create(study.folder, name="again")
    with pytest.raises(StudyError, match="needs a name"):
        Study.create(tmp_path / "new", name=" ")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is a file"):
        Study.create(tmp_path / "file", name="x")


def test_a_newer_study_is_refused_and_not_touched(study: Study) -> None:
    _edit(study.folder / "study.json", schema_version=SCHEMA + 1, semiseg_version="9.1")
    before = _snapshot(study.folder)
    with pytest.raises(SchemaError, match=r"newer SemiSeg \(9.1, schema 3\).*update SemiSeg"):
        Study.open(study.folder)
    assert _snapshot(study.folder) == before
    with pytest.raises(SchemaError, match="newer SemiSeg"):
        study.set_modality("a", "MR")
    assert _snapshot(study.folder) == before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema_version": 2}', '{"schema_version": 0}']
)
def test_a_corrupt_study_file_is_replaced_by_its_copy(study: Study, content: str) -> None:
    (study.folder / "study.json").write_text(content)
    opened = Study.open(study.folder)
    assert (list(opened.cases), opened.id, opened.protocol) == (
        ["a", "b"],
        study.id,
        study.protocol,
    )
    (problem,) = opened.problems
    assert "the next change writes study.json anew" in problem.remedy
    opened.assign_splits(0)
    assert Study.open(study.folder).problems == ()
    opened.set_split("a", "val")
    assert Study.open(study.folder).cases["a"].split == "val"


def test_a_missing_study_file_is_replaced_by_its_copy(study: Study) -> None:
    (study.folder / "study.json").unlink()
    opened = Study.open(study.folder)
    assert "is missing" in opened.problems[0].message
    assert list(opened.cases) == ["a", "b"]


def test_without_study_file_and_copy_the_labels_are_left_alone(study: Study) -> None:
    (study.folder / "study.json").write_text("{")
    (study.folder / "backups" / "study.json").write_text("{")
    with pytest.raises(SchemaError, match=r"its copy cannot be read either.*labels.*untouched"):
        Study.open(study.folder)
    assert (study.folder / "cases/a/labels/0001/label.seg.nrrd").exists()


@pytest.mark.parametrize(
    "content", ["{", '{"schema_version": 2}', '{"schema_version": 2, "id": "b"}']
)
def test_a_corrupt_case_file_is_replaced_by_its_copy(study: Study, content: str) -> None:
    (study.folder / "cases/a/case.json").write_text(content)
    opened = Study.open(study.folder)
    assert list(opened.cases) == ["a", "b"]
    assert opened.label("a") is not None
    assert opened.problems[0].case_id == "a"
    assert "its copy in backups/ was used" in opened.problems[0].remedy
    opened.set_modality("a", "MR")
    assert Study.open(study.folder).problems == ()


def test_a_case_that_cannot_be_read_at_all_leaves_the_others_open(study: Study) -> None:
    (study.folder / "cases/a/case.json").write_text("{")
    (study.folder / "backups/cases/a.json").unlink()
    opened = Study.open(study.folder)
    assert list(opened.cases) == ["b"]
    assert "restore the file" in opened.problems[0].remedy
    with pytest.raises(StudyError, match=r"a.case\.json is corrupt"):
        opened.label("a")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 3},
        {"modality": "PET"},
        {"grid": {"size_xyz": [1, 2]}},
        {"gate": {"verdict": "perhaps", "score": 1}},
        {"image": {"absolute": 3}},
        {"id": "b"},
    ],
)
def test_impossible_values_in_a_case_file_are_told(study: Study, change: dict[str, object]) -> None:
    _edit(study.folder / "cases/a/case.json", **change)
    opened = Study.open(study.folder)
    assert opened.problems[0].case_id == "a"
    assert list(opened.cases) == ["a", "b"]


def test_a_case_id_never_leads_out_of_the_study(study: Study, tmp_path: Path) -> None:
    record = json.loads((study.folder / "study.json").read_text())
    _edit(study.folder / "study.json", cases=[*record["cases"], "../../elsewhere", ".."])
    opened = Study.open(study.folder)
    assert list(opened.cases) == ["a", "b"]
    assert [problem.message for problem in opened.problems] == [
        "'../../elsewhere' is no case id",
        "'..' is no case id",
    ]


def test_a_case_whose_addition_was_cut_short_is_there(study: Study) -> None:
    _edit(study.folder / "study.json", cases=["a"])
    assert list(Study.open(study.folder).cases) == ["a", "b"]


def test_a_case_that_cannot_be_listed_is_not_added(
    study: Study, image: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(core, "save_record", refuse)
        with pytest.raises(StorageError):
            study.add_case(image(7), case_id="c")
    assert list(study.cases) == ["a", "b"]
    assert list(Study.open(study.folder).cases) == ["a", "b"]
    assert study.add_case(image(7), case_id="c").id == "c"


def test_a_cases_folder_that_is_missing_or_a_file_is_told(study: Study) -> None:
    shutil.rmtree(study.folder / "cases")
    shutil.rmtree(study.folder / "backups" / "cases")
    opened = Study.open(study.folder)
    assert not opened.cases
    assert [problem.case_id for problem in opened.problems] == ["a", "b"]
    (study.folder / "cases").write_text("")
    with pytest.raises(StudyError, match="cannot be read"):
        Study.open(study.folder)


def test_leftovers_of_killed_writers_go_at_the_next_write(study: Study) -> None:
    name = ".tmp-00000000-1-1-00000000-x"
    places = ("", "backups", "backups/cases", "cases/a")
    for place in places:
        path = study.folder / place / name
        path.write_text("half")
        os.utime(path, (1, 1))
    assert Study.open(study.folder).problems == ()
    study.set_modality("a", "MR")
    assert not any((study.folder / place / name).exists() for place in places)


def test_a_read_only_folder_can_be_read_but_not_written(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = _snapshot(study.folder)
    for name in ("link", "replace", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    opened = Study.open(study.folder)
    assert opened.problems == ()
    assert opened.label("a") is not None
    assert opened.image("a") is not None
    for write in (
        lambda: opened.annotate("a", np.zeros(_GRID.shape_zyx, np.uint16)),
        lambda: opened.set_modality("a", "MR"),
        lambda: opened.add_model(lambda folder: None, {}),
    ):
        with pytest.raises(StorageError, match="disk is read-only; copy the study"):
            write()
    monkeypatch.undo()
    assert _snapshot(study.folder) == before


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the super-user may write anywhere"
)
def test_a_folder_without_the_right_to_write_is_told(study: Study) -> None:
    study.folder.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="writing there is not allowed"):
            study.set_modality("a", "MR")
    finally:
        study.folder.chmod(0o700)


def test_a_writer_waits_for_the_lock_and_says_who_has_it(study: Study) -> None:
    _edit_lock(study.folder)
    with pytest.raises(StudyLockedError, match="ward-7"), study.writing(wait_s=0):
        pass
    assert Study.open(study.folder).label("a") is not None


def test_a_recovered_lock_is_in_the_journal(study: Study) -> None:
    path = _edit_lock(study.folder)
    os.utime(path, (1, 1))
    with study.writing():
        pass
    assert study.journal.read()[-1].kind == "lock_recovered"


def _edit_lock(folder: Path) -> Path:
    path = folder / "lock.json"
    body = {"host": "ward-7", "pid": 1, "started": 1.0, "uptime_s": 1.0, "token": "t"}
    path.write_text(json.dumps(body))
    return path


def test_the_journal_keeps_whole_lines_and_tells_of_torn_ones(study: Study) -> None:
    kinds = [entry.kind for entry in study.journal.read()]
    assert kinds == ["created", "case_added", "annotated", "case_added", "annotated"]
    path = study.folder / JOURNAL_NAME
    with path.open("ab") as file:
        file.write(b'{"time": "2026-01-01", "kind": "torn", "da')
    opened = Study.open(study.folder)
    assert [entry.kind for entry in opened.journal.read()] == kinds
    assert "1 line(s) of the journal are torn" in opened.problems[0].message
    opened.journal.append("mended", value=1)
    last = opened.journal.read()[-1]
    assert (last.kind, last.data) == ("mended", {"value": 1})
    assert Study.open(study.folder).problems == ()
    assert any("torn" in problem.message for problem in opened.check())


def test_a_journal_of_anything_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read() == []
    assert journal.torn_tail() is None
    journal.path.write_bytes(b'\n\xff\n[1]\n{"kind": "a"}\n{"time":"t","kind":"k","data":{}}\n')
    assert [entry.kind for entry in journal.read()] == ["k"]
    journal.path.write_bytes(b"")
    journal.append("a")
    assert [entry.kind for entry in journal.read()] == ["a"]


def test_folders_for_work_are_made_when_they_are_missing(study: Study) -> None:
    for path in (study.cache_dir, study.jobs_dir, study.report_dir):
        shutil.rmtree(path)
    assert all(p.is_dir() for p in (study.cache_dir, study.jobs_dir, study.report_dir))


def _old_study(folder: Path, image: Path) -> dict[str, bytes]:
    """A study of schema 1 as its program wrote it: one case with one label version."""
    case = folder / "cases" / "old"
    label = case / "labels" / "0001"
    label.mkdir(parents=True)
    array = np.zeros(_GRID.shape_zyx, np.uint16)
    array[0] = 1
    write_label(
        label / "label.seg.nrrd", array, _GRID, (Segment(id=1, name="liver", color=(1, 2, 3)),)
    )
    write_image(label / "origin.nrrd", (array > 0).astype(np.uint8), _GRID)
    (label / "ledger.json").write_text('{"axial": {"1": {"1": "done"}}}')
    (label / "version.json").write_text('{"schema_version": 1, "created": "2026-01-01T00:00:00"}')
    structure = {"id": 1, "name": "liver", "color": [1, 2, 3]}
    (folder / "study.json").write_text(
        json.dumps(
            {
                "schema_version": 1,
                "name": "old study",
                "created": "2026-01-01T00:00:00",
                "protocol": [structure],
                "cases": ["old"],
            }
        )
    )
    reference = {"relative": f"../{image.name}", "absolute": str(image), "copied": False}
    (case / "case.json").write_text(
        json.dumps(
            {
                "schema_version": 1,
                "id": "old",
                "name": "old",
                "modality": "CT",
                "modality_guessed": False,
                "image": {**reference, "sha256": sha256_file(image)},
                "grid": _GRID.to_json(),
            }
        )
    )
    return _snapshot(folder)


def _require_old_content(study: Study) -> None:
    case = study.cases["old"]
    assert (study.name, case.patient, case.split) == ("old study", "old", "train")
    assert (case.modality, case.modality_overridden, case.modality_confidence) == ("CT", True, 1.0)
    assert study.image("old").array.shape == _GRID.shape_zyx
    label = study.label("old")
    assert label is not None
    assert (label.confidence[0] == 1).all()
    assert (label.origin[0] == Origin.HUMAN).all()
    assert label.ledger.done("axial", 1) == (1,)


def test_an_older_study_is_migrated_with_a_backup(
    tmp_path: Path, image: Callable[[int], Path]
) -> None:
    folder = tmp_path / "old study"
    before = _old_study(folder, image(0))
    opened = Study.open(folder)
    assert "brought from schema 1 to 2" in opened.problems[0].message
    _require_old_content(opened)
    backup = folder / "backups" / "schema-1"
    assert (backup / "study.json").read_bytes() == before["study.json"]
    assert (backup / "cases" / "old.json").read_bytes() == before["cases/old/case.json"]
    assert schema_of(json.loads((folder / "study.json").read_text()), "x") == SCHEMA
    again = Study.open(folder)
    assert again.problems == ()
    assert again.id == opened.id
    _require_old_content(again)
    with pytest.raises(Exception, match="liver"):
        again.set_protocol(parse_structures("2=spleen"))
    assert again.annotate("old", np.ones(_GRID.shape_zyx, np.uint16)) == 2


@pytest.mark.parametrize("calls", range(6))
def test_a_migration_cut_short_is_taken_up_again(
    tmp_path: Path, image: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    folder = tmp_path / "old study"
    before = _old_study(folder, image(0))
    left = [calls]

    def killed(real: Callable[..., None]) -> Callable[..., None]:
        def write(*args: object) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            real(*args)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(migrate, "write_json_atomic", killed(migrate.write_json_atomic))
        patch.setattr(migrate, "copy_file", killed(migrate.copy_file))
        if calls < 4:
            with pytest.raises(KeyboardInterrupt):
                Study.open(folder)
        else:
            Study.open(folder)
    _require_old_content(Study.open(folder))
    kept = folder / "backups" / "schema-1" / "cases" / "old.json"
    assert kept.read_bytes() == before["cases/old/case.json"]


def test_an_older_study_that_cannot_be_written_is_read_only(
    tmp_path: Path, image: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "old study"
    before = _old_study(folder, image(0))

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        opened = Study.open(folder)
    _require_old_content(opened)
    assert "old schema 1" in opened.problems[0].message
    assert _snapshot(folder) == before
    with pytest.raises(SchemaError, match="can be looked at, but not changed"):
        opened.set_modality("old", "MR")


def test_a_broken_case_does_not_stop_a_migration(
    tmp_path: Path, image: Callable[[int], Path]
) -> None:
    folder = tmp_path / "old study"
    _old_study(folder, image(0))
    shutil.copytree(folder / "cases" / "old", folder / "cases" / "broken")
    (folder / "cases" / "broken" / "case.json").write_text("{")
    opened = Study.open(folder)
    _require_old_content(opened)
    assert any(problem.case_id == "broken" for problem in opened.problems)


def test_what_is_current_needs_no_migration(study: Study) -> None:
    values = json.loads((study.folder / "cases/a/case.json").read_text())
    assert migrate_case(values, "case.json") == values


def test_a_thousand_cases_open_in_two_seconds(study: Study) -> None:
    source = study.folder / "cases" / "a"
    body = json.loads((source / "case.json").read_text())
    for number in range(1000):
        target = study.folder / "cases" / f"n{number}"
        shutil.copytree(source, target, copy_function=os.link)
        (target / "case.json").unlink()
        (target / "case.json").write_text(json.dumps({**body, "id": f"n{number}"}))
    start = time.process_time()
    opened = Study.open(study.folder)
    seconds = time.process_time() - start
    assert len(opened.cases) == 1002
    assert seconds < 2.0
