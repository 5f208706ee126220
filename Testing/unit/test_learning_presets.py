"""Presets: published protocols as settings, refused where they would not be what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semiseg.cli import app
from semiseg.config import TrainConfig, from_json, to_json
from semiseg.errors import ConfigError, DeviceError, SemiSegError
from semiseg.learning.plan import Plan, make_plan
from semiseg.learning.presets import PRESETS, preset_help, require_preset, with_preset
from semiseg.learning.run import Run, RunSettings
from semiseg.learning.survey import Survey, survey
from semiseg.methods.base import Method, MethodSettings, build_method, method_class
from semiseg.networks import NetworkSpec
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]
SPEC = NetworkSpec(n_classes=2, channels=(4, 8), strides=((2, 2, 2),), convolutions=(1, 1))
every_preset = pytest.mark.parametrize("name", PRESETS)


@pytest.fixture
def found(phantom_study: Make) -> Survey:
    """One annotated and one blank scan, one structure."""
    whole = survey(phantom_study(annotated=1), use_propagated=False)
    return replace(whole, classes=whole.classes[:2])


def dtc(optimizer: str) -> Method:
    settings = MethodSettings(network=SPEC, learning_rate=0.01)
    return build_method(f"dtc+optimizer={optimizer}", settings)


def test_the_table_of_dtc_is_set_as_published() -> None:
    config = with_preset("dtc-la", TrainConfig(seed=7))
    assert (config.method, config.steps, config.minutes) == ("dtc+optimizer=sgd", 6000, None)
    assert (config.patch, config.dims, config.batch_size) == ((80, 112, 112), "3", 2)
    assert (config.learning_rate, config.use_propagated) == (0.01, False)
    assert (config.seed, config.preset) == (7, "dtc-la")


def test_a_plan_takes_the_published_sizes_at_the_spacing_of_the_scans(found: Survey) -> None:
    config = with_preset("dtc-la", TrainConfig())
    for device in ("cpu", "cuda"):
        plan = make_plan(found, config, device, uses_unlabelled=True)
        assert (plan.patch_zyx, plan.n_labelled, plan.n_unlabelled) == ((80, 112, 112), 2, 2)
        assert plan.spacing_mm_zyx == pytest.approx(found.train[0].spacing_mm_zyx)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.01), (2499, 0.01), (2500, 0.001), (4999, 0.001), (5000, 1e-4), (6000, 1e-4)],
)
def test_published_rate_falls_to_a_tenth_every_2500_steps(step: int, expected: float) -> None:
    assert 0.01 * dtc("sgd").learning_rate_factor(step / 6000) == pytest.approx(expected)


def test_published_optimizer_is_sgd_with_momentum() -> None:
    optimizer = dtc("sgd").optimizers()["network"]
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 1e-4)
    assert isinstance(dtc("adamw").optimizers()["network"], torch.optim.AdamW)
    assert dtc("adamw").learning_rate_factor(0.5) == pytest.approx(0.535887, abs=1e-6)


@every_preset
def test_a_preset_goes_through_json(name: str, found: Survey) -> None:
    config = with_preset(name, TrainConfig())
    again = from_json(TrainConfig, json.loads(json.dumps(to_json(config))))
    assert again == config
    require_preset(again, found, processes=1)


@every_preset
def test_a_preset_names_a_method_that_there_is(name: str) -> None:
    assert method_class(with_preset(name, TrainConfig()).method).uses_unlabelled
    assert f"{name}: " in preset_help()


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'dtc-table'; choose one of dtc-la"):
        with_preset("dtc-table", TrainConfig())


def test_what_the_user_asks_for_is_not_overruled() -> None:
    config = TrainConfig(steps=100, minutes=None)
    with pytest.raises(ConfigError, match="sets steps to 6000, but 100 was asked for; leave steps"):
        with_preset("dtc-la", config, {"steps"})
    assert with_preset("dtc-la", config, {"seed"}).steps == 6000
    same = TrainConfig(steps=6000, minutes=None)
    assert with_preset("dtc-la", same, {"steps"}).steps == 6000


def test_settings_that_left_the_preset_are_refused(found: Survey) -> None:
    config = replace(with_preset("dtc-la", TrainConfig()), batch_size=8)
    with pytest.raises(ConfigError, match="sets batch_size to 2, but 8 was"):
        require_preset(config, found, processes=1)


def test_without_a_preset_nothing_is_required(found: Survey) -> None:
    require_preset(TrainConfig(), replace(found, classes=(0, 1, 2)), processes=8)


def test_a_preset_is_refused_where_it_cannot_hold(found: Survey) -> None:
    config = with_preset("dtc-la", TrainConfig())
    require_preset(config, found, processes=1)
    with pytest.raises(ConfigError, match="2 processes would make 8 of them"):
        require_preset(config, found, processes=2)
    with pytest.raises(ConfigError, match="for one structure, and 2 are drawn"):
        require_preset(config, replace(found, classes=(0, 1, 2)), processes=1)
    annotated = replace(found, train=found.train[:1])
    with pytest.raises(ConfigError, match="half of its patches from scans without labels"):
        require_preset(config, annotated, processes=1)


def test_training_refuses_before_it_begins(phantom_study: Make) -> None:
    study = phantom_study(annotated=1)
    with pytest.raises(SemiSegError, match="for one structure, and 2 are drawn"):
        train(study, with_preset("dtc-la", TrainConfig(device="cpu")))


def test_memory_may_not_make_published_patches_smaller(tmp_path: Path) -> None:
    plan = Plan(
        spacing_mm_zyx=(1.0, 1.0, 1.0),
        patch_zyx=(64, 64, 64),
        n_labelled=2,
        n_unlabelled=2,
        network=SPEC,
        device="cpu",
    )
    settings = RunSettings(
        name="train",
        method="dtc",
        learning_rate=0.01,
        seed=0,
        checkpoint=tmp_path / "run.safetensors",
        checkpoint_every_s=20.0,
        checkpoint_every_steps=None,
        preset="dtc-la",
    )
    run = object.__new__(Run)
    run.settings = settings
    run.state = type("Kept", (), {"plan": plan})()  # type: ignore[assignment]
    with pytest.raises(DeviceError, match="patches that the preset 'dtc-la' prescribes"):
        run._shrink()
    assert run.plan.smaller() is not None


class Asked:
    """Stands in for the trainer."""

    config: TrainConfig

    def __call__(self, study: Study, config: TrainConfig, *_: object, **__: object) -> int:
        self.config = config
        return 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    stand_in = Asked()
    monkeypatch.setattr("semiseg.trainer.train", stand_in)
    return stand_in


def test_the_command_takes_a_preset(asked: Asked, phantom_study: Make) -> None:
    folder = str(phantom_study().folder)
    assert app.run(["train", folder, "--preset", "dtc-la", "--seed", "4"]) == 0
    assert asked.config == with_preset("dtc-la", TrainConfig(seed=4))


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        (["--minutes", "5"], "minutes to None, but 5.0"),
        (["--method", "supervised"], "method to dtc+optimizer=sgd, but supervised"),
        (["--spacing", "2"], "spacing_mm to 0.2, but 2.0"),
    ],
)
def test_the_command_refuses_what_the_preset_forbids(
    asked: Asked,
    phantom_study: Make,
    capfd: pytest.CaptureFixture[str],
    flags: list[str],
    setting: str,
) -> None:
    folder = str(phantom_study().folder)
    assert app.run(["train", folder, "--preset", "dtc-la", *flags]) != 0
    assert setting in " ".join(capfd.readouterr().err.split())


def test_an_unknown_method_is_told_of_auto_too() -> None:
    with pytest.raises(ConfigError, match="choose one of auto, supervised"):
        method_class("magic")
