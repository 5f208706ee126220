"""Image files in, image files out; what cannot be used is refused before memory is taken."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semiseg.config import MODALITIES, Modality
from semiseg.errors import GeometryMismatchError, ImageError
from semiseg.images.grid import Grid
from semiseg.images.nifti import read_nifti_header, read_nifti_voxels
from semiseg.images.payload import check_meta_header, check_nrrd_header, check_payload
from semiseg.images.writing import SUFFIXES, save, suffix_of
from semiseg.resources import usable_memory

if TYPE_CHECKING:
    import SimpleITK as sitk

_MAX_VOXELS = 2**31 - 1
_NIFTI = (".nii", ".nii.gz")
_MODALITY_KEYS = ("0008|0060", "DICOM_0008_0060", "Modality", "modality")
_PIXEL_BYTES = {"8-bit": 1, "16-bit": 2, "32-bit": 4, "64-bit": 8}


@dataclass(frozen=True, kw_only=True)
class Image:
    """A scalar volume (z, y, x) without NaN or infinity; `notes` say what was mended on reading."""

    array: NDArray[np.float32]
    grid: Grid
    modality_tag: Modality | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself; `frames` is the length of a fourth axis, or the layers."""

    grid: Grid
    components: int
    frames: int
    pixel_type: str
    dtype_bytes: int
    metadata: dict[str, str]

    @property
    def voxel_bytes(self) -> int:
        """Bytes of all voxels as the file's own type."""
        x, y, z = self.grid.size_xyz
        return x * y * z * self.components * self.frames * self.dtype_bytes


def read_image(path: Path) -> Image:
    """The scalar volume in a NIfTI, NRRD or MetaImage file.

    NaN and -inf become the lowest finite value, +inf the highest, and a note says so.
    ImageError: missing, damaged or cut-off file, colour, complex, 2-D, several time points,
    one value everywhere, no finite value, or more voxels than memory.
    """
    header = read_header(path)
    _require_scalar(path, header)
    array, notes = _finite(path, _float32(path, header))
    if array.min() == array.max():
        raise ImageError(
            f"{path.name} has the value {array.flat[0]:g} in every voxel, so there is nothing to "
            "segment; export the image anew"
        )
    return Image(array=array, grid=header.grid, modality_tag=_modality(header), notes=notes)


def read_map(path: Path, *, verified: bool = False) -> tuple[NDArray[np.generic], Grid]:
    """The voxels of a scalar volume exactly as stored, in the file's own type, and its grid.

    For confidence, origin and uncertainty maps, where a constant is a sound value. `verified`
    as in `read_voxels`.
    """
    header = read_header(path)
    _require_scalar(path, header)
    return read_voxels(path, header, verified=verified), header.grid


def read_grid(path: Path) -> Grid:
    """The grid of the volume in `path`, from its header alone."""
    return read_header(path).grid


def write_image(path: Path, array: NDArray[np.generic], grid: Grid) -> None:
    """Write `array` (z, y, x) in its own type; the file appears whole or not at all.

    StorageError when the disk refuses; GeometryMismatchError when the shape is not the grid's.
    """
    save(path, to_sitk(array, grid))


def to_sitk(array: NDArray[np.generic], grid: Grid) -> sitk.Image:
    """A SimpleITK image of `array` (z, y, x) on `grid`; bool is stored as 8-bit."""
    import SimpleITK as sitk  # noqa: PLC0415 - a tenth of a second, only where it is needed

    if array.shape != grid.shape_zyx:
        raise GeometryMismatchError(
            f"an array of shape {array.shape} does not fit the grid's {grid.shape_zyx} (z, y, x)"
        )
    if array.dtype.kind not in "biuf":
        raise ImageError(f"voxels of type {array.dtype} cannot be written; expected real numbers")
    stored = {"bool": "uint8", "float16": "float32"}.get(array.dtype.name, array.dtype.name)
    return grid.to_sitk_header(sitk.GetImageFromArray(array.astype(stored, copy=False)))


def sha256_file(path: Path) -> str:
    """SHA-256 of the bytes of `path`, in hex; ImageError when it cannot be read."""
    require_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:  # a bad sector: the file opens all the same
        raise ImageError(
            f"{path} cannot be read: {error.strerror}; check its disk, or put a copy in its place"
        ) from error


