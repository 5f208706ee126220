"""Volume nodes: loading, checking, their voxels and grid, their file, overlays on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.errors import ImageError
from semiseg.images.grid import Grid
from semiseg.images.reading import Header, read_header, to_sitk
from semiseg.images.writing import replacing, suffix_of
from SemiSegModuleLib.mrml.geometry import (
    SceneError,
    affine_ras,
    grid_of,
    lies_on,
    to_vtk,
)

__all__ = [
    "SceneError",
    "array_of",
    "color_labels",
    "create_labels",
    "create_overlay",
    "file_of",
    "grid_of",
    "lies_on",
    "load_volume",
    "require_image",
    "require_usable",
    "set_overlay",
    "write_volume",
]

_SINGLE_FILE_AND_WINDOW = 4 + 8  # vtkSlicerVolumesLogic::SingleFile, AutoWindowLevel
_OTHER_KINDS = (
    "vtkMRMLLabelMapVolumeNode",
    "vtkMRMLTensorVolumeNode",
    "vtkMRMLVectorVolumeNode",
    "vtkMRMLDiffusionWeightedVolumeNode",
    "vtkMRMLDiffusionTensorVolumeNode",
    "vtkMRMLMultiVolumeNode",
)
_COLORS_NAME = "SemiSeg uncertainty"
_LABELS_NAME = "SemiSeg overlay"
Color = tuple[int, int, int]


def load_volume(scene, volumes_logic, path: Path, name: str):
    """A new scalar volume node of the file `path`, named `name`.

    ImageError or SceneError when it cannot be read, is no scalar 3-D volume, or when Slicer puts
    it elsewhere than the engine does; the scene then has no node more.
    """
    header = read_header(path)
    _require_scalar(path, header)
    node = volumes_logic.AddArchetypeScalarVolume(str(path), name, _SINGLE_FILE_AND_WINDOW, None)
    if node is None:
        raise SceneError(
            _("Slicer cannot load {name}; convert it to NRRD or NIfTI first.").format(
                name=path.name
            )
        )
    if not lies_on(node, header.grid):
        scene.RemoveNode(node)
        raise SceneError(
            _(
                "Slicer puts {name} at another place than its header says; save it anew as NRRD."
            ).format(name=path.name)
        )
    if scene.GetFirstNodeByName(name) is None:
        node.SetName(name)  # Slicer counts on even after the first one is gone
    return node


def require_usable(node) -> None:
    """SceneError, saying why, unless `node` is a scalar 3-D volume that no transform moves."""
    require_image(node)
    _require_no_transform(node)
    grid_of(node)


def require_image(node) -> None:
    """SceneError, saying why, unless `node` is a scalar 3-D volume, wherever it lies."""
    if node is None:
        raise SceneError(_("No volume is chosen; choose one first."))
    name = node.GetName()
    if not node.IsA("vtkMRMLScalarVolumeNode") or any(node.IsA(kind) for kind in _OTHER_KINDS):
        raise SceneError(
            _("{name} is no scalar volume but a {kind}; choose a CT or MR volume.").format(
                name=name, kind=node.GetNodeTagName()
            )
        )
    components = node.GetImageData().GetNumberOfScalarComponents() if node.GetImageData() else 1
    if components != 1:
        raise SceneError(
            _("{name} has {n} values per voxel; a grey-scale volume is expected.").format(
                name=name, n=components
            )
        )
    _require_one_frame(node)


def file_of(node) -> Path | None:
    """The file that `node` was read from, if the engine reads its kind and it says the same.

    None when the voxels or their place were changed since, or the file came in parts or is gone.
    """
    storage = node.GetStorageNode()
    if storage is None or not storage.GetFileName() or node.GetModifiedSinceRead():
        return None
    if storage.GetNumberOfFileNames() > 1:
        return None
    path = Path(storage.GetFullNameFromFileName())
    try:
        if suffix_of(path) == ".seg.nrrd":
            return None
        header = read_header(path)
        return path if lies_on(node, header.grid) else None
    except ImageError:
        return None


def array_of(node) -> NDArray:
    """The voxels of a volume node (z, y, x), shared with it; call `node.Modified()` after writing.

    SceneError when it has none.
    """
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise SceneError(
            _("{name} has no voxels; load its file again.").format(name=node.GetName())
        )
    flat = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return flat.reshape(image.GetDimensions()[::-1])


def write_volume(node, path: Path) -> None:
    """Write the node's voxels, as they are, to an uncompressed NRRD file.

    StorageError when the disk refuses. Bool is stored as 8-bit.
    """
    import SimpleITK as sitk  # noqa: PLC0415 - a tenth of a second, only where it is needed

    image = to_sitk(array_of(node), grid_of(node))
    with replacing(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=False, imageIO="NrrdImageIO")
        except RuntimeError as error:
            raise OSError(str(error)) from error


def create_overlay(scene, grid: Grid, array: NDArray, name: str, *, sure_below: float):
    """A scalar volume node of `array` (z, y, x) on `grid`, shown from yellow to red.

    Voxels under `sure_below` are transparent. It is not saved with the scene.
    """
    top = float(max(array.max(initial=0), sure_below * 2, 1e-6))
    return _create(scene, grid, array, name, _overlay_colors(scene), (sure_below, top))


def create_labels(scene, grid: Grid, array: NDArray, name: str, colors: Sequence[Color]):
    """As `create_overlay` of numbers: 0 is transparent, k is shown in `colors[k - 1]`."""
    table = _label_colors(scene, colors)
    return _create(scene, grid, array, name, table, (0.0, float(max(len(colors), 1))), least=1.0)


def _create(scene, grid: Grid, array: NDArray, name: str, colors, ends, least: float | None = None):
    """`ends`: the values of the first and the last color; what is under `least` is transparent."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetSaveWithScene(False)
    node.SetHideFromEditors(True)  # before it is added, so that no tree ever lists it
    scene.AddNode(node)
    set_overlay(node, grid, array)
    display = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode", f"{name} display")
    display.SetSaveWithScene(False)
    display.SetAndObserveColorNodeID(colors.GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*ends)
    display.SetAutoThreshold(False)
    display.SetThreshold(ends[0] if least is None else least, float(np.finfo(np.float32).max))
    display.SetApplyThreshold(True)
    display.SetInterpolate(False)
    node.SetAndObserveDisplayNodeID(display.GetID())
    return node


