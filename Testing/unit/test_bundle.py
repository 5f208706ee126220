"""Bundles: they run where SemiSeg is not, give the same numbers, and come back unharmed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from semiseg.bundle import layout
from semiseg.bundle.importing import import_bundle
from semiseg.bundle.matching import match
from semiseg.bundle.reading import read_bundle
from semiseg.bundle.source import bundle_scripts
from semiseg.bundle.writing import BundleWords, export_bundle
from semiseg.config import PredictConfig, TrainConfig
from semiseg.data.training_grid import to_training_grid
from semiseg.errors import ConfigError, SchemaError, SemiSegError, StorageError, StudyError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.labels import read_label
from semiseg.images.reading import read_image, write_image
from semiseg.inference import predict_image
from semiseg.learning.plan import Plan
from semiseg.learning.start import read_start
from semiseg.methods.base import METHODS, MethodSettings, build_method
from semiseg.models import load_model, require_fit
from semiseg.networks import NetworkSpec, build_network
from semiseg.study.protocol import Protocol, Structure, common_structure
from semiseg.study.study import Study
from semiseg.trainer import train

SPEC = NetworkSpec(
    n_classes=3, channels=(4, 6, 8), strides=((1, 2, 2), (2, 2, 2)), convolutions=(1, 2, 1)
)
FLAT = NetworkSpec(n_classes=3, channels=(4, 6), strides=((2, 2),), convolutions=(1, 1))
# Flipped, permuted and oblique: no shortcut in the preprocessing stays unseen.
GRID = Grid(
    size_xyz=(22, 14, 19),
    spacing_mm_xyz=(1.9, 3.1, 1.4),
    origin_mm_lps=(12.0, -40.0, 7.5),
    direction=(0.0, -0.1736482, -0.9848078, -1.0, 0.0, 0.0, 0.0, 0.9848078, -0.1736482),
)
PROTOCOL = Protocol((common_structure("liver", 4), common_structure("kidney_left", 300)))

# A child process in which SemiSeg cannot be found, as at the place where a bundle goes.
WITHOUT_SEMISEG = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "semiseg":
            raise ModuleNotFoundError("semiseg is not installed here")
sys.meta_path.insert(0, Gone())
sys.path.insert(0, ".")
"""
RUN = """
from monai.bundle import ConfigParser
import numpy as np, torch
parser = ConfigParser()
parser.read_config("configs/inference.json")
parser.read_meta("configs/metadata.json")
parser["images"], parser["modality"] = [sys.argv[1]], sys.argv[2]
parser["device"] = "$torch.device('cpu')"
with torch.no_grad():
    parser.get_parsed_content("initialize")
    data = parser.get_parsed_content("dataset")[0]["image"]
    network = parser.get_parsed_content("network")
    window = data[None][..., :8, :16, :16]
    logits = network(window.squeeze(2)[:, :, 0] if sys.argv[3] == "flat" else window)
    parser.get_parsed_content("run")
np.savez("out.npz", image=data[0].numpy(), logits=logits.numpy())
assert not any(name.split(".")[0] == "semiseg" for name in sys.modules)
"""


def make_study(folder: Path, method: str = "supervised", spec: NetworkSpec = SPEC) -> Study:
    """A study with one model of random weights."""
    study = Study.create(folder, name="Ward of Jane Doe", protocol=PROTOCOL)
    torch.manual_seed(3)
    modules = build_method(method, MethodSettings(network=spec)).modules
    description: dict[str, Any] = {
        "name": "round 1",
        "method": method,
        "network": spec.to_json(),
        "classes": [0, 300, 4],
        "names": {"4": "liver", "300": "kidney_left"},
        "spacing_mm_zyx": [2.7, 1.8, 2.2],
        "patch_zyx": [8, 16, 16][-spec.dims :],
        "mirror_axes": [0],
        "modalities": ["CT", "MR"],
        "steps": 5,
        "settings": {"start_from": "/srv/doe/secret.zip"},
        "cases": {"jane_doe": {"digest": "0", "human": True}},
        "validation": {
            "kind": "split",
            "how": "jane_doe is held back",
            "dice": 0.75,
            "structures": {"4": 0.8, "300": 0.7},
            "cases": {"jane_doe": {"4": 0.8}},
        },
        "study_id": study.id,
    }
    study.add_model(
        lambda d: save_file(modules.state_dict(), d / "weights.safetensors"), description
    )
    return study


