"""Slicer's terminology widgets, thin, over the real terminology entry and logic."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from host.layout_manager import qMRMLWidget


class qSlicerTerminologyNavigatorWidget(qMRMLWidget):  # noqa: N801
    """Shows one entry's category and type; a test gives another by setTerminologyEntry."""

    overrideSectionVisible, regionSectionVisible = True, True  # noqa: N815
    selectionValidityChanged = QtCore.Signal(bool)  # noqa: N815
    typeDoubleClicked = QtCore.Signal()  # noqa: N815

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        qMRMLWidget.__init__(self, parent)
        self._entry = slicer.vtkSlicerTerminologyEntry()
        self._label = QtWidgets.QLabel()
        QtWidgets.QVBoxLayout(self).addWidget(self._label)

    def setTerminologyEntry(self, entry: Any) -> None:  # noqa: N802
        self._entry.Copy(entry)
        self._label.text = self.nameFromTerminology(entry)
        self.selectionValidityChanged.emit(True)

    def terminologyEntry(self, entry: Any) -> bool:  # noqa: N802
        """Fills `entry` with what is chosen; False where nothing is."""
        entry.Copy(self._entry)
        kind = self._entry.GetTypeObject()
        return kind is not None and bool(kind.GetCodeValue())

    def nameFromTerminology(self, entry: Any) -> str:  # noqa: N802
        kind, modifier = entry.GetTypeObject(), entry.GetTypeModifierObject()
        parts = [part.GetCodeMeaning() for part in (kind, modifier) if part is not None]
        return ", ".join(part for part in parts if part)

    def recommendedColorFromTerminology(self, entry: Any) -> QtGui.QColor:  # noqa: N802
        return QtGui.QColor(*(entry.GetTypeObject().GetRecommendedDisplayRGBValue() or (0, 0, 0)))


class qSlicerTerminologySelectorButton(QtWidgets.QPushButton):  # noqa: N801
    """A button that shows a terminology and would open the navigator."""

    terminologyChanged = QtCore.Signal()  # noqa: N815
    canceled = QtCore.Signal()

    def changeTerminology(self) -> None:  # noqa: N802
        """Opens a dialog in the application; a test has nobody to answer it."""
        self.canceled.emit()
