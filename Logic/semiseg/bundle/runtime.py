"""What a bundle runs with plain MONAI: network, preprocessing, inference, and the way back.

Copied into every bundle with the few functions of SemiSeg that it uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from semiseg.images.grid import _closest_axes
from semiseg.images.intensity import normalise
from semiseg.images.resampling import zoom_linear
from semiseg.networks import NetworkSpec, build_network


class Segmenter(nn.Module):
    """One network, or several whose mean probability counts."""

    def __init__(self, spec: Mapping[str, Any], n_networks: int = 1) -> None:
        super().__init__()
        read = NetworkSpec.from_json(spec)
        self.networks = nn.ModuleList(build_network(read) for _ in range(n_networks))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, *) of `image` (B, 1, *)."""
        logits = [cast(Tensor, network(image)) for network in self.networks]
        if len(logits) == 1:
            return logits[0]
        mean = torch.stack([some.float().softmax(dim=1) for some in logits]).mean(dim=0)
        return mean.clamp(min=1e-7).log()


class ToTrainingGridd(MapTransform):  # type: ignore[misc]
    """Images (1, x, y, z) with an affine to normalised ones (1, z, y, x) on the training grid.

    Axes are turned to S, P, L, never interpolated; grey values are scaled as `modality` asks;
    then the image is brought to about `spacing_mm_zyx`. What `ToOwnGridd` needs stays under
    "<key>_own".
    """

    def __init__(
        self, keys: str | Sequence[str], spacing_mm_zyx: Sequence[float], modality: str
    ) -> None:
        super().__init__(keys)
        self.spacing_mm_zyx = tuple(float(value) for value in spacing_mm_zyx)
        self.modality = modality

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        out = dict(data)
        for key in self.keys:
            image = data[key]
            affine = np.asarray(image.affine, dtype=np.float64)
            axes, flips, spacing = _turn(affine)
            source = np.asarray(image, dtype=np.float32)[0].transpose(2, 1, 0)
            turned = np.ascontiguousarray(source.transpose(axes)[flips])
            values = normalise(turned, cast(Any, self.modality))
            extent = np.multiply(turned.shape, [spacing[axis] for axis in axes])
            shape = np.maximum(np.rint(extent / self.spacing_mm_zyx), 1).astype(int)
            small = zoom_linear(values, cast(Any, tuple(int(n) for n in shape)))
            out[key] = torch.from_numpy(small)[None]
            own = {"shape_zyx": turned.shape, "axes": axes, "flips": flips}
            meta = {name: value for name, value in image.meta.items() if name != "affine"}
            out[f"{key}_own"] = {**own, "affine": affine, "meta": meta}
        return out


class ToOwnGridd(MapTransform):  # type: ignore[misc]
    """Probabilities (C, z, y, x) on the training grid to label values on the image's own grid.

    `classes` are the label values by channel; `image_key` is what `ToTrainingGridd` had.
    """

    def __init__(
        self, keys: str | Sequence[str], classes: Sequence[int], image_key: str = "image"
    ) -> None:
        super().__init__(keys)
        self.classes, self.image_key = tuple(classes), image_key

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        out = dict(data)
        own = data[f"{self.image_key}_own"]
        for key in self.keys:
            channel = _most_probable(torch.as_tensor(data[key]).cpu(), own["shape_zyx"])
            turned = np.asarray(self.classes, dtype=np.uint16)[channel.numpy()]
            back = np.argsort(own["axes"])
            zyx = turned[own["flips"]].transpose(back)
            label = np.ascontiguousarray(zyx.transpose(2, 1, 0)).astype(np.int32)
            out[key] = MetaTensor(
                torch.from_numpy(label)[None],
                affine=torch.as_tensor(own["affine"]),
                meta=dict(own["meta"]),
            )
        return out


class ProbabilityInferer(SlidingWindowInferer):  # type: ignore[misc]
    """Sliding windows whose probabilities are blended; beyond the image they see its darkest value.

    Windows that are one voxel deep go to the network as slices.
    """

    def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> Tensor:
        self.cval = float(inputs.min())
        flat = self.roi_size[0] == 1

        def probabilities(windows: Tensor) -> Tensor:
            logits: Tensor = network(windows.squeeze(2) if flat else windows)
            found = logits.float().softmax(dim=1)
            return found.unsqueeze(2) if flat else found

        return cast(Tensor, super().__call__(inputs, probabilities))


def _turn(affine: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[slice, ...], list[float]]:
    """Axes and flips that turn (z, y, x) to S, P, L, and the spacing along z, y, x."""
    columns = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    cosines = columns / lengths
    axes_xyz = _closest_axes(cast(Any, SimpleNamespace(_axes=cosines)))
    forward = [cosines[world, axis] >= 0 for world, axis in enumerate(axes_xyz)]
    axes = tuple(2 - axis for axis in reversed(axes_xyz))
    flips = tuple(slice(None, None, 1 if keep else -1) for keep in reversed(forward))
    return axes, flips, [float(length) for length in lengths[::-1]]


def _most_probable(probabilities: Tensor, shape_zyx: Sequence[int]) -> Tensor:
    """The most probable channel (z, y, x), linearly on a grid of `shape_zyx`; one at a time."""
    best: Tensor | None = None
    channel = torch.zeros(tuple(shape_zyx), dtype=torch.int64)
    for number, values in enumerate(probabilities):
        fine = functional.interpolate(values[None, None], tuple(shape_zyx), mode="trilinear")[0, 0]
        if best is None:
            best = fine
            continue
        more = fine > best
        channel[more] = number
        best = torch.where(more, fine, best)
    return channel
