"""Propagated labels beside the network: the formula, who is heard, and that nobody else is."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from semiseg.config import PredictConfig
from semiseg.distributed.predictions import predict_over
from semiseg.distributed.serial import SerialExecutor
from semiseg.errors import CancelledError, GeometryMismatchError
from semiseg.events import Event
from semiseg.images.grid import Grid, canonical
from semiseg.images.reading import Image, write_image
from semiseg.inference import predict, predict_image
from semiseg.learning.scoring import unseen_dice
from semiseg.methods.base import MethodSettings, build_method
from semiseg.models import Model, load_model, prior_beside
from semiseg.networks import NetworkSpec
from semiseg.own_grid import Target, pooled
from semiseg.prior import DOUBT, SIGMA_MM, Prior, prior_of, trusted_labels, weight_of
from semiseg.remote.blobs import Store
from semiseg.remote.packing import Wish, pack
from semiseg.remote.rebuild import rebuild
from semiseg.study.case import GateRecord
from semiseg.study.merge import by_human
from semiseg.study.study import Study

CONFIG = PredictConfig(device="cpu")
ALONE = PredictConfig(device="cpu", prior="off")
SPEC = NetworkSpec(n_classes=3, channels=(2, 4), strides=((1, 2, 2),), convolutions=(1, 1))
MakeStudy = Callable[..., Study]
Verdict = Literal["accept", "down_weight", "reject"]


def carry(
    study: Study,
    case_id: str,
    *,
    ids: tuple[int, ...] = (1, 2),
    verdict: Verdict = "accept",
    atlases: tuple[str, ...] = ("c0",),
    **told: Any,
) -> NDArray[np.uint16]:
    """Propagated boxes of structures 1 and 2; the array."""
    shape = study.cases[case_id].grid.shape_zyx
    array = np.zeros(shape, np.uint16)
    array[3:8, 3:9, 2:7], array[3:8, 3:9, 9:14] = 1, 2
    array[~np.isin(array, ids)] = 0
    study.propagated(
        case_id,
        array,
        np.full(shape, 0.8, np.float32),
        structure_ids=ids,
        gate=GateRecord(verdict=verdict, score=0.8, reasons=()),
        info={"atlases": list(atlases), "structures": list(ids), **told},
    )
    return array


def add_model(study: Study, **fields: Any) -> int:
    torch.manual_seed(0)
    weights = build_method("supervised", MethodSettings(network=SPEC)).modules.state_dict()
    description: dict[str, Any] = {
        "method": "supervised",
        "network": SPEC.to_json(),
        "classes": [0, 1, 2],
        "names": {"1": "liver", "2": "spleen"},
        "spacing_mm_zyx": [4.0, 4.0, 4.0],
        "patch_zyx": [4, 8, 8],
        "modalities": ["CT"],
        "unseen_dice": {},
        "calibration": {"temperature": 1.5},
        "study_id": study.id,
        **fields,
    }

    def write(folder: Path) -> None:
        save_file(weights, folder / "weights.safetensors")
        (folder / "model.json").write_text(json.dumps(description))

    return study.add_model(write, {})


def bits(study: Study, case_id: str, version: int) -> tuple[bytes, bytes]:
    found = study.prediction(case_id, version)
    assert found is not None
    return found.array.tobytes(), found.uncertainty.tobytes()


# ---- the formula ---------------------------------------------------------------------------


def test_two_opinions_are_pooled_as_computed_by_hand() -> None:
    network = torch.tensor([0.6, 0.3, 0.1]).view(3, 1, 1, 1)
    said = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1)
    weight = torch.tensor([0.5]).view(1, 1, 1)
    # Class 1 is trusted, classes 0 and 2 are "none of them", with a mass of 0.7.
    found = pooled(network, said, weight, [0, 1, 0]).flatten()
    parts = np.array([0.6 * (0.2 / 0.7) ** 0.5, 0.3 * (0.8 / 0.3) ** 0.5, 0.1 * (0.2 / 0.7) ** 0.5])
    np.testing.assert_allclose(found.numpy(), parts / parts.sum(), rtol=1e-5)


def test_a_class_alone_in_its_group_has_the_weighted_geometric_mean() -> None:
    generator = torch.Generator().manual_seed(3)
    network = torch.rand(3, 2, 4, 5, generator=generator).softmax(dim=0)
    said = torch.rand(3, 2, 4, 5, generator=generator).softmax(dim=0)
    weight = torch.full((2, 4, 5), 0.3)
    expected = network**0.7 * said**0.3
    found = pooled(network, said, weight, [0, 1, 2])
    torch.testing.assert_close(found, expected / expected.sum(dim=0))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(2, 4, 5))


def test_a_structure_that_was_refused_keeps_its_odds_against_the_background() -> None:
    generator = torch.Generator().manual_seed(5)
    network = torch.rand(3, 2, 4, 5, generator=generator).softmax(dim=0)
    said = torch.rand(2, 2, 4, 5, generator=generator).softmax(dim=0)
    found = pooled(network, said, torch.full((2, 4, 5), 0.5), [0, 1, 0])
    torch.testing.assert_close(found[2] / found[0], network[2] / network[0])


def test_where_nothing_is_said_the_network_stays_as_it_is_to_the_bit() -> None:
    network = torch.rand(3, 2, 4, 5).softmax(dim=0)
    network[:, 0, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    said, weight = torch.full((3, 2, 4, 5), 1 / 3), torch.zeros(2, 4, 5)
    assert torch.equal(pooled(network, said, weight, [0, 1, 2]), network)


@pytest.mark.parametrize(
    ("network", "labels", "weight"),
    [(None, 0.7, 0.5), (0.7, 0.7, 0.5), (0.4, 0.7, 0.5), (0.9, 0.7, 0.25), (1.0, 1.0, 0.5)],
)
def test_who_errs_more_is_heard_less_and_the_network_never_less_than_half(
    network: float | None, labels: float, weight: float
) -> None:
    assert weight_of(network, labels) == pytest.approx(weight)


def test_only_cases_that_were_not_learned_from_tell_what_a_network_is_worth() -> None:
    score: dict[str, Any] = {"cases": {"a": {"1": 0.8, "2": 0.6}, "b": {"1": 0.9}, "m": {}}}
    modality: dict[str, Any] = {"a": "CT", "b": "CT", "m": "MR"}
    assert unseen_dice("split", score, modality) == {"CT": pytest.approx(0.7667)}
    assert unseen_dice("leave_one_out", score, modality) == {"CT": pytest.approx(0.7667)}
    assert unseen_dice("slices", score, modality) == {}
    assert unseen_dice("none", None, modality) == {}


def lone_voxel() -> Prior:
    """Structure 5 in one voxel, nothing said in the last slice; voxels of 3 x 4 x 6 mm."""
    codes = np.ones((5, 7, 7), np.uint16)
    codes[2, 3, 3], codes[4] = 2, 0
    return Prior(codes=codes, ids=(5,), weight=0.5, spacing_mm_zyx=(3.0, 4.0, 6.0), words="")


def test_what_the_labels_say_is_blurred_as_computed_by_hand() -> None:
    def gauss(spacing: float) -> NDArray[np.float64]:
        n = int(3 * SIGMA_MM / spacing + 0.5)
        values = np.exp(-0.5 * (np.arange(-n, n + 1) * spacing / SIGMA_MM) ** 2)
        return np.asarray(values / values.sum())

    said, weight = lone_voxel().opinion(0, 5)
    z, y, x = gauss(3.0), gauss(4.0), gauss(6.0)
    share = z[len(z) // 2] * y[len(y) // 2] * x[len(x) // 2]
    known = 1 - z[len(z) // 2 + 2 :].sum()  # slices beyond the last repeat it: unknown, too
    assert said[1, 2, 3, 3] == pytest.approx((share + DOUBT) / (known + 2 * DOUBT), rel=1e-5)
    assert weight[2, 3, 3] == pytest.approx(0.5 * known, rel=1e-5)
    np.testing.assert_allclose(said.sum(axis=0), 1, rtol=1e-5)


def test_slices_say_the_same_alone_as_together() -> None:
    whole = lone_voxel().opinion(0, 5)
    for first, n in ((0, 2), (2, 1), (3, 2)):
        for part, all_of_it in zip(lone_voxel().opinion(first, n), whole, strict=True):
            assert np.array_equal(part, all_of_it[..., first : first + n, :, :])


def test_nothing_is_said_far_from_all_that_is_known() -> None:
    codes = np.zeros((3, 20, 20), np.uint16)
    codes[:, :, :5] = 2
    prior = Prior(codes=codes, ids=(5,), weight=0.5, spacing_mm_zyx=(3.0, 3.0, 3.0), words="")
    _, weight = prior.opinion(0, 3)
    assert (weight[:, :, 10:] == 0).all()
    assert weight[:, :, 0] == pytest.approx(0.5)


# ---- who is heard --------------------------------------------------------------------------


def test_a_case_that_nothing_was_propagated_to_has_no_prior(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    assert trusted_labels(study, study.case("c0")) is None
    assert trusted_labels(study, study.case("c1")) is None


def test_what_the_gate_refused_has_no_say(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    carry(study, "c1", verdict="down_weight")
    assert trusted_labels(study, study.case("c1")) is not None
    carry(study, "c1", verdict="reject")
    assert trusted_labels(study, study.case("c1")) is None


def test_a_structure_that_was_refused_later_has_no_say(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    carry(study, "c1")
    carry(study, "c1", ids=(1,))  # the old spleen stays in the label
    found = trusted_labels(study, study.case("c1"))
    assert found is not None
    assert (found.array == 2).any()
    assert found.ids == (1,)


def test_a_structure_that_was_not_met_is_not_taken_for_absent(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    shape = study.cases["c1"].grid.shape_zyx
    array = np.zeros(shape, np.uint16)
    array[3:8, 3:9, 2:7] = 1
    gate = GateRecord(verdict="accept", score=0.8, reasons=())
    weights = np.full(shape, 0.8, np.float32)
    info: dict[str, Any] = {"atlases": ["c0"]}
    study.propagated("c1", array, weights, structure_ids=(1, 2), gate=gate, info=info)
    found = trusted_labels(study, study.case("c1"))
    assert found is not None
    assert found.ids == (1,)


def test_no_voxel_of_a_human_is_taken(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT",), annotated=1)
    carry(study, "c0", atlases=())
    found, label = trusted_labels(study, study.case("c0")), study.label("c0")
    assert found is not None
    assert label is not None
    assert not (found.said & (label.origin != 2)).any()
    assert not found.said[4].any()  # a done slice
    assert found.said[3].any()


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_held_out_case_never_hears_its_own_drawing(phantom_study: MakeStudy, split: str) -> None:
    study = phantom_study(("CT", "CT", "CT"), annotated=2, splits=("train", split, split))
    carry(study, "c1")
    carry(study, "c2")
    assert trusted_labels(study, study.case("c1")) is None
    assert trusted_labels(study, study.case("c2")) is not None
    carry(study, "c2", atlases=())  # filled between own slices, wherever these are now
    assert trusted_labels(study, study.case("c2")) is None


def test_a_drawing_that_was_erased_silences_a_held_out_case_all_the_same(
    phantom_study: MakeStudy,
) -> None:
    study = phantom_study(("CT", "CT"), annotated=1, splits=("train", "test"))
    shape = study.cases["c1"].grid.shape_zyx
    drawn = np.zeros(shape, np.uint16)
    drawn[4, 4:6, 4:6] = 1
    study.annotate("c1", drawn)
    study.annotate("c1", np.zeros_like(drawn), structure_ids=(1, 2))
    carry(study, "c1")
    label = study.label("c1")
    assert label is not None
    assert not label.ledger.any_done
    assert trusted_labels(study, study.case("c1")) is None


def test_a_drawing_whose_version_was_pruned_silences_a_held_out_case(
    phantom_study: MakeStudy,
) -> None:
    study = phantom_study(("CT", "CT"), annotated=2, splits=("train", "val"))
    carry(study, "c1")
    shutil.rmtree(study.folder / "cases" / "c1" / "labels" / "0001")
    assert study.label_versions("c1") == (2,)
    assert trusted_labels(study, study.case("c1")) is None


def test_an_earlier_label_that_is_damaged_silences_a_held_out_case(
    phantom_study: MakeStudy,
) -> None:
    study = phantom_study(("CT", "CT"), annotated=1, splits=("train", "val"))
    carry(study, "c1")
    carry(study, "c1", ids=(1,))
    assert trusted_labels(study, study.case("c1")) is not None
    folder = study.folder / "cases" / "c1" / "labels" / "0001"
    (folder / "version.json").write_text("{")
    assert trusted_labels(study, study.case("c1")) is None


def test_labels_are_known_by_the_propagation_below_later_drawings(
    phantom_study: MakeStudy,
) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    carry(study, "c1", ids=(1,))
    before = study.label("c1")
    assert before is not None
    drawn = np.zeros_like(before.array)
    drawn[4, 12:14, 4:6] = 2
    study.annotate("c1", drawn)
    found = trusted_labels(study, study.case("c1"))
    assert found is not None
    assert found.ids == (1,)
    study.roll_back("c1", before.version)
    assert trusted_labels(study, study.case("c1")) is not None


def test_only_structures_of_the_network_take_part(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    carry(study, "c1")
    facts: dict[str, Any] = {"spacing_mm_zyx": (4.0, 4.0, 4.0), "dice": None}
    one = prior_of(study, study.case("c1"), classes=(0, 2), **facts)
    assert one is not None
    assert one.ids == (2,)
    assert set(np.unique(one.codes)) == {1, 2}
    assert "spleen" in one.words
    assert "liver" not in one.words
    assert prior_of(study, study.case("c1"), classes=(0, 9), **facts) is None
    good = prior_of(study, study.case("c1"), classes=(0, 2), **{**facts, "dice": 0.95})
    assert good is not None
    assert good.weight == pytest.approx(0.05 / (0.05 + 0.2))  # the gate's score is 0.8


# ---- segmenting ----------------------------------------------------------------------------


def test_without_propagated_labels_nothing_changes_to_the_bit(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    add_model(study)
    predict(study, None, ["c1"], CONFIG)
    carry(study, "c1")
    predict(study, None, ["c1"], ALONE)
    predict(study, add_model(study, unseen_dice=None), ["c1"], CONFIG)
    assert bits(study, "c1", 1) == bits(study, "c1", 2) == bits(study, "c1", 3)
    assert all("prior" not in study.prediction_info("c1", n).info for n in (1, 2, 3))


def test_propagated_labels_have_their_say_and_the_record_tells(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    add_model(study)
    predict(study, None, ["c1"], ALONE)
    carried = carry(study, "c1")
    events: list[Event] = []
    predict(study, None, ["c1"], CONFIG, events.append)
    before, after = study.prediction("c1", 1), study.prediction("c1", 2)
    assert before is not None
    assert after is not None
    agree = [float((one.array == carried).mean()) for one in (before, after)]
    assert agree[1] > agree[0]
    assert after.info["prior"] == {"weight": 0.5, "structures": [1, 2], "sigma_mm": SIGMA_MM}
    notes = after.info["notes"]
    assert isinstance(notes, list)
    assert any("liver, spleen had a say of 50%" in str(note) for note in notes)
    assert any("had a say" in event.message for event in events)
    whats = [row.what for row in study.version_rows() if row.item.kind == "prediction"]
    assert sorted(whats) == ["segmented by model 1", "segmented by model 1 and propagated labels"]


def test_workers_hear_the_same_to_the_bit(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT", "MR"), annotated=1)
    add_model(study)
    carry(study, "c1")
    predict(study, None, None, CONFIG)
    with SerialExecutor() as executor:
        predict_over(study, None, None, CONFIG, executor)
    for case_id in study.cases:
        assert bits(study, case_id, 1) == bits(study, case_id, 2)
        infos = [study.prediction_info(case_id, n).info for n in (1, 2)]
        assert infos[0].get("prior") == infos[1].get("prior")
        assert infos[0]["notes"] == infos[1]["notes"]
        assert ("prior" in infos[0]) == (case_id == "c1")


def test_a_cluster_is_sent_what_counts_and_no_drawing(
    phantom_study: MakeStudy, tmp_path: Path
) -> None:
    study = phantom_study(("CT", "CT"), annotated=2)
    add_model(study)
    carry(study, "c1")
    cases = pack(study, Wish(kind="predict")).manifest.cases
    assert [case.label is None for case in cases] == [True, False]
    quiet = pack(study, Wish(kind="predict", arguments=("--no-prior",)))
    assert all(case.label is None for case in quiet.manifest.cases)
    there = sent_study(study, "c1", tmp_path)
    (sent,) = there.cases
    label, own = there.label(sent), study.label("c1")
    assert label is not None
    assert own is not None
    assert by_human(own.origin).any()
    np.testing.assert_array_equal(label.array, np.where(own.origin == 2, own.array, 0))
    assert not label.ledger.any_done


def sent_study(study: Study, case_id: str, folder: Path) -> Study:
    """What a cluster makes of the job to segment one case."""
    package = pack(study, Wish(kind="predict", case_ids=(case_id,)))
    store = Store(folder / "store")
    for piece in package.manifest.pieces.values():
        place = store.path(piece)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package.files[piece.sha256], place)
    return rebuild(package.manifest, store, folder / "there")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_cluster_hears_the_same_to_the_bit(
    phantom_study: MakeStudy, tmp_path: Path, split: str
) -> None:
    study = phantom_study(("CT", "CT"), annotated=1, splits=("train", split))
    add_model(study, unseen_dice={"CT": 0.9})
    carry(study, "c1")
    predict(study, None, ["c1"], CONFIG)
    there = sent_study(study, "c1", tmp_path)
    (sent,) = there.cases
    predict(there, None, [sent], CONFIG)
    assert bits(there, sent, 1) == bits(study, "c1", 1)
    infos = [one.prediction_info(c, 1).info for one, c in ((study, "c1"), (there, sent))]
    assert infos[0]["prior"] == infos[1]["prior"]
    assert infos[0]["prior"]["weight"] == pytest.approx(0.1 / 0.3)  # type: ignore[index, call-overload]


def test_cancelling_where_the_prior_is_told_saves_nothing(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    add_model(study)
    carry(study, "c1")

    def emit(event: Event) -> None:
        if "had a say" in event.message:
            raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        predict(study, None, ["c1"], CONFIG, emit)
    assert study.prediction("c1") is None


def test_a_prior_of_another_grid_is_refused(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT",), annotated=0)
    target = Target(canonical(study.cases["c0"].grid), (0, 5), 1.0, lone_voxel())
    with pytest.raises(GeometryMismatchError, match="cannot be heard"):
        target.fill(iter([torch.ones(2, 1, 4, 4)]), (10, 4, 4))


def test_probabilities_are_sobered_once_and_before_the_labels_are_heard() -> None:
    grid = Grid(size_xyz=(5, 4, 3), spacing_mm_xyz=(2.0, 2.0, 2.0))
    chunk = (3 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))).softmax(0)
    alone = Target(canonical(grid), (0, 5), 2.0)
    alone.fill(iter([chunk]), (3, 4, 5))

    def beside(codes: NDArray[np.uint16], temperature: float, first: Tensor) -> Target:
        prior = Prior(codes=codes, ids=(5,), weight=0.5, spacing_mm_zyx=(2.0, 2.0, 2.0), words="")
        target = Target(canonical(grid), (0, 5), temperature, prior)
        target.fill(iter([first[:, :2], first[:, 2:]]), (3, 4, 5))
        return target

    silent = beside(np.zeros((3, 4, 5), np.uint16), 2.0, chunk)
    assert np.array_equal(silent.label, alone.label)
    np.testing.assert_allclose(silent.uncertainty, alone.uncertainty, rtol=1e-5)
    said = np.ones((3, 4, 5), np.uint16)
    said[1:, 1:, 1:] = 2
    one, other = beside(said, 2.0, chunk), beside(said, 1.0, chunk.sqrt() / chunk.sqrt().sum(0))
    np.testing.assert_allclose(one.uncertainty, other.uncertainty, rtol=1e-4)


def test_a_model_with_a_frame_stays_alone(phantom_study: MakeStudy) -> None:
    study = phantom_study(("CT", "CT"), annotated=1)
    carry(study, "c1")
    model = load_model(study.model(add_model(study)).folder, torch.device("cpu"))
    assert prior_beside(model, study, study.case("c1"), "auto") is not None
    object.__setattr__(model, "frame", object())
    assert prior_beside(model, study, study.case("c1"), "auto") is None


# ---- places --------------------------------------------------------------------------------


class NoIdea(nn.Module):
    """All three classes are equally probable."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros_like(image).expand(-1, 3, -1, -1, -1)