def require_file(path: Path) -> None:
    """ImageError, saying why, unless `path` is a file that can be opened."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(
                f"{path} is a folder; give one image file (only `study add` takes DICOM folders)"
            )
        if not stat.S_ISREG(mode):
            raise ImageError(f"{path} is not an ordinary file; give one image file")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise ImageError(f"{path} is not there; check the path, or reconnect its drive") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{path} cannot be read: {reason}; check its permissions and links"
        ) from error


def read_header(path: Path) -> Header:
    """What `path` says of itself; reads no voxels. ImageError as `read_image`."""
    require_file(path)
    suffix = suffix_of(path)
    if path.stat().st_size == 0:
        raise ImageError(f"{path.name} is empty (0 bytes); copy or export the file anew")
    if suffix in _NIFTI:
        _require_nifti_spacing(path)
    elif suffix == ".mha":
        check_meta_header(path)
    else:
        check_nrrd_header(path)
    reader = _reader(path, suffix)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageError(_itk_reason(path, suffix, error)) from error
    return _header(path, reader)


def read_voxels(path: Path, header: Header, *, verified: bool = False) -> NDArray[np.generic]:
    """The array (z, y, x) or, with layers, (z, y, x, layer); checked against size and memory.

    The data of a file whose bytes are known to be right (`verified`) is not unpacked twice.
    """
    import SimpleITK as sitk  # noqa: PLC0415 - a tenth of a second, only where it is needed

    _require_memory(path, header)
    if suffix_of(path) in _NIFTI:
        return read_nifti_voxels(path, header.grid.shape_zyx)
    if not verified:
        check_payload(path, header.voxel_bytes)
    try:
        image = _reader(path, suffix_of(path)).Execute()
    except (RuntimeError, MemoryError) as error:
        raise ImageError(
            f"{path.name} is damaged: its header reads well but its voxels do not; "
            "copy or export the file anew"
        ) from error
    array: NDArray[np.generic] = sitk.GetArrayFromImage(image)
    return array[0] if image.GetDimension() == 4 else array


def _require_nifti_spacing(path: Path) -> None:
    spacing = read_nifti_header(path).spacing
    if not all(np.isfinite(spacing)) or 0 in spacing:
        raise ImageError(
            f"{path.name}: the voxel spacing is {' x '.join(f'{s:g}' for s in spacing)} mm, "
            "expected positive numbers; correct the header and save the file anew"
        )


def _reader(path: Path, suffix: str) -> sitk.ImageFileReader:
    import SimpleITK as sitk  # noqa: PLC0415 - a tenth of a second, only where it is needed

    reader = sitk.ImageFileReader()
    reader.SetImageIO(SUFFIXES[suffix])
    reader.SetFileName(str(path))
    return reader


def _header(path: Path, reader: sitk.ImageFileReader) -> Header:
    import SimpleITK as sitk  # noqa: PLC0415 - a tenth of a second, only where it is needed

    dimension = reader.GetDimension()
    if dimension not in (3, 4):
        raise ImageError(
            f"{path.name} is {dimension}-D; a volume with three axes is expected: "
            "export the whole series as one file"
        )
    size = reader.GetSize()
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    x, y, z = (int(n) for n in size[:3])
    pixel_type = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    sx, sy, sz = (float(v) for v in reader.GetSpacing()[:3])
    ox, oy, oz = (float(v) for v in reader.GetOrigin()[:3])
    try:
        grid = Grid(
            size_xyz=(x, y, z),
            spacing_mm_xyz=(sx, sy, sz),
            origin_mm_lps=(ox, oy, oz),
            direction=tuple(float(v) for v in direction.ravel()),
        )
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from error
    return Header(
        grid=grid,
        components=int(reader.GetNumberOfComponents()),
        frames=int(size[3]) if dimension == 4 else 1,
        pixel_type=pixel_type,
        dtype_bytes=next((n for key, n in _PIXEL_BYTES.items() if key in pixel_type), 8),
        metadata=_metadata(reader),
    )


def _metadata(reader: sitk.ImageFileReader) -> dict[str, str]:
    """The header's fields; text that is not UTF-8 is taken for Latin-1, keys that are not go."""
    keys = (key for key in reader.GetMetaDataKeys() if _is_unicode(key))
    return {key: _unicode(reader.GetMetaData(key)) for key in keys}


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _unicode(text: str) -> str:
    return text if _is_unicode(text) else text.encode(errors="surrogateescape").decode("latin-1")


def _require_scalar(path: Path, header: Header) -> None:
    if "complex" in header.pixel_type:
        raise ImageError(f"{path.name} holds complex numbers; export the magnitude image instead")
    if header.components > 1:
        raise ImageError(
            f"{path.name} has {header.components} values per voxel (colour, vectors or a layered "
            "segmentation); a grey-scale volume is expected"
        )
    if header.frames > 1:
        raise ImageError(
            f"{path.name} has {header.frames} time points; export one of them as a volume of its "
            "own"
        )


def _require_memory(path: Path, header: Header) -> None:
    x, y, z = header.grid.size_xyz
    voxels = x * y * z * header.components * header.frames
    needed = voxels * (2 * header.dtype_bytes + 4)
    free = usable_memory().free_bytes
    if voxels > _MAX_VOXELS or needed > free:
        raise ImageError(
            f"{path.name} announces {x} x {y} x {z} voxels, which need {needed / 2**30:.1f} GiB of "
            f"memory while {free / 2**30:.1f} GiB are free; crop or resample it, or check that "
            "its header is right"
        )


def _float32(path: Path, header: Header) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return read_voxels(path, header).astype(np.float32, copy=False)


def _finite(path: Path, array: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return array, ()
    finite = np.isfinite(array)
    if not finite.any():
        raise ImageError(f"{path.name} has no finite value; export the image anew")
    low, high = float(array[finite].min()), float(array[finite].max())
    count = int(finite.size - finite.sum())
    mended = np.nan_to_num(array, nan=low, neginf=low, posinf=high)
    note = f"{count} voxels were not finite; they were read as {low:g} (or {high:g} for +inf)"
    return mended, (note,)


def _modality(header: Header) -> Modality | None:
    for key in _MODALITY_KEYS:
        value = header.metadata.get(key, "").strip().upper()
        if value in MODALITIES:
            return value
    return None


def _itk_reason(path: Path, suffix: str, error: RuntimeError) -> str:
    text = str(error)
    if "orthonormal" in text:
        return (
            f"{path.name} has axes that are not at right angles, as after a gantry tilt; resample "
            "it onto a straight grid first (in Slicer: Resample Scalar Volume)"
        )
    kind = {".mha": "MetaImage", ".nii": "NIfTI", ".nii.gz": "NIfTI"}.get(suffix, "NRRD")
    return (
        f"{path.name} is not a readable {kind} file: it is damaged, or another kind of "
        "file under that name; copy or export it anew"
    )
