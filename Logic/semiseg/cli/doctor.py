"""`semiseg doctor`: what this machine can do, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semiseg.cli.screen import screen_of


def register(app: typer.Typer) -> None:
    """Add this file's command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder on the disk to look at; the present one if none.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only try the device, with a small convolution.")
    ] = False,
) -> None:
    """Measure what this machine can do; takes seconds.

    \b
    Examples:
      semiseg doctor
      semiseg doctor --quick --json
    """
    from semiseg.machine import examine

    screen = screen_of(context)
    machine = examine(folder or Path.cwd(), screen.emit, quick=quick)
    screen.table("This machine", ("what", "found"), list(machine.summary().items()))
    screen.data(machine=machine.to_json())
