"""`semiseg doctor`: what this machine can do, measured."""

from __future__ import annotations

from pathlib import Path

import typer

from semiseg.cli.screen import screen_of


def register(app: typer.Typer) -> None:
    """Add this file's command to `app`."""
    app.command("doctor")(doctor)


def doctor(context: typer.Context) -> None:
    """Measure what this machine can do; takes seconds.

    \b
    Examples:
      semiseg doctor
      semiseg doctor --json
    """
    from semiseg.machine import examine

    screen = screen_of(context)
    machine = examine(Path.cwd(), screen.emit)
    screen.table("This machine", ("what", "found"), list(machine.summary().items()))
    screen.data(machine=machine.to_json())
