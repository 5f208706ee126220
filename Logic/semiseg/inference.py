"""Segmenting volumes with a trained model, on each image's own grid, in bounded memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from semiseg.cleanup import clean_up, rule_for
from semiseg.config import MODALITIES, Modality, PredictConfig, to_json
from semiseg.data.companions import Companions, companions_of
from semiseg.data.training_grid import to_training_grid
from semiseg.devices import choose_device, is_out_of_memory, release_memory, set_threads
from semiseg.errors import (
    CancelledError,
    DeviceError,
    ImageError,
    SemiSegError,
    StorageError,
    require_all,
)
from semiseg.events import Emit, Event, Json, Progress, ignore
from semiseg.images.grid import Grid, canonical
from semiseg.images.reading import Image
from semiseg.images.resampling import spaced_grid
from semiseg.models import (
    Model,
    Network,
    Sight,
    averaged,
    load_model,
    look,
    look_at_whole,
    prior_beside,
    require_fit,
)
from semiseg.own_grid import Target
from semiseg.prior import Prior
from semiseg.resources import usable_memory, usable_threads
from semiseg.sliding import (
    BAND_BYTES,
    Predictor,
    WindowPlan,
    Zyx,
    count_windows,
    stream_probabilities,
    window_plans,
)
from semiseg.study.case import Case
from semiseg.study.study import Study

_WORKSPACE_BYTES = 300_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionArrays:
    """Structure ids and uncertainty (entropy, 0 sure to 1 no idea) on the image's own grid.

    The uncertainty is that of the calibrated probabilities where the model was validated.

    `removed_voxels` were set to background by the clean-up, per structure; `notes` are for the
    user; `prior` tells how propagated labels took part, None where they did not.
    """

    label: NDArray[np.uint16]
    uncertainty: NDArray[np.float32]
    removed_voxels: Mapping[int, int]
    notes: tuple[str, ...]
    device: str
    window_zyx: Zyx
    seconds: float
    prior: dict[str, Json] | None = None


def predict_image(
    model: Model,
    image: Image,
    modality: Modality,
    config: PredictConfig,
    emit: Emit = ignore,
    companions: Companions | None = None,
    prior: Prior | None = None,
) -> PredictionArrays:
    """Segment `image` on the model's device; progress counts windows of phase "predict".

    A model that looks at several volumes of a case is given `companions`; missing ones are masked.
    A `prior` (`models.prior_beside`) has its say.

    Out of memory: smaller windows, then the CPU, each said in an event and a note. ImageError for
    an unknown modality; DeviceError when the memory is too small in any case.
    """
    start = time.monotonic()
    notes = _Notes(emit)
    _check_modality(model, modality, notes)
    require_memory(model, image.grid)
    flips = _flips(model, config, notes)
    target = Target(canonical(image.grid), model.classes, model.temperature, prior)
    if prior is not None:
        notes.say(prior.words)
    if model.frame is not None:
        sight = look_at_whole(model, model.frame, image, modality)
    else:
        ready = to_training_grid(image, modality, model.spacing_mm_zyx)
        sight = look(model, ready, modality, companions)
        del ready
    for text in sight.notes:
        notes.say(text)
    run = _Way(model=model, network=sight.network, overlap=config.overlap, flips=flips)
    plan = _segment(run, sight, target, notes)
    del sight  # as large as the image; the clean-up needs the room
    removed: dict[int, int] = {}
    if config.clean_up:
        emit(Event(kind="progress", phase="predict", message="removing loose islands"))
        rules = {i: rule_for(model.names.get(i, "")) for i in model.classes if i}
        removed = clean_up(target.label, rules)
    return PredictionArrays(
        label=target.label,
        uncertainty=target.uncertainty,
        removed_voxels=removed,
        notes=tuple(notes.texts),
        device=str(plan.device),
        window_zyx=plan.window_zyx,
        seconds=time.monotonic() - start,
        prior=None if prior is None else prior.to_json(),
    )


def windows_of(model: Model, grid: Grid, overlap: float) -> int:
    """Number of windows that an image on `grid` will take: its share of the work."""
    shape = _training_shape(model, grid)
    return count_windows(shape, _plans(model, shape, overlap)[0])


def memory_needed(model: Model, grid: Grid) -> int:
    """Bytes of main memory that `predict_image` takes beyond the image itself, at most about."""
    own, trained = math.prod(grid.shape_zyx), math.prod(_training_shape(model, grid))
    preparing = 12 * own + 8 * trained
    band = min(2 * BAND_BYTES, 8 * trained * len(model.classes))
    running = 6 * own + 4 * trained * (1 + len(model.streams)) + 2 * trained + band
    cleaning = 13 * own
    return _WORKSPACE_BYTES + max(preparing, running, cleaning)


def require_memory(model: Model, grid: Grid) -> None:
    """DeviceError unless an image on `grid` can be segmented in the memory that is free."""
    needed, free = memory_needed(model, grid), usable_memory().free_bytes
    if needed > free:
        raise DeviceError(
            f"segmenting {' x '.join(map(str, grid.size_xyz))} voxels needs about "
            f"{needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; close other "
            "programs, or crop the image"
        )


class _Notes:
    """What the user should know, said at once and kept."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)
        self.emit(Event(kind="progress", phase="predict", message=text))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Way:
    """How one image is segmented."""

    model: Model
    network: Network
    overlap: float
    flips: tuple[tuple[int, ...], ...]

    def predictor(self, device: torch.device) -> Predictor:
        """The model on `device` as the sliding windows ask for it."""
        self.model.network.to(device).eval()
        return averaged(self.network, self.flips)


