"""One training run: steps until the time or their number is up, checkpoints, out of memory."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from semiseg.clock import ClockName, clock
from semiseg.data.cases import TrainingCase
from semiseg.data.greys import GreyRange
from semiseg.data.sampler import Sampler, SamplerSettings
from semiseg.data.spatial import SpatialRange
from semiseg.devices import is_out_of_memory, release_memory
from semiseg.errors import DeviceError, SemiSegError
from semiseg.events import Emit, Event, Json
from semiseg.group import ALONE, Group
from semiseg.learning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from semiseg.learning.framing import Framing
from semiseg.learning.learner import Learner
from semiseg.learning.plan import Plan
from semiseg.learning.start import Start
from semiseg.methods.base import MethodSettings

_REPORT_EVERY_S = 0.5
_HISTORY_POINTS = 500
_SAVING_SHARE = 0.05
_SEED_STRIDE = 1_000_003
_SPARING_FROM, _SPARING_EVERY = 0.3, 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A run ends after so many seconds of its own, or steps, whichever comes first."""

    seconds: float | None
    steps: int | None

    def progress(self, elapsed_s: float, step: int) -> float:
        """The share that is used up, in [0, 1]."""
        by_time = elapsed_s / self.seconds if self.seconds else 0.0
        by_steps = step / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_steps))


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What makes one run: `name` is told in events, `checkpoint` is its file.

    `sparing`: unlabelled samples in every fourth step only, and in none before 30 % of the run,
    when the weights of what is learned from them are small anyway. `group`: the processes that
    take every step together. `preset`: the published protocol from which memory may not depart.
    """

    name: str
    method: str
    learning_rate: float
    seed: int
    checkpoint: Path
    checkpoint_every_s: float
    checkpoint_every_steps: int | None
    sparing: bool = False
    bridging: bool = False
    group: Group = ALONE
    start: Start | None = None
    framing: Framing | None = None
    clock: ClockName = "wall"
    preset: str | None = None


@dataclass
class State:
    """How far a run has come; kept in its checkpoints."""

    plan: Plan
    elapsed_s: float = 0.0
    history: list[dict[str, Json]] = field(default_factory=list)


class Pace:
    """Steps per second over the last reports."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque(maxlen=20)

    def mark(self, step: int, elapsed_s: float) -> None:
        """`step` was reached after `elapsed_s`."""
        self._marks.append((step, elapsed_s))

    @property
    def steps_per_s(self) -> float | None:
        """None until two reports are apart."""
        if len(self._marks) < 2:
            return None
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        return round((last - first) / (end - start), 4) if end > start else None


