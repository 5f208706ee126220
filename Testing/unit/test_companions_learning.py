"""Companions on the way through training and segmentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semiseg.config import PredictConfig, TrainConfig
from semiseg.data.batch import Batch
from semiseg.data.cases import CompanionVolume, TrainingCase, load_training_case
from semiseg.data.companions import (
    companions_of,
    on_grid,
    own_volumes,
    streams_of,
    with_companions,
)
from semiseg.data.sampler import Sampler, SamplerSettings
from semiseg.data.supervision import Wanted
from semiseg.data.training_grid import to_training_grid
from semiseg.errors import StudyError
from semiseg.events import ignore
from semiseg.images.grid import Grid
from semiseg.images.reading import Image, write_image
from semiseg.inference import predict, predict_image
from semiseg.learning.places import Correspondence
from semiseg.learning.plan import Plan
from semiseg.learning.stand_ins import TRUST, stand_ins
from semiseg.learning.survey import survey
from semiseg.models import load_model
from semiseg.networks import NetworkSpec
from semiseg.study.study import Study
from semiseg.trainer import train

PhantomStudy = Callable[..., Study]
SPACING = (4.0, 3.0, 3.0)
CPU = torch.device("cpu")
GRID = Grid(size_xyz=(16, 16, 10), spacing_mm_xyz=(3.0, 3.0, 4.0))
COARSE = Grid(size_xyz=(8, 8, 10), spacing_mm_xyz=(6.0, 6.0, 4.0), origin_mm_lps=(1.5, 1.5, 0.0))
STEPS = TrainConfig(
    method="maml", minutes=None, steps=1, device="cpu", validation="none", patch=(16, 16, 16)
)


def add_t2(study: Study, case_id: str, folder: Path, grid: Grid = COARSE) -> None:
    """The negative of the image, with noise that depends on the case."""
    image = study.image(case_id).array
    if grid == COARSE:
        image = image.reshape(10, 8, 2, 8, 2).mean(axis=(2, 4))
    noise = np.random.default_rng(len(case_id)).normal(0, 5, image.shape)
    path = folder / f"{case_id}-t2.nii.gz"
    write_image(path, (1000 - image + noise).astype(np.float32), grid)
    study.add_companion(case_id, path, "T2")


@pytest.fixture
def paired(phantom_study: PhantomStudy, tmp_path: Path) -> Study:
    """Two annotated MR with T2, and a test case without."""
    study = phantom_study(("MR", "MR", "MR"), splits=("train", "train", "test"))
    for case_id in ("c0", "c1"):
        add_t2(study, case_id, tmp_path)
    return study


def training_case(study: Study, case_id: str, streams: tuple[str, ...]) -> TrainingCase:
    wanted = Wanted(classes=(0, 1, 2), use_propagated=True)
    case = load_training_case(study, study.case(case_id), SPACING, wanted)
    return with_companions(study, case, streams)


def drawn(cases: list[TrainingCase], patch: tuple[int, int, int] = (8, 16, 16)) -> Batch:
    settings = SamplerSettings(
        patch_zyx=patch,
        n_labelled=4,
        n_classes=3,
        spacing_mm_zyx=SPACING,
        streams=("MR", "T2"),
        spatial=None,
        greys=None,
    )
    return Sampler(cases, settings, CPU).batch(0)


def test_streams_are_modalities_first_then_names(paired: Study) -> None:
    assert streams_of(paired.cases.values()) == ("MR", "T2")


def test_companions_lie_on_the_grid_of_their_case(paired: Study) -> None:
    case = training_case(paired, "c0", ("MR", "T2"))
    (companion,) = case.companions
    assert companion.array.shape == case.shape_zyx
    inner = (slice(2, 8), slice(3, 13), slice(3, 13))
    like = np.corrcoef(companion.array[inner].ravel(), case.image.array[inner].ravel())[0, 1]
    assert like < -0.7
    assert training_case(paired, "c0", ("MR",)).companions == ()


@pytest.mark.parametrize("patch", [(8, 16, 16), (1, 16, 16)])
def test_batches_hold_all_volumes_and_say_which_are_there(
    paired: Study, patch: tuple[int, int, int]
) -> None:
    both = training_case(paired, "c0", ("MR", "T2"))
    alone = training_case(paired, "c1", ("MR",))
    batch = drawn([both, alone], patch)
    assert batch.companions is not None
    assert batch.present is not None
    assert batch.companions.shape == (4, 2, *(patch if patch[0] > 1 else patch[1:]))
    assert torch.equal(batch.companions[:, :1], batch.image)
    assert torch.isfinite(batch.companions).all()
    for name, present, volumes in zip(batch.case, batch.present, batch.companions, strict=True):
        assert present.tolist() == [1.0, float(name == "c0")]
        assert bool(volumes[1].any()) == (name == "c0")


def test_companions_are_cut_where_the_image_is(paired: Study) -> None:
    case = training_case(paired, "c0", ("MR", "T2"))
    same = CompanionVolume(stream="T2", array=case.image.array, trust=0.5)
    settings = SamplerSettings(
        patch_zyx=(8, 16, 16),
        n_labelled=2,
        n_classes=3,
        spacing_mm_zyx=SPACING,
        streams=("MR", "T2"),
        greys=None,
    )
    batch = Sampler([replace(case, companions=(same,))], settings, CPU).batch(3)
    assert batch.companions is not None
    assert batch.present is not None
    assert torch.allclose(batch.companions[:, 0], batch.companions[:, 1], atol=1e-5)
    assert batch.present.tolist() == [[1.0, 0.5], [1.0, 0.5]]


def test_greys_of_each_volume_change_on_their_own(paired: Study) -> None:
    case = training_case(paired, "c0", ("MR", "T2"))
    same = replace(case, companions=(CompanionVolume(stream="T2", array=case.image.array),))
    settings = SamplerSettings(
        patch_zyx=(8, 16, 16), n_labelled=4, n_classes=3, spacing_mm_zyx=SPACING, spatial=None
    )
    plain = Sampler([same], settings, CPU).batch(0)
    batch = Sampler([same], replace(settings, streams=("MR", "T2")), CPU).batch(0)
    assert plain.companions is None
    assert torch.equal(plain.image[:1], batch.image[:1])
    assert batch.companions is not None
    assert not torch.allclose(batch.companions[:, 0], batch.companions[:, 1], atol=0.05)


def test_scoring_sees_no_stand_in(paired: Study) -> None:
    case = training_case(paired, "c0", ("MR", "T2"))
    other = CompanionVolume(stream="CT", array=case.image.array, trust=TRUST)
    case = replace(case, companions=(*case.companions, other))
    volumes, present = own_volumes(case, ("CT", "MR", "T2"))
    assert present == (False, True, True)
    assert not volumes[0].any()


def test_a_paired_study_is_learned_and_segmented_with_what_is_there(
    paired: Study, tmp_path: Path
) -> None:
    model_id = train(paired, STEPS)
    folder = paired.model(model_id).folder
    assert json.loads((folder / "model.json").read_text())["streams"] == ["MR", "T2"]
    predict(paired, model_id, None, PredictConfig(device="cpu"))
    notes = {c: str(paired.prediction_info(c, 1).info["notes"]) for c in paired.cases}
    assert notes["c0"] == "[]"
    assert "There is no T2: segmented from MR." in notes["c2"]
    paired.set_sequence("c2", "T2")
    predict(paired, model_id, ["c2"], PredictConfig(device="cpu"))
    assert "There is no MR: segmented from T2." in str(
        paired.prediction_info("c2", 2).info["notes"]
    )
    paired.set_sequence("c2", "FLAIR")
    predict(paired, model_id, ["c2"], PredictConfig(device="cpu"))
    assert "did not learn from FLAIR" in str(paired.prediction_info("c2", 3).info["notes"])


def test_companions_matter_where_they_are_given(paired: Study) -> None:
    model = load_model(paired.model(train(paired, STEPS)).folder, CPU)
    config = PredictConfig(device="cpu", clean_up=False)
    image, case = paired.image("c0"), paired.case("c0")
    given = companions_of(paired, case, model.streams)
    both = predict_image(model, image, "MR", config, companions=given)
    alone = predict_image(model, image, "MR", config)
    missing = predict_image(model, image, "MR", config, companions=replace(given, images={}))
    assert np.array_equal(alone.uncertainty, missing.uncertainty)
    assert not np.array_equal(alone.uncertainty, both.uncertainty)


def test_a_companion_that_changes_makes_another_training(paired: Study) -> None:
    before = survey(paired, use_propagated=True).train[0].digest
    paired.remove_companion("c0", "T2")
    assert survey(paired, use_propagated=True).train[0].digest != before


def test_the_plan_keeps_its_streams() -> None:
    plan = Plan(
        spacing_mm_zyx=SPACING,
        patch_zyx=(8, 16, 16),
        n_labelled=1,
        n_unlabelled=0,
        network=NetworkSpec(n_classes=2),
        device="cpu",
        streams=("CT", "MR"),
    )
    assert Plan.from_json(plan.to_json()) == plan
    older = {name: value for name, value in plan.to_json().items() if name != "streams"}
    assert Plan.from_json(older).streams == ()


def test_scans_of_other_patients_stand_in_for_a_missing_modality(
    phantom_study: PhantomStudy,
) -> None:
    study = phantom_study(("CT", "MR", "MR"), annotated=2)
    found = survey(study, use_propagated=True)
    places = Correspondence(study, found, None, ignore)
    case = training_case(study, "c0", ("CT", "MR"))
    (other,) = stand_ins(study, found, places, case)
    assert (other.stream, other.trust) == ("MR", TRUST)
    assert other.array.shape == case.shape_zyx
    assert np.isfinite(other.array).all()
    inside = case.image.array > -0.5
    assert other.array[inside].mean() > other.array[~inside].mean()
    mr = training_case(study, "c2", ("CT", "MR"))
    assert [volume.stream for volume in stand_ins(study, found, places, mr)] == ["CT"]


def test_the_same_patients_scan_is_preferred_as_stand_in(
    phantom_study: PhantomStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "MR"))
    path = tmp_path / "same.nii.gz"
    write_image(path, study.image("c1").array + 1, GRID)
    study.add_case(path, case_id="same", patient="c0", modality="MR")
    asked: list[str | None] = []
    places = Correspondence(study, found := survey(study, use_propagated=True), None, ignore)
    monkeypatch.setattr(places, "registered", lambda case, onto=None: asked.append(onto))
    assert stand_ins(study, found, places, training_case(study, "c0", ())) == ()
    assert asked == ["same"]


def test_an_unpaired_study_is_learned_with_stand_ins(phantom_study: PhantomStudy) -> None:
    study = phantom_study(("CT", "MR", "MR"), annotated=1)
    model_id = train(study, STEPS)
    predict(study, model_id, ["c2"], PredictConfig(device="cpu"))
    info = study.prediction_info("c2", 1).info
    assert "There is no" not in str(info["notes"])
    assert list((study.cache_dir / "registration").glob("*.safetensors"))


def test_models_of_several_volumes_are_no_bundles(paired: Study, tmp_path: Path) -> None:
    from semiseg.bundle.writing import export_bundle

    train(paired, STEPS)
    with pytest.raises(StudyError, match="a network each for MR, T2"):
        export_bundle(paired, tmp_path / "bundle")


def test_volumes_meet_in_space_whatever_their_axes() -> None:
    """The same function of world points, on an oblique grid and on that grid turned round."""
    tilted = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    grid = Grid(
        size_xyz=(16, 14, 12),
        spacing_mm_xyz=(2.0, 2.0, 3.0),
        origin_mm_lps=(-20.0, 15.0, 5.0),
        direction=tuple(tilted.ravel()),
    )
    last = grid.to_world(np.array([15.0, 0.0, 11.0]))
    x, y, z = tilted.T
    turned = Grid(
        size_xyz=(12, 16, 14),
        spacing_mm_xyz=(3.0, 2.0, 2.0),
        origin_mm_lps=(float(last[0]), float(last[1]), float(last[2])),
        direction=tuple(np.stack([-z, -x, y], axis=1).ravel()),
    )
    here, there = (Image(array=ramp(one), grid=one, modality_tag=None) for one in (grid, turned))
    ready = to_training_grid(here, "CT", (3.0, 2.0, 2.0))
    found = on_grid(there, "CT", ready.grid)
    assert np.allclose(found, ready.array, atol=1e-3)


def ramp(grid: Grid) -> np.ndarray:
    """Grey values that differ in all directions of the world, within the window of CT."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    world = grid.to_world(np.stack([x, y, z], axis=-1).astype(np.float64))
    return (world @ np.array([1.0, -2.0, 3.0]) - 20).astype(np.float32)
