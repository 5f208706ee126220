"""Slices of the current case: where they are, which are done, taking suggestions over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from slicer.i18n import tr as _

from semiseg.errors import LabelError, ProtocolError, StudyError
from semiseg.images.grid import PLANES, Plane, plane_axis
from semiseg.study.ledger import FINISHED, Ledger, SliceState
from semiseg.study.merge import Mark
from SemiSegModuleLib.mrml import segments
from SemiSegModuleLib.session_core import OpenCase, told
from SemiSegModuleLib.session_views import ViewPart


class DrawingPart(ViewPart):
    """The part of `Session` about drawing and finishing slices."""

    _ledger: tuple[str, Ledger] | None = None
    _seen_slice: tuple[Plane, int | None] | None = None
    _scrolled: tuple[str | None, dict[Plane, int | None]] = (None, {})

    @property
    def plane(self) -> Plane:
        """The axis whose slices are finished one by one."""
        named: Plane = self.parameters.plane
        return named

    @plane.setter
    def plane(self, plane: Plane) -> None:
        self.parameters.plane = plane
        self.changed("ledger", "slice")
        self.tell()

    @property
    def follow_views(self) -> bool:
        """Whether the plane is that of the slice view that the user scrolls."""
        return bool(self.parameters.follow_views)

    @follow_views.setter
    def follow_views(self, follow: bool) -> None:
        self.parameters.follow_views = follow

    def opened(self) -> OpenCase | None:
        """The current case's drawing, if it is in the scene."""
        return self.open_cases.get(self.current) if self.current else None

    def slice_index(self) -> int | None:
        """The slice of the active plane that is shown; None when none is."""
        opened = self.opened()
        if opened is None:
            return None
        index: int | None = self.views.slice_index(self.plane, opened.grid)
        return index

    def n_slices(self) -> int:
        """How many slices the current case has along the active plane's axis."""
        opened = self.opened()
        return 0 if opened is None else self._count(opened)

    def jump_to(self, index: int) -> None:
        """Show slice `index` of the active plane."""
        opened = self.opened()
        if opened is not None and 0 <= index < self._count(opened):
            self.views.jump(self.plane, opened.grid, index)
            self.changed("slice")
            self.tell()

    def forget_read(self) -> None:
        """See `SessionCore`."""
        self._ledger = None
        super().forget_read()

    def ledger_states(self) -> list[SliceState]:
        """Each slice of the active plane; done means done for all structures."""
        opened = self.opened()
        if opened is None or self.current is None:
            return []
        ledger, ids = self._ledger_now(self.current, opened), self.protocol().ids
        suggested = opened.suggested.get(self.plane)
        states = []
        for index in range(self._count(opened)):
            found = {ledger.state(self.plane, index, number) for number in ids}
            state = _joined(found)
            if state is SliceState.UNTOUCHED and suggested is not None and suggested[index]:
                state = SliceState.SUGGESTED
            states.append(state)
        return states

    @told
    def mark_done(self, index: int | None = None, *, take_over: bool = True) -> None:
        """The slice is finished; suggestions for structures not drawn in it are taken over.

        Without `take_over` what is drawn is all there is: nobody agrees to what is hidden.
        """
        opened, index = self._place(index)
        if take_over:
            drawn = self._drawn_in(opened, index)
            self._take_over(opened, index, [i for i in self.protocol().ids if i not in drawn])
        self._mark(opened, index, SliceState.DONE)

    @told
    def mark_empty(self, index: int | None = None) -> None:
        """The slice holds none of the structures; LabelError's sentence when one is drawn."""
        opened, index = self._place(index)
        drawn = self._drawn_in(opened, index)
        if drawn:
            text = _(
                "Slice {index} cannot be marked as empty: {names} drawn in it. Erase it there, or "
                "mark the slice as done."
            )
            raise LabelError(text.format(index=index, names=self._listed(drawn)))
        self._mark(opened, index, SliceState.EMPTY)

    @told
    def unmark(self, index: int | None = None) -> None:
        """The slice is not finished after all; what is drawn stays."""
        opened, index = self._place(index)
        self._mark(opened, index, SliceState.UNTOUCHED)

    @told
    def next_done(self, step: int) -> None:
        """Show the next (+1) or previous (-1) slice that is done."""
        states, here = self.ledger_states(), self.slice_index()
        done = [index for index, state in enumerate(states) if state in FINISHED]
        start = here if here is not None else (-1 if step > 0 else len(states))
        beyond = [i for i in done if (i > start if step > 0 else i < start)]
        if beyond:
            self.jump_to(beyond[0] if step > 0 else beyond[-1])
        elif done:
            self.say(_("There is no further finished slice in this direction."))
        else:
            self.say(_("No slice of this plane is done yet."))

    @told
    def take_over(self, whole_case: bool = False) -> None:
        """Make the suggestion yours where nothing is drawn: in this slice or the whole case."""
        opened, index = self._place(None) if not whole_case else (self._require_opened(), None)
        count = self._take_over(opened, index, self.protocol().ids)
        if not count:
            self.say(_("There is nothing to take over: no suggestion where nothing is drawn."))
            return
        self.say(_("Took over {count} suggested voxels.").format(count=count))

    def tick_slices(self) -> None:
        """Notice that the user scrolled; with `follow_views` that chooses the plane, too."""
        if self.follow_views:
            self._follow()
        seen = (self.plane, self.slice_index())
        if seen != self._seen_slice:
            self._seen_slice = seen
            self.changed("slice")

    def _follow(self) -> None:
        """Take the plane of the view that the mouse was last in, once that view is scrolled.

        Going over a view on the way to a button changes nothing.
        """
        opened = self.opened()
        if opened is None:
            return
        if self._scrolled[0] != self.current:
            self._scrolled = self.current, {}
        plane = self.views.active_plane(opened.grid)
        index = self.views.slice_index(plane, opened.grid)
        before = self._scrolled[1].get(plane, index)
        self._scrolled[1][plane] = index
        if index != before and plane != self.plane:
            self.parameters.plane = plane
            self.changed("ledger", "slice")

    def reopen_drawn(self, case_id: str, opened: OpenCase, found: segments.Layers) -> None:
        """Slices that were marked as empty and hold strokes now are not finished any more."""
        ledger = self._ledger_now(case_id, opened)
        for plane in PLANES:
            axis = plane_axis(opened.grid, plane)
            for index in _drawn_lines(found, axis):
                states = {i: ledger.state(plane, index, i) for i in self.protocol().ids}
                ids = tuple(i for i, state in states.items() if state is SliceState.EMPTY)
                if ids:
                    mark = Mark(plane=plane, indices=(index,), state=SliceState.UNTOUCHED, ids=ids)
                    opened.marks.append(mark)
                    text = _(
                        "{case}: {plane} slice {index} was marked as empty. Something is drawn in "
                        "it now, so it is not finished any more."
                    )
                    self.say(text.format(case=case_id, plane=plane, index=index))
                    self.changed("ledger")

    def _mark(self, opened: OpenCase, index: int, state: SliceState) -> None:
        ids = self.protocol().ids
        mark = Mark(plane=self.plane, indices=(index,), state=state, ids=ids)
        opened.marks.append(mark)
        self.touched(self.require_current())
        self.changed("ledger", "cases")

    def _ledger_now(self, case_id: str, opened: OpenCase) -> Ledger:
        if self._ledger is None or self._ledger[0] != case_id:
            self._ledger = case_id, self.require_study().ledger(case_id)
        ledger = self._ledger[1]
        for mark in opened.marks:
            ledger = ledger.mark(mark.plane, mark.indices, mark.state, mark.ids)
        return ledger

    def _count(self, opened: OpenCase) -> int:
        return opened.grid.shape_zyx[plane_axis(opened.grid, self.plane)]

    def _require_opened(self) -> OpenCase:
        case_id = self.require_current()
        opened = self.open_cases.get(case_id)
        if opened is None or self.nodes(case_id).drawn is None:
            text = _("{case} is not loaded. Click it in the table to load it.")
            raise StudyError(text.format(case=case_id))
        if not self.protocol().structures:
            raise ProtocolError(_("The study has no structures yet. Add one under Structures."))
        return opened

    def _place(self, index: int | None) -> tuple[OpenCase, int]:
        opened = self._require_opened()
        found = self.slice_index() if index is None else index
        if found is None or not 0 <= found < self._count(opened):
            text = _("The {plane} slice view shows no slice of this case. Scroll to one first.")
            raise StudyError(text.format(plane=self.plane))
        return opened, found

    def _drawn_in(self, opened: OpenCase, index: int) -> list[int]:
        """Ids of the structures that are drawn in the slice."""
        node = self.nodes(self.require_current()).drawn
        layers = segments.read_layers(node, opened.grid, self.protocol())
        axis = plane_axis(opened.grid, self.plane)
        local = index - layers.offset_zyx[axis]
        found: set[int] = set()
        for layer in layers.arrays:
            if 0 <= local < layer.shape[axis]:
                found |= {int(i) for i in np.unique(np.take(layer, local, axis=axis))}
        return sorted(found - {0})

    def _listed(self, ids: list[int]) -> str:
        names = ", ".join(self.protocol().by_id(number).name for number in ids)
        return (
            _("{names} is").format(names=names)
            if len(ids) == 1
            else _("{names} are").format(names=names)
        )

    def _take_over(self, opened: OpenCase, index: int | None, ids: Sequence[int]) -> int:
        """Copy suggested voxels of `ids` to where nothing is drawn; returns how many."""
        nodes = self.nodes(self.require_current())
        if nodes.suggestion is None or not ids or not self._is_suggested(opened, index):
            return 0
        self.before_edit()
        with self.writing_nodes():
            count = segments.take_over(
                nodes.drawn,
                nodes.suggestion,
                opened.grid,
                self.protocol(),
                ids=ids,
                plane=None if index is None else self.plane,
                index=index,
            )
        if count:
            self.touched(self.require_current())
        return int(count)

    def _is_suggested(self, opened: OpenCase, index: int | None) -> bool:
        lines = opened.suggested.get(self.plane)
        return lines is not None and bool(lines.any() if index is None else lines[index])


def _drawn_lines(found: segments.Layers, axis: int) -> list[int]:
    """Indices along an array axis of the slices that hold a drawn voxel."""
    others = tuple(i for i in range(3) if i != axis)
    lines = [layer.any(axis=others) for layer in found.arrays]
    if not lines:
        return []
    drawn = np.logical_or.reduce(lines)
    return [found.offset_zyx[axis] + int(i) for i in np.flatnonzero(drawn)]


def _joined(found: set[SliceState]) -> SliceState:
    """One word for a slice from those of its structures."""
    if found == {SliceState.EMPTY}:
        return SliceState.EMPTY
    if found and found <= set(FINISHED):
        return SliceState.DONE
    return SliceState.SUGGESTED if SliceState.SUGGESTED in found else SliceState.UNTOUCHED
