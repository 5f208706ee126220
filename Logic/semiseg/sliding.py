"""Class probabilities of a large volume in a stream of slices, so that memory stays small.

Windows lie and weigh as in MONAI's sliding-window inferer (Gaussian blending); they are summed in
one band as deep as a window, and slices that no later window touches leave it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor
from torch.nn import functional

BAND_BYTES = 900_000_000
_CHUNK_VALUES = 1 << 22
_GPU_BATCH = 4
_SMALLEST_SIDE = 16
_TRIES = 3
Predictor = Callable[[Tensor], Tensor]
Box = tuple[slice, ...]
Zyx = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Window size in voxels, overlap as a fraction, and where the windows run and are summed."""

    window_zyx: Zyx
    overlap: float
    batch: int
    device: torch.device
    sum_on: torch.device


def window_plans(
    shape_zyx: Zyx,
    channels: int,
    *,
    window_zyx: Zyx,
    multiple_zyx: Zyx,
    overlap: float,
    device: torch.device,
) -> list[WindowPlan]:
    """How to run over a volume, from the fastest way to the one that needs the least memory.

    Windows are made less deep where their band of slices would pass `BAND_BYTES`; their sides
    stay multiples of `multiple_zyx`. The last resort of a GPU is the CPU.
    """
    cpu = torch.device("cpu")
    window = _shallow_enough(window_zyx, multiple_zyx, 4 * channels * shape_zyx[1] * shape_zyx[2])
    windows = _ever_smaller(window, multiple_zyx)
    choices = [(some, 1, cpu, cpu) for some in windows]
    if device.type == "cuda":
        first = (window, _GPU_BATCH, device, device)
        choices = [first, *((some, 1, device, cpu) for some in windows), *choices]
    return [
        WindowPlan(window_zyx=some, overlap=overlap, batch=batch, device=where, sum_on=sum_on)
        for some, batch, where, sum_on in choices
    ]


def count_windows(shape_zyx: Zyx, plan: WindowPlan) -> int:
    """Number of windows that cover a volume of `shape_zyx`."""
    return len(_boxes(shape_zyx, plan))


def stream_probabilities(
    predictor: Predictor,
    image: Tensor,
    plan: WindowPlan,
    *,
    fill: float,
    on_windows: Callable[[int], None],
) -> Iterator[Tensor]:
    """Blended probabilities (C, d, H, W) of `image` (D, H, W), a few slices at a time in order.

    `predictor` maps windows (B, 1, *window) to probabilities (B, C, *window). Several volumes
    (K, D, H, W) of one image make windows (B, K, *window). Beyond the image's edge windows see
    `fill`. `on_windows` hears how many windows are finished.
    """
    weight = compute_importance_map(plan.window_zyx, mode="gaussian", sigma_scale=0.125)
    weight = torch.as_tensor(weight, device=plan.sum_on)
    band: _Band | None = None
    done = 0
    for start, row in groupby(_boxes(_shape(image), plan), key=lambda box: box[0].start):
        boxes = list(row)
        if band is not None:
            yield from band.pop(max(start, 0))
        for some in (boxes[i : i + plan.batch] for i in range(0, len(boxes), plan.batch)):
            windows = torch.stack([_cut(image, box, fill) for box in some])
            windows = windows if image.dim() == 4 else windows[:, None]
            out = predictor(windows.to(plan.device)).to(plan.sum_on)
            if band is None:
                band = _Band(out.shape[1], _shape(image), plan)
            for box, values in zip(some, out, strict=True):
                band.add(box, values, weight)
            done += len(some)
            on_windows(done)
    if band is not None:
        yield from band.pop(_shape(image)[0])


def upsample(
    chunks: Iterable[Tensor], source_zyx: tuple[int, ...], target_zyx: tuple[int, ...]
) -> Iterator[tuple[int, Tensor]]:
    """(first slice, values (C, n, H, W)) on a grid of the same extent with other voxel numbers.

    Linear along each axis with the outer voxel edges of both grids in the same place.
    """
    low, high, share = _linear_steps(source_zyx[0], target_zyx[0])
    band: Tensor | None = None
    first = k = 0
    for chunk in chunks:
        band = chunk if band is None else torch.cat([band, chunk], dim=1)
        ready = int(np.searchsorted(high, first + band.shape[1], side="left"))
        step = _slices_at_once(band.shape[0], target_zyx[1:])
        for start in range(k, ready, step):
            part = slice(start, min(start + step, ready))
            yield (
                start,
                _resize(band, low[part] - first, high[part] - first, share[part], target_zyx),
            )
        k = max(k, ready)
        keep = first + band.shape[1]
        keep = min(keep, int(low[k])) if k < target_zyx[0] else keep
        band, first = band[:, keep - first :].clone(), keep


