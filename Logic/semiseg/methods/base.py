"""What a method is, and how one is found by its name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.config import Modality
from semiseg.data.batch import Batch
from semiseg.errors import ConfigError
from semiseg.methods.frame import Frame
from semiseg.networks import NetworkSpec

METHODS: Mapping[str, str] = {
    "supervised": "semiseg.methods.supervised:Supervised",
    "entropy": "semiseg.methods.entropy:EntropyMinimisation",
    "mean_teacher": "semiseg.methods.mean_teacher:MeanTeacher",
    "ua_mt": "semiseg.methods.ua_mt:UncertaintyAwareMeanTeacher",
    "cross_pseudo": "semiseg.methods.cross_pseudo:CrossPseudoSupervision",
    "cross_teaching": "semiseg.methods.cross_teaching:CrossTeaching",
    "bcp": "semiseg.methods.bcp:BidirectionalCopyPaste",
    "dtc": "semiseg.methods.dtc:DualTaskConsistency",
    "cct_r": "semiseg.methods.cct_r:RegistrationGuidedTeaching",
    "mass": "semiseg.methods.mass:Mass",
    "cmedl": "semiseg.methods.cmedl:ConcurrentDistillation",
    "maml": "semiseg.methods.maml:ModalityAwareMutualLearning",
    "cascade": "semiseg.methods.cascade:Cascade",
    "crii_net": "semiseg.methods.crii_net:CoarseRefined",
}


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """What every method is built from.

    `sparing`: less work per step than published. `bridging`: images get random looks between CT
    and MR, see `data.bridging`. `labelled`: training scans with labels by modality, as far as
    known; a trained model does not depend on them. `options`: what was chosen of `Method.options`.
    `streams`: the kinds of volumes of a case, for methods that use companions.
    """

    network: NetworkSpec
    learning_rate: float = 1e-3
    sparing: bool = False
    bridging: bool = False
    labelled: Mapping[Modality, int] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ()


class Method(ABC):
    """Owns its networks and says what to minimise; the trainer does all the rest.

    `uses_unlabelled`: whether batches should hold samples without labels; `uses_level_sets`:
    whether they should hold signed distances; `uses_places`: whether they should say where in
    the body each voxel lies; `uses_modalities`: whether CT and MR should take turns in them;
    `uses_companions`: whether they should hold further volumes of a case;
    `uses_frame`: whether they should hold whole scans, placed on one frame, in place of patches;
    `uses_plain`: whether they should hold images with unchanged grey values, too; `needs_both`:
    whether there is nothing to learn unless scans of both modalities are there;
    `bridges`: whether it gives images random looks by itself;
    `learns_from_carried`: whether scans with propagated labels serve as unlabelled ones, so that
    no more of these are needed where propagation reached every scan;
    `spares`: whether a short training on a CPU was measured to gain by fewer unlabelled samples;
    `deeply_supervised`: whether its loss knows coarse heads. `options`: what can be chosen, by
    name, the default first. `modules` make the model; `memory` is kept in checkpoints with them,
    but is no part of the model.
    """

    uses_unlabelled: bool = False
    spares: bool = False
    uses_level_sets: bool = False
    uses_places: bool = False
    uses_modalities: bool = False
    uses_companions: bool = False
    uses_frame: bool = False
    uses_plain: bool = False
    needs_both: bool = False
    bridges: bool = False
    learns_from_carried: bool = False
    deeply_supervised: bool = False
    options: Mapping[str, tuple[str, ...]] = {}
    modules: nn.ModuleDict

    def __init__(self, settings: MethodSettings) -> None:
        self.settings = settings
        self.memory = nn.ModuleDict()

    def option(self, name: str) -> str:
        """What was chosen for `name` of `options`."""
        return self.settings.options.get(name, self.options[name][0])

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by name, each parameter in at most one; called once, after moving."""

    @abstractmethod
    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Optimizer name to a scalar, all at the same parameters; `progress` in [0, 1].

        Each optimizer follows the gradient of its own scalar only.
        """

    def learning_rate_factor(self, progress: float) -> float:
        """What every learning rate is multiplied by at `progress`: (1 - progress)^0.9."""
        return float((1.0 - min(max(progress, 0.0), 1.0)) ** 0.9)

    def hold(self, frame: Frame, atlases: Batch) -> None:  # noqa: B027
        """Keep in `modules` what predicting needs of the study; called where it `uses_frame`.

        `atlases`: labelled scans, whole, on `frame`.
        """

    def make_room(self, saved: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Give `modules` the sizes of the study that a saved state of them comes from."""

    def after_step(self, progress: float) -> None:  # noqa: B027
        """Called after every step of all optimizers: moving averages and the like."""

    @abstractmethod
    def predict(self, image: Tensor) -> Tensor:
        """Logits (B, C, *) of `image` (B, 1, *)."""

    def predictor(self, modality: Modality) -> Callable[[Tensor], Tensor]:  # noqa: ARG002
        """What maps images of `modality` to logits: `predict`, unless CT and MR have networks of
        their own.
        """
        return self.predict

    def joint_predictor(self, present: tuple[bool, ...]) -> Callable[[Tensor], Tensor]:
        """What maps the volumes (B, K, *) of all streams, 0 but where `present`, to logits.

        By default the first that is there is looked at alone.
        """
        first = present.index(True)
        return lambda volumes: self.predict(volumes[:, first, None])


def method_names() -> tuple[str, ...]:
    """All methods that can be asked for."""
    return tuple(METHODS)


def method_class(name: str) -> type[Method]:
    """The class of a method, options behind its name or not; ConfigError lists what there is."""
    return _method_and_options(name)[0]


def _method_and_options(text: str) -> tuple[type[Method], dict[str, str]]:
    """The class and the options of "name" or "name+option=value+...", all checked."""
    name, *given = text.split("+")
    if name not in METHODS:
        known = ", ".join(("auto", *METHODS))
        raise ConfigError(f"there is no method {name!r}; choose one of {known}")
    module, kind = METHODS[name].split(":")
    found: type[Method] = getattr(importlib.import_module(module), kind)
    options = {option: value for option, _, value in (part.partition("=") for part in given)}
    for option, value in options.items():
        if value not in found.options.get(option, ()):
            able = [f"{o}={v}" for o, values in found.options.items() for v in values]
            raise ConfigError(
                f"the method {name!r} has no option {option}={value}; "
                + (f"it has {', '.join(able)}" if able else "it has none")
            )
    return found, options


def build_method(name: str, settings: MethodSettings) -> Method:
    """An untrained method; its weights come from torch's global generator.

    `name` may have options behind it: "cmedl+translation=variational+teacher=CT".

    ConfigError where its loss does not know the coarse heads that the network has.
    """
    found, options = _method_and_options(name)
    if settings.network.deep_supervision and not found.deeply_supervised:
        able = ", ".join(n for n in METHODS if method_class(n).deeply_supervised)
        raise ConfigError(
            f"the method {name!r} has no deep supervision; train without it, or choose one of "
            f"{able}"
        )
    return found(replace(settings, options={**settings.options, **options}))
