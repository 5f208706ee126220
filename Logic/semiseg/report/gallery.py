"""The pictures of one case: which cuts to show, and what is drawn over them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from semiseg.config import Modality
from semiseg.images.grid import PLANES, Grid, Orientation, Plane, canonical, plane_axis
from semiseg.images.labels import Segment
from semiseg.report import pictures
from semiseg.report.pictures import Base, Outline, Picture, Tag, Window
from semiseg.report.planes import View, views

Done: TypeAlias = Mapping[Plane, Mapping[int, Collection[int]]]
_STRIP = 5


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One case's volumes on its own grid (z, y, x); `human` marks what a person drew.

    `done` says per plane and slice which structures are done there, `with_labels` that propagated
    labels were heard beside the model.
    """

    key: str
    image: NDArray[np.float32]
    grid: Grid
    modality: Modality
    segments: Sequence[Segment]
    label: NDArray[np.uint16] | None = None
    human: NDArray[np.bool_] | None = None
    prediction: NDArray[np.uint16] | None = None
    uncertainty: NDArray[np.float32] | None = None
    done: Done | None = None
    with_labels: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """Pictures that belong together, side by side at one scale."""

    title: str
    note: str
    pictures: tuple[Picture, ...]

    @property
    def stacked(self) -> bool:
        """Whether coronal and sagittal fit beside the axial picture, one above the other."""
        first, *others = (picture.base.height_mm for picture in self.pictures)
        return len(others) == 2 and sum(others) <= 0.9 * first


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Everything that is shown of one case."""

    window: Window
    planes: tuple[Row, ...]
    strip: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class _Cutter:
    """Cuts a scan's volumes; positions are slice numbers of the scan's own grid."""

    scan: Scan
    orientation: Orientation
    views: Mapping[Plane, View]
    window: Window

    def cut(self, array: NDArray[Any], plane: Plane, own_index: int) -> NDArray[Any]:
        """One slice in picture orientation; nothing of the volume is copied."""
        view = self.views[plane]
        turn = self.orientation
        turned = array.transpose(turn.axes)[
            tuple(slice(None, None, -1 if flip else 1) for flip in turn.flips)
        ]
        last = turned.shape[view.axis] - 1
        return view.cut(turned, last - own_index if turn.flips[view.axis] else own_index)

    def base(self, plane: Plane, own_index: int, part: str) -> Base:
        grey = self.cut(self.scan.image, plane, own_index)
        key = f"{self.scan.key}-{part}-{plane}-{own_index}"
        return pictures.make_base(key, grey, self.views[plane], self.window)

    def done_places_mm(self, plane: Plane) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Where done slices of the other planes cross a picture of `plane`: (rows, columns)."""
        view = self.views[plane]
        rows, columns = view.picture_axes
        return (
            self._centres_mm(rows, view.spacing_mm[0], flip=view.flip_rows),
            self._centres_mm(columns, view.spacing_mm[1], flip=False),
        )

    def _centres_mm(self, axis: int, spacing_mm: float, *, flip: bool) -> tuple[float, ...]:
        count = self.orientation.grid.shape_zyx[axis]
        reverse = self.orientation.flips[axis] != flip
        indices = (self.scan.done or {}).get(PLANES[axis], ())
        return tuple(
            ((count - 1 - index if reverse else index) + 0.5) * spacing_mm for index in indices
        )

    def caption(self, plane: Plane, own_index: int) -> str:
        """Plane and slice number, and the position as Slicer's slider says it."""
        position = slider_position(self.scan.grid, plane, own_index)
        return f"{plane.capitalize()} slice {own_index}" + (f" · {position}" if position else "")

    def done(self, plane: Plane, own_index: int) -> str:
        """For which structures a person finished this slice."""
        ids = (self.scan.done or {}).get(plane, {}).get(own_index, ())
        names = [segment.name for segment in self.scan.segments if segment.id in ids]
        if not names:
            return ""
        if len(names) == len(self.scan.segments):
            return "done by hand"
        more = "" if len(names) < 3 else f" and {len(names) - 2} more"
        return f"done by hand: {', '.join(names[:2])}{more}"


