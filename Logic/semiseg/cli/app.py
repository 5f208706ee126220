"""The command line: `semiseg COMMAND`; each group of commands has a file of its own."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from semiseg import __version__
from semiseg.cli import (
    annotate,
    demo,
    dicom,
    doctor,
    history,
    models,
    remote,
    results,
    study_commands,
    suggest,
    work,
)
from semiseg.cli.failures import explain
from semiseg.cli.screen import Screen
from semiseg.errors import CancelledError, ExitCode
from semiseg.events import Emit

_FLAGS = ("--json", "--child", "--quiet", "-q", "--debug")
_HELP = """Segment unpaired CT and MR from a few annotated slices.

\b
The loop:
  semiseg study new STUDY --structures liver,spleen
  semiseg study add STUDY ct.nii.gz --modality CT
  semiseg study add STUDY mr.nii.gz --modality MR
  semiseg annotate STUDY ct ct_label.nii.gz --done 10,20,30
  semiseg propagate STUDY
  semiseg train STUDY --minutes 10
  semiseg predict STUDY
  semiseg export STUDY OUT
  semiseg report STUDY --open
or see it all at once: semiseg demo

\b
Exit codes:
    0  done
    1  unexpected error (a defect: please report it)
    2  wrong usage or a setting out of its range
    3  the study cannot be used as asked (unknown, locked, newer, damaged)
    4  an image cannot be read or does not fit its label
    5  labels do not fit the structures, or too few slices are done
    6  the device is absent or out of memory
    7  the disk is full, read-only or not permitted
    8  a child process failed
  130  stopped by you; everything confirmed is kept

--json, --quiet and --debug may stand anywhere in the command line.
"""

_ORDER = (
    "demo",
    "dicom",
    "study",
    "suggest",
    "annotate",
    "propagate",
    "train",
    "predict",
    "evaluate",
)


class _InOrderOfUse(TyperGroup):
    """Lists the commands as they follow each other in the loop."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))


app = typer.Typer(
    name="semiseg",
    cls=_InOrderOfUse,
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(study_commands.app, name="study")
app.add_typer(dicom.app, name="dicom")
app.add_typer(history.app, name="history")
app.add_typer(models.app, name="model")
app.add_typer(remote.app, name="run")
annotate.register(app)
suggest.register(app)
work.register(app)
results.register(app)
demo.register(app)
doctor.register(app)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"semiseg {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    _json: Annotated[
        bool,
        typer.Option("--json", help="One JSON event per line on stdout; other text on stderr."),
    ] = False,
    _quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no hints; results and errors only.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
    _child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """The options are read by `run` before anything else; here they get their help."""


def main() -> NoReturn:
    """Entry point of the `semiseg` program."""
    signal.signal(signal.SIGTERM, _stop)
    # Threads that spin while they wait make learning four times slower as soon as other programs
    # want the same cores. Read when torch is loaded; what the user set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], events: Emit | None = None) -> int:
    """Run one command line and return its exit code; `events` stands in for the child protocol."""
    flags, rest = take_flags(arguments)
    screen = Screen(
        events=events or _events(flags),
        quiet="--quiet" in flags or "-q" in flags,
        debug="--debug" in flags,
    )
    try:
        code = _invoke(rest, screen)
        if code == ExitCode.OK:
            screen.finish()
    except BrokenPipeError:
        return _reader_gone()
    except (Exception, KeyboardInterrupt) as error:
        code = _fail(error, screen)
    return code


def take_flags(arguments: Sequence[str]) -> tuple[set[str], list[str]]:
    """The options that may stand anywhere, and the command line without them."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = {argument for argument in arguments[:end] if argument in _FLAGS}
    rest = [argument for argument in arguments[:end] if argument not in _FLAGS]
    return flags, rest + list(arguments[end:])


def _events(flags: set[str]) -> Emit | None:
    if not flags & {"--json", "--child"}:
        return None
    from semiseg.child import child_protocol

    return child_protocol(watch_stdin="--child" in flags)


def _invoke(arguments: Sequence[str], screen: Screen) -> int:
    command = get_command(app)
    result = command.main(list(arguments), prog_name="semiseg", standalone_mode=False, obj=screen)
    code = int(result) if isinstance(result, int) else int(ExitCode.OK)
    if code == ExitCode.CANCELLED:
        # typer turns a KeyboardInterrupt into this code and says nothing.
        raise KeyboardInterrupt
    return code


def _fail(error: BaseException, screen: Screen) -> int:
    failure = explain(error)
    if screen.debug:
        traceback.print_exception(error)
    try:
        screen.fail(failure)
    except (BrokenPipeError, CancelledError):
        return _reader_gone()
    return failure.code


def _reader_gone() -> int:
    """Leave quietly when the program that read our output has ended (`semiseg ... | head`)."""
    # The interpreter would complain when it flushes stdout at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return ExitCode.CANCELLED


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """A cluster's SIGTERM ends the work as Ctrl-C does."""
    raise KeyboardInterrupt
