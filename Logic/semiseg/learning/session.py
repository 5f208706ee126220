"""A training from survey to finished weights, in a folder from which it can go on after a kill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from semiseg.clock import clock
from semiseg.config import TrainConfig
from semiseg.data.cases import TrainingCase, case_supervision, load_training_case
from semiseg.data.companions import streams_of, with_companions
from semiseg.data.supervision import Line, Wanted
from semiseg.errors import SchemaError
from semiseg.events import Emit, Event, Json
from semiseg.group import ALONE, Group
from semiseg.learning.atlas_warps import atlas_warps
from semiseg.learning.calibration import Samples, joined
from semiseg.learning.framing import Framing, require_no_sizes
from semiseg.learning.honest import HARDLY_LEARNED, Growth, with_intervals
from semiseg.learning.places import Correspondence
from semiseg.learning.plan import Plan, make_plan
from semiseg.learning.preview import Preview, Watched
from semiseg.learning.run import Budget, Run, RunSettings
from semiseg.learning.scheme import Fold, Scheme, choose_scheme
from semiseg.learning.scoring import Score, score
from semiseg.learning.speed import voxels_per_s
from semiseg.learning.stand_ins import stand_ins
from semiseg.learning.start import Start
from semiseg.learning.survey import Survey
from semiseg.methods.base import method_class
from semiseg.study.storage import make_folder, read_json, write_json_atomic
from semiseg.study.study import Study

_EXTRA_SHARE = 1 / 2  # of the time, for leave-one-out: what is trained much less tells too little
_LOOK_SHARE = 0.1  # of a fold's time, for looking at it after half of it
_HIDDEN_UNTIL = 0.6
_SCORED_AT = (0.25, 0.5, 0.75, 1.0)
_SCORING_SHARE = 0.04
_SAVING_S = 1.0
_NOTHING_HIDDEN: frozenset[Line] = frozenset()


class Session:
    """What is decided once and kept in `folder`/run.json: plan, time spent, scores."""

    def __init__(
        self,
        study: Study,
        config: TrainConfig,
        found: Survey,
        folder: Path,
        emit: Emit,
        start: Start | None = None,
    ) -> None:
        self.group: Group = ALONE  # set before `prepare`
        self.watched: Watched | None = None
        self._begin = start
        self.study, self.config, self.found = study, config, found
        self._folder, self._emit = folder, emit
        self._method = method_class(config.method)
        self._clock = clock(config.clock)
        self._start = self._clock()
        self._images: dict[str, TrainingCase] = {}
        self._device_type = "cpu"
        self._stand_ins: set[str] = set()
        self.scheme: Scheme = choose_scheme(study, found, config)
        self._record: dict[str, Any] = {"spent_s": 0.0, "plan": None, "folds": {}, "score": None}
        self._record |= {"calibrations": {}, "early": {}, "look_s": 0.0}
        make_folder(folder)
        if self._file.exists():
            self._resume()

    @property
    def spent_s(self) -> float:
        """Seconds spent on this training, those before a kill included."""
        return float(self._record["spent_s"]) + self._clock() - self._start

    @property
    def score(self) -> Mapping[str, Json] | None:
        """The validation's figures, as `Score.to_json` gives them."""
        found: Mapping[str, Json] | None = self._record["score"]
        return found

    @property
    def calibration(self) -> Mapping[str, Json] | None:
        """How sure the model may be, see `learning.calibration`; None without validation.

        Trainings of leave-one-out are short, and what is trained less is less too sure of itself:
        from them nothing is taken that would make the model surer, and nothing at all while they
        hardly learned: there a temperature of 12 was fitted that spoiled a model of Dice .66.
        """
        dice = cast("float | None", (self.score or {}).get("dice")) or 0.0
        if self.scheme.folds and dice < HARDLY_LEARNED:
            return None
        found = joined(list(self._record["calibrations"].values()))
        if found is not None and self.scheme.folds:
            found["temperature"] = max(1.0, cast(float, found["temperature"]))
        return found

    @property
    def summaries(self) -> list[dict[str, Json]]:
        """The score per modality and structure, with the interval of new patients."""
        if self.score is None:
            return []
        growth = self._growth if self.scheme.folds else None
        return with_intervals(self.scheme.kind, self.score, self.study.cases, growth)

    def prepare(self, device: torch.device, start_s: float) -> None:
        """Decide on a plan, unless one was made before; time counts from clock `start_s` on."""
        self._start = start_s
        self._device_type = device.type
        if self._record["plan"] is None:
            self._record["plan"] = self.group.agreed(self._new_plan(device).to_json())
            self._save()
        self._say(self.plan.in_words(self.scheme.text), {"plan": self._record["plan"]})

    @property
    def plan(self) -> Plan:
        """Spacing, patch, batch and network."""
        return Plan.from_json(self._record["plan"])

    def score_folds(self) -> None:
        """The extra trainings of leave-one-out, each from the start."""
        for number, fold in enumerate(self.scheme.folds):
            if fold.name not in self._record["folds"]:
                rows = self._score_fold(number, fold)
                self._record["folds"][fold.name] = {case: dict(row) for case, row in rows.items()}
                self._save()
        if self.scheme.folds:
            rows = {}
            for kept in self._record["folds"].values():
                rows |= {case: {int(i): v for i, v in row.items()} for case, row in kept.items()}
            found = Score(dice=rows)
            self._keep_score(found, step=0)
            self._say(found.in_words, found.figures, phase="train")

    def final_run(self) -> Run:
        """Train the model that is kept."""
        hidden = self.scheme.hidden if self._record["score"] is None else {}
        run = self._run("train", "final", self.config.seed, self._cases(hidden=hidden))
        run.budget = self._final_budget(run)
        if self.watched is not None and self.plan.whole:
            self._say("there is no preview: this method looks at whole scans only", {})
        elif self.watched is not None:
            run.after_step = self._preview(run, self.watched).after_step
        if self.scheme.kind == "slices" and self._record["score"] is None:
            run.train(until=_HIDDEN_UNTIL)
            self._score_run(run, self._hidden_cases())
            run.replace_cases(self._cases(hidden={}))
        if self.scheme.kind == "split":
            self._train_and_score(run)
        else:
            run.train()
        return run

    def _preview(self, run: Run, watched: Watched) -> Preview:
        wanted = Wanted(classes=self.found.classes, use_propagated=False)
        return Preview(watched, self._case(watched.case_id, wanted), run, self.found.classes)

    def _train_and_score(self, run: Run) -> None:
        cases = [self._truth(facts.id, None) for facts in self.found.validation]
        for point in _SCORED_AT:
            if point <= self._record.get("scored_at", 0.0):
                continue
            cheap = self._record.get("score_s", 0.0) <= _SCORING_SHARE * (self._total_s or math.inf)
            if point < 1.0 and not self.group.agreed(cheap):
                continue
            run.train(until=point)
            self._score_run(run, cases)
            self._record["scored_at"] = point
            self._save()
            run.budget = self._final_budget(run)

    def _score_fold(self, number: int, fold: Fold) -> Mapping[str, Mapping[int, float]]:
        share = _EXTRA_SHARE / len(self.scheme.folds)
        steps = None if self.config.steps is None else math.ceil(self.config.steps * share)
        seconds = None if self._total_s is None else self._total_s * share
        cases = [case for case in self._cases(hidden={}) if case.id not in fold.left_out]
        run = self._run("validate", f"fold{number}", self.config.seed, cases)
        run.budget = Budget(seconds=seconds, steps=steps)
        truth = [self._truth(case_id, None) for case_id in sorted(fold.left_out)]
        cheap = self._record["look_s"] <= _LOOK_SHARE * (seconds or math.inf)
        if self.group.agreed(cheap):
            self._look_at(run, truth, fold.name)
        run.train()
        return self._scored(run, truth, fold.name).dice

    def _look_at(self, run: Run, truth: Sequence[TrainingCase], name: str) -> None:
        """Score a fold after half of its time, which it gets back."""
        run.train(until=0.5)
        if name not in self._record["early"]:
            start = self._clock()
            with run.learner.averaged() as method:
                found = score(method, run.plan, truth, self.found.classes)
            self._record["early"][name] = found.mean
            self._record["look_s"] = self._clock() - start
            self._save()
        if run.budget.seconds is not None:
            longer = run.budget.seconds + self._record["look_s"]
            run.budget = Budget(seconds=longer, steps=run.budget.steps)

    @property
    def _growth(self) -> Growth:
        final = 1.0 if self._total_s is None else 1 - _EXTRA_SHARE
        times = final * len(self.scheme.folds) / _EXTRA_SHARE
        return Growth.of(self._record["early"], self._record["folds"], times)

    def _score_run(self, run: Run, cases: Sequence[TrainingCase]) -> None:
        start = self._clock()
        found = self._scored(run, cases, "final")
        self._record["score_s"] = self._clock() - start
        run.note(validation_dice=found.mean)
        self._keep_score(found, step=run.learner.step)
        run.tell(found.in_words, {**found.figures, "seconds_left": run.seconds_left()})

    def _scored(self, run: Run, cases: Sequence[TrainingCase], name: str) -> Score:
        """The run's score, from whose probabilities its calibration is kept, too."""
        samples = Samples(self.found.classes, seed=self.config.seed)
        with run.learner.averaged() as method:
            found = score(method, run.plan, cases, self.found.classes, samples.add)
        calibration = samples.calibration()
        if calibration is not None:
            self._record["calibrations"][name] = calibration.to_json()
        return found

    def _keep_score(self, found: Score, *, step: int) -> None:
        self._record["score"] = {**found.to_json(), "step": step}
        self._save()

    def _run(self, phase: str, name: str, seed: int, cases: Sequence[TrainingCase]) -> Run:
        settings = RunSettings(
            name=phase,
            method=self.config.method,
            learning_rate=self.config.learning_rate,
            seed=seed,
            checkpoint=self._folder / f"{name}.safetensors",
            checkpoint_every_s=self.config.checkpoint_every_s,
            checkpoint_every_steps=self.config.checkpoint_every_steps,
            sparing=bool(self.config.sparing),
            bridging=self.config.bridging,
            start=self._begin,
            framing=self._framing if self.plan.whole else None,
            clock=self.config.clock,
            preset=self.config.preset,
            group=self.group,
        )
        return Run(settings, self.plan, cases, self._emit, on_save=self._save)

    @property
    def _total_s(self) -> float | None:
        return None if self.config.minutes is None else self.config.minutes * 60

    def _final_budget(self, run: Run) -> Budget:
        """What is left of the time, less what scoring and saving will take."""
        if self._total_s is None:
            return Budget(seconds=None, steps=self.config.steps)
        after = _SAVING_S
        if self.scheme.kind == "split" and self._record.get("scored_at", 0.0) < 1.0:
            after += self._record.get("score_s", 0.02 * self._total_s)
        left = self._total_s - self.spent_s - after
        return Budget(seconds=max(run.elapsed_s + left, 1e-3), steps=self.config.steps)

    def _new_plan(self, device: torch.device) -> Plan:
        return replace(self._sized_plan(device), streams=self._streams)

    @property
    def _streams(self) -> tuple[str, ...]:
        """The kinds of volumes in the training cases, where the method looks at them."""
        if not self._method.uses_companions:
            return ()
        return streams_of(self.study.cases[facts.id] for facts in self.found.train)

    def _sized_plan(self, device: torch.device) -> Plan:
        if self._method.uses_frame:
            require_no_sizes(self.config)
            return self._framing.plan
        unlabelled = self._wants_unlabelled
        plan = make_plan(self.found, self.config, device.type, uses_unlabelled=unlabelled)
        if self._begin is not None:
            return self._begin.plan(plan, self.config)
        if self.config.minutes is None:
            return plan
        plan = replace(plan, streams=self._streams)
        speed = voxels_per_s(self.config.method, plan, self._clock)
        return make_plan(
            self.found,
            self.config,
            device.type,
            voxels_per_s=speed,
            uses_unlabelled=unlabelled,
        )

    @property
    def _wants_unlabelled(self) -> bool:
        """Whether batches hold unlabelled samples; some methods have use for none."""
        carried_are_enough = self._method.learns_from_carried
        return self._method.uses_unlabelled and not (
            carried_are_enough and all(facts.labelled for facts in self.found.train)
        )

    def _cases(self, *, hidden: Mapping[str, frozenset[Line]]) -> list[TrainingCase]:
        """The training cases with what is known of them but for `hidden` slices."""
        cases = []
        for facts in self.found.train:
            if facts.labelled or self._method.uses_unlabelled:
                wanted = Wanted(
                    classes=self.found.classes,
                    use_propagated=self.config.use_propagated,
                    hidden=hidden.get(facts.id, _NOTHING_HIDDEN),
                )
                case = self._accompanied(self._placed(self._case(facts.id, wanted)))
                case = self._framed(self._warped(case) if case.labelled else case)
                cases.append(case)
        return cases

    def _placed(self, case: TrainingCase) -> TrainingCase:
        """The case with its places in the reference case, where the method asks for them."""
        if not self._method.uses_places or case.places is not None:
            return case
        places = self._correspondence.of(case.id, case.image.grid)
        self._images[case.id] = replace(case, places=places)
        return self._images[case.id]

    def _accompanied(self, case: TrainingCase) -> TrainingCase:
        """The case with scans that stand in for missing modalities, where the method asks."""
        if not self.plan.streams or case.id in self._stand_ins:
            return case
        self._stand_ins.add(case.id)
        others = stand_ins(self.study, self.found, self._correspondence, case)
        self._images[case.id] = replace(case, companions=(*case.companions, *others))
        return self._images[case.id]

    def _warped(self, case: TrainingCase) -> TrainingCase:
        """The case with the ways to other training cases, where they are asked for."""
        if not self.config.atlas_warps or case.warps is not None:
            return case
        others = [facts.id for facts in self.found.train if facts.patient != case.patient]
        grid, seed = case.image.grid, self.config.seed
        warps = atlas_warps(self._correspondence, case.id, grid, others, seed)
        self._images[case.id] = replace(case, warps=warps)
        return self._images[case.id]

    def _framed(self, case: TrainingCase) -> TrainingCase:
        """The case on the common frame, where the method asks for it."""
        return self._framing.placed(case) if self.plan.whole else case

    @cached_property
    def _framing(self) -> Framing:
        return Framing(self.study, self.found, self._device_type, self._emit)

    @cached_property
    def _correspondence(self) -> Correspondence:
        return Correspondence(self.study, self.found, self.config.minutes, self._emit)

    def _hidden_cases(self) -> list[TrainingCase]:
        return [self._truth(case_id, lines) for case_id, lines in self.scheme.hidden.items()]

    def _truth(self, case_id: str, only: frozenset[Line] | None) -> TrainingCase:
        """A case with what humans said of it."""
        wanted = Wanted(classes=self.found.classes, use_propagated=False, only=only)
        return self._framed(self._case(case_id, wanted))

    def _case(self, case_id: str, wanted: Wanted) -> TrainingCase:
        """The image is read once; the label anew for each wish."""
        seen = self._images.get(case_id)
        if seen is None:
            seen = load_training_case(
                self.study, self.study.cases[case_id], self.plan.spacing_mm_zyx, wanted
            )
            seen = with_companions(self.study, seen, self.plan.streams)
            self._images[case_id] = seen
            return seen
        return replace(seen, supervision=case_supervision(self.study, case_id, seen.image, wanted))

    @property
    def _file(self) -> Path:
        return self._folder / "run.json"

    def _resume(self) -> None:
        try:
            self._record |= cast("dict[str, Any]", read_json(self._file))
        except SchemaError as error:
            self._say(f"the unfinished training is not used: {error}", {})
            for path in self._folder.glob("*.safetensors"):
                path.unlink()

    def _save(self) -> None:
        write_json_atomic(self._file, {**self._record, "spent_s": self.spent_s})

    def _say(self, message: str, data: dict[str, Json], phase: str = "prepare") -> None:
        self._emit(Event(kind="progress", phase=phase, message=message, data=data))