def run_without_semiseg(bundle: Path, image: Path, modality: str, *, flat: bool = False) -> Any:
    """What the bundle computes of `image` in a process without SemiSeg."""
    arguments = [str(image), modality, "flat" if flat else "deep"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_SEMISEG + RUN, *arguments],
        cwd=bundle,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(bundle / "out.npz")


def write_scan(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    smooth = rng.normal(0, 1, (5, 4, 5)).repeat(4, 0).repeat(4, 1).repeat(5, 2)
    values = 120 * smooth[: GRID.shape_zyx[0], : GRID.shape_zyx[1], : GRID.shape_zyx[2]]
    path = folder / "scan.nii.gz"
    write_image(path, (values + rng.normal(0, 5, values.shape)).astype(np.float32), GRID)
    return path


@pytest.mark.parametrize(
    ("method", "modality", "spec"),
    [("cross_pseudo", "CT", SPEC), ("mean_teacher", "MR", FLAT)],
)
def test_a_bundle_gives_the_same_numbers_in_a_process_without_semiseg(
    tmp_path: Path, method: str, modality: Any, spec: NetworkSpec
) -> None:
    study = make_study(tmp_path / "study", method, spec)
    bundle = export_bundle(study, tmp_path / "bundle")
    scan = write_scan(tmp_path)
    flat = spec.dims == 2
    theirs = run_without_semiseg(bundle, scan, modality, flat=flat)
    model = load_model(study.model().folder, torch.device("cpu"))
    image = read_image(scan)
    ours = to_training_grid(image, modality, model.spacing_mm_zyx)
    np.testing.assert_allclose(theirs["image"], ours.array, rtol=0, atol=1e-5)
    window = torch.from_numpy(ours.array)[None, None, :8, :16, :16]
    with torch.no_grad():
        logits = model.network(window[:, :, 0] if flat else window).numpy()
    np.testing.assert_allclose(theirs["logits"], logits, rtol=0, atol=1e-4)
    found = predict_image(model, image, modality, PredictConfig(device="cpu", clean_up=False))
    label = read_label(bundle / "segmentations" / "scan_seg.nii.gz")
    assert label.grid.difference(GRID) is None
    assert set(np.unique(label.array)) <= {0, 4, 300}
    assert (label.array == found.label).mean() > 0.999


def test_a_bundle_is_what_monai_asks_for(tmp_path: Path) -> None:
    export_bundle(make_study(tmp_path / "study"), tmp_path / "b")
    metadata = json.loads((tmp_path / "b" / layout.METADATA).read_text())
    # The fields that MONAI's schema of metadata requires.
    needed = {"schema", "version", "changelog", "monai_version", "pytorch_version"}
    needed |= {"numpy_version", "task", "description", "authors", "copyright"}
    assert needed | {"network_data_format"} <= set(metadata)
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {"0": "background", "1": "kidney_left", "2": "liver"}
    check = (
        "from monai.bundle import verify_net_in_out\n"
        "verify_net_in_out('network_def', 'configs/metadata.json', 'configs/inference.json', "
        "device='cpu')\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_SEMISEG + check]
    done = subprocess.run(command, cwd=tmp_path / "b", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_bundle_for_both_modalities_guesses_none(tmp_path: Path) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b")
    assert json.loads((bundle / layout.INFERENCE).read_text())["modality"] == ""


def test_scripts_of_a_bundle_never_name_semiseg_in_an_import() -> None:
    for name, text in bundle_scripts().items():
        compile(text, name, "exec")
        lines = [line for line in text.splitlines() if "import" in line.split("#")[0]]
        assert not [
            line for line in lines if line.lstrip().startswith(("from semiseg", "import s"))
        ]


@pytest.mark.parametrize("name", ["b", "b.zip"])
def test_a_bundle_comes_back_with_structures_weights_and_settings(
    tmp_path: Path, name: str
) -> None:
    study = make_study(tmp_path / "study", "cross_pseudo")
    words = BundleWords(name="Abdomen", license_note="CC BY 4.0")
    back = read_bundle(export_bundle(study, tmp_path / name, words=words))
    assert [structure.id for structure in back.structures] == [300, 4]
    assert back.structures[1] == PROTOCOL.by_id(4)
    assert (back.spec, back.patch_zyx, back.mirror_axes) == (SPEC, (8, 16, 16), (0,))
    assert (back.spacing_mm_zyx, back.modalities) == ((2.7, 1.8, 2.2), ("CT", "MR"))
    assert (back.license_note, back.study_id) == ("CC BY 4.0", study.id)
    kept = load_model(study.model().folder, torch.device("cpu")).network.state_dict()
    assert len(back.weights) == 2
    for number, part in enumerate(("one", "other")):
        for key, tensor in back.weights[number].items():
            assert torch.equal(tensor, kept[f"modules_of_method.{part}.{key}"])


@pytest.mark.parametrize("method", METHODS)
def test_models_of_every_method_are_bundled_or_refused_with_a_sentence(
    tmp_path: Path, method: str
) -> None:
    study = make_study(tmp_path / "study", method)
    try:
        bundle = read_bundle(export_bundle(study, tmp_path / "b"))
    except StudyError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    image = torch.randn(1, 1, 8, 16, 16)
    model = load_model(study.model().folder, torch.device("cpu"))
    probabilities = []
    for weights in bundle.weights:
        network = build_network(bundle.spec).eval()
        network.load_state_dict(dict(weights))
        with torch.no_grad():
            probabilities.append(network(image).softmax(dim=1))
    with torch.no_grad():
        expected = model.network(image).softmax(dim=1)
    torch.testing.assert_close(torch.stack(probabilities).mean(dim=0), expected)


def test_zip_of_the_same_model_has_the_same_bytes(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    one, two = (export_bundle(study, tmp_path / folder / "m.zip") for folder in _folders(tmp_path))
    assert one.read_bytes() == two.read_bytes()


def _folders(parent: Path) -> list[str]:
    for name in ("x", "y"):
        (parent / name).mkdir()
    return ["x", "y"]


def test_no_case_no_path_and_no_study_name_is_in_a_bundle(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    events: list[Event] = []
    bundle = export_bundle(study, tmp_path / "b", emit=events.append)
    for path in bundle.rglob("*"):
        content = path.read_bytes().lower() if path.is_file() else b""
        for word in (b"jane", b"ward of", b"secret", str(tmp_path).encode().lower()):
            assert word not in content, path
    assert events == []


def test_words_that_identify_somebody_are_warned_of_before_writing(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    path = write_scan(tmp_path)
    study.add_case(path, case_id="c1", patient="Doe^Jane", modality="CT")
    words = BundleWords(description="Trained on jane doe", authors="who@clinic.org, /srv/x/y")
    there: list[bool] = []
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        there.append((tmp_path / "b").exists())

    export_bundle(study, tmp_path / "b", words=words, emit=hear)
    assert there == [False]
    assert events[0].data["warning"] == "identifiable"
    for found in ("the patient's name 'Doe^Jane'", "the path '/srv/x/y'", "who@clinic.org"):
        assert found in events[0].message
    export_bundle(study, study.folder / "b", words=words, emit=hear)
    assert len(events) == 1


def test_what_is_there_already_is_not_replaced_unasked(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    export_bundle(study, tmp_path / "b")
    with pytest.raises(StorageError, match="exists already"):
        export_bundle(study, tmp_path / "b")
    export_bundle(study, tmp_path / "b", overwrite=True)
    assert read_bundle(tmp_path / "b").spec == SPEC
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(StorageError, match="other things"):
        export_bundle(study, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_method_whose_output_no_network_gives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study")
    from semiseg.methods.supervised import Supervised

    monkeypatch.setattr(Supervised, "predict", lambda self, image: self.network(image) + 1.0)
    with pytest.raises(StudyError, match="a bundle cannot hold"):
        export_bundle(study, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b")
    weights = torch.load(bundle / layout.WEIGHTS, weights_only=True)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = value
    torch.save(weights, bundle / layout.WEIGHTS)
    with pytest.raises(SchemaError, match="finite numbers"):
        read_bundle(bundle)


class _Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/semiseg-was-here",))


def test_foreign_pickles_are_never_run(tmp_path: Path) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b")
    marker = Path("/tmp/semiseg-was-here")
    for write in (
        lambda path: torch.save({"a": _Evil()}, path),
        lambda path: path.write_bytes(pickle.dumps({"a": _Evil()})),
    ):
        write(bundle / layout.WEIGHTS)
        with pytest.raises(
            (StudyError, SchemaError), match=r"foreign code.*refused|kind that is not read"
        ):
            read_bundle(bundle)
        assert not marker.exists()


def _edit(bundle: Path, **changed: object) -> None:
    path = bundle / layout.DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"format": "other"}, "not a bundle that SemiSeg wrote"),
        ({"format_version": 99}, "update SemiSeg"),
        ({"n_networks": 0}, "'n_networks' should be 1 to 8"),
        ({"n_networks": 2}, "do not fit its network"),
        ({"network": {"depth": 3}}, "not a network description"),
        ({"network": {**SPEC.to_json(), "n_classes": 9}}, "do not fit a network with 9"),
        ({"network": {**SPEC.to_json(), "channels": [4, 6, 9000]}}, "larger than any"),
        ({"network": {**SPEC.to_json(), "channels": [4, 6, 9]}}, "do not fit its network"),
        ({"spacing_mm_zyx": [1, 2]}, "three lengths"),
        ({"patch_zyx": [8, 16]}, "does not fit the network"),
        ({"patch_zyx": [8, 16, 17]}, "does not fit the network"),
    ],
)
def test_bundle_with_a_broken_description_is_refused_with_a_sentence(
    tmp_path: Path, changed: dict[str, object], sentence: str
) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b")
    _edit(bundle, **changed)
    with pytest.raises((SchemaError, StudyError), match=sentence):
        read_bundle(bundle)


def test_damaged_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    bundle = export_bundle(study, tmp_path / "b")
    good = (bundle / layout.WEIGHTS).read_bytes()
    for content in (b"", good[: len(good) // 2], b"PK\x03\x04 no weights"):
        (bundle / layout.WEIGHTS).write_bytes(content)
        with pytest.raises((SchemaError, StudyError), match="weights in b"):
            read_bundle(bundle)
    torch.save([torch.zeros(2)], bundle / layout.WEIGHTS)
    with pytest.raises(SchemaError, match="not tensors by name"):
        read_bundle(bundle)
    for text, sentence in (("{", "damaged"), ("[1]", "should hold an object")):
        (bundle / layout.DESCRIPTION).write_text(text)
        with pytest.raises(SchemaError, match=sentence):
            read_bundle(bundle)
    (bundle / layout.DESCRIPTION).unlink()
    (tmp_path / "text.zip").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name in ("b", "text.zip", "empty.zip", "nowhere"):
        with pytest.raises(StudyError, match="not a bundle that SemiSeg wrote"):
            read_bundle(tmp_path / name)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b")
    content = bytearray((bundle / layout.WEIGHTS).read_bytes())
    content[len(content) // 3] ^= 1
    (bundle / layout.WEIGHTS).write_bytes(content)
    with pytest.raises(SchemaError, match="weights in b are damaged"):
        read_bundle(bundle)


def _mutated(value: Any, rng: random.Random) -> Any:
    """`value` with something in it replaced by junk, or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {name: kept for name, kept in value.items() if name != key}
        return {**value, key: _mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _mutated(value[at], rng), *value[at + 1 :]]
    return rng.choice([None, 0, -1, 1e308, float("nan"), 10**40, "x", "", [], {}, [None], True])


def test_mutated_bundles_are_read_or_refused_with_a_sentence(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    bundle, packed = (export_bundle(study, tmp_path / name) for name in ("b", "z.zip"))
    path, weights = bundle / layout.DESCRIPTION, bundle / layout.WEIGHTS
    good = {target: target.read_bytes() for target in (path, weights, packed)}
    rng = random.Random(0)
    for _ in range(100):
        path.write_text(json.dumps(_mutated(json.loads(good[path]), rng)))
        with contextlib.suppress(SemiSegError):
            read_bundle(bundle)
    path.write_bytes(good[path])
    for target, source in ((weights, bundle), (packed, packed)):
        for _ in range(60):
            content = bytearray(good[target])
            for _ in range(rng.randint(1, 8)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            target.write_bytes(content[: rng.choice([None, rng.randrange(len(content))])])
            with contextlib.suppress(SemiSegError):
                read_bundle(source)


def test_zip_that_was_cut_or_swells_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_bundle(make_study(tmp_path / "study"), tmp_path / "b.zip")
    content = bytearray(whole.read_bytes())
    at = content.index(b"semiseg.json") + 60
    content[at : at + 40] = b"\xff" * 40
    whole.write_bytes(content)
    with pytest.raises((SchemaError, StudyError)):
        read_bundle(whole)
    other = export_bundle(make_study(tmp_path / "other"), tmp_path / "c.zip")
    monkeypatch.setattr("semiseg.bundle.reading._LARGEST_JSON", 100)
    with pytest.raises(SchemaError, match="larger than 100 bytes"):
        read_bundle(other)
    folder = export_bundle(make_study(tmp_path / "third"), tmp_path / "d")
    with pytest.raises(SchemaError, match="larger than 100 bytes"):
        read_bundle(folder)


def structure(structure_id: int, name: str, **changed: Any) -> Structure:
    return Structure(id=structure_id, name=name, color=(1, 2, 3), **changed)


def test_damaged_zip_is_refused_with_a_sentence_however_it_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(f"b/{layout.DESCRIPTION}", random.Random(0).randbytes(500))
        content = bytearray(path.read_bytes())
        content[200] ^= 0x55
        path.write_bytes(content)
        with pytest.raises((SchemaError, StorageError), match=r"b\.zip .*[a-z]"):
            read_bundle(path)


def test_zip_with_names_that_are_no_text_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\u00e9", b"")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))
    with pytest.raises(SchemaError, match="is damaged"):
        read_bundle(path)


def test_structures_are_matched_by_code_then_by_name_and_never_by_id() -> None:
    liver = common_structure("liver", 1)
    theirs = [liver, common_structure("kidney_left", 2), structure(3, "Tumor A")]
    ours = [
        structure(1, "tumor_a"),
        structure(2, "Leber", code=liver.code),
        structure(3, "Left kidney"),
        common_structure("kidney_right", 4),
    ]
    assert match(theirs, ours) == {1: 3, 2: 1, 3: 2}
    assert match(theirs, [structure(9, "Liver"), structure(8, "liver (old)")]) == {9: 1}


def test_imported_bundle_segments_as_the_original_did(tmp_path: Path) -> None:
    for method in ("supervised", "cross_pseudo"):
        source = make_study(tmp_path / method, method)
        bundle = export_bundle(source, tmp_path / f"{method}.zip")
        protocol = Protocol((structure(1, "Left kidney"), structure(2, "LIVER")))
        target = Study.create(tmp_path / f"to-{method}", name="other", protocol=protocol)
        record = target.model(import_bundle(target, bundle))
        one, two = (
            load_model(study.model().folder, torch.device("cpu")) for study in (source, target)
        )
        assert two.classes == (0, 1, 2)
        assert record.info["imported"]["bundle"] == method
        assert (two.window_zyx, two.spacing_mm_zyx) == (one.window_zyx, one.spacing_mm_zyx)
        require_fit(two, target.protocol, target.id)
        image = torch.randn(1, 1, 8, 16, 16)
        assert torch.allclose(one.network(image), two.network(image), atol=1e-6)


def test_bundle_with_a_structure_that_the_study_lacks_is_not_imported(tmp_path: Path) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b.zip")
    protocol = Protocol((structure(1, "liver"),))
    target = Study.create(tmp_path / "target", name="other", protocol=protocol)
    with pytest.raises(StudyError, match="segments kidney_left, which this study does not have"):
        import_bundle(target, bundle)
    assert target.models() == ()


def test_start_takes_over_known_channels_and_says_what_begins_anew(tmp_path: Path) -> None:
    bundle = export_bundle(make_study(tmp_path / "study"), tmp_path / "b.zip")
    protocol = Protocol((structure(5, "tumor"), structure(9, "liver")))
    target = Study.create(tmp_path / "target", name="other", protocol=protocol)
    events: list[Event] = []
    start = read_start(target, bundle, (0, 5, 9), events.append)
    assert start.channels == (0, None, 2)
    for words in ("it knows liver", "tumor begins anew", "not needed: kidney_left"):
        assert words in events[0].message
    settings = MethodSettings(network=SPEC)
    torch.manual_seed(7)
    modules = build_method("mean_teacher", settings).modules
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    start.fill(modules)
    weights, after = start.bundle.weights[0], modules.state_dict()
    for prefix in ("network.", "teacher.network."):
        head = after[f"{prefix}head.weight"]
        assert torch.equal(head[[0, 2]], weights["head.weight"][[0, 2]])
        assert torch.equal(head[1], before[f"{prefix}head.weight"][1])
        assert torch.equal(after[f"{prefix}down.0.0.weight"], weights["down.0.0.weight"])


def test_second_network_of_its_own_keeps_its_random_weights(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    start = read_start(study, export_bundle(study, tmp_path / "b.zip"), (0, 300, 4), lambda _: None)
    modules = build_method("cross_pseudo", MethodSettings(network=SPEC)).modules
    before = modules["other"].state_dict()["head.weight"].clone()
    start.fill(modules)
    assert torch.equal(modules["one"].head.weight, start.bundle.weights[0]["head.weight"])
    assert torch.equal(modules["other"].head.weight, before)
    other = build_method("supervised", MethodSettings(network=FLAT)).modules
    with pytest.raises(ConfigError, match="nothing can be taken over"):
        start.fill(other)


def test_training_starts_from_a_bundle_on_its_network_and_spacing(
    tmp_path: Path, phantom_study: Any
) -> None:
    bundle = export_bundle(make_study(tmp_path / "from"), tmp_path / "b.zip")
    study = phantom_study(("CT",), annotated=1)
    events: list[Event] = []
    config = TrainConfig(
        minutes=None, steps=1, device="cpu", validation="none", start_from=str(bundle)
    )
    model_id = train(study, config, events.append)
    assert any("starts from b" in event.message for event in events)
    info = study.model(model_id).info
    assert info["spacing_mm_zyx"] == [2.7, 1.8, 2.2]
    assert info["network"]["channels"] == list(SPEC.channels)
    model = load_model(study.model(model_id).folder, torch.device("cpu"))
    assert model.classes == (0, 1, 2)
    # After one warm-up step the weights are still next to those of the bundle.
    theirs = read_bundle(bundle).weights[0]["down.1.0.weight"]
    mine = model.network.state_dict()["modules_of_method.network.down.1.0.weight"]
    assert (mine - theirs).abs().max() < 1e-3


def test_start_keeps_the_voxel_size_that_was_asked_for(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    start = read_start(study, export_bundle(study, tmp_path / "b.zip"), (0, 4, 300), lambda _: None)
    plan = Plan(
        spacing_mm_zyx=(2.0, 2.0, 2.0),
        patch_zyx=(6, 32, 14),
        n_labelled=1,
        n_unlabelled=0,
        network=SPEC,
        device="cpu",
    )
    asked = start.plan(plan, TrainConfig(spacing_mm=2.0))
    assert asked.spacing_mm_zyx == (2.0, 2.0, 2.0)
    assert asked.patch_zyx == (6, 16, 12)
    assert start.plan(plan, TrainConfig()).spacing_mm_zyx == (2.7, 1.8, 2.2)
    flat = replace(plan, network=FLAT, patch_zyx=(1, 32, 32))
    assert start.plan(flat, TrainConfig()).patch_zyx == (8, 16, 16)
    deep = replace(plan, network=replace(SPEC, deep_supervision=True))
    assert start.plan(deep, TrainConfig()).network.deep_supervision
    assert not start.plan(plan, TrainConfig()).network.deep_supervision


def test_commands_hand_a_model_on_and_take_it_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from semiseg.cli.app import run

    study = make_study(tmp_path / "study")
    target = tmp_path / "b.zip"
    assert run(["model", "export", str(study.folder), str(target)]) == 0
    assert "terms of use" in capsys.readouterr().out
    assert run(["model", "import", str(study.folder), str(target)]) == 0
    assert "is now model 2" in capsys.readouterr().out
    assert run(["model", "export", str(study.folder), str(target)]) != 0
    assert "exists already" in capsys.readouterr().err


def test_model_with_a_network_for_each_modality_is_not_bundled_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study", "cross_pseudo")

    def own(self: Any, modality: str) -> Any:
        return self.networks["one" if modality == "CT" else "other"]

    monkeypatch.setattr("semiseg.methods.cross_pseudo.CrossPseudoSupervision.predictor", own)
    model = load_model(study.model().folder, torch.device("cpu"))
    image = torch.randn(1, 1, 8, 16, 16)
    assert not torch.equal(model.predictor("CT")(image), model.predictor("MR")(image))
    with pytest.raises(StudyError, match="one network for CT and another for MR"):
        export_bundle(study, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
