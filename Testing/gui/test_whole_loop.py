"""The whole loop on the sample CT and MR, from an empty scene to exported files, click by click."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clinician import OWN_WORK, Clinician
from host.watchdog import Watchdog
from semiseg.images.labels import read_label
from semiseg.metrics import dice
from semiseg.sample import STRUCTURES, sample_cases

N_SLICES = {"CT": 5, "MR": 4}


@pytest.fixture
def clinician(panel: Callable[..., Any], spin: Callable[..., bool]) -> Iterator[Clinician]:
    """Hands on the panel, with a watchdog on the GUI thread's event loop."""
    made = panel()
    made.enter()
    with Watchdog() as watchdog:
        yield Clinician(made, spin, watchdog)


def blocking(watchdog: Watchdog) -> list[str]:
    """Gaps in which the GUI thread computed for long; the stand-in's painting aside.

    The aim is 100 ms of wall time on a machine of one's own (Testing/benchmarks/panel.py measures
    it). Tests share theirs, where even processor time doubles, so three times that is told here.
    """
    return [
        str(gap)
        for gap in watchdog.gaps
        if not gap.reason and gap.cpu_seconds > 0.3 and not any("host/" in s for s in gap.stack)
    ]


def spread(truth: NDArray[np.uint16], count: int) -> list[int]:
    """`count` axial slices, evenly over those that hold a structure, the first and last too."""
    held = np.flatnonzero(truth.any(axis=(1, 2)))
    return [int(i) for i in np.linspace(held[0], held[-1], count).round()]


@pytest.mark.timeout(900)
def test_from_an_empty_scene_to_exported_files(clinician: Clinician, tmp_path: Path) -> None:
    ct, mr = sample_cases()
    with clinician.allowed(OWN_WORK):
        truths = {case.name: read_label(case.label).array for case in (ct, mr)}
    clinician.make_study(tmp_path, "first ten minutes")
    clinician.add_files([ct.image, mr.image])
    clinician.add_structures(name.replace("_", " ") for name in STRUCTURES.values())
    clinician.settle()
    rows = {row.modality: row.id for row in clinician.session.rows()}
    for case in (ct, mr):
        clinician.show(rows[case.modality])
        slices = spread(truths[case.name], N_SLICES[case.modality])
        clinician.annotate_slices(truths[case.name], slices)
        drawn = clinician.drawn()
        assert np.array_equal(drawn[slices], truths[case.name][slices])
    clinician.settle()

    clinician.run(clinician.work.propagateButton, 300)
    clinician.settle(60)
    for case in (ct, mr):
        clinician.show(rows[case.modality])
        clinician.settle()
        shown = np.maximum(clinician.drawn(), clinician.suggested())
        with clinician.allowed(OWN_WORK):
            assert dice(shown == 1, truths[case.name] == 1) > 0.85

    clinician.work.minutesBox.value = 0.3
    clinician.run(clinician.work.learnButton, 120)
    assert clinician.session.model_ids() == (1,)
    clinician.run(clinician.work.segmentButton, 240)
    clinician.settle(60)
    assert {row.state for row in clinician.session.rows()} == {"segmented"}

    clinician.export.folderEdit.currentPath = str(tmp_path / "out")
    clinician.run(clinician.export.exportButton, 120)
    files = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert any(name.endswith(".seg.nrrd") for name in files), files
    clinician.settle()
    assert blocking(clinician.watchdog) == []
