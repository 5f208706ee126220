"""`semiseg doctor`: what this machine can do, measured."""

from __future__ import annotations

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
    from semiseg.machine import doctor as run

    screen = screen_of(context)
    findings = run()
    rows = [(name, str(value)) for name, value in findings.items()]
    screen.table("This machine", ("what", "found"), rows)
    screen.data(machine=dict(findings))