def _segment(way: _Way, sight: Sight, target: Target, notes: _Notes) -> WindowPlan:
    """Fill `target`; the plan that the memory sufficed for."""
    image, shape = torch.from_numpy(sight.volumes), sight.shape_zyx
    for plan in _plans(way.model, shape, way.overlap):
        progress = Progress(notes.emit, "predict", count_windows(shape, plan))
        progress.update(0)
        predictor = way.predictor(plan.device)
        chunks = stream_probabilities(
            predictor, image, plan, fill=sight.fill, on_windows=progress.update
        )
        try:
            if way.model.frame is not None and sight.start is not None:
                target.fill_from_frame(chunks, way.model.frame, sight.start)
            else:
                target.fill(chunks, shape)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return plan
        # Outside the handler: the error's frames no longer hold the tensors.
        release_memory(plan.device)
        size = " x ".join(map(str, plan.window_zyx))
        notes.say(f"Out of memory on {plan.device} with windows of {size} voxels; using less.")
    raise DeviceError(
        "out of memory even with the smallest windows on the CPU; close other programs, or crop "
        "the image"
    )


def _plans(model: Model, shape_zyx: Zyx, overlap: float) -> list[WindowPlan]:
    plans = window_plans(
        shape_zyx,
        len(model.classes),
        window_zyx=model.window_zyx,
        multiple_zyx=model.multiple_zyx,
        overlap=overlap,
        device=model.device,
    )
    return plans if model.frame is None else [p for p in plans if p.window_zyx == model.window_zyx]


def _flips(model: Model, config: PredictConfig, notes: _Notes) -> tuple[tuple[int, ...], ...]:
    """Axes of a window (B, 1, D, H, W) to mirror, one tuple per run; the first is none."""
    axes = tuple(axis + 2 for axis in model.mirror_axes if model.window_zyx[axis] > 1)
    if not config.flips:
        return ((),)
    if not axes:
        notes.say(f"{model.name} did not learn from mirrored images, so none are averaged.")
    return tuple(some for n in range(len(axes) + 1) for some in combinations(axes, n))


def _check_modality(model: Model, modality: Modality, notes: _Notes) -> None:
    if modality not in MODALITIES:
        raise ImageError(
            f"the image's modality is {modality!r}, expected one of {', '.join(MODALITIES)}; "
            "set it for this case first"
        )
    if modality not in model.modalities:
        notes.say(
            f"{model.name} learned from {' and '.join(model.modalities)} only; check its result on "
            f"{modality} with care."
        )


def _training_shape(model: Model, grid: Grid) -> Zyx:
    z, y, x = model.spacing_mm_zyx
    return spaced_grid(canonical(grid).grid, (x, y, z)).shape_zyx


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """The version of each case's new prediction."""

    model_id: int
    versions: Mapping[str, int]
    seconds: float


