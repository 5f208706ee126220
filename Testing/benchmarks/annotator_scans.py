"""Scans for the simulated clinicians: phantoms, and real ones on coarser grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from data_sets import Scan


def coarse(
    scans: list[Scan], folder: Path, spacing_mm: float, names: tuple[str, ...]
) -> list[Scan]:
    """The scans with voxels of at least `spacing_mm`, made once; ids are those of `names`.

    Slices of MR with more than that between them stay as they are; so do the z axes of thin
    stacks (16 slices and less), whose headers say nothing true.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_coarse(scan, folder, spacing_mm, names) for scan in scans]


def _coarse(scan: Scan, folder: Path, spacing_mm: float, names: tuple[str, ...]) -> Scan:
    from semiseg.images.labels import Segment, read_label, write_label
    from semiseg.images.reading import read_image, write_image
    from semiseg.images.resampling import resample_image, resample_label, spaced_grid
    from semiseg.importing import to_protocol
    from semiseg.study.protocol import Protocol, common_structure

    image_path, label_path = (folder / f"{scan.name}_{kind}.nii.gz" for kind in ("image", "label"))
    if not label_path.exists():
        image = read_image(scan.image)
        grid = image.grid
        thin = grid.size_xyz[2] <= 16
        x, y, z = grid.spacing_mm_xyz
        wanted = (max(x, spacing_mm), max(y, spacing_mm), z if thin else max(z, spacing_mm))
        target = spaced_grid(grid, wanted)
        values = image.array.astype(np.float32)
        fill = float(values.min())
        write_image(image_path, resample_image(values, grid, target, fill=fill), target)
        structures = tuple(common_structure(name, i) for i, name in enumerate(names, 1))
        known = to_protocol(read_label(scan.label), Protocol(structures), grid)
        segments = tuple(Segment(id=s.id, name=s.name, color=s.color) for s in structures)
        write_label(label_path, resample_label(known, grid, target), target, segments)
    return replace(scan, image=image_path, label=label_path)


def phantoms(folder: Path, count: int = 6) -> list[Scan]:
    """Torsos with two organs of varying place and size; the last third are tests."""
    from semiseg.images.grid import Grid
    from semiseg.images.labels import Segment, write_label
    from semiseg.images.reading import write_image

    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(size_xyz=(32, 32, 24), spacing_mm_xyz=(6.0, 6.0, 8.0))
    segments = tuple(
        Segment(id=i, name=name, color=(200, 80 * i, 60))
        for i, name in ((1, "liver"), (2, "spleen"))
    )
    found = []
    for number in range(count):
        image, label = phantom(number, grid.shape_zyx)
        path = folder / f"p{number}_image.nii.gz"
        truth = folder / f"p{number}_label.nii.gz"
        if not truth.exists():
            write_image(path, image, grid)
            write_label(truth, label, grid, segments)
        name = f"p{number}"
        found.append(
            Scan(
                name=name,
                patient=name,
                modality="CT",
                image=path,
                label=truth,
                pool=number < count * 2 // 3,
            )
        )
    return found


def phantom(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    places = np.indices(shape, dtype=np.float32)

    def ball(center: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        moved = np.asarray(center) + rng.uniform(-1.5, 1.5, 3)
        sized = np.asarray(radii) * rng.uniform(0.85, 1.15, 3)
        return sum(((places[k] - moved[k]) / sized[k]) ** 2 for k in range(3)) <= 1

    body = ball((12, 16, 16), (13, 12, 14))
    liver, spleen = ball((13, 14, 10), (6, 6, 5)), ball((11, 18, 23), (4, 4, 3))
    label = np.where(liver, 1, np.where(spleen, 2, 0)).astype(np.uint16)
    image = np.select([liver, spleen, body], [110.0, 60.0, 0.0], -1000.0)
    return (image + rng.normal(0, 12, shape)).astype(np.float32), label