def make_gallery(scan: Scan) -> Gallery:
    """Three planes through the anatomy, and a strip of slices, once per kind of content."""
    turn = canonical(scan.grid)
    window = pictures.choose_window(scan.image, scan.modality)
    cutter = _Cutter(scan=scan, orientation=turn, views=views(turn.grid), window=window)
    found = _everything(scan)
    middle = [(plane, best_index(found, plane_axis(scan.grid, plane))) for plane in PLANES]
    plane, indices = _strip_positions(scan, found)
    strip = [(plane, index) for index in indices]
    return Gallery(
        window=window,
        planes=_rows(cutter, middle, part="plane"),
        strip=_rows(cutter, strip, part="strip") if found.any() and len(strip) > 1 else (),
    )


def slider_position(grid: Grid, plane: Plane, own_index: int) -> str:
    """Where a slice lies, e.g. "S 231.5 mm"; empty on an oblique grid."""
    across = ("sagittal", "coronal", "axial").index(plane)
    axis_xyz = 2 - plane_axis(grid, plane)
    voxel = np.zeros(3)
    voxel[axis_xyz] = own_index
    if abs(grid.direction[3 * across + axis_xyz]) < 1 - 1e-6:
        return ""
    value = float(grid.to_world(voxel)[across])
    letter = ("LR", "PA", "SI")[across][value < 0]
    return f"{letter} {abs(value):.1f} mm"


def best_index(label: NDArray[np.uint16], axis: int) -> int:
    """The slice across `axis` that shows the most of all structures, each counted alike.

    The middle slice where there is no label; of equally good slices the one nearest the middle
    of the anatomy.
    """
    flat = np.flatnonzero(label)
    if not flat.size:
        return int(label.shape[axis]) // 2
    position = _coordinate(flat, label.shape, axis)
    values = label.ravel()[flat]
    ids = np.flatnonzero(np.bincount(values))
    number = np.zeros(int(ids[-1]) + 1, np.intp)
    number[ids] = np.arange(len(ids))
    joint = position * len(ids) + number[values]
    areas = np.bincount(joint, minlength=label.shape[axis] * len(ids)).reshape(-1, len(ids))
    score = (areas / areas.max(axis=0)).sum(axis=1)
    best = np.flatnonzero(score >= score.max() - 1e-9)
    distance = np.abs(best - float(np.median(position)))
    nearest: np.intp = best[int(distance.argmin())]
    return int(nearest)


def spread_indices(label: NDArray[np.uint16], axis: int, count: int) -> list[int]:
    """`count` slices across `axis`, evenly over the extent of the label, from its low end."""
    flat = np.flatnonzero(label)
    position = _coordinate(flat, label.shape, axis) if flat.size else np.arange(label.shape[axis])
    low, high = int(position.min()), int(position.max())
    steps = (np.arange(count) + 0.5) / count
    return sorted({int(low + step * (high - low + 1)) for step in steps})


def _coordinate(flat: NDArray[np.intp], shape: Sequence[int], axis: int) -> NDArray[np.intp]:
    """The coordinate along `axis` of flat indices, without making those of the other axes."""
    stride = int(np.prod(shape[axis + 1 :], dtype=np.int64))
    coordinate: NDArray[np.intp] = flat // stride % shape[axis]
    return coordinate


def _everything(scan: Scan) -> NDArray[np.uint16]:
    """Label, and prediction where there is no label."""
    if scan.label is None or not scan.label.any():
        empty = np.zeros(scan.grid.shape_zyx, np.uint16)
        return empty if scan.prediction is None else scan.prediction
    if scan.prediction is None:
        return scan.label
    return np.where(scan.label > 0, scan.label, scan.prediction)


