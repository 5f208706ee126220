"""A scan in some two thousand numbers that do not depend on contrast, to find the like of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from semiseg.registration.prepared import Prepared
from semiseg.study.storage import make_folder, write_bytes_atomic

Vector = NDArray[np.float32]
CELLS_ZYX = (6, 5, 6)  # of the body's bounding box
# Counts up whenever descriptors change, so that kept ones are not mistaken for new ones.
ALGORITHM = 2


def describe(image: Prepared) -> Vector:
    """The overview's features, averaged over cells of the body; of length 1, (2160,).

    Depends on the image alone. Skin is left out, where all bodies resemble each other. What all
    cells share is taken off: it tells noise and blur, not anatomy. Zeros where no body was found.
    """
    overview = image.overview
    body = overview.mask
    if not bool(body.any()):
        return np.zeros(overview.table.shape[1] * int(np.prod(CELLS_ZYX)), dtype=np.float32)
    box = tuple(_span(body, axis) for axis in range(3))
    mask = _core(body)[box].float()[None]
    features = overview.volume[(slice(None), *box)] * mask
    cells, covered = (functional.adaptive_avg_pool3d(part, CELLS_ZYX) for part in (features, mask))
    seen = covered > 0
    means = cells / covered.clamp(min=1e-6)
    common = (means * seen).sum(dim=(1, 2, 3), keepdim=True) / seen.sum()
    own = ((means - common) * covered.sqrt()).flatten()
    unit = own / own.norm().clamp(min=1e-12)
    return np.asarray(unit.cpu().numpy(), dtype=np.float32)


def likeness(one: Vector, others: Sequence[Vector]) -> Vector:
    """How alike `one` and each of `others` are, in [-1, 1], by one matrix product."""
    if not others:
        return np.zeros(0, dtype=np.float32)
    return np.asarray(np.stack(others) @ one, dtype=np.float32)


def kept_descriptor(path: Path, make: Callable[[], Vector]) -> Vector:
    """The descriptor in `path`; one that is missing or damaged is made anew and kept there."""
    found = _read(path)
    if found is None:
        found = make()
        content = io.BytesIO()
        np.save(content, found, allow_pickle=False)
        make_folder(path.parent)
        write_bytes_atomic(path, content.getvalue())
    return found


def _read(path: Path) -> Vector | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    sound = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.ndim == 1
    return found if sound and bool(np.isfinite(found).all()) else None


def _core(body: torch.Tensor) -> torch.Tensor:
    """The body without its outermost nodes, or all of it where nothing else is left."""
    outside = functional.max_pool3d((~body)[None].float(), 3, stride=1, padding=1)[0] > 0.5
    core = body & ~outside
    return core if bool(core.any()) else body


def _span(body: torch.Tensor, axis: int) -> slice:
    places = body.nonzero()[:, axis]
    return slice(int(places.min()), int(places.max()) + 1)
