"""Where long work is done: this computer, or a cluster; its settings, its test, its jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from semiseg.errors import ConfigError
from semiseg.events import Event
from semiseg.jobs import Job
from semiseg.remote.address import parse_address
from SemiSegModuleLib import cluster_memory
from SemiSegModuleLib.cluster_values import Keys
from SemiSegModuleLib.cluster_words import host_of, in_panel_words
from SemiSegModuleLib.own_tasks import OwnTasks
from SemiSegModuleLib.qt_helpers import button, column, label, row
from SemiSegModuleLib.sections.cluster_jobs import JobsArea
from SemiSegModuleLib.tasks import JobClass, Task

_TOPICS = {"study", "task", "cluster"}
_MOST_WORKERS = 64


class ClusterSection:
    """Works without an open study; choices live in the session's parameters.

    `job_class` starts the child that tests the connection.
    """

    name = "cluster"

    def __init__(
        self,
        session: Any,
        _resource_path: Callable[[str], str],
        *,
        job_class: JobClass = Job,
    ) -> None:
        self._session = session
        self._tasks = OwnTasks("cluster", job_class)
        self._quiet = False
        self._tested: tuple[str, Keys] | None = None
        session.recall_keys = cluster_memory.recall
        self.jobs = JobsArea(session)
        self.widget = qt.QWidget()
        self._build()
        self._lay_out()
        self.refresh(set(_TOPICS))

    def title(self) -> str:
        """The section's heading: a folded section says all that most users need."""
        host = host_of(self._session.parameters.cluster_address) or _("a cluster")
        where = host if self._session.on_cluster else _("this computer")
        return _("Where to compute: {place}").format(place=where)

    def refresh(self, topics: set[str]) -> None:
        """Show the choices, what is wrong with them, and the jobs."""
        if not topics & _TOPICS:
            return
        self._recall_last()
        self._show_choices()
        self._show_enabled()
        self.jobs.show()

    def tick(self) -> None:
        """Take what the child has said; the panel's timer calls this."""
        self._tasks.tick()

    def close(self) -> None:
        """End the test, if one runs."""
        self._tasks.close()

    def onChoice(self, *_args: Any) -> None:
        """Keep what the user chose, and what opens this cluster for the next time."""
        if self._quiet:
            return
        address, keys = self._typed()
        if (address, keys) != self._tested:
            self.resultLabel.text = ""
        engine = "cluster" if self.clusterButton.checked else "here"
        self._session.choose_engine(engine, address, keys, int(self.workersBox.value))
        try:
            cluster_memory.remember(parse_address(address).url, keys)
        except ConfigError:
            if not address:
                cluster_memory.forget()

    def onTest(self, *_args: Any) -> None:
        """Ask the cluster what it is and has, or stop asking."""
        if self._tasks.running:
            self._tasks.cancel()
            return
        self.onChoice()
        address, keys = self._tested = self._typed()
        self.resultLabel.text = _("Testing ...")
        words = ["run", "test", address, *keys.options]
        self._tasks.start(Task("test", words, self._test_ended, on_event=self._test_goes_on))
        self._show_enabled()

    def onWithdraw(self, *_args: Any) -> None:
        self._session.withdraw_consent()

    def _typed(self) -> tuple[str, Keys]:
        keys = Keys(
            token_file=self.tokenEdit.currentPath.strip(),
            ca_file=self.authorityEdit.currentPath.strip(),
        )
        return self.addressEdit.text.strip(), keys

    def _test_goes_on(self, event: Event) -> None:
        if event.message:
            self.resultLabel.text = _("Testing: {what} ...").format(what=event.message)

    def _test_ended(self, task: Task, event: Event) -> None:
        if task.cancelled:
            self.resultLabel.text = _("The test was stopped.")
        elif event.kind == "result":
            self.resultLabel.text = _("The cluster can be used. {what}").format(what=event.message)
        else:
            text = _("The cluster cannot be used: {why}")
            self.resultLabel.text = text.format(why=in_panel_words(event.message))
        self._show_enabled()

    def _build(self) -> None:
        self.hereButton = qt.QRadioButton(_("This computer"))
        self.clusterButton = qt.QRadioButton(_("A cluster"))
        tip = _("Where Propagate, Learn and Segment run; drawing and export stay here")
        self.hereButton.toolTip = self.clusterButton.toolTip = tip
        self.hereButton.checked = True
        self.clusterButton.connect("toggled(bool)", self.onChoice)
        self.addressEdit = qt.QLineEdit()
        self.addressEdit.placeholderText = _("https://cluster.hospital.org")
        self.addressEdit.toolTip = _("Of the cluster's Ray dashboard; whoever runs it knows it")
        self.addressEdit.connect("editingFinished()", self.onChoice)
        self.tokenEdit = self._file_edit(
            _("A file with the cluster's token, which only you can read; the token is not kept")
        )
        self.authorityEdit = self._file_edit(
            _("The hospital's own authority (PEM), where its certificates are not known here")
        )
        self.workersBox = qt.QSpinBox()
        self.workersBox.minimum, self.workersBox.maximum = 1, _MOST_WORKERS
        self.workersBox.toolTip = _(
            "Among how many of the cluster's processors or GPUs one piece of work is shared"
        )
        self.workersBox.connect("valueChanged(int)", self.onChoice)
        self.testButton = button(_("Test connection"), self.onTest)
        self.withdrawButton = button(_("Withdraw"), self.onWithdraw)
        self.troubleLabel, self.resultLabel, self.agreedLabel = label(), label(), label()
        self.resultLabel.textInteractionFlags = qt.Qt.TextSelectableByMouse

    def _file_edit(self, tool_tip: str) -> Any:
        edit = ctk.ctkPathLineEdit()
        edit.filters = ctk.ctkPathLineEdit.Files
        edit.toolTip = tool_tip
        edit.connect("currentPathChanged(QString)", self.onChoice)
        return edit

    def _lay_out(self) -> None:
        self.settingsArea = qt.QWidget()
        form = qt.QFormLayout()
        form.addRow(_("Address"), self.addressEdit)
        form.addRow(_("Token file"), self.tokenEdit)
        form.addRow(_("Certificate"), self.authorityEdit)
        form.addRow(_("Workers"), row(self.workersBox, 1))
        test = row(self.testButton, 1)
        agreed = row(self.agreedLabel, self.withdrawButton)
        agreed.setStretch(0, 1)
        column(self.settingsArea, form, test, self.troubleLabel, self.resultLabel, agreed)
        where = row(self.hereButton, self.clusterButton, 1)
        column(self.widget, where, self.settingsArea, self.jobs.widget)

    def _recall_last(self) -> None:
        """A scene that names no cluster gets the one that was used last, not chosen yet."""
        choices, last = self._session.parameters, cluster_memory.last_address()
        if not choices.cluster_address and choices.engine == "here" and last:
            keys = cluster_memory.recall(last)
            choices.cluster_address = last
            choices.cluster_token_file, choices.cluster_ca_file = keys.token_file, keys.ca_file

    def _show_choices(self) -> None:
        self._quiet = True
        choices, on_cluster = self._session.parameters, self._session.on_cluster
        self.clusterButton.checked, self.hereButton.checked = on_cluster, not on_cluster
        if not self.addressEdit.hasFocus():
            self.addressEdit.text = choices.cluster_address
        self.tokenEdit.currentPath = choices.cluster_token_file
        self.authorityEdit.currentPath = choices.cluster_ca_file
        self.workersBox.value = choices.cluster_workers
        self._quiet = False
        self.settingsArea.visible = on_cluster
        trouble = self._session.cluster_trouble() if choices.cluster_address else ""
        self.troubleLabel.text, self.troubleLabel.visible = trouble, bool(trouble)
        self.agreedLabel.text = self._agreed()
        self.resultLabel.visible = bool(self.resultLabel.text)

    def _agreed(self) -> str:
        since = self._session.agreed_since()
        if since:
            text = _("Since {day} scans of this study may go there, without names.")
            return text.format(day=since[:10])
        return _("Before the first scan leaves this computer, you read what is sent, and agree.")

    def _show_enabled(self) -> None:
        running, trouble = self._tasks.running, self._session.cluster_trouble()
        self.testButton.text = _("Stop testing") if running else _("Test connection")
        self.testButton.enabled = running or not trouble
        self.testButton.toolTip = trouble or _("Sends nothing of any study")
        busy = self._session.busy()
        self.withdrawButton.visible = bool(self._session.agreed_since())
        self.withdrawButton.enabled = not busy
        self.withdrawButton.toolTip = (
            _("Other work is running; wait for its end or cancel it")
            if busy
            else _("Send nothing more there before you have agreed again; what is there stays")
        )
        for edit in (self.addressEdit, self.tokenEdit, self.authorityEdit):
            edit.enabled = not running
        self.resultLabel.visible = bool(self.resultLabel.text)
