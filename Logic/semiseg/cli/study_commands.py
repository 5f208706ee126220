"""`semiseg study ...`: make a study, fill it, look at it, check it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli import case_commands, companions
from semiseg.cli.dicom import BridgeGaps, SeriesNumbers
from semiseg.cli.options import CaseId, CaseIds, StudyFolder, parse_pairs, shell_path
from semiseg.cli.screen import screen_of
from semiseg.config import MODALITIES, Modality, check_choice
from semiseg.errors import (
    ConfigError,
    StudyError,
)

if TYPE_CHECKING:
    from semiseg.study.case import Split
    from semiseg.study.protocol import Protocol
    from semiseg.study.study import Study

app = typer.Typer(
    help="Make a study, fill it, look at it, check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
case_commands.register(app)
companions.register(app)


@app.command()
def new(
    context: typer.Context,
    folder: StudyFolder,
    name: Annotated[str | None, typer.Option(help="Name; the folder's if none.")] = None,
    structures: Annotated[
        str, typer.Option(help='Structures, e.g. "liver,spleen" or "1=liver,4=spleen".')
    ] = "",
) -> None:
    """Make a study: a folder with structures, cases, labels, models and a journal.

    \b
    Examples:
      semiseg study new abdomen --structures liver,spleen,kidney_left,kidney_right
      semiseg study new "my study" --structures "6=liver,1=spleen"
    """
    from semiseg.study.protocol import parse_structures
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.create(
        folder, name=name or folder.resolve().name, protocol=parse_structures(structures)
    )
    screen.data(study=str(study.folder), id=study.id)
    screen.say(f"made the study {study.name!r} in {study.folder}: {_listed(study.protocol)}")
    screen.next(f"semiseg study add {shell_path(folder)} IMAGE --modality CT")


@app.command()
def add(
    context: typer.Context,
    folder: StudyFolder,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE]...", help="NIfTI, NRRD, MHA; folder or ZIP of DICOM files."
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="CT or MR; guessed from the file if not given.")
    ] = None,
    case_id: Annotated[
        str | None, typer.Option("--case-id", help="Id of the case (one image only).")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Patient; images of one patient share a split.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the image into the study, not only point to it.")
    ] = False,
    series: SeriesNumbers = "",
    bridge_gaps: BridgeGaps = False,
    files: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="Text file with the paths of DICOM files, one a line."),
    ] = None,
) -> None:
    """Add images as cases; the files are pointed to, or copied with --copy.

    Of a folder or ZIP file, the DICOM series in it are added, written into the study as one file
    each, without the patient's name; `semiseg dicom scan` lists them with their numbers.

    An image that is refused does not keep the others out. Data of the events: {"case", "image",
    "notes"} of each one added, {"image", "error"} of each one refused, {"image", "choices",
    "gaps", "left_out"} of each DICOM source ("choices": volumes of which one has to say which,
    "gaps": those that --bridge-gaps would complete, both {"number", "name", "slices"}); of the
    last: "added" and "refused", lists of these, and "cases", all ids.

    \b
    Examples:
      semiseg study add abdomen ct1.nii.gz ct2.nii.gz --modality CT
      semiseg study add abdomen mr.nrrd --case-id mr1 --patient P7 --split test --copy
      semiseg study add abdomen /media/cdrom --series 2,5
    """
    from semiseg.cli.adding import Adding, add_all
    from semiseg.importing import SeriesChoice
    from semiseg.study.study import Study

    screen = screen_of(context)
    every = [*(images or []), *([files] if files else [])]
    if not every:
        raise ConfigError("no image is given; name files, folders or a list of files (--files)")
    if case_id is not None and len(every) > 1:
        raise ConfigError("--case-id names one case; add the images one by one")
    study = Study.open(folder)
    choice = SeriesChoice(
        case_id=case_id,
        patient=patient,
        modality=_modality(modality),
        split=cast("Split | None", split),
        bridge_gaps=bridge_gaps,
    )
    how = Adding(choice=choice, copy=copy, series=series, listing=files)
    add_all(study, every, how, screen)
    screen.data(cases=list(study.cases))
    screen.next(f"semiseg annotate {shell_path(folder)} CASE LABEL --done 10,20,30")


@app.command()
def status(context: typer.Context, folder: StudyFolder) -> None:
    """Show the cases, what is annotated and what comes next.

    \b
    Examples:
      semiseg study status abdomen
      semiseg study status abdomen --json
    """
    from semiseg.cli.overview import case_rows, next_step, problem_lines, volumes_of
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    rows = case_rows(study)
    problems = problem_lines(study)
    screen.say(f"{study.name}: {_listed(study.protocol)}; {_models(study)}")
    columns = ("case", "modality", "split", "label", "slices done", "gate", "segmentation")
    screen.table("Cases", columns, [tuple(row.values()) for row in rows])
    screen.data(
        study=str(study.folder),
        structures={str(s.id): s.name for s in study.protocol.structures},
        cases=[{**row, **volumes_of(study, row["case"])} for row in rows],
        models=[model.id for model in study.models()],
        problems=problems,
        drafts=list(study.drafts()),
    )
    for case in study.cases.values():
        if case.companions:
            names = ", ".join(companion.name for companion in case.companions)
            screen.say(f"{case.id}: {case.stream}, with {names}")
    for line in problems:
        screen.say(f"problem: {line}")
    if study.drafts():
        waiting = ", ".join(study.drafts())
        screen.say(f"drawings wait to be merged in {waiting}: semiseg study apply")
    screen.next(next_step(study, shell_path(folder)))


@app.command()
def check(context: typer.Context, folder: StudyFolder) -> None:
    """Read every image, label and segmentation of the study; exit code 3 if something is wrong.

    \b
    Example:
      semiseg study check abdomen
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    problems = study.check()
    screen.data(problems=[str(problem) for problem in problems])
    for problem in problems:
        screen.say(f"problem: {problem}")
    if problems:
        raise StudyError(f"problems in {folder}: {len(problems)}; the rest of the study is sound")
    screen.say(f"{len(study.cases)} cases, {_models(study)}: all sound")


