"""The one way from an image file's grid to the grid that networks see, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.config import Modality
from semiseg.images.grid import Grid, Orientation, Triple, canonical
from semiseg.images.intensity import normalise
from semiseg.images.reading import Image
from semiseg.images.resampling import spaced_grid, zoom_linear


@dataclass(frozen=True, kw_only=True)
class TrainingImage:
    """A normalised image on the training grid: axes S, P, L, about the training spacing.

    `orientation` leads from the image's own grid to its canonical grid, which `grid` cuts anew
    between the same outer voxel edges. Beyond the edge a network sees `fill`.
    """

    array: NDArray[np.float32]
    grid: Grid
    orientation: Orientation

    @property
    def fill(self) -> float:
        """The value for what lies outside the image: its darkest one."""
        return float(self.array.min())


def to_training_grid(image: Image, modality: Modality, spacing_mm_zyx: Triple) -> TrainingImage:
    """`image` turned, normalised for `modality` and zoomed to about `spacing_mm_zyx`."""
    orientation = canonical(image.grid)
    z, y, x = spacing_mm_zyx
    grid = spaced_grid(orientation.grid, (x, y, z))
    values = normalise(orientation.apply(image.array), modality)
    return TrainingImage(
        array=zoom_linear(values, grid.shape_zyx), grid=grid, orientation=orientation
    )


def from_training_grid(array: NDArray[np.float32], orientation: Orientation) -> NDArray[np.float32]:
    """Values (..., z, y, x) on the training grid, linearly brought back to the image's own grid."""
    return orientation.invert(zoom_linear(array, orientation.grid.shape_zyx))
