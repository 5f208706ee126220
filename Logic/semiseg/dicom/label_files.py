"""DICOM files that hold segmentations, placed on the grid of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array

from semiseg.dicom.colors import clipped_color, color_of_cielab
from semiseg.dicom.contours import filled
from semiseg.dicom.elements import DAMAGED, first, integer, items, numbers, quiet, text
from semiseg.dicom.geometry import normal_of, same_direction
from semiseg.errors import GeometryMismatchError, ImageError, LabelError
from semiseg.images.grid import Grid, Triple
from semiseg.images.labels import LabelMap, Segment

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
OFF_PLANE = 0.1
_GREY = (128, 128, 128)


def read_dicom_label(path: Path, grid: Grid, frame_of_reference_uid: str = "") -> LabelMap:
    """The label map of a SEG or RTSTRUCT file, its planes on those of `grid`.

    Contours count the pixels whose centres lie inside an odd number of them; they may lie up to
    a tenth of a slice beside their plane. ImageError: another kind of file, damaged.
    GeometryMismatchError: another scan (frame of reference), planes that are not the image's.
    LabelError: overlapping structures, fractional values.
    """
    with quiet():
        dataset = _read(path)
        kind = text(dataset, "SOPClassUID")
        if kind in SEG_CLASSES:
            frames = [text(dataset, "FrameOfReferenceUID")]
            _require_frame(path, frames, frame_of_reference_uid)
            return _read_seg(path, dataset, grid)
        if kind == RTSTRUCT_CLASS:
            rois = items(dataset, "StructureSetROISequence")
            frames = [text(roi, "ReferencedFrameOfReferenceUID") for roi in rois]
            _require_frame(path, frames, frame_of_reference_uid)
            return _read_rtstruct(path, dataset, grid)
    raise ImageError(
        f"{path.name} is a DICOM file, but no segmentation (SEG) or structure set (RTSTRUCT)"
    )


def _read(path: Path) -> FileDataset:
    try:
        return dcmread(path)
    except DAMAGED as error:
        raise ImageError(f"{path.name} is damaged; copy or export it anew") from error


def _require_frame(path: Path, found: Sequence[str], wanted: str) -> None:
    others = [uid for uid in found if uid and wanted and uid != wanted]
    if others:
        raise GeometryMismatchError(
            f"{path.name} was drawn on another scan: its frame of reference is {others[0]}, the "
            f"image's is {wanted}; choose the segmentation of this series"
        )


def _read_seg(path: Path, dataset: FileDataset, grid: Grid) -> LabelMap:
    kind = text(dataset, "SegmentationType").upper()
    if kind not in ("BINARY", "LABELMAP"):
        raise LabelError(
            f"{path.name} holds fractions of structures ({kind or 'unknown kind'}); whole voxels "
            "are expected: export it as a binary segmentation"
        )
    try:
        pixels = np.atleast_3d(pixel_array(dataset, raw=True))
    except (*DAMAGED, MemoryError) as error:
        raise ImageError(f"{path.name} is damaged: its voxels cannot be read") from error
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    pixels = pixels.reshape(-1, integer(dataset, "Rows") or 1, integer(dataset, "Columns") or 1)
    if len(groups) != len(pixels):
        raise ImageError(f"{path.name} is damaged: it has {len(pixels)} frames, not {len(groups)}")
    shared = first(dataset, "SharedFunctionalGroupsSequence")
    planes = _planes(path, groups, shared, grid, pixels.shape[1:])
    canvas = _Canvas(path.name, planes.grid, _segments(dataset))
    for frame, group, height in zip(pixels, groups, planes.heights, strict=True):
        if kind == "LABELMAP":
            for value in np.unique(frame[frame > 0]):
                canvas.draw(int(value), height, frame == value)
        else:
            segment = first(group, "SegmentIdentificationSequence") or first(
                shared, "SegmentIdentificationSequence"
            )
            canvas.draw(integer(segment, "ReferencedSegmentNumber") or 0, height, frame > 0)
    return canvas.label()


class _Planes:
    """The grid that the frames of a file span and at which height each of them lies."""

    def __init__(self, grid: Grid, heights: list[int]) -> None:
        self.grid, self.heights = grid, heights


def _planes(
    path: Path, groups: Sequence[Dataset], shared: Dataset, grid: Grid, shape: tuple[int, ...]
) -> _Planes:
    places, orientation, spacing = _measures(path, groups, shared)
    normal = normal_of(orientation)
    axes = np.reshape(grid.direction, (3, 3))
    axis = int(np.abs(normal @ axes).argmax())
    step = grid.spacing_mm_xyz[axis]
    along = (places - places[0]) @ normal
    lowest = int(along.argmin())
    heights = (along - along[lowest]) / step
    drift = places - places[0] - along[:, None] * normal
    off = max(float(np.abs(heights - np.rint(heights)).max()), float(np.abs(drift).max()))
    count = round(float(heights.max())) + 1
    if off > OFF_PLANE or count > 2 * grid.size_xyz[axis]:
        raise GeometryMismatchError(
            f"{path.name}: its planes are not those of the image, which are {step:.4g} mm apart; "
            "choose the segmentation of this series, or export it as .seg.nrrd on the image's grid"
        )
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    direction = np.column_stack([row, column, normal / np.linalg.norm(normal)])
    origin: Triple = (*map(float, places[lowest]),)  # type: ignore[assignment]
    own = Grid(
        size_xyz=(int(shape[1]), int(shape[0]), count),
        spacing_mm_xyz=(spacing[1], spacing[0], step),
        origin_mm_lps=origin,
        direction=tuple(float(v) for v in direction.ravel()),
    )
    return _Planes(own, [round(float(h)) for h in heights])


def _measures(
    path: Path, groups: Sequence[Dataset], shared: Dataset
) -> tuple[NDArray[np.float64], tuple[float, ...], tuple[float, ...]]:
    """Places (n, 3) of the frames, their one orientation, and spacing between rows, columns."""

    def of(group: Dataset, sequence: str, keyword: str, count: int) -> tuple[float, ...]:
        own = numbers(first(group, sequence), keyword, count)
        return own or numbers(first(shared, sequence), keyword, count)

    places = [of(g, "PlanePositionSequence", "ImagePositionPatient", 3) for g in groups]
    turns = [of(g, "PlaneOrientationSequence", "ImageOrientationPatient", 6) for g in groups]
    sizes = [of(g, "PixelMeasuresSequence", "PixelSpacing", 2) for g in groups]
    if not groups or not all(places) or not all(turns) or not all(sizes):
        raise ImageError(f"{path.name} does not say where its frames lie; export it anew")
    if any(not same_direction(turns[0], turn) for turn in turns):
        raise GeometryMismatchError(f"{path.name}: its frames lie in different directions")
    return np.array(places), turns[0], sizes[0]


def _segments(dataset: Dataset) -> dict[int, Segment]:
    found = {}
    for item in items(dataset, "SegmentSequence"):
        value = integer(item, "SegmentNumber") or 0
        name = text(item, "SegmentLabel") or text(item, "SegmentDescription")
        if 0 < value < 65536:
            lab = numbers(item, "RecommendedDisplayCIELabValue", 3)
            color = color_of_cielab(lab) if lab else _GREY
            found[value] = Segment(id=value, name=name or f"segment {value}", color=color)
    return found


class _Canvas:
    """A label map that structures are drawn on one after the other; none may cover another."""

    def __init__(self, name: str, grid: Grid, segments: dict[int, Segment]) -> None:
        self._name, self._grid, self._segments = name, grid, segments
        self._array = np.zeros(grid.shape_zyx, dtype=np.uint16)

    def draw(self, value: int, plane: int, mask: NDArray[np.bool_]) -> None:
        """LabelError when the value has no name or covers a voxel of another one."""
        if value not in self._segments:
            raise LabelError(f"{self._name}: voxels belong to segment {value}, which has no name")
        target = self._array[plane]
        taken = mask & (target > 0) & (target != value)
        if taken.any():
            other = self._segments[int(target[taken][0])].name
            raise LabelError(
                f"{self._name}: {self._segments[value].name} overlaps {other} in plane {plane} "
                f"({int(taken.sum())} voxels); a voxel can belong to one structure only: remove "
                "the overlap where the file was made"
            )
        target[mask] = value

    def label(self) -> LabelMap:
        """What was drawn."""
        return LabelMap(array=self._array, grid=self._grid, segments=tuple(self._segments.values()))


def _read_rtstruct(path: Path, dataset: FileDataset, grid: Grid) -> LabelMap:
    names = {
        integer(roi, "ROINumber"): text(roi, "ROIName")
        for roi in items(dataset, "StructureSetROISequence")
    }
    regions = items(dataset, "ROIContourSequence")
    segments = {}
    for value, region in enumerate(regions, 1):
        name = names.get(integer(region, "ReferencedROINumber"))
        rgb = numbers(region, "ROIDisplayColor", 3)
        color = clipped_color(rgb) if rgb else _GREY
        segments[value] = Segment(id=value, name=name or f"ROI {value}", color=color)
    canvas = _Canvas(path.name, grid, segments)
    for value, region in enumerate(regions, 1):
        for plane, polygons in _rings(path, region, grid):
            canvas.draw(value, plane, filled(polygons, grid.shape_zyx[1:]))
    return canvas.label()


def _rings(path: Path, region: Dataset, grid: Grid) -> list[tuple[int, list[NDArray[np.float64]]]]:
    """The closed contours of a region by plane, in pixels of the grid."""
    rings: dict[int, list[NDArray[np.float64]]] = {}
    for contour in items(region, "ContourSequence"):
        kind = text(contour, "ContourGeometricType").upper()
        if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
            continue
        points = numbers(contour, "ContourData")
        if len(points) < 9 or len(points) % 3:
            raise ImageError(f"{path.name} has a damaged contour; export it anew")
        voxels = grid.to_voxel(np.reshape(points, (-1, 3)))
        plane = round(float(voxels[:, 2].mean()))
        if np.abs(voxels[:, 2] - plane).max() > OFF_PLANE:
            raise GeometryMismatchError(
                f"{path.name} has contours that do not lie in the image's slices; choose the "
                "structures of this series, or export them as .seg.nrrd on the image's grid"
            )
        if not 0 <= plane < grid.size_xyz[2]:
            raise GeometryMismatchError(
                f"{path.name} has contours outside of the image; is it of another image?"
            )
        rings.setdefault(plane, []).append(voxels[:, :2])
    return sorted(rings.items())
