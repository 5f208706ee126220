"""Long work on a cluster: sent once it is agreed to, followed, left there, brought back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from semiseg.errors import ConfigError, SemiSegError, StudyError
from semiseg.events import Event, Json
from semiseg.remote.address import parse_address
from semiseg.remote.records import Record, Records
from SemiSegModuleLib.cluster_values import Consent, Keys, Remote
from SemiSegModuleLib.cluster_words import host_of, in_panel_words, not_encrypted
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_models import ModelsPart
from SemiSegModuleLib.session_work import Prepare
from SemiSegModuleLib.tasks import Task, TaskState

WORKS: Mapping[str, str] = {"propagate": "propagate", "train": "learn", "predict": "segment"}
_KINDS = frozenset(WORKS.values())
_THERE = ("upload", "remote")


class ClusterPart(ModelsPart):
    """The part of `Session` about clusters.

    `consent` waits for the user's answer. `recall_keys` gives what opens the cluster at an
    address, "" for the last one (the panel sets it).
    """

    consent: Consent | None = None
    remote: Remote | None = None
    recall_keys: Callable[[str], Keys] = staticmethod(  # type: ignore[assignment]
        lambda _address: Keys()
    )
    _records: tuple[Record, ...] | None = None
    _agreed: Mapping[str, Json] = {}
    _followed: frozenset[str] = frozenset()

    @property
    def on_cluster(self) -> bool:
        """Whether Propagate, Learn and Segment go to a cluster."""
        return bool(self.parameters.engine == "cluster")

    @property
    def remote_jobs(self) -> tuple[Record, ...]:
        """The jobs that this study sent, the newest first."""
        if self.study is None:
            return ()
        return self._read_records() if self._records is None else self._records

    def _read_records(self) -> tuple[Record, ...]:
        self._records, self._agreed = (), {}
        records = Records(self.require_study().folder)
        try:
            self._records, self._agreed = records.all()[::-1], records.consent()
        except SemiSegError as error:
            self.say(str(error), error=True)
        return self._records

    @told
    def choose_engine(self, engine: str, address: str, keys: Keys, workers: int = 1) -> None:
        """Do long work "here" or on a "cluster", shared among so many `workers` of it."""
        choices = self.parameters
        choices.cluster_workers = workers
        choices.engine, choices.cluster_address = engine, address.strip()
        choices.cluster_token_file, choices.cluster_ca_file = keys.token_file, keys.ca_file
        self.changed("cluster")

    def cluster_trouble(self) -> str:
        """Why no work can be sent to the cluster as it is set; "" when it can be tried."""
        text = self.parameters.cluster_address
        if not text:
            return _("Enter the address of the cluster in the section Where to compute first")
        try:
            address = parse_address(text)
        except ConfigError as error:
            return in_panel_words(str(error))
        return "" if address.safe else not_encrypted(address.url)

    def why_not(self, kind: str, *, all_cases: bool = True) -> str:
        """See `WorkPart`."""
        reason = super().why_not(kind, all_cases=all_cases)
        if not reason and self.on_cluster and kind in _KINDS:
            return self._why_not_sent(kind)
        return reason

    def _why_not_sent(self, kind: str) -> str:
        if kind == "learn" and self.parameters.start_from:
            return _(
                "A training that starts from a bundle cannot be sent to a cluster. Empty Start "
                "from under Advanced, or choose this computer under Where to compute"
            )
        return self.cluster_trouble()

    def agreed_since(self) -> str:
        """Since when scans of this study may go to the cluster that is set; "" if they may not."""
        if self.study is None or self.cluster_trouble():
            return ""
        if self._records is None:
            self._read_records()
        return str(self._agreed.get(parse_address(self.parameters.cluster_address).url, ""))

    @told
    def withdraw_consent(self) -> None:
        """Send nothing more to the cluster that is set before the user has agreed again."""
        self._require_idle()
        if not self.agreed_since() or (self.tasks is not None and self.tasks.pending("withdraw")):
            return
        url = parse_address(self.parameters.cluster_address).url
        words = self.command("run", "withdraw", "STUDY", url)
        self.serve(Task(kind="withdraw", arguments=words, on_end=self._withdrawn, keeps=True))

    def _withdrawn(self, task: Task, event: Event) -> None:
        self._records = None
        self.changed("cluster")
        if event.kind == "error":
            self.report_failure(task, event)
        else:
            self.say(event.message)

    @told
    def agree_to_send(self) -> None:
        """Send what the user has read about."""
        consent = self.consent
        if consent is None:
            return
        self._require_idle()
        self._drop_consent()
        first, *others = consent.arguments
        remote = self._new_remote(consent.arguments)
        self._start_remote(consent.kind, (first, "--yes", *others), remote)

    @told
    def decline_to_send(self) -> None:
        """Send nothing."""
        self._drop_consent()
        self.say(_("Nothing was sent."))

    @told
    def follow(self, job_id: str) -> None:
        """Show how far a job on a cluster is, and bring its results in."""
        self._follow_job(job_id)

    def can_leave(self) -> bool:
        """Whether the work runs on a cluster, so that it goes on without this window."""
        task = self.task
        if self.remote is None or task is None or task.cancelling or task.kind not in _KINDS:
            return False
        return self.remote.there

    @told
    def leave(self) -> None:
        """Stop following; the job goes on there."""
        if self.can_leave() and self.remote is not None:
            self.remote.leaving = True
            self.cancel()

    @told
    def end_there(self, job_id: str) -> None:
        """End a job on its cluster."""
        self._require_idle()
        self._end_there(self._record(job_id))

    def _record(self, job_id: str) -> Record:
        for record in self.remote_jobs:
            if record.id == job_id:
                return record
        raise StudyError(_("This study has sent no such work; choose one in the list."))

    def _require_idle(self) -> None:
        if self.busy():
            raise StudyError(_("Other work is running; wait for its end or cancel it first."))

    def _drop_consent(self) -> None:
        self.consent = None
        self.changed("cluster")

    def _keys(self, address: str = "") -> Keys:
        """What opens the cluster at `address`: as set now if it is that one, else as last time."""
        choices = self.parameters
        now = Keys(token_file=choices.cluster_token_file, ca_file=choices.cluster_ca_file)
        try:
            if not address or parse_address(choices.cluster_address).url == address:
                return now
        except ConfigError:
            pass  # what is being typed says nothing about another cluster
        return self.recall_keys(address)

    def _begin(self, kind: str, parts: tuple[str, ...], prepare: Prepare | None = None) -> None:
        self._require_idle()
        self._drop_consent()
        if not (self.on_cluster and kind in _KINDS):
            super()._begin(kind, parts, prepare)
            return
        trouble = self._why_not_sent(kind)
        if trouble:
            raise StudyError(trouble)
        words = ("run", "--on", self.parameters.cluster_address, *self._keys().options)
        device = parts[parts.index("--device") + 1]
        # Who computes on the processor keeps no GPU from others; who wants one waits for it.
        gpus = {"cpu": ("--gpus", "0"), "cuda": ("--gpus", "1")}.get(device, ())
        workers = int(self.parameters.cluster_workers)
        shared = ("--workers", str(workers)) if workers > 1 else ()
        arguments = (*words, *gpus, *parts, *shared)
        self.remote = self._new_remote(self.command(*arguments))
        super()._begin(kind, arguments)

    def watching(self) -> Prepare | None:
        """See `WorkPart`; nobody could see a slice while it is learned from elsewhere."""
        return None if self.on_cluster else super().watching()

    def _new_remote(self, arguments: Sequence[str]) -> Remote:
        before = {record.id: record.created for record in self._read_records()}
        return Remote(arguments=tuple(arguments), before=before)

    def _follow_job(self, job_id: str, *, automatic: bool = False) -> None:
        self._require_idle()
        record = self._record(job_id)
        self._followed |= {job_id}
        arguments = self.command(
            "run", "attach", "STUDY", record.id, *self._keys(record.address).options
        )
        remote = Remote(arguments=tuple(arguments), job=record.id, there=True, automatic=automatic)
        self._start_remote(WORKS[record.kind], arguments, remote)

    def _start_remote(self, kind: str, arguments: Sequence[str], remote: Remote) -> None:
        self.dismiss()
        self.task, self.remote = TaskState(kind=kind, phase="start"), remote
        self.changed("task", "cluster")
        self._start_work(kind, list(arguments), None)

    def _cancel_pending_work(self) -> None:
        super()._cancel_pending_work()
        if self.task is None:
            self.remote = None

    def _progress(self, event: Event) -> None:
        if self.remote is not None:
            # From then on, also where the work there begins with phases of its own.
            self.remote.there |= event.phase in _THERE
        if self.remote is not None and event.phase != "fetch":
            # What is saved there is not here yet.
            data = {k: v for k, v in event.data.items() if k not in ("saved", "preview")}
            event = replace(event, data=data)
        super()._progress(event)

    def _work_ended(self, task: Task, event: Event) -> None:
        sent, self.remote = self.remote, None
        if sent is None:
            super()._work_ended(task, event)
            return
        self._records = None
        self.changed("cluster")
        if event.kind == "error":
            self._not_done(sent, task, event)
        else:
            self._came_back(task, event)
        if sent.automatic and not task.cancelled:
            self.later(self._follow_left)

    def _came_back(self, task: Task, event: Event) -> None:
        found, before = event.data.get("applied"), event.data.get("applied_before")
        known = isinstance(before, list) and before and not found
        model = found.get("model") if isinstance(found, dict) else None
        if model is not None:
            event = replace(event, data={**event.data, "model": model})
        super()._work_ended(task, event)
        if known:
            self.say(
                _(
                    "The same work was done before; its results are in the study already. If you "
                    "took them back, go back to them under History."
                )
            )
        elif task.kind == "learn" and model is None:
            self.say(_("No model came back."))
        refused = event.data.get("refused")
        if isinstance(refused, dict) and refused:
            why = "; ".join(map(str, refused.values()))
            self.say(_("Left out: {why}").format(why=why), error=True)

    def _not_done(self, sent: Remote, task: Task, event: Event) -> None:
        cause = event.data.get("cause")
        consent = self._consent(sent, task.kind, event)
        words = in_panel_words(event.message)
        if consent is not None:
            event = replace(event, data={"cause": "cancelled"})  # no failure: an answer is awaited
        super()._work_ended(task, replace(event, message=words))
        if task.cancelled:
            self._stopped_here(sent)
        elif consent is not None:
            self.consent = consent
            self.say(_("Nothing has been sent yet. Read what would leave this computer first."))
        elif cause == "cancelled":
            self.say(words)

    def _consent(self, sent: Remote, kind: str, event: Event) -> Consent | None:
        """What the user has to agree to before this is sent; None where nothing is asked."""
        asked = event.data.get("consent")
        if event.data.get("cause") != "consent" or not isinstance(asked, dict):
            return None
        return Consent(
            kind=kind,
            lines=_texts(asked.get("lines")),
            findings=_texts(asked.get("findings")),
            arguments=sent.arguments,
        )

    def _stopped_here(self, sent: Remote) -> None:
        record = self._sent_now(sent)
        if record is None:
            self.say(_("Stopped before anything ran on the cluster."))
        elif sent.leaving:
            text = _(
                "The work goes on at {host}. Its results come in when you follow it again, or open "
                "the study the next time."
            )
            self.say(text.format(host=host_of(record.address)))
        else:
            self._end_there(record)

    def _sent_now(self, sent: Remote) -> Record | None:
        """The record of what was sent or followed."""
        for record in self.remote_jobs:
            new = sent.before.get(record.id) != record.created
            if record.state == "sent" and (record.id == sent.job if sent.job else new):
                return record
        return None

    def _end_there(self, record: Record) -> None:
        if self.tasks is None:
            return
        self.task = TaskState(kind="end_there", phase="remote")
        self._followed |= {record.id}
        keys = self._keys(record.address).options
        arguments = self.command("run", "cancel", "STUDY", record.id, *keys)
        self.changed("task", "cluster")
        self.tasks.start(Task(kind="end_there", arguments=arguments, on_end=self._ended_there))

    def _ended_there(self, task: Task, event: Event) -> None:
        self.task = self._records = None
        self.changed("task", "cluster")
        if event.kind == "error":
            text = _("It may still run on the cluster. {why}")
            words = text.format(why=in_panel_words(event.message))
            self.report_failure(task, replace(event, message=words))
            return
        self.say(_("Ended on the cluster. What is in the study stays."))

    def _come_back_to(self, opened: Any) -> None:
        super()._come_back_to(opened)
        self._followed = frozenset()
        self.later(self._follow_left)

    def _follow_left(self) -> None:
        """Join what runs on a cluster since the study was open the last time, once each."""
        if self.study is None or self.busy():
            return
        for record in self.remote_jobs:
            if record.state == "sent" and record.id not in self._followed:
                self._follow_job(record.id, automatic=True)
                return

    def _forget(self) -> None:
        self.consent = self.remote = self._records = None
        super()._forget()
        self.changed("cluster")


def _texts(found: Json) -> tuple[str, ...]:
    return tuple(str(text) for text in found) if isinstance(found, list) else ()
