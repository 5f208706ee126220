"""The module's self-test in Slicer: each check takes the test case and the panel.

Slicer installs nothing under --testing. Where the engine's packages are missing, what needs a
child process is left out, and the log says so.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import TestCase

import numpy as np

from semiseg.study.protocol import Protocol, common_structure
from SemiSegModuleLib.mrml.segments import read_layers, write_region
from SemiSegModuleLib.sections_list import SECTIONS

_SLICE = 10
_STROKE = np.full((1, 6, 7), 1, np.uint16)  # z y x: within one axial slice
_OFFSET = (_SLICE, 20, 30)
_PATIENCE_S = 120.0


def panel_opens(test: TestCase, panel: Any) -> None:
    """The panel is there with all its sections, and waits for a study."""
    test.assertEqual(list(panel.sections), [section.name for section in SECTIONS])
    test.assertIsNone(panel.session.study)
    test.assertTrue(panel.sections["engine"].stateLabel.text)


def study_is_made_without_torch(test: TestCase, panel: Any) -> None:
    """A study is made, or its refusal says what to install; torch is not loaded into Slicer."""
    before = "torch" in sys.modules
    with tempfile.TemporaryDirectory() as folder:
        panel.session.create_study(Path(folder) / "study", "self-test")
        if panel.session.study is None:
            test.assertFalse(panel.sections["engine"].ready, panel.session.message)
            test.assertIn("Engine", panel.session.message)
            return
        test.assertTrue((Path(folder) / "study" / "study.json").is_file())
        panel.session.close_study()
    test.assertIsNone(panel.session.study)
    test.assertEqual("torch" in sys.modules, before)


def drawn_voxels_survive_reopening(test: TestCase, panel: Any) -> None:
    """The sample CT and MR are added, a slice is drawn and done; all is there on reopening."""
    if not panel.sections["engine"].ready:
        logging.info("SemiSeg self-test: the engine's packages are missing; the rest is left out")
        return
    session = panel.session
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "study"
        session.create_study(folder, "self-test")
        try:
            case_id = _add_samples(test, session)
            _draw(test, session, case_id)
            session.close_study()
            session.open_study(folder)
            _require_drawn(test, session, case_id)
        finally:
            session.close_study()


def _add_samples(test: TestCase, session: Any) -> str:
    """Add both scans and a structure; the id of the CT."""
    from semiseg.sample import sample_cases  # noqa: PLC0415

    session.add_files([case.image for case in sample_cases()])
    _wait(test, session, lambda: len(session.rows()) == 2, "both sample scans are added")
    found = {row.modality: row.id for row in session.rows()}
    test.assertEqual(set(found), {"CT", "MR"})
    session.set_protocol(Protocol((common_structure("liver", 1),)))
    _wait(test, session, lambda: session.study.protocol.ids == (1,), "the structure is stored")
    return found["CT"]


def _draw(test: TestCase, session: Any, case_id: str) -> None:
    """Put a stroke into the case, mark its slice, and wait until the study has both."""
    session.select(case_id)
    node, grid = session.nodes(case_id).drawn, session.study.case(case_id).grid
    test.assertIsNotNone(node, session.message)
    write_region(node, grid, _STROKE, _OFFSET)
    session.stroke()
    session.mark_done(_SLICE)
    session.apply_drafts()

    def applied() -> bool:
        row = session.row(case_id)
        return row.done["axial"][0] == 1 and not row.has_draft

    _wait(test, session, applied, "the drawing is applied")


def _require_drawn(test: TestCase, session: Any, case_id: str) -> None:
    test.assertEqual(session.row(case_id).done["axial"][0], 1)
    session.select(case_id)
    grid = session.study.case(case_id).grid
    layers = read_layers(session.nodes(case_id).drawn, grid, session.protocol())
    expected = np.zeros(grid.shape_zyx, np.uint16)
    z, y, x = (slice(o, o + n) for o, n in zip(_OFFSET, _STROKE.shape, strict=True))
    expected[z, y, x] = _STROKE
    test.assertTrue(np.array_equal(layers.flat(grid), expected))


def _wait(test: TestCase, session: Any, ready: Callable[[], bool], what: str) -> None:
    """Tick until `ready`; the test fails with the session's message when it never is."""
    deadline = time.monotonic() + _PATIENCE_S
    while not ready():
        test.assertFalse(session.message_is_error, session.message)
        test.assertLess(time.monotonic(), deadline, f"waited in vain: {what}; {session.message}")
        session.tick()
        time.sleep(0.02)


CHECKS: tuple[Callable[[TestCase, Any], None], ...] = (
    panel_opens,
    study_is_made_without_torch,
    drawn_voxels_survive_reopening,
)
