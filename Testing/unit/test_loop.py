"""The loop joins the stages in order; the slow ones are stand-ins here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semiseg import loop
from semiseg.cli.app import run
from semiseg.config import PropagationConfig, TrainConfig
from semiseg.errors import ConfigError, ExitCode, StorageError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.labels import read_label, write_label
from semiseg.images.reading import write_image
from semiseg.loop import LoopCase, LoopConfig, fresh_folder, run_loop
from semiseg.sample import STRUCTURES, sample_cases
from semiseg.study.case import GateRecord
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

GRID = Grid(
    size_xyz=(10, 9, 8),
    spacing_mm_xyz=(2.0, 2.5, 4.0),
    origin_mm_lps=(5.0, -7.0, 11.0),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
PROTOCOL = parse_structures("liver,spleen")
GATE = GateRecord(verdict="accept", score=0.9)


def block() -> np.ndarray:
    label = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    label[1:7, 2:6, 2:6] = 1
    label[3:6, 6:8, 7:9] = 2
    return label


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Stand-ins for propagate, train and predict that give the case's own full label."""
    made: list[tuple[str, object]] = []

    def full(study: Study, case_id: str) -> np.ndarray:
        shape = study.cases[case_id].grid.shape_zyx
        if shape == GRID.shape_zyx:
            return block()
        return next(read_label(s.label).array for s in sample_cases() if s.name == case_id)

    def propagate(study: Study, config: object, emit: object, *, case_ids: tuple[str, ...]) -> None:
        made.append(("propagate", case_ids))
        for case_id in case_ids:
            array = full(study, case_id)
            sure = np.ones(array.shape, np.float32)
            ids = study.protocol.ids
            study.propagated(case_id, array, sure, structure_ids=ids, gate=GATE, info={})

    def train(study: Study, config: object, emit: Callable[[Event], None]) -> int:
        made.append(("train", config))
        emit(Event(kind="progress", phase="train", step=1, total=1))
        return study.add_model(lambda folder: None, {"name": "stand-in"})

    def predict(
        study: Study, model: int, case_ids: tuple[str, ...], config: object, emit: object
    ) -> None:
        made.append(("predict", case_ids))
        for case_id in case_ids:
            array = full(study, case_id)
            unsure = np.zeros(array.shape, np.float32)
            study.predicted(case_id, array, unsure, model_id=model, info={})

    for name, stand_in in (("propagate", propagate), ("train", train), ("predict", predict)):
        monkeypatch.setattr(loop, name, stand_in)
    return made


@pytest.fixture
def cases(tmp_path: Path) -> tuple[LoopCase, ...]:
    """A drawn CT, a fully labelled MR, and a test MR of which nothing is drawn."""
    rng = np.random.default_rng(0)
    write_label(tmp_path / "label.nii.gz", block(), GRID)
    for name in "abc":
        image = rng.normal(size=GRID.shape_zyx).astype(np.float32)
        write_image(tmp_path / f"{name}.nii.gz", image, GRID)
    label = tmp_path / "label.nii.gz"
    return (
        LoopCase(case_id="a", image=tmp_path / "a.nii.gz", modality="CT", label=label, slices=2),
        LoopCase(case_id="b", image=tmp_path / "b.nii.gz", modality="MR", label=label, full=True),
        LoopCase(
            case_id="c", image=tmp_path / "c.nii.gz", modality="MR", label=label, split="test"
        ),
    )


def test_every_stage_runs_once_in_order_and_is_timed(
    tmp_path: Path, cases: tuple[LoopCase, ...], calls: list[tuple[str, object]]
) -> None:
    config = LoopConfig(name="n", protocol=PROTOCOL, reference_note="made up")
    events: list[Event] = []
    result = run_loop(tmp_path / "study", cases, config, events.append)
    stages = ["annotate", "propagate", "train", "predict", "evaluate", "export", "report"]
    assert list(result.seconds) == stages
    assert [e.message for e in events if e.phase == "loop"] == stages
    assert [name for name, _ in calls] == ["propagate", "train", "predict"]
    assert result.report is not None
    assert result.report.is_file()
    assert result.exported is not None
    assert (result.exported / "measurements.csv").is_file()
    assert {row["case"] for row in result.prediction_rows} == {"a", "b", "c"}
    assert all(row["reference_note"] == "made up" for row in result.label_rows)
    study = Study.open(tmp_path / "study")
    assert study.ledger("a").done("axial", 1) == (1, 3, 5, 6)
    assert study.ledger("b").done("axial", 2) == tuple(range(8))
    assert not study.ledger("c").any_done
    assert study.cases["c"].split == "test"


