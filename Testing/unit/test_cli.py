"""The command line on a tiny study; the slow stages are stand-ins that record their call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from semiseg.cli.app import run, take_flags
from semiseg.errors import ExitCode, NotEnoughLabelsError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.labels import Segment, write_label
from semiseg.images.reading import write_image
from semiseg.study.case import GateRecord, Origin
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

GRID = Grid(
    size_xyz=(10, 9, 8),
    spacing_mm_xyz=(2.0, 2.5, 4.0),
    origin_mm_lps=(5.0, -7.0, 11.0),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
Cli = Callable[..., tuple[int, str, str]]


def block() -> np.ndarray:
    """Liver (1) in slices 1 to 6, spleen (2) in 3 to 5."""
    label = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    label[1:7, 2:6, 2:6] = 1
    label[3:6, 6:8, 7:9] = 2
    return label


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def label(tmp_path: Path) -> Path:
    path = tmp_path / "label é.nii.gz"
    write_label(path, block(), GRID)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of two cases, ct and mr, with liver and spleen."""
    rng = np.random.default_rng(0)
    study_folder = tmp_path / "my study"
    Study.create(study_folder, name="tiny", protocol=parse_structures("liver,spleen"))
    for name in ("ct", "mr"):
        image = rng.normal(size=GRID.shape_zyx).astype(np.float32)
        write_image(tmp_path / f"{name}_image.nii.gz", image * 100, GRID)
        study = Study.open(study_folder)
        study.add_case(
            tmp_path / f"{name}_image.nii.gz",
            case_id=name,
            modality="CT" if name == "ct" else "MR",
        )
    return study_folder


def events_of(*arguments: object) -> tuple[int, list[Event]]:
    events: list[Event] = []
    return run([str(argument) for argument in arguments], events.append), events


def stage(monkeypatch: pytest.MonkeyPatch, module: str, **functions: object) -> None:
    monkeypatch.setitem(sys.modules, f"semiseg.{module}", SimpleNamespace(**functions))


def test_a_study_is_made_filled_and_shown(cli: Cli, tmp_path: Path, label: Path) -> None:
    folder = tmp_path / "new study"
    code, out, _ = cli("study", "new", folder, "--structures", "1=liver,4=spleen")
    assert code == 0
    assert "1 liver, 4 spleen" in out
    assert 'next: semiseg study add "' in out
    write_image(tmp_path / "a.nii.gz", np.ones(GRID.shape_zyx, np.float32) * 40, GRID)
    write_image(tmp_path / "b.nii.gz", np.eye(9, 10, dtype=np.float32) + block() * 9.0, GRID)
    code, out, _ = cli("study", "add", folder, tmp_path / "b.nii.gz", "--modality", "ct", "--copy")
    assert code == 0
    assert "added b: CT, train" in out
    code, out, _ = cli("study", "status", folder)
    assert code == 0
    assert "next: semiseg annotate" in out


def test_case_ids_and_splits_are_taken(cli: Cli, folder: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "c.nrrd", block().astype(np.float32), GRID)
    code, out, _ = cli(
        "study", "add", folder, tmp_path / "c.nrrd", "--case-id", "third", "--split", "test"
    )
    assert code == 0
    assert "added third" in out
    assert "sure, test" in out
    code, _, err = cli("study", "add", folder, "a.nii", "b.nii", "--case-id", "x")
    assert code == ExitCode.USAGE
    assert "one by one" in err


