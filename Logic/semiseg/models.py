"""A trained model from its folder: JSON and safetensors only, every field checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from semiseg.config import MODALITIES, Modality, PriorChoice
from semiseg.data.companions import Companions, on_grid, stacked
from semiseg.data.training_grid import TrainingImage
from semiseg.errors import ConfigError, SchemaError, StudyError
from semiseg.images.grid import Triple
from semiseg.images.reading import Image
from semiseg.methods.base import Method, MethodSettings, build_method
from semiseg.methods.frame import Frame
from semiseg.networks import NetworkSpec
from semiseg.prior import Prior, prior_of
from semiseg.registration.start import Start
from semiseg.study.case import Case
from semiseg.study.fields import Fields
from semiseg.study.protocol import LARGEST_ID, Protocol
from semiseg.study.storage import read_json
from semiseg.study.study import Study

DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
Zyx = tuple[int, int, int]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained network and what must be known to run it.

    `network` holds all weights and maps (B, 1, *) to logits (B, C, *); it is 2-D where windows are
    one slice deep. `predictors` are what does so for images of one modality alone. `streams` are
    the kinds of volumes of a case that it knows, if it looks at several: then `joint` gives, for
    those that are there, what maps all volumes (B, K, *) to logits. With a `frame` it sees whole
    scans, placed on that.
    `classes[c]` is the structure id of channel c, 0 for background. `mirror_axes` are the axes
    (0 z, 1 y, 2 x) along which it learned from mirrored images too. Sides of windows must be
    multiples of `multiple_zyx`. `temperature` tells how far probabilities are to be trusted: above
    1, less than the network says (`learning.calibration`). `unseen_dice` is the Dice on cases that
    it had not learned from, by modality; empty where no such were scored, None where models do not
    tell.
    """

    name: str
    network: nn.Module
    classes: tuple[int, ...]
    names: Mapping[int, str]
    spacing_mm_zyx: Triple
    window_zyx: Zyx
    multiple_zyx: Zyx = (1, 1, 1)
    modalities: tuple[Modality, ...] = MODALITIES
    mirror_axes: tuple[int, ...] = ()
    temperature: float = 1.0
    unseen_dice: Mapping[str, float] | None = None
    device: torch.device
    study_id: str | None = None
    predictors: Mapping[Modality, Network] = field(default_factory=dict)
    streams: tuple[str, ...] = ()
    joint: Callable[[tuple[bool, ...]], Network] | None = None
    frame: Frame | None = None

    def predictor(self, modality: Modality) -> Network:
        """What maps images of `modality` to logits, with the weights of `network`."""
        return self.predictors.get(modality, self.network)


def load_model(folder: Path, device: torch.device) -> Model:
    """The model in `folder`, on `device`, ready to predict.

    SchemaError: its description or its weights are missing, corrupt or do not belong together.
    """
    where = f"model {folder.name}"
    fields = Fields(read_json(folder / DESCRIPTION), f"{where} ({folder / DESCRIPTION})")
    try:
        spec = NetworkSpec.from_json(fields.part("network").values)
        streams = fields.texts("streams")
        settings = MethodSettings(network=spec, streams=streams)
        method = build_method(fields.text("method"), settings)
    except ConfigError as error:
        raise SchemaError(f"{fields.where}: {error}; update SemiSeg, or train anew") from error
    classes = _classes(fields, spec)
    window = _window(fields, spec)
    _load_weights(method, folder / WEIGHTS, where)
    return Model(
        name=fields.text("name", where),
        network=_Predicting(method).to(device).eval(),
        classes=classes,
        names={int(i): str(name) for i, name in fields.mapping("names").items() if i.isdecimal()},
        spacing_mm_zyx=_spacing(fields),
        window_zyx=window,
        multiple_zyx=spec.multiple_zyx,
        modalities=_modalities(fields),
        mirror_axes=tuple(a for a in fields.integers("mirror_axes") if a in (0, 1, 2)),
        temperature=_temperature(fields),
        unseen_dice=_unseen_dice(fields),
        device=device,
        study_id=fields.optional_text("study_id"),
        predictors={modality: method.predictor(modality) for modality in MODALITIES},
        streams=streams,
        joint=method.joint_predictor if streams else None,
        frame=cast(Frame, method.modules["frame"]) if method.uses_frame else None,
    )


