"""Registration of many pairs ahead of a propagation, which then finds them all in its cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from semiseg.config import PropagationConfig, RegistrationConfig, from_json, to_json
from semiseg.distributed.executor import Executor, Task, Value
from semiseg.distributed.tasks import Work, name_of, task
from semiseg.errors import CancelledError, CasesFailedError, StorageError, require_all
from semiseg.events import Emit, Event, Json, ignore
from semiseg.images.reading import read_image
from semiseg.propagation import Pair, PropagationSummary, missing_pairs, propagate
from semiseg.registration.cache import keep_entry, landmarks_of, packed
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.register import prepare, register
from semiseg.registration.sampling import FeatureMap
from semiseg.study.study import Study


def propagate_over(
    study: Study,
    config: PropagationConfig,
    executor: Executor,
    emit: Emit = ignore,
    case_ids: Iterable[str] | None = None,
) -> PropagationSummary:
    """`propagate`, with the same result to the bit; its registrations are done by `executor`.

    Filling between slices, voting and saving stay here. A case whose registration fails is said
    in an event, the others go on, and CasesFailedError ends the run.
    """
    wanted = list(study.cases if case_ids is None else case_ids)
    failed = register_ahead(study, config, executor, emit, wanted)
    rest = [case_id for case_id in wanted if case_id not in failed]
    try:
        summary = propagate(study, config, emit, rest)
    except CasesFailedError as error:
        if failed:
            more = "; not ".join(f"{case_id}: {why}" for case_id, why in failed.items())
            raise CasesFailedError(f"{error}; not {more}") from error
        raise
    require_all(len(wanted), failed, "propagated")
    return summary


def register_ahead(
    study: Study,
    config: PropagationConfig,
    executor: Executor,
    emit: Emit = ignore,
    case_ids: Iterable[str] | None = None,
) -> dict[str, str]:
    """Fill the study's cache of registrations; the targets for which one failed, and why."""
    given: list[Pair] = []
    failed: dict[str, str] = {}

    def say(step: int, message: str, data: dict[str, Json]) -> None:
        emit(
            Event(
                kind="progress",
                phase="distribute",
                step=step,
                total=len(given),
                message=message,
                data=data,
            )
        )

    def tasks() -> Iterator[Task]:
        for pair in missing_pairs(study, config, case_ids):
            given.append(pair)
            yield registration_task(
                pair.fixed.modality,
                pair.moving.modality,
                config.registration,
                {"fixed": study.image_path(pair.target), "moving": study.image_path(pair.atlas)},
                landmarks_of(pair.fixed, pair.moving),
            )

    for step, outcome in enumerate(executor.map(tasks(), emit), 1):
        pair = given[outcome.index]
        if outcome.error is None:
            keep_entry(pair.path, outcome.value["entry"].tobytes())
            say(step, f"{pair.target}: {pair.atlas} is aligned", {})
            continue
        if isinstance(outcome.error, StorageError | CancelledError):
            raise outcome.error
        failed[pair.target] = why = str(outcome.error)
        say(step, f"{pair.target}: {why}", {"case": pair.target, "error": why})
    return failed


def registration_task(
    fixed: str,
    moving: str,
    config: RegistrationConfig,
    files: Mapping[str, Any],
    landmarks: Landmarks | None = None,
) -> Task:
    """Registers the image file "moving" onto "fixed", both ways; the modalities are given."""
    known: Value = None
    if landmarks is not None:
        known = {
            "fixed": _sent(landmarks.fixed),
            "moving": _sent(landmarks.moving),
            "weight": landmarks.weight,
        }
    return Task(
        function=name_of(register_files),
        arguments={
            "fixed": fixed,
            "moving": moving,
            "config": to_json(config),
            "landmarks": known,
        },
        files=files,
    )


@task
def register_files(work: Work) -> Value:
    """{"entry": what the cache of registrations keeps, as bytes}."""
    arguments = work.arguments
    config = from_json(RegistrationConfig, arguments["config"])
    fixed, moving = (
        prepare(read_image(work.files[side]), arguments[side], config)
        for side in ("fixed", "moving")
    )
    known = arguments["landmarks"]
    landmarks = None
    if known is not None:
        maps = {side: _received(known[side], fixed.device) for side in ("fixed", "moving")}
        landmarks = Landmarks(**maps, weight=known["weight"])
    result = register(fixed, moving, config, both_ways=True, landmarks=landmarks)
    return {"entry": np.frombuffer(packed(result), dtype=np.uint8)}


def _sent(known: FeatureMap) -> Value:
    return {
        "table": known.table.cpu().numpy(),
        "mask": known.mask.cpu().numpy(),
        "origin_mm_zyx": known.origin_mm_zyx.cpu().numpy(),
        "spacing_mm": known.spacing_mm,
    }


def _received(sent: Mapping[str, Any], device: torch.device) -> FeatureMap:
    table, mask, origin = (
        torch.from_numpy(sent[name]).to(device) for name in ("table", "mask", "origin_mm_zyx")
    )
    return FeatureMap(
        table=table, mask=mask, origin_mm_zyx=origin, spacing_mm=float(sent["spacing_mm"])
    )
