"""Where probabilities become structures: the image's own grid."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from semiseg.images.grid import Orientation
from semiseg.methods.frame import Frame
from semiseg.registration.start import Start
from semiseg.sliding import Zyx, label_and_uncertainty, tempered, upsample


class Target:
    """The result on the image's own grid, written through views turned to S, P, L."""

    def __init__(
        self, orientation: Orientation, classes: tuple[int, ...], temperature: float
    ) -> None:
        shape = orientation.source.shape_zyx
        self.label = np.zeros(shape, dtype=np.uint16)
        self.uncertainty = np.zeros(shape, dtype=np.float32)
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in orientation.flips)
        self._label = self.label.transpose(orientation.axes)[flips]
        self._uncertainty = self.uncertainty.transpose(orientation.axes)[flips]
        self._ids = np.asarray(classes, dtype=np.uint16)
        self._temperature = temperature
        self._grid = orientation.grid
        self.shape_zyx = orientation.grid.shape_zyx

    def fill(self, chunks: Iterable[Tensor], training_zyx: Zyx) -> None:
        """Most probable structures and entropy of probabilities (C, n, *) on the training grid."""
        self._take(upsample(chunks, training_zyx, self.shape_zyx))

    def fill_from_frame(self, chunks: Iterable[Tensor], frame: Frame, start: Start) -> None:
        """The same of probabilities (C, n, *) on `frame`, whence `start` leads here."""
        whole = torch.cat(list(chunks), dim=1)
        self._take(frame.back(whole, self._grid, start))

    def _take(self, slices: Iterable[tuple[int, Tensor]]) -> None:
        for first, probabilities in slices:
            sober = tempered(probabilities, self._temperature)
            channel, uncertainty = label_and_uncertainty(sober)
            part = slice(first, first + channel.shape[0])
            self._label[part] = self._ids[channel.cpu().numpy()]
            self._uncertainty[part] = uncertainty.cpu().numpy()
