"""The report as a whole: made of any study, self-contained, escaped, never overwriting."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.errors import StorageError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.report.cases import done_slices, volume_rows
from semiseg.report.curves import line_chart
from semiseg.report.evaluation_tables import evaluation_table, newest_per_subject
from semiseg.report.history import LabelHistory, label_history
from semiseg.report.learning import in_words, learning_charts
from semiseg.report.ledger_strip import ledger_strips
from semiseg.report.privacy import Scrubber
from semiseg.report.report import write_report
from semiseg.study.case import GateRecord, empty_label
from semiseg.study.ledger import Ledger, SliceState
from semiseg.study.protocol import Protocol, Structure, common_structure
from semiseg.study.study import Study

GRID = Grid(
    size_xyz=(14, 12, 10),
    spacing_mm_xyz=(2.0, 2.0, 5.0),
    direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
)
PROTOCOL = Protocol((common_structure("liver", 1), common_structure("kidney_left", 4)))
VOID = frozenset(
    [
        "meta",
        "link",
        "img",
        "br",
        "hr",
        "input",
        "image",
        "use",
        "path",
        "circle",
        "rect",
        "polyline",
    ]
)


def _volume(seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    image = np.full(GRID.shape_zyx, -900, np.float32)
    image[:, 2:10, 2:12] = 40
    return image + rng.normal(0, 5, GRID.shape_zyx).astype(np.float32)


def _label() -> NDArray[np.uint16]:
    label = np.zeros(GRID.shape_zyx, np.uint16)
    label[1:9, 3:8, 3:7] = 1
    label[2:6, 4:9, 8:11] = 4
    return label


def _study(tmp_path: Path, protocol: Protocol = PROTOCOL, name: str = "Abdomen") -> Study:
    return Study.create(tmp_path / "study", name=name, protocol=protocol)


def _add(study: Study, tmp_path: Path, case_id: str, seed: int = 0) -> None:
    path = tmp_path / f"{case_id}.nii.gz"
    write_image(path, _volume(seed), GRID)
    study.add_case(path, case_id=case_id, modality="CT")


@pytest.fixture
def full(tmp_path: Path) -> Study:
    """A study with everything: slices, propagation, a rejected case, model, predictions, scores."""
    study = _study(tmp_path)
    label = _label()
    unsure = np.full(GRID.shape_zyx, 0.25, np.float32)
    for number, case_id in enumerate(("ct_a", "ct_b", "ct_c")):
        _add(study, tmp_path, case_id, number)
    drawn = np.zeros_like(label)
    drawn[[2, 5]] = label[[2, 5]]
    study.annotate("ct_a", drawn, plane="axial", indices=[2, 5], empty=[0])
    study.mark_slices("ct_a", "axial", [7], SliceState.SUGGESTED, [1])
    info = {"self_check": {"1": 0.876, "x": 1.0, "4": None}, "atlases": []}
    for case_id, verdict in (("ct_a", "accept"), ("ct_b", "down_weight"), ("ct_c", "reject")):
        gate = GateRecord(verdict=verdict, score=0.5, reasons=(f"reason of {case_id}",))
        study.propagated(
            case_id, label, np.full(label.shape, 0.5), structure_ids=[1, 4], gate=gate, info=info
        )
        info = {"atlases": ["ct_a"]}
    study.add_model(_write_weights, {"name": "first", **_description()})
    info = {"notes": ["smaller windows were used"], "seconds": 3.21, "device": "cpu"}
    study.predicted("ct_a", label, unsure, model_id=1, info=info)
    study.predicted("ct_b", np.where(label == 4, 0, label), unsure, model_id=1, info={})
    study.add_evaluation(_rows(), {"what": "prediction", "policy": "Both empty: no score."})
    return study


def _write_weights(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"0" * 16)


def _description() -> dict[str, object]:
    history = [{"step": s, "seconds": s / 2, "loss": 2 / s} for s in range(1, 30)]
    history.append({"step": 30, "validation_dice": 0.5, "validation": {"structures": {"1": 0.5}}})
    text = "4 slices were held back at first"
    validation = {"kind": "slices", "how": text, "dice": 0.61, "structures": {"1": 0.7, "4": 0.52}}
    return {
        "method": "supervised",
        "seed": 3,
        "cases": {"ct_a": {"human": True, "propagated": True}, "ct_b": {}, "ct_c": "later"},
        "settings": {"learning_rate": 0.001, "minutes": None},
        "history": history,
        "validation": validation,
    }


def _rows(note: str = "two readers in consensus.") -> list[dict[str, object]]:
    shared = {"modality": "CT", "reference_note": note, "what": "prediction", "model_id": 1}
    good = {"state": "compared", "dice": 0.9, "hd95_mm": 2.0, "assd_mm": 0.5}
    lost = {"state": "missed", "dice": 0.0, "hd95_mm": None, "assd_mm": None}
    none = {"state": "absent", "dice": None, "hd95_mm": None, "assd_mm": None}
    return [
        {"case": "ct_a", "structure": "liver", "split": "train", **good, **shared},
        {"case": "ct_a", "structure": "kidney_left", "split": "train", **none, **shared},
        {"case": "ct_b", "structure": "liver", "split": "test", **good, **shared, "dice": 0.7},
        {"case": "ct_b", "structure": "kidney_left", "split": "test", **lost, **shared},
    ]


class _Page(HTMLParser):
    """Tags, attributes and text of a page; tags that were left open make it fail."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.raw = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(self.raw)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "path" and not self.get_starttag_text().endswith("/>")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID and (not self.open or self.open[-1] != tag):
            return
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, name: str) -> Iterator[str]:
        return (value for _, attrs in self.tags for key, value in attrs.items() if key == name)


