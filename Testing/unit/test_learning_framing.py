"""Whole scans on one frame: placing, atlases, and a training that uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semiseg.bundle.writing import export_bundle
from semiseg.config import PredictConfig, PropagationConfig, TrainConfig
from semiseg.errors import CancelledError, ConfigError, NotEnoughLabelsError, StudyError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.inference import predict
from semiseg.learning import framing, run
from semiseg.learning.framing import Framing, require_no_sizes
from semiseg.learning.plan import Plan
from semiseg.learning.survey import survey
from semiseg.methods import frame as frames
from semiseg.methods.frame import Box, Frame, box_around
from semiseg.models import load_model
from semiseg.propagation import propagate
from semiseg.registration.prepared import Prepared
from semiseg.registration.start import Start
from semiseg.study.study import Study
from semiseg.trainer import train

Make = Callable[..., Study]
ALL = tuple(range(10))
GRID = Grid(size_xyz=(8, 10, 12), spacing_mm_xyz=(2.0, 3.0, 4.0), origin_mm_lps=(5.0, -7.0, 90.0))
HERE = Start(matrix=torch.eye(3), offset_mm=torch.zeros(3), certainty=1.0, reason="")


@pytest.fixture(autouse=True)
def scans_lie_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phantoms do; finding that out is another test's subject."""
    monkeypatch.setattr(frames, "affine_start", lambda *_: HERE)
    monkeypatch.setitem(framing.VOXELS, "cpu", 4_000)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(
        **{"method": "mass", "steps": 2, "minutes": None, "device": "cpu", **changes}
    )


def weights(study: Study, model_id: int) -> dict[str, torch.Tensor]:
    model = load_model(study.model(model_id).folder, torch.device("cpu"))
    return model.network.state_dict()


def test_a_box_covers_what_it_is_around_in_whole_eights() -> None:
    low, high = np.array([0.0, 10.0, 20.0]), np.array([100.0, 90.0, 220.0])
    box = box_around(low, high, voxels=8_000, finest_mm=1.0)
    end = np.asarray(box.origin_mm_zyx) + (np.asarray(box.shape_zyx) - 1) * box.spacing_mm
    half = box.spacing_mm / 2
    assert all(side % 8 == 0 for side in box.shape_zyx)
    assert (np.asarray(box.origin_mm_zyx) - half <= low).all()
    assert (end + half >= high).all()
    assert box_around(low, high, voxels=10**9, finest_mm=2.0).spacing_mm == 2.0


def test_what_is_placed_on_a_frame_comes_back_to_its_grid() -> None:
    image = Prepared(
        array=np.zeros((4, 4, 4), np.float32),
        mask=np.ones((4, 4, 4), bool),
        grid=Grid(size_xyz=(4, 4, 4), spacing_mm_xyz=(3.0,) * 3),
        modality="MR",
        device=torch.device("cpu"),
    )
    box = Box(origin_mm_zyx=(88.0, -9.0, 3.0), spacing_mm=2.0, shape_zyx=(24, 16, 8))
    made = Frame.of(image, box)
    assert (made.box, made.reference.modality) == (box, "MR")
    away = Start(
        matrix=1.1 * torch.eye(3),
        offset_mm=torch.tensor([-9.0, 1.0, -1.0]),
        certainty=1.0,
        reason="",
    )
    shares = torch.zeros(2, 24, 16, 8)
    shares[1, :, :, :] = torch.linspace(0, 1, 24).view(-1, 1, 1)
    shares[0] = 1 - shares[1]
    found = torch.cat([part for _, part in made.back(shares, GRID, away)], dim=1)
    assert found.shape == (2, 12, 10, 8)
    assert torch.allclose(found.sum(dim=0), torch.ones(12, 10, 8), atol=1e-5)
    # The voxel's millimetres, led back to the reference, and from there to the frame's slice.
    z = ((90.0 + 4.0 * 5 + 9.0) / 1.1 - 88.0) / 2.0
    assert float(found[1, 5, 4, 4]) == pytest.approx(z / 23, abs=1e-4)


def test_beyond_the_frame_all_is_background() -> None:
    made = Frame()
    far = Grid(size_xyz=(3, 3, 3), spacing_mm_xyz=(1.0,) * 3, origin_mm_lps=(500.0, 0.0, 0.0))
    found = torch.cat([p for _, p in made.back(torch.ones(2, 1, 1, 1) / 2, far, HERE)], dim=1)
    assert torch.equal(found[0], torch.ones(3, 3, 3))
    assert torch.equal(found[1], torch.zeros(3, 3, 3))


