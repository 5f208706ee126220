"""MASS: multi-atlas registration of unpaired CT and MR that is consistent across both.

Chen et al., Medical Image Analysis 2022; the terms follow the released code as far as it could be
read. Here the semantic consistency is differentiable, which the release computes without a
gradient, and contrasted vectors are normalised one by one; the variant "released" keeps both, and
its terms only. The anatomical consistency is a reconstruction: its equation could not be read.
Smaller than published: decoders of 16 channels, and the finest cost volume reaches one voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.config import MODALITIES, Modality
from semiseg.data.batch import Batch
from semiseg.displacement import composed, roughness, warp
from semiseg.errors import NotEnoughLabelsError
from semiseg.flow_network import FlowNetwork, FlowSpec
from semiseg.losses import one_hot
from semiseg.methods.atlas_set import AtlasSet, fit_buffers
from semiseg.methods.base import Method, MethodSettings
from semiseg.methods.frame import Frame
from semiseg.methods.mass_terms import (
    ContrastHead,
    Task,
    Warped,
    channel_contrast,
    disagreement,
    tasks_of,
    unlike,
)
from semiseg.networks import NetworkSpec
from semiseg.similarity import local_ncc2

HIDDEN = 16
REACH, FINEST_REACH = 2, 1
TEMPERATURE = 0.1
WEIGHTS = {
    "similarity": 1.0,
    "difference": 1.0,
    "smoothness": 1.0,
    "semantic": 1.0,
    "contrast": 1.0,
    "anatomy": 1.0,
    "cross": 1.0,
    "refined": 1.0,
}
_RELEASED = ("similarity", "difference", "smoothness", "semantic", "contrast")


class Mass(Method):
    """Sum of the terms below over atlas s of the target's modality and atlas d of the other.

    similarity 1 - NCC^2 and difference (MSD) of s and the target; smoothness of all flows;
    semantic: 1 - Dice of the labels of s and d on the target; contrast of their features.
    Ours: anatomy and cross compare self-similarities of s with d, and of d with the target;
    refined is the similarity after a second pass, which prediction makes too.
    """

    uses_unlabelled = True
    uses_modalities = True
    uses_frame = True
    options: Mapping[str, tuple[str, ...]] = {"variant": ("own", "released")}

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        self.released = self.option("variant") == "released"
        spec = settings.network
        self.flow = FlowNetwork(flow_spec(spec))
        self.head = ContrastHead(spec.channels[-1], spec.dims)
        self.atlases = AtlasSet(spec.n_classes, spec.dims)
        self.modules = nn.ModuleDict(
            {"flow": self.flow, "head": self.head, "atlases": self.atlases, "frame": Frame()}
        )

    def optimizers(self) -> dict[str, Optimizer]:
        """One Adam for flow network and projection."""
        parameters = self.modules.parameters()
        return {"all": torch.optim.Adam(parameters, lr=self.settings.learning_rate)}

    def hold(self, frame: Frame, atlases: Batch) -> None:
        """Keep the atlases and where their frame lies."""
        self.modules["frame"] = frame
        self.atlases.fill(atlases, unit_grey(atlases.image))

    def make_room(self, saved: Mapping[str, Tensor]) -> None:
        """Atlases and frame get the sizes that a saved model has."""
        fit_buffers(self.modules, saved)

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Mean over the targets of the weighted sum of the terms."""
        tasks = tasks_of(batch)
        totals = [
            torch.stack([WEIGHTS[name] * value for name, value in found.items()]).sum()
            for found in (self.terms(batch, task) for task in tasks)
        ]
        nothing = sum((parameter * 0.0).sum() for parameter in self.modules.parameters())
        return {"all": torch.stack(totals).mean() + nothing if totals else torch.as_tensor(nothing)}

    def terms(self, batch: Batch, task: Task) -> dict[str, Tensor]:
        """Each term on its own, by name."""
        grey = unit_grey(batch.image[task.target : task.target + 1])
        target = self.flow.features(grey, batch.modality[task.target : task.target + 1])
        same, other = (
            None if i is None else self._warped(batch, i, target) for i in (task.same, task.other)
        )
        first = same or other
        if first is None:
            return {}
        own = batch.modality[task.target : task.target + 1]
        warped = self.flow.features(first.grey, own if same else 1 - own)
        again = self.flow(warped, target, tuple(grey.shape[2:]))
        flows = [again, *(part.flow for part in (same, other) if part is not None)]
        terms = {"smoothness": torch.stack([roughness(flow) for flow in flows]).sum()}
        if same is not None:
            terms["similarity"] = 1 - local_ncc2(same.grey, grey).mean()
            terms["difference"] = (grey - same.grey).square().mean()
            terms["refined"] = 1 - local_ncc2(warp(same.grey, again), grey).mean()
        if other is not None:
            terms["cross"] = unlike(other.grey, grey)
        if same is not None and other is not None:
            terms |= self._agreement(same, other, own, warped)
        return {n: v for n, v in terms.items() if not self.released or n in _RELEASED}

    def _agreement(
        self, same: Warped, other: Warped, modality: Tensor, features: list[Tensor]
    ) -> dict[str, Tensor]:
        """The terms that compare both warped atlases; both through the target's encoder."""
        there = self.flow.features(other.grey, modality)
        one, two = self.head(features[-1]), self.head(there[-1])
        how = (0, 1.0) if self.released else (1, TEMPERATURE)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.released):
            semantic = disagreement(same, other)
        return {
            "semantic": semantic,
            "contrast": channel_contrast(two, one, axis=how[0], temperature=how[1]),
            "anatomy": unlike(same.grey, other.grey),
        }

    def _warped(self, batch: Batch, number: int, target: list[Tensor]) -> Warped:
        part = slice(number, number + 1)
        grey = unit_grey(batch.image[part])
        atlas = self.flow.features(grey, batch.modality[part])
        flow = self.flow(atlas, target, tuple(grey.shape[2:]))
        classes = one_hot(batch.label[part], batch.known.shape[1]).float()
        moved = warp(torch.cat([grey.float(), classes], dim=1), flow)
        with torch.no_grad():  # nothing is won by moving what is not known out of sight
            known = warp(batch.known[part] * batch.valid[part].unsqueeze(1), flow)
        return Warped(grey=moved[:, :1], classes=moved[:, 1:], known=known, flow=flow)

    def predict(self, image: Tensor) -> Tensor:
        """As `predictor` of the modality that the first atlas has."""
        self._require_atlases()
        return self._predict(image, int(self.atlases.modality[0]))

    def predictor(self, modality: Modality) -> Callable[[Tensor], Tensor]:
        """Fuses the atlases of `modality`, or all where there are none of it."""
        return partial(self._predict, modality=MODALITIES.index(modality))

    def _predict(self, image: Tensor, modality: int) -> Tensor:
        """Log probabilities (B, C, *) of `image` (B, 1, *)."""
        self._require_atlases()
        grey = unit_grey(image)
        shape = tuple(grey.shape[2:])
        target = self.flow.features(grey, torch.full((len(grey),), modality))

        def register(atlas: Tensor, its: Tensor) -> Tensor:
            first = self.flow(self.flow.features(atlas, its), target, shape)
            again = self.flow.features(warp(atlas, first), its)
            return composed(first, self.flow(again, target, shape))

        return self.atlases.fused(grey, modality, register).clamp(min=1e-6).log()

    def _require_atlases(self) -> None:
        if not self.atlases.size:
            raise NotEnoughLabelsError(
                "the model holds no labelled scan to predict from; train it in a study first"
            )


def flow_spec(network: NetworkSpec) -> FlowSpec:
    """The published layout with the levels of `network`, the finest at half resolution."""
    deeper = (REACH,) * (len(network.channels) - 1)
    return FlowSpec(
        channels=network.channels,
        strides=((2,) * network.dims, *network.strides),
        radii=(FINEST_REACH, *deeper),
        hidden=HIDDEN,
        modalities=len(MODALITIES),
    )


def unit_grey(image: Tensor) -> Tensor:
    """Grey values in [0, 1], so that what is moved in from outside is dark."""
    return (image + 1) / 2
