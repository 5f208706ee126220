"""The method that is chosen when nobody says, and the reason that is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from semiseg.config import TrainConfig
from semiseg.events import Event, ignore
from semiseg.learning.method_choice import (
    RULES,
    Situation,
    choose_method,
    settled,
    situation,
    spared,
)
from semiseg.learning.survey import survey
from semiseg.methods.base import method_names
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]


def here(**changes: Any) -> Situation:
    plain = {"drawn": 4, "carried": 0, "blank": 44, "modalities": 1, "device": "cpu", "minutes": 2}
    return Situation(**{**plain, **changes})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (here(blank=0), "nothing to add"),
        (here(), "cost of a step"),
        (here(carried=44, blank=0), "cost of a step"),
        (here(device="cuda"), "has been measured"),
    ],
)
def test_what_was_measured_decides(found: Situation, words: str) -> None:
    rule = choose_method(found)
    assert rule.method == "supervised"
    assert words in rule.why


def test_every_rule_names_a_method_that_there_is_and_the_last_one_always_holds() -> None:
    assert {rule.method for rule in RULES} <= set(method_names())
    assert RULES[-1].holds(here(drawn=0, blank=0, device="tpu", minutes=None))


def test_the_situation_counts_scans(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR", "CT"), annotated=1)
    found = situation(survey(study, use_propagated=True), TrainConfig(minutes=3), "cpu")
    assert found == here(drawn=1, blank=2, modalities=2, minutes=3)


def test_a_method_that_is_asked_for_is_taken(phantom_study: Make) -> None:
    config = TrainConfig(method="dtc")
    found = survey(phantom_study(), use_propagated=True)
    assert settled(config, found, "cpu", ignore) == (config, None)


def test_event_and_model_say_which_method_and_why(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), annotated=1)
    said: list[Event] = []
    config = TrainConfig(
        method="auto", minutes=None, steps=1, patch=(16,) * 3, validation="none", device="cpu"
    )
    info: Any = study.model(train(study, config, said.append)).info
    event = next(e for e in said if "method" in e.data)
    assert event.phase == "prepare"
    assert event.data["method"] == info["method"] == info["settings"]["method"] == "supervised"
    assert event.data["why"] == info["method_chosen_because"]
    assert "1 annotated, 0 propagated, 1 blank scans, cpu" in info["method_chosen_because"]
    asked: Any = study.model(train(study, TrainConfig(**{**vars(config), "method": "bcp"}))).info
    assert asked["method_chosen_because"] is None


def test_a_short_training_on_a_cpu_spares_where_that_was_measured_to_be_better() -> None:
    said: list[Event] = []
    teacher = TrainConfig(method="mean_teacher", minutes=2)
    assert spared(teacher, "cpu", said.append).sparing is True
    assert "every fourth step" in said[0].message
    others = [
        (teacher, "cuda"),
        (replace(teacher, minutes=None, steps=100), "cpu"),
        (replace(teacher, method="cmedl"), "cpu"),
    ]
    for config, device in others:
        assert spared(config, device, said.append).sparing is False
    assert len(said) == 1


@pytest.mark.parametrize("wish", [True, False])
def test_what_was_asked_for_is_kept(wish: bool) -> None:
    config = TrainConfig(method="mean_teacher", sparing=wish)
    assert spared(config, "cpu", ignore) is config
