"""Writing segmentations and measurements for other programs, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.qt_helpers import button, column, label, row
from SemiSegModuleLib.sections.export_formats import (
    DICOM,
    MESHES,
    TABLE,
    formats,
    identities,
    kinds,
    spaces,
)

_TOPICS = {"study", "cases", "case", "task"}
_SCOPES = ("all", "case", "chosen")


class ExportSection:
    """What, of which scans, in which formats, where to; choices live in the parameter node."""

    name = "export"

    def __init__(self, session: Any, _resource_path: Callable[[str], str | Path]) -> None:
        self._session = session
        self._study: Any = None
        self._task: Any = None
        self._target: Path | None = None
        self._result: Path | None = None
        self._said = ""
        self._quiet = False
        self.widget = qt.QWidget()
        self._build()
        self._show_choices()
        self.refresh(set(_TOPICS))

    def title(self) -> str:
        """The section's name for people."""
        return _("Export")

    def close(self) -> None:
        """Nothing to give back: the widgets belong to the panel."""

    def refresh(self, topics: set[str]) -> None:
        """Show the choices, what can be done, and how an export ended."""
        if not topics & _TOPICS:
            return
        if self._session.study is not self._study:
            self._study = self._session.study
            self._show_choices()
        self._show_end()
        self._show_enabled()

    def onExport(self, *_args: Any) -> None:
        """Write the files."""
        target = Path(self.folderEdit.currentPath).expanduser()
        self._show_result("", None)
        self.folderEdit.addCurrentPathToHistory()
        self._target = target
        self._session.export(
            target,
            self.ticked() or [TABLE],
            self.case_ids(),
            kinds()[self.whatCombo.currentIndex].name,
            overwrite=bool(self.overwriteCheckBox.checked),
            identity=self.identity(),
            space=self.space(),
        )

    def onReport(self, *_args: Any) -> None:
        """Write the report; the session opens it when it is done."""
        self._show_result("", None)
        self._session.report()

    def onChoice(self, *_args: Any) -> None:
        """Keep what the user chose in the parameter node."""
        if self._quiet:
            return
        choices = self._session.parameters
        choices.formats = ",".join(self.ticked())
        choices.export_what = kinds()[self.whatCombo.currentIndex].name
        choices.export_folder = str(self.folderEdit.currentPath)
        self._show_enabled()

    def onDatabase(self, *_args: Any) -> None:
        """Whether DICOM files go into Slicer's database, too."""
        self._session.to_database = bool(self.databaseCheckBox.checked)

    def onOpen(self, *_args: Any) -> None:
        """Open the folder with the files."""
        if self._result is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._result)))

    def ticked(self) -> list[str]:
        """The formats that are ticked, by the engine's names."""
        return [name for name, box in self.formatBoxes.items() if box.checked]

    def identity(self) -> str:
        """What becomes of the patient's identity; "ask" while no DICOM file is to be written."""
        if not DICOM & set(self.ticked()):
            return "ask"
        return identities()[self.identityCombo.currentIndex].name

    def space(self) -> str:
        """The axes of mesh coordinates."""
        return spaces()[self.spaceCombo.currentIndex].name

    def case_ids(self) -> list[str]:
        """The cases to export; none stands for all."""
        session, scope = self._session, _SCOPES[self.casesCombo.currentIndex]
        if scope == "case":
            return [session.current] if session.current else []
        return list(session.chosen) if scope == "chosen" else []

    def _build(self) -> None:
        self.whatCombo = self._combo([kind.title for kind in kinds()])
        self.whatCombo.toolTip = "\n".join(f"{k.title}: {k.tool_tip}" for k in kinds())
        self.casesCombo = self._combo(
            [_("All that have one"), _("This scan"), _("Selected in the table")]
        )
        self.formatBoxes = {choice.name: self._box(choice) for choice in formats()}
        self.tableLabel = label(_("Volumes and gray values are always written (measurements.csv)."))
        self.spaceCombo = self._combo([choice.title for choice in spaces()])
        self.spaceCombo.toolTip = _(
            "The direction of the axes of mesh files; Slicer reads both, since the files say which"
        )
        self._build_dicom()
        self._build_folder()
        self.overwriteCheckBox = qt.QCheckBox(_("Replace files that are there already"))
        self.exportButton = button(_("Export"), self.onExport)
        self.reportButton = button(_("Report"), self.onReport)
        self.resultLabel = label()
        self.openButton = button(_("Open folder"), self.onOpen)
        self.openButton.visible = False
        column(
            self.widget,
            self._form(),
            self.overwriteCheckBox,
            row(self.exportButton, self.reportButton),
            self.resultLabel,
            row(self.openButton, 1),
        )

    def _build_dicom(self) -> None:
        self.identityCombo = self._combo([choice.title for choice in identities()])
        self.identityCombo.toolTip = _(
            "DICOM files carry the patient's name, id and birth date, which the archive needs and "
            "nobody else may see"
        )
        self.databaseCheckBox = qt.QCheckBox(_("Add to Slicer's DICOM database"))
        self.databaseCheckBox.toolTip = _(
            "The DICOM files are copied into the database of Slicer's DICOM module as well, from"
            " which they can be loaded or sent to an archive"
        )
        self.databaseCheckBox.connect("toggled(bool)", self.onDatabase)

    def _build_folder(self) -> None:
        self.folderEdit = ctk.ctkPathLineEdit()
        self.folderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.folderEdit.settingKey = "SemiSeg/ExportFolder"
        self.folderEdit.toolTip = _("Where the files go; a folder that is missing is made")
        self.folderEdit.connect("currentPathChanged(QString)", self.onChoice)

    def _form(self) -> Any:
        form = qt.QFormLayout()
        form.fieldGrowthPolicy = qt.QFormLayout.AllNonFixedFieldsGrow
        form.addRow(_("Segmentation"), self.whatCombo)
        form.addRow(_("Scans"), self.casesCombo)
        for number, box in enumerate(self.formatBoxes.values()):
            form.addRow(_("Formats") if number == 0 else "", box)
        form.addRow("", self.tableLabel)
        form.addRow(_("Patient"), self.identityCombo)
        form.addRow("", self.databaseCheckBox)
        form.addRow(_("Mesh axes"), self.spaceCombo)
        form.addRow(_("Folder"), self.folderEdit)
        self._identity_label = form.labelForField(self.identityCombo)
        self._space_label = form.labelForField(self.spaceCombo)
        return form

    def _combo(self, texts: list[str]) -> Any:
        made = qt.QComboBox()
        made.addItems(texts)
        # Long texts must not make the panel wider than it is.
        made.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
        made.minimumContentsLength = 12
        made.connect("currentIndexChanged(int)", self.onChoice)
        return made

    def _box(self, choice: Any) -> Any:
        made = qt.QCheckBox(choice.title)
        made.toolTip = choice.tool_tip
        made.connect("toggled(bool)", self.onChoice)
        return made

    def _show_choices(self) -> None:
        """Bring the widgets to what the parameter node says, for another study anew."""
        choices, self._quiet = self._session.parameters, True
        wanted = set(choices.formats.split(","))
        for name, box in self.formatBoxes.items():
            box.checked = name in wanted
        names = [kind.name for kind in kinds()]
        if choices.export_what in names:
            self.whatCombo.currentIndex = names.index(choices.export_what)
        folder = choices.export_folder
        if not folder and self._session.study is not None:
            folder = str(Path(self._session.study.folder) / "export")
        self.folderEdit.currentPath = folder
        self._show_result("", None)
        self._quiet = False

    def _show_enabled(self) -> None:
        for made, tool_tip, reason in (
            (self.exportButton, _("Write the files"), self._why_not_export()),
            (
                self.reportButton,
                _("Write one page with pictures, scores and history, and open it in the browser"),
                self._session.why_not("report"),
            ),
        ):
            made.enabled = not reason
            made.toolTip = "\n".join(part for part in (tool_tip, reason) if part)
        dicom = bool(DICOM & set(self.ticked()))
        self.identityCombo.visible = self._identity_label.visible = dicom
        self.databaseCheckBox.visible = dicom
        meshes = bool(MESHES & set(self.ticked()))
        self.spaceCombo.visible = self._space_label.visible = meshes
        self._show_line()

    def _why_not_export(self) -> str:
        scope = _SCOPES[self.casesCombo.currentIndex]
        reason: str = self._session.why_not("export", all_cases=scope != "case")
        if reason:
            return reason
        if scope == "chosen" and not self._session.chosen:
            return _("Select scans in the table first")
        if DICOM & set(self.ticked()) and self.identity() == "ask":
            return _("Say first whether the DICOM files keep the patient's name and id")
        return "" if str(self.folderEdit.currentPath).strip() else _("Choose a folder first")

    def _show_end(self) -> None:
        """Say what came of an export or a report of ours."""
        task, before = self._session.task, self._task
        if task is not None and task.kind in ("export", "report"):
            self._task = task
            self._show_result(self._progress(task), None)
            return
        if before is None:
            return
        self._task = None
        failed = before.cancelling or self._session.message_is_error
        if failed:
            self._show_result(_("Not finished: see the message at the top."), None)
        else:
            target = self._target if before.kind == "export" else None
            self._show_result(str(self._session.message), target)

    @staticmethod
    def _progress(task: Any) -> str:
        if task.total > 1:
            return _("Working: {step} of {total} ...").format(step=task.step, total=task.total)
        return _("Working ...")

    def _show_result(self, text: str, target: Path | None) -> None:
        self._said, self._result = text, target
        self._show_line()

    def _show_line(self) -> None:
        """What came of the last export; before one, or when it cannot be done now, why not."""
        idle = self._task is None and self._session.study is not None
        reason = self._why_not_export() if idle else ""
        self.resultLabel.text = "\n".join(part for part in (self._said, reason) if part)
        self.openButton.visible = self._result is not None
