"""The sentence at the top of the panel: what happened, what went wrong, or what comes next."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.progress_words import progress_in_words
from SemiSegModuleLib.qt_helpers import column, set_margins

_ICON_PIXELS = 20
_DETAILS_HEIGHT = 160
_TOPICS = {"message", "study", "cases", "structures", "ledger", "task"}
_LEAST_HEIGHT = 30


class MessageLine:
    """Shows `session.message`; an error stays until the user dismisses it.

    An `echo` stands further down the panel, for who has scrolled away from the top; it is there
    only while there is a message.
    """

    def __init__(self, session: Any, *, echo: bool = False) -> None:
        self._session, self._echo = session, echo
        self.widget = qt.QFrame()
        self.widget.frameShape = qt.QFrame.StyledPanel
        self.iconLabel = qt.QLabel()
        self.textLabel = qt.QLabel()
        self.textLabel.wordWrap = True
        self.textLabel.textInteractionFlags = qt.Qt.TextSelectableByMouse
        self.detailsButton = _tool(_("Details"), self.onDetails, _("What the programs printed"))
        self.detailsButton.checkable = True
        self.dismissButton = _tool("✕", self.onDismiss, _("Take this message away"))
        self.detailsText = qt.QPlainTextEdit()
        self.detailsText.readOnly = True
        self.detailsText.setFixedHeight(_DETAILS_HEIGHT)
        self._lay_out()
        self.show()

    def show(self) -> None:
        """Show what the session says now."""
        session = self._session
        error, text = session.message_is_error, session.message
        self.textLabel.text = as_sentence(text) if text else self._hint()
        self.textLabel.enabled = bool(text)  # a hint is written in gray
        self.iconLabel.setVisible(error)
        self.detailsButton.setVisible(error)
        self.dismissButton.setVisible(bool(text))
        if self._echo:
            self.widget.setVisible(bool(text))
        if not error:
            self.detailsButton.checked = False
        self._show_details()

    def refresh(self, topics: set[str]) -> None:
        """Follow what the session tells."""
        if topics & _TOPICS:
            self.show()

    def _hint(self) -> str:
        """How far the work is, else what usually comes next."""
        task = self._session.task
        return self._session.next_step() if task is None else progress_in_words(task)

    def onDetails(self, *_args: Any) -> None:
        self._show_details()

    def onDismiss(self, *_args: Any) -> None:
        self._session.dismiss()

    def _show_details(self) -> None:
        wanted = bool(self.detailsButton.checked)
        self.detailsText.setVisible(wanted)
        if wanted and self.detailsText.plainText != self._session.details:
            self.detailsText.plainText = self._session.details

    def _lay_out(self) -> None:
        icon = qt.QApplication.style().standardIcon(qt.QStyle.SP_MessageBoxCritical)
        self.iconLabel.setPixmap(icon.pixmap(_ICON_PIXELS, _ICON_PIXELS))
        line = qt.QHBoxLayout()
        line.addWidget(self.iconLabel)
        line.addWidget(self.textLabel, 1)
        line.addWidget(self.detailsButton)
        line.addWidget(self.dismissButton)
        column(self.widget, line, self.detailsText)
        set_margins(self.widget.layout(), 6, 2, 2, 2)
        # The line keeps its place, so that a message moves nothing that one is about to click.
        self.widget.minimumHeight = _LEAST_HEIGHT


def as_sentence(text: str) -> str:
    """The engine's sentences begin small, for they may follow a case's name; this one does not."""
    first = text.split(" ", 1)[0]
    return text if first.endswith(":") or not first.isalpha() else text[0].upper() + text[1:]


def _tool(text: str, slot: Any, tool_tip: str) -> Any:
    """A small flat button."""
    result = qt.QToolButton()
    result.text, result.toolTip, result.autoRaise = text, tool_tip, True
    result.connect("clicked()", slot)
    return result
