"""The whole loop on the sample CT and MR, from an empty scene to exported files, click by click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clinician import Clinician
from semiseg.images.labels import read_label
from semiseg.metrics import dice
from semiseg.sample import STRUCTURES, sample_cases

N_SLICES = {"CT": 5, "MR": 4}


@pytest.fixture
def clinician(panel: Callable[..., Any], spin: Callable[..., bool]) -> Clinician:
    made = panel()
    made.enter()
    return Clinician(made, spin)


def spread(truth: NDArray[np.uint16], count: int) -> list[int]:
    """`count` axial slices, evenly over those that hold a structure, the first and last too."""
    held = np.flatnonzero(truth.any(axis=(1, 2)))
    return [int(i) for i in np.linspace(held[0], held[-1], count).round()]


@pytest.mark.timeout(900)
def test_from_an_empty_scene_to_exported_files(clinician: Clinician, tmp_path: Path) -> None:
    ct, mr = sample_cases()
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