class Run:
    """Trains one learner; goes on from its checkpoint where there is one.

    Set `budget` before `train`. `after_step` is called after each step.
    """

    def __init__(
        self,
        settings: RunSettings,
        plan: Plan,
        cases: Sequence[TrainingCase],
        emit: Emit,
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.budget = Budget(seconds=None, steps=None)
        self.cases = list(cases)
        self.after_step: Callable[[], None] = lambda: None
        self._emit, self._on_save = emit, on_save
        self._clock = clock(settings.clock)
        self._since = self._clock()
        self._last_save = self._last_report = time.monotonic()
        self._save_s = 0.0
        self._losses: list[torch.Tensor] = []
        self._last_noted = 0.0
        self._pace = Pace()
        saved = load_checkpoint(settings.checkpoint)
        self.state = State(plan=plan) if saved is None else _state(saved)
        self.learner = self._learner()
        self._hold()
        if saved is not None:
            self.learner.restore(saved, int(saved.values["step"]))
            self._say(f"going on at step {self.learner.step} of an unfinished training")
        self._sampler = self._new_sampler()

    @property
    def plan(self) -> Plan:
        """The plan, as small as memory made it."""
        return self.state.plan

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before a kill included."""
        return self.state.elapsed_s + self._clock() - self._since

    @property
    def progress(self) -> float:
        """The share of the budget that is used up."""
        return self.budget.progress(self.elapsed_s, self.learner.step)

    def train(self, until: float = 1.0) -> None:
        """Step until `until` of the budget is used up, then save."""
        group = self.settings.group
        while (progress := group.agreed(self.progress)) < until:
            try:
                loss = self._step(progress)
            except (RuntimeError, MemoryError) as error:
                # In a group the others wait for this step's gradients, so it cannot be repeated.
                if not is_out_of_memory(error) or group.size > 1:
                    raise
                loss = None
            # Outside the handler: the error's frames no longer hold the tensors.
            if loss is None:
                self._shrink()
                continue
            self._losses.append(loss)
            self._report(final=False)
            self.after_step()
            if self._save_is_due():
                self.save()
        self._report(final=True)
        self.save()

    def replace_cases(self, cases: Sequence[TrainingCase]) -> None:
        """Learn from other supervision from the next step on."""
        self.cases = list(cases)
        self._hold()
        self._sampler = self._new_sampler()

    def _hold(self) -> None:
        """The method gets the atlases among the cases, where it needs some."""
        if self.settings.framing is not None:
            framed = self.settings.framing.framed(self.cases)
            self.learner.hold(framed.frame, framed.atlases)

    def note(self, **values: Json) -> None:
        """Add figures of this step to the history."""
        entry: dict[str, Json] = {"step": self.learner.step, "seconds": round(self.elapsed_s, 2)}
        self.state.history.append({**entry, **values})

    def save(self) -> None:
        """Write the checkpoint."""
        start = time.monotonic()
        values = {
            "step": self.learner.step,
            "elapsed_s": self.elapsed_s,
            "history": self.state.history,
            "plan": self.plan.to_json(),
        }
        checkpoint = Checkpoint(tensors=self.learner.tensors(), values=values)
        save_checkpoint(self.settings.checkpoint, checkpoint)
        self._on_save()
        self._last_save = time.monotonic()
        self._save_s = self._last_save - start

    def _learner(self) -> Learner:
        settings = MethodSettings(
            network=self.plan.network,
            learning_rate=self.settings.learning_rate,
            sparing=self.settings.sparing,
            bridging=self.settings.bridging,
            streams=self.plan.streams,
            labelled=Counter(case.modality for case in self.cases if case.labelled),
        )
        device = torch.device(self.plan.device)
        return Learner(
            self.settings.method,
            settings,
            device,
            seed=self.settings.seed,
            start=self.settings.start,
            group=self.settings.group,
        )

    def _new_sampler(self) -> Sampler:
        plan = self.plan
        settings = SamplerSettings(
            patch_zyx=plan.patch_zyx,
            n_labelled=plan.n_labelled,
            n_unlabelled=plan.n_unlabelled,
            n_classes=plan.network.n_classes,
            spacing_mm_zyx=plan.spacing_mm_zyx,
            seed=self.settings.seed + _SEED_STRIDE * self.settings.group.rank,
            spatial=None if plan.whole else SpatialRange(),
            greys=None if plan.whole else GreyRange(),
            level_sets=self.learner.method.uses_level_sets,
            places=self.learner.method.uses_places,
            within_slices=plan.network.within_slices,
            streams=plan.streams,
            modalities_in_turn=self.learner.method.uses_modalities,
            plain_images=self.learner.method.uses_plain,
        )
        return Sampler(self.cases, settings, torch.device(plan.device))

    def _step(self, progress: float) -> torch.Tensor:
        step = self.learner.step
        late = progress >= _SPARING_FROM and step % _SPARING_EVERY == 0
        batch = self._sampler.batch(step, unlabelled=late or not self.settings.sparing)
        return self.learner.learn(batch, progress)

    def _shrink(self) -> None:
        """The next smaller plan, from the same weights; DeviceError when there is none."""
        before, after = self.plan, self.plan.smaller()
        if self.settings.preset is not None:
            raise DeviceError(
                f"out of memory with the patches that the preset {self.settings.preset!r} "
                "prescribes; train on a device with more memory, or without the preset"
            )
        if after is None:
            raise DeviceError(
                "out of memory even with the smallest patches on the CPU; close other programs, "
                "or train with a larger spacing"
            )
        self.state.plan = after
        if after.device != before.device:
            self.learner.move(torch.device(after.device))
        release_memory(torch.device(before.device))
        self._sampler = self._new_sampler()
        self._pace = Pace()
        self._say(f"out of memory at step {self.learner.step}; going on with {_words(after)}")

    def _save_is_due(self) -> bool:
        every = self.settings.checkpoint_every_steps
        if every is not None and self.learner.step % every == 0:
            return True
        # Large networks take long to write; that must not eat the time to learn.
        pause = max(self.settings.checkpoint_every_s, self._save_s / _SAVING_SHARE)
        return time.monotonic() - self._last_save >= pause

    def _report(self, *, final: bool) -> None:
        now = time.monotonic()
        if not self._losses or (not final and now - self._last_report < _REPORT_EVERY_S):
            return
        loss = float(torch.stack(self._losses).mean())
        if not math.isfinite(loss):
            raise SemiSegError(
                f"the training loss is not a number at step {self.learner.step}; train with a "
                "smaller learning rate"
            )
        self._losses.clear()
        self._last_report = now
        self._pace.mark(self.learner.step, self.elapsed_s)
        figures: dict[str, Json] = {
            "loss": round(loss, 5),
            "progress": round(self.progress, 4),
            "steps_per_s": self._pace.steps_per_s,
            "seconds_left": self.seconds_left(),
        }
        if final or self.progress - self._last_noted >= 1 / _HISTORY_POINTS:
            self._last_noted = self.progress
            self.note(loss=figures["loss"])
        self.tell("", figures)

    def seconds_left(self) -> float | None:
        """Until the budget is used up; None while the pace is not known."""
        budget, left = self.budget, []
        if budget.seconds:
            left.append(budget.seconds - self.elapsed_s)
        if budget.steps and self._pace.steps_per_s:
            left.append((budget.steps - self.learner.step) / self._pace.steps_per_s)
        return max(0.0, min(left)) if left else None

    def _say(self, message: str) -> None:
        self.tell(message, {})

    def tell(self, message: str, data: Mapping[str, Json]) -> None:
        """An event of this run, with its step and the steps that it will have."""
        steps = self.budget.steps
        total = steps or round(self.learner.step / max(self.progress, 1e-6))
        self._emit(
            Event(
                kind="progress",
                phase=self.settings.name,
                step=self.learner.step,
                total=total,
                message=message,
                data=data,
            )
        )


def _state(saved: Checkpoint) -> State:
    return State(
        plan=Plan.from_json(saved.values["plan"]),
        elapsed_s=float(saved.values["elapsed_s"]),
        history=list(saved.values["history"]),
    )


def _words(plan: Plan) -> str:
    patch = " x ".join(map(str, plan.patch_zyx))
    samples = plan.n_labelled + plan.n_unlabelled
    return f"{samples} patches of {patch} voxels on {plan.device}"
