"""The Structures section: what is segmented, in which color, under which code."""

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.terminology import Code
from SemiSegModuleLib.qt_helpers import button, column, row
from SemiSegModuleLib.sections import structures_protocol as edit
from SemiSegModuleLib.sections.cases_icons import swatch
from SemiSegModuleLib.sections.cases_table import fit_height
from SemiSegModuleLib.sections.structures_terms import TermChooser

LABEL, NAME, TERM = range(3)
_TOPICS = {"study", "structures"}
_ID = 256


class StructuresSection:
    """Shows `session.protocol()`; every change is handed to `session.set_protocol` at once."""

    name = "structures"

    def __init__(self, session: Any, _resource_path: Callable[[str], str]) -> None:
        self._session = session
        self._shown: Protocol | None = None
        self._chooser: TermChooser | None = None
        self._quiet = False
        self.widget = qt.QWidget()
        self._build()
        self.refresh(_TOPICS)

    def title(self) -> str:
        return _("Structures")

    def close(self) -> None:
        """Delete the dialog that may be open, with Slicer's widget in it."""
        self._close_chooser()

    def refresh(self, topics: set[str]) -> None:
        """Show the protocol if it is another one; a name being typed is left alone otherwise."""
        if not topics & _TOPICS:
            return
        protocol = self._protocol()
        if protocol != self._shown:
            self._fill(protocol)
        self._show_state()

    def selected(self) -> int | None:
        """The id of the selected structure."""
        item = self.table.item(self.table.currentRow(), LABEL)
        return None if item is None else int(item.data(_ID))

    def _build(self) -> None:
        self._build_adding()
        self._build_table()
        self._build_buttons()
        self.hintLabel = qt.QLabel()
        self.hintLabel.wordWrap = True
        self.hintLabel.alignment = qt.Qt.AlignCenter
        self._need_rows = [
            *(self.table, self.upButton, self.downButton, self.renameButton),
            *(self.colorButton, self.termButton, self.deleteButton),
        ]
        column(
            self.widget,
            row(self.nameEdit, self.addButton, self.presetCombo),
            self.hintLabel,
            self.table,
            row(self.upButton, self.downButton, self.renameButton, self.colorButton),
            row(self.termButton, self.deleteButton),
        )

    def _build_adding(self) -> None:
        self.nameEdit = qt.QLineEdit()
        self.nameEdit.placeholderText = _("Name, for example left kidney")
        self.nameEdit.toolTip = _("Common names bring their color and SNOMED CT code with them.")
        self.nameEdit.accessibleName = _("Name of the structure to add")
        self._completer = qt.QCompleter(edit.suggestions(), self.nameEdit)
        self._completer.caseSensitivity = qt.Qt.CaseInsensitive
        self._completer.filterMode = qt.Qt.MatchContains
        self._completer.connect("activated(QString)", self._on_completed)
        self.nameEdit.setCompleter(self._completer)
        self.nameEdit.connect("returnPressed()", self.add)
        self.addButton = button(_("Add"), self.add, _("Add the structure (Return)."))
        self.presetCombo = qt.QComboBox()
        self.presetCombo.toolTip = _(
            "Add the structures of a body region; known ones are left out."
        )
        self.presetCombo.addItem(_("Add a set..."))
        for name in edit.presets():
            self.presetCombo.addItem(name)
        self.presetCombo.connect("activated(int)", self._on_preset)

    def _build_table(self) -> None:
        self.table = table = qt.QTableWidget()
        table.columnCount = 3
        table.setHorizontalHeaderLabels([_("Label"), _("Structure"), _("Terminology")])
        table.selectionBehavior = qt.QAbstractItemView.SelectRows
        table.selectionMode = qt.QAbstractItemView.SingleSelection
        table.editTriggers = qt.QAbstractItemView.EditKeyPressed
        table.showGrid = False
        table.wordWrap = False
        table.tabKeyNavigation = False
        table.verticalHeader().setVisible(False)
        table.verticalHeader().defaultSectionSize = table.fontMetrics().height() + 8
        header = table.horizontalHeader()
        header.highlightSections = False
        header.setSectionResizeMode(LABEL, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(NAME, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(TERM, qt.QHeaderView.Stretch)
        table.itemChanged.connect(self._on_edited)
        table.itemSelectionChanged.connect(self._show_state)
        table.connect("cellDoubleClicked(int,int)", self._on_double_click)
        self._delete_key = qt.QShortcut(qt.QKeySequence("Del"), table)
        self._delete_key.context = qt.Qt.WidgetShortcut
        self._delete_key.connect("activated()", self.delete)

    def _build_buttons(self) -> None:
        self.upButton = button(_("Up"), lambda: self._move(-1), _("Higher in the list."))
        self.downButton = button(_("Down"), lambda: self._move(1), _("Lower in the list."))
        self.colorButton = button(_("Color..."), self.choose_color, _("Choose another color."))
        self.termButton = button(
            _("Terminology..."),
            self.choose_term,
            _("Choose the standard term in Slicer's terminology selector."),
        )
        self.renameButton = button(
            _("Rename"), self.rename, _("Type another name (F2); the voxels stay its own.")
        )
        self.deleteButton = button(
            _("Delete..."),
            self.delete,
            _("Take the structure off the list (Delete); asks when it is drawn somewhere."),
        )

    def add(self) -> None:
        """Add the structure whose name was typed."""
        before = self._protocol()
        if self._change(lambda now: edit.added(now, self.nameEdit.text, self._retired())):
            self.nameEdit.text = ""
            self._select(next(iter(set(self._protocol().ids) - set(before.ids)), None))

    def rename(self) -> None:
        """Start typing another name in the table."""
        self.table.editItem(self.table.item(self.table.currentRow(), NAME))

    def choose_color(self) -> None:
        """Ask for another color of the selected structure."""
        structure = self._structure()
        if structure is None:
            return
        title = _("Color of {name}").format(name=structure.name)
        color = qt.QColorDialog.getColor(qt.QColor(*structure.color), self.widget, title)
        if color.isValid():
            parts = (color.red(), color.green(), color.blue())
            self._change(lambda now: edit.recolored(now, structure.id, parts))

    def choose_term(self) -> None:
        """Open Slicer's terminology selector for the selected structure."""
        structure = self._structure()
        if structure is None:
            return

        def chosen(category: Code | None, code: Code, modifier: Code | None) -> None:
            self._change(lambda now: edit.coded(now, structure.id, category, code, modifier))

        self._close_chooser()
        self._chooser = TermChooser(self.widget, self._session.scene, structure, chosen)
        self._chooser.open()

    def delete(self) -> None:
        """Take the selected structure off the list; asks when voxels of it are drawn."""
        structure = self._structure()
        if structure is None:
            return
        drawn = self._session.structure_usage(structure.id)
        if drawn and not slicer.util.confirmOkCancelDisplay(
            self._warning(structure, drawn), windowTitle=_("Delete a structure")
        ):
            return
        self._change(lambda now: now.remove(structure.id), force=bool(drawn))

    def _warning(self, structure: Structure, drawn: list[str]) -> str:
        names = ", ".join(drawn[:5]) + (", ..." if len(drawn) > 5 else "")
        text = _("{name} is drawn in 1 scan ({scans}).")
        if len(drawn) > 1:
            text = _("{name} is drawn in {count} scans ({scans}).")
        rest = _(
            "It will no longer be shown or learned. Its voxels stay in the study's files: adding"
            " {name} again brings them back."
        )
        return f"{text} {rest}".format(name=structure.name, count=len(drawn), scans=names)

    def _move(self, step: int) -> None:
        chosen = self.selected()
        if chosen is not None:
            self._change(lambda now: edit.moved(now, chosen, step))

    def _on_completed(self, _text: str) -> None:
        # Return in the list of completions adds first and completes the emptied field then.
        qt.QTimer.singleShot(0, self._clear_added)

    def _clear_added(self) -> None:
        known = {structure.name.casefold() for structure in self._protocol().structures}
        if self.nameEdit.text.casefold() in known:
            self.nameEdit.text = ""

    def _on_preset(self, number: int) -> None:
        self.presetCombo.currentIndex = 0
        if number > 0:
            names = list(edit.presets().values())[number - 1]
            self._change(lambda now: edit.with_preset(now, names, self._retired()))

    def _on_edited(self, item) -> None:
        if self._quiet or item.column() != NAME:
            return
        structure_id = int(self.table.item(item.row(), LABEL).data(_ID))
        if item.text() != self._protocol().by_id(structure_id).name:
            self._change(lambda now: edit.renamed(now, structure_id, item.text()))
        self._fill(self._protocol())

    def _on_double_click(self, _row: int, column_number: int) -> None:
        actions = {LABEL: self.choose_color, NAME: self.rename, TERM: self.choose_term}
        actions[column_number]()

    def _change(self, change: Callable[[Protocol], Protocol], *, force: bool = False) -> bool:
        """Hand the changed protocol to the session; a refusal is said, and False."""
        try:
            wanted = change(self._protocol())
        except SemiSegError as error:
            self._session.say(str(error), error=True)
            return False
        self._session.set_protocol(wanted, force=force)
        self.refresh(_TOPICS)
        return True

    def _protocol(self) -> Protocol:
        return self._session.protocol() if self._session.study else Protocol()

    def _retired(self):
        return self._session.study.retired

    def _structure(self) -> Structure | None:
        chosen = self.selected()
        return None if chosen is None else self._protocol().by_id(chosen)

    def _fill(self, protocol: Protocol) -> None:
        chosen = self.selected()
        self._quiet, self._shown = True, protocol
        self.table.rowCount = len(protocol.structures)
        for number, structure in enumerate(protocol.structures):
            self._fill_row(number, structure)
        self._quiet = False
        fit_height(self.table, len(protocol.structures), 3, 8)
        self._select(chosen)

    def _fill_row(self, number: int, structure: Structure) -> None:
        label = qt.QTableWidgetItem(str(structure.id))
        label.setData(_ID, structure.id)
        label.setIcon(swatch(*structure.color))
        label.setToolTip(_("Label value in files; it never changes. Double-click for the color."))
        name = qt.QTableWidgetItem(structure.name)
        name.setToolTip(structure.name)
        term = qt.QTableWidgetItem(edit.term_in_words(structure))
        term.setToolTip(edit.term_tip(structure))
        fixed = qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled
        label.setFlags(fixed)
        term.setFlags(fixed)
        for place, item in ((LABEL, label), (NAME, name), (TERM, term)):
            self.table.setItem(number, place, item)

    def _select(self, structure_id: int | None) -> None:
        ids = self._protocol().ids
        if structure_id in ids:
            self.table.setCurrentCell(ids.index(structure_id), NAME)

    def _close_chooser(self) -> None:
        if self._chooser is not None:
            self._chooser.close()
            self._chooser = None

    def _show_state(self) -> None:
        has_study, count = self._session.study is not None, self.table.rowCount
        for widget in (self.nameEdit, self.addButton, self.presetCombo):
            widget.enabled = has_study
        place = self.table.currentRow() if count else -1
        for widget in (self.colorButton, self.termButton, self.renameButton, self.deleteButton):
            widget.enabled = place >= 0
        self.upButton.enabled = place > 0
        self.downButton.enabled = 0 <= place < count - 1
        for widget in self._need_rows:
            widget.visible = count > 0
        self.hintLabel.visible = count == 0
        self.hintLabel.text = self._hint(has_study=has_study)

    @staticmethod
    def _hint(*, has_study: bool) -> str:
        if not has_study:
            return _("Open a study or make a new one; its structures are listed here.")
        return _("Nothing to segment yet. Type a name above, or add a set.")
