"""Studies and scenes: new, open, close, reload, gone; nothing of either is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.study.study import Study

Until = Callable[..., bool]


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 annotated and shown."""
    study = phantom_study(annotated=1)
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def drawn(session: Any, case_id: str = "c0") -> np.ndarray:
    from SemiSegModuleLib.mrml import segments

    node = session.nodes(case_id).drawn
    grid = session.study.case(case_id).grid
    return segments.read_layers(node, grid, session.protocol()).flat(grid)


def draw(session: Any, structure: int = 1, z: int = 9) -> None:
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), structure, np.uint16)
    grid = session.study.case("c0").grid
    segments.write_region(session.nodes("c0").drawn, grid, square, (z, 5, 5))


def save_scene(scene: Any, folder: Path) -> Path:
    """The scene and its data as files."""
    folder.mkdir()
    for class_name, suffix in (
        ("vtkMRMLSegmentationNode", ".seg.nrrd"),
        ("vtkMRMLScalarVolumeNode", ".nrrd"),
    ):
        for number in range(scene.GetNumberOfNodesByClass(class_name)):
            node = scene.GetNthNodeByClass(number, class_name)
            if not node.GetSaveWithScene():
                continue
            if node.GetStorageNode() is None:
                node.AddDefaultStorageNode()
            name = f"{node.GetID()}{suffix}"
            node.GetStorageNode().SetFileName(str(folder / name))
            assert node.GetStorageNode().WriteData(node)
    scene.SetRootDirectory(str(folder))
    path = folder / "scene.mrml"
    scene.SetURL(str(path))
    assert scene.Commit(str(path))
    return path


def load_scene(scene: Any, path: Path) -> None:
    scene.Clear(0)
    scene.SetRootDirectory(str(path.parent))
    scene.SetURL(str(path))
    scene.Connect()


def test_a_new_study_is_open_and_on_the_disk(live_session: Any, jobs: Any, tmp_path: Path) -> None:
    session = live_session(jobs)
    assert session.create_study(tmp_path / "abdomen", "abdomen")
    assert (tmp_path / "abdomen" / "study.json").is_file()
    assert session.parameters.study_folder == str(tmp_path / "abdomen")
    assert session.rows() == ()
    assert not session.message_is_error


def test_a_folder_that_is_no_study_is_refused_and_the_present_one_stays_open(
    session: Any, tmp_path: Path
) -> None:
    before = session.study
    (tmp_path / "empty").mkdir()
    assert not session.open_study(tmp_path / "empty")
    assert session.message_is_error
    assert "is not a study" in session.message
    assert session.study is before
    assert session.nodes("c0").drawn is not None


def test_a_study_is_not_made_over_another(session: Any) -> None:
    before = session.study
    assert not session.create_study(before.folder, "again")
    assert "holds a study already" in session.message
    assert session.study is before


def test_closing_takes_away_what_the_study_brought_and_nothing_else(session: Any) -> None:
    own = session.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
    draw(session)
    folder = session.study.folder
    session.close_study()
    scene = session.scene
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1
    assert scene.IsNodePresent(own)
    assert session.study is None
    assert session.parameters.study_folder == ""
    assert (Study.open(folder).draft("c0").full()[9] == 1).any()


def test_every_topic_is_told_when_a_study_opens(session: Any, tmp_path: Path) -> None:
    told: set[str] = set()
    session.listen(told.update)
    session.create_study(tmp_path / "other", "other")
    assert {"study", "cases", "case", "ledger", "structures", "task", "message"} <= told


def test_a_listener_that_acts_does_not_start_a_second_round(session: Any) -> None:
    rounds: list[set[str]] = []

    def heard(topics: set[str]) -> None:
        rounds.append(topics)
        if len(rounds) < 3:
            session.say("again")
            session.tell()

    session.listen(heard)
    session.say("first")
    session.tell()
    assert len(rounds) == 1
    session.tick()
    assert len(rounds) == 2


def test_closing_the_scene_saves_what_was_drawn_and_goes_back_to_no_study(session: Any) -> None:
    draw(session)
    folder = session.study.folder
    session.scene.Clear(0)
    assert session.study is None
    assert session.current is None
    assert "safe in" in session.message
    assert (Study.open(folder).draft("c0").full()[9] == 1).any()
    assert session.parameters.study_folder == ""
    session.tick()
    assert session.open_study(folder)
    session.select("c0")
    assert (drawn(session)[9] == 1).any()


def test_closing_the_scene_ends_running_work(session: Any, jobs: Any, until: Until) -> None:
    session.propagate(all_cases=True)
    assert until(session, lambda: jobs.told)
    session.scene.Clear(0)
    assert jobs.told[0].cancelled
    assert not session.busy()