def test_a_full_study_tells_everything(full):
    page = _Page(write_report(full))
    for words in (
        "3 scans (3 CT) and 2 structures",
        "A person finished 3 slices in 1 scan",
        "refused for 1 scan",
        "Compared with two readers in consensus, the segmentation by the model reaches a mean "
        "Dice of 0.90 in CT (1 scan used for learning) and 0.35 in CT (1 scan for test)",
        "A structure was missed once",
        "Research use only",
        "Accepted: the propagated label is trusted",
        "Used with care",
        "Rejected: no propagated label",
        "reason of ct_c",
        "1 missed",
        "1 not applicable",
        "4 slices were held back at first",
        "Both empty: no score.",
        "axial: 3 of 10 slices done",
        "used for learning",
        "CT window W 400, L 40 HU",
        "Kidney, Left (SCT 64033007, 7771000)",
        "Model 1 · first",
        "seed",
        "SHA-256",
        "annotated",
        "ct_a (drawn and propagated), ct_b, ct_c",
        "learning rate 0.001, minutes not set",
        "smaller windows were used. Segmented in 3.21 s on cpu.",
        "Mean Dice 0.61",
        "Trust score 0.50 of 1. Filled in between its own slices.",
        "Labels lent by ct_a.",
        "Self-check Dice",
        "0.88",
        "the model saw the finished slices",
    ):
        assert words in page.text, words
    for case in full.cases.values():
        assert case.image.sha256 in page.text


def test_validation_without_details_is_taken_as_it_is(tmp_path):
    study = _study(tmp_path)
    study.add_model(_write_weights, {"validation": {"kind": "slices", "structures": {"x": 0.5}}})
    study.add_model(_write_weights, {"validation": "none", "history": [1, {"step": 1}]})
    study.add_model(_write_weights, {})
    page = _Page(write_report(study))
    assert "No learning history was kept" in page.text
    for validation in ({"kind": "slices", "structures": {"x": 0.5}}, "none"):
        study.add_model(_write_weights, {"validation": validation})
        page = _Page(write_report(study))
        assert "How it was validated: " in page.text


