"""Where everything in a report comes from: versions, hashes, settings and what happened when."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath

from semiseg import __version__
from semiseg.errors import SemiSegError
from semiseg.events import Json
from semiseg.report.learning import in_words
from semiseg.report.privacy import Scrubber
from semiseg.study.case import Case
from semiseg.study.study import Study
from semiseg.study.versions import read_manifest

_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch", "monai")
_JOURNAL_LINES = 60
_LONGEST = 240


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One file that the study rests on."""

    what: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class JournalRow:
    """One line of the journal in words."""

    time: str
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The last chapter of a report."""

    versions: tuple[tuple[str, str], ...]
    files: tuple[FileRow, ...]
    journal: tuple[JournalRow, ...]
    journal_length: int


def provenance(study: Study, scrub: Scrubber) -> Provenance:
    """Read hashes from the versions' manifests and the newest lines of the journal."""
    entries = study.journal.read()
    return Provenance(
        versions=tuple(_versions()),
        files=tuple(_files(study)),
        journal=tuple(
            JournalRow(time=_clock(entry.time), kind=entry.kind, text=_short(entry.data, scrub))
            for entry in entries[-_JOURNAL_LINES:]
        ),
        journal_length=len(entries),
    )


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def _versions() -> list[tuple[str, str]]:
    found = [("SemiSeg", __version__), ("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    found.append(("System", f"{platform.system()} {platform.machine()}"))
    return found


def _files(study: Study) -> list[FileRow]:
    rows = [row for case in study.cases.values() for row in _case_files(study, case)]
    for record in study.models():
        rows += _version_files(record.folder, f"model {record.id}")
    return rows


def _case_files(study: Study, case: Case) -> list[FileRow]:
    image = case.image
    rows = [
        FileRow(what=f"image of {case.id}", name=file_name(image.absolute), sha256=image.sha256)
    ]
    folder = study.folder / "cases" / case.id
    for kind, number in (
        ("labels", max(study.label_versions(case.id), default=0)),
        ("predictions", max(study.prediction_versions(case.id), default=0)),
    ):
        if number:
            what = f"{kind[:-1]} {number} of {case.id}"
            rows += _version_files(folder / kind / f"{number:04d}", what)
    return rows


def _version_files(folder: Path, what: str) -> list[FileRow]:
    try:
        files = read_manifest(folder).files
    except SemiSegError:
        return [FileRow(what=what, name="version.json", sha256="cannot be read: see the problems")]
    return [FileRow(what=what, name=name, sha256=digest) for name, (_, digest) in files.items()]


def _short(data: Mapping[str, Json], scrub: Scrubber) -> str:
    text = scrub("; ".join(f"{name}: {in_words(value)}" for name, value in data.items()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _clock(iso: str) -> str:
    """Date and time of day of an ISO 8601 time, to the second."""
    return iso.replace("T", " ")[:19]
