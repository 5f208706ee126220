"""What could identify somebody is told before it leaves the study, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semiseg.disclosure import warn_of_dicom, warn_of_identity
from semiseg.events import Event
from semiseg.export import export_study
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.study import Study

GRID = Grid(size_xyz=(6, 5, 4), spacing_mm_xyz=(1.0, 2.0, 3.0))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two cases: one of a patient with a name in it, drawn by Dr Who, one without."""
    made = Study.create(
        tmp_path / "study",
        name="test",
        protocol=Protocol((Structure(id=1, name="liver", color=(1, 2, 3)),)),
    )
    rng = np.random.default_rng(0)
    for case_id, patient in (("ct_doe_jane", "Doe^Jane"), ("ct2", None)):
        path = tmp_path / f"{case_id}.nii.gz"
        write_image(path, rng.normal(0, 50, GRID.shape_zyx).astype(np.float32), GRID)
        made.add_case(path, case_id=case_id, patient=patient, modality="CT")
        label = np.zeros(GRID.shape_zyx, np.uint16)
        label[1:3, 1:3, 1:3] = 1
        made.annotate(case_id, label, author="Dr Who")
    return made


def warned(study: Study, folder: Path, **texts: str) -> tuple[str, ...]:
    events: list[Event] = []
    found = warn_of_identity(study, folder, texts, events.append)
    assert len(events) == bool(found)
    if found:
        assert events[0].data["findings"] == list(found)
        assert all(finding in events[0].message for finding in found)
    return found


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("scan of Jane Doe", "the patient's name 'Doe^Jane'"),
        ("DOE_JANE_ct", "the patient's name 'Doe^Jane'"),
        ("drawn by dr. who", "the drawer's name 'Dr Who'"),
        ("from /srv/who/scans/a.nii", "the path '/srv/who/scans/a.nii'"),
        (r"from C:\Users\x\a.nii", r"the path 'C:\\Users\\x\\a.nii'"),
        ("ask who@clinic.org", "the address 'who@clinic.org'"),
    ],
)
def test_names_paths_and_addresses_are_found(
    study: Study, tmp_path: Path, text: str, finding: str
) -> None:
    assert warned(study, tmp_path / "out", note=text) == (f"note holds {finding}",)


@pytest.mark.parametrize(
    "text", ["", "liver, CT/MR, 3/4 of cases", "Jane", "see https://example.org/a/b", "doesn't"]
)
def test_plain_words_are_left_alone(study: Study, tmp_path: Path, text: str) -> None:
    assert warned(study, tmp_path / "out", note=text) == ()


def test_nothing_is_said_of_what_stays_in_the_study(study: Study) -> None:
    assert warned(study, study.folder / "export", note="Jane Doe") == ()
    events: list[Event] = []
    warn_of_dicom(study, study.folder / "export", ["ct2"], events.append)
    assert events == []


def test_where_a_link_leads_decides_whether_something_leaves_the_study(
    study: Study, tmp_path: Path
) -> None:
    (tmp_path / "share").mkdir()
    out, back = study.folder / "out", tmp_path / "back"
    try:
        out.symlink_to(tmp_path / "share")
        back.symlink_to(study.folder)
    except OSError:
        pytest.skip("links cannot be made here")
    assert warned(study, out / "case", note="Jane Doe") != ()
    assert warned(study, back / "export", note="Jane Doe") == ()


def test_export_warns_of_a_case_id_with_the_patients_name_before_it_writes(
    study: Study, tmp_path: Path
) -> None:
    there: list[list[Path]] = []
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        there.append(list((tmp_path / "out").glob("*")))

    export_study(study, tmp_path / "out", "label", "csv", emit=hear)
    assert events[0].data["warning"] == "identifiable"
    assert "the case id 'ct_doe_jane' holds the patient's name" in events[0].message
    assert there[0] == []
    events.clear()
    export_study(study, tmp_path / "other", "label", "csv", ["ct2"], hear)
    assert not [event for event in events if "warning" in event.data]


def test_damaged_label_version_does_not_stop_an_export(study: Study, tmp_path: Path) -> None:
    version = study.folder / "cases" / "ct2" / "labels" / "0001" / "version.json"
    version.write_text("{")
    assert warned(study, tmp_path / "out", note="Dr Who") == (
        "note holds the drawer's name 'Dr Who'",
    )


def test_dicom_files_with_identity_are_announced(study: Study, tmp_path: Path) -> None:
    events: list[Event] = []
    warn_of_dicom(study, tmp_path / "out", [f"c{i}" for i in range(9)], events.append)
    assert "c0, c1, c2, c3, c4, ... carry the patient's name" in events[0].message
    assert events[0].data["warning"] == "identifiable"


def test_warning_stays_on_the_screen_and_in_the_last_event(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from semiseg.cli.app import run

    command = ["export", str(study.folder), str(tmp_path / "a"), "--format", "csv"]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("holds the patient's name 'Doe^Jane'") == 1
    events: list[Event] = []
    assert run([*command[:2], str(tmp_path / "b"), *command[3:]], events=events.append) == 0
    assert "holds the patient's name 'Doe^Jane'" in events[-1].message
