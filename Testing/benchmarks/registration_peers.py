"""What other programs make of a pair, each from SemiSeg's start, on the same volumes.

Each function takes the fixed volume (z, y, x), the moving one brought onto the fixed grid by the
start, that grid, and the number of threads. It returns the displacement (3, D, H, W), LPS x, y,
z in mm, from fixed points to where they lie in the brought volume. Settings are each program's
defaults where it has any; the metric is mutual information where it offers one, as scans may be
of two modalities. Demons compare greys and mean nothing across modalities: they are left out there.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from semiseg.images.grid import Grid

Peer = Callable[[np.ndarray, np.ndarray, Grid, int], np.ndarray]
NEEDS = {
    "convexadam": "convexAdam",
    "demons": "SimpleITK",
    "bspline": "SimpleITK",
    "elastix": "itk-elastix",
    "ants": "antspyx",
}
ONE_MODALITY = ("demons",)


def installed() -> tuple[str, ...]:
    """The peers whose packages are here, by the names they are installed under."""
    return tuple(name for name, package in NEEDS.items() if _distributed(package))


def _distributed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def convexadam(fixed: np.ndarray, brought: np.ndarray, grid: Grid, threads: int) -> np.ndarray:
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(threads)
    voxels_zyx = convex_adam_pt(fixed, brought, device=torch.device("cpu"))
    spacing_zyx = np.asarray(grid.spacing_mm_xyz[::-1])
    return np.moveaxis(voxels_zyx * spacing_zyx, -1, 0)[::-1]


def demons(fixed: np.ndarray, brought: np.ndarray, grid: Grid, threads: int) -> np.ndarray:
    """Fast symmetric forces on three levels."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    images = _image(fixed, grid), _image(brought, grid)
    field = None
    for shrink, rounds in ((4, 80), (2, 50), (1, 25)):
        here, there = (sitk.BinShrink(image, [shrink] * 3) for image in images)
        method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        method.SetNumberOfIterations(rounds)
        method.SetSmoothDisplacementField(True)
        method.SetStandardDeviations(1.5)
        there = sitk.Resample(there, here, sitk.Transform(), sitk.sitkLinear, float(brought.min()))
        if field is None:
            field = method.Execute(here, there)
        else:
            begin = sitk.Resample(field, here, sitk.Transform(), sitk.sitkLinear, 0.0)
            field = method.Execute(here, there, begin)
    return _vectors(sitk.Resample(field, images[0], sitk.Transform(), sitk.sitkLinear, 0.0))


def bspline(fixed: np.ndarray, brought: np.ndarray, grid: Grid, threads: int) -> np.ndarray:
    """SimpleITK's B-spline, knots 30 mm apart, mutual information on a tenth of the voxels."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    here, there = _image(fixed, grid), _image(brought, grid)
    extent = np.asarray(here.GetSize()) * here.GetSpacing()
    mesh = [max(1, round(float(length) / 30)) for length in extent]
    method = sitk.ImageRegistrationMethod()
    method.SetInitialTransform(sitk.BSplineTransformInitializer(here, mesh), inPlace=True)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(numberOfIterations=50)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    moved = method.Execute(here, there)
    return _vectors(
        sitk.TransformToDisplacementField(
            moved,
            sitk.sitkVectorFloat64,
            here.GetSize(),
            here.GetOrigin(),
            here.GetSpacing(),
            here.GetDirection(),
        )
    )


def elastix(fixed: np.ndarray, brought: np.ndarray, grid: Grid, threads: int) -> np.ndarray:
    """Affine, then B-splines, by elastix' default maps. Its argument for threads crashes it."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    import itk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    here, there = (_itk_image(itk, volume, grid) for volume in (fixed, brought))
    maps = itk.ParameterObject.New()
    for stage in ("affine", "bspline"):
        maps.AddParameterMap(maps.GetDefaultParameterMap(stage))
    _, found = itk.elastix_registration_method(
        here, there, parameter_object=maps, log_to_console=False
    )
    field = itk.transformix_deformation_field(there, found)
    return np.moveaxis(np.asarray(itk.array_from_image(field)), -1, 0)


def ants(fixed: np.ndarray, brought: np.ndarray, grid: Grid, threads: int) -> np.ndarray:
    """SyN after its own affine, both by mutual information; greys are moved above 0 for it."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    import ants as program

    here, there = (_ants_image(program, volume, grid) for volume in (fixed, brought))
    found = program.registration(
        here, there, type_of_transform="SyN", aff_metric="mattes", syn_metric="mattes"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = program.apply_transforms(
            here, there, found["fwdtransforms"], compose=str(Path(folder) / "whole")
        )
        field = sitk.ReadImage(path)
    for path in {*found["fwdtransforms"], *found["invtransforms"]}:
        Path(path).unlink(missing_ok=True)
    return _vectors(field)


PEERS: dict[str, Peer] = {
    "convexadam": convexadam,
    "demons": demons,
    "bspline": bspline,
    "elastix": elastix,
    "ants": ants,
}


def _image(volume: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    image.SetSpacing(grid.spacing_mm_xyz)
    image.SetOrigin(grid.origin_mm_lps)
    return image


def _vectors(field: sitk.Image) -> np.ndarray:
    return np.moveaxis(sitk.GetArrayFromImage(field), -1, 0)


def _itk_image(itk, volume: np.ndarray, grid: Grid):
    image = itk.image_from_array(volume.astype(np.float32))
    image.SetSpacing(grid.spacing_mm_xyz)
    image.SetOrigin(grid.origin_mm_lps)
    return image


def _ants_image(program, volume: np.ndarray, grid: Grid):
    return program.from_numpy(
        np.ascontiguousarray(volume.T.astype(np.float32) + 1),
        origin=list(grid.origin_mm_lps),
        spacing=list(grid.spacing_mm_xyz),
    )
