"""Temperature: an over-confident model is found out, and says so from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from semiseg.config import PredictConfig, TrainConfig
from semiseg.inference import predict
from semiseg.learning import session
from semiseg.learning.calibration import (
    Calibration,
    Samples,
    ece,
    fit_temperature,
    joined,
    tempered,
    top_ece,
)
from semiseg.learning.means import MEANS
from semiseg.sliding import label_and_uncertainty
from semiseg.sliding import tempered as tempered_tensor
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]


def _honest(n: int, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (n, C) and what happened, drawn from exactly these."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, classes))
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    chances = np.exp(logs)
    truth = (rng.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return logs, np.minimum(truth, classes - 1)


def _too_sure(n: int, by: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    logs, truth = _honest(n, seed)
    sharp = logs * by
    return sharp - np.logaddexp.reduce(sharp, axis=1, keepdims=True), truth


@pytest.mark.parametrize("by", [0.5, 1.0, 3.0])
def test_the_temperature_is_how_much_too_sure_the_model_is(by: float) -> None:
    logs, truth = _too_sure(20_000, by)
    assert fit_temperature(logs, truth) == pytest.approx(by, rel=0.08)


def test_calibration_leaves_little_of_the_error() -> None:
    logs, truth = _too_sure(20_000, 4.0)
    before = top_ece(np.exp(logs), truth)
    after = top_ece(tempered(logs, fit_temperature(logs, truth)), truth)
    assert before > 0.15
    assert after < 0.02


def test_the_error_of_certain_mistakes_is_one() -> None:
    assert ece(np.ones(5), np.zeros(5, bool)) == 1.0
    assert ece(np.ones(5), np.ones(5, bool)) == 0.0
    assert ece(np.empty(0), np.empty(0, bool)) == 0.0


def _case(name: str, truth: np.ndarray, **changes: Any) -> Any:
    """A training case as far as samples look at it; everything is known."""
    known = {
        "label": truth.astype(np.int16),
        "valid": np.ones(truth.shape, np.float32),
        "pattern": np.zeros(truth.shape, np.int32),
        "patterns": np.ones((1, 3), bool),
    }
    return SimpleNamespace(id=name, supervision=SimpleNamespace(**(known | changes)))


def _samples(n_cases: int, by: float = 3.0, **changes: Any) -> Calibration | None:
    samples = Samples((0, 5, 9))
    shape = (4, 20, 30)
    for number in range(n_cases):
        logs, truth = _too_sure(int(np.prod(shape)), by, seed=number)
        volume = torch.from_numpy(np.exp(logs).T.reshape(3, *shape)).float()
        case = _case(f"c{number}", truth.reshape(shape), **changes)
        samples.add(case, 0, volume[:, :2])
        samples.add(case, 2, volume[:, 2:])
    return samples.calibration()


def test_the_error_afterwards_is_measured_on_cases_that_were_not_fitted() -> None:
    found = _samples(3)
    assert found is not None
    assert found.held_out
    assert (found.cases, found.voxels > 6000) == (3, True)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.ece_after < 0.03 < found.ece_before
    assert set(found.structures) == {5, 9}
    for before, after in found.structures.values():
        assert after < before

    alone = _samples(1)
    assert alone is not None
    assert not alone.held_out


def test_unknown_voxels_and_tiny_samples_teach_nothing() -> None:
    shape = (4, 20, 30)
    assert _samples(1, valid=np.zeros(shape, np.float32)) is None
    assert _samples(1, patterns=np.array([[True, True, False]])) is None
    assert _samples(1, label=np.zeros(shape, np.int16)) is None
    assert _samples(0) is None
    samples = Samples((0, 5, 9))
    samples.add(SimpleNamespace(id="c", supervision=None), 0, torch.ones(3, 1, 2, 2))
    assert samples.calibration() is None


def test_only_so_many_voxels_are_taken_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiseg.learning.calibration._PER_CHUNK", 100)
    found = _samples(2)
    assert found is not None
    assert found.voxels == 400


def test_several_trainings_are_joined() -> None:
    one, other = _samples(1, 2.0), _samples(1, 4.5)
    assert one is not None
    assert other is not None
    both = joined([one.to_json(), other.to_json()])
    assert both is not None
    assert both["temperature"] == pytest.approx(3, rel=0.2)
    assert both["trainings"] == 2
    assert joined([one.to_json()]) == one.to_json()
    assert joined([]) is None


def test_a_temperature_keeps_the_class_and_raises_the_uncertainty() -> None:
    logs = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) * 4
    sharp = logs.softmax(dim=0)
    before, unsure = label_and_uncertainty(sharp)
    after, more = label_and_uncertainty(tempered_tensor(sharp, 4.0))
    assert torch.equal(before, after)
    assert (more > unsure).all()
    assert tempered_tensor(sharp, 1.0) is sharp


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    means = replace(
        MEANS["cpu"], channels=(4, 4, 4), convolutions=(1, 1, 1), slice_channels=(4, 4, 4)
    )
    monkeypatch.setitem(MEANS, "cpu", means)  # type: ignore[arg-type]


def _config(**changes: Any) -> TrainConfig:
    plain = {"steps": 4, "minutes": None, "patch": (16, 16, 16), "device": "cpu"}
    return TrainConfig(**{**plain, **changes})


def test_a_validated_model_keeps_its_temperature_and_uses_it(
    phantom_study: Make, small_network: None
) -> None:
    study = phantom_study()
    model_id = train(study, _config(validation="slices"))
    info: Any = study.model(model_id).info
    told = info["calibration"]
    assert 0.05 <= told["temperature"] <= 20
    assert 0 <= told["ece_after"] <= 1
    assert told["voxels"] >= 200

    uncertainties = []
    for temperature in (0.05, 20.0):
        path = study.model(model_id).folder / "model.json"
        text = path.read_text().replace(
            f'"temperature": {told["temperature"]}', f'"temperature": {temperature}'
        )
        path.write_text(text)
        told = {"temperature": temperature}
        _trust_again(study, model_id)
        predict(study, model_id, ["c0"], PredictConfig(device="cpu"))
        found = study.prediction("c0")
        assert found is not None
        uncertainties.append(float(found.uncertainty.mean()))
    assert uncertainties[0] < uncertainties[1]


def _trust_again(study: Study, model_id: int) -> None:
    """The description was changed by hand: its size in the manifest, too."""
    import json

    folder = study.folder / "models" / f"{model_id:04d}"
    manifest = json.loads((folder / "version.json").read_text())
    manifest["files"]["model.json"]["bytes"] = (folder / "model.json").stat().st_size
    (folder / "version.json").write_text(json.dumps(manifest))


def test_leave_one_out_never_makes_a_model_surer(
    phantom_study: Make, small_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HARDLY_LEARNED", 0.0)
    study = phantom_study(("CT", "CT", "MR"), annotated=3)
    info: Any = study.model(train(study, _config(steps=6))).info
    assert info["validation"]["kind"] == "leave_one_out"
    assert info["calibration"]["temperature"] >= 1


def test_leave_one_out_that_hardly_learned_calibrates_nothing(
    phantom_study: Make, small_network: None
) -> None:
    study = phantom_study(("CT", "CT", "MR"), annotated=3)
    info: Any = study.model(train(study, _config(steps=6))).info
    assert info["validation"]["dice"] < 0.5
    assert info["calibration"] is None


def test_a_model_without_validation_has_no_calibration(
    phantom_study: Make, small_network: None
) -> None:
    study = phantom_study()
    info: Any = study.model(train(study, _config(validation="none"))).info
    assert info["calibration"] is None
