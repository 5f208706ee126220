"""What would leave this computer, to read and to answer; there only while it is asked."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.qt_helpers import button, column, label, row, set_margins

_TEXT_HEIGHT = 190


class ConsentArea:
    """Shows `session.consent` and hands on the answer."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._shown: Any = None
        self.widget = qt.QFrame()
        self.widget.frameShape = qt.QFrame.StyledPanel
        self.titleLabel = label(_("<b>May this leave the computer?</b>"))
        self.warningLabel = label()
        self.text = qt.QPlainTextEdit()
        self.text.readOnly = True
        self.text.setFixedHeight(_TEXT_HEIGHT)
        self.sendButton = button(
            _("Agree and send"), self.onSend, _("Remembered for this study and this cluster")
        )
        self.declineButton = button(_("Do not send"), self.onDecline, _("Nothing leaves"))
        answers = row(self.declineButton, 1, self.sendButton)
        column(self.widget, self.titleLabel, self.warningLabel, self.text, answers)
        set_margins(self.widget.layout(), 6, 6, 6, 6)
        self.show()

    def show(self) -> None:
        """Show what is asked now, if anything is."""
        consent = self._session.consent
        self.widget.visible = consent is not None
        if consent is self._shown or consent is None:
            return
        self._shown = consent
        self.text.plainText = "\n".join(consent.lines)
        self.warningLabel.text = _(
            "Something in it may identify a person: see the warnings at the end of the list."
        )
        self.warningLabel.visible = bool(consent.findings)

    def onSend(self, *_args: Any) -> None:
        self._session.agree_to_send()

    def onDecline(self, *_args: Any) -> None:
        self._session.decline_to_send()
