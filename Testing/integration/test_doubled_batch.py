"""Two processes with a batch each learn as one process with both batches in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)
STEPS = 12
LEARN = f"""
import dataclasses, os, sys, torch
from semiseg.data.batch import Batch
from semiseg.group import joined
from semiseg.learning.learner import Learner
from semiseg.methods.base import MethodSettings
from semiseg.networks import NetworkSpec

torch.set_num_threads(1)
spec = NetworkSpec(n_classes=2, channels=(4, 4), strides=((2, 2, 2),), convolutions=(1, 1))

def batch(step, part, dice):
    made = torch.Generator().manual_seed(step)
    image = torch.randn(4, 1, 8, 8, 8, generator=made)
    label = (image[:, 0] + 0.5 * torch.randn(4, 8, 8, 8, generator=made) > 0.5).long()
    known = torch.ones(4, 2, 8, 8, 8, dtype=torch.bool)
    known[:, 1] = dice  # the Dice term counts known structures alone
    n = part.stop - part.start
    return Batch(image=image[part], label=label[part], valid=torch.ones(n, 8, 8, 8),
                 known=known[part], origin=torch.ones(n, 8, 8, 8, dtype=torch.uint8),
                 modality=torch.zeros(n, dtype=torch.long), case=("made up",) * n, n_labelled=n,
                 spacing_mm_zyx=(1.0, 1.0, 1.0))

def curve(group, part, dice):
    learner = Learner("supervised", MethodSettings(network=spec), torch.device("cpu"), seed=1,
                      group=group)
    losses = []
    for step in range({STEPS}):
        loss = learner.learn(batch(step, part, dice), 0.5).reshape(1)
        group.average([loss])
        losses.append(float(loss))
    return losses

size = int(os.environ.get("WORLD_SIZE", "1"))
with joined(size, 0, "cpu") as group:
    n = 4 // size
    part = slice(group.rank * n, (group.rank + 1) * n)
    found = {{name: curve(group, part, name == "dice") for name in ("plain", "dice")}}
    if group.first:
        torch.save(found, sys.argv[1])
"""


def curves(folder: Path, *start: str) -> dict[str, torch.Tensor]:
    script, out = folder / "learn.py", folder / "curves"
    script.write_text(LEARN)
    done = subprocess.run(
        [sys.executable, *start, str(script), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.tensor(values) for name, values in torch.load(out).items()}


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    """Cross-entropy is a mean over voxels: equal to rounding. Dice is taken within a batch, so
    that the mean of two differs a little from that of both together: within 2 %."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    two, one = curves(tmp_path, *torchrun), curves(tmp_path)
    assert one["plain"][-1] < one["plain"][0]
    torch.testing.assert_close(two["plain"], one["plain"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two["dice"], one["dice"], rtol=0.02, atol=0.0)
    assert not torch.equal(two["dice"], one["dice"])
