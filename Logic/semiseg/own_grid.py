"""Where probabilities become structures: the image's own grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from semiseg.errors import GeometryMismatchError
from semiseg.images.grid import Orientation
from semiseg.methods.frame import Frame
from semiseg.prior import Prior
from semiseg.registration.start import Start
from semiseg.sliding import Zyx, label_and_uncertainty, tempered, upsample

_LEAST = 1e-12


def pooled(network: Tensor, said: Tensor, weight: Tensor, groups: list[int]) -> Tensor:
    """Two opinions made one: p_c (q_g / P_g)^w, made to add up to 1.

    `network` are p (C, n, H, W), `groups` the group g of each class, `said` the other opinion q
    (G, n, H, W) on groups, `weight` w (n, H, W); P_g is the sum of p over a group. A class that is
    alone in its group has p^(1-w) q^w, the logarithmic opinion pool (Genest and Zidek 1986), which
    counts what both know only once and is as sure as they are on average; within a group classes
    keep their proportions. Where w is 0, p stays as it is.
    """
    masses = network.new_zeros(said.shape).index_add_(
        0, torch.tensor(groups, device=network.device), network
    )
    shift = (said / masses.clamp_min_(_LEAST)).log_().mul_(weight)
    found = network.clamp_min(_LEAST).log_().add_(shift[groups]).softmax(dim=0)
    return torch.where(weight > 0, found, network)


class Target:
    """The result on the image's own grid, written through views turned to S, P, L.

    With a `prior` on the training grid its word is pooled with the network's.
    """

    def __init__(
        self,
        orientation: Orientation,
        classes: tuple[int, ...],
        temperature: float,
        prior: Prior | None = None,
    ) -> None:
        shape = orientation.source.shape_zyx
        self.label = np.zeros(shape, dtype=np.uint16)
        self.uncertainty = np.zeros(shape, dtype=np.float32)
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in orientation.flips)
        self._label = self.label.transpose(orientation.axes)[flips]
        self._uncertainty = self.uncertainty.transpose(orientation.axes)[flips]
        self._ids = np.asarray(classes, dtype=np.uint16)
        self._temperature, self._prior = temperature, prior
        self._grid = orientation.grid
        self.shape_zyx = orientation.grid.shape_zyx

    def fill(self, chunks: Iterable[Tensor], training_zyx: Zyx) -> None:
        """Most probable structures and entropy of probabilities (C, n, *) on the training grid."""
        if self._prior is not None:
            chunks = self._heard(chunks, self._prior, training_zyx)
        self._take(upsample(chunks, training_zyx, self.shape_zyx))

    def fill_from_frame(self, chunks: Iterable[Tensor], frame: Frame, start: Start) -> None:
        """The same of probabilities (C, n, *) on `frame`, whence `start` leads here."""
        whole = torch.cat(list(chunks), dim=1)
        self._take(frame.back(whole, self._grid, start))

    def _heard(self, chunks: Iterable[Tensor], prior: Prior, training_zyx: Zyx) -> Iterator[Tensor]:
        """Sobered here, so that the labels are weighed against what the network is worth."""
        if prior.codes.shape != training_zyx:
            raise GeometryMismatchError(
                f"propagated labels of {prior.codes.shape} voxels cannot be heard on the network's "
                f"grid of {training_zyx} (z y x)"
            )
        groups = [prior.ids.index(i) + 1 if i in prior.ids else 0 for i in self._ids.tolist()]
        first = 0
        for chunk in chunks:
            said, weight = map(torch.from_numpy, prior.opinion(first, chunk.shape[1]))
            sober = tempered(chunk, self._temperature)
            yield pooled(sober, said.to(chunk.device), weight.to(chunk.device), groups)
            first += chunk.shape[1]

    def _take(self, slices: Iterable[tuple[int, Tensor]]) -> None:
        for first, probabilities in slices:
            sober = probabilities
            if self._prior is None:
                sober = tempered(probabilities, self._temperature)
            channel, uncertainty = label_and_uncertainty(sober)
            part = slice(first, first + channel.shape[0])
            self._label[part] = self._ids[channel.cpu().numpy()]
            self._uncertainty[part] = uncertainty.cpu().numpy()
