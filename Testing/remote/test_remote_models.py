"""A model that learned here segments there, and one that learned there is a model of this study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.config import PredictConfig, TrainConfig
from semiseg.events import Event
from semiseg.inference import predict
from semiseg.learning import run as learning_run
from semiseg.remote.packing import Wish
from semiseg.remote.work import Means, submit
from semiseg.study.study import Study
from semiseg.trainer import train

BRIEF = TrainConfig(steps=2, device="cpu", validation="none", batch_size=1)


def _learn_or_segment(manifest: Any, folder: Path, emit: Any) -> Event:
    study = Study.open(folder)
    if manifest.kind == "train":
        train(study, BRIEF, emit)
    else:
        asked = [case.id for case in manifest.cases if case.asked]
        predict(study, None, asked, PredictConfig(device="cpu"), emit)
    return Event(kind="result", phase="end")


def test_learning_and_segmenting_there_give_what_they_give_here(
    phantom_study: Callable[..., Study],
    ray: Any,
    access: Any,
    quick: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One report, of the mean over all steps: else it depends on how long a step takes.
    monkeypatch.setattr(learning_run, "_REPORT_EVERY_S", 1e9)
    study = phantom_study(("CT", "MR"), annotated=2)
    ray.work = _learn_or_segment
    means = Means(pace=quick, gpus=0.0)

    def run(wish: Wish) -> None:
        submit(study, wish, access(ray), means, lambda _told: True, lambda _event: None)

    here = study.model(train(study, BRIEF))
    run(Wish(kind="train", arguments=("--steps", "2")))
    there = study.model()
    assert there.id == here.id + 1
    losses = [model.info["history"][-1]["loss"] for model in (here, there)]  # type: ignore[index]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert set(there.info["cases"] or ()) == {"c0", "c1"}  # type: ignore[arg-type]
    predict(study, there.id, ["c1"], PredictConfig(device="cpu"))
    run(Wish(kind="predict", case_ids=("c1",), model_id=there.id))
    seen_here, seen_there = study.prediction("c1", 1), study.prediction("c1", 2)
    assert seen_here is not None
    assert seen_there is not None
    assert np.array_equal(seen_here.array, seen_there.array)
    assert seen_here.uncertainty == pytest.approx(seen_there.uncertainty, abs=0.01)
    assert (seen_here.model_id, seen_there.model_id) == (there.id, there.id)
