"""A volume of a scan, read: exact voxels on an exact grid, and what was mended on the way."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.config import MODALITIES, Modality
from semiseg.dicom.elements import quiet
from semiseg.dicom.frames import Frame
from semiseg.dicom.geometry import Layout, lay_out
from semiseg.dicom.pixels import LOWEST_HU, OpenFile
from semiseg.dicom.references import Reference, SourceFile
from semiseg.dicom.series import Volume
from semiseg.dicom.sources import Source, open_source
from semiseg.errors import ImageError
from semiseg.events import Emit, Progress, ignore
from semiseg.images.grid import Grid
from semiseg.resources import usable_memory

_BYTES_PER_VOXEL = 12


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An image (z, y, x) as int16 where all values are whole, else float32; HU for CT."""

    array: NDArray[np.int16] | NDArray[np.float32]
    grid: Grid
    modality_tag: Modality | None
    reference: Reference

    @property
    def notes(self) -> tuple[str, ...]:
        """What was mended on reading."""
        return self.reference.notes


def load(root: Path, volume: Volume, emit: Emit = ignore, *, bridge_gaps: bool = False) -> Loaded:
    """The voxels of a volume that `scan` found in `root`.

    ImageError: the volume's own problem, a file gone, damaged, cut off or packed in an unknown
    way, one value everywhere, more voxels than memory.
    """
    if volume.problem:
        raise ImageError(f"the series {volume.problem}")
    layout = lay_out(volume.frames, bridge_gaps=bridge_gaps)
    frames = [volume.frames[index] for index in layout.order]
    _require_memory(layout.grid)
    with quiet(), closing(open_source(root)) as source:
        stack, files, notes = _read(source, frames, emit)
    array = _regular(stack, layout, _low(stack, volume.first.modality))
    if array.min() == array.max():
        raise ImageError(
            f"the series has the value {array.flat[0]:g} in every voxel; nothing can be seen"
        )
    tag = volume.first.modality
    modality = next((known for known in MODALITIES if known == tag), None)
    notes = (*volume.notes, *(n for n in layout.notes if n not in volume.notes), *notes)
    return Loaded(
        array=_compact(array),
        grid=layout.grid,
        modality_tag=modality,
        reference=_reference(source, frames, files, layout, notes),
    )


def _read(
    source: Source, frames: list[Frame], emit: Emit
) -> tuple[NDArray[np.float32], dict[str, str], tuple[str, ...]]:
    """All slices in order, the hashes of their files, and notes on their values."""
    key = frames[0].key
    stack = np.empty((len(frames), key.rows, key.columns), dtype=np.float32)
    files: dict[str, str] = {}
    inverted = rescaled = 0
    progress = Progress(emit, "read", len(frames))
    current: OpenFile | None = None
    for index, frame in enumerate(frames):
        if current is None or current.name != frame.name:
            current = OpenFile(source, frame.name)
            files[frame.name] = current.sha256
        found = current.slice(frame)
        stack[index] = found.values
        inverted += found.inverted
        rescaled += found.rescaled
        progress.update(index + 1, f"{index + 1} of {len(frames)} slices read")
    return stack, files, _mend(stack, frames[0].modality, inverted, rescaled)


def _mend(
    stack: NDArray[np.float32], modality: str, inverted: int, rescaled: int
) -> tuple[str, ...]:
    """Padding filled, an inverted scale turned, CT cut at -1024 HU; says what was done."""
    notes = []
    if inverted and modality != "CT":
        if inverted < len(stack):
            raise ImageError(
                "the series has slices with inverted and others with plain grey values"
            )
        stack *= -1
        stack += np.nanmin(stack) * -1
        notes.append("stored as a negative (MONOCHROME1); the grey values were turned round")
    if modality == "CT" and not rescaled:
        notes.append("CT without rescale values; stored values were taken as HU")
    padding = np.isnan(stack)
    count = int(np.count_nonzero(padding))
    if count == stack.size:
        raise ImageError("the series consists of padding only; export the series anew")
    if count:
        low = _low(stack, modality)
        stack[padding] = low
        notes.append(f"{count} voxels of padding were set to {low:g}")
    if modality == "CT" and float(stack.min()) < LOWEST_HU:
        # Below -1024 HU lies nothing but padding that no tag tells of.
        count = int(np.count_nonzero(stack < LOWEST_HU))
        np.maximum(stack, LOWEST_HU, out=stack)
        notes.append(f"{count} voxels below -1024 HU were set to -1024")
    return tuple(notes)


