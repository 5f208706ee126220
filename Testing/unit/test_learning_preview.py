"""Live preview: the watched slice in its own place, within its share of the time, harmless."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semiseg.config import TrainConfig
from semiseg.data.cases import TrainingCase
from semiseg.data.training_grid import to_training_grid
from semiseg.errors import ConfigError, StorageError, StudyError
from semiseg.events import Event
from semiseg.images.grid import PLANES, Grid, Plane, plane_axis
from semiseg.images.reading import Image
from semiseg.learning import preview as module
from semiseg.learning.means import MEANS
from semiseg.learning.plan import Plan
from semiseg.learning.preview import Preview, Watched
from semiseg.networks import NetworkSpec
from semiseg.trainer import train

# The array's axes run (z, y, x) to L, S, A: permuted, and one of them turned around.
GRID = Grid(
    size_xyz=(14, 11, 9),
    spacing_mm_xyz=(2.0, 3.0, 4.0),
    direction=(0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
)


class Bright:
    """In the place of a learner: class 1 is what is brighter than the mean."""

    def __init__(self) -> None:
        self.step = 0
        self.fails: Exception | None = None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Any]:
        if self.fails is not None:
            raise self.fails
        yield self

    def predictor(self, _modality: str) -> Any:
        def predict(windows: Tensor) -> Tensor:
            return torch.cat([-50 * windows, 50 * windows], dim=1)

        return predict


class FakeRun:
    """A run whose steps the test counts."""

    def __init__(self, patch: tuple[int, int, int]) -> None:
        network = NetworkSpec(
            n_classes=2, channels=(4, 4), strides=((2, 2, 2),), convolutions=(1, 1)
        )
        self.learner = Bright()
        self.plan = Plan(
            spacing_mm_zyx=(3.0, 2.0, 4.0),
            patch_zyx=patch,
            n_labelled=1,
            n_unlabelled=0,
            network=network,
            device="cpu",
        )
        self.told: list[tuple[str, dict[str, Any]]] = []

    def tell(self, message: str, data: dict[str, Any]) -> None:
        self.told.append((message, dict(data)))

    def seconds_left(self) -> float:
        return 1.0


@pytest.fixture
def image() -> np.ndarray:
    array = np.zeros(GRID.shape_zyx, np.float32)
    array[2:5, 4:9, 1:6] = 1.0
    array[7, 1:3, 10:13] = 1.0
    return array


def case_of(image: np.ndarray) -> TrainingCase:
    ready = to_training_grid(Image(array=image, grid=GRID), "MR", (3.0, 2.0, 4.0))
    bright = np.where(ready.array > ready.array.mean(), 1.0, -1.0).astype(np.float32)
    ready = replace(ready, array=bright)
    return TrainingCase(id="c", patient="p", modality="MR", image=ready, supervision=None)


def preview_of(
    image: np.ndarray, run: FakeRun, folder: Path, plane: Plane, index: int, **more: Any
) -> Preview:
    watched = Watched(case_id="c", plane=plane, index=index, folder=folder, every_s=0.0)
    made = Preview(watched, case_of(image), run, (0, 7), **more)  # type: ignore[arg-type]
    made._first_step -= 10**7  # steps are quick
    return made


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("patch", [(16, 16, 16), (4, 4, 4), (1, 16, 16)])
def test_the_slice_lies_as_in_the_cases_own_array(
    image: np.ndarray, tmp_path: Path, plane: Plane, patch: tuple[int, int, int]
) -> None:
    axis = plane_axis(GRID, plane)
    for index in (0, 4, GRID.shape_zyx[axis] - 1):
        run = FakeRun(patch)
        ticks = iter([0.0, 1e6, 1e6])
        made = preview_of(image, run, tmp_path, plane, index, clock=lambda t=ticks: next(t))
        made.after_step()
        (_, data) = run.told[0]
        assert data["preview"]["index"] == index
        shown = np.load(data["preview"]["file"])
        assert shown.dtype == np.uint16
        np.testing.assert_array_equal(shown, 7 * (np.take(image, index, axis) > 0))


def test_it_takes_at_most_a_twentieth_of_the_time(image: np.ndarray, tmp_path: Path) -> None:
    run, now = FakeRun((16, 16, 16)), [0.0]
    made = preview_of(image, run, tmp_path, "axial", 3, clock=lambda: now[0])
    made._segmented = lambda: _slow(now)  # type: ignore[method-assign]
    for _ in range(2000):
        now[0] += 0.1
        run.learner.step += 1
        made.after_step()
        if now[0] > 20.0:  # what the first one costs is known only afterwards
            assert made.spent_s <= 0.05 * now[0] + 1e-9
    assert 0.04 * now[0] <= made.spent_s
    assert len(run.told) == round(made.spent_s / 0.7)


def _slow(now: list[float]) -> np.ndarray:
    now[0] += 0.7
    return np.zeros((2, 2), np.uint16)


def test_the_first_one_waits_until_a_step_per_window_is_little(
    image: np.ndarray, tmp_path: Path
) -> None:
    run, now = FakeRun((4, 4, 4)), [0.0]
    made = preview_of(image, run, tmp_path, "axial", 3, clock=lambda: now[0])
    made._first_step = 0
    while not run.told:
        now[0] += 1.0
        run.learner.step += 1
        made.after_step()
    assert now[0] >= 20 * 4 * 2  # windows across the slice, of a second each


def test_it_is_not_made_more_often_than_asked_for(image: np.ndarray, tmp_path: Path) -> None:
    run, now = FakeRun((16, 16, 16)), [0.0]
    made = preview_of(image, run, tmp_path, "axial", 3, clock=lambda: now[0])
    made._watched = replace(made._watched, every_s=100.0)
    for _ in range(50):
        now[0] += 50.0
        made.after_step()
    assert len(run.told) == 25


def test_too_little_memory_or_disk_ends_the_preview_and_not_the_training(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, now = FakeRun((16, 16, 16)), [0.0]
    made = preview_of(image, run, tmp_path, "axial", 3, clock=lambda: now[0])
    now[0] = 1e6
    run.learner.fails = RuntimeError("CUDA out of memory. Tried to allocate")
    made.after_step()
    assert "too little memory" in run.told[-1][0]
    run.learner.fails = None
    now[0] = 2e6
    made.after_step()
    assert len(run.told) == 1
    other = preview_of(image, run, tmp_path, "axial", 3, clock=lambda: now[0])
    now[0] = 4e6
    monkeypatch.setattr(module, "write_bytes_atomic", _refuse)
    other.after_step()
    assert "the disk is full" in run.told[-1][0]
    assert other.stopped


def _refuse(_path: Path, _content: bytes) -> None:
    raise StorageError("the disk is full")


def test_other_errors_are_not_hidden(image: np.ndarray, tmp_path: Path) -> None:
    run, now = FakeRun((16, 16, 16)), [0.0]
    made = preview_of(image, run, tmp_path, "axial", 3, clock=lambda: now[0])
    now[0] = 1e6
    run.learner.fails = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        made.after_step()


def test_a_slice_that_is_not_there_is_refused_before_any_work(
    phantom_study: Any, tmp_path: Path
) -> None:
    study = phantom_study()
    watched = Watched(case_id="c0", plane="axial", index=10, folder=tmp_path)
    with pytest.raises(StudyError, match="slices 0 to 9, not 10"):
        train(study, TrainConfig(steps=1, minutes=None, device="cpu"), watched=watched)
    with pytest.raises(ConfigError):
        Watched(case_id="c0", plane="oblique", index=1, folder=tmp_path)  # type: ignore[arg-type]


def test_a_training_that_is_watched_gives_the_same_model(
    phantom_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(MEANS["cpu"], channels=(4, 4, 4), convolutions=(1, 1, 1))
    monkeypatch.setitem(MEANS, "cpu", small)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_SHARE", 1e9)
    study, events = phantom_study(), list[Event]()
    config = TrainConfig(steps=6, minutes=None, patch=(16, 16, 16), device="cpu", validation="none")
    watched = Watched(case_id="c1", plane="coronal", index=8, folder=tmp_path, every_s=0.0)
    weights = []
    for one in (None, watched):
        before = study.prediction_versions("c1"), study.label_versions("c1")
        model = study.model(train(study, config, events.append, resume=False, watched=one))
        weights.append((model.folder / "weights.safetensors").read_bytes())
        assert (study.prediction_versions("c1"), study.label_versions("c1")) == before
    told = [event.data["preview"] for event in events if "preview" in event.data]
    assert len(told) == 6
    assert np.load(tmp_path / "preview.npy").shape == (10, 16)
    assert weights[0] == weights[1]
