"""Drawing and deciding: the ledger strip, the marks of the shown slice and the Segment Editor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from semiseg.images.grid import PLANES
from SemiSegModuleLib.qt_helpers import button, column, label, row
from SemiSegModuleLib.sections.annotate_help import help_text
from SemiSegModuleLib.sections.annotate_state import AnnotateState, Shown
from SemiSegModuleLib.sections.history_words import legend_in_words
from SemiSegModuleLib.sections.ledger_strip import LedgerStrip
from SemiSegModuleLib.sections.segment_editor import EmbeddedEditor
from SemiSegModuleLib.sections.slice_undo import UndoGuard
from SemiSegModuleLib.sections.slice_words import plane_in_words
from SemiSegModuleLib.session_overlays import origin_legend
from SemiSegModuleLib.shortcuts import Shortcuts, keys

_SHOWN_BY = {"study", "case", "ledger", "slice", "structures", "drawn", "suggestion"}


class AnnotateSection:
    """Draw, look at what is suggested, and say of each slice whether it is finished."""

    name = "annotate"

    def __init__(self, session: Any, _resource_path: Callable[[str], str | Path]) -> None:
        self._session = session
        self._state = AnnotateState(session)
        self._undo = UndoGuard(session)
        self._refreshing = False
        self.widget = qt.QWidget()
        self.editor = EmbeddedEditor(session.scene)
        session.before_edit = self.editor.save_undo
        session.choose_structure = self.editor.choose
        self._build()
        self.shortcuts = Shortcuts(slicer.util.mainWindow() or self.widget, self._slots())
        self.refresh(set(_SHOWN_BY))

    def title(self) -> str:
        """The section's name for people."""
        return _("Annotate")

    def enter(self) -> None:
        """The module is shown."""
        self.editor.enter()
        self.shortcuts.enable(on=True)

    def exit(self) -> None:
        """Another module is shown."""
        self.shortcuts.enable(on=False)
        self.editor.leave()

    def close(self) -> None:
        """Give back the editor, its nodes and the keys."""
        self._session.before_edit = lambda: None
        self._session.choose_structure = lambda _structure: None
        self.shortcuts.close()
        self.strip.close()
        self.editor.close()

    def refresh(self, topics: set[str]) -> None:
        """Show what changed."""
        if not topics & _SHOWN_BY:
            return
        if topics & {"study", "case", "structures"}:
            self._show_editor()
        if topics & {"study", "case", "suggestion"}:
            self._show_suggestion()
        self._show()
        if "drawn" in topics:
            self._follow_undo()

    def onDone(self, *_args: Any) -> None:
        """Mark the shown slice as done."""
        self._act("done", self._mark_done)

    def onEmpty(self, *_args: Any) -> None:
        """Mark the shown slice as empty."""
        self._act("empty", self._session.mark_empty)

    def onNotDone(self, *_args: Any) -> None:
        """Take the mark off the shown slice."""
        self._act("not_done", self._session.unmark)

    def onPrevious(self, *_args: Any) -> None:
        """Go to the nearest done slice on the left."""
        self._act("previous", lambda: self._session.next_done(self._state.step_left()))

    def onNext(self, *_args: Any) -> None:
        """Go to the nearest done slice on the right."""
        self._act("next", lambda: self._session.next_done(-self._state.step_left()))

    def onNextSlice(self, *_args: Any) -> None:
        """Go where drawing pays most."""
        self._act("next_slice", self._session.next_slice)

    def onTakeOver(self, *_args: Any) -> None:
        """Make this slice's suggestion the user's own."""
        self._act("take_over", self._session.take_over)

    def onTakeOverCase(self, *_args: Any) -> None:
        """Make the whole suggestion the user's own."""
        self._act("take_over_case", lambda: self._session.take_over(whole_case=True))

    def onAxis(self, index: int) -> None:
        """Follow the slice views (0), or stay with one plane."""
        if self._refreshing:
            return
        self._session.follow_views = index == 0
        if index > 0:
            self._session.plane = PLANES[index - 1]

    def onSuggestion(self, *_args: Any) -> None:
        """Show the suggestion as strongly as asked for, or hide it."""
        self._state.suggestion_visible = bool(self.suggestionCheckBox.checked)
        self._show_suggestion()
        self._show()

    def onUncertainty(self, *_args: Any) -> None:
        """Show or hide where the suggestion is unsure."""
        if not self._refreshing:
            self._session.show_uncertainty(self.uncertaintyCheckBox.checked)

    def onOrigin(self, *_args: Any) -> None:
        """Show or hide who set each voxel."""
        if not self._refreshing:
            self._session.show_origin(bool(self.originCheckBox.checked))

    def onKeys(self, *_args: Any) -> None:
        """Show or hide the list of keys."""
        self.keysLabel.visible = self.keysButton.checked

    def _slots(self) -> dict[str, Callable[..., None]]:
        return {
            "done": self.onDone,
            "empty": self.onEmpty,
            "not_done": self.onNotDone,
            "previous": self.onPrevious,
            "next": self.onNext,
            "next_slice": self.onNextSlice,
            "take_over": self.onTakeOver,
        }

    def _build(self) -> None:
        self.wordsLabel = label()
        # Always two lines high, or all buttons below would jump while one scrolls.
        self.wordsLabel.minimumHeight = 2 * self.wordsLabel.fontMetrics().lineSpacing()
        self.wordsLabel.alignment = qt.Qt.AlignLeft | qt.Qt.AlignTop
        self.strip = LedgerStrip(self._session.jump_to)
        self.buttons: dict[str, Any] = {}
        self._tool_tips: dict[str, str] = {}
        marks = row(
            self._button("done", _("Slice done"), self.onDone),
            self._button("empty", _("Slice empty"), self.onEmpty),
            self._button("not_done", _("Not done"), self.onNotDone),
            self._button("next_slice", _("Next slice"), self.onNextSlice),
        )
        take = row(
            self._button("take_over", _("Take over slice"), self.onTakeOver),
            self._button("take_over_case", _("Take over whole case"), self.onTakeOverCase),
        )
        self.keysLabel = label(help_text())
        self.keysLabel.visible = False
        parts = (
            self._axis_row(),
            self.wordsLabel,
            self._strip_row(),
            marks,
            take,
            self._suggestion_row(),
            self.legendLabel,
            self.keysLabel,
            self.editor.widget,
        )
        self._layout = column(self.widget, *parts)

    def _button(self, action: str, text: str, slot: Callable[..., None]) -> Any:
        made = button(text, slot)
        texts = {key.action: f"{key.text} ({key.sequence})" for key in keys()}
        texts["take_over_case"] = _(
            "Take over the suggestion of all slices where nothing is drawn, to correct it"
        )
        self._tool_tips[action] = texts[action]
        made.toolTip = texts[action]
        self.buttons[action] = made
        return made

    def _axis_row(self) -> Any:
        self.axisCombo = qt.QComboBox()
        self.axisCombo.addItem(_("Axis: as scrolled"))
        for plane in PLANES:
            self.axisCombo.addItem(_("Axis: {plane}").format(plane=plane_in_words(plane)))
        self.axisCombo.toolTip = _(
            "Whose slices are finished one by one: those of the slice view that was scrolled last, "
            "or always those of one axis"
        )
        self.axisCombo.connect("currentIndexChanged(int)", self.onAxis)
        self.keysButton = qt.QPushButton(_("Keys"))
        self.keysButton.checkable = True
        self.keysButton.toolTip = _("Show the keys and what the strip's shapes mean")
        self.keysButton.connect("toggled(bool)", self.onKeys)
        return row(self.axisCombo, 1, self.keysButton)

    def _strip_row(self) -> Any:
        previous = self._button("previous", "\u25c0", self.onPrevious)
        following = self._button("next", "\u25b6", self.onNext)
        for made, name in ((previous, _("Previous done")), (following, _("Next done"))):
            made.maximumWidth = 28
            made.accessibleName = name
        layout = row(previous, self.strip.widget, following)
        layout.setStretch(1, 1)
        return layout

    def _suggestion_row(self) -> Any:
        self.suggestionCheckBox = qt.QCheckBox(_("Show suggestion"))
        self.suggestionCheckBox.checked = True
        self.suggestionCheckBox.connect("toggled(bool)", self.onSuggestion)
        self.opacitySlider = qt.QSlider(qt.Qt.Horizontal)
        self.opacitySlider.minimum, self.opacitySlider.maximum = 5, 100
        self.opacitySlider.value = 100
        self.opacitySlider.minimumWidth = 40
        self.opacitySlider.toolTip = _("How strongly the suggestion is shown")
        self.opacitySlider.connect("valueChanged(int)", self.onSuggestion)
        self.uncertaintyCheckBox = qt.QCheckBox(_("Show uncertainty"))
        self.uncertaintyCheckBox.toolTip = _(
            "Color the views where the suggestion is unsure: look there first"
        )
        self.uncertaintyCheckBox.connect("toggled(bool)", self.onUncertainty)
        self.originCheckBox = qt.QCheckBox(_("Show origin"))
        self.originCheckBox.toolTip = _(
            "Color each voxel by who set it: drawn, corrected, propagated or predicted"
        )
        self.originCheckBox.connect("toggled(bool)", self.onOrigin)
        self.legendLabel = label(legend_in_words(origin_legend()))
        self.legendLabel.visible = False
        top = row(self.suggestionCheckBox, self.opacitySlider)
        top.setStretch(1, 1)
        both = qt.QVBoxLayout()
        both.addLayout(top)
        both.addLayout(row(self.uncertaintyCheckBox, self.originCheckBox, 1))
        return both

    def _act(self, action: str, do: Callable[[], Any]) -> None:
        """Do it, or say why it cannot be done (a key works also while its button is off)."""
        reason = self._state.read().why_not[action]
        if reason:
            self._session.say(reason)
            self._session.tell()
            return
        do()
        self._show()

    def _mark_done(self) -> None:
        index = self._session.slice_index()
        with self._undo.watching(index):
            self._session.mark_done(index, take_over=self._state.suggestion_visible)

    def _follow_undo(self) -> None:
        undone = self._undo.undone()
        if undone is None:
            return
        plane, index = undone
        self._session.plane = plane
        self._session.unmark(index)
        self._session.say(
            _("Slice {index} is as it was before its suggestion was taken over: not done.").format(
                index=index
            )
        )

    def _show(self) -> None:
        shown = self._state.read()
        self.strip.show(shown.strip)
        self.wordsLabel.text = shown.words
        for action, made in self.buttons.items():
            reason = shown.why_not[action]
            made.enabled = not reason
            made.toolTip = "\n".join(part for part in (self._tool_tips[action], reason) if part)
        self._show_choices(shown)

    def _show_choices(self, shown: Shown) -> None:
        self._refreshing = True
        follows = getattr(self._session, "follow_views", True)
        self.axisCombo.currentIndex = 0 if follows else PLANES.index(self._session.plane) + 1
        tool_tip = _("Show what programs say where you have not decided; it is lighter")
        lines = (tool_tip, shown.suggestion_source)
        self.suggestionCheckBox.toolTip = "\n".join(line for line in lines if line)
        self.suggestionCheckBox.enabled = shown.has_suggestion
        self.opacitySlider.enabled = shown.has_suggestion and self.suggestionCheckBox.checked
        self.uncertaintyCheckBox.enabled = shown.has_suggestion
        self.uncertaintyCheckBox.checked = bool(self._session.uncertainty_shown)
        self.originCheckBox.enabled = shown.ready
        self.originCheckBox.checked = self.legendLabel.visible = bool(self._session.origin_shown)
        self.axisCombo.enabled = shown.ready
        self._refreshing = False

    def _show_editor(self) -> None:
        nodes = self._state.nodes()
        if nodes is None or nodes.drawn is None:
            self.editor.show(None, None)
        else:
            self.editor.show(nodes.drawn, nodes.volume)
        self.editor.widget.enabled = nodes is not None and nodes.drawn is not None

    def _show_suggestion(self) -> None:
        nodes = self._state.nodes()
        node = None if nodes is None else nodes.suggestion
        display = None if node is None else node.GetDisplayNode()
        if display is not None:
            display.SetVisibility(bool(self.suggestionCheckBox.checked))
            display.SetOpacity(self.opacitySlider.value / 100.0)
