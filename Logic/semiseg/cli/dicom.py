"""`semiseg dicom ...`: look into folders of DICOM files, and take series from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiseg.cli.options import CaseIds, StudyFolder, chosen_cases, shell_path
from semiseg.cli.screen import Screen, screen_of

if TYPE_CHECKING:
    from semiseg.dicom.scan import Scan
    from semiseg.dicom.series import Volume

BridgeGaps = Annotated[
    bool,
    typer.Option("--bridge-gaps", help="Fill missing DICOM slices from their neighbours."),
]
SeriesNumbers = Annotated[
    str,
    typer.Option(
        "--series", metavar="NUMBERS", help="Which volumes of a DICOM folder, e.g. 1,3-5 or all."
    ),
]

Moved = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where the DICOM series is now, if it was moved."),
]

app = typer.Typer(
    help="Look into DICOM folders and ZIP files; write series without names.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("scan")
def scan_(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder or ZIP file.")],
    bridge_gaps: BridgeGaps = False,
) -> None:
    """List the volumes in a folder or ZIP file of DICOM files; reads headers only.

    Nothing is written. The result's data: root, files (how many), volumes (number, modality,
    series_number, series_uid, study_uid, description, patient (a one-way key), part, siblings,
    slices, folder, grid, exact, notes, problem), skipped (reason -> files).

    \b
    Examples:
      semiseg dicom scan /media/cdrom
      semiseg dicom scan export.zip --json
    """
    from semiseg.dicom.scan import scan

    screen = screen_of(context)
    found = scan(folder, screen.emit, bridge_gaps=bridge_gaps)
    screen.data(**found.to_json())
    _show(found, screen)
    ready = [volume for volume in found.volumes if volume.ready]
    if ready:
        screen.next(f"semiseg study add STUDY {shell_path(folder)} --series {ready[0].number}")


@app.command()
def deidentify(
    context: typer.Context,
    folder: StudyFolder,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the files.")],
    cases: CaseIds = None,
    dicom: Moved = None,
) -> None:
    """Write the DICOM series of cases without what identifies the patient, for research.

    By the Basic Profile of DICOM PS3.15, with the unique ids that the files of `semiseg export
    --identity remove` refer to. Writing in the pictures is not seen. The result's data: files.

    \b
    Example:
      semiseg dicom deidentify abdomen for-research ct7
    """
    from semiseg.pacs import write_deidentified
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    written: list[Path] = []
    for case_id in chosen_cases(study, cases) or study.cases:
        written += write_deidentified(study, study.case(case_id), target, dicom, screen.emit)
    screen.data(files=[str(path) for path in written])
    screen.say(
        f"wrote {len(written)} files to {target}; look at some of them before you share them"
    )


def _show(found: Scan, screen: Screen) -> None:
    columns = ("volume", "series", "description", "slices", "size", "spacing mm", "remarks")
    rows = [_row(volume) for volume in found.volumes]
    screen.table(f"{found.n_files} files in {found.root}", columns, rows)
    for reason, count in found.reasons.items():
        screen.say(f"left out: {count} {'file' if count == 1 else 'files'}: {reason}")


def _row(volume: Volume) -> tuple[str, ...]:
    grid = volume.grid
    size = "-" if grid is None else " x ".join(str(n) for n in grid.size_xyz)
    spacing = "-" if grid is None else " x ".join(f"{s:.3g}" for s in grid.spacing_mm_xyz)
    remarks = volume.problem or "; ".join(volume.notes)
    description = volume.first.description
    return (
        str(volume.number),
        named(volume),
        description,
        str(len(volume.frames)),
        size,
        spacing,
        remarks,
    )


def named(volume: Volume) -> str:
    """A volume in a few words: modality, series number, part."""
    number = volume.first.series_number
    name = f"{volume.first.modality or '?'} {'-' if number is None else number}"
    return f"{name} ({volume.part})" if volume.part else name