def _low(stack: NDArray[np.float32], modality: str) -> float:
    lowest = float(np.nanmin(stack))
    return max(lowest, LOWEST_HU) if modality == "CT" else lowest


def _regular(stack: NDArray[np.float32], layout: Layout, outside: float) -> NDArray[np.float32]:
    """The slices on the layout's grid: as they are, or shifted and interpolated linearly."""
    if layout.exact:
        return stack
    shape = layout.grid.shape_zyx
    out = np.empty(shape, dtype=np.float32)
    cache: dict[int, NDArray[np.float32]] = {}
    for plane in range(shape[0]):
        upper = int(np.searchsorted(layout.heights, plane - 1e-6))
        upper = min(upper, len(layout.heights) - 1)
        lower = max(upper - 1, 0)
        gap = layout.heights[upper] - layout.heights[lower]
        weight = 1.0 if gap <= 0 else (plane - layout.heights[lower]) / gap
        weight = min(max(float(weight), 0.0), 1.0)
        for index in {lower, upper} - set(cache):
            cache[index] = _shifted(stack[index], layout.shifts_px[index], shape[1:], outside)
        out[plane] = (1 - weight) * cache[lower] + weight * cache[upper]
        cache = {index: cache[index] for index in (lower, upper)}
    return out


def _shifted(
    values: NDArray[np.float32],
    shift_px: NDArray[np.float64],
    shape: tuple[int, int],
    outside: float,
) -> NDArray[np.float32]:
    """A slice in a larger plane with its first pixel at `shift_px` (column, row)."""
    wide = np.full(shape, outside, dtype=np.float32)
    whole = np.floor(shift_px + 1e-9)
    part = shift_px - whole
    column, row = int(whole[0]), int(whole[1])
    if np.abs(part).max() > 1e-6:
        # Linear between pixels, nothing beyond the outermost: a mix with the fill would be a lie.
        moved = ndimage.shift(
            values, (part[1], part[0]), order=1, mode="constant", cval=outside, prefilter=False
        )
        values = moved.astype(np.float32)
    height = min(values.shape[0], shape[0] - row)
    width = min(values.shape[1], shape[1] - column)
    wide[row : row + height, column : column + width] = values[:height, :width]
    return wide


def _compact(array: NDArray[np.float32]) -> NDArray[np.int16] | NDArray[np.float32]:
    """16-bit whole numbers where nothing is lost by it."""
    low, high = float(array.min()), float(array.max())
    if low < -32768 or high > 32767:
        return array
    whole = array.astype(np.int16)
    return whole if np.array_equal(whole, array) else array


def _require_memory(grid: Grid) -> None:
    needed = math.prod(grid.size_xyz) * _BYTES_PER_VOXEL
    free = usable_memory().free_bytes
    if needed > free:
        raise ImageError(
            f"the series needs {needed / 2**30:.1f} GiB of memory while {free / 2**30:.1f} GiB are "
            "free; close other programs, or export a part of the series"
        )


def _reference(
    source: Source,
    frames: list[Frame],
    files: dict[str, str],
    layout: Layout,
    notes: tuple[str, ...],
) -> Reference:
    first = frames[0]
    index = {name: number for number, name in enumerate(files)}
    uid_of = {frame.name: frame.sop_instance_uid for frame in frames}
    return Reference(
        source=str(source.root),
        source_kind=source.kind,
        study_uid=first.key.study_uid,
        series_uid=first.key.series_uid,
        frame_of_reference_uid=first.key.frame_of_reference_uid,
        sop_class_uid=first.sop_class_uid,
        modality=first.modality,
        files=tuple(
            SourceFile(name=name, sop_instance_uid=uid_of[name], sha256=files[name])
            for name in files
        ),
        slices=tuple((index[frame.name], frame.number) for frame in frames),
        positions_mm_lps=tuple(frame.position for frame in frames),
        orientation=first.orientation,
        grid=layout.grid,
        exact=layout.exact,
        notes=notes,
    )
