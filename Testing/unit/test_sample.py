"""The shipped sample scans: found in every kind of installation, whole, and honestly described."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from semiseg.errors import StorageError
from semiseg.images.labels import read_label
from semiseg.images.reading import read_image
from semiseg.sample import CAUTION, SHA256, STRUCTURES, sample_cases, sample_folder

SHIPPED = Path(__file__).resolve().parents[2] / "Resources" / "SampleData"


def test_the_source_tree_has_the_scans_and_they_are_whole() -> None:
    ct, mr = sample_cases()
    assert ct.image.parent == SHIPPED
    assert (ct.modality, mr.modality) == ("CT", "MR")
    for case in (ct, mr):
        image, label = read_image(case.image), read_label(case.label)
        assert image.grid.difference(label.grid) is None
        assert set(np.unique(label.array)) == {0, *STRUCTURES}


@pytest.mark.parametrize("place", ["", "..", "../.."])
def test_they_are_found_inside_beside_and_above_the_package(tmp_path: Path, place: str) -> None:
    package = tmp_path / "Logic" / "semiseg"
    package.mkdir(parents=True)
    folder = (package / place).resolve() / "Resources" / "SampleData"
    shutil.copytree(SHIPPED, folder)
    assert sample_folder(package) == folder


def test_missing_scans_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not installed") as error:
        sample_folder(tmp_path / "a" / "b")
    assert str(tmp_path) in str(error.value)


def test_a_damaged_scan_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    shutil.copytree(SHIPPED, folder)
    (folder / "ts_mr_sm20_label9.nii.gz").write_bytes(b"not it")
    with pytest.raises(StorageError, match="damaged"):
        sample_cases(folder)
    (folder / "ts_mr_sm20_label9.nii.gz").unlink()
    with pytest.raises(StorageError, match="cannot read"):
        sample_cases(folder)


def test_the_readme_beside_them_has_the_same_hashes_names_and_caution() -> None:
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert all(f"{digest}  {name}" in text for name, digest in SHA256.items())
    for word in ("automatically", "no expert", "Not for clinical use", "Apache"):
        assert word in text
    assert "Not for clinical use" in CAUTION
    lines = (SHIPPED / "labels9.txt").read_text(encoding="utf-8").split()
    assert lines == [word for i, name in STRUCTURES.items() for word in (str(i), name)]
