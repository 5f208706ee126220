"""`semiseg study add-companion|remove-companion|sequence`: several volumes of one case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiseg.cli.dicom import SeriesNumbers
from semiseg.cli.options import CaseId, StudyFolder
from semiseg.cli.screen import screen_of
from semiseg.errors import ImageError

if TYPE_CHECKING:
    from semiseg.cli.screen import Screen
    from semiseg.study.case import Case
    from semiseg.study.study import Study

_Name = Annotated[str, typer.Option("--name", help="What it shows, for example T2 or venous.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands to the group `study`."""
    app.command("add-companion")(add_companion)
    app.command("remove-companion")(remove_companion)
    app.command("sequence")(sequence)


def add_companion(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    image: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="NIfTI, NRRD, MHA; folder or ZIP of DICOM files."),
    ],
    name: _Name,
    series: SeriesNumbers = "",
) -> None:
    """Add a further volume of a case: another phase of its CT, another sequence of its MR.

    It must fill the same space as the case's image, on whatever grid. Voxels and grid are written
    into the study, nothing else of the file. It is of the case's modality, unless it is named CT
    or MR. The method `maml` learns from several volumes and
    segments with those that are there; other methods look at the case's image only.
    Data of the last event: "case", "sequence", "companions".

    \b
    Example:
      semiseg study add-companion brains mr7 mr7_t2.nii.gz --name T2
      semiseg study add-companion livers ct3 /media/cdrom --series 4 --name venous
    """
    from semiseg.dicom.sources import is_dicom
    from semiseg.study.study import Study

    screen, study = screen_of(context), Study.open(folder)
    if image.is_dir() or image.suffix.lower() == ".zip" or is_dicom(image):
        case = _add_series(study, case_id, image, name, series, screen)
    else:
        case = study.add_companion(case_id, image, name)
    _say(screen, case)


def _add_series(
    study: Study, case_id: str, source: Path, name: str, series: str, screen: Screen
) -> Case:
    from semiseg.cli.adding import chosen_volumes
    from semiseg.dicom.scan import scan
    from semiseg.importing import add_companion_series

    found = scan(source, screen.emit)
    chosen = chosen_volumes(found, series)
    if len(chosen) > 1:
        raise ImageError(
            f"{source} holds {len(chosen)} volumes and a companion is one; say which with "
            "--series (semiseg dicom scan lists them)"
        )
    return add_companion_series(study, case_id, found.root, chosen[0], name, screen.emit)


def remove_companion(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    name: Annotated[str, typer.Argument(metavar="NAME")],
) -> None:
    """Take a further volume of a case out of the study, with the study's copy of it.

    Data of the last event: "case", "sequence", "companions".

    \b
    Example:
      semiseg study remove-companion brains mr7 T2
    """
    from semiseg.study.study import Study

    _say(screen_of(context), Study.open(folder).remove_companion(case_id, name))


def sequence(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    name: Annotated[str, typer.Argument(metavar="NAME|none")],
) -> None:
    """Say which phase or sequence a case's own image is, where other cases have it as companion.

    Without that it is what its modality says. Data of the last event: "case", "sequence",
    "companions".

    \b
    Examples:
      semiseg study sequence brains mr9 T2
      semiseg study sequence brains mr9 none
    """
    from semiseg.study.study import Study

    chosen = None if name.lower() == "none" else name
    _say(screen_of(context), Study.open(folder).set_sequence(case_id, chosen))


def _say(screen: Screen, case: Case) -> None:
    names = [companion.name for companion in case.companions]
    screen.data(case=case.id, sequence=case.sequence, companions=[*names])
    screen.say(f"{case.id}: {', '.join((case.stream, *names))}")
