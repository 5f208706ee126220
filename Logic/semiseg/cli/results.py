"""`semiseg evaluate`, `export` and `report`: what came of it."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli.options import (
    CaseIds,
    StudyFolder,
    chosen_cases,
    parse_pairs,
    shell_path,
)
from semiseg.cli.scores import score_columns, score_rows, summary_columns, summary_rows
from semiseg.cli.screen import screen_of
from semiseg.errors import ConfigError, StudyError

if TYPE_CHECKING:
    from semiseg.config import Identity, MeshSpace
    from semiseg.evaluation import What
    from semiseg.study.study import Study

_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".nii", ".mha")


def register(app: typer.Typer) -> None:
    """Add this file's commands to `app`."""
    app.command("evaluate")(evaluate)
    app.command("export")(export)
    app.command("report")(report)


def evaluate(
    context: typer.Context,
    folder: StudyFolder,
    reference: Annotated[
        list[str],
        typer.Option(
            "--reference", metavar="CASE=FILE", help="Reference of a case, or a folder of them."
        ),
    ],
    what: Annotated[
        str, typer.Option(help="prediction, label (drawn and propagated) or combined.")
    ] = "prediction",
    note: Annotated[str, typer.Option(help="Where the references come from.")] = "",
) -> None:
    """Score segmentations against references: Dice, HD95, ASSD.

    In a folder, the reference of case ct1 is the file ct1.nii.gz (or .seg.nrrd, .nrrd, .mha),
    or ct1_label.*, or the image's name with _label for _image. Data of the last event: "rows",
    one per case and structure, and "summaries": Dice per modality and structure with "mean", "n"
    (patients), "low" and "high".

    \b
    Examples:
      semiseg evaluate abdomen --reference ct1=expert/ct1.nii.gz --reference mr1=expert/m.nrrd
      semiseg evaluate abdomen --reference expert/ --note "drawn by two radiologists"
    """
    from semiseg.evaluation import evaluate as run
    from semiseg.rounds.intervals import POLICY, summaries
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    files = references(study, reference)
    rows = run(study, files, cast("What", what), reference_note=note, emit=screen.emit)
    screen.table(f"{what} against reference", score_columns(), score_rows(rows))
    patients = {case.id: case.patient for case in study.cases.values()}
    means = summaries(rows, patients=patients)
    screen.table("Means over patients, 95 %", summary_columns(), summary_rows(means))
    screen.data(rows=list(rows), summaries=[one.to_json() for one in means], intervals=POLICY)
    if not screen.json and note:
        screen.say(f"references: {note}")


def export(
    context: typer.Context,
    folder: StudyFolder,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the files.")],
    cases: CaseIds = None,
    what: Annotated[
        str, typer.Option(help="combined (human where drawn, else the model), prediction or label.")
    ] = "combined",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="seg.nrrd, nii.gz, both (default), structures (a mask each), csv or xlsx "
            "(measurements), stl, obj, ply or glb (meshes), dicom-seg or rtstruct; may be given "
            "several times.",
        ),
    ] = None,
    identity: Annotated[
        str,
        typer.Option(help="The patient's name and id in DICOM objects: keep, or remove."),
    ] = "ask",
    dicom: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the DICOM series is now, if it was moved."),
    ] = None,
    space: Annotated[
        str, typer.Option(help="Axes of mesh coordinates: LPS, as Slicer expects, or RAS.")
    ] = "LPS",
    apart: Annotated[
        bool, typer.Option("--apart", help="One OBJ or glTF file per structure, not per case.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there already.")
    ] = False,
) -> None:
    """Write segmentations on the images' own grids, meshes, and measurements.

    DICOM SEG and RTSTRUCT need a case that was added from DICOM, and its files. Meshes are in
    millimetres (glTF: scaled to metres, its unit); they need the packages scikit-image and
    trimesh, Excel workbooks need xlsxwriter.

    \b
    Examples:
      semiseg export abdomen to-pacs ct7 --format dicom-seg --identity keep
      semiseg export abdomen results
      semiseg export abdomen results ct7 --format nii.gz --what prediction
      semiseg export abdomen printer ct7 --format stl --format xlsx
    """
    from semiseg.export import export_study
    from semiseg.meshes.work import MeshOptions
    from semiseg.pacs import DicomOptions
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    chosen = chosen_cases(study, cases)
    options = DicomOptions(identity=cast("Identity", identity), originals=dicom)
    written = export_study(
        study,
        target,
        what,
        formats or "both",
        chosen,
        screen.emit,
        overwrite=overwrite,
        dicom=options,
        meshes=MeshOptions(space=cast("MeshSpace", space), together=not apart),
    )
    screen.data(files=[str(path) for path in written])
    screen.say(f"wrote {len(written)} files to {target}")


def report(
    context: typer.Context,
    folder: StudyFolder,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML page that shows everything.

    Pictures in three planes, scores, finished slices, gates, curves and provenance in one file.

    \b
    Examples:
      semiseg report abdomen
      semiseg report abdomen --open
    """
    from semiseg.report.report import write_report
    from semiseg.study.study import Study

    screen = screen_of(context)
    path = write_report(Study.open(folder), screen.emit)
    screen.data(report=str(path))
    screen.say(f"wrote {path}")
    if show and not webbrowser.open(path.resolve().as_uri()):
        screen.say(f"no browser could be opened; open {shell_path(path)} yourself")


def references(study: Study, texts: list[str]) -> dict[str, Path]:
    """Reference files by case from `CASE=FILE` entries and folders; errors name what is wrong."""
    folders = [Path(text) for text in texts if Path(text).is_dir()]
    pairs = [text for text in texts if not Path(text).is_dir()]
    found = {key: Path(value) for key, value in parse_pairs(pairs, "CASE=FILE").items()}
    for case_id in found:
        study.case(case_id)
    for folder in folders:
        for case_id, path in _in_folder(study, folder).items():
            if case_id in found:
                raise ConfigError(f"{case_id} has two references: {found[case_id]} and {path}")
            found[case_id] = path
    return found


def _in_folder(study: Study, folder: Path) -> dict[str, Path]:
    found = {}
    for case_id, case in study.cases.items():
        image = _stem(Path(case.image.absolute).name)
        stems = [case_id, f"{case_id}_label", f"{image}_label"]
        if "_image" in image:
            stems.append(image.replace("_image", "_label"))
        names = [folder / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES]
        path = next((name for name in names if name.is_file()), None)
        if path is not None:
            found[case_id] = path
    if not found:
        raise StudyError(
            f"{folder} has no reference for any case; name the files like the cases "
            f"({', '.join(list(study.cases)[:3])}) or give --reference CASE=FILE"
        )
    return found


def _stem(name: str) -> str:
    suffix = next((s for s in _SUFFIXES if name.endswith(s)), "")
    return name.removesuffix(suffix)