def test_next_steps_follow_the_state_of_the_study(
    cli: Cli, tmp_path: Path, folder: Path, label: Path
) -> None:
    bare = tmp_path / "bare"
    assert "study structures" in cli("study", "new", bare)[1] + cli("study", "status", bare)[1]
    assert "--add 1=liver" in cli("study", "structures", bare, "--add", "1=liver")[1] + (
        "--add 1=liver"
    )
    assert "next: semiseg study add" in cli("study", "status", bare)[1]
    cli("annotate", folder, "ct", label, "--done", "2,4")
    assert "next: semiseg propagate" in cli("study", "status", folder)[1]
    study = Study.open(folder)
    study.propagated(
        "mr",
        block(),
        np.ones(GRID.shape_zyx, np.float32),
        structure_ids=(1, 2),
        gate=GateRecord(verdict="down_weight", score=0.5, reasons=("folding",)),
        info={},
    )
    assert "next: semiseg train" in cli("study", "status", folder)[1]
    study.add_model(lambda path: None, {"name": "m", "method": "supervised", "steps": 3})
    out = cli("study", "status", folder)[1]
    assert "down_weight 0.50" in out
    assert "next: semiseg predict" in out
    for case in ("ct", "mr"):
        study.predicted(case, block(), np.zeros(GRID.shape_zyx, np.float32), model_id=1, info={})
    assert "next: semiseg report" in cli("study", "status", folder)[1]
    assert "supervised" in cli("study", "models", folder)[1]
    assert "model_added" in cli("study", "history", folder, "--last", 3)[1]


def test_structures_are_listed_added_renamed_and_removed(cli: Cli, folder: Path) -> None:
    code, out, _ = cli("study", "structures", folder, "--add", "7=tumor", "--rename", "spleen=milt")
    assert code == 0
    assert "tumor" in out
    assert "milt" in out
    code, out, _ = cli("study", "structures", folder, "--remove", "tumor")
    assert code == 0
    assert "tumor" not in out
    assert cli("study", "structures", folder, "--rename", "x")[0] == ExitCode.USAGE
    assert cli("study", "structures", folder, "--remove", "x")[0] == ExitCode.STUDY


def test_splits_are_moved_and_drawn(cli: Cli, folder: Path) -> None:
    assert cli("study", "split", folder, "mr", "--to", "val")[0] == 0
    assert Study.open(folder).cases["mr"].split == "val"
    assert cli("study", "split", folder, "--assign", "--fractions", "1", "0", "0")[0] == 0
    code, _, err = cli("study", "split", folder, "--to", "val")
    assert code == ExitCode.USAGE
    assert "needs the cases" in err
    assert cli("study", "split", folder, "mr", "--to", "exam")[0] == ExitCode.USAGE
    assert cli("study", "split", folder, "zz", "--to", "val")[0] == ExitCode.STUDY


