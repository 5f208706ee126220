"""The jobs that a study sent to clusters: what became of them, follow, end."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import qt
from slicer.i18n import tr as _

from semiseg.remote.records import Record
from SemiSegModuleLib.cluster_words import host_of, state_title, work_title
from SemiSegModuleLib.qt_helpers import button, column, label, row
from SemiSegModuleLib.sections.history_table import PlainTable


class JobsArea:
    """Gone while the study has sent nothing; the newest job comes first."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._records: tuple[Record, ...] = ()
        self.widget = qt.QWidget()
        headings = ((_("Sent"), ""), (_("Work"), ""), (_("State"), ""), (_("Where"), ""))
        self.table = PlainTable(headings, self._show_enabled, most_rows=5)
        self.table.widget.selectionMode = qt.QAbstractItemView.SingleSelection
        self.noteLabel = label()
        self.followButton = button(_("Follow"), self.onFollow)
        self.endButton = button(_("End it there"), self.onEnd)
        title = label(_("Work of this study on clusters"))
        buttons = row(self.followButton, self.endButton, 1)
        column(self.widget, title, self.table.widget, self.noteLabel, buttons)

    def show(self) -> None:
        """Bring the list to what the study knows."""
        self._records = self._session.remote_jobs
        self.widget.visible = bool(self._records)
        self.table.show([_cells(one) for one in self._records], [_tip(r) for r in self._records])
        self._show_enabled()

    def chosen(self) -> Record | None:
        """The chosen job; without a choice the newest that is still on a cluster."""
        places = self.table.chosen()
        if places and places[0] < len(self._records):
            return self._records[places[0]]
        return next((one for one in self._records if one.state == "sent"), None)

    def onFollow(self, *_args: Any) -> None:
        job = self.chosen()
        if job is not None:
            self._session.follow(job.id)

    def onEnd(self, *_args: Any) -> None:
        job = self.chosen()
        if job is not None:
            self._session.end_there(job.id)

    def _show_enabled(self) -> None:
        job, reason = self.chosen(), ""
        if self._session.busy():
            reason = _("Other work is running; wait for its end or cancel it")
        elif job is None or job.state != "sent":
            reason = _("Choose work that is still on a cluster")
        for one, tip in (
            (self.followButton, _("Show how far it is, and bring its results in")),
            (self.endButton, _("Stop the work on the cluster; its results do not come")),
        ):
            one.enabled, one.toolTip = not reason, reason or tip
        note = "" if job is None or job.state == "sent" else job.note
        self.noteLabel.text, self.noteLabel.visible = note, bool(note)


def _cells(record: Record) -> tuple[str, ...]:
    sent = datetime.fromisoformat(record.created).astimezone().strftime("%Y-%m-%d %H:%M")
    return sent, work_title(record), state_title(record), host_of(record.address)


def _tip(record: Record) -> str:
    return record.note or record.address