def test_a_saved_scene_brings_the_study_back(
    session: Any, live_session: Any, jobs: Any, until: Until, tmp_path: Path
) -> None:
    draw(session)
    session.parameters.minutes = 3.5
    session.save_drafts()
    path = save_scene(session.scene, tmp_path / "saved")
    load_scene(session.scene, path)
    assert until(session)
    assert session.study is not None
    assert session.current == "c0"
    assert session.parameters.minutes == 3.5
    assert (drawn(session)[9] == 1).any()
    assert not session.message_is_error, session.message
    assert session.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_a_segmentation_of_the_scene_that_differs_is_kept_beside_the_studys(
    session: Any, until: Until, tmp_path: Path
) -> None:
    path = save_scene(session.scene, tmp_path / "saved")
    draw(session)
    session.save_drafts()
    load_scene(session.scene, path)
    assert until(session)
    assert session.message_is_error
    assert "differs from the study's" in session.message
    scene = session.scene
    names = [
        scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode").GetName()
        for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))
    ]
    assert sorted(names) == ["c0", "c0 (from the scene)"]
    assert (drawn(session)[9] == 1).any()


def test_a_scene_older_than_the_protocol_takes_the_studys_structures(
    session: Any, until: Until, tmp_path: Path
) -> None:
    from semiseg.study.protocol import common_structure

    path = save_scene(session.scene, tmp_path / "saved")
    session.set_protocol(session.protocol().rename(1, "hepar").add(common_structure("aorta", 3)))
    assert until(session)
    session.confirm = pytest.fail
    load_scene(session.scene, path)
    assert until(session)
    assert [s.name for s in session.study.protocol.structures] == ["hepar", "spleen", "aorta"]
    segmentation = session.nodes("c0").drawn.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(3)]
    assert names == ["hepar", "spleen", "aorta"]
    assert not session.message_is_error, session.message


def test_what_cannot_be_saved_keeps_the_study_open(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semiseg.errors import StorageError

    def full(*_args: Any, **_named: Any) -> int:
        raise StorageError("the disk is full")

    draw(session)
    monkeypatch.setattr(Study, "save_draft", full)
    asked: list[str] = []
    session.confirm = lambda question: bool(asked.append(question))
    session.close_study()
    assert "the disk is full" in asked[0]
    assert session.study is not None
    assert session.message_is_error
    node = session.nodes("c0").drawn
    session.confirm = lambda _question: True
    session.close_study()
    assert session.study is None
    assert session.scene.IsNodePresent(node)
    assert node.GetName().endswith("(not saved)")


def test_a_scene_whose_study_is_gone_says_so_and_where_it_was(
    session: Any, until: Until, tmp_path: Path
) -> None:
    folder = session.study.folder
    path = save_scene(session.scene, tmp_path / "saved")
    session.scene.Clear(0)
    shutil.move(folder, tmp_path / "moved")
    load_scene(session.scene, path)
    assert session.study is None
    assert session.missing_folder == folder
    assert session.message_is_error
    assert session.open_study(tmp_path / "moved")
    assert session.missing_folder is None
    assert until(session)
    assert session.current == "c0"


def test_a_scene_that_is_added_does_not_change_the_open_study(
    session: Any, until: Until, tmp_path: Path
) -> None:
    folder = session.study.folder
    other = session.scene
    other.StartState(other.ImportState)
    session.parameters.study_folder = str(tmp_path / "elsewhere")
    other.EndState(other.ImportState)
    assert session.study.folder == folder
    assert session.parameters.study_folder == str(folder)


def test_a_study_that_is_open_twice_shows_the_others_cases(
    session: Any, until: Until, tmp_path: Path
) -> None:
    other = Study.open(session.study.folder)
    other.set_modality("c1", "CT")
    session.reload_study()
    assert session.row("c1").modality == "CT"


def test_an_unexpected_defect_is_told_with_its_traceback(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(session, "load_case", broken)
    session.select("c1")
    assert "unexpected" in session.message
    assert "ValueError: a defect" in session.details


def test_without_a_study_a_closed_scene_leaves_the_usual_choices(
    live_session: Any, jobs: Any
) -> None:
    session = live_session(jobs)
    session.parameters.minutes = 55.0
    session.scene.Clear(0)
    assert session.parameters.minutes == 10.0
    assert session.parameters.study_folder == ""


def test_a_volume_of_the_scene_that_is_not_the_cases_is_left_alone(
    session: Any, until: Until
) -> None:
    import slicer

    volume = session.nodes("c0").volume
    other = slicer.vtkMRMLScalarVolumeNode()
    other.CopyContent(volume)
    volume.SetSpacing(9.0, 9.0, 9.0)
    session.close()
    session.study = None
    assert session.open_study(Path(session.parameters.study_folder))
    assert until(session)
    session.select("c0")
    assert session.scene.IsNodePresent(volume)
    assert session.nodes("c0").volume is not volume
    assert session.nodes("c0").volume.GetSpacing()[0] == 3.0
    assert "not the image of c0" in session.details


def test_copies_of_voxels_that_a_crash_left_are_taken_away(session: Any, until: Until) -> None:
    import os
    import time

    folder = session.study.folder
    old, new = (folder / "jobs" / name for name in ("20250101-view", "20991231-view"))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    assert session.open_study(folder)
    assert until(session)
    assert not old.exists()
    assert new.exists()


def test_a_defect_that_comes_back_is_kept_and_logged_once_and_shown_each_time(
    session: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(session, "load_case", broken)
    session.say("the disk is full", error=True)
    for _ in range(30):
        session.dismiss()
        session.select("c1")
        assert "unexpected" in session.message
        assert session.message_is_error
    assert session.details.count("ValueError: a defect") == 1
    assert "the disk is full" in session.details
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "ValueError: a defect" in caplog.text
