"""Time and memory of the panel's work on the scene, on the real MRML of the slicer-core wheel.

    python Testing/benchmarks/scene.py --out scene.json [--quick] [--cases 20]

Volumes and organs are synthetic. Times are processor milliseconds of the thread that Slicer's
window waits for, the least of a few runs. "beyond" is resident memory beyond the volumes' voxels
after all cases were shown in turn, three times. Nothing is rendered.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import slicer

from semiseg.images.grid import Grid
from semiseg.study.protocol import Protocol, common_structure

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "SemiSegModule"))
if "slicer.i18n" not in sys.modules:  # only the application has it
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text, _context=None: text
    slicer.i18n = sys.modules["slicer.i18n"] = i18n

from SemiSegModuleLib.mrml import segments, volumes
from SemiSegModuleLib.mrml.binding import SceneBinding
from SemiSegModuleLib.mrml.views import Views

SIZES = {"256x256x100": (256, 256, 100), "512x512x200": (512, 512, 200)}
ORGANS = {  # centre and radii (z, y, x) as fractions of the volume
    "liver": ((0.6, 0.4, 0.3), (0.25, 0.18, 0.18)),
    "spleen": ((0.62, 0.55, 0.75), (0.15, 0.1, 0.08)),
    "left kidney": ((0.45, 0.6, 0.65), (0.15, 0.07, 0.06)),
    "right kidney": ((0.45, 0.6, 0.37), (0.15, 0.07, 0.06)),
    "pancreas": ((0.55, 0.47, 0.5), (0.1, 0.04, 0.12)),
}
PROTOCOL = Protocol(tuple(common_structure(name, i) for i, name in enumerate(ORGANS, start=1)))


class Layout:
    """Three slice views without windows."""

    def __init__(self, scene: Any) -> None:
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._logics = {}
        for name, plane in {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}.items():
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLScene(scene)
            node = logic.AddSliceNode(name)
            node.SetDimensions(600, 400, 1)
            node.SetDefaultOrientation(plane)
            node.SetOrientation(plane)
            self._logics[name] = logic

    def sliceViewNames(self) -> tuple[str, ...]:  # noqa: N802
        """As in Slicer."""
        return tuple(self._logics)

    def sliceWidget(self, name: str) -> Any:  # noqa: N802
        """As in Slicer."""
        return types.SimpleNamespace(sliceLogic=lambda: self._logics[name])


class Case:
    """A volume with an empty drawing and an empty suggestion in a scene."""

    def __init__(self, scene: Any, binding: SceneBinding, name: str, grid: Grid) -> None:
        rng = np.random.default_rng(len(binding.case_ids()))
        voxels = rng.integers(-1000, 1000, grid.shape_zyx, dtype=np.int16)
        self.name, self.grid = name, grid
        self.volume = volumes.create_overlay(scene, grid, voxels, name, sure_below=0.0)
        self.drawn = segments.create_drawn(scene, self.volume, PROTOCOL, name)
        self.suggestion = segments.create_suggestion(scene, self.volume, PROTOCOL, name)
        for role in ("volume", "drawn", "suggestion"):
            binding.bind(name, role, getattr(self, role))  # type: ignore[arg-type]


def main() -> None:
    """Measure, write JSON, print a table."""
    options = _options()
    rows = []
    for name in list(SIZES)[:1] if options.quick else SIZES:
        rows += [{"size": name, **row} for row in _times(SIZES[name])]
    memory = _memory(3 if options.quick else options.cases)
    settings = {
        "structures": len(PROTOCOL.structures),
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} threads",
        "python": platform.python_version(),
    }
    if options.out:
        report = {"settings": settings, "rows": rows, "memory": memory}
        options.out.write_text(json.dumps(report, indent=1))
    _print_tables(rows, memory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small volume, three cases")
    parser.add_argument("--cases", type=int, default=20, help="cases for the memory figure")
    return parser.parse_args()


def _times(size: tuple[int, int, int]) -> list[dict[str, Any]]:
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    binding = SceneBinding(scene, "benchmark")
    grid = Grid(size_xyz=size, spacing_mm_xyz=(0.8, 0.8, 2.5))
    case, organs = Case(scene, binding, "case", grid), _organs(grid)
    middle = tuple(side // 2 for side in grid.shape_zyx)
    stroke = np.full((3, 20, 20), 1, np.uint16)
    moved = np.roll(organs, 3, axis=2)
    steps: list[tuple[str, int, Callable[[], object]]] = [
        ("show a suggestion", 1, lambda: segments.set_map(case.suggestion, grid, organs)),
        ("show the same again", 3, lambda: segments.set_map(case.suggestion, grid, organs)),
        ("show it, moved by 3 voxels", 1, lambda: segments.set_map(case.suggestion, grid, moved)),
        ("take over a slice", 1, lambda: _take(case, plane="axial", index=middle[0])),
        ("take over all", 1, lambda: _take(case)),
        ("read what is drawn", 5, lambda: segments.read_layers(case.drawn, grid, PROTOCOL)),
        (
            "write 20x20x3 voxels",
            1,
            lambda: segments.write_region(case.drawn, grid, stroke, middle),
        ),
    ]
    rows = [{"work": name, "ms": round(_least(act, runs), 1)} for name, runs, act in steps]
    binding.close()
    return rows


def _write(case: Case, array: np.ndarray, offset_zyx: tuple[int, ...]) -> None:
    segments.write_region(case.drawn, case.grid, array, offset_zyx)


def _take(case: Case, **what: Any) -> None:
    segments.take_over(case.drawn, case.suggestion, case.grid, PROTOCOL, **what)


def _least(act: Callable[[], object], runs: int) -> float:
    found = []
    for _run in range(runs):
        start = time.process_time()
        act()
        found.append((time.process_time() - start) * 1000)
    return min(found)


def _memory(count: int) -> dict[str, Any]:
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    binding, views = SceneBinding(scene, "benchmark"), Views(Layout(scene), scene)
    grid = Grid(size_xyz=SIZES["256x256x100"], spacing_mm_xyz=(1.5, 1.5, 2.5))
    organs, before = _organs(grid), psutil.Process().memory_info().rss
    for number in range(count):
        case = Case(scene, binding, f"case-{number}", grid)
        segments.set_map(case.suggestion, grid, organs)
        _take(case)
    shown = []
    for _round in range(3):
        for case_id in binding.case_ids():
            nodes = binding.nodes_of(case_id)
            shown.append(_least(lambda n=nodes, i=case_id: views.show(n, i), 1))
            segments.read_layers(nodes.drawn, grid, PROTOCOL)
    voxels = count * np.prod(grid.shape_zyx) * 2
    beyond = psutil.Process().memory_info().rss - before - voxels
    binding.close()
    views.close()
    return {
        "cases": count,
        "volumes_mb": round(voxels / 2**20),
        "beyond_mb": round(beyond / 2**20),
        "show_ms": round(float(np.median(shown)), 1),
    }


def _organs(grid: Grid) -> np.ndarray:
    z, y, x = (np.arange(size) / size for size in grid.shape_zyx)
    array = np.zeros(grid.shape_zyx, np.uint16)
    for structure, ((cz, cy, cx), (rz, ry, rx)) in zip(
        PROTOCOL.structures, ORGANS.values(), strict=True
    ):
        far = (((z - cz) / rz) ** 2)[:, None, None] + (((y - cy) / ry) ** 2)[None, :, None]
        array[far + ((x - cx) / rx) ** 2 < 1] = structure.id
    return array


def _print_tables(rows: list[dict[str, Any]], memory: dict[str, Any]) -> None:
    print("| volume | work | ms |\n|---|---|---|")
    for row in rows:
        print(f"| {row['size']} | {row['work']} | {row['ms']} |")
    print("\n| cases | volumes, MB | beyond, MB | show a case, ms |\n|---|---|---|---|")
    values = (memory["cases"], memory["volumes_mb"], memory["beyond_mb"], memory["show_ms"])
    print(f"| {' | '.join(str(value) for value in values)} |")


if __name__ == "__main__":
    main()
