"""Buttons to hand a model on or take one over, and the bundle that learning starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.qt_helpers import button

_ENDING = ".zip"


class ModelsArea:
    """Widgets for the form of advanced choices; the bundle's path lives in the parameters."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._quiet = False
        self.exportButton = button(_("Hand on ..."), self.onExport)
        self.importButton = button(_("Take over ..."), self.onImport)
        self.startEdit = ctk.ctkPathLineEdit()
        self.startEdit.filters = ctk.ctkPathLineEdit.Files
        self.startEdit.toolTip = _(
            "A bundle (.zip) whose weights Learn begins with; leave it empty to begin anew. Only "
            "for work on this computer."
        )
        self.startEdit.connect("currentPathChanged(QString)", self.onStart)

    def show(self) -> None:
        """Show the choice, and what can be done."""
        session = self._session
        self._quiet = True
        self.startEdit.currentPath = session.parameters.start_from
        self._quiet = False
        for one, kind, tip in (
            (
                self.exportButton,
                "export_model",
                _("Write the chosen model as a MONAI bundle; it names no case"),
            ),
            (
                self.importButton,
                "import_model",
                _("Add the model of a bundle that SemiSeg wrote, to segment with"),
            ),
        ):
            reason = session.why_not(kind)
            one.enabled, one.toolTip = not reason, reason or tip

    def onExport(self, *_args: Any) -> None:
        model = self._session.parameters.model or None
        name = _("model") if model is None else _("model-{number}").format(number=model)
        start = str(Path(self._session.study.folder) / f"{name}{_ENDING}")
        title, kinds = _("Hand a model on"), _("MONAI bundles (*.zip)")
        path = qt.QFileDialog.getSaveFileName(self.exportButton, title, start, kinds)
        if path:
            named = path if path.endswith(_ENDING) else path + _ENDING
            self._session.export_model(Path(named), model)

    def onImport(self, *_args: Any) -> None:
        title, kinds = _("Take a model over"), _("MONAI bundles (*.zip)")
        path = qt.QFileDialog.getOpenFileName(self.importButton, title, "", kinds)
        if path:
            self._session.import_model(Path(path))

    def onStart(self, *_args: Any) -> None:
        """Keep what the user chose."""
        if not self._quiet:
            self._session.parameters.start_from = str(self.startEdit.currentPath).strip()
            self._session.changed("cluster")
            self._session.tell()