def test_check_finds_a_changed_image_and_exits_with_3(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    code, out, _ = cli("study", "check", folder)
    assert (code, out.strip()) == (0, "2 cases, 0 models: all sound")
    write_image(tmp_path / "ct_image.nii.gz", block().astype(np.float32), GRID)
    code, out, err = cli("study", "check", folder)
    assert code == ExitCode.STUDY
    assert "problem: " in out
    assert "problems in" in err
    assert "problem: " in cli("study", "status", folder)[1]


def test_annotate_says_what_is_finished_and_what_comes_next(
    cli: Cli, folder: Path, label: Path
) -> None:
    code, out, _ = cli("annotate", folder, "ct", label, "--done", "2,4-5", "--empty", "0")
    assert code == 0
    assert "4 axial slices are finished for liver, spleen: 0, 2, 4-5" in out
    assert "next: semiseg propagate" in out
    found = Study.open(folder).label("ct")
    assert found is not None
    assert found.ledger.done("axial", 1) == (0, 2, 4, 5)
    assert (found.array == block()).all()


def test_annotate_all_and_for_some_structures_only(cli: Cli, folder: Path, label: Path) -> None:
    assert cli("annotate", folder, "ct", label, "--done", "all", "--structures", "spleen")[0] == 0
    found = Study.open(folder).label("ct")
    assert found is not None
    assert found.ledger.done("axial", 2) == tuple(range(8))
    assert found.ledger.done("axial", 1) == ()


def test_annotate_takes_only_finished_slices_and_keeps_the_others(
    cli: Cli, folder: Path, label: Path
) -> None:
    for slices in ("2", "5"):
        code, *_ = cli("annotate", folder, "ct", label, "--done", slices, "--only-finished")
        assert code == 0
    found = Study.open(folder).label("ct")
    assert found is not None
    drawn = np.flatnonzero(found.array.any(axis=(1, 2)))
    assert drawn.tolist() == [2, 5]
    assert (found.origin[2] == Origin.HUMAN).any()


def test_annotate_simulates_slices_of_a_full_label(cli: Cli, folder: Path, label: Path) -> None:
    code, out, _ = cli("annotate", folder, "mr", label, "--simulate", 2)
    assert code == 0
    assert "4 axial slices are finished for liver, spleen: 1, 3, 5-6" in out
    code, _, err = cli("annotate", folder, "mr", label, "--simulate", 2, "--done", "1")
    assert code == ExitCode.USAGE
    assert "chooses the slices itself" in err


def test_label_values_are_mapped_by_name_and_never_by_position(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named.seg.nrrd"
    segments = (
        Segment(id=1, name="Spleen", color=(1, 2, 3)),
        Segment(id=2, name="liver", color=(3, 2, 1)),
    )
    write_label(named, block(), GRID, segments)
    assert cli("annotate", folder, "ct", named, "--done", "4")[0] == 0
    found = Study.open(folder).label("ct")
    assert found is not None
    assert (found.array[block() == 1] == 2).all()
    strange = tmp_path / "strange.nii.gz"
    write_label(strange, np.where(block() == 2, 9, block()), GRID)
    code, _, err = cli("annotate", folder, "mr", strange, "--done", "4")
    assert code == ExitCode.LABELS
    assert "value 9" in err
    assert cli("annotate", folder, "mr", strange, "--done", "4", "--map", "9=spleen")[0] == 0
    code, _, err = cli("annotate", folder, "mr", strange, "--done", "4", "--map", "x=spleen")
    assert code == ExitCode.USAGE
    assert cli("annotate", folder, "mr", strange, "--done", "4", "--map", "9=0")[0] == 0


def test_a_study_without_structures_takes_those_that_the_file_names(
    cli: Cli, tmp_path: Path, label: Path
) -> None:
    folder = tmp_path / "bare"
    cli("study", "new", folder)
    write_image(tmp_path / "c.nrrd", block().astype(np.float32), GRID)
    cli("study", "add", folder, tmp_path / "c.nrrd")
    code, _, err = cli("annotate", folder, "c", label, "--done", "4")
    assert code == ExitCode.STUDY
    assert "names none" in err
    named = tmp_path / "named.seg.nrrd"
    segments = tuple(Segment(id=i, name=n, color=(1, 2, 3)) for i, n in ((1, "a"), (2, "b")))
    write_label(named, block(), GRID, segments)
    code, out, _ = cli("annotate", folder, "c", named, "--done", "4")
    assert code == 0
    assert "took the structures of the label file: 1 a, 2 b" in out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ((), ExitCode.LABELS, "no slice is said to be finished"),
        (("--done", "1-x"), ExitCode.USAGE, "10,20,30-40"),
        (("--done", "5-2"), ExitCode.USAGE, "the second number is the larger"),
        (("--done", "80"), ExitCode.LABELS, "there is no axial slice 80"),
        (("--done", "1", "--plane", "oblique"), ExitCode.USAGE, "plane must be one of"),
        (("--done", "1", "--structures", "heart"), ExitCode.STUDY, "heart"),
        (("--done", "1", "--structures", ","), ExitCode.USAGE, "names no structure"),
        (("--done", "1", "--map", "1=liver", "--map", "1=2"), ExitCode.USAGE, "given twice"),
    ],
)
def test_annotate_refuses_in_one_sentence(
    cli: Cli, folder: Path, label: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = cli("annotate", folder, "ct", label, *options)
    assert found == code
    assert words in err
    assert "Traceback" not in err
    assert out == ""
    assert Study.open(folder).label("ct") is None


def test_propagate_hands_over_its_settings_and_tells_the_gate(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def propagate(study: Study, config: object, emit: object, *, case_ids: object) -> None:
        calls.append((config, case_ids))
        study.propagated(
            "mr",
            block(),
            np.ones(GRID.shape_zyx, np.float32),
            structure_ids=(1, 2),
            gate=GateRecord(verdict="reject", score=0.1, reasons=("12 % folded",)),
            info={},
        )

    stage(monkeypatch, "propagation", propagate=propagate)
    code, out, _ = cli("propagate", folder, "mr", "--atlases", 2, "--by-shape", "--spacing", 4)
    assert code == 0
    assert "mr: reject, score 0.10 (12 % folded)" in out
    config, case_ids = calls[0]
    assert (config.atlases, config.slices.image_guided, config.registration.spacing_mm) == (
        2,
        False,
        4.0,
    )
    assert case_ids == ("mr",)


def test_train_has_an_end_and_tells_the_model(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []

    def train(study: Study, config: object, emit: Callable[[Event], None], **more: object) -> int:
        configs.append(config)
        emit(Event(kind="result", phase="train", step=1, total=1))
        return 7

    stage(monkeypatch, "trainer", train=train)
    code, out, err = cli("train", folder)
    assert code == 0
    assert "made model 7" in out
    assert "train: 1/1" in err
    cli("train", folder, "--steps", 5, "--human-only", "--validation", "none")
    assert [(c.minutes, c.steps, c.use_propagated) for c in configs] == [
        (10.0, None, True),
        (None, 5, False),
    ]
    assert cli("train", folder, "--minutes", 0)[0] == ExitCode.USAGE
    code, events = events_of("train", folder)
    assert [(e.kind, e.phase) for e in events[1:]] == [("progress", "train"), ("result", "end")]
    assert events[-1].data["model"] == 7


def test_predict_takes_the_latest_model_and_all_cases(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    stage(monkeypatch, "inference", predict=lambda *given: calls.append(given))
    code, _, err = cli("predict", folder)
    assert code == ExitCode.STUDY
    assert "train one first" in err
    Study.open(folder).add_model(lambda path: None, {"name": "m"})
    code, out, _ = cli("predict", folder, "--keep-islands")
    assert code == 0
    assert "segmented 2 cases with model 1: ct, mr" in out
    _, model, cases, config, _ = calls[0]
    assert (model, cases, config.clean_up) == (1, ("ct", "mr"), False)
    assert cli("predict", folder, "nobody")[0] == ExitCode.STUDY


def test_evaluate_finds_references_and_shows_scores(cli: Cli, folder: Path, tmp_path: Path) -> None:
    study = Study.open(folder)
    for case in ("ct", "mr"):
        study.predicted(case, block(), np.zeros(GRID.shape_zyx, np.float32), model_id=1, info={})
    references = tmp_path / "expert"
    references.mkdir()
    code, _, err = cli("evaluate", folder, "--reference", references)
    assert code == ExitCode.STUDY
    assert "has no reference for any case" in err
    for name in ("ct.nii.gz", "mr_label.nii.gz"):
        write_label(references / name, block(), GRID)
    code, out, _ = cli("evaluate", folder, "--reference", references, "--note", "drawn by X")
    assert code == 0
    assert "1.000" in out
    assert "references: drawn by X" in out
    pair = f"ct={references / 'ct.nii.gz'}"
    code, events = events_of("evaluate", folder, "--reference", pair)
    rows = events[-1].data["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 2
    code, _, err = cli("evaluate", folder, "--reference", pair, "--reference", references)
    assert code == ExitCode.USAGE
    assert "two references" in err
    assert cli("evaluate", folder, "--reference", "ct=a", "--what", "x")[0] == ExitCode.USAGE
    (references / "ct.nii.gz").rename(references / "ct_label.nii.gz")
    assert cli("evaluate", folder, "--reference", references)[0] == 0


def test_report_can_be_opened(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = folder / "report" / "report.html"
    stage(monkeypatch, "report.report", write_report=lambda study, emit: page)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or len(opened) == 1)
    assert "wrote" in cli("report", folder)[1]
    assert opened == []
    assert "yourself" not in cli("report", folder, "--open")[1]
    assert opened[0].startswith("file://")
    assert "open it yourself" in cli("report", folder, "--open")[1].replace(f'"{page}"', "it")


def test_json_gives_one_terminal_event_and_nothing_else(folder: Path, label: Path) -> None:
    code, events = events_of("annotate", folder, "ct", label, "--done", "3", "--json")
    assert code == 0
    assert [event.kind for event in events] == ["result"]
    assert events[0].data["slices"] == [3]
    assert str(events[0].data["next"]).startswith("semiseg propagate")
    code, events = events_of("annotate", folder, "nobody", label, "--done", "3")
    assert [event.kind for event in events] == ["error"]
    assert events[0].data["exit_code"] == code == ExitCode.STUDY
    code, events = events_of("annotate")
    assert (code, events[-1].data["error"]) == (ExitCode.USAGE, "UsageError")
    assert [e.kind for e in events_of("study", "status", folder)[1]] == ["result"]


def test_quiet_leaves_out_progress_and_hints(cli: Cli, folder: Path, label: Path) -> None:
    _, out, err = cli("annotate", folder, "ct", label, "--done", "3", "-q")
    assert "finished" in out
    assert "next:" not in out
    assert err == ""


def test_global_flags_may_stand_anywhere_before_a_double_dash() -> None:
    assert take_flags(["a", "--json", "b", "-q", "--", "--debug"]) == (
        {"--json", "-q"},
        ["a", "b", "--", "--debug"],
    )


def test_no_study_and_wrong_usage_are_told_apart(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("study", "status", tmp_path / "none")
    assert code == ExitCode.STUDY
    assert str(tmp_path / "none") in err
    code, _, err = cli("study", "status")
    assert code == ExitCode.USAGE
    assert "semiseg study status --help" in err
    assert cli("--version")[1].startswith("semiseg ")
    assert cli("study", "new", tmp_path / "x", "--structures", "0=bad")[0] == ExitCode.STUDY


def test_an_error_of_a_stage_keeps_its_sentence_and_code(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*given: object, **more: object) -> int:
        raise NotEnoughLabelsError("no slice of liver is done; finish one")

    stage(monkeypatch, "trainer", train=train)
    code, _, err = cli("train", folder)
    assert code == ExitCode.LABELS
    assert err == "start: loading\nError: no slice of liver is done; finish one\n"


def test_ctrl_c_is_a_sentence_and_130(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*given: object, **more: object) -> int:
        raise KeyboardInterrupt

    stage(monkeypatch, "trainer", train=train)
    code, _, err = cli("train", folder)
    assert code == ExitCode.CANCELLED
    assert err.splitlines()[-1].startswith("Stopped. Everything confirmed so far is kept")
    assert [e.kind for e in events_of("train", folder)[1]] == ["progress", "error"]


def test_a_defect_is_a_sentence_and_the_traceback_a_file(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*given: object, **more: object) -> int:
        raise KeyError("wei[r]d")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stage(monkeypatch, "trainer", train=train)
    code, _, err = cli("train", folder)
    assert code == ExitCode.UNEXPECTED
    assert "Traceback" not in err
    assert "unexpected KeyError: 'wei[r]d'" in err
    (kept,) = tmp_path.glob("semiseg-*.txt")
    assert "wei[r]d" in kept.read_text(encoding="utf-8")
    assert "Traceback" in cli("train", folder, "--debug")[2]


def test_doctor_shows_what_the_machine_can_do(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(summary=lambda: {"cores": "2"}, to_json=lambda: {"cores": 2})
    stage(monkeypatch, "machine", examine=lambda folder, emit, quick: machine)
    assert "cores" in cli("doctor")[1]


def test_export_writes_files_and_replaces_them_only_when_told(
    cli: Cli, folder: Path, label: Path, tmp_path: Path
) -> None:
    code, _, err = cli("export", folder, tmp_path / "out")
    assert code == ExitCode.LABELS
    assert "annotate or predict first" in err
    cli("annotate", folder, "ct", label, "--done", "3")
    code, out, _ = cli("export", folder, tmp_path / "out", "ct", "--format", "nii.gz")
    assert code == 0
    assert "wrote 2 files" in out
    assert (tmp_path / "out" / "measurements.csv").is_file()
    code, _, err = cli("export", folder, tmp_path / "out", "--format", "nii.gz")
    assert code == ExitCode.STORAGE
    assert "exist" in err
    again = ("export", folder, tmp_path / "out", "--format", "nii.gz", "--overwrite")
    assert cli(*again)[0] == 0
    assert cli("export", folder, tmp_path / "o", "--format", "x")[0] == ExitCode.USAGE