def _strip_positions(scan: Scan, found: NDArray[np.uint16]) -> tuple[Plane, list[int]]:
    """Up to five done slices with a structure on them, in the plane with most; else axial ones."""
    done = {name: _drawn(scan, found, name) for name in PLANES}
    plane = max(PLANES, key=lambda name: len(done[name]))
    axis = plane_axis(scan.grid, plane)
    indices = done[plane]
    if len(indices) < 2:
        return plane, spread_indices(found, axis, _STRIP)
    chosen = np.linspace(0, len(indices) - 1, min(_STRIP, len(indices)))
    return plane, [indices[round(float(number))] for number in chosen]


def _drawn(scan: Scan, found: NDArray[np.uint16], plane: Plane) -> list[int]:
    axis = plane_axis(scan.grid, plane)
    indices = sorted((scan.done or {}).get(plane, ()))
    return [index for index in indices if found.take(index, axis=axis).any()]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One kind of content that is drawn over the image."""

    title: str
    note: str
    other: Literal["program", "model"] = "model"
    label: NDArray[np.uint16] | None = None
    human: NDArray[np.bool_] | None = None
    heat: NDArray[np.float32] | None = None


def _layers(scan: Scan) -> list[_Layer]:
    """What the scan has to show, in the order of the work; never empty."""
    found = []
    if scan.label is not None and scan.label.any():
        note = (
            "Thick line: drawn by a person. Dashed: filled in by the program. "
            "White ticks at the edge: slices done by hand in the other planes."
        )
        found.append(
            _Layer(title="Labels", note=note, label=scan.label, human=scan.human, other="program")
        )
    if scan.prediction is not None:
        note = "Drawn by the trained model alone."
        if scan.with_labels:
            note = "Drawn by the trained model, beside which propagated labels were heard."
        found.append(_Layer(title="Segmentation", note=note, label=scan.prediction))
    if scan.uncertainty is not None:
        note = "The brighter, the less sure the model is: look there first."
        found.append(
            _Layer(title="Uncertainty", note=note, label=scan.prediction, heat=scan.uncertainty)
        )
    return found or [_Layer(title="Image", note="Nothing has been drawn or segmented yet.")]


def _rows(cutter: _Cutter, places: list[tuple[Plane, int]], *, part: str) -> tuple[Row, ...]:
    """One row per kind of content; all rows share their grey pictures."""
    bases = [cutter.base(plane, index, part) for plane, index in places]
    layers = [layer for layer in _layers(cutter.scan) if part != "strip" or layer.heat is None]
    return tuple(
        Row(
            title=layer.title if part == "plane" else f"{layer.title}, slice by slice",
            note=layer.note if part == "plane" else "",
            pictures=tuple(
                _picture(cutter, base, layer, place, first=number == 0)
                for base, place in zip(bases, places, strict=True)
            ),
        )
        for number, layer in enumerate(layers)
    )


def _picture(
    cutter: _Cutter, base: Base, layer: _Layer, place: tuple[Plane, int], *, first: bool
) -> Picture:
    lines: tuple[Outline, ...] = ()
    numbers: tuple[Tag, ...] = ()
    segments = cutter.scan.segments
    if layer.label is not None:
        label = cutter.cut(layer.label, *place)
        human = np.zeros(label.shape, bool)
        if layer.human is not None:
            human = cutter.cut(layer.human, *place)
        lines = pictures.outlines(label, human, segments, layer.other)
        numbers = pictures.tags(label, segments, base) if layer.heat is None else ()
    done_rows, done_columns = cutter.done_places_mm(place[0])
    return Picture(
        base=base,
        draws_base=first,
        caption=cutter.caption(*place),
        done=cutter.done(*place) if layer.human is not None else "",
        alt=f"{layer.title}, {place[0]} slice {place[1]}",
        outlines=lines,
        tags=numbers,
        heat_href="" if layer.heat is None else pictures.heat(cutter.cut(layer.heat, *place)),
        done_rows_mm=done_rows if layer.human is not None else (),
        done_columns_mm=done_columns if layer.human is not None else (),
    )
