"""The short commands that a window runs: what they do and what their events hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.cli.app import run
from semiseg.errors import ExitCode
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.case import GateRecord, Origin
from semiseg.study.ledger import SliceState
from semiseg.study.lock import hold_lock
from semiseg.study.merge import Mark
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

_GRID = Grid(size_xyz=(7, 6, 5), spacing_mm_xyz=(1.0, 2.0, 3.0))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk takes most of the time here, and only a power cut could tell."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with the cases "c" and "d", liver and spleen."""
    study = Study.create(tmp_path / "study", name="s", protocol=parse_structures("liver,spleen"))
    for number, name in enumerate("cd"):
        study.add_case(_image(tmp_path / f"{name}.nii.gz", number), case_id=name)
    return study.folder


def _image(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).normal(0, 300, _GRID.shape_zyx)
    write_image(path, noise.astype(np.int16), _GRID)
    return path


def _map(value: int = 0) -> np.ndarray:
    return np.full(_GRID.shape_zyx, value, np.uint16)


def _programs(folder: Path) -> None:
    study = Study.open(folder)
    weights = np.full(_GRID.shape_zyx, 0.25, np.float32)
    gate = GateRecord(verdict="accept", score=1.0)
    study.propagated("c", _map(1), weights, structure_ids=[1], gate=gate, info={"atlases": ["d"]})
    study.predicted("c", _map(2), weights, model_id=3, info={})


def _call(*arguments: object) -> tuple[int, Event, list[Event]]:
    """Exit code, last event and the others of `semiseg study ...`."""
    events: list[Event] = []
    code = run(["study", *map(str, arguments)], events.append)
    return code, events[-1], events[:-1]


def test_drafts_are_applied_and_told_one_by_one(folder: Path) -> None:
    study = Study.open(folder)
    mark = Mark(plane="axial", indices=(1,), state=SliceState.DONE, ids=(1, 2))
    study.save_draft("c", [_map(1)], marks=[mark])
    study.save_draft("d", [_map(2)])
    code, last, _ = _call("status", folder)
    assert last.data["drafts"] == ["c", "d"]
    assert "drawings wait to be merged in c, d" in last.message
    code, last, steps = _call("apply", folder)
    applied = [{"case": "c", "version": 1}, {"case": "d", "version": 1}]
    assert (code, last.kind) == (0, "result")
    assert last.data["applied"] == applied == [dict(event.data) for event in steps]
    assert last.data["refused"] == last.data["problems"] == []
    assert [(event.phase, event.step, event.total) for event in steps] == [
        ("apply", 1, 2),
        ("apply", 2, 2),
    ]
    code, last, _ = _call("apply", folder)
    assert (code, last.data["applied"]) == (0, [])
    code, last, _ = _call("apply", folder, "d")
    assert (code, last.data["applied"]) == (0, [{"case": "d", "version": None}])
    assert "no drawing waits" in last.message


def test_a_draft_that_is_refused_does_not_keep_the_others_out(folder: Path) -> None:
    study = Study.open(folder)
    study.save_draft("c", [_map(1), _map(2)])
    study.save_draft("d", [_map(2)])
    code, last, _ = _call("apply", folder)
    assert (code, last.kind) == (ExitCode.LABELS, "error")
    assert "liver and spleen overlap" in last.message
    assert last.data["applied"] == [{"case": "d", "version": 1}]
    refused: Any = last.data["refused"]
    assert [entry["case"] for entry in refused] == ["c"]
    assert study.drafts() == ("c",)
    study.save_draft("d", [_map(9)])
    code, last, _ = _call("apply", folder)
    assert code == ExitCode.LABELS
    assert "overlap" in last.message
    assert "structure 9" in last.message


