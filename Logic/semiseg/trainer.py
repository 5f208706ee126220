"""Learning a model from a study, within a time, so that a kill costs seconds at most."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

from semiseg import __version__
from semiseg.clock import clock
from semiseg.config import MODALITIES, TrainConfig, to_json
from semiseg.devices import choose_device, set_threads
from semiseg.events import Emit, Json, ignore
from semiseg.group import ALONE, Group
from semiseg.images.intensity import NORMALISATION
from semiseg.learning.method_choice import settled, spared
from semiseg.learning.presets import require_preset
from semiseg.learning.preview import Watched
from semiseg.learning.run import Run
from semiseg.learning.scoring import unseen_dice
from semiseg.learning.session import Session
from semiseg.learning.start import Start, read_start
from semiseg.learning.survey import Survey, survey
from semiseg.models import WEIGHTS
from semiseg.resources import usable_threads
from semiseg.study.storage import write_bytes_atomic
from semiseg.study.study import Study

_FORMAT = 1
_NOT_IN_KEY = ("checkpoint_every_s", "checkpoint_every_steps")


def train(
    study: Study,
    config: TrainConfig,
    emit: Emit = ignore,
    *,
    resume: bool = True,
    group: Group = ALONE,
    watched: Watched | None = None,
) -> int:
    """Learn from the study's training cases; the id of the new model.

    The method "auto" is settled here; an event of phase "prepare" and model.json say why.
    Goes on with an unfinished run of the same settings on the same labels, unless `resume` is
    off. With a `group` all its processes call this; the first one reports and writes for all.
    A `watched` slice is segmented anew now and then, see `learning.preview`; StudyError where the
    study has none such.
    Events of phase "train" carry loss, steps_per_s, seconds_left and validation_dice.
    NotEnoughLabelsError, ConfigError, DeviceError and StorageError say what is missing.
    """
    start = clock(config.clock)()
    if watched is not None:
        watched.check(study)
    emit = emit if group.first else ignore
    set_threads(min(torch.get_num_threads(), usable_threads()))
    device = choose_device(config.device, emit)
    found = survey(study, use_propagated=config.use_propagated)
    config, why = settled(config, found, device.type, emit)
    config = spared(config, device.type, emit)
    require_preset(config, found, processes=group.size)
    begin = None
    if config.start_from is not None:
        begin = read_start(study, Path(config.start_from), found.classes, emit)
    folder = study.jobs_dir / f"train-{_key(study, config, found, device, begin)}"
    if not resume and group.first:
        shutil.rmtree(folder, ignore_errors=True)
    with _own_folder(folder, group, resume=resume) as own, _repeatable(config):
        session = Session(study, config, found, own, emit, begin)
        session.group = group
        session.watched = watched if group.first else None
        session.prepare(device, start)
        session.score_folds()
        run = session.final_run()
    model_id = -1
    if group.first:
        description = {**_description(session, run), "method_chosen_because": why}
        model_id = study.add_model(lambda draft: _write(draft, run), description)
        shutil.rmtree(folder, ignore_errors=True)
    return group.agreed(model_id)


@contextlib.contextmanager
def _own_folder(folder: Path, group: Group, *, resume: bool) -> Iterator[Path]:
    """`folder` for the first of the group; each other one writes into a copy that is thrown away.

    Nobody goes on before all have read.
    """
    with tempfile.TemporaryDirectory(prefix="semiseg-") as other:
        copy = Path(other) / folder.name
        if not group.first and resume and folder.exists():
            shutil.copytree(folder, copy)
        group.wait()
        yield folder if group.first else copy


def _key(
    study: Study,
    config: TrainConfig,
    found: Survey,
    device: torch.device,
    begin: Start | None,
) -> str:
    """Names a run by all that decides its result."""
    settings = {k: v for k, v in to_json(config).items() if k not in _NOT_IN_KEY}
    cases = [(facts.id, facts.digest) for facts in (*found.train, *found.validation)]
    everything = [_FORMAT, study.id, settings, found.classes, cases, device.type]
    everything += [] if begin is None else [begin.digest]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _repeatable(config: TrainConfig) -> Iterator[None]:
    """With a number of steps for its end, a run repeats to the bit on one machine's CPU.

    GPUs repeat as far as their kernels do.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if config.minutes is None:
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _write(draft: Path, run: Run) -> None:
    mean = {name: tensor.cpu().contiguous() for name, tensor in run.learner.mean.items()}
    write_bytes_atomic(draft / WEIGHTS, safetensors.torch.save(mean))


def _description(session: Session, run: Run) -> dict[str, Json]:
    """The content of model.json."""
    found, study, config, plan = session.found, session.study, session.config, run.plan
    learned = [facts for facts in found.train if facts.labelled]
    validation: dict[str, Json] = {"kind": session.scheme.kind, "how": session.scheme.text}
    validation["summaries"] = cast("Json", session.summaries)
    return {
        "method": config.method,
        "network": plan.network.to_json(),
        "streams": list(plan.streams),
        "classes": list(found.classes),
        "names": {str(i): study.protocol.by_id(i).name for i in found.classes[1:]},
        "spacing_mm_zyx": list(plan.spacing_mm_zyx),
        "patch_zyx": list(plan.patch_zyx[-plan.network.dims :]),
        "mirror_axes": [],
        "normalisation": NORMALISATION,
        "modalities": [m for m in MODALITIES if any(m == facts.modality for facts in learned)],
        "unseen_dice": unseen_dice(
            session.scheme.kind, session.score, {i: c.modality for i, c in study.cases.items()}
        ),
        "seed": config.seed,
        "steps": run.learner.step,
        "seconds": round(session.spent_s, 1),
        "device": plan.device,
        "settings": to_json(config),
        "plan": plan.to_json(),
        "history": list(run.state.history),
        "validation": {**validation, **(session.score or {})},
        "calibration": None if session.calibration is None else {**session.calibration},
        "study_id": study.id,
        "cases": {
            facts.id: {
                "digest": facts.digest,
                "human": bool(facts.human_ids),
                "propagated": bool(facts.program_ids),
            }
            for facts in learned
        },
        "versions": {"semiseg": __version__, "torch": torch.__version__},
    }