def predict(
    study: Study,
    model_id: int | None,
    case_ids: Sequence[str] | None,
    config: PredictConfig,
    emit: Emit = ignore,
) -> PredictSummary:
    """Segment cases (None: all) with a model (None: the newest); each is saved once it is ready.

    A case that fails is said in an event whose data hold "case" and "error", the others go on,
    and CasesFailedError ends the run. StudyError before any work: unknown case or model, model of
    other structures. StorageError and CancelledError end the run at once; what was saved stays.
    """
    start = time.monotonic()
    record = study.model(model_id)
    ids = study.cases if case_ids is None else dict.fromkeys(case_ids)
    cases = [study.case(case_id) for case_id in ids]
    model = _ready_model(study, record.folder, config, emit)
    versions: dict[str, int] = {}
    failed: dict[str, str] = {}
    shares = [windows_of(model, case.grid, config.overlap) for case in cases]
    progress = Progress(emit, "predict", sum(shares))
    for number, case in enumerate(cases):
        before = sum(shares[:number])
        said = _Relay(emit, progress, before, shares[number], f"segmenting {case.name}")
        try:
            versions[case.id] = _predict_case(study, model, record.id, case, config, said)
            data = saved_data(study, case.id, versions[case.id])
            message = f"{case.name} is segmented"
        except SemiSegError as error:
            if isinstance(error, StorageError | CancelledError):
                raise
            failed[case.id] = str(error)
            data, message = {"case": case.id, "error": str(error)}, f"{case.name}: {error}"
        progress.update(before + shares[number], message, data)
    require_all(len(cases), failed, "segmented")
    return PredictSummary(model_id=record.id, versions=versions, seconds=time.monotonic() - start)


def _ready_model(study: Study, folder: Path, config: PredictConfig, emit: Emit) -> Model:
    set_threads(min(torch.get_num_threads(), usable_threads()))
    model = load_model(folder, choose_device(config.device, emit))
    require_fit(model, study.protocol, study.id)
    return model


def saved_data(study: Study, case_id: str, version: int) -> dict[str, Json]:
    """What the event of a saved prediction holds."""
    info = study.prediction_info(case_id, version).info
    figures = {"model": info.get("model_id"), "uncertainty": info.get("uncertainty")}
    return {"case": case_id, "saved": True, "version": version, **figures}


class _Relay:
    """Turns one case's windows into steps of the whole run; other events pass."""

    def __init__(
        self, emit: Emit, progress: Progress, before: int, share: int, message: str
    ) -> None:
        self._emit, self._progress, self._message = emit, progress, message
        self._before, self._share = before, share

    def __call__(self, event: Event) -> None:
        if event.total:
            done = event.step * self._share // event.total
            self._progress.update(self._before + done, self._message)
        else:
            self._emit(event)


def _predict_case(
    study: Study, model: Model, model_id: int, case: Case, config: PredictConfig, emit: Emit
) -> int:
    """Segment and save one case; the version of its prediction."""
    companions = companions_of(study, case, model.streams) if model.streams else None
    prior = prior_beside(model, study, case, config.prior)
    found = predict_image(
        model, study.image(case.id), case.modality, config, emit, companions=companions, prior=prior
    )
    return save_prediction(study, case, found, model=(model_id, model.name), config=config)


def save_prediction(
    study: Study,
    case: Case,
    found: PredictionArrays,
    *,
    model: tuple[int, str],
    config: PredictConfig,
) -> int:
    """Keep what `predict_image` found with the model of this id and name; the version."""
    model_id, name = model
    removed = {str(i): n * case.grid.voxel_ml for i, n in found.removed_voxels.items()}
    info: dict[str, Json] = {
        "model": name,
        "device": found.device,
        "window_zyx": list(found.window_zyx),
        "seconds": round(found.seconds, 2),
        "settings": to_json(config),
        "removed_ml": dict(removed),
        "notes": list(found.notes),
    }
    if found.prior is not None:
        info["prior"] = found.prior
    return study.predicted(case.id, found.label, found.uncertainty, model_id=model_id, info=info)
