"""Images, folders and ZIP files that are to become cases, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from semiseg.cli.dicom import named
from semiseg.cli.options import parse_indices, shell_path
from semiseg.cli.screen import Screen
from semiseg.config import MODALITIES
from semiseg.dicom.frames import NOT_DICOM
from semiseg.dicom.scan import scan, scan_files
from semiseg.dicom.sources import is_dicom
from semiseg.errors import ImageError, SemiSegError, StudyError, StudyLockedError
from semiseg.events import Event, Json
from semiseg.importing import SeriesChoice, add_series
from semiseg.study.scanner import reference_of

if TYPE_CHECKING:
    from semiseg.dicom.scan import Scan
    from semiseg.dicom.series import Volume
    from semiseg.study.case import Case
    from semiseg.study.study import Study

_BRIDGE = "--bridge-gaps"


@dataclass(frozen=True, kw_only=True)
class Adding:
    """How images are added; `series` names the volumes of a DICOM folder, "" those in no doubt.

    `listing` is the one image that is a list of DICOM files, a path per line.
    """

    choice: SeriesChoice
    copy: bool = False
    series: str = ""
    listing: Path | None = None


def add_all(study: Study, images: Sequence[Path], how: Adding, screen: Screen) -> None:
    """Adds one image after the other; the first refusal's error if none could be added."""
    added: list[Json] = []
    refused: list[Json] = []
    errors: list[SemiSegError] = []
    screen.data(added=added, refused=refused)
    for number, image in enumerate(images, 1):
        step = Event(kind="progress", phase="add", step=number, total=len(images))
        try:
            cases = _add(study, image, how, screen)
        except StudyLockedError:
            raise
        except (ImageError, StudyError) as error:
            errors.append(error)
            refused.append({"image": str(image), "error": str(error)})
            screen.emit(replace(step, data={"image": str(image), "error": str(error)}))
            continue
        for case in cases:
            notes: list[Json] = [*_remarks(study, case)]
            data: dict[str, Json] = {"image": str(image), "case": case.id, "notes": notes}
            added.append(data)
            screen.emit(replace(step, data=data))
    if errors and not added:
        raise errors[0]
    for refusal in errors:
        screen.say(f"not added: {refusal}")


def _add(study: Study, image: Path, how: Adding, screen: Screen) -> list[Case]:
    if image == how.listing or image.is_dir() or image.suffix.lower() == ".zip" or is_dicom(image):
        return _add_series(study, image, how, screen)
    case = study.add_case(
        image,
        case_id=how.choice.case_id,
        patient=how.choice.patient,
        modality=how.choice.modality,
        split=how.choice.split,
        copy=how.copy,
    )
    _say(case, screen)
    return [case]


def _say(case: Case, screen: Screen) -> None:
    guessed = "" if case.modality_overridden else f", {case.modality_confidence:.0%} sure"
    screen.say(f"added {case.id}: {case.modality}{guessed}, {case.split}")


def _add_series(study: Study, folder: Path, how: Adding, screen: Screen) -> list[Case]:
    """Add the chosen volumes in `folder`, by default each that is alone in its series.

    ImageError when nothing can be added, or when only the user can choose between volumes.
    """
    found = _found(folder, how, screen)
    chosen = chosen_volumes(found, how.series)
    if how.choice.case_id is not None and len(chosen) > 1:
        raise ImageError(
            f"--case-id names one case, but {folder.name} holds {len(chosen)} volumes; say which "
            "with --series"
        )
    added, refused = [], []
    for volume in chosen:
        try:
            case = add_series(study, found.root, volume, how.choice, screen.emit, found.kind)
        except (ImageError, StudyError) as error:
            if isinstance(error, StudyLockedError) or len(chosen) == 1:
                raise
            refused.append(f"not added: series {named(volume)}: {error}")
            continue
        added.append(case)
        _say(case, screen)
        _remark(study, case, screen)
    for line in refused:
        screen.say(line)
    _left_out(found, how.series, screen)
    return added


