"""Series whose files are named one by one, as a database of DICOM files knows them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from semiseg.cli.app import run
from semiseg.dicom.originals import originals
from semiseg.dicom.scan import scan_files
from semiseg.errors import ImageError
from semiseg.events import Event
from semiseg.study.scanner import reference_of
from semiseg.study.study import Study

SeriesMaker = Callable[..., list[Path]]


@pytest.fixture
def scattered(tmp_path: Path, dicom_series: SeriesMaker) -> list[Path]:
    """Five slices in five folders, beside another series' slice in each."""
    paths = []
    for k, path in enumerate(dicom_series(tmp_path / "made")):
        folder = tmp_path / "database" / str(k)
        folder.mkdir(parents=True)
        paths.append(Path(shutil.move(path, folder / "image")))
    dicom_series(tmp_path / "database" / "0", n=3, key="other", modality="MR")
    return paths


def _add(study: Study, listing: Path, *options: str) -> tuple[int, list[Event]]:
    events: list[Event] = []
    command = ["study", "add", str(study.folder), "--files", str(listing), *options, "--json"]
    return run(command, events.append), events


def _list(tmp_path: Path, paths: list[Path]) -> Path:
    listing = tmp_path / "files.txt"
    listing.write_text("\n".join(map(str, paths)), encoding="utf-8")
    return listing


def test_exactly_the_listed_files_become_the_case(tmp_path: Path, scattered: list[Path]) -> None:
    study = Study.create(tmp_path / "study", name="s")
    code, events = _add(study, _list(tmp_path, scattered))
    assert code == 0, events[-1].message
    study = Study.open(study.folder)
    assert list(study.cases) == ["CT-7"]
    reference = reference_of(study, "CT-7")
    assert reference is not None
    assert reference.source_kind == "files"
    assert len(originals(reference)) == 5


def test_a_file_that_is_gone_is_not_looked_for_on_the_whole_disk(
    tmp_path: Path, scattered: list[Path]
) -> None:
    study = Study.create(tmp_path / "study", name="s")
    _add(study, _list(tmp_path, scattered))
    reference = reference_of(Study.open(study.folder), "CT-7")
    assert reference is not None
    moved = Path(shutil.move(scattered[0], tmp_path / "database" / "elsewhere"))
    with pytest.raises(ImageError, match="1 of 5 files were not found"):
        originals(reference)
    assert moved.exists()
    assert len(originals(reference, tmp_path / "database")) == 5


def test_an_empty_list_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="list of DICOM files is empty"):
        scan_files([])
    study = Study.create(tmp_path / "study", name="s")
    code, events = _add(study, tmp_path / "none.txt")
    assert code != 0
    assert "cannot be read" in events[-1].message


def test_volumes_to_choose_from_are_told_to_programs(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    def echo(dataset: Dataset, k: int) -> None:
        dataset.EchoTime = 1.0 + k // 5

    heights = [2.5 * k for k in range(5)] * 2
    paths = dicom_series(tmp_path / "in", heights=heights, modality="MR", change=echo)
    study = Study.create(tmp_path / "study", name="s")
    code, events = _add(study, _list(tmp_path, paths))
    assert code != 0
    (told,) = [event.data for event in events if "choices" in event.data]
    assert [row["number"] for row in told["choices"]] == [1, 2]
    code, events = _add(study, _list(tmp_path, paths), "--series", "2")
    assert code == 0, events[-1].message


def test_gaps_that_could_be_filled_are_told_to_programs(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path / "in", n=6)
    del paths[3]
    study = Study.create(tmp_path / "study", name="s")
    code, events = _add(study, _list(tmp_path, paths))
    assert code != 0
    (told,) = [event.data for event in events if "gaps" in event.data]
    assert [row["number"] for row in told["gaps"]] == [1]
    code, events = _add(study, _list(tmp_path, paths), "--series", "1", "--bridge-gaps")
    assert code == 0
    (added,) = [event.data for event in events if "notes" in event.data]
    assert any("1 slices are missing" in note for note in added["notes"])
