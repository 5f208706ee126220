"""Settings of every stage: frozen, keyword-only, checked when made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from semiseg.clock import ClockName
from semiseg.errors import ConfigError

Modality = Literal["CT", "MR"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Device = Literal["auto", "cpu", "cuda"]
Validation = Literal["auto", "split", "leave_one_out", "slices", "none"]
Dims = Literal["auto", "2", "2.5", "3"]
# Which loose pieces of a structure stay; here, where it costs the panel no import of SciPy.
Rule = Literal["largest", "large", "all"]
FillChoice = Literal["auto", "guided", "interpolated", "nearest"]
FusionChoice = Literal["vote", "staple", "both"]
PriorChoice = Literal["auto", "off"]
ExportWhat = Literal["combined", "prediction", "label"]
MeshFormat = Literal["stl", "obj", "ply", "glb"]
MeshSpace = Literal["LPS", "RAS"]
DicomFormat = Literal["dicom-seg", "rtstruct"]
ExportFormat = Literal[
    "both",
    "seg.nrrd",
    "nii.gz",
    "structures",
    "csv",
    "xlsx",
    "dicom-seg",
    "rtstruct",
    "stl",
    "obj",
    "ply",
    "glb",
]
Identity = Literal["ask", "keep", "remove"]
T = TypeVar("T")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """ConfigError unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value:g}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """Few done slices to a volume; distances in millimetres.

    `method` "auto" lets a self-check on the done slices choose for each structure; without
    `image_guided` among the ways that look at shapes only.
    """

    method: FillChoice = "auto"
    image_guided: bool = True
    confidence_distance_mm: float = 60.0

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(FillChoice))
        check_range("confidence_distance_mm", self.confidence_distance_mm, 0.1, 1000)


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    """Dense registration of one volume onto another.

    `diffeomorphic` maps never fold and are undone by their inverse; others match each way alone.
    """

    spacing_mm: float = 3.0
    iterations: int = 90
    smoothness: float = 1.0
    grid_mm: float = 12.0
    seed: int = 0
    device: Device = "auto"
    diffeomorphic: bool = True

    def __post_init__(self) -> None:
        check_range("spacing_mm", self.spacing_mm, 0.5, 20)
        check_range("iterations", self.iterations, 0, 10_000)
        check_range("smoothness", self.smoothness, 0, 1e6)
        check_range("grid_mm", self.grid_mm, self.spacing_mm, 200)
        check_choice("device", self.device, get_args(Device))


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """Carrying labels from annotated cases to the others."""

    atlases: int = 3
    accept_above: float = 0.7
    reject_below: float = 0.5
    fusion: FusionChoice = "both"
    slices: SliceConfig = SliceConfig()
    registration: RegistrationConfig = RegistrationConfig()

    def __post_init__(self) -> None:
        check_range("atlases", self.atlases, 1, 100)
        check_range("reject_below", self.reject_below, 0, 1)
        check_range("accept_above", self.accept_above, self.reject_below, 1)
        check_choice("fusion", self.fusion, get_args(FusionChoice))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One round of learning; it ends after `minutes` or `steps`, whichever comes first.

    `start_from`: the bundle whose weights the networks begin with, in place of random ones.
    `steps` alone makes a run that repeats to the bit on one machine. `dims` "2": networks see
    single axial slices; then `patch` is (1, y, x). "2.5": their two neighbours too. `sparing`:
    less time for unlabelled scans than methods were published with (None: where that was measured
    to be better, see `learning.method_choice.spared`). `atlas_warps`: labelled scans
    are bent towards other patients too. `bridging`: images get random looks between CT and MR.
    `clock`: what `minutes` are counted by;
    "processor" compares trainings fairly on a machine that does other work too. `preset`: the
    published protocol that the settings are of, see `learning.presets.with_preset`.
    """

    method: str = "supervised"
    minutes: float | None = 10.0
    steps: int | None = None
    seed: int = 0
    device: Device = "auto"
    validation: Validation = "auto"
    spacing_mm: float | None = None
    dims: Dims = "auto"
    patch: tuple[int, int, int] | None = None
    batch_size: int | None = None
    learning_rate: float = 3e-3
    use_propagated: bool = True
    sparing: bool | None = None
    deep_supervision: bool = False
    atlas_warps: bool = False
    bridging: bool = False
    start_from: str | None = None
    clock: ClockName = "wall"
    preset: str | None = None
    checkpoint_every_s: float = 20.0
    checkpoint_every_steps: int | None = None

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise ConfigError("training needs an end: give minutes, steps or both")
        if self.minutes is not None:
            check_range("minutes", self.minutes, 0.01, 100_000)
        if self.steps is not None:
            check_range("steps", self.steps, 1, 100_000_000)
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_range("learning_rate", self.learning_rate, 1e-8, 10)
        check_choice("device", self.device, get_args(Device))
        check_choice("validation", self.validation, get_args(Validation))
        check_choice("dims", self.dims, get_args(Dims))
        check_choice("clock", self.clock, get_args(ClockName))
        if self.spacing_mm is not None:
            check_range("spacing_mm", self.spacing_mm, 0.2, 20)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Segmenting whole volumes with a trained model.

    With `prior` "auto" propagated labels that the trust gate accepted have a say; "off": none.
    """

    device: Device = "auto"
    overlap: float = 0.5
    flips: bool = False
    clean_up: bool = True
    prior: PriorChoice = "auto"

    def __post_init__(self) -> None:
        check_range("overlap", self.overlap, 0, 0.9)
        check_choice("prior", self.prior, get_args(PriorChoice))
        check_choice("device", self.device, get_args(Device))


def to_json(config: object) -> dict[str, Any]:
    """A settings dataclass as plain JSON values."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"expected settings, got {type(config).__name__}")
    return dataclasses.asdict(config)


def from_json(kind: type[T], values: dict[str, Any]) -> T:
    """Settings of `kind` from JSON; ConfigError names keys that it does not have."""
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{kind.__name__} has no setting {', '.join(unknown)}")
    nested = {"slices": SliceConfig, "registration": RegistrationConfig}
    ready = {
        name: from_json(nested[name], value)
        if name in nested and isinstance(value, dict)
        else value
        for name, value in values.items()
    }
    if isinstance(ready.get("patch"), list):
        ready["patch"] = tuple(ready["patch"])
    try:
        return kind(**ready)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error