def _found(image: Path, how: Adding, screen: Screen) -> Scan:
    """The volumes of a folder, ZIP file or list; tells programs what needs a choice."""
    gaps = how.choice.bridge_gaps
    if image == how.listing:
        found = scan_files(_listed(image), screen.emit, bridge_gaps=gaps)
    else:
        found = scan(image, screen.emit, bridge_gaps=gaps)
    waiting = () if how.series else [v for v in found.volumes if v.ready and v.siblings > 1]
    gappy = () if how.series else [v for v in found.volumes if _BRIDGE in v.problem]
    left: list[Json] = [*_reasons(found)]
    left += [] if how.series else [_refused(v) for v in found.volumes if v.problem]
    data: dict[str, Json] = {
        "image": str(image),
        "choices": [_row(volume) for volume in waiting],
        "gaps": [_row(volume) for volume in gappy],
        "left_out": left,
    }
    screen.emit(Event(kind="progress", phase="scan", data=data))
    return found


def _row(volume: Volume) -> Json:
    return {"number": volume.number, "name": named(volume), "slices": len(volume.frames)}


def _listed(listing: Path) -> list[Path]:
    """The paths in a list; ImageError when it cannot be read."""
    try:
        text = listing.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ImageError(f"the list of files {listing} cannot be read: {error}") from error
    return [Path(line) for line in text.split("\n") if line.strip()]


def _remarks(study: Study, case: Case) -> list[str]:
    """What was mended on reading, and where tag and grey values disagree on the modality."""
    reference = reference_of(study, case.id)
    if reference is None:
        return []
    notes, tag = list(reference.notes), reference.modality
    if tag in MODALITIES and tag != case.modality and not case.modality_overridden:
        notes.append(
            f"the DICOM files say {tag}, but the grey values look like {case.modality}; it was "
            f"taken for {case.modality}"
        )
    return notes


def _remark(study: Study, case: Case, screen: Screen) -> None:
    for note in _remarks(study, case):
        change = f"semiseg study modality {shell_path(study.folder)} {case.id} CT|MR"
        hint = f" (change it: {change})" if note.startswith("the DICOM files say") else ""
        screen.say(f"{case.id}: {note}{hint}")


def _left_out(found: Scan, series: str, screen: Screen) -> None:
    for reason in _reasons(found):
        screen.say(f"left out: {reason}")
    if series:
        return
    for volume in found.volumes:
        if volume.problem:
            screen.say(f"left out: {_refused(volume)}")
    waiting = _to_choose(found)
    if waiting:
        screen.say(f"left out: {waiting}")


def _reasons(found: Scan) -> list[str]:
    """Why files are in no volume; files that are not DICOM at all need no word."""
    return [
        f"{count} {'file' if count == 1 else 'files'}: {reason}"
        for reason, count in found.reasons.items()
        if reason != NOT_DICOM
    ]


def _refused(volume: Volume) -> str:
    return f"series {named(volume)} {volume.problem}"


def chosen_volumes(found: Scan, series: str) -> list[Volume]:
    """Those that `series` names; by default each that is alone in its series."""
    by_number = {volume.number: volume for volume in found.volumes}
    if series and series != "all":
        wanted = parse_indices(series)
        unknown = [number for number in wanted if number not in by_number]
        if unknown:
            raise ImageError(
                f"{found.root} has no volume {unknown[0]}; it has {len(by_number)}: "
                "semiseg dicom scan lists them"
            )
        return [by_number[number] for number in wanted]
    ready = [volume for volume in found.volumes if volume.ready]
    if not ready:
        hint = "; give the folder with all files of the series" if found.n_files == 1 else ""
        raise ImageError(_nothing(found) + hint)
    if series:
        return ready
    clear = [volume for volume in ready if volume.siblings == 1]
    if not clear:
        raise ImageError(f"{found.root}: {_to_choose(found)}")
    return clear


def _to_choose(found: Scan) -> str:
    """Which volumes wait for the user's choice; empty when none does."""
    several = [volume for volume in found.volumes if volume.ready and volume.siblings > 1]
    if not several:
        return ""
    listed = "; ".join(f"{v.number}: {named(v)}" for v in several[:8])
    more = f"; and {len(several) - 8} more" if len(several) > 8 else ""
    return (
        "a series holds several volumes (time points, echoes, directions); say which to add with "
        f"--series, or all: {listed}{more}"
    )


def _nothing(found: Scan) -> str:
    """Why no volume of a scan can be used, the most frequent reason first."""
    reasons = [f"series {named(v)} {v.problem}" for v in found.volumes]
    reasons += [f"{count} files: {reason}" for reason, count in found.reasons.items()]
    listed = "; ".join(reasons[:4]) or "it is empty"
    return f"there is no CT or MR volume in {found.root}: {listed}"
