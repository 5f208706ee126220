"""The Study section: new, open, recent; where it lies and whether it is saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.qt_helpers import button, column, row, set_margins
from SemiSegModuleLib.recent import forget_studies, recent_studies, remember_study

_TOPICS = {"study", "drawn", "task"}


class StudySection:
    """Asks `session` to make, open and close studies."""

    name = "study"

    def __init__(self, session: Any, _resource_path: Callable[[str], str]) -> None:
        self._session = session
        self._shown: Path | None = None
        self.widget = qt.QWidget()
        self._build_buttons()
        self._build_new()
        self._build_state()
        choices = row(self.newButton, self.openButton, self.recentButton, 1, self.closeButton)
        column(self.widget, choices, self.newArea, self.stateArea, self.missingButton)
        self.refresh(_TOPICS)

    def title(self) -> str:
        """The section's heading."""
        return _("Study")

    def refresh(self, topics: set[str]) -> None:
        """Show which study is open and whether everything is saved."""
        if not topics & _TOPICS:
            return
        study = self._session.study
        if study is not None and study.folder != self._shown:
            remember_study(study.folder)
            self.newArea.setVisible(False)
        self._shown = None if study is None else study.folder
        self.stateArea.setVisible(study is not None)
        self.closeButton.setVisible(study is not None)
        self.missingButton.setVisible(study is None and self._session.missing_folder is not None)
        if study is not None:
            self.nameLabel.text = study.name
            if self.pathEdit.text != str(study.folder):
                self.pathEdit.text = self.pathEdit.toolTip = str(study.folder)
            self.savedLabel.text = self._saved()

    def close(self) -> None:
        """Nothing is left behind."""

    def onNew(self, *_args: Any) -> None:
        self.newArea.setVisible(True)
        self.nameEdit.setFocus()

    def onCancelNew(self, *_args: Any) -> None:
        self.newArea.setVisible(False)

    def onCreate(self, *_args: Any) -> None:
        folder = self._new_folder()
        name = self.nameEdit.text.strip()
        if folder is not None and self._may_leave() and self._session.create_study(folder, name):
            self.nameEdit.text = ""
            self.parentEdit.addCurrentPathToHistory()

    def onOpen(self, *_args: Any) -> None:
        title = _("Open study: choose its folder")
        start = self._session.study_folder or self._session.missing_folder or ""
        folder = qt.QFileDialog.getExistingDirectory(self.widget, title, str(start))
        if folder and self._may_leave():
            self._session.open_study(Path(folder))

    def onRecent(self, folder: Path, *_args: Any) -> None:
        if self._may_leave():
            self._session.open_study(folder)

    def onFillRecent(self, *_args: Any) -> None:
        self.recentMenu.clear()
        found = recent_studies()
        for folder in found:
            action = self.recentMenu.addAction(f"{folder.name}   ({folder.parent})")
            action.connect("triggered()", partial(self.onRecent, folder))
        if found:
            self.recentMenu.addSeparator()
            action = self.recentMenu.addAction(_("Clear this list"))
            action.connect("triggered()", forget_studies)
        else:
            self.recentMenu.addAction(_("No study was opened yet")).enabled = False

    def onCloseStudy(self, *_args: Any) -> None:
        if self._may_leave():
            self._session.close_study()

    def onShowFolder(self, *_args: Any) -> None:
        url = qt.QUrl.fromLocalFile(str(self._session.study_folder))
        qt.QDesktopServices.openUrl(url)

    def onNewChanged(self, *_args: Any) -> None:
        folder = self._new_folder()
        self.createButton.enabled = folder is not None
        self.whereLabel.text = (
            _("Give it a name and a folder to lie in.")
            if folder is None
            else _("Will be made in {folder}").format(folder=folder)
        )

    def _build_buttons(self) -> None:
        self.newButton = button(_("New ..."), self.onNew, _("Make a study in a new folder"))
        self.openButton = button(_("Open ..."), self.onOpen, _("Open the folder of a study"))
        self.recentButton = qt.QPushButton(_("Recent"))
        self.recentButton.toolTip = _("Studies that were open lately")
        self.recentMenu = qt.QMenu(self.recentButton)
        self.recentMenu.connect("aboutToShow()", self.onFillRecent)
        self.recentButton.setMenu(self.recentMenu)
        self.closeButton = button(
            _("Close"), self.onCloseStudy, _("Close the study; everything in it is kept")
        )
        self.missingButton = button(
            _("The study has moved: choose its folder ..."),
            self.onOpen,
            _("The folder that this scene names is not there any more"),
        )

    def _build_new(self) -> None:
        self.nameEdit = qt.QLineEdit()
        self.nameEdit.placeholderText = _("For example: abdomen 2026")
        self.nameEdit.connect("textChanged(QString)", self.onNewChanged)
        self.nameEdit.connect("returnPressed()", self.onCreate)
        self.parentEdit = ctk.ctkPathLineEdit()
        self.parentEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.parentEdit.settingKey = "SemiSeg/ParentFolder"
        self.parentEdit.currentPath = str(Path.home())
        self.parentEdit.connect("currentPathChanged(QString)", self.onNewChanged)
        self.whereLabel = qt.QLabel()
        self.whereLabel.wordWrap = True
        self.createButton = button(_("Create study"), self.onCreate)
        self.cancelNewButton = button(_("Cancel"), self.onCancelNew)
        self.newArea = qt.QWidget()
        form = qt.QFormLayout(self.newArea)
        set_margins(form, 0, 4, 0, 4)
        form.addRow(_("Name"), self.nameEdit)
        form.addRow(_("Folder"), self.parentEdit)
        form.addRow("", self.whereLabel)
        form.addRow("", row(self.createButton, self.cancelNewButton, 1))
        self.newArea.setVisible(False)
        self.onNewChanged()

    def _build_state(self) -> None:
        self.nameLabel = qt.QLabel()
        self.pathEdit = qt.QLineEdit()
        self.pathEdit.readOnly = True
        self.folderButton = button(
            _("Show folder"), self.onShowFolder, _("Open the folder in the file manager")
        )
        self.savedLabel = qt.QLabel()
        self.savedLabel.toolTip = _("Everything is saved by itself, about a second after a stroke")
        self.stateArea = qt.QWidget()
        form = qt.QFormLayout(self.stateArea)
        set_margins(form, 0, 4, 0, 0)
        form.addRow(_("Name"), row(self.nameLabel, 1, self.savedLabel))
        form.addRow(_("Folder"), row(self.pathEdit, self.folderButton))

    def _may_leave(self) -> bool:
        """Whether the open study may go: work that runs in it would be stopped."""
        if not self._session.busy():
            return True
        question = _("Work is running in this study. Stop it? What it finished so far is kept.")
        return bool(self._session.confirm(question))

    def _new_folder(self) -> Path | None:
        """Where the new study would lie; None until name and folder are given."""
        name, parent = self.nameEdit.text.strip(), self.parentEdit.currentPath
        safe = "".join(c if c.isalnum() or c in " -_." else "_" for c in name).strip(" .")
        return Path(parent) / safe if safe and parent else None

    def _saved(self) -> str:
        if self._session.saving:
            return _("Saving ...")
        return _("Saved {time}").format(time=self._session.saved_at)
