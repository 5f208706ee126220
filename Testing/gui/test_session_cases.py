"""Cases: choosing, adding, removing, modality; shown at once, confirmed by the study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.images.grid import Grid
from semiseg.images.reading import write_image

Until = Callable[..., bool]
GRID = Grid(size_xyz=(12, 10, 8), spacing_mm_xyz=(2.0, 2.0, 3.0), origin_mm_lps=(5.0, 6.0, 7.0))


@pytest.fixture
def session(live_session: Any, jobs: Any, phantom_study: Any, until: Until) -> Any:
    """An open study of two phantoms, c0 annotated and shown."""
    study = phantom_study(annotated=1)
    made = live_session(jobs)
    made.open_study(study.folder)
    made.select("c0")
    assert until(made)
    return made


def image(path: Path, seed: int = 5) -> Path:
    voxels = np.random.default_rng(seed).normal(0, 100, GRID.shape_zyx).astype(np.float32)
    write_image(path, voxels, GRID)
    return path


def load(session: Any, path: Path, name: str) -> Any:
    from SemiSegModuleLib.mrml import volumes

    return volumes.load_volume(session.scene, session.volumes_logic, path, name)


def background(session: Any) -> Any:
    import slicer

    widget = slicer.app.layoutManager().sliceWidget("Red")
    composite = widget.sliceLogic().GetSliceCompositeNode()
    return session.scene.GetNodeByID(composite.GetBackgroundVolumeID())


def test_choosing_a_case_shows_its_volume_and_keeps_the_other_loaded(session: Any) -> None:
    first = session.nodes("c0")
    session.select("c1")
    assert background(session) is session.nodes("c1").volume
    assert session.nodes("c0").volume is first.volume
    assert not first.drawn.GetDisplayVisibility()
    session.select("c0")
    assert background(session) is first.volume
    assert session.nodes("c0").drawn is first.drawn
    assert session.parameters.current_case == "c0"


def test_a_case_whose_image_is_gone_is_told_and_the_present_one_stays(
    session: Any, tmp_path: Path
) -> None:
    (tmp_path / "c1.nii.gz").unlink()
    session.select("c1")
    assert session.message_is_error
    assert "c1" in session.message
    assert session.current == "c0"


def test_files_are_added_and_the_first_is_shown_in_an_empty_study(
    live_session: Any, jobs: Any, until: Until, tmp_path: Path
) -> None:
    session = live_session(jobs)
    session.create_study(tmp_path / "study", "new")
    session.add_files([image(tmp_path / "a.nii.gz", 1), image(tmp_path / "b.nrrd", 2)])
    assert until(session)
    assert [row.id for row in session.rows()] == ["a", "b"]
    assert session.current == "a"
    assert session.nodes("a").volume is not None
    assert "2" in session.message


def test_a_file_that_cannot_be_added_is_told_and_the_others_are_added(
    session: Any, until: Until, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    session.add_files([image(tmp_path / "good.nii.gz"), broken])
    assert until(session)
    assert session.row("good") is not None
    assert session.message_is_error
    assert "broken.nii.gz" in session.message


def test_a_volume_of_the_scene_is_added_by_its_own_file_and_not_loaded_twice(
    session: Any, until: Until, tmp_path: Path
) -> None:
    node = load(session, image(tmp_path / "ct7.nii.gz"), "CT 7")
    count = session.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    session.add_volumes([node])
    assert until(session)
    session.select("ct7")
    assert session.nodes("ct7").volume is node
    assert session.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == count
    assert not session.study.case("ct7").image.copied


def test_a_volume_without_a_file_is_copied_into_the_study(
    session: Any, until: Until, tmp_path: Path
) -> None:
    from SemiSegModuleLib.mrml import volumes

    node = load(session, image(tmp_path / "ct8.nii.gz"), "CT/8 changed")
    volumes.array_of(node)[:] += 1
    node.Modified()
    node.GetImageData().Modified()
    node.SetAndObserveStorageNodeID(None)
    session.add_volumes([node])
    assert until(session)
    added = session.study.case(session.rows()[-1].id)
    assert added.image.copied
    assert added.grid.difference(GRID) is None
    assert session.nodes(added.id).volume is node
    assert not list((session.study.folder / "jobs").glob("*-add*/voxels"))


def test_a_volume_under_a_transform_is_refused_with_the_remedy(
    session: Any, jobs: Any, tmp_path: Path
) -> None:
    node = load(session, image(tmp_path / "ct9.nii.gz"), "CT 9")
    transform = session.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    node.SetAndObserveTransformNodeID(transform.GetID())
    before = len(jobs.commands)
    session.add_volumes([node])
    assert "harden" in session.message
    assert len(jobs.commands) == before


def test_a_modality_is_shown_at_once_and_kept(session: Any, jobs: Any, until: Until) -> None:
    jobs.hold = lambda arguments: True
    session.set_modality("c1", "CT")
    assert session.row("c1").modality == "CT"
    assert session.row("c1").modality_overridden
    assert session.study.case("c1").modality == "MR"
    jobs.told[-1].fail("the study is locked")
    session.tick()
    assert session.row("c1").modality == "MR"
    assert "the study is locked" in session.message
    jobs.hold = lambda arguments: False
    session.set_modality("c1", "CT")
    assert until(session)
    assert session.study.case("c1").modality == "CT"


def test_unloading_keeps_the_drawing_in_the_study(session: Any, until: Until) -> None:
    from SemiSegModuleLib.mrml import segments

    square = np.full((1, 4, 4), 2, np.uint16)
    grid = session.study.case("c0").grid
    segments.write_region(session.nodes("c0").drawn, grid, square, (9, 5, 5))
    session.unload_case("c0")
    assert session.current is None
    assert session.nodes("c0").all() == ()
    assert until(session)
    assert (session.study.human_map("c0").array[9] == 2).any()


def test_a_removed_case_goes_from_table_and_scene_and_can_be_restored(
    session: Any, until: Until
) -> None:
    session.remove_case("c0")
    assert until(session)
    assert [row.id for row in session.rows()] == ["c1"]
    assert session.current is None
    assert session.nodes("c0").all() == ()
    assert list((session.study.folder / "removed").iterdir())


def test_no_case_is_removed_while_work_runs(session: Any, jobs: Any, until: Until) -> None:
    session.propagate(all_cases=True)
    assert until(session, lambda: jobs.told)
    session.remove_case("c1")
    assert "Cancel it first" in session.message
    assert session.row("c1") is not None


def test_an_unknown_case_is_told(session: Any) -> None:
    session.select("nobody")
    assert "there is no case 'nobody'" in session.message
    assert session.current == "c0"
