"""DICOM files that hold segmentations: found by what is in them, not by their names."""

from __future__ import annotations

from pathlib import Path


def is_dicom(path: Path) -> bool:
    """Whether the file at `path` bears DICOM's mark; False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False
