"""Beginning with the weights of a bundle instead of random ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from semiseg.bundle.matching import match
from semiseg.bundle.reading import Bundle, read_bundle
from semiseg.config import TrainConfig
from semiseg.errors import ConfigError
from semiseg.events import Emit, Event, Json
from semiseg.learning.plan import Plan
from semiseg.networks import UNet
from semiseg.study.study import Study

_HEAD = "head."


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """A bundle, and for each class of the study its channel there (None: begins anew)."""

    bundle: Bundle
    channels: tuple[int | None, ...]

    @property
    def digest(self) -> str:
        """Names the weights."""
        content = hashlib.sha256(repr(self.channels).encode())
        for weights in self.bundle.weights:
            for name, tensor in sorted(weights.items()):
                content.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return content.hexdigest()

    def plan(self, plan: Plan, config: TrainConfig) -> Plan:
        """`plan` with the bundle's network and voxel size, and patches that fit it."""
        deep = plan.network.deep_supervision
        spec = replace(self.bundle.spec, n_classes=len(self.channels), deep_supervision=deep)
        sides = self.bundle.patch_zyx
        if spec.dims == plan.network.dims:
            smaller = (min(a, b) for a, b in zip(plan.patch_zyx, sides, strict=True))
            steps = zip(smaller, spec.multiple_zyx, strict=True)
            sides = cast("tuple[int, int, int]", tuple(max(n // m, 1) * m for n, m in steps))
        spacing = plan.spacing_mm_zyx if config.spacing_mm else self.bundle.spacing_mm_zyx
        return replace(plan, network=spec, patch_zyx=sides, spacing_mm_zyx=spacing)

    def fill(self, modules: nn.Module) -> None:
        """Put the bundle's weights into the networks of a method that are of its kind.

        A network that began as a copy of another, as teachers do, stays one. A second network of
        its own gets the bundle's second, or keeps its random weights: two alike teach each other
        nothing.
        """
        networks = [part for part in modules.modules() if isinstance(part, UNet)]
        networks = [part for part in networks if self._fits(part)]
        if not networks:
            raise ConfigError(
                f"the method has no network of the kind that {self.bundle.name} holds, so nothing "
                "can be taken over; train without a start, or choose another method"
            )
        first: list[tuple[dict[str, Tensor], int]] = []
        for network in networks:
            began = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            number = next((i for other, i in first if _same(began, other)), len(first))
            first.append((began, number))
            if number < len(self.bundle.weights):
                network.load_state_dict(self._state(self.bundle.weights[number], began))

    def _fits(self, network: UNet) -> bool:
        own, theirs = network.spec, self.bundle.spec
        return (own.kind, own.channels, own.strides, own.convolutions) == (
            theirs.kind,
            theirs.channels,
            theirs.strides,
            theirs.convolutions,
        )

    def _state(self, source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `source` has for the places of `own`; the rest stays as it is."""
        state = dict(own)
        for name in set(source) & set(own):
            if name.startswith(_HEAD):
                head = own[name].clone()
                for channel, theirs in enumerate(self.channels):
                    if theirs is not None:
                        head[channel] = source[name][theirs]
                state[name] = head
            elif source[name].shape == own[name].shape:
                state[name] = source[name]
        return state


def read_start(study: Study, path: Path, classes: tuple[int, ...], emit: Emit) -> Start:
    """The bundle in `path` as a start for `classes`; an event says what is taken over.

    StudyError and SchemaError as `read_bundle`.
    """
    bundle = read_bundle(path)
    ours = [study.protocol.by_id(i) for i in classes[1:]]
    found = match(bundle.structures, ours)
    start = Start(bundle=bundle, channels=(0, *(found.get(s.id) for s in ours)))
    known = [s.name for s in ours if s.id in found]
    new = [s.name for s in ours if s.id not in found]
    left = [s.name for i, s in enumerate(bundle.structures, 1) if i not in found.values()]
    parts = [f"starts from {bundle.name}"]
    parts += [f"it knows {', '.join(known)}" if known else "no structure in common: features only"]
    parts += [f"{', '.join(new)} begin{'s' if len(new) == 1 else ''} anew"] if new else []
    parts += [f"not needed: {', '.join(left)}"] if left else []
    if bundle.study_id == study.id:
        parts.append("it comes from this study, so cases that now validate may have taught it")
    told: dict[str, Json] = {"known": [*known], "new": [*new], "left_out": [*left]}
    data: dict[str, Json] = {"start": told, "license_note": bundle.license_note}
    emit(Event(kind="progress", phase="prepare", message="; ".join(parts), data=data))
    return start


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())
