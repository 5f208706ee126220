"""MAML: modality-aware mutual learning of a network per modality (Zhang et al., MICCAI 2021).

Architecture and weights follow the slides and the released code; the weight lambda of the
single-stream losses could not be read in the paper, and is that of the code. What the paper trains
on, registered volumes of one patient, are here a case's image and companions; for scans without,
a volume of another patient may stand in that registration brought onto the case's grid, which
counts less. "Mutual" learning is the joint loss, whose gradient runs through the fusion into all
streams: there is no other term between them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.config import MODALITIES, Modality
from semiseg.data.batch import Batch
from semiseg.losses import deep_supervised_loss, supervised_loss
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import CONV, NetworkSpec, UNet, build_network, conv_block

_NARROWEST = 4


class ModalityAwareMutualLearning(Method):
    """L = w_0 L_joint + sum_i sum_s w_s L_intra(i, s), each L cross-entropy and Dice.

    w_s = 2^-s over the resolutions that have a head, normalised: without deep supervision
    w_0 = 1, and joint and single-stream losses weigh the same. Each stream is a U-Net of half the
    planned width. Samples with one volume have no joint loss, and the head of their stream is what
    predicts them.
    """

    uses_modalities = True
    uses_companions = True
    deeply_supervised = True

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        whole = settings.network
        spec = replace(whole, channels=tuple(_halved(n) for n in whole.channels))
        self.streams = settings.streams or MODALITIES
        self.networks = [build_network(spec) for _ in self.streams]
        self.fusion = Fusion(self.networks)
        levels = 1 + len(self.networks[0].coarse_heads)
        self.joint_weight = 1 / (2 - 0.5 ** (levels - 1))
        # Not named after streams, whose names may be anything.
        named = {f"stream{k}": network for k, network in enumerate(self.networks)}
        self.modules = nn.ModuleDict({**named, "fusion": self.fusion})

    def optimizers(self) -> dict[str, Optimizer]:
        """One AdamW, because the fusion joins all networks; the paper has SGD."""
        rate = self.settings.learning_rate
        return {"all": torch.optim.AdamW(self.modules.parameters(), lr=rate, weight_decay=1e-4)}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Both kinds of terms on one forward pass of each stream."""
        volumes, weight = self._volumes(batch)
        present = weight > 0
        decoded = self.decoded(volumes, present)
        parts = [
            deep_supervised_loss(_heads(network, levels), *_known(batch, rows, weight[:, k]))
            for k, (network, (rows, levels)) in enumerate(zip(self.networks, decoded, strict=True))
            if len(rows)
        ]
        several = (present.sum(dim=1) > 1).nonzero().flatten()
        if len(several):
            finest = [(rows, levels[0]) for rows, levels in decoded if len(rows)]
            ones = torch.ones_like(weight[:, 0])
            joint = self.fusion(_stacked(finest, present)[several], present[several])
            parts.append(self.joint_weight * supervised_loss(joint, *_known(batch, several, ones)))
        return {"all": torch.stack(parts).sum()}

    def decoded(self, volumes: Tensor, present: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Per stream, the samples that have it and their pyramids; volumes (B, K, *)."""
        found: list[tuple[Tensor, list[Tensor]]] = []
        for k, network in enumerate(self.networks):
            rows = present[:, k].nonzero().flatten()
            pyramid = network.pyramid(volumes[rows, k, None]) if len(rows) else []
            found.append((rows, pyramid))
        return found

    def predict(self, image: Tensor) -> Tensor:
        """Logits of the first stream's own head."""
        logits: Tensor = self.networks[0](image)
        return logits

    def predictor(self, modality: Modality) -> Callable[[Tensor], Tensor]:
        """The head of the modality's stream; of the first one where it has none."""
        return self.networks[self._stream_of(modality)]

    def joint_predictor(self, present: tuple[bool, ...]) -> Callable[[Tensor], Tensor]:
        """Fused logits of the streams `present`; those of its own head where it is only one."""
        some = [k for k, here in enumerate(present) if here]

        def alone(volumes: Tensor) -> Tensor:
            logits: Tensor = self.networks[some[0]](volumes[:, some[0], None])
            return logits

        def fused(volumes: Tensor) -> Tensor:
            mask = torch.tensor(present, device=volumes.device).expand(len(volumes), -1)
            finest = [(rows, p[0]) for rows, p in self.decoded(volumes, mask) if len(rows)]
            logits: Tensor = self.fusion(_stacked(finest, mask), mask)
            return logits

        return alone if len(some) == 1 else fused

    def _stream_of(self, modality: str) -> int:
        return self.streams.index(modality) if modality in self.streams else 0

    def _volumes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Volumes (B, K, *) and their weights (B, K); the image alone where there is no more."""
        if batch.companions is not None and batch.present is not None:
            return batch.companions, batch.present
        own = [self._stream_of(MODALITIES[m]) for m in batch.modality.tolist()]
        weight = torch.zeros(batch.size, len(self.streams), device=batch.image.device)
        weight[range(batch.size), own] = 1
        shape = (batch.size, len(self.streams), *batch.image.shape[2:])
        return batch.image.expand(shape), weight


class Fusion(nn.Module):
    """F_att = sum_i A_i F_i of the streams' finest features, and its head.

    F_dual = conv(cat F); A_i = sigmoid(conv(LReLU(IN(conv(cat(F_i, F_dual)))))), all convolutions
    of 3 voxels as in the released code (slides: the last of 1). A missing stream is 0 in F_dual
    and has A_i = 0.
    """

    def __init__(self, networks: Sequence[UNet]) -> None:
        super().__init__()
        spec, n = networks[0].spec, networks[0].spec.channels[0]
        self.dual = _convolution(spec, len(networks) * n, n)
        self.gates = nn.ModuleList(_gate(spec, n) for _ in networks)
        self.finish = copy.deepcopy(networks[0].finish)
        self.head = copy.deepcopy(networks[0].head)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Logits (B, C, *) of `features` (B, K, F, *), where `present` (B, K)."""
        dual = self.dual(features.flatten(1, 2))
        gates = [
            gate(torch.cat([features[:, k], dual], dim=1)) for k, gate in enumerate(self.gates)
        ]
        fused = attended(features, torch.stack(gates, dim=1), present)
        logits: Tensor = self.head(self.finish(fused))
        return logits


def attended(features: Tensor, gates: Tensor, present: Tensor) -> Tensor:
    """sum_i sigmoid(`gates`_i) F_i over the streams `present` (B, K); all (B, K, F, *)."""
    here = present.view(*present.shape, *(1,) * (features.dim() - 2))
    return (gates.sigmoid() * features * here).sum(dim=1)


def _stacked(finest: Sequence[tuple[Tensor, Tensor]], present: Tensor) -> Tensor:
    """(B, K, F, *) of the present streams' samples and features, 0 where one is missing."""
    found = iter(finest)
    like = finest[0][1]
    columns = []
    for k in range(present.shape[1]):
        column = like.new_zeros(len(present), *like.shape[1:])
        if present[:, k].any():
            rows, features = next(found)
            column = column.index_copy(0, rows, features)
        columns.append(column)
    return torch.stack(columns, dim=1)


def _heads(network: UNet, pyramid: Sequence[Tensor]) -> list[Tensor]:
    """Logits of the finest level, then those of each coarse level that has a head."""
    coarse = zip(network.coarse_heads, pyramid[1:], strict=False)
    return [network.logits(pyramid[0]), *(head(level) for head, level in coarse)]


def _known(batch: Batch, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """label, valid and known of some samples, which count `weight` (B,)."""
    valid = batch.valid[rows] * weight[rows].view(-1, *(1,) * (batch.valid.dim() - 1))
    return batch.label[rows], valid, batch.known[rows]


def _halved(channels: int) -> int:
    """Half of `channels`; very narrow networks stay as they are."""
    return max(channels // 2, min(channels, _NARROWEST))


def _convolution(spec: NetworkSpec, n_in: int, n_out: int) -> nn.Module:
    kernel = (1, 3, 3) if spec.within_slices else (3,) * spec.dims
    return CONV[spec.dims](n_in, n_out, kernel, padding=tuple(n // 2 for n in kernel))


def _gate(spec: NetworkSpec, n: int) -> nn.Sequential:
    first = conv_block(2 * n, n, 1, (1,) * spec.dims, flat=spec.within_slices)
    return nn.Sequential(first, _convolution(spec, n, n))
