"""Segmenting many cases: each on a worker, saved here as it comes."""

from __future__ import annotations

import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from semiseg.config import Device, Modality, PredictConfig, from_json, to_json
from semiseg.data.companions import Companions
from semiseg.devices import choose_device, set_threads
from semiseg.distributed.executor import Executor, Outcome, Task, Value
from semiseg.distributed.tasks import Work, name_of, task
from semiseg.errors import (
    CancelledError,
    DeviceError,
    SemiSegError,
    StorageError,
    StudyError,
    require_all,
)
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.reading import read_image
from semiseg.inference import (
    PredictionArrays,
    PredictSummary,
    predict_image,
    require_memory,
    save_prediction,
    saved_data,
)
from semiseg.models import (
    DESCRIPTION,
    WEIGHTS,
    Model,
    load_model,
    prior_beside,
    require_fit,
)
from semiseg.prior import Prior
from semiseg.resources import usable_threads
from semiseg.study.case import Case
from semiseg.study.study import Study

_FAST = 1  # zlib's level: a label map shrinks a hundredfold, and the network is seldom slower
_COMPANION = "companion "
T = TypeVar("T", bound=np.generic)


def predict_over(
    study: Study,
    model_id: int | None,
    case_ids: Sequence[str] | None,
    config: PredictConfig,
    executor: Executor,
    emit: Emit = ignore,
) -> PredictSummary:
    """`inference.predict`, with the same result to the bit; `executor` does the cases.

    Steps of phase "predict" are cases. Errors as there.
    """
    start = time.monotonic()
    record = study.model(model_id)
    ids = list(study.cases if case_ids is None else dict.fromkeys(case_ids))
    cases = [study.case(case_id) for case_id in ids]
    model = load_model(record.folder, torch.device("cpu"))
    require_fit(model, study.protocol, study.id)
    run = _Run(study, record.folder, model, config)
    progress = Progress(emit, "predict", len(cases))
    versions: dict[str, int] = {}
    for step, (case, outcome) in enumerate(run.outcomes(cases, executor, emit), 1):
        try:
            versions[case.id] = save_prediction(
                study,
                case,
                arrays_of(outcome.require()),
                model=(record.id, model.name),
                config=config,
            )
            data = saved_data(study, case.id, versions[case.id])
            message = f"{case.name} is segmented"
        except SemiSegError as error:
            data, message = run.noted(case, error)
        progress.update(step, message, data)
    require_all(len(cases), run.failed, "segmented")
    seconds = time.monotonic() - start
    return PredictSummary(model_id=record.id, versions=versions, seconds=seconds)