def test_splits_and_stages_can_be_left_out(
    tmp_path: Path, cases: tuple[LoopCase, ...], calls: list[tuple[str, object]]
) -> None:
    config = LoopConfig(
        name="n",
        protocol=PROTOCOL,
        propagation=None,
        training=TrainConfig(steps=3, minutes=None),
        predict_splits=("test",),
        write_files=False,
    )
    result = run_loop(tmp_path / "study", cases, config)
    assert (result.report, result.exported) == (None, None)
    assert [name for name, _ in calls] == ["train", "predict"]
    assert calls[1] == ("predict", ("c",))
    assert {row["case"] for row in result.prediction_rows} == {"c"}
    assert {row["case"] for row in result.label_rows} == {"a", "b"}


def test_only_the_wanted_splits_are_filled(
    tmp_path: Path, cases: tuple[LoopCase, ...], calls: list[tuple[str, object]]
) -> None:
    config = LoopConfig(
        name="n",
        protocol=PROTOCOL,
        propagation=PropagationConfig(),
        propagate_splits=("train",),
        write_files=False,
    )
    run_loop(tmp_path / "study", cases, config)
    assert calls[0] == ("propagate", ("a", "b"))


def test_without_references_nothing_is_scored(
    tmp_path: Path, cases: tuple[LoopCase, ...], calls: list[tuple[str, object]]
) -> None:
    bare = (LoopCase(case_id="x", image=cases[0].image, modality="CT"),)
    config = LoopConfig(name="n", protocol=PROTOCOL, write_files=False)
    result = run_loop(tmp_path / "study", bare, config)
    assert (result.label_rows, result.prediction_rows) == ([], [])


def test_impossible_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        LoopCase(case_id="a", image=tmp_path, slices=-1)
    with pytest.raises(ConfigError, match="full label"):
        LoopCase(case_id="a", image=tmp_path, full=True)


def test_a_fresh_folder_never_is_one_that_exists(tmp_path: Path) -> None:
    assert fresh_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").write_text("")
    assert fresh_folder(tmp_path / "demo") == tmp_path / "demo-3"


def test_a_folder_with_all_its_neighbours_taken_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: True)
    with pytest.raises(StorageError, match="remove some"):
        fresh_folder(tmp_path / "demo")


def test_the_demo_shows_table_origin_of_the_labels_and_report(
    tmp_path: Path, calls: list[tuple[str, object]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    assert run(["demo", "--folder", str(folder), "--minutes", "1", "--seed", "3"]) == 0
    said = capfd.readouterr().out
    assert all(name in said for name in STRUCTURES.values())
    for words in ("automatic TotalSegmentator labels", "no test on unseen", "report: ", "in all"):
        assert words in said
    study = Study.open(folder)
    assert len(study.ledger("sample_ct").done("axial", 1)) == 27
    assert study.cases["sample_mr"].image.copied
    training = calls[1][1]
    assert isinstance(training, TrainConfig)
    assert (training.minutes, training.seed) == (1.0, 3)


def test_a_second_demo_goes_to_a_folder_of_its_own_and_gives_its_rows(
    tmp_path: Path, calls: list[tuple[str, object]]
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    events: list[Event] = []
    assert run(["demo", "--folder", str(folder)], events.append) == 0
    data = events[-1].data
    assert data["study"] == str(tmp_path / "demo-2")
    assert isinstance(data["prediction_rows"], list)
    assert len(data["prediction_rows"]) == 18
    assert isinstance(data["seconds"], dict)
    assert set(data["seconds"]) >= {"train", "report"}


def test_a_wrong_setting_of_the_demo_is_refused_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run(["demo", "--folder", str(tmp_path / "demo"), "--minutes", "0"])
    assert code == ExitCode.USAGE
    assert not (tmp_path / "demo").exists()
