"""`semiseg model`: models out of a study and into one, as MONAI bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semiseg.cli.options import StudyFolder, shell_path
from semiseg.cli.screen import screen_of

app = typer.Typer(help="Hand a model on as a MONAI bundle, or take one over.", no_args_is_help=True)


@app.command("export")
def export_model(
    context: typer.Context,
    folder: StudyFolder,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or a .zip file.")],
    model: Annotated[int | None, typer.Option(help="Model; the latest if none.")] = None,
    name: Annotated[str, typer.Option(help="What it is called there.")] = "",
    description: Annotated[str, typer.Option(help="A sentence on what it does.")] = "",
    authors: Annotated[str, typer.Option(help="Who made it; nobody is named if none.")] = "",
    license_note: Annotated[
        str, typer.Option("--license", help="Under which terms it may be used.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there already.")
    ] = False,
) -> None:
    """Write a model as a MONAI bundle.

    Weights, network, preprocessing, structures and scores; it runs with plain MONAI, without
    SemiSeg, and names no case. The result's data hold "bundle" and "model".

    \b
    Examples:
      semiseg model export abdomen abdomen-bundle
      semiseg model export abdomen share.zip --model 2 --license "CC BY 4.0"
    """
    screen = screen_of(context)
    screen.loading()
    from semiseg.bundle.writing import BundleWords, export_bundle
    from semiseg.study.study import Study

    study = Study.open(folder)
    words = BundleWords(
        name=name, description=description, authors=authors, license_note=license_note
    )
    number = study.model(model).id
    export_bundle(study, target, number, words, screen.emit, overwrite=overwrite)
    screen.data(bundle=str(target), model=number)
    screen.say(f"wrote model {number} to {target}")
    if not license_note:
        screen.say("it says nothing of terms of use; state them with --license")


@app.command("import")
def import_model(
    context: typer.Context,
    folder: StudyFolder,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Folder or .zip that SemiSeg wrote.")
    ],
) -> None:
    """Add a bundle to the study's models, to segment with.

    The study must have all its structures (matched by code, else by name). To learn on from it,
    give it to `semiseg train --start-from` instead. The result's data hold "model".

    \b
    Example:
      semiseg model import abdomen colleague.zip
    """
    screen = screen_of(context)
    screen.loading()
    from semiseg.bundle.importing import import_bundle
    from semiseg.study.study import Study

    number = import_bundle(Study.open(folder), bundle)
    screen.data(model=number)
    screen.say(f"{bundle.name} is now model {number} of {folder}")
    screen.next(f"semiseg predict {shell_path(folder)} --model {number}")
