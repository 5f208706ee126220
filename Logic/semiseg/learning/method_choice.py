"""Which method to learn with, when nobody says: a table of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from semiseg.config import MODALITIES, TrainConfig
from semiseg.errors import ConfigError
from semiseg.events import Emit, Event
from semiseg.learning.survey import Survey
from semiseg.methods.base import method_class

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a choice may depend on; numbers of training scans.

    `drawn` have slices that a human finished, `carried` only propagated labels, `blank` none.
    `minutes` is None where a number of steps ends the training.
    """

    drawn: int
    carried: int
    blank: int
    modalities: int
    device: str
    minutes: float | None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`method` where `holds`, and `why` in words that a user can check."""

    method: str
    holds: Callable[[Situation], bool]
    why: str


RULES: Sequence[Rule] = (
    Rule(
        method="supervised",
        holds=lambda found: found.blank + found.carried == 0,
        why="every training scan is annotated, so other methods have nothing to add",
    ),
    # Testing/benchmarks/methods.py hippocampus --labelled 4 --minutes 1.5 --seeds 2, one thread;
    # Testing/benchmarks/method_speed.py. After as many steps the mean teacher was level.
    Rule(
        method="supervised",
        holds=lambda found: found.device == "cpu",
        why=(
            "on a CPU the cost of a step decides: other methods need two to seven times as long "
            "for one and were well behind after the same time"
        ),
    ),
    Rule(
        method="supervised",
        holds=lambda _: True,
        why="no other method has been measured to be better in a case like this one",
    ),
)
"""The first that holds is taken. A rule needs figures of our own; published ones do not count."""


def situation(found: Survey, config: TrainConfig, device: str) -> Situation:
    """`found` in numbers."""
    drawn = sum(bool(facts.human_ids) for facts in found.train)
    labelled = sum(facts.labelled for facts in found.train)
    return Situation(
        drawn=drawn,
        carried=labelled - drawn,
        blank=len(found.train) - labelled,
        modalities=len({facts.modality for facts in found.train}),
        device=device,
        minutes=config.minutes,
    )


def choose_method(found: Situation) -> Rule:
    """The first rule of the table that holds."""
    return next(rule for rule in RULES if rule.holds(found))


def settled(
    config: TrainConfig, found: Survey, device: str, emit: Emit
) -> tuple[TrainConfig, str | None]:
    """The settings with a method's name in place of "auto", and why that one; None if asked for.

    ConfigError where the method that is asked for cannot learn from what there is.
    """
    if config.method != AUTO:
        _require_both(config.method, found)
        return config, None
    here = situation(found, config, device)
    rule = choose_method(here)
    counts = f"{here.drawn} annotated, {here.carried} propagated, {here.blank} blank scans"
    why = f"{rule.why} ({counts}, {device})"
    message = f"method {rule.method}: {why}"
    data = {"method": rule.method, "why": why}
    emit(Event(kind="progress", phase="prepare", message=message, data=data))
    return replace(config, method=rule.method), why


def spared(config: TrainConfig, device: str, emit: Emit) -> TrainConfig:
    """The settings with `sparing` decided: it is where the time of a CPU ends the training.

    Else most of a short time goes into unlabelled samples, which weigh little yet or repeat what
    an untrained network says. Methods with `spares` were better for it on patients of the pool:
    Testing/benchmarks/methods.py acdc --rehearsal --labelled 3 --minutes 0.75.
    """
    if config.sparing is not None:
        return config
    wanted = device == "cpu" and config.minutes is not None and method_class(config.method).spares
    if wanted:
        message = (
            f"unlabelled scans are learned from in every fourth step and not in the first third, "
            f"which serves {config.method} better in a short time on a CPU (--no-sparing: always)"
        )
        emit(Event(kind="progress", phase="prepare", message=message))
    return replace(config, sparing=wanted)


def _require_both(method: str, found: Survey) -> None:
    """ConfigError where `method` needs CT and MR and one of them is missing."""
    there = {facts.modality for facts in found.train}
    if method_class(method).needs_both and len(there) == 1:
        missing = next(modality for modality in MODALITIES if modality not in there)
        raise ConfigError(
            f"the method {method!r} learns from CT and MR together, and all {len(found.train)} "
            f"training scans are {there.pop()}; add {missing} scans (they need no labels), or "
            "choose another method"
        )
