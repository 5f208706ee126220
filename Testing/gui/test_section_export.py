"""The Export section: choices, what is missing, the result, and real files of a real study."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from semiseg.config import ExportFormat, ExportWhat, Identity, MeshSpace


class FakeSession:
    """What the section uses of a session; remembers what it was told to do."""

    def __init__(self, folder: Path) -> None:
        self.study: Any = SimpleNamespace(folder=folder)
        self.current: str | None = "c0"
        self.chosen: tuple[str, ...] = ()
        self.parameters = SimpleNamespace(
            formats="seg.nrrd", export_folder="", export_what="combined"
        )
        self.task: Any = None
        self.message, self.message_is_error = "", False
        self.reason = ""
        self.told: list[tuple[Any, ...]] = []

    def why_not(self, kind: str, *, all_cases: bool = True) -> str:
        if self.study is None:
            return "Make or open a study first"
        if not all_cases and self.current is None:
            return "Choose a case in the table first"
        return self.reason

    def export(self, *values: Any, overwrite: bool, identity: str, space: str) -> None:
        self.told.append(("export", *values, overwrite, identity))
        self.space = space
        self.task = SimpleNamespace(kind="export", step=0, total=0, cancelling=False)

    def report(self) -> None:
        self.told.append(("report",))
        self.task = SimpleNamespace(kind="report", step=0, total=0, cancelling=False)

    def end(self, message: str, *, error: bool = False) -> None:
        self.task, self.message, self.message_is_error = None, message, error


@pytest.fixture
def fake(tmp_path: Path) -> FakeSession:
    return FakeSession(tmp_path / "study")


@pytest.fixture
def section(scene: Any) -> Iterator[Callable[[Any], Any]]:
    """Makes the section on a session."""
    from SemiSegModuleLib.sections.export import ExportSection

    made = []

    def make(session: Any) -> Any:
        made.append(ExportSection(session, str))
        made[-1].widget.resize(400, 400)
        made[-1].widget.show()
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.widget.hide()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, application: Any) -> list[str]:
    """What the section asked the desktop to open."""
    from SemiSegModuleLib.sections import export

    found: list[str] = []
    url = export.qt.QUrl
    stand_in = SimpleNamespace(openUrl=lambda address: found.append(address.toLocalFile()))

    class Qt:
        QDesktopServices, QUrl = stand_in, url

        def __getattr__(self, name: str) -> Any:
            return getattr(real_qt, name)

    real_qt = export.qt
    monkeypatch.setattr(export, "qt", Qt())
    return found


def test_every_format_of_the_engine_has_a_box_in_words(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    assert set(shown.formatBoxes) == set(get_args(ExportFormat)) - {"both", "csv"}
    assert all(box.text and box.text != name for name, box in shown.formatBoxes.items())
    assert all(box.toolTip for box in shown.formatBoxes.values())


def test_other_choices_are_those_of_the_engine(application: Any) -> None:
    import semiseg.export
    from SemiSegModuleLib.sections.export_formats import identities, kinds, spaces

    assert tuple(choice.name for choice in kinds()) == get_args(ExportWhat)
    assert tuple(choice.name for choice in identities()) == get_args(Identity)
    assert tuple(choice.name for choice in spaces()) == get_args(MeshSpace)
    assert get_args(semiseg.export.Format) == get_args(ExportFormat)
    assert get_args(semiseg.export.What) == get_args(ExportWhat)


def test_opening_the_section_loads_no_writer(application: Any) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; from host import install; install();"
        "import SemiSegModuleLib.sections.export;"
        "print([n for n in ('torch', 'pydicom', 'highdicom') if n in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    folders = [str(root / "Testing"), str(root / "SemiSegModule")]
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_a_box_the_table_alone_is_written(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    shown.formatBoxes["seg.nrrd"].checked = False
    shown.exportButton.click()
    assert fake.told[0][2] == ["csv"]


def test_dicom_asks_what_becomes_of_the_patients_name(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    assert shown.identityCombo.visible is False
    shown.formatBoxes["dicom-seg"].checked = True
    assert shown.identityCombo.visible is True
    assert not shown.exportButton.enabled
    assert "name and id" in shown.resultLabel.text
    shown.identityCombo.setCurrentIndex(2)
    shown.exportButton.click()
    assert fake.told[0][-1] == "remove"
    fake.end("wrote 2 files")
    shown.refresh({"task"})
    shown.formatBoxes["dicom-seg"].checked = False
    shown.exportButton.click()
    assert fake.told[1][-1] == "ask"


def test_mesh_axes_are_asked_for_where_meshes_are_written(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    assert shown.spaceCombo.visible is False
    shown.formatBoxes["stl"].checked = True
    assert shown.spaceCombo.visible is True
    shown.exportButton.click()
    assert fake.space == "LPS"
    fake.end("wrote 2 files")
    shown.refresh({"task"})
    shown.spaceCombo.setCurrentIndex(1)
    shown.exportButton.click()
    assert fake.space == "RAS"


def test_choices_are_handed_over(fake: FakeSession, section: Any, tmp_path: Path) -> None:
    shown = section(fake)
    shown.formatBoxes["nii.gz"].checked = True
    shown.whatCombo.setCurrentIndex(2)
    shown.folderEdit.currentPath = str(tmp_path / "out")
    shown.overwriteCheckBox.checked = True
    shown.exportButton.click()
    assert fake.told == [
        ("export", tmp_path / "out", ["seg.nrrd", "nii.gz"], [], "label", True, "ask")
    ]


@pytest.mark.parametrize(
    ("scope", "case_ids"), [(0, []), (1, ["c0"]), (2, ["c1", "c2"])], ids=["all", "this", "chosen"]
)
def test_scans_are_all_the_shown_or_the_selected(
    fake: FakeSession, section: Any, scope: int, case_ids: list[str]
) -> None:
    fake.chosen = ("c1", "c2")
    shown = section(fake)
    shown.casesCombo.setCurrentIndex(scope)
    shown.exportButton.click()
    assert fake.told[0][3] == case_ids


def test_choices_come_from_and_go_to_the_parameter_node(
    fake: FakeSession, section: Any, tmp_path: Path
) -> None:
    fake.parameters.formats, fake.parameters.export_what = "nii.gz,structures", "prediction"
    fake.parameters.export_folder = str(tmp_path)
    shown = section(fake)
    assert shown.ticked() == ["nii.gz", "structures"]
    assert shown.whatCombo.currentIndex == 1
    assert shown.folderEdit.currentPath == str(tmp_path)
    shown.formatBoxes["structures"].checked = False
    shown.folderEdit.currentPath = str(tmp_path / "other")
    assert fake.parameters.formats == "nii.gz"
    assert fake.parameters.export_folder == str(tmp_path / "other")


def test_files_go_beside_the_study_unless_told_otherwise(fake: FakeSession, section: Any) -> None:
    assert section(fake).folderEdit.currentPath == str(fake.study.folder / "export")


def test_a_study_opened_later_fills_the_choices(fake: FakeSession, section: Any) -> None:
    study, fake.study = fake.study, None
    shown = section(fake)
    assert not shown.exportButton.enabled
    assert not shown.reportButton.enabled
    fake.study = study
    shown.refresh({"study"})
    assert shown.folderEdit.currentPath.endswith("export")
    assert shown.exportButton.enabled


@pytest.mark.parametrize("missing", ["study", "case", "chosen", "folder", "busy"])
def test_what_is_missing_is_said_beside_the_button_that_is_off(
    fake: FakeSession, section: Any, missing: str
) -> None:
    shown = section(fake)
    if missing == "study":
        fake.study = None
    elif missing == "case":
        fake.current = None
        shown.casesCombo.setCurrentIndex(1)
    elif missing == "chosen":
        shown.casesCombo.setCurrentIndex(2)
    elif missing == "folder":
        shown.folderEdit.currentPath = " "
    else:
        fake.reason = "Other work is running"
    shown.refresh({"cases"})
    assert not shown.exportButton.enabled
    reason = shown.exportButton.toolTip.splitlines()[-1]
    words = {
        "study": "study first",
        "case": "Choose a case",
        "chosen": "Select scans in the table",
        "folder": "Choose a folder",
        "busy": "Other work is running",
    }
    assert words[missing] in reason
    assert (reason in shown.resultLabel.text) == (missing != "study")
    assert fake.told == []


def test_result_is_said_and_its_folder_opened(
    fake: FakeSession, section: Any, opened: list[str], tmp_path: Path
) -> None:
    shown = section(fake)
    shown.folderEdit.currentPath = str(tmp_path)
    shown.exportButton.click()
    fake.task.step, fake.task.total = 1, 3
    shown.refresh({"task"})
    assert "1 of 3" in shown.resultLabel.text
    assert shown.openButton.visible is False
    fake.end("wrote 4 files")
    shown.refresh({"task", "message"})
    assert shown.resultLabel.text == "wrote 4 files"
    assert shown.openButton.visible is True
    shown.openButton.click()
    assert opened == [str(tmp_path)]


def test_a_stroke_does_not_wipe_the_result_away(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    shown.exportButton.click()
    shown.refresh({"task"})
    fake.end("wrote 4 files")
    shown.refresh({"task"})
    shown.refresh({"study", "cases"})
    assert shown.resultLabel.text == "wrote 4 files"


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_an_export_that_did_not_end_offers_no_folder(
    fake: FakeSession, section: Any, how: str
) -> None:
    shown = section(fake)
    shown.exportButton.click()
    shown.refresh({"task"})
    fake.task.cancelling = how == "cancelled"
    fake.end("Stopped." if how == "cancelled" else "disk full", error=how == "failed")
    shown.refresh({"task"})
    assert "Not finished" in shown.resultLabel.text
    assert shown.openButton.visible is False


def test_report_is_asked_for(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    shown.reportButton.click()
    assert fake.told == [("report",)]
    shown.refresh({"task"})
    fake.end("wrote report.html")
    shown.refresh({"task"})
    assert shown.resultLabel.text == "wrote report.html"
    assert shown.openButton.visible is False


def test_work_of_others_is_none_of_its_business(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    fake.task = SimpleNamespace(kind="learn", step=1, total=2, cancelling=False)
    shown.refresh({"task"})
    fake.end("Model 3 is ready.")
    shown.refresh({"task"})
    assert shown.resultLabel.text == ""


def test_folders_are_remembered(fake: FakeSession, section: Any, tmp_path: Path) -> None:
    shown = section(fake)
    shown.folderEdit.currentPath = str(tmp_path / "first")
    shown.exportButton.click()
    items = shown.folderEdit.comboBox()
    assert str(tmp_path / "first") in [items.itemText(i) for i in range(items.count)]


def test_long_choices_do_not_widen_the_panel(fake: FakeSession, section: Any) -> None:
    shown = section(fake)
    assert shown.widget.minimumSizeHint().width() <= 420


# The real session --------------------------------------------------------------------------------


@pytest.fixture
def real(phantom_study: Any, live_session: Any, jobs: Any, section: Any) -> SimpleNamespace:
    """A study of an annotated CT and MR, open; exports run in this process."""
    jobs.hold = lambda arguments: False
    session = live_session(jobs)
    shown = section(session)
    session.listen(shown.refresh)
    study = phantom_study()
    session.open_study(study.folder)
    return SimpleNamespace(session=session, section=shown, study=study, jobs=jobs)


def test_files_are_written_and_counted(real: SimpleNamespace, until: Any, tmp_path: Path) -> None:
    shown = real.section
    shown.folderEdit.currentPath = str(tmp_path / "out")
    shown.whatCombo.setCurrentIndex(2)
    shown.exportButton.click()
    assert until(real.session, lambda: not real.session.busy())
    real.session.tick()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["c0_label.seg.nrrd", "c1_label.seg.nrrd", "measurements.csv"]
    assert "3 files" in shown.resultLabel.text
    assert shown.openButton.visible is True


def test_files_in_the_way_are_kept_unless_they_may_be_replaced(
    real: SimpleNamespace, until: Any, tmp_path: Path
) -> None:
    shown = real.section
    shown.folderEdit.currentPath = str(tmp_path / "out")
    for overwrite, fails in ((False, False), (False, True), (True, False)):
        shown.overwriteCheckBox.checked = overwrite
        shown.exportButton.click()
        assert until(real.session, lambda: not real.session.busy())
        real.session.tick()
        assert real.session.message_is_error == fails
        assert ("Not finished" in shown.resultLabel.text) == fails


def test_several_formats_are_written_at_once(
    real: SimpleNamespace, until: Any, tmp_path: Path
) -> None:
    shown = real.section
    shown.folderEdit.currentPath = str(tmp_path / "out")
    shown.formatBoxes["nii.gz"].checked = True
    shown.exportButton.click()
    assert until(real.session, lambda: not real.session.busy())
    suffixes = {"".join(path.suffixes) for path in (tmp_path / "out").iterdir()}
    assert suffixes == {".seg.nrrd", ".nii.gz", ".csv"}


def test_the_report_is_made_and_opened(real: SimpleNamespace, until: Any) -> None:
    pages: list[Path] = []
    real.session.open_page = pages.append
    real.section.reportButton.click()
    assert until(real.session, lambda: not real.session.busy())
    assert len(pages) == 1
    assert pages[0].read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
