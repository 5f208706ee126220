"""Segmenting the cases of a study: each is saved once ready, one bad case stops no other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from semiseg import own_grid
from semiseg.config import PredictConfig
from semiseg.errors import (
    CancelledError,
    CasesFailedError,
    DeviceError,
    ExitCode,
    StorageError,
    StudyError,
)
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.inference import predict
from semiseg.methods.base import MethodSettings, build_method
from semiseg.networks import NetworkSpec
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

CONFIG = PredictConfig(device="cpu")
SPEC = NetworkSpec(n_classes=3, channels=(2, 4), strides=((1, 2, 2),), convolutions=(1, 1))


def add_model(study: Study, seed: int = 0, classes: tuple[int, ...] = (0, 1, 2)) -> int:
    torch.manual_seed(seed)
    weights = build_method("supervised", MethodSettings(network=SPEC)).modules.state_dict()
    description = {
        "method": "supervised",
        "network": SPEC.to_json(),
        "classes": list(classes),
        "names": {"1": "liver", "2": "spleen"},
        "spacing_mm_zyx": [3.0, 2.0, 2.0],
        "patch_zyx": [4, 8, 8],
        "modalities": ["CT"],
        "study_id": study.id,
    }

    def write(folder: Path) -> None:
        save_file(weights, folder / "weights.safetensors")
        (folder / "model.json").write_text(json.dumps(description))

    return study.add_model(write, {})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study.create(
        tmp_path / "study", name="test", protocol=parse_structures("1=liver,2=spleen")
    )
    rng = np.random.default_rng(0)
    for name, modality in (("first", "CT"), ("second", "CT"), ("third", "MR")):
        grid = Grid(size_xyz=(12, 11, 6), spacing_mm_xyz=(1.9, 2.1, 3.0), origin_mm_lps=(5, 6, 7))
        path = tmp_path / f"{name}.nii.gz"
        write_image(path, rng.normal(0, 100, grid.shape_zyx).astype(np.float32), grid)
        made.add_case(path, case_id=name, modality=modality)  # type: ignore[arg-type]
    return made


def test_all_cases_are_segmented_on_their_own_grids(study: Study) -> None:
    add_model(study)
    events: list[Event] = []
    summary = predict(study, None, None, CONFIG, events.append)
    assert dict(summary.versions) == {"first": 1, "second": 1, "third": 1}
    found = study.prediction("third")
    assert found is not None
    assert found.array.shape == study.cases["third"].grid.shape_zyx
    assert set(np.unique(found.array)) <= {0, 1, 2}
    assert 0 <= found.uncertainty.min() <= found.uncertainty.max() <= 1
    assert found.model_id == 1
    assert found.info["notes"] == [
        "model 0001 learned from CT only; check its result on MR with care."
    ]
    steps = [event.step for event in events if event.total]
    assert steps == sorted(steps)
    assert events[-1].step == events[-1].total
    saved = [event for event in events if event.data.get("saved")]
    done = [event.data["case"] for event in saved]
    assert all(event.data["model"] == 1 and "uncertainty" in event.data for event in saved)
    assert done == ["first", "second", "third"]
    assert all(event.kind == "progress" for event in events)


def test_two_models_give_two_versions_and_the_first_is_kept(study: Study) -> None:
    first, second = add_model(study), add_model(study, seed=5)
    predict(study, first, ["first"], CONFIG)
    predict(study, second, ["first", "first"], CONFIG)
    predict(study, first, ["first"], CONFIG)
    one, two, three = (study.prediction("first", version) for version in (1, 2, 3))
    assert one is not None
    assert two is not None
    assert three is not None
    assert (one.model_id, two.model_id) == (first, second)
    assert (one.array != two.array).any()
    np.testing.assert_array_equal(one.array, three.array)


def test_a_bad_case_does_not_stop_the_others(study: Study, tmp_path: Path) -> None:
    add_model(study)
    (tmp_path / "first.nii.gz").unlink()
    events: list[Event] = []
    with pytest.raises(CasesFailedError, match=r"2 of 3 cases were segmented and saved; not first"):
        predict(study, None, None, CONFIG, events.append)
    assert CasesFailedError.exit_code != ExitCode.OK
    assert study.prediction("first") is None
    assert study.prediction("second") is not None
    assert study.prediction("third") is not None
    told = [event for event in events if "error" in event.data]
    assert [event.data["case"] for event in told] == ["first"]
    assert events[-1].step == events[-1].total


def test_a_stop_keeps_what_is_ready_and_nothing_half(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(study)

    def stop(event: Event) -> None:
        if event.data.get("case") == "first":
            monkeypatch.setattr(own_grid, "upsample", interrupted)

    def interrupted(*arguments: object) -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        predict(study, None, None, CONFIG, stop)
    again = Study.open(study.folder)
    assert not again.problems
    assert again.prediction("first") is not None
    assert again.prediction("second") is None
    assert not list((study.folder / "cases" / "second").rglob("*uncertainty*"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder one cannot write")
def test_a_folder_that_cannot_be_written_ends_the_run(study: Study) -> None:
    add_model(study)
    case_folder = study.folder / "cases" / "first"
    case_folder.chmod(0o500)
    try:
        with pytest.raises(StorageError):
            predict(study, None, None, CONFIG)
    finally:
        case_folder.chmod(0o700)


def test_a_full_disk_ends_the_run_and_keeps_what_is_saved(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(study)
    saved, keep = [], study.predicted

    def full(case_id: str, *arguments: object, **others: object) -> int:
        if saved:
            raise StorageError("the disk is full")
        saved.append(case_id)
        return keep(case_id, *arguments, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "predicted", full)
    with pytest.raises(StorageError, match="disk is full"):
        predict(study, None, None, CONFIG)
    assert study.prediction("first") is not None
    assert saved == ["first"]


def test_unknown_cases_models_and_devices_are_refused_before_any_work(study: Study) -> None:
    with pytest.raises(StudyError, match="no model yet"):
        predict(study, None, None, CONFIG)
    add_model(study)
    with pytest.raises(StudyError, match="no case 'nobody'"):
        predict(study, None, ["first", "nobody"], CONFIG)
    with pytest.raises(StudyError, match="no model 7"):
        predict(study, 7, ["first"], CONFIG)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="choose device cpu or auto"):
            predict(study, None, None, PredictConfig(device="cuda"))
    add_model(study, classes=(0, 1, 9))
    with pytest.raises(StudyError, match="structure 9, which this study does not have"):
        predict(study, None, None, CONFIG)
    assert study.prediction("first") is None


def test_removed_islands_and_settings_stand_in_the_prediction(study: Study) -> None:
    add_model(study)
    predict(study, None, ["first"], PredictConfig(device="cpu", overlap=0.25))
    found = study.prediction("first")
    assert found is not None
    assert found.info["settings"] == {
        "device": "cpu",
        "overlap": 0.25,
        "flips": False,
        "clean_up": True,
        "prior": "auto",
    }
    assert found.info["device"] == "cpu"
    assert isinstance(found.info["removed_ml"], dict)