SIDEWAYS = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRIDS = [
    Grid(size_xyz=(30, 26, 14), spacing_mm_xyz=(1.5, 1.5, 3.0), direction=direction)
    for direction in (
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        SIDEWAYS,
    )
]


@pytest.mark.parametrize(
    ("grid", "spacing"), list(itertools.product(GRIDS, [(3.0, 1.5, 1.5), (2.3, 2.9, 2.1)]))
)
def test_labels_are_heard_where_they_lie(
    grid: Grid, spacing: tuple[float, float, float], tmp_path: Path, phantom_study: MakeStudy
) -> None:
    study = phantom_study(("CT",), annotated=0)
    path = tmp_path / "other.nrrd"
    z, y, x = np.indices(grid.shape_zyx)
    write_image(path, x.astype(np.float32), grid)
    study.add_case(path, case_id="other", modality="CT")
    array = np.zeros(grid.shape_zyx, np.uint16)
    array[(z > 3) & (z < 10) & (y > 5) & (y < 18) & (x > 3) & (x < 13)] = 1
    array[(z > 3) & (z < 10) & (y > 7) & (y < 20) & (x > 15) & (x < 26)] = 2
    gate = GateRecord(verdict="accept", score=0.8, reasons=())
    weights = np.ones(grid.shape_zyx, np.float32)
    study.propagated("other", array, weights, structure_ids=(1, 2), gate=gate, info={})
    model = Model(
        name="no idea",
        network=NoIdea(),
        classes=(0, 1, 2),
        names={1: "liver", 2: "spleen"},
        spacing_mm_zyx=spacing,
        window_zyx=(8, 16, 16),
        unseen_dice={"CT": 0.5},
        device=torch.device("cpu"),
    )
    prior = prior_beside(model, study, study.case("other"), "auto")
    image = Image(array=np.zeros(grid.shape_zyx, np.float32), grid=grid)
    found = predict_image(model, image, "CT", CONFIG, prior=prior)
    for i in (1, 2):
        one, other = found.label == i, array == i
        # Blurring rounds the corners off, and shifts nothing.
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.7
        apart = np.argwhere(one).mean(axis=0) - np.argwhere(other).mean(axis=0)
        assert np.abs(apart).max() < 0.6
    assert found.prior is not None
    alone = predict_image(model, image, "CT", CONFIG)
    assert not alone.label.any()
    assert found.uncertainty.mean() < alone.uncertainty.mean()