def test_the_page_needs_nothing_but_itself(full):
    page = _Page(write_report(full))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form"}
    for value in [*page.values("href"), *page.values("src")]:
        assert value.startswith(("#", "data:image/"))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "@import" not in page.raw
    assert not re.search(r"url\(|https?://", page.raw)
    ids = list(page.values("id"))
    assert len(ids) == len(set(ids))
    assert {v[1:] for v in page.values("href") if v.startswith("#")} <= set(ids)


def test_pictures_have_words_for_those_who_cannot_see_them(full):
    page = _Page(write_report(full))
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) > 20
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in pictures)


def test_whatever_a_user_names_is_escaped(tmp_path):
    nasty = "<script>alert('x')</script>"
    structures = (Structure(id=1, name=nasty, color=(200, 30, 30)),)
    study = _study(tmp_path, Protocol(structures), name=f'{nasty}"><img src=x onerror=y>')
    path = tmp_path / "a.nii.gz"
    write_image(path, _volume(), GRID)
    study.add_case(path, case_id="a", name=nasty, patient=nasty, modality="CT")
    label = np.minimum(_label(), 1)
    study.annotate("a", label, plane="axial", indices=[3, 4], author=nasty, note=nasty)
    gate = GateRecord(verdict="accept", score=1.0, reasons=(nasty,))
    study.propagated("a", label, np.ones(label.shape), structure_ids=[1], gate=gate, info={})
    study.predicted("a", label, np.zeros(label.shape), model_id=1, info={"note": nasty})
    study.add_model(_write_weights, {"name": nasty, "method": nasty, "validation": nasty})
    row = {"case": nasty, "structure": nasty, "modality": nasty, "split": nasty, "dice": 1.0}
    study.add_evaluation([{**row, "state": nasty}], {"what": nasty, "reference_note": nasty})
    page = _Page(write_report(study))
    assert "<script" not in page.raw
    assert "<img" not in page.raw
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert nasty in page.text


def test_an_empty_study_gives_a_sensible_page(tmp_path):
    page = _Page(write_report(_study(tmp_path, Protocol(()))))
    assert "has no scans yet" in page.text
    assert "The protocol has no structures yet" in page.text


def test_a_fresh_scan_is_shown_and_said_to_be_untouched(tmp_path):
    study = _study(tmp_path)
    _add(study, tmp_path, "a")
    page = _Page(write_report(study))
    assert "No slice has been done by hand yet" in page.text
    assert "Nothing has been drawn or segmented yet" in page.text
    assert "1 scan (1 CT)" in page.text


def test_measured_in_validation_alone_is_said_so(full, tmp_path):
    for path in (full.folder / "evaluations").iterdir():
        path.unlink()
    page = _Page(write_report(full))
    assert "In validation the newest model reached a Dice of 0.61; nothing" in page.text


def test_validation_of_whole_patients_is_told_with_its_interval(tmp_path):
    study = _study(tmp_path)
    _add(study, tmp_path, "a")
    row = {"modality": "CT", "structure": "1", "mean": 0.7, "n": 2, "low": 0.4, "high": 0.9}
    one = {**row, "modality": "MR", "n": 1, "low": None, "high": None}
    both = {**row, "modality": "all", "structure": "all", "mean": 0.65}
    validation = {"kind": "leave_one_out", "dice": 0.61, "summaries": [row, one, both]}
    study.add_model(_write_weights, {**_description(), "validation": validation})
    text = _Page(write_report(study)).text
    assert "reached a Dice of 0.61 (in new patients 0.40 to 0.90 on average); nothing" in text
    assert "In new patients the mean is expected within the interval" in text
    assert "all structures" in text
    assert "MR" in text


def test_unmeasured_segmentations_are_called_unmeasured(tmp_path):
    study = _study(tmp_path)
    _add(study, tmp_path, "a")
    study.annotate("a", _label(), plane="axial", indices=[3])
    study.predicted("a", _label(), np.zeros(GRID.shape_zyx), model_id=1, info={})
    assert "has not been measured yet" in _Page(write_report(study)).text


