"""What a study keeps of a DICOM series beside its voxels: enough to refer to it, no names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from semiseg.dicom.sources import SourceKind
from semiseg.errors import ImageError, SchemaError
from semiseg.events import Json
from semiseg.images.grid import Grid, Triple

NAME = "dicom.json"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the series: its name within the source, its unique id, the hash of its bytes."""

    name: str
    sop_instance_uid: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Which series an image came from, slice by slice.

    Kept: unique ids, file names, hashes, positions, geometry. Not kept: name, id, birth date
    or other attributes of the patient, free text. `slices` gives file and frame number of each
    slice in the image's order; `exact` says that slice k of the image is one of the series.
    """

    source: str
    source_kind: SourceKind
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    sop_class_uid: str
    modality: str
    files: tuple[SourceFile, ...]
    slices: tuple[tuple[int, int], ...]
    positions_mm_lps: tuple[Triple, ...]
    orientation: tuple[float, ...]
    grid: Grid
    exact: bool
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Plain values for dicom.json."""
        files: list[Json] = [[f.name, f.sop_instance_uid, f.sha256] for f in self.files]
        return {
            "schema_version": _SCHEMA,
            "source": self.source,
            "source_kind": self.source_kind,
            "study_uid": self.study_uid,
            "series_uid": self.series_uid,
            "frame_of_reference_uid": self.frame_of_reference_uid,
            "sop_class_uid": self.sop_class_uid,
            "modality": self.modality,
            "files": files,
            "slices": [[file, frame] for file, frame in self.slices],
            "positions_mm_lps": [list(position) for position in self.positions_mm_lps],
            "orientation": list(self.orientation),
            "grid": self.grid.to_json(),
            "exact": self.exact,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> Reference:
        """SchemaError when a value is missing or of the wrong kind, or the schema is newer."""
        if values.get("schema_version") != _SCHEMA:
            raise SchemaError(
                f"{NAME} has the schema {values.get('schema_version')!r}, expected {_SCHEMA}; "
                "a newer SemiSeg wrote it, or it is damaged"
            )
        try:
            return cls._parsed(values)
        except (KeyError, TypeError, ValueError, ImageError) as error:
            raise SchemaError(f"{NAME} is damaged: {error}; add the series anew") from error

    @classmethod
    def _parsed(cls, values: Mapping[str, Json]) -> Reference:
        def words(name: str) -> str:
            found = values[name]
            if not isinstance(found, str):
                raise TypeError(f"{name} should be text")
            return found

        rows = cast("list[list[str]]", values["files"])
        pairs = cast("list[list[int]]", values["slices"])
        places = cast("list[list[float]]", values["positions_mm_lps"])
        if not all(0 <= int(file) < len(rows) for file, _ in pairs):
            raise ValueError("a slice names a file that is not listed")
        return cls(
            source=words("source"),
            source_kind=_kind(words("source_kind")),
            study_uid=words("study_uid"),
            series_uid=words("series_uid"),
            frame_of_reference_uid=words("frame_of_reference_uid"),
            sop_class_uid=words("sop_class_uid"),
            modality=words("modality"),
            files=tuple(
                SourceFile(name=str(n), sop_instance_uid=str(u), sha256=str(h)) for n, u, h in rows
            ),
            slices=tuple((int(file), int(frame)) for file, frame in pairs),
            positions_mm_lps=tuple((float(x), float(y), float(z)) for x, y, z in places),
            orientation=tuple(float(v) for v in cast("list[float]", values["orientation"])),
            grid=Grid.from_json(cast("dict[str, Json]", values["grid"])),
            exact=bool(values["exact"]),
            notes=tuple(str(note) for note in cast("list[str]", values["notes"])),
        )


def _kind(word: str) -> SourceKind:
    return next((kind for kind in get_args(SourceKind) if kind == word), "folder")
