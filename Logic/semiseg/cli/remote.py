"""`semiseg run`: the same work on a cluster, and what became of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiseg.cli.options import StudyFolder, shell_path
from semiseg.cli.remote_words import wish_of, withdrawal_in_words
from semiseg.cli.screen import Screen, screen_of
from semiseg.errors import ConfigError

if TYPE_CHECKING:
    from semiseg.events import Json
    from semiseg.remote.address import Access
    from semiseg.remote.consent import Disclosure
    from semiseg.remote.manifest import Kind
    from semiseg.remote.packing import Wish
    from semiseg.remote.records import Record
    from semiseg.remote.session import Pace
    from semiseg.remote.work import Ended, Means
    from semiseg.study.study import Study

app = typer.Typer(help="Do long work on a Ray cluster.", no_args_is_help=True)
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File that holds the cluster's token."),
]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Certificate (PEM) of an authority to trust, too."),
]
Patience = Annotated[
    float,
    typer.Option(metavar="MINUTES", help="How long to wait where the network is gone."),
]
JobId = Annotated[
    str | None, typer.Argument(metavar="[JOB]", help="Job, or its beginning; the newest if none.")
]
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@dataclass(frozen=True, kw_only=True)
class _Where:
    """What was said before the command."""

    on: str | None
    token_file: Path | None
    ca_file: Path | None
    yes: bool
    show: bool
    means: Means


@app.callback()
def run_on(
    context: typer.Context,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ADDRESS", help="ray://head, http://… or https://…"),
    ] = None,
    token_file: TokenFile = None,
    ca: Authority = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree that the scans leave this computer.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Show what would leave this computer; send nothing.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="End once it is submitted; `run attach` goes on.")
    ] = False,
    cpus: Annotated[float, typer.Option(help="Processor cores to reserve there.")] = 1.0,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs to reserve there; 1 if it has any.")
    ] = None,
    patience: Patience = 30.0,
    unencrypted: Annotated[
        bool, typer.Option("--unencrypted", help="Allow plain http to another computer.")
    ] = False,
) -> None:
    """Do long work on a Ray cluster: the same commands, the same results in the study.

    Nothing listens on this computer. A job that was interrupted here goes on there; the same
    command, or `run attach`, joins it. The token is read from --token-file, RAY_AUTH_TOKEN or
    RAY_AUTH_TOKEN_PATH.

    \b
    Examples:
      semiseg run test https://cluster.hospital.org --token-file token
      semiseg run --on https://cluster.hospital.org --token-file token train abdomen --minutes 30
      semiseg run attach abdomen --token-file token
    """
    from semiseg.remote.work import Means

    context.obj = _Where(
        on=on,
        token_file=token_file,
        ca_file=ca,
        yes=yes,
        show=show,
        means=Means(
            cpus=cpus, gpus=gpus, wait=not detach, unencrypted=unencrypted, pace=_pace(patience)
        ),
    )


@app.command("propagate", context_settings=_PASS_ON)
def propagate_there(context: typer.Context) -> None:
    """Carry finished slices on, on a cluster; options as of `semiseg propagate`."""
    _send(context, "propagate")


@app.command("train", context_settings=_PASS_ON)
def train_there(context: typer.Context) -> None:
    """Learn a model on a cluster; options as of `semiseg train`."""
    _send(context, "train")


@app.command("predict", context_settings=_PASS_ON)
def predict_there(context: typer.Context) -> None:
    """Segment cases on a cluster; options as of `semiseg predict`."""
    _send(context, "predict")


@app.command("test")
def connection(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The cluster.")],
    token_file: TokenFile = None,
    ca: Authority = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Fail where it has no GPU.")] = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="For its turn there.")] = 120.0,
) -> None:
    """Test the connection to a cluster, and name the cause where it fails.

    Sends nothing of any study. The result's data hold "ray", "semiseg", "python", "cpus", "gpus",
    "gpu_names", "free_bytes", "encrypted" and "warnings" by cause; an error's data hold "cause".
    """
    screen = screen_of(context)
    from semiseg.remote.causes import RemoteError
    from semiseg.remote.check import check_connection

    access = _access(context, address, token_file, ca)
    try:
        found = check_connection(access, screen.emit, need_gpu=gpu, wait_s=wait)
    except RemoteError as error:
        screen.data(cause=error.cause)
        raise
    screen.data(**found.to_json())
    gpus = ", ".join(found.gpu_names) or "no GPU"
    screen.say(
        f"{found.address} is ready: Ray {found.ray}, SemiSeg {found.semiseg}, Python "
        f"{found.python}, {found.cpus:g} processor cores, {gpus}, {found.free_bytes / 1e9:.0f} GB "
        "free"
    )
    for warning in found.warnings.values():
        screen.say(f"note: {warning}")


@app.command("list")
def list_jobs(context: typer.Context, folder: StudyFolder) -> None:
    """List the jobs that this study sent, without asking the cluster.

    Data of the last event: "jobs", a list of {"job", "address", "kind", "created", "state",
    "note", "applied"}; "state" is sent, done, failed or cancelled.
    """
    screen = screen_of(context)
    from semiseg.remote.records import Records
    from semiseg.study.study import Study

    jobs = Records(Study.open(folder).folder).all()
    screen.data(jobs=[_row(job) for job in jobs])
    columns = ("job", "kind", "sent", "state", "address")
    rows = [(job.id, job.kind, job.created, job.state, job.address) for job in jobs]
    screen.table(f"jobs of {folder} on clusters", columns, rows)
    if not jobs:
        screen.say("this study has sent no work to a cluster")


@app.command("attach")
def attach_job(
    context: typer.Context,
    folder: StudyFolder,
    job: JobId = None,
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = 30.0,
) -> None:
    """Follow a job that was sent, and bring its results into the study.

    Data of the last event: "job", "address", "kind", "state", "applied" ({case: version}),
    "applied_before" and "refused" ({case: why}).
    """
    _follow(context, folder, job, (token_file, ca), _pace(patience))


@app.command("fetch")
def fetch_results(
    context: typer.Context,
    folder: StudyFolder,
    job: JobId = None,
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """Bring the results of a job into the study; as `attach`, but without waiting for a network.

    What is in already stays as it is.
    """
    _follow(context, folder, job, (token_file, ca), _pace(0.0))


@app.command("cancel")
def cancel_job(
    context: typer.Context,
    folder: StudyFolder,
    job: JobId = None,
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """End a job on its cluster. Data of the last event: "job" and "state"."""
    screen = screen_of(context)
    from semiseg.remote.causes import RemoteError
    from semiseg.remote.work import cancel

    study, record = _record(folder, job)
    try:
        record = cancel(study, record, _access(context, record.address, token_file, ca))
    except RemoteError as error:
        screen.data(cause=error.cause)
        raise
    screen.data(job=record.id, state=record.state)
    screen.say(f"{record.id} is {record.state}")


@app.command("withdraw")
def withdraw_consent(
    context: typer.Context,
    folder: StudyFolder,
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="The cluster; all if none.")
    ] = None,
) -> None:
    """Withdraw the consent to send scans of this study to a cluster.

    What was sent stays there, and a job that runs goes on; the next work asks again. Data of the
    last event: "withdrawn", a list of addresses.
    """
    screen = screen_of(context)
    from semiseg.remote.address import parse_address
    from semiseg.remote.records import Records
    from semiseg.study.study import Study

    records = Records(Study.open(folder).folder)
    asked = list(records.consent()) if address is None else [parse_address(address).url]
    withdrawn: list[Json] = [url for url in asked if records.withdraw(url)]
    screen.data(withdrawn=withdrawn)
    screen.say(withdrawal_in_words(withdrawn, len(records.running(withdrawn))))


def _send(context: typer.Context, kind: Kind) -> None:
    screen, where = screen_of(context), context.obj
    if not isinstance(where, _Where) or where.on is None:
        raise ConfigError(f"say on which cluster: semiseg run --on ADDRESS {kind} STUDY")
    from semiseg.remote.causes import RemoteError
    from semiseg.remote.work import submit
    from semiseg.study.study import Study

    folder, wish = wish_of(kind, context.args)
    study = Study.open(folder)
    access = _access(context, where.on, None, None)
    if where.show:
        _show(study, wish, access, screen)
        return
    try:
        agree = _Agree(screen, yes=where.yes)
        ended = submit(study, wish, access, where.means, agree, screen.emit)
    except RemoteError as error:
        screen.data(cause=error.cause)
        raise
    _say_end(screen, folder, ended)


def _show(study: Study, wish: Wish, access: Access, screen: Screen) -> None:
    from semiseg.remote.consent import disclose
    from semiseg.remote.packing import pack
    from semiseg.remote.records import Records

    package = pack(study, wish, screen.emit)
    told = disclose(study, package, access.address)
    agreed = access.address.url in Records(study.folder).consent()
    screen.data(consent=told.to_json(), agreed=agreed, job=package.manifest.job_id)
    screen.say("\n".join(told.lines))


class _Agree:
    """Asks the person at the terminal; a program says --yes instead."""

    def __init__(self, screen: Screen, *, yes: bool) -> None:
        self._screen, self._yes = screen, yes

    def __call__(self, told: Disclosure) -> bool:
        """Whether it may be sent."""
        self._screen.data(consent=told.to_json())
        self._screen.say("\n".join(told.lines))
        if self._yes:
            return True
        asked = not self._screen.json and sys.stdin.isatty()
        return asked and typer.confirm("Send this?", default=False)


def _follow(
    context: typer.Context,
    folder: Path,
    job: str | None,
    keys: tuple[Path | None, Path | None],
    pace: Pace,
) -> None:
    screen = screen_of(context)
    from semiseg.remote.causes import RemoteError
    from semiseg.remote.work import attach

    study, record = _record(folder, job)
    screen.data(job=record.id)
    try:
        ended = attach(study, record, _access(context, record.address, *keys), screen.emit, pace)
    except RemoteError as error:
        screen.data(cause=error.cause)
        raise
    _say_end(screen, folder, ended)


def _say_end(screen: Screen, folder: Path, ended: Ended) -> None:
    screen.data(**ended.to_json())
    applied = ended.applied
    if applied is None:
        screen.say(f"{ended.record.id} is on its way at {ended.record.address}")
        screen.next(f"semiseg run attach {shell_path(folder)}")
        return
    for sentence in applied.refused.values():
        screen.say(f"left out: {sentence}")
    if applied.before and not applied.versions:
        screen.say(f"the results of {ended.record.id} were in the study already")
    else:
        names = ", ".join(applied.versions) or "nothing"
        screen.say(f"{ended.record.id} is done; into the study came: {names}")


def _row(job: Record) -> dict[str, Json]:
    told: dict[str, Json] = {
        "job": job.id,
        "address": job.address,
        "kind": job.kind,
        "created": job.created,
    }
    return {**told, "state": job.state, "note": job.note, "applied": list(job.applied)}


def _record(folder: Path, job: str | None) -> tuple[Study, Record]:
    from semiseg.remote.records import Records
    from semiseg.study.study import Study

    study = Study.open(folder)
    return study, Records(study.folder).find(job)


def _pace(patience_min: float) -> Pace:
    from semiseg.remote.session import Pace

    return Pace(patience_s=60.0 * patience_min)


def _access(
    context: typer.Context, address: str, token_file: Path | None, ca: Path | None
) -> Access:
    """Token and authority as said with the command, else before it, else in the environment."""
    from semiseg.remote.address import Access, checked_token, parse_address, read_token

    where = context.obj if isinstance(context.obj, _Where) else None
    token_file = token_file or (where.token_file if where else None)
    told = os.environ.get("RAY_AUTH_TOKEN")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = None
    if token_file is not None:
        token = read_token(token_file)
    elif told:
        token = checked_token(told.strip(), "RAY_AUTH_TOKEN")
    elif path:
        token = read_token(Path(path))
    ca = ca or (where.ca_file if where else None)
    return Access(address=parse_address(address), token=token, ca_file=ca)
