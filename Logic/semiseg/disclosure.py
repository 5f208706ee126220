"""What could tell a stranger who the patient or the drawer is, found before it leaves a study."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from semiseg.errors import SchemaError
from semiseg.events import Emit, Event, Json
from semiseg.study.study import Study

_SHORTEST_NAME = 3
_PATH = re.compile(r"(?<![\w./:])(?:[A-Za-z]:[\\/]|/)[^\s/\\'\",;:()<>]+[/\\][^\s'\",;:()<>]*")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w+")
_WORDS = re.compile(r"[^\W_]+")
_OWN = re.compile(r"patient-[0-9a-f]{10}|simulated")


def warn_of_identity(
    study: Study, folder: Path, texts: Mapping[str, str], emit: Emit, phase: str = "export"
) -> tuple[str, ...]:
    """Say in an event, before `texts` (what -> text) are written to `folder`, what identifies.

    Patients' and drawers' names that the study knows, paths of this computer and mail addresses.
    Nothing is said where `folder` lies within the study. The event's data hold "warning":
    "identifiable" and the "findings", which are returned.
    """
    if folder.resolve().is_relative_to(study.folder.resolve()):
        return ()
    patients, authors = _patients(study), _authors(study)
    findings = tuple(
        f"{what} holds {finding}"
        for what, text in texts.items()
        for finding in _findings(text, patients, authors)
    )
    if findings:
        message = (
            f"warning: this leaves the study and could identify somebody: {'; '.join(findings)}. "
            "Take it out and write the files again before you hand them on"
        )
        told: list[Json] = list(findings)
        data: dict[str, Json] = {"warning": "identifiable", "findings": told}
        emit(Event(kind="progress", phase=phase, message=message, data=data))
    return findings


def warn_of_dicom(study: Study, folder: Path, case_ids: Iterable[str], emit: Emit) -> None:
    """Say that DICOM files carry the patients' names out of the study, before they are written."""
    if folder.resolve().is_relative_to(study.folder.resolve()):
        return
    ids = list(case_ids)
    message = (
        f"warning: the DICOM files of {', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''} carry "
        "the patient's name, id and birth date out of the study, as was asked for"
    )
    told: list[Json] = list(ids)
    data: dict[str, Json] = {"warning": "identifiable", "cases": told}
    emit(Event(kind="progress", phase="export", message=message, data=data))


def _patients(study: Study) -> set[str]:
    """Names that someone gave to patients; the ids that SemiSeg makes up say nothing."""
    given = {case.patient for case in study.cases.values() if case.patient != case.id}
    return {name for name in given if _tells(name)}


def _authors(study: Study) -> set[str]:
    """Who drew, as the versions of the labels say."""
    found = set()
    for case_id in study.cases:
        for version in study.label_versions(case_id):
            with contextlib.suppress(SchemaError):  # a damaged version leaves by no export
                found.add(str(study.label_info(case_id, version).info.get("author") or ""))
    return {name for name in found if _tells(name)}


def _tells(name: str) -> bool:
    return len(name) >= _SHORTEST_NAME and not _OWN.fullmatch(name)


def _findings(text: str, patients: set[str], authors: set[str]) -> list[str]:
    found = [f"the patient's name {name!r}" for name in sorted(patients) if _holds(text, name)]
    found += [f"the drawer's name {name!r}" for name in sorted(authors) if _holds(text, name)]
    found += [f"the path {path!r}" for path in _PATH.findall(text)]
    return found + [f"the address {mail!r}" for mail in _MAIL.findall(text)]


def _holds(text: str, name: str) -> bool:
    """Whether all words of `name` stand in `text`, in any order and however they are joined."""
    words = {word.casefold() for word in _WORDS.findall(name)}
    return bool(words) and words <= {word.casefold() for word in _WORDS.findall(text)}
