"""Networks by their description: a compact U-Net, and a transformer in its shape; 2-D and 3-D."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from semiseg.attention import TransformerBlock
from semiseg.errors import ConfigError

# By the number of axes.
CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
UP: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_SPREAD: dict[int, Callable[..., Tensor]] = {
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_KINDS = ("unet", "transformer")
_TRANSFORMER_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that is needed to build a network again.

    `channels` of each level, finest first; `strides` between one level and the next, one number
    per image axis ([z,] y, x). `convolutions` of each level's blocks. A "transformer" has one
    convolution on each level and four blocks of attention on the deepest. With `deep_supervision`
    coarse levels have heads too, which only training looks at. A 3-D network `within_slices` is
    2.5-D: the convolutions before the first stride read the slices above and below, all others
    stay in theirs. With a `stem`, one number per axis, the finest level is that much coarser than
    the image: the first convolution strides, and the last step brings features back.
    """

    n_classes: int
    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[tuple[int, ...], ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    convolutions: tuple[int, ...] = (1, 2, 2, 2)
    kind: str = "unet"
    deep_supervision: bool = False
    within_slices: bool = False
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"networks are of kind {' or '.join(_KINDS)}, got {self.kind!r}")
        if self.n_classes < 2:
            raise ConfigError(f"a network needs at least 2 classes, got {self.n_classes}")
        levels = len(self.channels)
        if len(self.strides) != levels - 1 or len(self.convolutions) != levels:
            raise ConfigError(
                f"{levels} levels need {levels - 1} strides and {levels} convolutions, "
                f"got {len(self.strides)} and {len(self.convolutions)}"
            )
        if {len(stride) for stride in self.strides} not in ({2}, {3}):
            raise ConfigError(f"strides must all be of 2 or of 3 numbers, got {self.strides}")
        if self.stem and len(self.stem) != self.dims:
            raise ConfigError(f"a stem has one number per axis, {self.dims}, got {self.stem}")
        stem = (self.stem,) if self.stem else ()
        if self.within_slices and any(len(s) == 2 or s[0] > 1 for s in (*self.strides, *stem)):
            raise ConfigError(
                "a network within slices needs strides of three numbers, the first of them 1"
            )
        if min(*self.channels, *self.convolutions, *sum(self.strides, ()), *self.stem) < 1:
            raise ConfigError("channels, convolutions, strides and stem must be at least 1")

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def multiple(self) -> tuple[int, ...]:
        """What each side of an input must be a multiple of."""
        totals = list(self.stem or (1,) * self.dims)
        for stride in self.strides:
            totals = [total * step for total, step in zip(totals, stride, strict=True)]
        return tuple(totals)

    @property
    def multiple_zyx(self) -> tuple[int, int, int]:
        """`multiple` along z, y, x; slices of 2-D networks are one voxel deep."""
        *first, y, x = self.multiple
        return (first[0] if first else 1), y, x

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """The description that `to_json` made; ConfigError names what is wrong with it."""
        ready = {name: _as_tuple(value) for name, value in values.items()}
        try:
            return cls(**ready)
        except TypeError as error:
            raise ConfigError(f"not a network description: {error}") from error


class UNet(nn.Module):
    """U-Net with instance norm, strided convolutions down and transposed ones up.

    Skips are added, not stacked: on a CPU nearly all time goes into the finest level, and adding
    halves it there.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        channels, one = spec.channels, (1,) * spec.dims
        convolutions = spec.convolutions if spec.kind == "unet" else (1,) * len(channels)
        blocks = 0 if spec.kind == "unet" else _TRANSFORMER_BLOCKS
        steps = [spec.stem or one, *spec.strides]
        inputs = [1, *channels]
        flat = [spec.within_slices and i > 0 for i in range(len(channels))]
        self.down = nn.ModuleList(
            conv_block(inputs[i], channels[i], convolutions[i], steps[i], flat=flat[i])
            for i in range(len(channels))
        )
        self.middle = nn.Sequential(
            *(TransformerBlock(channels[-1], spec.dims) for _ in range(blocks))
        )
        self.up = nn.ModuleList(
            UP[spec.dims](channels[i + 1], channels[i], spec.strides[i], spec.strides[i])
            for i in range(len(channels) - 1)
        )
        self.merge = nn.ModuleList(
            conv_block(channels[i], channels[i], convolutions[i], one, flat=spec.within_slices)
            for i in range(len(channels) - 1)
        )
        self.finish: nn.Module = nn.Identity()
        if spec.stem:
            self.finish = UP[spec.dims](channels[0], channels[0], spec.stem, spec.stem)
        self.head = CONV[spec.dims](channels[0], spec.n_classes, 1)
        coarse = channels[1:-1] if spec.deep_supervision else ()
        self.coarse_heads = nn.ModuleList(CONV[spec.dims](n, spec.n_classes, 1) for n in coarse)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Decoded features (B, channels[i], *) of `image` (B, 1, *), finest level first."""
        levels: list[Tensor] = []
        for block in self.down:
            levels.append(block(levels[-1] if levels else image))
        decoded: list[Tensor] = [self.middle(levels.pop())]
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            decoded.append(merge(up(decoded[-1]) + levels.pop()))
        return decoded[::-1]

    def features(self, image: Tensor) -> Tensor:
        """Features (B, channels[0], *) of `image` (B, 1, *) at full resolution."""
        features: Tensor = self.finish(self.pyramid(image)[0])
        return features

    def outputs(self, image: Tensor) -> list[Tensor]:
        """Logits (B, n_classes, *) of `image`, then those of each coarse level that has a head."""
        decoded = self.pyramid(image)
        coarse = zip(self.coarse_heads, decoded[1:], strict=False)
        return [self.logits(decoded[0]), *(head(level) for head, level in coarse)]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, n_classes, *) of `image` (B, 1, *)."""
        return self.logits(self.pyramid(image)[0])

    def logits(self, finest: Tensor) -> Tensor:
        """Logits of the finest level of `pyramid`: `head` after `finish`.

        Both are linear, so with a stem they are joined beforehand, which saves the features at full
        resolution.
        """
        if not self.spec.stem:
            logits: Tensor = self.head(finest)
            return logits
        (kernels, shift), (mix, bias) = self.finish.parameters(), self.head.parameters()
        head = mix.flatten(1)
        joined = torch.einsum("nc,ick->ink", head, kernels.flatten(2))
        joined = joined.view(*joined.shape[:2], *kernels.shape[2:])
        spread = _SPREAD[self.spec.dims]
        return spread(finest, joined, head @ shift + bias, stride=self.spec.stem)


def build_network(spec: NetworkSpec) -> UNet:
    """The untrained network of `spec`; its weights come from torch's global generator."""
    return UNet(spec)


def conv_block(
    n_in: int, n_out: int, n_convolutions: int, stride: Sequence[int], *, flat: bool
) -> nn.Sequential:
    """`n_convolutions` times convolution, instance norm, leaky ReLU; the first one strides.

    Kernels have three voxels along each axis, `flat` ones only one along the first.
    """
    kernel = (1, 3, 3) if flat else (3,) * len(stride)
    dims = len(stride)
    layers: list[nn.Module] = []
    for i in range(n_convolutions):
        first = i == 0
        layers += [
            CONV[dims](
                n_in if first else n_out,
                n_out,
                kernel,
                stride=tuple(stride) if first else 1,
                padding=tuple(n // 2 for n in kernel),
                bias=False,
            ),
            NORM[dims](n_out, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list | tuple) else value
