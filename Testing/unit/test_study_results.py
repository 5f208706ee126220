"""Models and evaluations are numbered, kept whole, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from semiseg.errors import StorageError, StudyError
from semiseg.study.storage import read_json
from semiseg.study.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "study", name="s")


def _weights(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"12345678")


def test_models_are_numbered_and_found_again(study: Study) -> None:
    with pytest.raises(StudyError, match="no model yet; train one first"):
        study.model()
    assert study.add_model(_weights, {"method": "supervised"}) == 1
    assert study.add_model(_weights, {"name": "second", "seed": 3}) == 2
    opened = Study.open(study.folder)
    assert [(m.id, m.name) for m in opened.models()] == [(1, "model 1"), (2, "second")]
    assert opened.model().info["seed"] == 3
    first = opened.model(1)
    assert (first.folder / "weights.safetensors").read_bytes() == b"12345678"
    assert read_json(first.folder / "model.json") == {"method": "supervised"}
    with pytest.raises(StudyError, match="no model 9 that can be used; it has 1, 2"):
        opened.model(9)


def test_a_maker_may_describe_its_model_itself(study: Study) -> None:
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "part").write_text("x")
        (folder / "model.json").write_text('{"own": true}')

    record = study.model(study.add_model(write, {"name": "n"}))
    assert read_json(record.folder / "model.json") == {"own": True}
    assert (record.folder / "sub" / "part").exists()


def test_a_model_that_cannot_be_written_leaves_no_trace(study: Study) -> None:
    def write(folder: Path) -> None:
        _weights(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="disk is full"):
        study.add_model(write, {})
    assert study.models() == ()
    assert not list((study.folder / "models").iterdir())


def test_a_damaged_model_is_told_and_the_others_used(study: Study) -> None:
    for _ in range(2):
        study.add_model(_weights, {})
    weights = study.folder / "models" / "0002" / "weights.safetensors"
    weights.write_bytes(b"1234567x")
    assert any("models version 2" in problem.message for problem in study.check())
    weights.write_bytes(b"1")
    assert study.model().id == 1
    assert "damaged: it has 1 bytes, 8 were saved" in study.problems[0].message


def test_evaluations_are_kept_with_their_settings(study: Study) -> None:
    assert study.evaluations() == ()
    rows = [{"case": "a", "structure": "liver", "dice": 0.9}, {"case": "b", "dice": None}]
    assert study.add_evaluation(rows, {"what": "prediction"}) == 1
    assert study.add_evaluation([], {}) == 2
    first, second = Study.open(study.folder).evaluations()
    assert (first.id, list(first.rows), first.settings) == (1, rows, {"what": "prediction"})
    assert second.rows == ()
    (study.folder / "evaluations" / "0001.json").write_text("{")
    (study.folder / "evaluations" / "notes.txt").write_text("not ours")
    assert [found.id for found in study.evaluations()] == [2]
    assert "evaluations version 1" in study.problems[0].message


def test_evaluations_can_be_made_in_a_study_that_lost_their_folder(study: Study) -> None:
    (study.folder / "evaluations").rmdir()
    assert study.evaluations() == ()
    assert study.add_evaluation([], {}) == 1