class _Run:
    """One call of `predict_over`: each case as a task; why some `failed`."""

    def __init__(self, study: Study, folder: Path, model: Model, config: PredictConfig) -> None:
        self._study, self._folder = study, folder
        self._model, self._config = model, config
        self.failed: dict[str, str] = {}

    def outcomes(
        self, cases: Sequence[Case], executor: Executor, emit: Emit
    ) -> Iterator[tuple[Case, Outcome]]:
        """Each case with what became of it; one whose file is missing too."""
        given: list[Case] = []
        missing: list[tuple[Case, StudyError]] = []

        def tasks() -> Iterator[Task]:
            for case in cases:
                try:
                    one = self._task(case)
                except StudyError as error:
                    missing.append((case, error))
                    continue
                given.append(case)
                yield one

        for outcome in executor.map(tasks(), emit):
            yield given[outcome.index], outcome
        for case, error in missing:
            yield case, Outcome(index=-1, error=error)

    def noted(self, case: Case, error: SemiSegError) -> tuple[dict[str, Json], str]:
        """What to say of a case that failed; an error that ends the run is raised."""
        if isinstance(error, StorageError | CancelledError):
            raise error
        self.failed[case.id] = str(error)
        return {"case": case.id, "error": str(error)}, f"{case.name}: {error}"

    def _task(self, case: Case) -> Task:
        streams = self._model.streams
        companions = [c for c in case.companions if c.name in streams]
        paths = {c.name: self._study.companion_path(case.id, c.name) for c in companions}
        return prediction_task(
            self._folder,
            self._study.image_path(case.id),
            case.modality,
            self._config,
            Further(
                stream=case.stream if streams else None,
                modalities={c.name: case.modality_of(c) for c in companions},
                paths=paths,
                prior=prior_beside(self._model, self._study, case, self._config.prior),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Further:
    """What a model is given beside the image: further volumes (see `data.companions`), a prior."""

    stream: str | None = None
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    prior: Prior | None = None


def prediction_task(
    model: Path,
    image: Path,
    modality: Modality,
    config: PredictConfig,
    further: Further | None = None,
) -> Task:
    """Segments an image file with the model in a folder."""
    further = further or Further()
    files = {"image": image, "description": model / DESCRIPTION, "weights": model / WEIGHTS}
    return Task(
        function=name_of(predict_files),
        arguments={
            "modality": modality,
            "config": to_json(config),
            "stream": further.stream,
            "companions": dict(further.modalities),
            "prior": None if further.prior is None else _prior_value(further.prior),
        },
        files={**files, **{_COMPANION + name: path for name, path in further.paths.items()}},
    )


@task
def predict_files(work: Work) -> Value:
    """The fields of `PredictionArrays`; arrays are packed."""
    arguments, files = work.arguments, work.files
    config = from_json(PredictConfig, arguments["config"])
    model = _model(files["description"], files["weights"], config.device)
    image = read_image(files["image"])
    try:
        require_memory(model, image.grid)
    except DeviceError as error:
        # Others at work on the same computer take memory too; alone it may suffice.
        raise MemoryError(str(error)) from error
    found = predict_image(
        model,
        image,
        arguments["modality"],
        config,
        companions=_companions(arguments, files),
        prior=_prior_of(arguments["prior"]),
    )
    return {
        "shape": list(found.label.shape),
        "label": _packed(found.label),
        "uncertainty": _packed(found.uncertainty),
        "removed_voxels": {str(i): n for i, n in found.removed_voxels.items()},
        "notes": list(found.notes),
        "device": found.device,
        "window_zyx": list(found.window_zyx),
        "seconds": found.seconds,
        "prior": found.prior,
    }


@lru_cache(maxsize=1)
def _model(description: Path, weights: Path, device: Device) -> Model:
    """Loaded once for all cases of a run; files brought here lie in folders of their own."""
    set_threads(min(torch.get_num_threads(), usable_threads()))
    chosen = choose_device(device)
    if description.parent == weights.parent:
        return load_model(description.parent, chosen)
    with tempfile.TemporaryDirectory(prefix="semiseg-model-") as name:
        folder = Path(name)
        shutil.copyfile(description, folder / DESCRIPTION)
        shutil.copyfile(weights, folder / WEIGHTS)
        return load_model(folder, chosen)


def _companions(arguments: Mapping[str, Any], files: Mapping[str, Path]) -> Companions | None:
    if arguments["stream"] is None:
        return None
    images = {
        name: (read_image(files[_COMPANION + name]), modality)
        for name, modality in arguments["companions"].items()
    }
    return Companions(stream=arguments["stream"], images=images)


def arrays_of(value: Mapping[str, Any]) -> PredictionArrays:
    """What `predict_files` gave, as `inference.predict_image` gives it."""
    shape = tuple(value["shape"])
    z, y, x = value["window_zyx"]
    return PredictionArrays(
        label=_unpacked(value["label"], np.uint16).reshape(shape),
        uncertainty=_unpacked(value["uncertainty"], np.float32).reshape(shape),
        removed_voxels={int(i): n for i, n in value["removed_voxels"].items()},
        notes=tuple(value["notes"]),
        device=value["device"],
        window_zyx=(z, y, x),
        seconds=value["seconds"],
        prior=value["prior"],
    )


def _prior_value(prior: Prior) -> dict[str, Value]:
    return {
        "shape": list(prior.codes.shape),
        "codes": _packed(prior.codes),
        "ids": list(prior.ids),
        "weight": prior.weight,
        "spacing_mm_zyx": list(prior.spacing_mm_zyx),
        "words": prior.words,
    }


def _prior_of(value: Mapping[str, Any] | None) -> Prior | None:
    if value is None:
        return None
    z, y, x = value["spacing_mm_zyx"]
    return Prior(
        codes=_unpacked(value["codes"], np.uint16).reshape(tuple(value["shape"])),
        ids=tuple(value["ids"]),
        weight=value["weight"],
        spacing_mm_zyx=(z, y, x),
        words=value["words"],
    )


def _packed(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(np.ascontiguousarray(array).data, _FAST), dtype=np.uint8)


def _unpacked(content: NDArray[np.uint8], kind: type[T]) -> NDArray[T]:
    return np.frombuffer(zlib.decompress(content.data), dtype=kind)
