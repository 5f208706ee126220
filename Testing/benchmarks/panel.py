"""The panel through the whole loop on the sample CT and MR: how long it ever blocks, and pictures.

A simulated clinician presses the buttons in the stand-in of the application (`Testing/host`:
real Qt widgets, real MRML scene, real child processes) from an empty scene to exported files, while
a watchdog measures each gap of the GUI thread's event loop. Named exceptions are loading a volume
and the test's own work (painting the slices in one go, taking pictures). With `--pictures` each
state is written as PNG: light and dark at 1280 x 800, the result also at 3840 x 2160.

    QT_QPA_PLATFORM=offscreen python Testing/benchmarks/panel.py --out panel.json --pictures shots
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from records import circumstances

ROOT = Path(__file__).resolve().parents[2]
N_SLICES = {"CT": 5, "MR": 4}


class Tour:
    """The way through the panel; `shoot` takes a picture of a state where pictures are wanted."""

    def __init__(self, pictures: Path | None, minutes: float) -> None:
        import slicer

        from clinician import Clinician
        from host.module_manager import load_module
        from host.watchdog import Watchdog
        from host.window import MainWindow

        self.pictures, self.minutes = pictures, minutes
        self.watchdog = Watchdog()
        self.window = MainWindow(1280, 800)
        self.window.show()
        load_module(ROOT / "SemiSegModule" / "SemiSegModule.py")
        started = time.monotonic()
        slicer.util.selectModule("SemiSegModule")
        self.opening_s = time.monotonic() - started
        widget = slicer.util.getModuleWidget("SemiSegModule")
        self.hand = Clinician(widget.panel, self.spin, self.watchdog)

    def spin(self, condition: Any, seconds: float = 10.0) -> bool:
        import slicer

        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            slicer.app.processEvents()
            time.sleep(0.001)
        return True

    def shoot(self, name: str) -> None:
        """The window as it is, light and dark."""
        from host.window import set_palette

        if self.pictures is None:
            return
        with self.watchdog.allowed("taking a picture"):
            for dark in (False, True):
                set_palette(dark=dark)
                self.turn()
                self.window.grab(self.pictures / f"{name}-{'dark' if dark else 'light'}.png")
            set_palette(dark=False)
            self.turn()

    def turn(self) -> None:
        """Some turns of the event loop that no watchdog's beat can break up."""
        import slicer

        for _ in range(20):
            slicer.app.processEvents()

    def annotate(self, case: Any, case_id: str) -> None:
        from clinician import OWN_WORK
        from semiseg.images.labels import read_label

        with self.hand.allowed(OWN_WORK):
            truth = read_label(case.label).array
        self.hand.show(case_id)
        held = np.flatnonzero(truth.any(axis=(1, 2)))
        places = np.linspace(held[0], held[-1], N_SLICES[case.modality]).round()
        segments = {s.id: f"SemiSeg_{s.id}" for s in self.hand.protocol()}
        for index in map(int, places):
            self.hand.go_to(index)
            self.hand.draw(index, truth, segments)
            self.hand.press_done()
            self.spin(lambda: False, 1.2)
        self.hand.go_to(int(places[len(places) // 2]))

    def go(self, folder: Path) -> None:
        """From an empty scene to exported files."""
        from semiseg.sample import STRUCTURES, sample_cases

        hand, (ct, mr) = self.hand, sample_cases()
        self.spin(lambda: False, 0.5)
        self.shoot("1-empty")
        hand.make_study(folder, "First ten minutes")
        hand.add_files([ct.image, mr.image])
        hand.settle()
        hand.add_structures(name.replace("_", " ") for name in STRUCTURES.values())
        hand.settle()
        rows = {row.modality: row.id for row in hand.session.rows()}
        self.annotate(mr, rows["MR"])
        self.annotate(ct, rows["CT"])
        self.scroll_to("annotate")
        self.shoot("2-annotating")
        hand.run(hand.work.propagateButton, 300)
        hand.settle(60)
        self.scroll_to("work")
        self.shoot("3-propagated")
        hand.work.minutesBox.value = self.minutes
        hand.click(hand.work.learnButton)
        self.spin(lambda: not hand.session.busy(), 0.6 * 60 * self.minutes + 10)
        self.shoot("4-learning")
        hand.wait(lambda: not hand.session.busy(), 60 * self.minutes + 120, "learning")
        hand.run(hand.work.segmentButton, 240)
        hand.settle(60)
        if not hand.annotate.uncertaintyCheckBox.checked:
            hand.annotate.uncertaintyCheckBox.click()
        hand.settle(60)
        self.scroll_to("work")
        self.shoot("5-result")
        hand.export.folderEdit.currentPath = str(folder / "out")
        hand.run(hand.export.exportButton, 120)
        self.scroll_to("export")
        self.shoot("6-exported")
        self.refuse(folder)

    def refuse(self, folder: Path) -> None:
        """An error: a file that is no image."""
        from unittest import mock

        bad = folder / "notes.nrrd"
        bad.write_text("this is not an image", encoding="utf-8")
        hand = self.hand
        with mock.patch("qt.QFileDialog.getOpenFileNames", return_value=[str(bad)]):
            hand.click(hand.cases.addFilesButton)
        hand.wait(lambda: hand.session.message_is_error, 30, "the refusal")
        hand.settle()
        self.window._scroll.verticalScrollBar().value = 0
        self.shoot("7-error")

    def scroll_to(self, section: str) -> None:
        area = self.hand.panel.areas[section]
        self.window._scroll.ensureWidgetVisible(area, 0, 0)
        bar = self.window._scroll.verticalScrollBar()
        bar.value = area.y
        self.spin(lambda: False, 0.3)

    def large(self) -> None:
        """The result on a 4K screen."""
        import slicer

        from host.window import MainWindow

        if self.pictures is None:
            return
        self.window.release()
        self.window = MainWindow(3840, 2160, 2.0)
        self.window.show()
        slicer.util.selectModule("SemiSegModule")
        self.spin(lambda: False, 0.5)
        self.window.grab(self.pictures / "8-result-4k.png")


def main() -> int:
    given = parse()
    sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SemiSegModule"), str(ROOT / "Logic")]
    from host import install

    install()
    pictures = None if given.pictures is None else Path(given.pictures)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    tour = Tour(pictures, given.minutes)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="semiseg-panel-") as folder, tour.watchdog:
        tour.go(Path(folder))
        seconds = time.monotonic() - started
        tour.large()
        tour.window.release()
    found = figures(tour, seconds)
    if given.out:
        Path(given.out).write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(found))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="JSON file for the figures")
    parser.add_argument("--pictures", help="folder for pictures of each state")
    parser.add_argument("--minutes", type=float, default=0.5, help="of learning")
    return parser.parse_args()