def test_reports_are_numbered_and_never_overwritten(full, tmp_path):
    first = write_report(full)
    before = first.read_bytes()
    (full.report_dir / "report-0007.html").write_text("another")
    second = write_report(full)
    assert (first.name, second.name) == ("report-0001.html", "report-0008.html")
    assert first.read_bytes() == before
    given = write_report(full, path=tmp_path / "deep" / "mine.html")
    with pytest.raises(StorageError, match=r"mine\.html exists already"):
        write_report(full, path=given)
    assert not [p for p in full.report_dir.iterdir() if p.suffix != ".html"]


def test_a_failed_write_leaves_no_empty_report(full, monkeypatch):
    def refuse(path: Path, content: bytes) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("semiseg.report.report.write_bytes_atomic", refuse)
    with pytest.raises(StorageError, match="full"):
        write_report(full)
    assert list(full.report_dir.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(full, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot make the folder"):
        write_report(full, path=tmp_path / "file" / "r.html")
    with pytest.raises(StorageError, match="cannot save"):
        write_report(full, path=tmp_path / ("n" * 300 + ".html"))


def test_a_missing_image_is_told_and_the_rest_is_shown(full, tmp_path):
    (tmp_path / "ct_b.nii.gz").unlink()
    page = _Page(write_report(Study.open(full.folder)))
    assert "The image cannot be shown" in page.text
    assert "Problems found when opening the study" in page.text
    assert "reason of ct_b" in page.text
    assert str(tmp_path) not in page.raw


def test_a_damaged_model_and_label_are_told(full):
    (full.folder / "models" / "0001" / "model.json").write_text("{")
    newest = max((full.folder / "cases" / "ct_a" / "labels").iterdir())
    (newest / "label.seg.nrrd").write_bytes(b"")
    page = _Page(write_report(Study.open(full.folder)))
    assert "Problems found" in page.text


def test_a_model_whose_description_is_broken_is_told(full):
    folder = full.folder / "models" / "0001"
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text("[" + text[1:])
    assert "Its description cannot be read" in _Page(write_report(full)).text


def test_progress_and_result_are_told(full):
    events: list[Event] = []
    path = write_report(full, events.append)
    assert events[-1].kind == "result"
    assert events[-1].data["path"] == str(path)
    assert [e.step for e in events if e.kind == "progress"][-1] == 4


def test_the_home_folder_and_other_places_do_not_get_out(tmp_path):
    scrub = Scrubber(tmp_path / "study", ["/data/Jane Doe/ct.nii.gz"])
    text = f"{tmp_path}/study/cases/a and /data/Jane Doe/ct.nii.gz and {Path.home()}/x"
    assert scrub(text) == "cases/a and ct.nii.gz and ~/x"
    assert scrub("lies in '/mnt/scans/jane/ct.nrrd'; 3 mm/s") == "lies in '…/ct.nrrd'; 3 mm/s"
    assert scrub(r"D:\scans\jane\ct.nrrd is gone") == "…/ct.nrrd is gone"
    assert scrub("https://example.org/a/b") == "https://example.org/a/b"


def test_journal_and_problems_are_scrubbed(full, tmp_path):
    full.journal.append("exported", folder=str(tmp_path / "elsewhere" / "out"), long="x" * 900)
    page = _Page(write_report(full))
    assert str(tmp_path) not in page.raw
    assert "…/out" in page.text
    assert "x" * 400 not in page.text


def test_the_place_of_a_bundle_that_learning_began_with_does_not_get_out(full):
    settings = {"start_from": "/bundles of jane/colleague.zip"}
    full.add_model(_write_weights, {**_description(), "settings": settings})
    page = _Page(write_report(full))
    assert "start from colleague.zip" in page.text
    assert "bundles of jane" not in page.raw


def test_labels_that_were_heard_beside_the_model_are_told(full):
    alone = _Page(write_report(full)).text
    assert "Drawn by the trained model alone." in alone
    unsure = np.full(GRID.shape_zyx, 0.25, np.float32)
    prior = {"weight": 0.5, "structures": [1], "sigma_mm": 3.0}
    for case_id in ("ct_a", "ct_b"):
        full.predicted(case_id, _label(), unsure, model_id=1, info={"prior": prior})
    both = _Page(write_report(full)).text
    assert "Drawn by the trained model, beside which propagated labels were heard." in both
    assert "Drawn by the trained model alone." not in both


def test_long_journals_are_cut_to_the_newest(full):
    for number in range(70):
        full.journal.append("opened", number=number)
    text = _Page(write_report(full)).text
    assert re.search(r"The newest 60 of \d+ entries", text)
    assert "number: 69" in text
    assert "number: 3;" not in text


def test_who_drew_is_told_and_a_simulated_person_is_called_so(tmp_path):
    study = _study(tmp_path)
    _add(study, tmp_path, "a")
    study.annotate("a", _label(), plane="axial", indices=[3], author="simulated")
    text = _Page(write_report(study)).text
    assert "A simulated person, who copies a full label, finished 1 slice in 1 scan" in text
    assert "Drawn by a simulated person." in text
    study.annotate("a", _label(), plane="axial", indices=[4], author="Dr. A")
    text = _Page(write_report(study)).text
    assert "A person finished 2 slices" in text
    assert "Drawn by a simulated person, Dr. A." in text


def test_a_damaged_version_tells_nothing_of_its_history(full):
    labels = full.folder / "cases" / "ct_b" / "labels"
    assert label_history(labels).atlases == ("ct_a",)
    (max(labels.iterdir()) / "version.json").write_text("{")
    assert label_history(labels) == LabelHistory()
    assert label_history(labels / "none") == LabelHistory()


def test_figures_of_labels_say_that_drawn_slices_are_part_of_them():
    for what, drawn, learning in (
        ("label", True, False),
        ("combined", True, True),
        ("prediction", False, True),
    ):
        caution = evaluation_table(_rows(), {"what": what}, number=1, date="d").caution
        assert ("drawn by hand are part" in caution, "Used for learning" in caution) == (
            drawn,
            learning,
        )


def test_volumes_are_split_by_who_drew(full):
    label, prediction = full.label("ct_a"), full.prediction("ct_b")
    rows = volume_rows(label, prediction, full.protocol.segments(), GRID.voxel_ml)
    liver, kidney = rows
    assert liver.human_ml == pytest.approx(2 * 20 * 0.02)
    assert liver.program_ml == pytest.approx(6 * 20 * 0.02)
    assert liver.predicted_ml == pytest.approx(8 * 20 * 0.02)
    assert liver.uncertainty == pytest.approx(0.25, abs=0.01)
    assert kidney.predicted_ml == 0
    assert kidney.uncertainty is None
    assert 0.4 < liver.confidence < 0.6


def test_volumes_of_nothing_are_no_rows():
    label = empty_label("a", GRID)
    assert volume_rows(label, None, PROTOCOL.segments(), 1.0) == ()


def test_ledger_strip_runs_from_one_end_of_the_patient_to_the_other():
    ledger = Ledger().mark("coronal", [0, 1], SliceState.DONE, [1, 4])
    ledger = ledger.mark("axial", [9], SliceState.EMPTY, [4])
    axial, coronal = ledger_strips(ledger, GRID, PROTOCOL.segments())
    assert (axial.low, axial.high, axial.low_index, axial.high_index) == ("I", "S", 0, 9)
    assert [(r.name, len(r.runs)) for r in axial.rows] == [("liver", 0), ("kidney_left", 1)]
    assert axial.rows[1].runs[0].title == "kidney_left: slice 9 done and empty"
    assert (coronal.low, coronal.high, coronal.low_index) == ("A", "P", 11)
    (row,) = coronal.rows
    assert row.name == "all structures"
    assert (row.runs[0].start, row.runs[0].stop) == (10, 12)
    assert row.runs[0].title == "all structures: slices 0 to 1 done"
    (sagittal,) = ledger_strips(
        Ledger().mark("sagittal", [0], SliceState.DONE, [1]), GRID, PROTOCOL.segments()
    )
    assert (sagittal.low, sagittal.high, sagittal.done) == ("R", "L", 1)


def test_done_slices_leave_out_what_is_only_suggested():
    ledger = Ledger().mark("axial", [1], SliceState.SUGGESTED, [1])
    ledger = ledger.mark("axial", [2], SliceState.EMPTY, [4])
    assert done_slices(ledger) == {"axial": {2: [4]}}


def test_scores_of_learning_and_test_scans_are_never_mixed():
    table = evaluation_table(_rows(), {"what": "prediction"}, number=1, date="2026-01-01")
    assert [(g.modality, g.use, g.overall.dice.value) for g in table.groups] == [
        ("CT", " used for learning", 0.9),
        ("CT", " for test", 0.35),
    ]
    assert table.rows[1].scores[0].remarks == "1 not applicable"
    assert table.rows[1].scores[1].remarks == "1 missed"
    assert table.rows[1].scores[1].hd95_mm.value is None
    assert table.cases[0].dice == (0.9, None)


def test_an_evaluation_without_details_is_taken_as_it_is():
    table = evaluation_table([{"dice": 0.5}], {}, number=1, date="d")
    assert "not stated" in table.reference
    assert table.subject == "Segmentation"
    assert table.groups[0].use == ""


def test_the_newest_evaluation_of_each_kind_is_shown():
    tables = [
        evaluation_table([], {"what": what}, number=n, date="d")
        for n, what in enumerate(("label", "prediction", "prediction", "other"))
    ]
    assert [table.number for table in newest_per_subject(tables)] == [2, 0, 3]


def test_curves_have_round_ticks_and_keep_the_last_point():
    points = [(float(x), 1.0 + math.sin(x)) for x in range(5000)]
    chart = line_chart("Loss", "steps", {"loss": points, "nothing": [(0.0, math.nan)]})
    assert chart is not None
    (series,) = chart.series
    assert len(series.points.split()) <= 402
    assert series.end_x == 544
    assert [tick.text for tick in chart.x_ticks] == ["0", "1000", "2000", "3000", "4000"]
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.5", "1", "1.5"]


def test_curves_of_one_point_or_of_nothing():
    assert line_chart("Loss", "steps", {"loss": []}) is None
    chart = line_chart("Loss", "steps", {"loss": [(0.0, 0.0)]})
    assert chart is not None


def test_history_without_steps_counts_entries():
    loss, dice = learning_charts(
        [{"loss": 1.0, "dice": 0.1}, {"loss": 0.5, "dice": 0.2, "flag": True, "note": "x"}]
    )
    assert [chart.title for chart in (loss, dice)] == ["Loss", "Validation Dice"]
    assert dice.y_ticks[-1].text == "1"


def test_a_chart_of_zeros_has_an_axis_that_can_be_read():
    chart = line_chart("Dice", "minutes of drawing", {"validation": [(0.0, 0.0)]}, x_end=0.0)
    assert chart is not None
    assert [tick.text for tick in chart.x_ticks][-1] == "1"
    assert [tick.text for tick in chart.y_ticks][-1] == "1"


def test_curves_of_one_history_share_their_steps():
    loss, dice = learning_charts([{"step": 50, "validation_dice": 0.4}, {"step": 100, "loss": 1.0}])
    assert loss.x_ticks == dice.x_ticks
    assert dice.series[0].end_x < loss.series[0].end_x == 544


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "not set"),
        (True, "yes"),
        (3, "3"),
        (0.1 + 0.2, "0.3"),
        ([1, [2, 3]], "1, 2, 3"),
        ({"patch_zyx": [1, 2, 3]}, "patch (z, y, x) 1, 2, 3"),
    ],
)
def test_settings_are_put_into_words(value, words):
    assert in_words(value) == words
