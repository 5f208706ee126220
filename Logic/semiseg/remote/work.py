"""Work on a cluster as one call: pack, agree, submit or join, follow, and take the results in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from semiseg.errors import StudyError
from semiseg.events import Emit, Event, Json
from semiseg.remote.address import Access
from semiseg.remote.applying import Applied, apply_results
from semiseg.remote.causes import PASSING, Cause, RemoteError
from semiseg.remote.client import Dashboard
from semiseg.remote.consent import Disclosure, disclose
from semiseg.remote.manifest import Manifest
from semiseg.remote.packing import Package, Wish, pack, piece_place
from semiseg.remote.rebuild import Results
from semiseg.remote.records import Record, Records
from semiseg.remote.session import Attempts, Order, Pace, Session
from semiseg.study.journal import utc_now
from semiseg.study.study import Study

Agree = Callable[[Disclosure], bool]


@dataclass(frozen=True, kw_only=True)
class Means:
    """How a job is run: cores and GPUs there (None: a GPU where the cluster has one), and pace.

    `wait`: follow the job to its end; else leave it there. `unencrypted`: plain HTTP to another
    computer is allowed.
    """

    cpus: float = 1.0
    gpus: float | None = None
    wait: bool = True
    unencrypted: bool = False
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a job; `applied` is None while it runs on."""

    record: Record
    applied: Applied | None
    last: Event | None = None

    def to_json(self) -> dict[str, Json]:
        """Plain values for the last event of a command."""
        told: dict[str, Json] = {
            "job": self.record.id,
            "address": self.record.address,
            "kind": self.record.kind,
            "state": self.record.state,
        }
        return told | ({} if self.applied is None else self.applied.to_json())


def require_safe(access: Access, *, unencrypted: bool) -> None:
    """RemoteError before a token or a scan goes readable through a network."""
    if not access.address.safe and not unencrypted:
        raise RemoteError(
            "unencrypted",
            f"{access.address.url} is not encrypted: everybody on the way could read the scans and "
            "the token. Use https://, or a tunnel (ssh -L 8265:localhost:8265 HEAD, then "
            "http://localhost:8265); on a network that you trust, say --unencrypted",
        )


def submit(
    study: Study, wish: Wish, access: Access, means: Means, agree: Agree, emit: Emit
) -> Ended:
    """Does the work `wish` on a cluster; `agree` is asked before the first file leaves.

    The same wish on an unchanged study is the same job: it is joined, and enters the study once.
    """
    require_safe(access, unencrypted=means.unencrypted)
    package = pack(study, wish, emit)
    records, job_id = Records(study.folder), package.manifest.job_id
    known = records.known(job_id)
    if known is not None and known.state == "done":
        return Ended(record=known, applied=Applied(before=[_key(mark) for mark in known.applied]))
    _require_consent(study, package, access, agree)
    dashboard = Dashboard(access)
    dashboard.version()
    gpus = _gpus(dashboard) if means.gpus is None else means.gpus
    record = _record(study, package, wish, access, replace(means, gpus=gpus))
    order = _ordered(record, package.manifest, package.files)
    session = Session(dashboard, order, emit, means.pace)
    records.keep_manifest(job_id, package.manifest.to_bytes())
    records.save(record)  # before it can run there, so that it is listed whatever ends this process
    try:
        session.start()
    except RemoteError as error:
        if error.cause not in PASSING:  # refused; where an answer was lost it may run
            records.put_back(job_id, known)
        raise
    if not means.wait:
        return Ended(record=record, applied=None)
    return _finished(study, record, session, emit)


def attach(study: Study, record: Record, access: Access, emit: Emit, pace: Pace) -> Ended:
    """Follows a job that was sent earlier, and takes its results in."""
    if record.state == "done":
        return Ended(record=record, applied=Applied(before=[_key(mark) for mark in record.applied]))
    dashboard = Dashboard(access)
    dashboard.version()
    session = Session(dashboard, _order(study, record), emit, pace)
    return _finished(study, record, session, emit)


def cancel(study: Study, record: Record, access: Access) -> Record:
    """Ends a job on its cluster; its results, if any, do not come any more."""
    dashboard = Dashboard(access)
    attempts = Attempts(dashboard, record.id)
    state = attempts.newest()
    if state is not None and not state.ended:
        dashboard.stop(attempts.name)
    if record.state == "done":
        return record
    return Records(study.folder).mark(record, "cancelled", "cancelled from here")


def _require_consent(study: Study, package: Package, access: Access, agree: Agree) -> None:
    """RemoteError where it is not agreed; asked once per address, and whenever names are found."""
    records = Records(study.folder)
    told = disclose(study, package, access.address)
    if access.address.url in records.consent() and not told.findings:
        return
    if not agree(told):
        raise RemoteError(
            "consent",
            "nothing was sent: it was not agreed to. Read what would leave the computer, then "
            "agree with --yes",
        )
    records.agree(access.address.url)


def _gpus(dashboard: Dashboard) -> float:
    return 1.0 if dashboard.resources().get("GPU", (0.0, 0.0))[1] >= 1 else 0.0


def _record(study: Study, package: Package, wish: Wish, access: Access, means: Means) -> Record:
    known = Records(study.folder).known(package.manifest.job_id)
    return Record(
        id=package.manifest.job_id,
        address=access.address.url,
        kind=wish.kind,
        created=utc_now(),
        names=dict(package.names.real),
        bases=dict(package.bases),
        images={case_id: study.case(case_id).image.sha256 for case_id in package.bases},
        model_id=package.model_id,
        cpus=means.cpus,
        gpus=means.gpus or 0.0,
        applied=() if known is None else known.applied,
    )


def _order(study: Study, record: Record) -> Order:
    """What was sent earlier; its pieces lie in the study's cache."""
    content = Records(study.folder).manifest(record.id)
    if content is None:
        raise StudyError(
            f"what was sent for {record.id} is not in the study any more ({record.created}); send "
            "the work again"
        )
    manifest = Manifest.from_bytes(content)
    files = {sha256: piece_place(study, sha256) for sha256 in manifest.pieces}
    agreed = record.address in Records(study.folder).consent()
    return replace(_ordered(record, manifest, files), agreed=agreed)


def _ordered(record: Record, manifest: Manifest, files: Mapping[str, Path]) -> Order:
    return Order(
        manifest=manifest, files=files, names=record.words, cpus=record.cpus, gpus=record.gpus
    )


def _finished(study: Study, record: Record, session: Session, emit: Emit) -> Ended:
    """Follows the job to its end; what it made comes in, also where it failed at some cases."""
    records = Records(study.folder)
    try:
        last = session.finish()
    except RemoteError as error:
        if error.cause == "cancelled":
            records.mark(record, "cancelled", str(error))
        raise
    applied, content = Applied(), session.results(last)
    if content is not None:
        results = Results.from_bytes(content)
        applied = apply_results(study, record, results, session.fetch, emit)
        record = records.find(record.id)
    if last.kind == "error":
        records.mark(record, "failed", last.message)
        raise _failure(last)
    record = records.mark(record, "done", "; ".join(applied.refused.values()))
    return Ended(record=record, applied=applied, last=last)


def _failure(last: Event) -> RemoteError:
    told = last.data.get("error")
    cause: Cause = "failed"
    if told in ("version", "disk-full"):
        cause = "version" if told == "version" else "disk-full"
    elif told == "CancelledError":
        cause = "cancelled"
    return RemoteError(cause, last.message)


def _key(mark: str) -> str:
    """The case of a mark like "label ct1"."""
    kind, _, case_id = mark.partition(" ")
    return "model" if kind == "model" else case_id
