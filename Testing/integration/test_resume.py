"""A training killed at any moment ends, when started again, with the weights of an unbroken one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from semiseg.study.study import Study

STEPS = 40
TRAIN = """
import sys
from pathlib import Path
from semiseg.config import TrainConfig
from semiseg.study.study import Study
from semiseg.trainer import train
config = TrainConfig(
    steps=int(sys.argv[2]), minutes=None, patch=(16, 16, 16), device="cpu",
    checkpoint_every_steps=1, checkpoint_every_s=1e6,
)
def say(event):
    print(event.to_line(), flush=True)
print("model", train(Study.open(Path(sys.argv[1])), config, say), flush=True)
"""


def start(study: Study) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(study.folder), str(STEPS)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(study: Study) -> tuple[dict[str, torch.Tensor], str]:
    output, _ = start(study).communicate(timeout=300)
    study.reload()
    model_id = int(output.rsplit("model", 1)[1])
    return load_file(study.model(model_id).folder / "weights.safetensors"), output


def checkpoints(study: Study) -> list[Path]:
    return list(study.jobs_dir.glob("train-*/final.safetensors"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_training_ends_with_the_bits_of_an_unbroken_one(
    phantom_study: Callable[..., Study],
) -> None:
    study = phantom_study()
    unbroken, _ = finish(study)
    rng = random.Random(0)
    for _ in range(2):
        child = start(study)
        while not checkpoints(study) and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.4))
        assert child.poll() is None, "the training was over before it could be killed"
        child.kill()
        child.communicate()
        Study.open(study.folder)
    resumed, output = finish(study)
    assert "unfinished" in output
    assert set(unbroken) == set(resumed)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
