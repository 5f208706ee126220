"""Slicer's terminology selector around one structure of the protocol.

Of Slicer's terminology widgets only the navigator takes and gives a terminology entry in Python;
the ready dialogs and buttons hand over a C++ structure that Python cannot make. So the navigator
stands in a dialog of our own.
"""

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from semiseg.study.protocol import Structure
from semiseg.study.terminology import ANATOMICAL_STRUCTURE, Code


class TermChooser:
    """Opens without blocking; `on_chosen(category, code, modifier)` is called after OK.

    `category` is None for an anatomical structure, `modifier` where there is none.
    """

    def __init__(
        self,
        parent,
        scene: Any,
        structure: Structure,
        on_chosen: Callable[[Code | None, Code, Code | None], None],
    ) -> None:
        self._on_chosen = on_chosen
        self.dialog = qt.QDialog(parent)
        self.dialog.windowTitle = _("Terminology of {name}").format(name=structure.name)
        self.navigator = slicer.qSlicerTerminologyNavigatorWidget()
        self.navigator.setMRMLScene(scene)
        # The protocol keeps category, type and modifier; name and color are chosen in the table.
        self.navigator.overrideSectionVisible = False
        self.navigator.regionSectionVisible = False
        self._build()
        self._entry = slicer.vtkSlicerTerminologyEntry()
        if structure.terminology:
            logic = slicer.modules.terminologies.logic()
            logic.DeserializeTerminologyEntry(structure.terminology, self._entry)
            self.navigator.setTerminologyEntry(self._entry)

    def open(self) -> None:
        """Show the dialog over the window."""
        self.dialog.open()

    def close(self) -> None:
        """Delete the dialog with Slicer's widget in it."""
        self.navigator = None
        self.dialog.deleteLater()

    def _build(self) -> None:
        self.buttons = qt.QDialogButtonBox()
        self.buttons.standardButtons = qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.dialog.reject)
        self.okButton = self.buttons.button(qt.QDialogButtonBox.Ok)
        self.navigator.connect("selectionValidityChanged(bool)", self._on_validity)
        layout = qt.QVBoxLayout(self.dialog)
        layout.addWidget(self.navigator)
        layout.addWidget(self.buttons)
        self.dialog.resize(600, 500)

    def _on_validity(self, valid: bool) -> None:
        self.okButton.enabled = valid

    def _accept(self) -> None:
        if not self.navigator.terminologyEntry(self._entry):
            return
        category = _code(self._entry.GetCategoryObject())
        code = _code(self._entry.GetTypeObject())
        self.dialog.accept()
        if code is not None:
            special = None if category == ANATOMICAL_STRUCTURE else category
            self._on_chosen(special, code, _code(self._entry.GetTypeModifierObject()))


def _code(found: Any) -> Code | None:
    if found is None or not found.GetCodeValue():
        return None
    return Code(
        scheme=found.GetCodingSchemeDesignator() or "",
        value=found.GetCodeValue(),
        meaning=found.GetCodeMeaning() or "",
    )
