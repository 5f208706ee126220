"""Training a study: a model that can be used, in time, without looking at what is set aside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from semiseg.config import PredictConfig, TrainConfig
from semiseg.errors import ConfigError, DeviceError, NotEnoughLabelsError
from semiseg.events import Event
from semiseg.inference import predict
from semiseg.learning import session
from semiseg.learning.honest import Growth
from semiseg.learning.means import MEANS
from semiseg.learning.run import Run
from semiseg.models import load_model
from semiseg.study.case import GateRecord
from semiseg.study.ledger import SliceState
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]


def config(**changes: Any) -> TrainConfig:
    plain = {"steps": 4, "minutes": None, "patch": (16, 16, 16), "device": "cpu"}
    return TrainConfig(**{**plain, **changes})


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    means = replace(
        MEANS["cpu"], channels=(4, 4, 4), convolutions=(1, 1, 1), slice_channels=(4, 4, 4)
    )
    monkeypatch.setitem(MEANS, "cpu", means)  # type: ignore[arg-type]


def weights(study: Study, model_id: int) -> dict[str, torch.Tensor]:
    return load_file(study.model(model_id).folder / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_model_segments_the_cases(phantom_study: Make) -> None:
    study = phantom_study()
    model_id = train(study, config())
    predict(study, model_id, None, PredictConfig(device="cpu"))
    assert study.prediction("c1") is not None


@pytest.mark.parametrize(("dims", "sides"), [("2", 2), ("2.5", 3)])
def test_a_model_of_slices_segments_volumes(phantom_study: Make, dims: Any, sides: int) -> None:
    study = phantom_study()
    model_id = train(study, config(dims=dims, patch=None, spacing_mm=None, validation="slices"))
    info: Any = study.model(model_id).info
    assert info["patch_zyx"] == info["plan"]["patch_zyx"][-sides:]
    assert info["validation"]["dice"] is not None
    predict(study, model_id, None, PredictConfig(device="cpu"))
    found = study.prediction("c1")
    assert found is not None
    assert found.array.shape == (10, 16, 16)


def test_the_model_says_how_it_was_made(phantom_study: Make) -> None:
    study = phantom_study()
    info: Any = study.model(train(study, config(seed=3))).info
    assert info["classes"] == [0, 1, 2]
    assert info["names"] == {"1": "liver", "2": "spleen"}
    assert info["modalities"] == ["CT", "MR"]
    assert (info["method"], info["seed"], info["steps"]) == ("supervised", 3, 4)
    assert info["history"][-1]["step"] == 4
    assert info["validation"]["kind"] == "slices"
    assert 0 <= info["validation"]["dice"] <= 1
    assert info["unseen_dice"] == {}  # other slices of the same scans were learned from
    assert len(info["cases"]["c0"]["digest"]) == 64
    assert info["versions"]["torch"] == torch.__version__


def test_loss_and_dice_are_told_with_step_and_time_left(phantom_study: Make) -> None:
    events: list[Event] = []
    train(phantom_study(), config(), events.append)
    told = [event for event in events if event.phase == "train" and event.data]
    scored = [event for event in told if "dice" in event.data]
    lost = [event for event in told if "loss" in event.data]
    assert len(scored) == 1
    assert lost
    for event in (*scored, *lost):
        assert 0 < event.step <= event.total == 4
        assert "seconds_left" in event.data
    assert scored[0].data["dice"] == scored[0].data["validation_dice"]


def test_the_same_steps_give_the_same_bits(phantom_study: Make) -> None:
    study = phantom_study()
    one, other = train(study, config()), train(study, config())
    assert one != other
    assert same(weights(study, one), weights(study, other))
    assert not same(weights(study, one), weights(study, train(study, config(seed=1))))


def test_minutes_of_processor_time_are_kept(phantom_study: Make) -> None:
    study = phantom_study()
    train(study, config())  # whatever is loaded once is loaded now
    start = time.process_time()
    model_id = train(study, TrainConfig(minutes=0.05, device="cpu", clock="processor"))
    assert time.process_time() - start < 0.05 * 60 * 1.3 + 2
    assert study.model(model_id).info["steps"] > 3


def test_a_clock_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="wall"):
        TrainConfig(clock="sundial")  # type: ignore[arg-type]


def test_minutes_are_kept(phantom_study: Make) -> None:
    study = phantom_study()
    train(study, config())  # whatever is loaded once is loaded now
    start = time.monotonic()
    model_id = train(study, TrainConfig(minutes=0.08, device="cpu"))
    assert time.monotonic() - start < 0.08 * 60 * 1.3 + 1
    assert study.model(model_id).info["steps"] > 3


def test_nothing_is_left_of_a_finished_run(phantom_study: Make) -> None:
    study = phantom_study()
    train(study, config())
    assert list(study.jobs_dir.iterdir()) == []


class KilledError(Exception):
    pass


def killer(at_step: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if event.phase == "train" and event.step >= at_step and "loss" in event.data:
            raise KilledError

    return emit


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiseg.learning.run._REPORT_EVERY_S", 0.0)


@pytest.mark.parametrize("at_step", [2, 7])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    phantom_study: Make, chatty: None, at_step: int
) -> None:
    study = phantom_study()
    settings = config(steps=8, checkpoint_every_steps=1)
    unbroken = train(study, settings)
    with pytest.raises(KilledError):
        train(study, settings, killer(at_step))
    events: list[Event] = []
    resumed = train(study, settings, events.append)
    assert any("unfinished" in event.message for event in events)
    assert same(weights(study, unbroken), weights(study, resumed))


def test_new_labels_or_settings_start_anew(phantom_study: Make, chatty: None) -> None:
    study = phantom_study()
    with pytest.raises(KilledError):
        train(study, config(checkpoint_every_steps=1), killer(2))
    study.mark_slices("c0", "axial", [3], SliceState.DONE, (1, 2))
    events: list[Event] = []
    train(study, config(checkpoint_every_steps=1), events.append)
    assert not any("unfinished" in event.message for event in events)


def test_a_run_starts_anew_when_asked(phantom_study: Make, chatty: None) -> None:
    study = phantom_study()
    with pytest.raises(KilledError):
        train(study, config(checkpoint_every_steps=1), killer(2))
    events: list[Event] = []
    train(study, config(checkpoint_every_steps=1), events.append, resume=False)
    assert not any("unfinished" in event.message for event in events)


def test_a_damaged_run_folder_is_left_aside_and_said(phantom_study: Make, chatty: None) -> None:
    study = phantom_study()
    with pytest.raises(KilledError):
        train(study, config(checkpoint_every_steps=1), killer(2))
    next(study.jobs_dir.glob("train-*/run.json")).write_text("{")
    events: list[Event] = []
    train(study, config(checkpoint_every_steps=1), events.append)
    assert any("not used" in event.message for event in events)


def test_leave_one_out_scores_every_left_out_patient(phantom_study: Make, chatty: None) -> None:
    study = phantom_study(("CT", "CT", "MR"), annotated=3)
    settings = config(steps=6, checkpoint_every_steps=1)
    with pytest.raises(KilledError):
        train(study, settings, killer(1))  # both folds are scored by then
    record = json.loads(next(study.jobs_dir.glob("train-*/run.json")).read_text())
    assert set(record["early"]) == {study.cases[i].patient for i in ("c0", "c1")}
    events: list[Event] = []
    info: Any = study.model(train(study, settings, events.append)).info
    assert not any(event.phase == "validate" for event in events)
    assert info["validation"]["kind"] == "leave_one_out"
    assert set(info["validation"]["cases"]) == {"c0", "c1"}
    assert set(info["unseen_dice"]) == {study.cases[i].modality for i in ("c0", "c1")}
    assert info["steps"] == 6
    told = {(row["modality"], row["structure"]): row for row in info["validation"]["summaries"]}
    assert told["all", "all"]["n"] == 2
    assert told["CT", "all"]["low"] is not None


@pytest.mark.parametrize(("length", "times"), [({"steps": 6}, 4), ({"minutes": 0.05}, 2)])
def test_the_model_learns_so_much_longer_than_a_fold(
    phantom_study: Make, chatty: None, monkeypatch: pytest.MonkeyPatch, length: Any, times: float
) -> None:
    found: list[float] = []
    genuine = Growth.of
    monkeypatch.setattr(Growth, "of", lambda e, f, t: found.append(t) or genuine(e, f, t))
    study = phantom_study(("CT", "CT", "MR"), annotated=3)
    train(study, config(**{"steps": None, **length}))
    assert found == [pytest.approx(times)]  # two folds share half of the time, or of the steps


def test_a_look_at_a_fold_takes_nothing_from_its_time(
    phantom_study: Make, chatty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, budgets = session.score, list[float]()

    def slow(*arguments: Any) -> Any:
        time.sleep(0.4)
        return genuine(*arguments)

    def noted(run: Any, until: float = 1.0) -> None:
        budgets.append(run.budget.seconds)
        trained(run, until)

    trained = Run.train
    monkeypatch.setattr(session, "score", slow)
    monkeypatch.setattr(Run, "train", noted)
    study = phantom_study(("CT", "CT"), annotated=2)
    train(study, config(steps=None, minutes=0.1))
    first, second = budgets[0], budgets[1]
    assert first == pytest.approx(1.5)
    assert second >= first + 0.4
    assert len(budgets) == 4  # a look that takes long is not repeated: the second fold has none


def test_validation_cases_are_scored_on_the_way_and_never_learned_from(
    phantom_study: Make,
) -> None:
    study = phantom_study(("CT", "CT"), annotated=2, splits=("train", "val"))
    events: list[Event] = []
    info: Any = study.model(train(study, config(steps=8), events.append)).info
    scored = [event.step for event in events if "validation_dice" in event.data]
    assert scored == [2, 4, 6, 8]
    assert set(info["cases"]) == {"c0"}
    assert set(info["validation"]["cases"]) == {"c1"}


def test_costly_validation_waits_for_the_end(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "CT"), annotated=2, splits=("train", "val"))
    monkeypatch.setattr("semiseg.learning.session._SCORING_SHARE", 0.0)
    events: list[Event] = []
    train(study, TrainConfig(minutes=0.05, device="cpu"), events.append)
    assert len([event for event in events if "validation_dice" in event.data]) == 2


def test_test_cases_are_never_read(phantom_study: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    study = phantom_study(("CT", "MR", "CT"), annotated=3, splits=("train", "train", "test"))
    image, label = Study.image, Study.label

    def guarded(read: Any) -> Any:
        def reading(self: Study, case_id: str, *rest: Any) -> Any:
            assert case_id != "c2"
            return read(self, case_id, *rest)

        return reading

    monkeypatch.setattr(Study, "image", guarded(image))
    monkeypatch.setattr(Study, "label", guarded(label))
    train(study, config())


def test_propagated_labels_are_learned_from_unless_declined(phantom_study: Make) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    array = np.zeros((10, 16, 16), np.uint16)
    array[4:7, 6:10, 3:8] = 1
    gate = GateRecord(verdict="accept", score=0.9)
    study.propagated(
        "c1", array, np.full(array.shape, 0.6, np.float32), structure_ids=(1, 2), gate=gate, info={}
    )
    with_them: Any = study.model(train(study, config())).info
    assert with_them["cases"]["c1"]["propagated"]
    without: Any = study.model(train(study, config(use_propagated=False))).info
    assert set(without["cases"]) == {"c0"}


def test_a_missing_gpu_is_refused_not_replaced(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError):
        train(phantom_study(), config(device="cuda"))


def test_without_labels_the_user_is_told_what_to_do(phantom_study: Make) -> None:
    with pytest.raises(NotEnoughLabelsError, match="mark them as done"):
        train(phantom_study(annotated=0), config())


def test_the_weights_belong_to_the_description(phantom_study: Make) -> None:
    study = phantom_study()
    record = study.model(train(study, config()))
    model = load_model(record.folder, torch.device("cpu"))
    assert model.classes == (0, 1, 2)
    assert model.network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)
    assert isinstance(record.folder, Path)


def test_session_is_resumed_with_its_plan(phantom_study: Make, chatty: None) -> None:
    study = phantom_study()
    settings = TrainConfig(minutes=1.0, device="cpu", checkpoint_every_steps=1)
    plans: list[Any] = []

    def emit(event: Event) -> None:
        if "plan" in event.data:
            plans.append(event.data["plan"])
        killer(2)(event)

    for _ in range(2):
        with pytest.raises(KilledError):
            train(study, settings, emit)
    assert plans[0] == plans[1]
