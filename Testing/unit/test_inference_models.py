"""Loading models: each field checked, nothing foreign or broken taken in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semiseg.errors import SchemaError, StudyError
from semiseg.methods.base import MethodSettings, build_method
from semiseg.models import Model, load_model, require_fit
from semiseg.networks import NetworkSpec
from semiseg.study.protocol import parse_structures

CPU = torch.device("cpu")
SPEC = NetworkSpec(n_classes=3, channels=(2, 4), strides=((1, 2, 2),), convolutions=(1, 1))


def write_model(folder: Path, *, seed: int = 0, **changed: object) -> Path:
    folder.mkdir()
    torch.manual_seed(seed)
    method = build_method("supervised", MethodSettings(network=SPEC))
    save_file(method.modules.state_dict(), folder / "weights.safetensors")
    description: dict[str, object] = {
        "name": "round 1",
        "method": "supervised",
        "network": SPEC.to_json(),
        "classes": [0, 4, 2],
        "names": {"4": "liver", "2": "spleen"},
        "spacing_mm_zyx": [3.0, 1.5, 1.5],
        "patch_zyx": [8, 16, 16],
        "modalities": ["CT", "MR"],
        "study_id": "this",
        **changed,
    }
    kept = {name: value for name, value in description.items() if value is not ...}
    (folder / "model.json").write_text(json.dumps(kept))
    return folder


def test_a_model_comes_back_with_all_that_is_needed_to_run_it(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "0001", mirror_axes=[0]), CPU)
    assert model.name == "round 1"
    assert model.classes == (0, 4, 2)
    assert model.names == {4: "liver", 2: "spleen"}
    assert (model.window_zyx, model.multiple_zyx) == ((8, 16, 16), (1, 2, 2))
    assert (model.spacing_mm_zyx, model.mirror_axes) == ((3.0, 1.5, 1.5), (0,))
    assert not model.network.training
    assert model.network(torch.zeros(1, 1, 8, 16, 16)).shape == (1, 3, 8, 16, 16)


def test_two_models_are_told_apart_and_may_be_used_in_turn(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    image = torch.randn(1, 1, 8, 16, 16)
    first, second = (load_model(folder, CPU).network(image) for folder in folders)
    assert not torch.equal(first, second)
    assert torch.equal(first, load_model(folders[0], CPU).network(image))


def test_a_network_for_slices_has_windows_of_one_slice(tmp_path: Path) -> None:
    flat = NetworkSpec(n_classes=3, channels=(2, 4), strides=((2, 2),), convolutions=(1, 1))
    folder = write_model(tmp_path / "m", network=flat.to_json(), patch_zyx=[16, 16])
    save_file(
        build_method("supervised", MethodSettings(network=flat)).modules.state_dict(),
        folder / "weights.safetensors",
    )
    model = load_model(folder, CPU)
    assert (model.window_zyx, model.multiple_zyx) == ((1, 16, 16), (1, 2, 2))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"method": "magic"}, "no method 'magic'.*update SemiSeg"),
        ({"method": 3}, "'method' should be text"),
        ({"network": {**SPEC.to_json(), "kind": "other"}}, "networks are of kind unet"),
        ({"network": {"depth": 3}}, "not a network description"),
        ({"network": ...}, "not a network description"),
        ({"classes": [4, 2, 1]}, "should start with 0"),
        ({"classes": [0]}, "should start with 0"),
        ({"classes": [0, 4, 4]}, "different ids"),
        ({"classes": [0, 4, 99999]}, "different ids up to 65535"),
        ({"classes": [0, 4, 2, 1]}, "as many as the network's 3"),
        ({"classes": [0, "liver", 2]}, "'classes' should be a list of whole numbers"),
        ({"spacing_mm_zyx": [1, 2]}, "three lengths"),
        ({"spacing_mm_zyx": [1, 2, "x"]}, "three lengths"),
        ({"spacing_mm_zyx": [1, 2, -1]}, "three lengths"),
        ({"patch_zyx": [8, 16]}, "3 sides"),
        ({"patch_zyx": [8, 16, 0]}, "3 sides"),
        ({"patch_zyx": [8, 16, 15]}, "multiples of"),
        ({"modalities": ["CT", "PET"]}, "some of CT, MR"),
        ({"modalities": []}, "some of CT, MR"),
    ],
)
def test_each_broken_field_is_named(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SchemaError, match=sentence) as caught:
        load_model(write_model(tmp_path / "0001", **changed), CPU)
    assert "0001" in str(caught.value)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def damage_missing_tensor(path: Path) -> None:
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)


def damage_foreign_tensor(path: Path) -> None:
    save_file({**load_file(path), "zzz": torch.zeros(2)}, path)


def damage_shape(path: Path) -> None:
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name].flatten()[:1].clone()}, path)


def damage_numbers(path: Path) -> None:
    weights = load_file(path)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Path.unlink, "has no weights"),
        (damage_cut, "are corrupt"),
        (damage_pickle, "are corrupt"),
        (damage_missing_tensor, "is missing"),
        (damage_foreign_tensor, "'zzz' is not part of the network"),
        (damage_shape, "has the shape"),
        (damage_numbers, "no numbers"),
    ],
)
def test_broken_weights_are_refused_with_what_to_do(
    tmp_path: Path, damage: Any, sentence: str
) -> None:
    folder = write_model(tmp_path / "0001")
    damage(folder / "weights.safetensors")
    with pytest.raises(SchemaError, match=f"{sentence}.*train anew"):
        load_model(folder, CPU)


def test_a_missing_description_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"model\.json"):
        load_model(tmp_path, CPU)


def loaded(tmp_path: Path, **changed: object) -> Model:
    return load_model(write_model(tmp_path / "0001", **changed), CPU)


def test_a_structure_that_the_study_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"structure 2 \(spleen\), which this study does not"):
        require_fit(loaded(tmp_path), parse_structures("4=liver"), "this")


def test_a_renamed_structure_of_the_same_study_is_still_the_same(tmp_path: Path) -> None:
    require_fit(loaded(tmp_path), parse_structures("4=Leber,2=spleen,1=aorta"), "this")


@pytest.mark.parametrize("names", [{"4": "liver", "2": "spleen"}, {}])
def test_a_model_of_another_study_must_mean_the_same_by_its_ids(
    tmp_path: Path, names: dict[str, str]
) -> None:
    model = loaded(tmp_path, names=names)
    with pytest.raises(StudyError, match=r"comes from another study, where structure 4 is"):
        require_fit(model, parse_structures("4=kidney_left,2=spleen"), "that")


def test_a_model_of_another_study_with_the_same_structures_fits(tmp_path: Path) -> None:
    require_fit(loaded(tmp_path), parse_structures("4=Liver,2=spleen"), "that")
