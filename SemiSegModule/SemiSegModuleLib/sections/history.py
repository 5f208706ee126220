"""Rounds and versions: what each cost and changed, compared, accepted, gone back to, pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from SemiSegModuleLib.history_lines import VersionLine
from SemiSegModuleLib.qt_helpers import button, column, label, row
from SemiSegModuleLib.sections.history_table import PlainTable
from SemiSegModuleLib.sections.history_words import (
    advice_in_words,
    change_legend,
    compared_in_words,
    legend_in_words,
    round_cells,
    round_headings,
    version_cells,
    version_headings,
    version_text,
)
from SemiSegModuleLib.session_history import MODES

_TOPICS = {"study", "case", "history", "structures", "suggestion", "task"}
_STEPS = 100


class HistorySection:
    """Asks for the lists while it is unfolded; shows what the session knows."""

    name = "history"

    def __init__(self, session: Any, _resource_path: Callable[[str], str]) -> None:
        self._session = session
        self._quiet = False
        self._ids: tuple[int, ...] = ()
        self.widget = qt.QWidget()
        self._build_tables()
        self._build_buttons()
        self._build_compare()
        self._lay_out()
        self.refresh(set(_TOPICS))

    def title(self) -> str:
        """The section's heading."""
        return _("History")

    def unfolded(self, *, on: bool) -> None:
        """The user opened or closed the section: only an open one is kept up to date."""
        self._session.want_history(on)

    def refresh(self, topics: set[str]) -> None:
        """Show rounds, versions, the comparison, and what can be done."""
        if not topics & _TOPICS:
            return
        session = self._session
        names = {one.id: one.name for one in session.protocol().structures}
        self.adviceLabel.text = advice_in_words(session.advice)
        self.adviceLabel.visible = bool(session.advice)
        self.rounds.show([round_cells(one) for one in session.rounds])
        self.roundsArea.visible = bool(session.rounds)
        shown = self._versions()
        self.versions.show(
            [version_cells(one, names) for one in shown],
            [version_text(one, names) for one in shown],
            [number for number, one in enumerate(shown) if one.newest],
        )
        self._show_structures()
        self._show_compared()
        self._show_enabled()

    def close(self) -> None:
        """Nothing to give back: the widgets belong to the panel."""

    def chosen(self) -> list[VersionLine]:
        """The versions that are chosen in the table, the older first."""
        shown = self._versions()
        found = [shown[number] for number in self.versions.chosen() if number < len(shown)]
        return sorted(found, key=lambda one: one.created)

    def structure_ids(self) -> list[int] | None:
        """The structure that is chosen; None for all."""
        place = self.structureBox.currentIndex
        return None if place <= 0 else [self._ids[place - 1]]

    def onRefresh(self, *_args: Any) -> None:
        self._session.ask_history()

    def onCompare(self, *_args: Any) -> None:
        if self._session.compared is not None:
            self._session.end_comparing()
        elif not self._why_not_compare():
            first, second = self.chosen()
            self._session.compare(first, second)

    def onBack(self, *_args: Any) -> None:
        self._session.go_back(self.chosen()[0], self.structure_ids())

    def onAccept(self, *_args: Any) -> None:
        self._session.accept(self.structure_ids())

    def onName(self, *_args: Any) -> None:
        self._session.name_version(self.chosen()[0], str(self.nameEdit.text).strip())

    def onPin(self, *_args: Any) -> None:
        one = self.chosen()[0]
        self._session.pin_version(one, not one.pinned)

    def onPrune(self, *_args: Any) -> None:
        self._session.prune()

    def onMode(self, *_args: Any) -> None:
        """Another look at the two versions that are compared."""
        if not self._quiet:
            mode = MODES[self.modeBox.currentIndex]
            self._session.show_compared(mode, self.swipeSlider.value / _STEPS)

    def onSelect(self) -> None:
        """Other versions were chosen."""
        chosen = self.chosen()
        self.nameEdit.text = chosen[0].name if len(chosen) == 1 else ""
        self._show_enabled()

    def _versions(self) -> list[VersionLine]:
        """The newest first."""
        return sorted(self._session.versions, key=lambda one: one.created, reverse=True)

    def _build_tables(self) -> None:
        self.adviceLabel = label()
        self.rounds = PlainTable(round_headings(), numbers=range(1, 9), most_rows=5)
        self.rounds.widget.selectionMode = qt.QAbstractItemView.NoSelection
        self.roundsArea = self.rounds.widget
        self.versions = PlainTable(version_headings(), self.onSelect, numbers=(2, 3, 4))
        self.emptyLabel = label()

    def _build_buttons(self) -> None:
        self.refreshButton = button(_("Refresh"), self.onRefresh, _("Read the lists anew"))
        self.compareButton = button("", self.onCompare)
        self.backButton = button(_("Go back to it"), self.onBack)
        self.acceptButton = button(_("Accept suggestion"), self.onAccept)
        self.structureBox = qt.QComboBox()
        self.structureBox.toolTip = _("What Go back and Accept apply to")
        self.structureBox.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
        self.structureBox.minimumContentsLength = 10
        self.nameEdit = qt.QLineEdit()
        self.nameEdit.placeholderText = _("Name of the chosen version")
        self.nameEdit.connect("returnPressed()", self.onName)
        self.nameButton = button(_("Name"), self.onName)
        self.pinButton = button(_("Pin"), self.onPin)
        self.pruneButton = button("", self.onPrune)

    def _build_compare(self) -> None:
        self.compareArea = qt.QWidget()
        self.comparedLabel = label()
        self.legendLabel = label(legend_in_words(change_legend()))
        self.modeBox = qt.QComboBox()
        self.modeBox.addItems([_("Changed voxels"), _("Older"), _("Newer"), _("Swipe")])
        self.modeBox.toolTip = _("What the views show of the two versions")
        self.modeBox.connect("currentIndexChanged(int)", self.onMode)
        self.swipeSlider = qt.QSlider(qt.Qt.Horizontal)
        self.swipeSlider.minimum, self.swipeSlider.maximum = 0, _STEPS
        self.swipeSlider.value = _STEPS // 2
        self.swipeSlider.toolTip = _("Left of it the older version is shown, right of it the newer")
        self.swipeSlider.connect("valueChanged(int)", self.onMode)
        look = row(self.modeBox, self.swipeSlider)
        look.setStretch(1, 1)
        column(self.compareArea, self.comparedLabel, look, self.legendLabel)

    def _lay_out(self) -> None:
        naming = row(self.nameEdit, self.nameButton, self.pinButton)
        naming.setStretch(0, 1)
        decide = row(self.structureBox, self.backButton, self.acceptButton)
        decide.setStretch(0, 1)
        column(
            self.widget,
            self.adviceLabel,
            self.roundsArea,
            self.emptyLabel,
            self.versions.widget,
            row(self.compareButton, self.refreshButton, 1),
            self.compareArea,
            decide,
            naming,
            row(self.pruneButton, 1),
        )

    def _show_structures(self) -> None:
        structures = self._session.protocol().structures
        found = tuple(one.id for one in structures)
        wanted = [_("All structures"), *(one.name for one in structures)]
        if [self.structureBox.itemText(k) for k in range(self.structureBox.count)] == wanted:
            return
        kept = self.structure_ids()
        self._ids = found
        self.structureBox.clear()
        self.structureBox.addItems(wanted)
        place = found.index(kept[0]) + 1 if kept and kept[0] in found else 0
        self.structureBox.currentIndex = place

    def _show_compared(self) -> None:
        compared, self._quiet = self._session.compared, True
        self.compareArea.visible = compared is not None
        if compared is not None:
            self.comparedLabel.text = compared_in_words(compared)
            self.modeBox.currentIndex = MODES.index(compared.mode)
            self.swipeSlider.visible = compared.mode == "swipe"
            self.legendLabel.visible = compared.mode == "changed"
        self.compareButton.text = _("Compare") if compared is None else _("End comparing")
        self._quiet = False

    def _show_enabled(self) -> None:
        session = self._session
        count, size = session.spare or (0, 0)
        text = _("Prune: give back {size:.1f} MB of {count} versions ...")
        self.pruneButton.text = (
            text.format(size=size / 1e6, count=count) if count else _("Nothing to prune")
        )
        comparing = session.compared is not None
        self._allow(
            self.compareButton,
            "" if comparing else self._why_not_compare(),
            _("Show what differs between two versions of this scan"),
        )
        back = _("Make this version count again; what you drew stays, nothing is deleted")
        self._allow(self.backButton, self._why_not_back(), back)
        accept = _("Make what is suggested in this scan yours wherever nothing is drawn")
        self._allow(self.acceptButton, self._why_not_accept(), accept)
        one = self._why_not_one()
        self._allow(self.nameButton, one, _("Give the version this name; it is then never pruned"))
        self._allow(self.pinButton, one, _("Keep the version from being pruned"))
        self.nameEdit.enabled = not one
        chosen = self.chosen()
        pinned = len(chosen) == 1 and chosen[0].pinned
        self.pinButton.text = _("Unpin") if pinned else _("Pin")
        self._allow(
            self.pruneButton,
            "" if count else _("Every version is needed, named or pinned"),
            _("Delete versions that nothing needs, after a question"),
        )
        self._show_empty()

    @staticmethod
    def _allow(widget: Any, reason: str, tool_tip: str) -> None:
        """Enable, or say in the tool tip why not."""
        widget.enabled = not reason
        widget.toolTip = reason or tool_tip

    def _show_empty(self) -> None:
        """Say why the table is empty, rather than showing an empty one."""
        session, empty = self._session, not self._session.versions
        if session.study is None:
            text = _("Make or open a study first.")
        elif session.current is None:
            text = _("Choose a case in the table to see its versions.")
        else:
            text = _("No versions yet: they come with drawing, propagating and segmenting.")
        self.emptyLabel.text = text
        self.emptyLabel.visible = empty
        self.versions.widget.visible = not empty

    def _why_not_compare(self) -> str:
        chosen = self.chosen()
        maps = [one for one in chosen if one.kind != "model" and not one.problem]
        if len(chosen) != 2 or len(maps) != 2:
            return _("Choose two labels or segmentations in the table (Ctrl+click the second)")
        return ""

    def _why_not_one(self) -> str:
        return "" if len(self.chosen()) == 1 else _("Choose one version in the table")

    def _why_not_back(self) -> str:
        reason = self._why_not_one()
        if reason:
            return reason
        one = self.chosen()[0]
        if one.kind == "model":
            return _("Segment anew with this model instead (Advanced, Model)")
        if one.problem:
            return _("This version is damaged")
        if one.newest:
            return _("This is the newest; there is nothing to go back from")
        if self._session.busy():
            return _("Other work is running; wait for its end or cancel it")
        return ""

    def _why_not_accept(self) -> str:
        session = self._session
        nodes = session.nodes(session.current) if session.study and session.current else None
        if nodes is None or nodes.suggestion is None:
            return _("Nothing is suggested in this scan")
        return ""
