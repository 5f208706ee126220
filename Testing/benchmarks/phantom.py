"""A phantom torso with two organs in CT and, shifted, in MR contrast: for scripts without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SHAPE_ZYX = (40, 44, 48)
SPACING_MM = (3.0, 3.0, 4.0)


def make_phantoms(folder: Path) -> None:
    """A phantom torso with two organs in CT and, deformed, in MR contrast."""
    from semiseg.images.grid import Grid
    from semiseg.images.labels import Segment, write_label
    from semiseg.images.reading import write_image

    z, y, x = np.indices(SHAPE_ZYX, dtype=np.float32)
    noise = np.random.default_rng(1)
    for name, shift, values in (
        ("ct", 0.0, (-1000.0, 0.0, 110.0, 60.0)),
        ("mr", 2.0, (0.0, 200.0, 90.0, 420.0)),
    ):
        body = ellipsoid(z, y, x, (20, 22, 24), (30, 18, 21))
        liver = ellipsoid(z, y, x, (20 + shift, 20, 15), (10, 9, 8))
        spleen = ellipsoid(z, y, x, (21 + shift, 23, 35), (7, 6, 5))
        label = np.where(liver, 1, np.where(spleen, 2, 0)).astype(np.uint16)
        image = np.select([spleen, liver, body], [values[3], values[2], values[1]], values[0])
        image = image + noise.normal(0, 8, SHAPE_ZYX)
        grid = Grid(
            size_xyz=SHAPE_ZYX[::-1],
            spacing_mm_xyz=SPACING_MM,
            origin_mm_lps=(-70.0, -60.0, 10.0),
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        )
        segments = tuple(
            Segment(id=number, name=organ, color=(200, 80 * number, 60))
            for number, organ in ((1, "liver"), (2, "spleen"))
        )
        write_image(folder / f"{name}.nii.gz", image.astype(np.float32), grid)
        write_label(folder / f"{name}_label.nii.gz", label, grid, segments)


def ellipsoid(z, y, x, centre, radii):
    return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1
