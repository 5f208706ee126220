"""Stored pixels of DICOM files, decoded, and what their values mean."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ImplicitVRLittleEndian, RLELossless

from semiseg.dicom.codestreams import announced
from semiseg.dicom.elements import DAMAGED, first, integer, items, number, text
from semiseg.dicom.frames import Frame
from semiseg.dicom.sources import Source
from semiseg.errors import ImageError

LOWEST_HU = -1024.0
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# JPEG baseline, extended, lossless (two kinds), JPEG-LS and JPEG 2000, lossless and not.
_UNPACKABLE = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)}
_SHAPE_KEYWORDS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Values of one frame (rows, columns) after its own rescaling; NaN where it is padding."""

    values: NDArray[np.float32]
    inverted: bool
    rescaled: bool


class OpenFile:
    """One DICOM file with its pixels, decoded when first asked for, and the hash of its bytes."""

    def __init__(self, source: Source, name: str) -> None:
        content = source.read(name)
        self.name = name
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.dataset: FileDataset = dcmread(io.BytesIO(content), force=True)
        except DAMAGED as error:
            raise ImageError(f"{name} is damaged: its header cannot be read") from error
        self._stored: NDArray[np.generic] | None = None

    def stored(self, frame: Frame) -> NDArray[np.generic]:
        """The pixels (rows, columns) as stored. ImageError: damaged, cut off, unknown coding."""
        if self._stored is None:
            self._stored = _decoded(self.dataset, self.name)
        stored = self._stored
        wanted = (frame.frames_in_file, frame.key.rows, frame.key.columns)
        if stored.size != int(np.prod(wanted)):
            raise ImageError(
                f"{self.name} has pixels of shape {stored.shape}, its header announces "
                f"{' x '.join(map(str, wanted))}; copy or export it anew"
            )
        return cast("NDArray[np.generic]", stored.reshape(wanted)[frame.number])

    def slice(self, frame: Frame) -> Slice:
        """The frame's values in the unit of its rescaling (HU for CT)."""
        stored = self.stored(frame)
        groups = self._groups(frame)
        slope, intercept, rescaled = _rescaling(self.dataset, groups, self.name)
        values = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        padding = _padding(self.dataset, stored)
        if padding is not None:
            values[padding] = np.nan
        photometric = text(self.dataset, "PhotometricInterpretation").upper()
        return Slice(values=values, inverted=photometric == "MONOCHROME1", rescaled=rescaled)

    def _groups(self, frame: Frame) -> list[Dataset]:
        per_frame = items(self.dataset, "PerFrameFunctionalGroupsSequence")
        if not per_frame:
            return []
        own = per_frame[frame.number] if frame.number < len(per_frame) else Dataset()
        return [own, first(self.dataset, "SharedFunctionalGroupsSequence")]


def same_pixels(source: Source) -> Callable[[Frame, Frame], bool]:
    """Whether two frames have the same stored pixels; False where they cannot be read."""

    def same(one: Frame, other: Frame) -> bool:
        try:
            mine = OpenFile(source, one.name).stored(one)
            return bool(np.array_equal(mine, OpenFile(source, other.name).stored(other)))
        except ImageError:
            return False

    return same


def _decoded(dataset: FileDataset, name: str) -> NDArray[np.generic]:
    if "PixelData" not in dataset:
        raise ImageError(f"{name} has no pixels; copy or export it anew")
    syntax = _syntax(dataset)
    try:
        if syntax.is_compressed and syntax != RLELossless:
            _require_true_size(dataset, syntax)
            return _by_gdcm(dataset, syntax)
        return pixel_array(dataset, raw=True)
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    except (*DAMAGED, MemoryError) as error:
        reason = str(error).strip().splitlines()
        raise ImageError(
            f"{name} is damaged or cut off: its pixels cannot be read"
            f"{f' ({reason[0][:120]})' if reason else ''}; copy or export it anew"
        ) from error


def _require_true_size(dataset: FileDataset, syntax: UID) -> None:
    """ImageError unless each packed frame is as large as the header says."""
    if str(syntax) not in _UNPACKABLE:
        raise ImageError(_packed(syntax))
    wanted = (integer(dataset, "Rows"), integer(dataset, "Columns"), 1)
    count = integer(dataset, "NumberOfFrames") or 1
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        if announced(frame) != wanted:
            raise ImageError(
                f"is damaged: its pixels, packed as {syntax.name}, are not {wanted[0]} x "
                f"{wanted[1]} as its header says; copy or export it anew"
            )


def _syntax(dataset: FileDataset) -> UID:
    found = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if found:
        return UID(str(found))
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return ImplicitVRLittleEndian


def _by_gdcm(dataset: FileDataset, syntax: UID) -> NDArray[np.generic]:
    """Decoded by the GDCM library inside SimpleITK, which knows all of JPEG, JPEG-LS and 2000.

    It gets a bare copy without any rescaling, so that stored values come back.
    """
    bare = Dataset()
    for keyword in _SHAPE_KEYWORDS:
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.add(dataset["PixelData"])
    bare.SOPClassUID = _SECONDARY_CAPTURE
    bare.SOPInstanceUID = "2.25.1"
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.dcm"
        bare.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            array: NDArray[np.generic] = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise ImageError(_packed(syntax)) from error
    return array


def _packed(syntax: UID) -> str:
    return (
        f"is packed as {syntax.name} in a way that cannot be unpacked here; export the series "
        "uncompressed (in many viewers: as Explicit VR Little Endian)"
    )


def _rescaling(dataset: Dataset, groups: list[Dataset], name: str) -> tuple[float, float, bool]:
    """Slope, intercept and whether the file states them. ImageError for a table of values."""
    if items(dataset, "ModalityLUTSequence"):
        raise ImageError(
            f"{name} turns stored values into grey values by a table, which is not supported; "
            "export the series with rescale slope and intercept"
        )
    holder = dataset
    for group in groups:
        found = items(group, "PixelValueTransformationSequence")
        if found:
            holder = found[0]
            break
    slope, intercept = number(holder, "RescaleSlope"), number(holder, "RescaleIntercept")
    if slope == 0:
        raise ImageError(f"{name} has the rescale slope 0, which makes all voxels alike")
    stated = slope is not None or intercept is not None
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept, stated


def _padding(dataset: Dataset, stored: NDArray[np.generic]) -> NDArray[np.bool_] | None:
    """Where the scanner left the picture empty; None where it says nothing of that."""
    low = integer(dataset, "PixelPaddingValue")
    if low is None:
        return None
    high = integer(dataset, "PixelPaddingRangeLimit")
    high = low if high is None else high
    bits = 8 * stored.dtype.itemsize
    if stored.dtype.kind == "i":  # the value may have been written as the unsigned one
        low, high = (v - 2**bits if v >= 2 ** (bits - 1) else v for v in (low, high))
    else:
        low, high = (v + 2**bits if v < 0 else v for v in (low, high))
    inside = (stored >= min(low, high)) & (stored <= max(low, high))  # type: ignore[operator]
    return inside if bool(inside.any()) else None
