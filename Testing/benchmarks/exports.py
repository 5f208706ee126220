"""Surfaces of real structures: closed, as large as the mask, how rough, how long it takes.

`--data` holds label maps at any depth (`*label*.nii.gz`). Per structure: the mesh's volume against
the mask's in percent, whether every edge has two triangles, roughness (the mean angle between
neighbouring triangles), the measured surface of the table against the mesh's area, and seconds of
one thread. `slicer` is a peer, run where vtk is installed: discrete flying edges and a
windowed sinc filter of factor 0.5, as Slicer makes closed surfaces. Nothing is tuned on the data.

    python Testing/benchmarks/exports.py --data abdomen --out exports.json --cases 3
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import trimesh

import semiseg
from semiseg.images.grid import Grid
from semiseg.images.labels import read_label
from semiseg.measurements import Voxels, measure
from semiseg.meshes.surface import Mesh, surface

Maker = Callable[[np.ndarray, Grid], Mesh | None]


def main() -> int:
    settings = parse()
    makers: dict[str, Maker] = {"semiseg": surface}
    if importlib.util.find_spec("vtk"):
        makers["slicer"] = slicer_surface
    paths = sorted(Path(settings.data).rglob("*label*.nii.gz"))[: 1 if settings.quick else None]
    if settings.cases:
        paths = paths[: settings.cases]
    rows = [row for path in paths for row in rows_of(path, makers)]
    said = {**vars(settings), "semiseg": semiseg.__version__, "machine": platform.processor()}
    if settings.out:
        Path(settings.out).write_text(json.dumps({"settings": said, "rows": rows}, indent=1))
    table(rows, list(makers))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out")
    parser.add_argument("--cases", type=int, help="label maps at most")
    parser.add_argument("--quick", action="store_true", help="one label map")
    return parser.parse_args()


def rows_of(path: Path, makers: dict[str, Maker]) -> list[dict[str, object]]:
    label = read_label(path)
    rows = []
    for structure in (int(i) for i in np.unique(label.array) if i):
        mask = label.array == structure
        area = surface_of_table(label.array, label.grid, structure)
        for name, make in makers.items():
            start = time.process_time()
            mesh = make(mask, label.grid)
            seconds = time.process_time() - start
            if mesh is None:
                continue
            found = figures(mesh, mask, label.grid)
            rows.append(
                {
                    "case": path.name.split("_label")[0],
                    "structure": structure,
                    "method": name,
                    "voxels": int(mask.sum()),
                    "table_area_percent": 100 * (area / mesh.area_cm2 - 1),
                    "seconds": round(seconds, 3),
                    **found,
                }
            )
    return rows


def surface_of_table(array: np.ndarray, grid: Grid, structure: int) -> float:
    voxels = Voxels(grid=grid, label=array, origin=np.ones(array.shape, np.uint8))
    return measure(voxels, structure).surface_cm2 or 0.0


def figures(mesh: Mesh, mask: np.ndarray, grid: Grid) -> dict[str, object]:
    shape = trimesh.Trimesh(mesh.vertices_mm, mesh.faces, process=False)
    volume = mask.sum() * grid.voxel_ml
    return {
        "triangles": len(mesh.faces),
        "volume_error_percent": 100 * (mesh.volume_ml / volume - 1),
        "watertight": bool(shape.is_watertight and shape.is_winding_consistent),
        "roughness_degrees": float(np.degrees(shape.face_adjacency_angles).mean()),
    }


def slicer_surface(mask: np.ndarray, grid: Grid) -> Mesh | None:
    """Slicer's conversion: flying edges, then a windowed sinc filter of factor 0.5."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    padded = np.pad(mask, 1).astype(np.uint8)
    image = vtk.vtkImageData()
    image.SetDimensions(*padded.shape[::-1])
    image.SetSpacing(*grid.spacing_mm_xyz)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=1))
    edges = vtk.vtkDiscreteFlyingEdges3D()
    edges.SetInputData(image)
    edges.GenerateValues(1, 1, 1)
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(edges.GetOutputPort())
    smooth.SetNumberOfIterations(20 + round(0.5 * 40))
    smooth.SetPassBand(10.0 ** (-4.0 * 0.5))
    smooth.BoundarySmoothingOff()
    smooth.FeatureEdgeSmoothingOff()
    smooth.NonManifoldSmoothingOn()
    smooth.NormalizeCoordinatesOn()
    smooth.Update()
    made = smooth.GetOutput()
    points = vtk_to_numpy(made.GetPoints().GetData()) / grid.spacing_mm_xyz - 1
    faces = vtk_to_numpy(made.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    mesh = Mesh(vertices_mm=grid.to_world(points), faces=faces)
    return mesh if mesh.volume_ml > 0 else Mesh(vertices_mm=mesh.vertices_mm, faces=faces[:, ::-1])


def table(rows: list[dict[str, object]], methods: list[str]) -> None:
    heads = "method structures closed volume_error_worst mean roughness table_area seconds_each"
    print(f"| {' | '.join(heads.split())} |")
    print("|---" * len(heads.split()) + "|")
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        keys = ("watertight", "volume_error_percent", "roughness_degrees", "table_area_percent")
        closed, error, rough, area = (np.array([row[k] for row in own], float) for k in keys)
        seconds = np.mean([row["seconds"] for row in own])
        print(
            f"| {method} | {len(own)} | {int(closed.sum())} | {np.abs(error).max():.3f} % "
            f"| {np.abs(error).mean():.3f} % | {rough.mean():.1f} degrees | {area.mean():+.1f} % "
            f"| {seconds:.2f} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