def test_a_study_is_learned_and_segmented_with_its_atlases(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR", "CT"), slices=ALL)
    model_id = train(study, config(validation="none"))
    info: Any = study.model(model_id).info
    assert info["plan"]["whole"]
    assert info["patch_zyx"] == info["plan"]["patch_zyx"]
    kept = weights(study, model_id)
    assert kept["modules_of_method.atlases.image"].shape[0] == 2
    predict(study, model_id, ["c2"], PredictConfig(device="cpu"))
    found = study.prediction("c2")
    assert found is not None
    assert found.array.shape == (10, 16, 16)
    assert set(np.unique(found.array)) <= {0, 1, 2}


def test_the_same_steps_give_the_same_weights(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), slices=ALL)
    one, other = (weights(study, train(study, config(validation="none"))) for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_labels_of_one_modality_serve_the_other(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), annotated=1, slices=ALL)
    model_id = train(study, config(validation="none"))
    predict(study, model_id, ["c1"], PredictConfig(device="cpu"))
    assert study.prediction("c1") is not None


def test_held_back_scans_are_scored(phantom_study: Make) -> None:
    study = phantom_study(("CT", "CT"), slices=ALL, splits=("train", "val"))
    info: Any = study.model(train(study, config())).info
    assert info["validation"]["kind"] == "split"
    assert 0 <= info["validation"]["dice"] <= 1


def test_a_few_slices_are_no_atlas(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), slices=(4, 5))
    with pytest.raises(NotEnoughLabelsError, match=r"about \d+%\); propagate the labels first"):
        train(study, config(validation="none"))


def test_slices_serve_once_they_are_propagated(phantom_study: Make) -> None:
    study = phantom_study(("CT", "CT"), annotated=1, slices=(1, 4, 5, 8))
    with pytest.raises(NotEnoughLabelsError):
        train(study, config(validation="none"))
    propagate(study, PropagationConfig(), case_ids=["c0"])
    kept = weights(study, train(study, config(validation="none")))
    confidence = kept["modules_of_method.atlases.valid"]
    assert 0 < int(confidence[confidence > 0].min()) < 255


def test_a_stopped_training_goes_on_to_the_same_weights(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), slices=ALL)
    settings = config(validation="none", steps=4, checkpoint_every_steps=1)
    whole = weights(study, train(study, settings, resume=False))

    def stop(event: Event) -> None:
        if event.phase == "train" and event.step == 1:
            raise CancelledError("stopped")

    monkey = pytest.MonkeyPatch()
    monkey.setattr(run, "_REPORT_EVERY_S", 0.0)
    with pytest.raises(CancelledError):
        train(study, settings, stop)
    monkey.undo()
    again = weights(study, train(study, settings))
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_bundle_cannot_hold_it(phantom_study: Make, tmp_path: Path) -> None:
    study = phantom_study(("CT", "MR"), slices=ALL)
    model_id = train(study, config(validation="none", steps=1))
    with pytest.raises(StudyError, match="a bundle cannot hold"):
        export_bundle(study, tmp_path / "bundle.zip", model_id)


def test_five_atlases_of_a_modality_are_enough(phantom_study: Make) -> None:
    study = phantom_study(("CT",) * 7, annotated=7, slices=ALL)
    model_id = train(study, config(validation="none", steps=1))
    assert weights(study, model_id)["modules_of_method.atlases.modality"].tolist() == [0] * 5


def test_the_user_hears_which_scan_is_placed(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), slices=ALL)
    told: list[Event] = []
    Framing(study, survey(study, use_propagated=True), "cpu", told.append)
    assert [event.message for event in told] == [
        f"placing {study.case(name).name} on the common frame" for name in ("c0", "c1")
    ]


@pytest.mark.parametrize("size", [{"spacing_mm": 2.0}, {"patch": (16, 16, 16)}, {"dims": "2"}])
def test_sizes_that_the_frame_decides_are_refused(size: dict[str, Any]) -> None:
    require_no_sizes(config())
    with pytest.raises(ConfigError, match="on a frame that it chooses itself"):
        require_no_sizes(config(**size))


def test_whole_scans_are_not_cut_when_memory_is_out(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR"), slices=ALL)
    plan = Framing(study, survey(study, use_propagated=True), "cpu", lambda _: None).plan
    smaller = plan.smaller()
    assert smaller is not None
    assert (smaller.patch_zyx, smaller.n_labelled) == (plan.patch_zyx, 1)
    assert smaller.smaller() is None
    assert Plan.from_json(plan.to_json()) == plan