def test_a_locked_study_ends_the_command_and_keeps_the_drafts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Study.open(folder).save_draft("c", [_map(1)])
    honest = Study.writing
    monkeypatch.setattr(Study, "writing", lambda self, wait_s=0.0: honest(self, wait_s=0.0))
    program = (
        "import sys, pathlib; from semiseg.study.lock import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1]), wait_s=1):\n"
        "    print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        code, last, _ = _call("apply", folder)
        other.communicate()
    assert code == ExitCode.STUDY
    assert "being written by another program" in last.message
    assert Study.open(folder).drafts() == ("c",)
    with hold_lock(folder, wait_s=1.0):
        pass


def test_the_modality_is_set_and_guessed_anew(folder: Path) -> None:
    code, last, _ = _call("modality", folder, "c", "mr")
    assert (code, last.data) == (
        0,
        {"case": "c", "modality": "MR", "overridden": True, "confidence": 1.0},
    )
    code, last, _ = _call("modality", folder, "c", "auto")
    assert (code, last.data["overridden"]) == (0, False)
    code, last, _ = _call("modality", folder, "c", "PET")
    assert code == ExitCode.USAGE


@pytest.mark.parametrize("wrap", [False, True])
def test_all_structures_are_taken_from_a_file(folder: Path, tmp_path: Path, wrap: bool) -> None:
    wanted = Study.open(folder).protocol.rename(1, "big liver").to_json()[::-1]
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"structures": wanted} if wrap else wanted))
    code, last, _ = _call("structures", folder, "--set", path)
    assert code == 0
    assert last.data["structures"] == {"2": "spleen", "1": "big liver"}
    assert last.data["protocol"] == Study.open(folder).protocol.to_json() == wanted


def test_drawn_structures_are_removed_by_force_only(folder: Path, tmp_path: Path) -> None:
    study = Study.open(folder)
    study.annotate("c", _map(2))
    path = tmp_path / "p.json"
    path.write_text(json.dumps(study.protocol.remove(2).to_json()))
    code, last, _ = _call("structures", folder, "--set", path)
    assert code == ExitCode.STUDY
    assert "spleen (drawn in c) cannot be removed" in last.message
    code, last, _ = _call("structures", folder, "--set", path, "--force")
    assert (code, last.data["structures"]) == (0, {"1": "liver"})