@app.command()
def structures(
    context: typer.Context,
    folder: StudyFolder,
    add_: Annotated[
        list[str] | None, typer.Option("--add", metavar="ID=NAME", help="Add a structure.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NEW", help="Rename a structure.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Remove a structure without voxels.")
    ] = None,
    set_: Annotated[
        Path | None,
        typer.Option("--set", metavar="FILE", help="Take all structures from a JSON file."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Remove structures that have drawn voxels, too.")
    ] = False,
) -> None:
    """List the structures, or add, rename and remove some.

    The file of --set is a list of {"id", "name", "color": [r, g, b], "code", "modifier"} in the
    order to be kept; codes may be left out. Data of the last event: "structures", names by id,
    and "protocol", such a list.

    \b
    Examples:
      semiseg study structures abdomen
      semiseg study structures abdomen --add 5=pancreas --rename kidney_left=left_kidney
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    start = study.protocol if set_ is None else _protocol_in(set_)
    changed = _changed(start, add_ or (), rename or (), remove or ())
    if changed != study.protocol:
        study.set_protocol(changed, force=force)
    rows = [
        (str(s.id), s.name, s.code.meaning if s.code else "-", _hex(s.color))
        for s in changed.structures
    ]
    screen.table("Structures", ("id", "name", "code", "colour"), rows)
    screen.data(structures={row[0]: row[1] for row in rows}, protocol=changed.to_json())


@app.command()
def split(
    context: typer.Context,
    folder: StudyFolder,
    cases: CaseIds = None,
    to: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    assign: Annotated[
        bool, typer.Option("--assign", help="Draw splits for patients that have none yet.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    fractions: Annotated[
        tuple[float, float, float], typer.Option(help="Parts of train, val, test.")
    ] = (0.7, 0.15, 0.15),
) -> None:
    """Show the splits, move the patients of some cases, or draw splits by patient.

    \b
    Examples:
      semiseg study split abdomen
      semiseg study split abdomen ct7 --to test
      semiseg study split abdomen --assign --fractions 0.7 0.1 0.2
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    if assign:
        study.assign_splits(seed, fractions)
    if to is not None:
        if not cases:
            raise ConfigError("--to needs the cases to move; for example: ct7 --to test")
        _move(study, cases, to)
    rows = [(case.id, case.patient, case.split) for case in study.cases.values()]
    screen.table("Splits", ("case", "patient", "split"), rows)
    screen.data(splits={row[0]: row[2] for row in rows})


@app.command()
def relink(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Where its image lies now.")],
) -> None:
    """Say where the image of a case lies now; it must be the same file.

    \b
    Example:
      semiseg study relink abdomen ct1 /new/place/ct1.nii.gz
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    case = Study.open(folder).relink_image(case_id, image)
    screen.data(case=case.id, image=case.image.absolute)
    screen.say(f"{case.id}: its image is {case.image.absolute}")


@app.command()
def models(context: typer.Context, folder: StudyFolder) -> None:
    """List the models of the study, the latest last.

    \b
    Example:
      semiseg study models abdomen
    """
    from semiseg.cli.overview import model_rows
    from semiseg.study.study import Study

    screen = screen_of(context)
    rows = model_rows(Study.open(folder))
    screen.table(
        "Models",
        ("model", "method", "made", "steps", "validation Dice"),
        [tuple(str(value) for value in row.values()) for row in rows],
    )
    screen.data(models=[dict(row) for row in rows])


@app.command()
def history(
    context: typer.Context,
    folder: StudyFolder,
    last: Annotated[int, typer.Option(min=1, help="How many entries, counted from the end.")] = 20,
) -> None:
    """Show the last entries of the study's journal.

    \b
    Example:
      semiseg study history abdomen --last 50
    """
    from semiseg.cli.overview import journal_rows
    from semiseg.study.study import Study

    screen = screen_of(context)
    rows = journal_rows(Study.open(folder))[-last:]
    screen.table("History", ("time", "what", "details"), rows)
    screen.data(history=[list(row) for row in rows])


def _modality(text: str | None) -> Modality | None:
    if text is None:
        return None
    check_choice("modality", text.upper(), MODALITIES)
    return cast("Modality", text.upper())


def _changed(
    protocol: Protocol,
    add_: list[str] | tuple[()],
    rename: list[str] | tuple[()],
    remove: list[str] | tuple[()],
) -> Protocol:
    from semiseg.study.protocol import parse_structures

    for text in add_:
        for structure in parse_structures(text).structures:
            protocol = protocol.add(structure)
    for old, name in parse_pairs(rename, "--rename NAME=NEW").items():
        protocol = protocol.rename(protocol.by_name(old).id, name)
    for name in remove:
        protocol = protocol.remove(protocol.by_name(name).id)
    return protocol


def _protocol_in(path: Path) -> Protocol:
    from semiseg.study.fields import Fields
    from semiseg.study.protocol import Protocol
    from semiseg.study.storage import on_disk

    try:
        with on_disk("read", path):
            found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON file: {error}") from error
    listed = found.get("structures") if isinstance(found, dict) else found
    if not isinstance(listed, list):
        raise ConfigError(f"{path} has no list of structures; see semiseg study structures --help")
    return Protocol.from_json(Fields({"structures": listed}, str(path)).parts("structures"))


def _move(study: Study, cases: list[str], to: str) -> None:
    for case_id in cases:
        study.set_split(study.case(case_id).patient, cast("Split", to))


def _models(study: Study) -> str:
    count = len(study.models())
    return f"{count} model{'' if count == 1 else 's'}"


def _hex(color: tuple[int, int, int]) -> str:
    return "#" + bytes(color).hex()


def _listed(protocol: Protocol) -> str:
    names = ", ".join(f"{s.id} {s.name}" for s in protocol.structures)
    return names or "no structures yet"
