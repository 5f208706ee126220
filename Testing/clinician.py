"""What a clinician does with the panel, click by click; for tests and for pictures.

Only buttons, tables, keys and strokes are used, never the session's methods: what works here works
for the hand. Runs in the stand-in and in the real Slicer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import slicer
from numpy.typing import NDArray

from host.strokes import stroke, voxels_of

Spin = Callable[..., bool]
OWN_WORK = "the test itself"


class Clinician:
    """Hands on `panel`; `spin(condition, seconds)` lets the event loop run until it holds.

    `watchdog` (host.watchdog) is told what may take its time: loading a volume, and what the test
    itself does between two clicks.
    """

    def __init__(self, panel: Any, spin: Spin, watchdog: Any = None) -> None:
        self.panel, self.session, self._spin = panel, panel.session, spin
        self.watchdog = watchdog
        self.study, self.cases = panel.sections["study"], panel.sections["cases"]
        self.structures, self.annotate = panel.sections["structures"], panel.sections["annotate"]
        self.work, self.export = panel.sections["work"], panel.sections["export"]

    def allowed(self, reason: str) -> contextlib.AbstractContextManager[None]:
        """What happens inside may take its time, for a named reason."""
        if self.watchdog is None:
            return contextlib.nullcontext()
        found: contextlib.AbstractContextManager[None] = self.watchdog.allowed(reason)
        return found

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> None:
        """Let time pass until `condition` holds; AssertionError tells what was waited for."""
        assert self._spin(condition, seconds), f"waited {seconds} s for {what}: {self.says()}"

    def says(self) -> str:
        """The panel's message and its details."""
        return f"{self.session.message} {self.session.details}".strip()

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until everything is saved and no job runs or waits."""

        def quiet() -> bool:
            tasks = self.session.tasks
            busy = tasks is not None and (tasks.service is not None or tasks.work is not None)
            return not busy and not self.session.saving and not self.session.busy()

        self.wait(quiet, seconds, "the panel to be idle")

    def click(self, button: Any) -> None:
        """Press a button, which must be enabled as for a user."""
        assert button.enabled, f"{button.text} is disabled: {button.toolTip}"
        button.click()

    def make_study(self, folder: Path, name: str) -> None:
        """New ..., name, folder, Create."""
        self.click(self.study.newButton)
        self.study.nameEdit.text = name
        self.study.parentEdit.currentPath = str(folder)
        self.click(self.study.createButton)
        self.wait(lambda: self.session.study is not None, what="the study")

    def add_files(self, paths: Iterable[Path]) -> None:
        """Add files ..., and choose `paths` in the dialog."""
        chosen = [str(path) for path in paths]
        before = len(self.session.rows())
        with mock.patch("qt.QFileDialog.getOpenFileNames", return_value=chosen):
            self.click(self.cases.addFilesButton)
        with self.allowed("loading a volume"):  # the first one is shown by itself
            self.wait(lambda: len(self.session.rows()) == before + len(chosen), what="the scans")
            self.wait(lambda: self.session.current is not None, what="the first scan")

    def add_structures(self, names: Iterable[str]) -> None:
        """Type each name and press Add."""
        for name in names:
            self.structures.nameEdit.text = name
            self.click(self.structures.addButton)

    def show(self, case_id: str) -> None:
        """Choose the case in the table and press Show."""
        self.cases.table.select([case_id])
        if self.session.current != case_id:
            with self.allowed("loading a volume"):
                self.click(self.cases.showButton)
        self.wait(lambda: self.session.current == case_id, what=case_id)

    def nodes(self) -> Any:
        """The nodes of the case that is shown."""
        return self.session.nodes(self.session.current)

    def go_to(self, index: int) -> None:
        """Jump to an axial slice by a click on the strip."""
        self.session.jump_to(index)
        self.wait(lambda: self.session.slice_index() == index, 5, f"slice {index}")

    def draw(self, index: int, truth: NDArray[np.integer], segments: Mapping[int, str]) -> None:
        """Paint the structures of `truth` (z, y, x) in the shown axial slice, as with a brush."""
        nodes = self.nodes()
        for value, segment_id in segments.items():
            with self.allowed(OWN_WORK):
                voxels = np.zeros(truth.shape, bool)
                voxels[index] = truth[index] == value
                if voxels.any():
                    editor = self.annotate.editor.widget
                    stroke(nodes.drawn, segment_id, nodes.volume, voxels, editor=editor)

    def annotate_slices(self, truth: NDArray[np.integer], indices: Iterable[int]) -> None:
        """Draw and press Slice done on each of `indices`."""
        segments = {structure.id: f"SemiSeg_{structure.id}" for structure in self.protocol()}
        for index in indices:
            self.go_to(index)
            self.draw(index, truth, segments)
            self.press_done()

    def press_done(self) -> None:
        """Slice done, as soon as the panel has seen the strokes."""
        done = self.annotate.buttons["done"]
        self.wait(lambda: done.enabled, 5, f"Slice done ({done.toolTip})")
        self.click(done)

    def protocol(self) -> Any:
        """The structures of the study."""
        return self.session.protocol().structures

    def run(self, button: Any, seconds: float) -> None:
        """Press a button of long work and wait for its end."""
        self.click(button)
        assert self.session.busy(), self.says()
        self.wait(lambda: not self.session.busy(), seconds, button.text)
        assert not self.session.message_is_error, self.says()

    def drawn(self) -> NDArray[np.uint16]:
        """The drawn map (z, y, x) of the shown case."""
        with self.allowed(OWN_WORK):
            return self._map(self.nodes().drawn)

    def suggested(self) -> NDArray[np.uint16]:
        """The suggestion (z, y, x) of the shown case; zeros when there is none."""
        node = self.nodes().suggestion
        shape = slicer.util.arrayFromVolume(self.nodes().volume).shape
        with self.allowed(OWN_WORK):
            return np.zeros(shape, np.uint16) if node is None else self._map(node)

    def _map(self, node: Any) -> NDArray[np.uint16]:
        volume = self.nodes().volume
        found = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint16)
        segmentation = node.GetSegmentation()
        for structure in self.protocol():
            segment_id = f"SemiSeg_{structure.id}"
            if segmentation.GetSegment(segment_id) is not None:
                found[voxels_of(node, segment_id, volume)] = structure.id
        return found