@pytest.mark.parametrize("content", ["{", "3", "{}", '[{"id": 0}]', "[3]", None])
def test_a_file_of_structures_that_is_none_is_refused(
    folder: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    code, last, _ = _call("structures", folder, "--set", path)
    assert code in (ExitCode.USAGE, ExitCode.STUDY, ExitCode.STORAGE)
    assert "p.json" in last.message
    assert len(Study.open(folder).protocol.structures) == 2


def test_a_case_is_removed_and_restored(folder: Path) -> None:
    code, last, _ = _call("remove", folder, "c")
    place = Path(str(last.data["folder"]))
    assert (code, last.data["case"], place.is_dir()) == (0, "c", True)
    assert last.data["next"] == f"semiseg study restore {folder} {place.name}"
    assert tuple(Study.open(folder).cases) == ("d",)
    code, last, _ = _call("restore", folder, place.name)
    assert (code, last.data) == (0, {"case": "c"})
    assert tuple(Study.open(folder).cases) == ("d", "c")


def test_suggestions_are_taken_back_one_by_one(folder: Path) -> None:
    _programs(folder)
    code, last, _ = _call("undo", folder, "c")
    assert code == 0
    assert last.message == "c: took back model 3; shown now: propagated from d"
    assert last.data == {
        "case": "c",
        "source": "propagated",
        "label_version": 1,
        "prediction_version": None,
    }
    code, last, _ = _call("undo", folder, "c")
    assert (last.data["source"], last.data["label_version"]) == (None, 2)
    code, last, _ = _call("undo", folder, "c")
    assert code == ExitCode.STUDY


def test_what_is_shown_is_written_for_memory_mapping(folder: Path, tmp_path: Path) -> None:
    drawn = _map()
    drawn[0] = 1
    Study.open(folder).annotate("c", drawn)
    _programs(folder)
    code, last, _ = _call("view", folder, "c", "--out", tmp_path / "view")
    assert code == 0
    files: Any = last.data["files"]
    arrays = {name: np.load(path, mmap_mode="r") for name, path in files.items()}
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert np.array_equal(arrays["human"], drawn)
    assert np.array_equal(arrays["suggestion"], np.where(drawn == 0, 2, 0))
    assert (arrays["uncertainty"].dtype, int(arrays["uncertainty"].max())) == (np.uint8, 50)
    told = {key: value for key, value in last.data.items() if key != "files"}
    assert told == {
        "case": "c",
        "source": "predicted",
        "text": "model 3",
        "label_version": 2,
        "prediction_version": 1,
    }


def test_who_set_each_voxel_is_written_when_asked_for(folder: Path, tmp_path: Path) -> None:
    _programs(folder)
    drawn = _map()
    drawn[0] = 1
    Study.open(folder).annotate("c", drawn)
    _, last, _ = _call("view", folder, "c", "--out", tmp_path / "view", "--origin")
    files: Any = last.data["files"]
    origin = np.load(files["origin"])
    assert origin.dtype == np.uint8
    by_program = np.load(files["suggestion"]) > 0
    assert set(np.unique(origin[0])) <= {Origin.HUMAN, Origin.CORRECTED}
    assert (origin[by_program] == Origin.PREDICTED).all()
    _, last, _ = _call("view", folder, "d", "--out", tmp_path / "view", "--origin")
    files = last.data["files"]
    assert not np.load(files["origin"]).any()


def test_without_a_suggestion_there_is_the_human_map_alone(folder: Path, tmp_path: Path) -> None:
    code, last, _ = _call("view", folder, "d", "--out", tmp_path)
    files: Any = last.data["files"]
    assert (code, last.data["source"], last.data["label_version"]) == (0, None, None)
    assert files["suggestion"] is files["uncertainty"] is None
    assert not np.load(files["human"]).any()


def test_older_arrays_go_but_for_those_that_may_not_have_been_opened(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "view"
    names = []
    for _ in range(2):
        _, last, _ = _call("view", folder, "d", "--out", out)
        files: Any = last.data["files"]
        names.append(Path(files["human"]))
    assert all(path.exists() for path in names)
    (out / "mine.npy").touch()
    for path in out.iterdir():
        os.utime(path, (time.time() - 100,) * 2)
    _call("view", folder, "d", "--out", out)
    assert not any(path.exists() for path in names)
    assert (out / "mine.npy").exists()


def test_an_image_that_is_refused_does_not_keep_the_others_out(
    folder: Path, tmp_path: Path
) -> None:
    images = [tmp_path / "c.nii.gz", _image(tmp_path / "e.nrrd", 5), tmp_path / "f.nrrd"]
    code, last, steps = _call("add", folder, *images, "--modality", "CT")
    assert (code, last.kind) == (0, "result")
    assert last.data["added"] == [{"image": str(images[1]), "case": "e", "notes": []}]
    refused: Any = last.data["refused"]
    assert [entry["image"] for entry in refused] == [str(images[0]), str(images[2])]
    assert "as the case 'c'" in refused[0]["error"]
    assert "is not there" in refused[1]["error"]
    assert last.data["cases"] == ["c", "d", "e"]
    assert [bool(event.data.get("case")) for event in steps] == [False, True, False]
    code, last, _ = _call("add", folder, *images[::2], "--modality", "CT")
    assert (code, last.kind) == (ExitCode.STUDY, "error")
    assert len(last.data["refused"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["apply", "modality", "remove", "restore", "undo", "view"])
def test_each_command_says_what_its_last_event_holds(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "of the last event" in " ".join(said.split())
    assert "Example" in said


def test_a_short_command_loads_neither_torch_nor_simpleitk_unasked(folder: Path) -> None:
    program = (
        "import sys; from semiseg.cli.app import run\n"
        "code = run(['study', 'modality', sys.argv[1], 'c', 'MR'], lambda event: None)\n"
        "print(code, sorted({'torch', 'SimpleITK', 'scipy', 'rich', 'pydicom'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
    )
    assert said.stdout == "0 []\n"
