"""Studies learned from with cascade, and with networks that begin at half resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from semiseg.config import PredictConfig, TrainConfig
from semiseg.inference import predict
from semiseg.learning.means import MEANS
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    means = replace(MEANS["cpu"], channels=(4, 4), convolutions=(1, 1))
    monkeypatch.setitem(MEANS, "cpu", means)  # type: ignore[arg-type]


def trained(study: Study, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "method": "cascade",
        "steps": 4,
        "minutes": None,
        "patch": (16, 16, 16),
        "device": "cpu",
        "validation": "none",
    }
    model_id = train(study, TrainConfig(**{**settings, **changes}))
    predict(study, model_id, None, PredictConfig(device="cpu"))
    assert study.prediction("c1") is not None
    info: dict[str, Any] = study.model(model_id).info
    return info


def test_cascade_asks_for_unlabelled_samples_only_where_some_scan_has_no_label(
    phantom_study: Make,
) -> None:
    plan = trained(phantom_study(annotated=2))["plan"]
    assert plan["n_unlabelled"] == 0


def test_cascade_looks_at_scans_without_any_label(phantom_study: Make) -> None:
    plan = trained(phantom_study(annotated=1))["plan"]
    assert plan["n_unlabelled"] == plan["n_labelled"]


def test_a_model_that_begins_at_half_resolution_segments_scans(phantom_study: Make) -> None:
    info = trained(phantom_study(), method="supervised", spacing_mm=6.0)
    assert info["network"]["stem"] == [2, 2, 2]
    assert info["plan"]["patch_zyx"] == [16, 16, 16]
