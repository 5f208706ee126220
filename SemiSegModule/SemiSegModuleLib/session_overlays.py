"""What is laid over the images: who set each voxel, a preview while learning; one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from semiseg.events import Event, Json
from semiseg.images.grid import PLANES, Grid, Plane, plane_axis
from semiseg.study.case import Origin
from SemiSegModuleLib.mrml import volumes
from SemiSegModuleLib.mrml.binding import STUDY
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_suggest import SuggestPart
from SemiSegModuleLib.tasks import Task

Color = tuple[int, int, int]
# Told apart also by those who see red and green alike, and on CT as well as on MR.
ORIGIN_COLORS: Mapping[Origin, Color] = {
    Origin.HUMAN: (0, 170, 120),
    Origin.CORRECTED: (240, 200, 40),
    Origin.PROPAGATED: (90, 140, 240),
    Origin.PREDICTED: (205, 110, 205),
}


@dataclass(frozen=True, kw_only=True)
class Legend:
    """One color of an overlay, and what it means."""

    color: Color
    text: str


@dataclass(frozen=True, kw_only=True)
class Watching:
    """The slice that is segmented anew while a model learns."""

    case_id: str
    plane: Plane
    index: int


def origin_legend() -> tuple[Legend, ...]:
    """The colors of the overlay that says who set each voxel."""
    words = {
        Origin.HUMAN: _("drawn"),
        Origin.CORRECTED: _("corrected"),
        Origin.PROPAGATED: _("propagated"),
        Origin.PREDICTED: _("predicted"),
    }
    return tuple(Legend(color=ORIGIN_COLORS[o], text=text) for o, text in words.items())


class OverlayPart(SuggestPart):
    """The part of `Session` about overlays.

    `overlay` says which of ours is shown: "origin", "preview", "compare" or "" (the uncertainty
    has a node of its own); `previewed` what the preview shows.
    """

    overlay: str = ""
    origin_shown: bool = False
    previewed: Watching | None = None
    _overlay_id: str | None = None
    _watching: Watching | None = None

    @told
    def select(self, case_id: str) -> None:
        """See `CasePart`."""
        if case_id != self.current:
            self.drop_overlay()
        super().select(case_id)
        if self.origin_shown and self.current == case_id and not self.overlay:
            self.request_view(case_id)

    def show_uncertainty(self, visible: bool) -> None:
        """See `ViewPart`; other overlays give way."""
        if visible:
            self.origin_shown = False
            self.drop_overlay()
        super().show_uncertainty(visible)

    def show_origin(self, visible: bool) -> None:
        """Show or hide who set each voxel of the current case."""
        self.drop_overlay()
        if visible and self.uncertainty_shown:
            self.show_uncertainty(False)
        self.origin_shown = visible
        if visible and self.current:
            self.request_view(self.current)
        self.changed("suggestion")
        self.tell()

    def drop_overlay(self) -> None:
        """Take away the overlay, and with it what it was made of."""
        before, self.overlay, self.previewed = self.overlay, "", None
        node = self.scene.GetNodeByID(self._overlay_id) if self._overlay_id else None
        self._overlay_id = None
        if node is not None:
            self.views.show_overlay(None)
            display = node.GetDisplayNode()
            self.scene.RemoveNode(node)
            self.scene.RemoveNode(display)
        if before:
            self._show_segments("")
            self.changed("suggestion", "history", "task")

    def lay_over(
        self, kind: str, grid: Grid, array: NDArray[Any], colors: Sequence[Color], name: str
    ) -> None:
        """Show `array` (0: nothing, else the number of a color, from 1) over the images."""
        self.drop_overlay()
        node = volumes.create_labels(self.scene, grid, array, name, colors)
        node.SetAttribute(STUDY, self.require_study().id)
        self._overlay_id, self.overlay = node.GetID(), kind
        self.views.show_overlay(node, 0.7)
        self._show_segments(kind)
        self.changed("suggestion", "history", "task")

    def _show_segments(self, kind: str) -> None:
        """Segments give way to an overlay: of a preview their outlines are left to compare with."""
        nodes = self.nodes(self.current) if self.current and self.binding is not None else None
        for node in () if nodes is None else (nodes.drawn, nodes.suggestion):
            display = None if node is None else node.GetDisplayNode()
            if display is not None:
                display.SetVisibility2DFill(not kind)
                display.SetVisibility2D(kind in ("", "preview"))

    def overlay_node(self) -> Any:
        """The overlay's volume node; None where none of ours is shown."""
        return self.scene.GetNodeByID(self._overlay_id) if self._overlay_id else None

    def watching(self) -> Callable[[Path], Sequence[str]] | None:
        """Further arguments of a training that is to show the slice that is shown now."""
        index = self.slice_index() if self.current and self.parameters.watch else None
        if index is None or self.current is None:
            self._watching = None
            return None
        self._watching = Watching(case_id=self.current, plane=self.plane, index=index)
        place = f"{self.current}:{self.plane}:{index}"
        return lambda folder: ("--watch", place, "--watch-out", str(folder / "preview"))

    def view_options(self) -> tuple[str, ...]:
        """See `ViewPart`."""
        return ("--origin",) if self.origin_shown else ()

    def view_layers(self, case_id: str) -> dict[str, Callable[[NDArray[Any] | None], None]]:
        """See `ViewPart`."""
        return {"origin": partial(self._show_origin, case_id)}

    def _show_origin(self, case_id: str, array: NDArray[Any] | None) -> None:
        wanted = self.origin_shown and case_id == self.current
        if array is None or not wanted or self.overlay not in ("", "origin"):
            return
        order = list(ORIGIN_COLORS)
        numbers = np.zeros(max(Origin) + 1, np.uint8)
        numbers[[int(origin) for origin in order]] = np.arange(1, len(order) + 1)
        name = _("{case} (who set it)").format(case=self.require_study().case(case_id).name)
        colors = [ORIGIN_COLORS[origin] for origin in order]
        self.lay_over("origin", self.open_cases[case_id].grid, numbers[array], colors, name)

    def _progress(self, event: Event) -> None:
        super()._progress(event)
        shown = event.data.get("preview")
        if isinstance(shown, dict) and self._watching is not None and self.task is not None:
            self._show_preview(self._watching, shown.get("file"))

    def _show_preview(self, watched: Watching, path: Json) -> None:
        """Lay the newest preview over its slice, unless the user looks at another overlay."""
        opened = self.open_cases.get(watched.case_id)
        if opened is None or self.overlay not in ("", "preview") or self.uncertainty_shown:
            return
        if watched.case_id != self.current or self.origin_shown:
            return
        try:
            array = np.load(str(path), allow_pickle=False)
        except (OSError, ValueError):
            return  # the next one comes in seconds
        axis = plane_axis(opened.grid, watched.plane)
        numbers = np.expand_dims(self.color_numbers()[array], axis)
        grid = _slice_grid(opened.grid, axis, watched.index)
        if numbers.shape != grid.shape_zyx:
            return
        node = self.overlay_node()
        if self.overlay == "preview" and node is not None:
            volumes.set_overlay(node, grid, numbers)
        else:
            name = _("{case} (preview)").format(case=watched.case_id)
            self.lay_over("preview", grid, numbers, self.structure_colors(), name)
        self.previewed = watched
        self.changed("task")

    def structure_colors(self) -> list[Color]:
        """The structures' colors in the protocol's order."""
        return [structure.color for structure in self.protocol().structures]

    def color_numbers(self) -> NDArray[np.uint16]:
        """By id, the place of a structure in the protocol counted from 1; 0 for what is none."""
        found = np.zeros(65536, np.uint16)
        found[list(self.protocol().ids)] = np.arange(1, len(self.protocol().ids) + 1)
        return found

    def _work_ended(self, task: Task, event: Event) -> None:
        self._watching = None
        if self.overlay == "preview":
            self.drop_overlay()
        super()._work_ended(task, event)

    def _release(self) -> None:
        self.drop_overlay()  # while the nodes whose look it changed are still known
        super()._release()

    def _forget(self) -> None:
        self.origin_shown = False
        super()._forget()


def _slice_grid(grid: Grid, axis: int, index: int) -> Grid:
    """The grid of one slice along an array axis."""
    place, size = [0.0, 0.0, 0.0], list(grid.size_xyz)
    place[2 - axis], size[2 - axis] = float(index), 1
    origin = grid.to_world(np.asarray(place))
    return replace(
        grid,
        size_xyz=(size[0], size[1], size[2]),
        origin_mm_lps=(float(origin[0]), float(origin[1]), float(origin[2])),
    )


def swiped(
    first: NDArray[Any], second: NDArray[Any], axis: int, share: float, *, flipped: bool
) -> NDArray[Any]:
    """`first` in that `share` of the array axis that lies left on the screen, `second` right."""
    count = first.shape[axis]
    cut = round(min(1.0, max(0.0, share)) * count)
    left = slice(count - cut, count) if flipped else slice(0, cut)
    found = second.copy()
    place = (slice(None),) * axis + (left,)
    found[place] = first[place]
    return found


def swipe_axis(plane: Plane) -> int:
    """Which axis (0 S, 1 P, 2 L) runs from left to right in a view of `plane`."""
    return 1 if plane == PLANES[2] else 2
