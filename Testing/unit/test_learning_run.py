"""Learners, checkpoints and runs: restored to the bit, never stopped by memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semiseg.data.batch import Batch
from semiseg.data.cases import TrainingCase
from semiseg.data.supervision import Supervision
from semiseg.data.training_grid import TrainingImage
from semiseg.errors import DeviceError, SemiSegError, StorageError
from semiseg.events import Event
from semiseg.group import ALONE, Group, joined
from semiseg.images.grid import Grid, canonical
from semiseg.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from semiseg.learning.learner import Learner
from semiseg.learning.plan import Plan
from semiseg.learning.run import Budget, Pace, Run, RunSettings
from semiseg.learning.speed import voxels_per_s
from semiseg.methods.base import MethodSettings
from semiseg.networks import NetworkSpec

SPEC = NetworkSpec(n_classes=2, channels=(4, 4), strides=((2, 2, 2),), convolutions=(1, 1))
PLAN = Plan(
    spacing_mm_zyx=(2.0, 2.0, 2.0),
    patch_zyx=(8, 8, 8),
    n_labelled=2,
    n_unlabelled=0,
    network=SPEC,
    device="cpu",
)


def case() -> TrainingCase:
    grid = Grid(size_xyz=(12, 12, 12), spacing_mm_xyz=(2.0, 2.0, 2.0))
    label = np.zeros(grid.shape_zyx, np.int16)
    label[3:9, 3:9, 3:9] = 1
    return TrainingCase(
        id="a",
        patient="a",
        modality="CT",
        image=TrainingImage(
            array=(label - 0.5).astype(np.float32), grid=grid, orientation=canonical(grid)
        ),
        supervision=Supervision(
            label=label,
            valid=np.ones(label.shape, np.float32),
            origin=np.ones(label.shape, np.uint8),
            pattern=np.zeros(label.shape, np.int32),
            patterns=np.ones((1, 2), bool),
        ),
    )


def run_in(folder: Path, *, steps: int = 6, every: int | None = None, **changes: Any) -> Run:
    settings = RunSettings(
        name="train",
        method=changes.pop("method", "supervised"),
        sparing=changes.pop("sparing", False),
        group=changes.pop("group", ALONE),
        learning_rate=1e-2,
        seed=4,
        checkpoint=folder / "run.safetensors",
        checkpoint_every_s=1e9,
        checkpoint_every_steps=every,
    )
    events = changes.pop("events", [])
    run = Run(settings, changes.pop("plan", PLAN), [case()], events.append, **changes)
    run.budget = Budget(seconds=None, steps=steps)
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in run.learner.tensors().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unbroken = run_in(tmp_path / "a")
    unbroken.train()
    first = run_in(tmp_path / "b", every=2)
    while first.learner.step < 5:  # stops at step 5, with a checkpoint of step 4
        first.learner.learn(first._sampler.batch(first.learner.step), first.progress)
        if first.learner.step == 4:
            first.save()
    events: list[Event] = []
    resumed = run_in(tmp_path / "b", events=events)
    assert resumed.learner.step == 4
    assert "step 4" in events[0].message
    resumed.train()
    assert same(weights(unbroken), weights(resumed))


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    one = Learner("supervised", MethodSettings(network=SPEC), torch.device("cpu"), seed=1)
    other = Learner("supervised", MethodSettings(network=SPEC), torch.device("cpu"), seed=2)
    assert not same(one.tensors(), other.tensors())


def test_training_reports_loss_pace_and_time_left(tmp_path: Path) -> None:
    events: list[Event] = []
    run = run_in(tmp_path, steps=3, events=events)
    run.train()
    last = events[-1]
    assert (last.phase, last.step, last.total) == ("train", 3, 3)
    assert isinstance(last.data["loss"], float)
    assert {"steps_per_s", "seconds_left", "progress"} <= set(last.data)
    assert run.state.history[-1]["loss"] == last.data["loss"]


def test_time_ends_a_run_and_counts_over_resumes(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.budget = Budget(seconds=0.3, steps=None)
    run.train()
    assert 0.3 <= run.elapsed_s < 3
    again = run_in(tmp_path)
    again.budget = Budget(seconds=0.3, steps=None)
    assert again.progress == 1.0
    assert again.learner.step == run.learner.step


def test_progress_is_the_larger_share() -> None:
    assert Budget(seconds=10, steps=100).progress(2, 50) == 0.5
    assert Budget(seconds=10, steps=100).progress(8, 50) == 0.8
    assert Budget(seconds=10, steps=None).progress(80, 50) == 1.0


def test_pace_needs_two_marks() -> None:
    pace = Pace()
    pace.mark(0, 0.0)
    assert pace.steps_per_s is None
    pace.mark(10, 2.0)
    assert pace.steps_per_s == 5.0


def fail_once(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, times: int = 1) -> None:
    learn, left = run.learner.learn, [times]

    def failing(*args: Any) -> torch.Tensor:
        if left[0]:
            left[0] -= 1
            raise error
        return learn(*args)

    monkeypatch.setattr(run.learner, "learn", failing)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory")]
)
def test_out_of_memory_goes_on_smaller_from_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    events: list[Event] = []
    large = Plan(**{**vars(PLAN), "patch_zyx": (32, 16, 16)})
    run = run_in(tmp_path, plan=large, events=events)
    run.train(until=0.5)
    before = weights(run)
    fail_once(run, monkeypatch, error)
    monkeypatch.setattr(run, "_report", lambda *, final: None)
    kept: list[bool] = []
    shrink = run._shrink
    monkeypatch.setattr(run, "_shrink", lambda: (kept.append(same(before, weights(run))), shrink()))
    run.train()
    assert kept == [True]
    assert run.plan.patch_zyx == (16, 16, 16)
    assert run.learner.step == 6
    assert any("out of memory at step 3" in event.message for event in events)
    assert run_in(tmp_path).plan == run.plan


def test_when_nothing_can_be_smaller_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path)
    fail_once(run, monkeypatch, MemoryError(), times=99)
    with pytest.raises(DeviceError, match="close other programs"):
        run.train()


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(tmp_path)
    fail_once(run, monkeypatch, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run.train()


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path)
    monkeypatch.setattr(run.learner, "learn", lambda *_: torch.tensor(math.nan))
    monkeypatch.setattr(type(run), "progress", property(lambda self: float(bool(self._losses))))
    with pytest.raises(SemiSegError, match="smaller learning rate"):
        run.train()


def test_moving_to_another_device_keeps_the_weights() -> None:
    learner = Learner("supervised", MethodSettings(network=SPEC), torch.device("cpu"), seed=1)
    before = {k: v.clone() for k, v in learner.tensors().items() if not k.startswith("optimizer")}
    learner.move(torch.device("cpu"))
    after = {k: v for k, v in learner.tensors().items() if not k.startswith("optimizer")}
    assert same(before, after)


def test_predicting_with_the_mean_leaves_the_weights_alone(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.train()
    before = weights(run)
    with run.learner.averaged() as method:
        mean = {k: v.clone() for k, v in method.modules.state_dict().items()}
        assert not method.modules.training
    assert same(mean, run.learner.mean)
    assert not same(
        mean, {k.removeprefix("modules/"): v for k, v in before.items() if "modules" in k}
    )
    assert same(before, weights(run))
    assert run.learner.method.modules.training


def test_checkpoints_hold_tensors_and_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint(tensors={"a/b": torch.arange(3)}, values={"step": 2}))
    found = load_checkpoint(path)
    assert found is not None
    assert found.values == {"step": 2}
    assert found.part("a")["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08" + b"\0" * 7 + b"{}      "])
def test_a_damaged_checkpoint_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    assert load_checkpoint(path) is None
    assert load_checkpoint(tmp_path / "missing") is None


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        save_checkpoint(tmp_path / "no" / "c", Checkpoint(tensors={}, values={}))


def test_speed_is_measured_in_voxels_per_second() -> None:
    assert voxels_per_s("supervised", PLAN) > 100


@pytest.mark.parametrize("sparing", [False, True])
def test_a_sparing_run_sees_unlabelled_samples_late_and_seldom(
    tmp_path: Path, sparing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, n_unlabelled=1)
    run = run_in(tmp_path, steps=20, sparing=sparing, method="entropy", plan=plan)
    sizes: list[int] = []
    learn = run.learner.learn

    def spy(batch: Batch, progress: float) -> torch.Tensor:
        sizes.append(batch.size)
        return learn(batch, progress)

    monkeypatch.setattr(run.learner, "learn", spy)
    run.train()
    with_unlabelled = [step for step, size in enumerate(sizes) if size == 3]
    assert with_unlabelled == ([8, 12, 16] if sparing else list(range(20)))
    assert run.learner.method.settings.sparing is sparing


class Pair(Group):
    """The second of two processes, whose first one is always done with half of its time."""

    rank, size = 1, 2

    def __init__(self) -> None:
        self.progress = iter([0.0, 0.5, 1.0])
        self.averaged: list[int] = []

    def agreed(self, value: Any) -> Any:
        return next(self.progress)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        self.averaged.append(len(tensors))


def test_the_first_process_decides_when_a_group_is_done(tmp_path: Path) -> None:
    group = Pair()
    run = run_in(tmp_path, steps=1000, group=group)
    run.train()
    assert run.learner.step == 2
    parameters = len(list(run.learner.method.modules.parameters()))
    assert group.averaged == [parameters] * 2


def test_a_group_cannot_go_on_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(tmp_path, group=Pair())
    fail_once(run, monkeypatch, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run.train()


def test_each_process_draws_its_own_patches(tmp_path: Path) -> None:
    one, other = run_in(tmp_path / "a"), run_in(tmp_path / "b", group=Pair())
    left, right = (run._sampler.batch(0).image for run in (one, other))
    assert not torch.equal(left, right)


def test_a_process_alone_agrees_with_itself() -> None:
    ALONE.wait()
    ALONE.average([torch.ones(2)])
    assert ALONE.first
    assert ALONE.agreed(7) == 7
    with joined(1, 0) as group:
        assert group is ALONE
