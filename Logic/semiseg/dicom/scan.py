"""A folder or ZIP file of DICOM files as a table of the volumes in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from semiseg.dicom.elements import quiet
from semiseg.dicom.frames import Frame, Skipped, read_frames
from semiseg.dicom.pixels import same_pixels
from semiseg.dicom.series import Volume, volumes_of
from semiseg.dicom.sources import Source, SourceKind, files_source, open_source
from semiseg.events import Emit, Json, Progress, ignore


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a folder or ZIP file holds: volumes by number, and why files are in none of them."""

    root: Path
    n_files: int
    volumes: tuple[Volume, ...]
    skipped: tuple[Skipped, ...]
    kind: SourceKind = "folder"

    @property
    def reasons(self) -> dict[str, int]:
        """Reason for leaving files out -> how many, the most frequent first."""
        return dict(Counter(skipped.reason for skipped in self.skipped).most_common())

    def to_json(self) -> dict[str, Json]:
        """Plain values for the result of the command."""
        reasons: dict[str, Json] = dict(self.reasons)
        return {
            "root": str(self.root),
            "files": self.n_files,
            "volumes": [volume.to_json() for volume in self.volumes],
            "skipped": reasons,
        }


def scan(path: Path, emit: Emit = ignore, *, bridge_gaps: bool = False) -> Scan:
    """The volumes in the folder or ZIP file at `path`, from headers alone.

    ImageError when `path` is neither, or is a ZIP file that is not safe to read. What is wrong
    with single files or series is told in the result.
    """
    with quiet(), closing(open_source(path)) as source:
        return _scan(source, emit, bridge_gaps=bridge_gaps)


def scan_files(paths: Sequence[Path], emit: Emit = ignore, *, bridge_gaps: bool = False) -> Scan:
    """As `scan`, for exactly these files, as a database of DICOM files knows them.

    ImageError when there are none, or they lie on several drives.
    """
    with quiet(), closing(files_source(paths)) as source:
        return _scan(source, emit, bridge_gaps=bridge_gaps)


def _scan(source: Source, emit: Emit, *, bridge_gaps: bool) -> Scan:
    names = list(source.names())
    frames: list[Frame] = []
    skipped: list[Skipped] = []
    for found in _read_all(source, names, emit):
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            frames += found
    return Scan(
        root=source.root,
        n_files=len(names),
        volumes=volumes_of(frames, same_pixels(source), bridge_gaps=bridge_gaps),
        skipped=tuple(skipped),
        kind=source.kind,
    )


def _read_all(source: Source, names: list[str], emit: Emit) -> Iterator[list[Frame] | Skipped]:
    progress = Progress(emit, "scan", len(names))
    for number, name in enumerate(names, 1):
        yield read_frames(source, name)
        progress.update(number, f"{number} of {len(names)} files looked at")
