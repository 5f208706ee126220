"""The CT and the MR that ship with SemiSeg: where they are, what is in them, their hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from semiseg.config import Modality
from semiseg.errors import StorageError

LICENCE = "Apache-2.0"
ORIGIN = "TotalSegmentator 2.18.0 source package, tests/reference_files"
CAUTION = (
    "The sample labels were made by TotalSegmentator, automatically; no expert checked them. "
    "They show how SemiSeg works and are no measure of medical quality. Not for clinical use."
)
STRUCTURES: dict[int, str] = {
    1: "liver",
    2: "kidney_right",
    3: "kidney_left",
    4: "spleen",
    5: "pancreas",
    6: "stomach",
    7: "gallbladder",
    8: "aorta",
    9: "inferior_vena_cava",
}
SHA256: dict[str, str] = {
    "ts_ct_full112_image.nii.gz": (
        "91e128cebf66522f2291e1e7aefc199359a5732dc14365a959495ec299ed484f"
    ),
    "ts_ct_full112_label9.nii.gz": (
        "0357469128c06d9876ba1c7bf7e0fa5f7f6cd631c0e970cbdb234adeb3a15a43"
    ),
    "ts_mr_sm20_image.nii.gz": ("a9529f2c19a84a235898e56965f211fc1992f6bc269ab2748b76c459265b4a21"),
    "ts_mr_sm20_label9.nii.gz": (
        "47661216e4fb044e08f91100181a3020636052ce25f9c4f53939a05f47479fd5"
    ),
}
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class SampleCase:
    """One sample scan and its automatic label map (ids as in `STRUCTURES`) on the same grid."""

    name: str
    modality: Modality
    image: Path
    label: Path


def sample_folder(package: Path = _PACKAGE) -> Path:
    """Where the sample files are; StorageError when they were not installed.

    Looked for inside the package (wheel), beside it (an installed Slicer extension) and two
    folders up (source tree).
    """
    roots = (package, package.parent, package.parent.parent)
    tried = [root / "Resources" / "SampleData" for root in roots]
    for folder in tried:
        if all((folder / name).is_file() for name in SHA256):
            return folder
    places = ", ".join(str(folder) for folder in tried)
    raise StorageError(
        f"the sample scans are not installed (looked in {places}); reinstall SemiSeg"
    )


def sample_cases(folder: Path | None = None) -> tuple[SampleCase, ...]:
    """The sample CT and MR; StorageError when a file is not the one that was shipped."""
    folder = sample_folder() if folder is None else folder
    for name, expected in SHA256.items():
        _require_whole(folder / name, expected)
    return (
        _case(folder, "sample_ct", "CT", "ts_ct_full112"),
        _case(folder, "sample_mr", "MR", "ts_mr_sm20"),
    )


def _case(folder: Path, name: str, modality: Modality, stem: str) -> SampleCase:
    return SampleCase(
        name=name,
        modality=modality,
        image=folder / f"{stem}_image.nii.gz",
        label=folder / f"{stem}_label9.nii.gz",
    )


def _require_whole(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read the sample file {path}: {error.strerror}") from error
    if found != expected:
        raise StorageError(
            f"the sample file {path} is damaged: its SHA-256 is {found[:12]}..., "
            f"expected {expected[:12]}...; reinstall SemiSeg"
        )
