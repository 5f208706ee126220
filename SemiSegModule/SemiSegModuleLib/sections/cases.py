"""The Cases section: all scans of the study in a table, adding, showing, removing them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SemiSegModuleLib.qt_helpers import button, column, row
from SemiSegModuleLib.sections.cases_adding import AddingPart
from SemiSegModuleLib.sections.cases_restoring import RestoreMenu
from SemiSegModuleLib.sections.cases_table import CaseTable

_TOPICS = {"study", "cases", "case"}
_MODALITIES = ("CT", "MR", "auto")


class CasesSection(AddingPart):
    """Asks `session` for rows and tells it what to do; keeps nothing but the table's selection."""

    name = "cases"

    def __init__(self, session: Any, _resource_path: Callable[[str], str]) -> None:
        self._session = session
        self._shown: str | None = None
        self.table = CaseTable(self._on_select, self.show_case)
        self.widget = qt.QWidget()
        self._build()
        self.refresh(_TOPICS)

    def title(self) -> str:
        return _("Cases")

    def enter(self) -> None:
        """The module is shown: its keys are listened to."""
        for key in self._window_keys:
            key.enabled = True

    def exit(self) -> None:
        """Another module is shown; it may use the same keys."""
        for key in self._window_keys:
            key.enabled = False

    def close(self) -> None:
        """Delete the dialog that may be open, and the keys on the main window."""
        self._close_chooser()
        for key in self._window_keys:
            key.deleteLater()
        self._window_keys = []
        self.table.close()

    def refresh(self, topics: set[str]) -> None:
        """Show what the session says now."""
        session = self._session
        self.annotationButton.enabled = session.current is not None and not session.busy()
        if not topics & _TOPICS:
            return
        rows = session.rows() if session.study else ()
        self.table.update(rows, session.current, set(session.open_cases))
        if session.current != self._shown:
            self._shown = session.current
            if self._shown is not None:
                self.table.select([self._shown])
        self._show_state()
        self.ask_waiting()

    def _build(self) -> None:
        self._build_adding()
        self._build_filter()
        self._build_acting()
        self._build_menu()
        self._build_keys()
        self.hintLabel = qt.QLabel()
        self.hintLabel.wordWrap = True
        self.hintLabel.alignment = qt.Qt.AlignCenter
        self._need_rows = [
            *(self.table.view, self.filterEdit, self.countLabel, self.modalityCombo),
            *(self.previousButton, self.nextButton, self.showButton),
            *(self.unloadButton, self.annotationButton, self.removeButton),
        ]
        column(
            self.widget,
            row(self.addFilesButton, self.addFolderButton, self.addSceneButton),
            row(self.addDicomButton, self.databaseButton, self.dicomButton),
            row(self.filterEdit, self.countLabel),
            self.hintLabel,
            self.table.view,
            row(self.previousButton, self.nextButton, self.showButton, self.unloadButton),
            row(self.modalityCombo, self.annotationButton, self.removeButton, self.restore.button),
        )

    def _build_filter(self) -> None:
        self.filterEdit = qt.QLineEdit()
        self.filterEdit.placeholderText = _("Filter: name, CT, MR, new, segmented ...")
        self.filterEdit.clearButtonEnabled = True
        self.filterEdit.accessibleName = _("Filter the scans")
        self.filterEdit.textChanged.connect(self._on_filter)
        self.countLabel = qt.QLabel()

    def _build_acting(self) -> None:
        self.previousButton = button(
            _("Previous"), self.show_previous, _("Show the scan above in the table (Shift+PgUp).")
        )
        self.nextButton = button(
            _("Next"), self.show_next, _("Show the scan below in the table (Shift+PgDown).")
        )
        self.showButton = button(
            _("Show"),
            self.show_selected,
            _("Show the selected scan in the slice views (Return or a double click)."),
        )
        self.modalityCombo = qt.QComboBox()
        self.modalityCombo.toolTip = _("What the selected scans are: CT, MR or as recognized.")
        for text in (_("Set type..."), *(self._modality_text(name) for name in _MODALITIES)):
            self.modalityCombo.addItem(text)
        self.modalityCombo.connect("activated(int)", self._on_modality)
        self.unloadButton = button(
            _("Unload"),
            self.unload_selected,
            _("Take the selected scans out of the scene to free memory; nothing is lost."),
        )
        self.removeButton = button(
            _("Remove..."),
            self.remove_selected,
            _("Take the selected scans out of the study (Delete). You are asked first."),
        )
        self.restore = RestoreMenu(self._session)

    def _build_menu(self) -> None:
        entries = [
            (_("Show"), self.show_selected),
            *((self._modality_text(name), self._setter(name)) for name in _MODALITIES),
            (_("Unload from the scene"), self.unload_selected),
            (_("Remove from the study..."), self.remove_selected),
        ]
        self.actions = []
        for text, slot in entries:
            action = qt.QAction(text, self.table.view)
            action.connect("triggered()", slot)
            self.table.view.addAction(action)
            self.actions.append(action)
        self.table.view.contextMenuPolicy = qt.Qt.ActionsContextMenu

    def _build_keys(self) -> None:
        table, window = self.table.view, slicer.util.mainWindow() or self.widget
        self._keys = [
            _key("Return", table, self.show_selected),
            _key("Enter", table, self.show_selected),
            _key("Del", table, self.remove_selected),
        ]
        for key in self._keys:
            key.context = qt.Qt.WidgetShortcut
        # These two hold in the slice views, too, while the module is shown.
        self._window_keys = [
            _key("Shift+PgUp", window, self.show_previous),
            _key("Shift+PgDown", window, self.show_next),
        ]
        self.exit()

    @staticmethod
    def _modality_text(name: str) -> str:
        return {"CT": _("It is CT"), "MR": _("It is MR"), "auto": _("Recognize CT or MR")}[name]

    def _setter(self, name: str) -> Callable[[], None]:
        return lambda: self.set_modality(name)

    def show_case(self, case_id: str) -> None:
        """Show `case_id` in the views."""
        self._session.select(case_id)

    def show_selected(self) -> None:
        """Show the first of the selected cases."""
        chosen = self.table.selected()
        if chosen:
            self.show_case(chosen[0])

    def show_previous(self) -> None:
        """Show the case above the shown one, in the table's order."""
        self._step(-1)

    def show_next(self) -> None:
        """Show the case below the shown one, in the table's order."""
        self._step(1)

    def set_modality(self, name: str) -> None:
        """Say that the selected cases are "CT" or "MR", or let the file decide ("auto")."""
        for case_id in self.table.selected():
            self._session.set_modality(case_id, name)

    def unload_selected(self) -> None:
        """Take the selected cases' nodes out of the scene."""
        for case_id in self.table.selected():
            if case_id in self._session.open_cases:
                self._session.unload_case(case_id)
        self.refresh(_TOPICS)

    def remove_selected(self) -> None:
        """Ask, then take the selected cases out of the study."""
        chosen = self.table.selected()
        if chosen and slicer.util.confirmOkCancelDisplay(
            self._removal(chosen), windowTitle=_("Remove from the study")
        ):
            for case_id in chosen:
                self._session.remove_case(case_id)

    def _removal(self, case_ids: list[str]) -> str:
        names = [self._session.row(case_id).name for case_id in case_ids]
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        folder = Path(self._session.study.folder) / "removed"
        return _(
            "{names} will leave the study and the scene. What was drawn and computed moves to"
            " {folder}, and Restore brings it back. The image files are not touched."
        ).format(names=listed, folder=folder)

    def _step(self, step: int) -> None:
        order = self.table.visible()
        if not order:
            return
        if self._session.current in order:
            place = order.index(self._session.current) + step
            place = min(max(place, 0), len(order) - 1)
        else:
            place = 0 if step > 0 else len(order) - 1
        if order[place] != self._session.current:
            self.show_case(order[place])

    def _on_filter(self, text: str) -> None:
        self.table.filter(text)
        self._show_state()

    def _on_select(self) -> None:
        self._session.chosen = tuple(self.table.selected())
        self._show_state()

    def _on_modality(self, number: int) -> None:
        self.modalityCombo.currentIndex = 0
        if number > 0:
            self.set_modality(_MODALITIES[number - 1])

    def _show_state(self) -> None:
        session = self._session
        has_study, rows = session.study is not None, self.table.count
        for adding in (
            *(self.addFilesButton, self.addFolderButton, self.addSceneButton),
            *(self.addDicomButton, self.databaseButton),
        ):
            adding.enabled = has_study
        self.restore.button.enabled = has_study
        visible, chosen = self.table.visible(), self.table.selected()
        self._enable(visible, chosen)
        self.countLabel.text = self._counted(len(visible), rows)
        self.hintLabel.text = self._hint(has_study=has_study)
        self.hintLabel.visible = rows == 0
        for widget in self._need_rows:
            widget.visible = rows > 0

    def _enable(self, visible: list[str], chosen: list[str]) -> None:
        current, loaded = self._session.current, set(self._session.open_cases)
        others = bool(visible) and visible != [current]
        self.previousButton.enabled = others and visible[0] != current
        self.nextButton.enabled = others and visible[-1] != current
        self.showButton.enabled = bool(chosen) and chosen[0] != current
        self.modalityCombo.enabled = self.removeButton.enabled = bool(chosen)
        self.unloadButton.enabled = bool(loaded & set(chosen))
        for action in self.actions:
            action.enabled = bool(chosen)
        self.actions[-2].enabled = self.unloadButton.enabled

    @staticmethod
    def _counted(visible: int, rows: int) -> str:
        if visible == rows:
            return _("{count} scans").format(count=rows) if rows != 1 else _("1 scan")
        return _("{visible} of {count}").format(visible=visible, count=rows)

    @staticmethod
    def _hint(*, has_study: bool) -> str:
        if not has_study:
            return _("Open a study or make a new one above; its scans are listed here.")
        return _(
            "No scans yet. Add files or DICOM folders of CT and MR scans, or volumes loaded in"
            " Slicer."
        )


def _key(sequence: str, parent: Any, slot: Callable[[], None]) -> Any:
    shortcut = qt.QShortcut(qt.QKeySequence(sequence), parent)
    shortcut.connect("activated()", slot)
    return shortcut