def require_fit(model: Model, protocol: Protocol, study_id: str) -> None:
    """StudyError unless the study has every structure of `model`.

    Names count for models of other studies only: in its own study an id keeps its meaning when
    it gets another name.
    """
    own = {structure.id: structure.name for structure in protocol.structures}
    for structure_id in model.classes[1:]:
        learned = model.names.get(structure_id)
        called = f"{structure_id} ({learned})" if learned else str(structure_id)
        if structure_id not in own:
            raise StudyError(
                f"{model.name} segments structure {called}, which this study does not have; "
                "choose a model of this study, or add the structure"
            )
        foreign = model.study_id != study_id
        if foreign and (learned or "").casefold() != own[structure_id].casefold():
            raise StudyError(
                f"{model.name} comes from another study, where structure {structure_id} is "
                f"{learned or 'unnamed'!r}; here it is {own[structure_id]!r}. Choose a model of "
                "this study"
            )


def prior_beside(model: Model, study: Study, case: Case, choice: PriorChoice) -> Prior | None:
    """What propagated labels of `case` say beside `model`; None where nothing takes part.

    A model with a frame brings atlases to the scan itself, and one that does not tell what it
    learned from (of an earlier version, or not of SemiSeg's making) stays alone.
    """
    if choice == "off" or model.frame is not None or model.unseen_dice is None:
        return None
    return prior_of(
        study,
        case,
        classes=model.classes,
        spacing_mm_zyx=model.spacing_mm_zyx,
        dice=model.unseen_dice.get(case.modality),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """What a model sees of a case: `volumes` (D, H, W) or (K, D, H, W), and what segments them.

    Beyond their edge lies `fill`; `notes` are for the user. `start` leads from the model's frame to
    the case, where it has one.
    """

    volumes: NDArray[np.float32]
    network: Network
    fill: float
    notes: tuple[str, ...] = ()
    start: Start | None = None

    @property
    def shape_zyx(self) -> Zyx:
        """Shape on the training grid."""
        depth, height, width = self.volumes.shape[-3:]
        return depth, height, width


def look(
    model: Model, ready: TrainingImage, modality: Modality, companions: Companions | None
) -> Sight:
    """The image alone or, for a model that knows several kinds of volumes, all that are there."""
    alone = Sight(volumes=ready.array, network=model.predictor(modality), fill=ready.fill)
    if companions is None or model.joint is None:
        return alone
    further = {
        name: on_grid(image, kind, ready.grid) for name, (image, kind) in companions.images.items()
    }
    volumes, present = stacked(ready.array, companions.stream, further, model.streams)
    notes = _notes(model, companions.stream, present)
    if not any(present):
        return replace(alone, notes=notes)
    return Sight(volumes=volumes, network=model.joint(present), fill=ready.fill, notes=notes)


def look_at_whole(model: Model, frame: Frame, image: Image, modality: Modality) -> Sight:
    """The scan on the model's `frame`."""
    values, start = frame.place_image(image, modality)
    network, fill = model.predictor(modality), float(values.min())
    return Sight(volumes=values, network=network, fill=fill, start=start)


def _notes(model: Model, stream: str, present: tuple[bool, ...]) -> tuple[str, ...]:
    """What is missing; in studies of CT and MR each case lacks the other, so nothing of that."""
    seen = [name for name, here in zip(model.streams, present, strict=True) if here]
    missing = [name for name in model.streams if name not in seen]
    notes = []
    if stream not in model.streams:
        notes.append(f"{model.name} did not learn from {stream}; check its result with care.")
    if missing and seen and not set(model.streams) <= set(MODALITIES):
        notes.append(
            f"There is no {' and no '.join(missing)}: segmented from {' and '.join(seen)}."
        )
    return tuple(notes)


def averaged(network: Network, flips: tuple[tuple[int, ...], ...]) -> Network:
    """Mean class probabilities of `network` over mirrored windows (B, 1, D, H, W)."""

    @torch.inference_mode()
    def predictor(windows: Tensor) -> Tensor:
        total: Tensor | None = None
        for axes in flips:
            logits = _logits(network, windows.flip(axes) if axes else windows)
            probabilities = logits.softmax(dim=1)
            probabilities = probabilities.flip(axes) if axes else probabilities
            total = probabilities if total is None else total + probabilities
        if total is None or not torch.isfinite(total).all():
            raise StudyError(
                "the model's output is not a number; train it anew or choose another model"
            )
        return total / len(flips)

    return predictor


def _logits(network: Network, windows: Tensor) -> Tensor:
    """Float32 logits; in half precision on a GPU, unless that overflows."""
    flat = windows.shape[2] == 1
    given = windows.squeeze(2) if flat else windows
    on_gpu = windows.device.type == "cuda"
    with torch.autocast(windows.device.type, dtype=torch.float16, enabled=on_gpu):
        logits: Tensor = network(given)
    logits = logits.float()
    if on_gpu and not torch.isfinite(logits).all():
        logits = network(given).float()
    return logits.unsqueeze(2) if flat else logits


class _Predicting(nn.Module):
    """A method as a network: images in, logits out."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.modules_of_method = method.modules
        self._predict = method.predict

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, *) of `image` (B, 1, *)."""
        return self._predict(image)


def _load_weights(method: Method, path: Path, where: str) -> None:
    remedy = "choose another model, or train anew"
    try:
        weights = load_file(path)
    except FileNotFoundError as error:
        raise SchemaError(f"{where} has no weights ({path} is missing); {remedy}") from error
    except (SafetensorError, OSError) as error:
        raise SchemaError(f"the weights of {where} are corrupt ({error}); {remedy}") from error
    method.make_room(weights)
    expected = method.modules.state_dict()
    wrong = sorted(set(expected) ^ set(weights))
    if wrong:
        raise SchemaError(
            f"the weights of {where} do not belong to its description: {wrong[0]!r} "
            f"{'is missing' if wrong[0] in expected else 'is not part of the network'}; {remedy}"
        )
    for name, values in weights.items():
        if values.shape != expected[name].shape:
            raise SchemaError(
                f"the weights of {where} do not belong to its description: {name!r} has the shape "
                f"{tuple(values.shape)}, expected {tuple(expected[name].shape)}; {remedy}"
            )
        if not torch.isfinite(values).all():
            raise SchemaError(f"the weights of {where} hold values that are no numbers; {remedy}")
    method.modules.load_state_dict(weights)


def _classes(fields: Fields, spec: NetworkSpec) -> tuple[int, ...]:
    classes = fields.integers("classes")
    problem = None
    if len(classes) < 2 or classes[0] != 0:
        problem = "should start with 0 for background and have a structure"
    elif len(set(classes)) != len(classes) or not all(0 <= c <= LARGEST_ID for c in classes):
        problem = f"should be different ids up to {LARGEST_ID}"
    elif len(classes) != spec.n_classes:
        problem = f"should be as many as the network's {spec.n_classes} channels"
    if problem:
        raise SchemaError(f"{fields.where}: 'classes' {problem}, found {list(classes)[:20]}")
    return classes


def _spacing(fields: Fields) -> Triple:
    values = fields.items("spacing_mm_zyx")
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != 3 or len(values) != 3 or not all(_sound_mm(v) for v in numbers):
        raise SchemaError(
            f"{fields.where}: 'spacing_mm_zyx' should be three lengths in mm, found {values}"
        )
    return numbers[0], numbers[1], numbers[2]


def _unseen_dice(fields: Fields) -> Mapping[str, float] | None:
    """None for models of earlier versions."""
    found = fields.optional_part("unseen_dice")
    return None if found is None else {name: found.number(name) for name in found.values}


def _temperature(fields: Fields) -> float:
    """1 for models that were not validated, and those of earlier versions."""
    found = fields.optional_part("calibration")
    value = 1.0 if found is None else found.number("temperature")
    if not (math.isfinite(value) and 0.01 <= value <= 100):
        raise SchemaError(
            f"{fields.where}: the calibration's 'temperature' should be between 0.01 and 100, "
            f"found {value}"
        )
    return value


def _sound_mm(value: float) -> bool:
    return math.isfinite(value) and 0.05 <= value <= 50


def _window(fields: Fields, spec: NetworkSpec) -> Zyx:
    sides = fields.integers("patch_zyx")
    multiple = spec.multiple_zyx
    if len(sides) != spec.dims or not all(1 <= side <= 1024 for side in sides):
        raise SchemaError(
            f"{fields.where}: 'patch_zyx' should be {spec.dims} sides up to 1024 voxels, found "
            f"{list(sides)}"
        )
    window = _in_3d(sides)
    if any(side % m for side, m in zip(window, multiple, strict=True)):
        raise SchemaError(
            f"{fields.where}: 'patch_zyx' should be multiples of {multiple}, found {sides}"
        )
    return window


def _in_3d(sides: tuple[int, ...]) -> Zyx:
    """`sides` with a depth of one slice where they are those of a slice."""
    *first, y, x = sides
    return (first[0] if first else 1), y, x


def _modalities(fields: Fields) -> tuple[Modality, ...]:
    found = fields.texts("modalities")
    strange = [m for m in found if m not in MODALITIES]
    if strange or not found:
        raise SchemaError(
            f"{fields.where}: 'modalities' should be some of {', '.join(MODALITIES)}, found "
            f"{list(found)}"
        )
    return cast("tuple[Modality, ...]", found)
