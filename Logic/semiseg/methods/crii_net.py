"""CRII-Net: coarse-refined consistency and ranked patches (Du et al., JBHI 2023).

Only the abstract could be read and no code was released. Both heads, the consistency
between them and both ranked losses are reconstructions from that abstract; none of the equations
and weights below is the authors'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.losses import ramp
from semiseg.methods.base import Method, MethodSettings
from semiseg.methods.border_patches import Patch, patches_of
from semiseg.methods.pair import half_and_half
from semiseg.networks import CONV, build_network, conv_block

RANKED_WEIGHT = 0.1
INTRA_MARGIN, INTER_MARGIN = 0.3, 0.5
EMBEDDED = 16


class CoarseRefined(Method):
    """L = L_sup + ramp(progress) L_cons + 0.1 L_intra + 0.1 L_inter on one network, two heads.

    The refined head sees the features and, added to them, what a 1 x 1 convolution makes of the
    coarse head's probabilities; it has as many convolutions as the network's finest level, and it
    predicts. L_sup: (CE + Dice) / 2 of each head. L_cons (reconstructed): mean
    (p_coarse - p_refined)^2 over unlabelled samples; p_refined is the stable target, no gradient
    goes there. L_intra and L_inter (reconstructed): see `intra_loss` and `inter_loss`, on patches
    around the borders of labelled structures, 32 pixels or 16 voxels wide.
    """

    uses_unlabelled = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        spec = settings.network
        convolution = CONV[spec.dims]
        n_features, n_classes = spec.channels[0], spec.n_classes
        one, depth = (1,) * spec.dims, spec.convolutions[0]
        self.network = build_network(spec)
        self.hint = convolution(n_classes, n_features, 1)
        self.refining = nn.Sequential(
            conv_block(n_features, n_features, depth, one, flat=spec.within_slices),
            convolution(n_features, n_classes, 1),
        )
        self.projector = nn.Linear(n_features, EMBEDDED)
        self.modules = nn.ModuleDict(
            {
                "network": self.network,
                "hint": self.hint,
                "refining": self.refining,
                "projector": self.projector,
            }
        )

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW with weight decay 1e-4; the authors' is not known."""
        rate = self.settings.learning_rate
        return {"network": torch.optim.AdamW(self.modules.parameters(), lr=rate, weight_decay=1e-4)}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """All four terms on one forward pass."""
        features = self.network.features(batch.image)
        coarse, refined = self.heads(features)
        loss = half_and_half(coarse, batch) + half_and_half(refined, batch)
        if not batch.all_labelled:
            blind = slice(batch.n_labelled, None)
            loss = loss + ramp(progress, 1.0) * consistency(coarse[blind], refined[blind])
        patches = patches_of(features, self.projector, batch, coarse.shape[1])
        ranked = intra_loss(patches) + inter_loss(patches) if patches else 0.0 * features.sum()
        return {"network": loss + RANKED_WEIGHT * ranked}

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse and refined logits (B, C, *) of `features`."""
        coarse: Tensor = self.network.head(features)
        return coarse, self.refining(features + self.hint(coarse.softmax(dim=1)))

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the refined head."""
        return self.heads(self.network.features(image))[1]


def consistency(coarse: Tensor, refined: Tensor) -> Tensor:
    """Mean squared difference of probabilities over all voxels; only `coarse` has a gradient."""
    target = refined.detach().float().softmax(dim=1)
    return (coarse.float().softmax(dim=1) - target).square().mean()


def intra_loss(patches: Sequence[Patch]) -> Tensor:
    """Within each patch: nearer to the farthest of the own side than to the nearest of the other.

    Mean over patches of the mean over inner voxels a of the ranked hinge of max d(a, inner) and
    min d(a, outer), margin 0.3; d = 1 - cosine.
    """
    hinges = []
    for patch in patches:
        farthest = (1 - patch.inner @ patch.inner.T).amax(dim=1)
        nearest = (1 - patch.inner @ patch.outer.T).amin(dim=1)
        hinges.append(ranked_hinge(farthest, nearest, INTRA_MARGIN).mean())
    return torch.stack(hinges).mean()


def inter_loss(patches: Sequence[Patch]) -> Tensor:
    """Among patches: nearer to the farthest of the structure than to the nearest other patch.

    Patches are ranked by contrast; anchors are those of the lower half, because structures of low
    contrast are what the authors want to help. Others: patches of other structures, and all
    backgrounds. Margin 0.5. 0 with a gradient where no structure has two patches.
    """
    whole = torch.stack([patch.whole for patch in patches])
    around = [patch.around for patch in patches if patch.around is not None]
    everything = torch.cat([whole, torch.stack(around)]) if around else whole
    number = torch.tensor([patch.structure for patch in patches], device=whole.device)
    numbers = torch.cat([number, number.new_zeros(len(around))])
    same = number[:, None] == numbers
    other, same = ~same, same & ~torch.eye(*same.shape, dtype=torch.bool, device=same.device)
    anchors = lower_half(patches, same.any(dim=1) & other.any(dim=1))
    if not anchors:
        return 0.0 * whole.sum()
    distance = 1 - whole[anchors] @ everything.T
    farthest = distance.masked_fill(~same[anchors], -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(~other[anchors], torch.inf).amin(dim=1)
    return ranked_hinge(farthest, nearest, INTER_MARGIN).mean()


def lower_half(patches: Sequence[Patch], usable: Tensor) -> list[int]:
    """Which of the `usable` patches have the lower contrasts: half of them, rounded up."""
    able = [i for i, is_usable in enumerate(usable.tolist()) if is_usable]
    return sorted(able, key=lambda i: patches[i].contrast)[: (len(able) + 1) // 2]


def ranked_hinge(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """max(0, d(a, p) - d(a, n) + margin)."""
    return (positive - negative + margin).clamp(min=0)
