"""Shared fixtures: small studies of phantoms."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semiseg.config import Modality
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

PhantomStudy = Callable[..., Study]

# Small volumes on many threads wait for each other: a busy machine then takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def phantom_study(tmp_path: Path) -> PhantomStudy:
    """Makes a study of phantoms with structures 1 and 2 on anisotropic 10 x 16 x 16 grids.

    `modalities` one per case "c0", "c1", ...; the first `annotated` have `slices` done.
    """

    def make(
        modalities: tuple[Modality, ...] = ("CT", "MR"),
        *,
        annotated: int = 2,
        slices: tuple[int, ...] = (2, 4, 5, 7),
        splits: tuple[str, ...] = (),
    ) -> Study:
        protocol = Protocol((common_structure("liver", 1), common_structure("spleen", 2)))
        study = Study.create(tmp_path / "study", name="phantoms", protocol=protocol)
        grid = Grid(size_xyz=(16, 16, 10), spacing_mm_xyz=(3.0, 3.0, 4.0))
        for number, modality in enumerate(modalities):
            path = tmp_path / f"c{number}.nii.gz"
            image, label = _phantom(number, modality)
            write_image(path, image, grid)
            split = splits[number] if splits else "train"
            study.add_case(path, case_id=f"c{number}", modality=modality, split=split)
            if number < annotated:
                study.annotate(
                    f"c{number}", label, plane="axial", indices=slices, structure_ids=(1, 2)
                )
        return study

    return make


def _phantom(seed: int, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:10, :16, :16]
    body = (y - 8) ** 2 + (x - 8) ** 2 < 50
    one = (z - 5) ** 2 + (y - 8) ** 2 + (x - 5 - seed % 2) ** 2 < 10
    two = (z - 5) ** 2 + (y - 9) ** 2 + (x - 11) ** 2 < 10
    greys = {"CT": (-150.0, 40.0, 120.0, -60.0), "MR": (5.0, 300.0, 100.0, 700.0)}[modality]
    image = np.select([one, two, body], [greys[2], greys[3], greys[1]], greys[0])
    image = image + rng.normal(0, 8, body.shape)
    return image.astype(np.float32), np.select([one, two], [1, 2]).astype(np.uint16)
