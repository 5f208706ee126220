"""A dialog that asks which slices of a label file are finished."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from semiseg.images.grid import PLANES
from SemiSegModuleLib.qt_helpers import label, row
from SemiSegModuleLib.sections.slice_words import plane_in_words

_SLICES = re.compile(r"\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*")


class AnnotationDialog:
    """Opens without blocking; "Import" hands the file to the session."""

    def __init__(self, parent: Any, session: Any, path: Path) -> None:
        self._session, self._path = session, path
        self._case = session.current
        self.dialog = qt.QDialog(parent)
        self.dialog.windowTitle = _("Import an annotation")
        self._build()
        self._show_state()

    def open(self) -> None:
        """Show the dialog over the window."""
        self.dialog.open()

    def close(self) -> None:
        """Delete the dialog."""
        self.dialog.deleteLater()

    def _build(self) -> None:
        self.allButton = qt.QRadioButton(_("All slices: the file is a finished segmentation"))
        self.someButton = qt.QRadioButton(_("These slices; the others are not taken"))
        self.noneButton = qt.QRadioButton(_("None yet: I will go over it first"))
        self.slicesEdit = qt.QLineEdit()
        self.slicesEdit.placeholderText = _("For example 10,20,30-40, counted from 0")
        self.slicesEdit.accessibleName = _("Finished slices")
        self.planeCombo = qt.QComboBox()
        self.planeCombo.addItems([plane_in_words(plane) for plane in PLANES])
        self.planeCombo.currentIndex = list(PLANES).index(self._session.plane)
        self.noteLabel = label()
        self.buttons = qt.QDialogButtonBox()
        self.buttons.standardButtons = qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel
        self.buttons.button(qt.QDialogButtonBox.Ok).text = _("Import")
        self._lay_out()
        self.allButton.checked = True
        for choice in (self.allButton, self.someButton, self.noneButton):
            choice.connect("toggled(bool)", self._show_state)
        self.slicesEdit.connect("textChanged(QString)", self._show_state)
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.dialog.reject)

    def _lay_out(self) -> None:
        text = _("{file} for {case}. Which slices are finished? Only those teach.")
        layout = qt.QVBoxLayout(self.dialog)
        layout.addWidget(label(text.format(file=self._path.name, case=self._case)))
        for choice in (self.allButton, self.someButton):
            layout.addWidget(choice)
        layout.addLayout(row(self.slicesEdit, self.planeCombo))
        for part in (self.noneButton, self.noteLabel, self.buttons):
            layout.addWidget(part)
        self.dialog.resize(460, 260)

    def _show_state(self, *_args: Any) -> None:
        some = bool(self.someButton.checked)
        self.slicesEdit.enabled = self.planeCombo.enabled = some
        text = str(self.slicesEdit.text)
        valid = not some or bool(_SLICES.fullmatch(text))
        self.buttons.button(qt.QDialogButtonBox.Ok).enabled = valid
        if some:
            note = _("What you drew in other slices stays as it is.")
        else:
            note = _("It takes the place of all that you drew in this scan so far.")
        self.noteLabel.text = note

    def _accept(self) -> None:
        self.dialog.accept()
        if self._session.current != self._case:
            self._session.say(
                _("Another scan is shown now; import the annotation again."), error=True
            )
            return
        some = bool(self.someButton.checked)
        done = str(self.slicesEdit.text).replace(" ", "") if some else "all"
        self._session.import_annotation(
            self._path,
            done="none" if self.noneButton.checked else done,
            plane=list(PLANES)[self.planeCombo.currentIndex] if some else self._session.plane,
            only_finished=some,
        )
