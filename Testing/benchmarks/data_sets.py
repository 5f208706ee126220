"""The data sets of the benchmarks of learning: their scans, their splits, their structures.

Folders as their publishers name them: `hippocampus` (imagesTr, labelsTr; the first four fifths of
the sorted names are the pool), `acdc` (train, val by patient; both frames of a patient are in one
split; figures are of val), `abdomen` (ct, mr, or these under abdomen/; splits by sorted names: two
thirds of the CT and 60 % of the MR are the pool, the last fifth of the CT and the last 30 % of the
MR are tested on, the rest is not used).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

# Their files say nothing true about millimetres.
WITHOUT_SPACING = ("acdc",)
ORGANS = ("liver", "kidney_right", "kidney_left", "spleen")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan of a data set; `pool`: it may be learnt from, otherwise it is tested on."""

    name: str
    patient: str
    modality: str
    image: Path
    label: Path
    pool: bool


def rehearsed(scans: list[Scan]) -> list[Scan]:
    """The pool alone, to choose settings on: the last fifth of its patients is tested on."""
    patients = sorted({scan.patient for scan in scans if scan.pool})
    kept = set(patients[: len(patients) * 4 // 5])
    return [replace(scan, pool=scan.patient in kept) for scan in scans if scan.pool]


def hippocampus(folder: Path) -> list[Scan]:
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))
    pool = len(images) * 4 // 5
    return [
        Scan(
            name=path.name.removesuffix(".nii.gz"),
            patient=path.name.removesuffix(".nii.gz"),
            modality="MR",
            image=path,
            label=folder / "labelsTr" / path.name,
            pool=number < pool,
        )
        for number, path in enumerate(images)
    ]


def acdc(folder: Path) -> list[Scan]:
    return [
        scan(path, "MR", path.name.split("_")[0], pool=path.parent.name == "train")
        for path in sorted(folder.glob("*/*_image.nii.gz"))
    ]


def abdomen(folder: Path) -> list[Scan]:
    top = folder if (folder / "ct").is_dir() else folder / "abdomen"
    found = []
    for modality, pool, last in (("ct", 2 / 3, 0.2), ("mr", 0.6, 0.3)):
        images = sorted((top / modality).glob("*_image.nii.gz"))
        n_pool, n_test = round(pool * len(images)), round(last * len(images))
        for number, path in enumerate(images):
            if number < n_pool or number >= len(images) - n_test:
                name = path.name.removesuffix("_image.nii.gz")
                found.append(scan(path, modality.upper(), name, pool=number < n_pool))
    return found


def scan(path: Path, modality: str, patient: str, *, pool: bool) -> Scan:
    name = path.name.removesuffix("_image.nii.gz")
    label = path.with_name(f"{name}_label.nii.gz")
    return Scan(name=name, patient=patient, modality=modality, image=path, label=label, pool=pool)


DATA_SETS: dict[str, tuple[Callable[[Path], list[Scan]], tuple[str, ...]]] = {
    "hippocampus": (hippocampus, ("hippocampus_anterior", "hippocampus_posterior")),
    "acdc": (acdc, ("right_ventricle", "myocardium", "left_ventricle")),
    "abdomen": (abdomen, ORGANS),
}


def scans_of(data_set: str, folder: Path) -> list[Scan]:
    """All scans of a data set but for images that are there twice; at least one of each kind."""
    scans = distinct(DATA_SETS[data_set][0](folder))
    if not any(one.pool for one in scans) or all(one.pool for one in scans):
        sys.exit(f"{folder} does not hold the data set {data_set}: nothing to learn or test on")
    return scans


def distinct(scans: list[Scan]) -> list[Scan]:
    """Without images that are there twice under other names; a test scan is kept of such twins."""
    kept: dict[str, Scan] = {}
    for one in sorted(scans, key=lambda one: one.pool):
        twin = kept.setdefault(hashlib.sha256(one.image.read_bytes()).hexdigest(), one)
        if twin is not one:
            print(
                f"{one.name} is left out: its image is that of {twin.name}",
                file=sys.stderr,
                flush=True,
            )
    names = {one.name for one in kept.values()}
    return [one for one in scans if one.name in names]
