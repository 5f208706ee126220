"""Two processes train one model: the same weights, one report, one model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from semiseg.events import parse_line
from semiseg.study.study import Study

Make = Callable[..., Study]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)
LEARN = """
import sys, torch
from semiseg.group import joined
from semiseg.learning.learner import Learner
from semiseg.learning.plan import Plan
from semiseg.learning.speed import made_up
from semiseg.methods.base import MethodSettings
from semiseg.networks import NetworkSpec

torch.set_num_threads(1)
spec = NetworkSpec(n_classes=2, channels=(2, 2), strides=((2, 2, 2),), convolutions=(1, 1))
plan = Plan(spacing_mm_zyx=(1, 1, 1), patch_zyx=(8, 8, 8), n_labelled=1, n_unlabelled=1,
            network=spec, device="cpu")
with joined(2, 0) as group:
    learner = Learner("mean_teacher", MethodSettings(network=spec), torch.device("cpu"), seed=1,
                      group=group)
    batch = made_up(plan, torch.device("cpu"))
    batch.image.mul_(group.rank + 1)  # each sees other images
    for _ in range(3):
        learner.learn(batch, 0.5)
    assert group.agreed(group.rank) == 0
    torch.save(learner.method.modules.state_dict(), sys.argv[1] + str(group.rank))
    value = torch.full((2, 3), float(group.rank))
    group.average([value, torch.zeros(4)])
    assert (value == 0.5).all()
"""


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*start, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_processes_that_see_other_patches_keep_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "learn.py"
    script.write_text(LEARN)
    done = torchrun(str(script), str(tmp_path / "weights"))
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"weights{rank}") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_torchrun_trains_one_model_and_reports_once(phantom_study: Make) -> None:
    study = phantom_study()
    command = ("-m", "semiseg", "train", str(study.folder), "--steps", "3", "--device", "cpu")
    done = torchrun(*command, "--validation", "slices", "--json")
    assert done.returncode == 0, done.stderr
    events = [parse_line(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [event.kind for event in events if event.phase == "end"] == ["result"]
    study.reload()
    info = json.loads((study.model(None).folder / "model.json").read_text())
    assert info["steps"] == 3
    assert info["validation"]["kind"] == "slices"
    assert len(list((study.folder / "models").iterdir())) == 1
    assert not list(study.jobs_dir.glob("train-*"))