def figures(tour: Tour, seconds: float) -> dict[str, Any]:
    gaps = tour.watchdog.gaps
    return {
        "seconds": round(seconds, 1),
        "opening_s": round(tour.opening_s, 3),
        "gaps": [told(gap) for gap in sorted(gaps, key=lambda gap: -gap.seconds)],
        **circumstances(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def told(gap: Any) -> dict[str, Any]:
    """A gap with its reason; views that the stand-in paints in Python are the stand-in's doing."""
    values = asdict(gap)
    if not gap.reason and any("host/" in line for line in gap.stack):
        values["reason"] = "the stand-in paints its views"
    return values


def table(found: dict[str, Any]) -> str:
    """The longest gaps of each kind, and how many there were."""
    lines = [
        f"whole loop {found['seconds']} s, opening the panel {found['opening_s']} s",
        "| reason | gaps >= 50 ms | median ms | longest ms | of it computing |",
        "|---|---|---|---|---|",
    ]
    for reason in sorted({gap["reason"] for gap in found["gaps"]}):
        ours = [gap for gap in found["gaps"] if gap["reason"] == reason]
        longest = ours[0]
        cells = (
            reason or "**no exception**",
            len(ours),
            round(1000 * statistics.median(gap["seconds"] for gap in ours)),
            round(1000 * longest["seconds"]),
            round(1000 * longest["cpu_seconds"]),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for gap in [gap for gap in found["gaps"] if not gap["reason"]][:8]:
        lines.append(f"{gap['seconds'] * 1000:.0f} ms: " + " < ".join(reversed(gap["stack"][-4:])))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
