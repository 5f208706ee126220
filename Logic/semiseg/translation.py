"""Unpaired translation between CT and MR: generators, patch discriminators and their losses.

CycleGAN (Zhu et al., ICCV 2017) with least squares, small enough for a CPU. MONAI's discriminator
halves its input five times, which patches of a few slices do not bear; hence one of our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from semiseg.config import MODALITIES, Modality
from semiseg.networks import CONV, NORM, UP, NetworkSpec, conv_block

OTHER: Mapping[Modality, Modality] = {"CT": "MR", "MR": "CT"}
WEIGHTS: Mapping[str, float] = {
    "adversarial": 1.0,
    "cycle": 10.0,
    "identity": 5.0,
    "structure": 1.0,
    "divergence": 0.01,
}
_RESIDUAL_BLOCKS = 2
_LARGEST_GREY = 0.95
_EDGE_NOISE = 0.1
ByModality = Mapping[Modality, Tensor]


class Generator(nn.Module):
    """Grey values (B, 1, *) in [-1, 1] to those of the other modality.

    Two strided convolutions, two residual blocks, and back; what comes out is added to the image's
    own greys before tanh, so that an untrained generator changes little. No convolution runs at
    full resolution. A `variational` one adds noise of variance 1 to the deepest features
    in training (as Liu et al., NIPS 2017, do), whose divergence from N(0, 1) is then a loss.
    """

    def __init__(self, spec: NetworkSpec, *, variational: bool) -> None:
        super().__init__()
        width, dims, flat = spec.channels[0], spec.dims, spec.within_slices
        first, second = _two_steps(spec)
        one = (1,) * dims
        self.enter = Blocks(dims, width, first)
        self.down = conv_block(width, 2 * width, 1, second, flat=flat)
        self.code = CONV[dims](2 * width, 2 * width, 1) if variational else None
        self.middle = nn.ModuleList(
            conv_block(2 * width, 2 * width, 1, one, flat=flat) for _ in range(_RESIDUAL_BLOCKS)
        )
        self.up = UP[dims](2 * width, width, second, second)
        self.merge = nn.Sequential(CONV[dims](width, width, 1), nn.LeakyReLU(0.2, inplace=True))
        self.leave = UP[dims](width, 1, first, first)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The translated image, and the divergence of its code: 0 without one."""
        fine = self.enter(image)
        deep = self.down(fine)
        divergence = deep.new_zeros(())
        if self.code is not None:
            deep = self.code(deep)
            divergence = deep.float().square().mean() / 2
            deep = deep + torch.randn_like(deep) if self.training else deep
        for block in self.middle:
            deep = deep + block(deep)
        change = self.leave(self.merge(self.up(deep) + fine)).float()
        own = (image.float() * _LARGEST_GREY).atanh()
        return torch.tanh(own + change), divergence