def set_overlay(node, grid: Grid, array: NDArray) -> None:
    """Replace the voxels of an overlay by `array` (z, y, x) on `grid`; it is copied."""
    array = np.ascontiguousarray(array)
    image = vtk.vtkImageData()
    image.SetDimensions(*grid.size_xyz)
    scalars = vtk.util.numpy_support.numpy_to_vtk(array.ravel(), deep=True)
    image.GetPointData().SetScalars(scalars)
    modifying = node.StartModify()
    node.SetIJKToRASMatrix(to_vtk(affine_ras(grid)))
    node.SetAndObserveImageData(image)
    node.EndModify(modifying)


def _overlay_colors(scene):
    """The scene's one colour table of overlays, hidden from choosers."""
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        found = scene.GetNthNodeByClass(number, "vtkMRMLColorTableNode")
        if found.GetName() == _COLORS_NAME:
            return found
    colors = slicer.vtkMRMLColorTableNode()
    colors.SetName(_COLORS_NAME)
    colors.SetHideFromEditors(True)
    colors.SetSaveWithScene(False)
    colors.SetTypeToUser()
    colors.SetNumberOfColors(256)
    for index in range(256):
        colors.SetColor(index, str(index), 1.0, 1.0 - index / 255.0, 0.0, 1.0)
    return scene.AddNode(colors)


def color_labels(node, colors: Sequence[Color]) -> None:
    """Give an overlay of `create_labels` other colors, as many or more."""
    display = node.GetDisplayNode()
    _fill(display.GetColorNode(), colors)
    display.SetWindowLevelMinMax(0.0, float(max(len(colors), 1)))


def _label_colors(scene, colors: Sequence[Color]):
    """The scene's one colour table of labelled overlays, of which there is one at a time."""
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode")):
        found = scene.GetNthNodeByClass(number, "vtkMRMLColorTableNode")
        if found.GetName() == _LABELS_NAME:
            _fill(found, colors)
            return found
    table = slicer.vtkMRMLColorTableNode()
    table.SetName(_LABELS_NAME)
    table.SetHideFromEditors(True)
    table.SetSaveWithScene(False)
    table.SetTypeToUser()
    _fill(table, colors)
    return scene.AddNode(table)


def _fill(table, colors: Sequence[Color]) -> None:
    table.SetNumberOfColors(len(colors) + 1)
    table.SetColor(0, "0", 0.0, 0.0, 0.0, 0.0)
    for index, (red, green, blue) in enumerate(colors, 1):
        table.SetColor(index, str(index), red / 255, green / 255, blue / 255, 1.0)


def _require_scalar(path: Path, header: Header) -> None:
    if header.components == 1 and header.frames == 1 and "complex" not in header.pixel_type:
        return
    raise SceneError(
        _(
            "{name} holds {components} values per voxel and {frames} time points; a grey-scale "
            "volume is expected."
        ).format(name=path.name, components=header.components, frames=header.frames)
    )


def _require_one_frame(node) -> None:
    scene = node.GetScene()
    count = scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") if scene else 0
    for number in range(count):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        if browser.IsProxyNode(node.GetID()):
            raise SceneError(
                _(
                    "{name} shows one time point of the sequence {sequence}; clone the time point "
                    "that you want (Data, Clone) and choose the copy."
                ).format(name=node.GetName(), sequence=browser.GetName())
            )


def _require_no_transform(node) -> None:
    transform = node.GetParentTransformNode()
    if transform is not None:
        raise SceneError(
            _(
                "{name} is under the transform {transform}, so its voxels lie elsewhere than its "
                "file says; in Transforms, harden the transform or move the volume out of it."
            ).format(name=node.GetName(), transform=transform.GetName())
        )
