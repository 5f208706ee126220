"""How long ranking the slices of many scans takes: the first time, and when a case changed.

Phantoms of 48 x 64 x 64 voxels with four organs, all segmented with some uncertainty, ten of them
with two slices done. "first" reads every image and label; "again" finds everything in the study's
cache, as pressing Next slice again does; "one changed" has one newer label. Each is a process of
its own in the panel (`semiseg suggest`), so the window never waits. Wall-clock and processor
seconds, the best of three but for the first.

    python Testing/benchmarks/ranking.py --cases 100
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPE = (48, 64, 64)
ORGANS = ((24, 30, 20, 10), (26, 30, 45, 6), (20, 36, 40, 4), (20, 36, 24, 4))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100)
    given = parser.parse_args()
    from semiseg.study.study import Study
    from semiseg.suggestion.ranking import SuggestConfig, suggest

    with tempfile.TemporaryDirectory(prefix="semiseg-ranking-") as folder:
        study = make_study(Path(folder), given.cases)

        def rank() -> None:
            suggest(Study.open(study.folder), SuggestConfig(n=5))

        print("| what | wall s | processor s |\n|---|---|---|")
        print(row("first", [timed(rank)]))
        print(row("again", [timed(rank) for _ in range(3)]))
        print(row("one changed", [changed(study, index, rank) for index in (30, 31, 32)]))
    return 0


def make_study(folder: Path, count: int):
    from semiseg.images.grid import Grid
    from semiseg.images.reading import write_image
    from semiseg.study.protocol import parse_structures
    from semiseg.study.study import Study

    names = "liver,spleen,kidney_left,kidney_right"
    study = Study.create(folder / "study", name="ranking", protocol=parse_structures(names))
    rng = np.random.default_rng(0)
    grid = Grid(size_xyz=SHAPE[::-1], spacing_mm_xyz=(5.0, 5.0, 6.0))
    for number in range(count):
        image, label = phantom(rng)
        path = folder / f"c{number}.nii.gz"
        write_image(path, image, grid)
        study.add_case(path, case_id=f"c{number}", modality="CT", split="train")
        unsure = (rng.random(SHAPE) * 0.3 * (label > 0)).astype(np.float32)
        study.predicted(f"c{number}", label, unsure, model_id=1, info={})
        if number < 10:
            draw(study, f"c{number}", label, [20, 24])
    return study


def phantom(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    places, moved = np.indices(SHAPE), rng.uniform(-2, 2, 3)
    label = np.zeros(SHAPE, np.uint16)
    for structure, (z, y, x, radius) in enumerate(ORGANS, 1):
        center = np.array([z, y, x]) + moved
        label[sum((places[k] - center[k]) ** 2 for k in range(3)) < radius**2] = structure
    body = (places[1] - 32) ** 2 / 900 + (places[2] - 32) ** 2 / 900 < 1
    image = body * 100.0 + label * 20 + rng.normal(0, 5, SHAPE)
    return image.astype(np.float32), label


def draw(study, case_id: str, label: np.ndarray, indices: list[int]) -> None:
    drawn = study.human_map(case_id).array
    drawn[indices] = label[indices]
    study.annotate(case_id, drawn, plane="axial", indices=indices)


def changed(study, index: int, rank: Callable[[], None]) -> tuple[float, float]:
    draw(study, "c3", study.prediction("c3").array, [index])
    return timed(rank)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def row(what: str, times: list[tuple[float, float]]) -> str:
    wall, processor = (min(one[k] for one in times) for k in (0, 1))
    return f"| {what} | {wall:.2f} | {processor:.2f} |"


if __name__ == "__main__":
    raise SystemExit(main())