class Blocks(nn.Module):
    """Blocks of `step` voxels side by side, each to `width` features.

    The same as a convolution that strides as far as its kernel reaches, in less time on a CPU.
    """

    def __init__(self, dims: int, width: int, step: tuple[int, ...]) -> None:
        super().__init__()
        self.step = step
        self.mix = CONV[dims](math.prod(step), width, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, width, *) of `image` (B, 1, *), coarser by `step`."""
        n, sides = len(self.step), [s // t for s, t in zip(image.shape[2:], self.step, strict=True)]
        split = [value for pair in zip(sides, self.step, strict=True) for value in pair]
        blocks = image.reshape(len(image), *split)
        within, between = range(2, 2 * n + 1, 2), range(1, 2 * n, 2)
        stacked = blocks.permute(0, *within, *between).reshape(len(image), -1, *sides)
        found: Tensor = functional.leaky_relu(self.mix(stacked), 0.2)
        return found


class Discriminator(nn.Module):
    """Scores (B, 1, *) of overlapping patches of an image (B, 1, *): 1 real, 0 made."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        width, dims = spec.channels[0], spec.dims
        first, second = _two_steps(spec)
        one = (1,) * dims
        self.layers = nn.Sequential(
            Blocks(dims, width, first),
            _conv(dims, width, 2 * width, second),
            _conv(dims, 2 * width, 2 * width, one),
            CONV[dims](2 * width, 1, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Scores, coarser than the image."""
        scores: Tensor = self.layers(image).float()
        return scores


@dataclass(frozen=True, kw_only=True)
class Translated:
    """By the modality that each image (B, 1, *) looks like.

    `made` from `real` of the other modality, `same` from `real` of this one, `returned` from
    `made` of the other. `divergence` of all codes together.
    """

    real: ByModality
    made: ByModality
    same: ByModality
    returned: ByModality
    divergence: Tensor


class Translation(nn.Module):
    """A generator and a discriminator for each modality."""

    def __init__(self, spec: NetworkSpec, *, variational: bool) -> None:
        super().__init__()
        self.generators = nn.ModuleDict(
            {m: Generator(spec, variational=variational) for m in MODALITIES}
        )
        self.discriminators = nn.ModuleDict({m: Discriminator(spec) for m in MODALITIES})

    def forward(self, real: ByModality) -> Translated:
        """Everything that the losses look at; one modality may have no image.

        Grey values beyond [-1, 1] are clipped.
        """
        real = {modality: image.clamp(-1, 1) for modality, image in real.items()}
        made: dict[Modality, Tensor] = {}
        same: dict[Modality, Tensor] = {}
        returned: dict[Modality, Tensor] = {}
        divergences = []
        for modality in MODALITIES:
            source = real[OTHER[modality]]
            both, divergence = self.generators[modality](torch.cat([source, real[modality]]))
            made[modality], same[modality] = both[: len(source)], both[len(source) :]
            divergences.append(divergence)
        for modality in MODALITIES:
            source = made[OTHER[modality]]
            returned[modality] = source
            if len(source):
                returned[modality], divergence = self.generators[modality](source)
                divergences.append(divergence)
        together = torch.stack(divergences).sum()
        return Translated(real=real, made=made, same=same, returned=returned, divergence=together)

    def generator_terms(self, found: Translated) -> dict[str, Tensor]:
        """Each term by its name in `WEIGHTS`, both directions added."""
        scores = [self.discriminators[m](found.made[m]) for m in MODALITIES if len(found.made[m])]
        return {
            "adversarial": _sum([least_squares(score, 1.0) for score in scores]),
            "cycle": _sum([l1(found.returned[m], found.real[m]) for m in MODALITIES]),
            "identity": _sum([l1(found.same[m], found.real[m]) for m in MODALITIES]),
            "structure": _sum(
                [edge_difference(found.made[m], found.real[OTHER[m]]) for m in MODALITIES]
            ),
            "divergence": found.divergence,
        }

    def generator_loss(self, found: Translated) -> Tensor:
        """The weighted sum of `generator_terms`."""
        terms = self.generator_terms(found)
        return _sum([WEIGHTS[name] * term for name, term in terms.items()])

    def discriminator_loss(self, found: Translated) -> Tensor:
        """Half the squared error of both kinds of scores, both modalities added; made images carry
        no gradient.
        """
        parts = []
        for modality in MODALITIES:
            real, made = found.real[modality], found.made[modality].detach()
            scores = self.discriminators[modality](torch.cat([real, made]))
            of_real, of_made = scores[: len(real)], scores[len(real) :]
            parts.append((least_squares(of_real, 1.0) + least_squares(of_made, 0.0)) / 2)
        return _sum(parts)


def least_squares(scores: Tensor, wanted: float) -> Tensor:
    """Mean of (score - wanted)^2 (Mao et al., ICCV 2017); 0 for no score."""
    return _mean((scores - wanted).square())


def l1(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference; 0 for empty batches."""
    return _mean((one.float() - other.float()).abs())


def edge_difference(one: Tensor, other: Tensor) -> Tensor:
    """1 - mean of (g1 . g2)^2 / ((|g1|^2 + e^2)(|g2|^2 + e^2)), e = 0.1, of images (B, 1, *).

    Edges should lie in the same places, whichever side is brighter (normalised gradient fields,
    Haber and Modersitzki 2006). g: forward differences; where one image has edges and the other
    none, a voxel counts 1. 0 for empty batches.
    """
    first, second = _gradients(one), _gradients(other)
    common = (first * second).sum(dim=1).square()
    noise = _EDGE_NOISE**2
    sizes = (first.square().sum(dim=1) + noise) * (second.square().sum(dim=1) + noise)
    return _mean(1 - common / sizes)


def _gradients(image: Tensor) -> Tensor:
    """Forward differences (B, dims, *) of `image` (B, 1, *), one voxel less along each axis."""
    axes = range(2, image.dim())
    parts = []
    for axis in axes:
        step = image.float().diff(dim=axis)
        for other in axes:
            step = step if other == axis else step.narrow(other, 0, image.shape[other] - 1)
        parts.append(step[:, 0])
    return torch.stack(parts, dim=1)


def _two_steps(spec: NetworkSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first two strides of `spec`, its stem's included."""
    steps = [step for step in (spec.stem, *spec.strides) if step]
    return steps[0], steps[1] if len(steps) > 1 else (1,) * spec.dims


def _conv(dims: int, n_in: int, n_out: int, stride: tuple[int, ...]) -> nn.Sequential:
    """Convolution of three voxels along each axis, instance norm, leaky ReLU."""
    return nn.Sequential(
        CONV[dims](n_in, n_out, 3, stride=stride, padding=1, bias=False),
        NORM[dims](n_out, affine=True),
        nn.LeakyReLU(0.2, inplace=True),
    )


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum()