def label_and_uncertainty(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Most probable channel (n, H, W) and entropy in [0, 1] of `probabilities` (C, n, H, W).

    1 stands for all C classes being equally probable.
    """
    entropy = torch.special.entr(probabilities).sum(dim=0)
    entropy /= float(np.log(probabilities.shape[0]))
    channel = probabilities.max(dim=0).indices  # a third of the time of argmax on a CPU
    return channel, entropy.clamp_(0, 1)


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / sum p^(1/T) of `probabilities` (C, n, H, W): the same order, surer or less sure."""
    if temperature == 1:
        return probabilities
    return probabilities.clamp_min(1e-12).log().div_(temperature).softmax(dim=0)


def _shallow_enough(window: Zyx, multiple: Zyx, slice_bytes: int) -> Zyx:
    while window[0] * slice_bytes > BAND_BYTES:
        less = _halved(window, 0, multiple)
        if less == window:
            break
        window = less
    return window


def _ever_smaller(window: Zyx, multiple: Zyx) -> list[Zyx]:
    windows = [window]
    while len(windows) < _TRIES:
        last = windows[-1]
        less = _halved(last, last.index(max(last)), multiple)
        if less == last:
            break
        windows.append(less)
    return windows


def _halved(window: Zyx, axis: int, multiple: Zyx) -> Zyx:
    """`window` with half the side along `axis`, rounded up; the same if that is too small."""
    step = multiple[axis]
    side = -(-window[axis] // (2 * step)) * step
    sides = list(window)
    if side >= _SMALLEST_SIDE:
        sides[axis] = min(side, window[axis])
    return sides[0], sides[1], sides[2]


class _Band:
    """The weighted sums of as many slices as a window is deep."""

    def __init__(self, channels: int, shape_zyx: Zyx, plan: WindowPlan) -> None:
        depth = min(plan.window_zyx[0], shape_zyx[0])
        plane = shape_zyx[1:]
        self._shape = shape_zyx
        self._sums = torch.zeros(channels, depth, *plane, device=plan.sum_on)
        self._weights = torch.zeros(depth, *plane, device=plan.sum_on)
        self._first = 0

    def add(self, box: Box, values: Tensor, weight: Tensor) -> None:
        """Add `values` (C, *window) at `box`, leaving out what lies beyond the image."""
        inside = tuple(_inside(part, n) for part, n in zip(box, self._shape, strict=True))
        own = tuple(
            slice(b.start - a.start, b.stop - a.start) for a, b in zip(box, inside, strict=True)
        )
        z = slice(inside[0].start - self._first, inside[0].stop - self._first)
        target = (z, *inside[1:])
        self._weights[target] += weight[own]
        self._sums[(slice(None), *target)] += values[(slice(None), *own)].float() * weight[own]

    def pop(self, until: int) -> Iterator[Tensor]:
        """The finished slices before `until`; the others move to the front."""
        n = until - self._first
        step = _slices_at_once(self._sums.shape[0], self._shape[1:])
        for start in range(0, n, step):
            part = slice(start, min(start + step, n))
            yield self._sums[:, part] / self._weights[part]
        depth = self._weights.shape[0]
        for to in range(depth):
            if to + n < depth:
                self._sums[:, to] = self._sums[:, to + n]
                self._weights[to] = self._weights[to + n]
            else:
                self._sums[:, to] = 0
                self._weights[to] = 0
        self._first = until


def _boxes(shape_zyx: Zyx, plan: WindowPlan) -> list[Box]:
    """Windows in the image's coordinates, sorted by depth; they may reach beyond the image."""
    padded = tuple(max(n, w) for n, w in zip(shape_zyx, plan.window_zyx, strict=True))
    before = tuple((p - n) // 2 for p, n in zip(padded, shape_zyx, strict=True))
    steps = tuple(
        w if w == p else max(1, int(w * (1 - plan.overlap)))
        for w, p in zip(plan.window_zyx, padded, strict=True)
    )
    found = dense_patch_slices(padded, plan.window_zyx, steps, return_slice=False)
    starts = sorted(tuple(int(pair[0]) for pair in box) for box in found)
    return [
        tuple(
            slice(s - b, s - b + w) for s, b, w in zip(start, before, plan.window_zyx, strict=True)
        )
        for start in starts
    ]


def _cut(image: Tensor, box: Box, fill: float) -> Tensor:
    inside = tuple(_inside(part, n) for part, n in zip(box, _shape(image), strict=True))
    z, y, x = inside
    window = image[..., z, y, x]
    pad = [
        amount
        for a, b in zip(reversed(box), reversed(inside), strict=True)
        for amount in (b.start - a.start, a.stop - b.stop)
    ]
    return functional.pad(window, pad, value=fill) if any(pad) else window


def _inside(part: slice, n: int) -> slice:
    return slice(max(part.start, 0), min(part.stop, n))


def _shape(image: Tensor) -> Zyx:
    depth, height, width = image.shape[-3:]
    return depth, height, width


def _slices_at_once(channels: int, plane: tuple[int, ...]) -> int:
    return max(1, _CHUNK_VALUES // (channels * plane[0] * plane[1]))


def _linear_steps(n_from: int, n_to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source index and the upper one's share for each target index."""
    place = (np.arange(n_to) + 0.5) * n_from / n_to - 0.5
    place = place.clip(0, n_from - 1)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, n_from - 1), (place - low).astype(np.float32)


def _resize(
    band: Tensor, low: np.ndarray, high: np.ndarray, share: np.ndarray, target: tuple[int, ...]
) -> Tensor:
    part = torch.from_numpy(share).to(band.device)[None, :, None, None]
    mixed = torch.lerp(band[:, low], band[:, high], part) if share.any() else band[:, low]
    if tuple(mixed.shape[2:]) == tuple(target[1:]):
        return mixed
    return functional.interpolate(mixed, size=tuple(target[1:]), mode="bilinear")
