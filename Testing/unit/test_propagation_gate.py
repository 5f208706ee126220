"""The trust gate's verdicts, and the fusion that feeds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semiseg.atlases.filling import CaseFill
from semiseg.atlases.fusion import fuse, local_weights, on_grid
from semiseg.atlases.gate import Findings, judge_fill, judge_transfer
from semiseg.atlases.transfer import Atlas, Evidence, Transfer, drawn_places, fusion_grid
from semiseg.config import PropagationConfig
from semiseg.errors import ConfigError
from semiseg.images.grid import Grid
from semiseg.slices.fill import StructureFill
from semiseg.study.case import GateRecord

NAMES = {1: "liver", 2: "spleen"}
CONFIG = PropagationConfig()
GOOD = Evidence(
    folded=0.0,
    inverse_error_mm=1.0,
    similarity=0.95,
    start_certainty=0.95,
    outside=0.0,
    atlas_volumes_ml={1: 1500.0, 2: 200.0},
)
GRID = Grid(
    size_xyz=(12, 10, 8),
    spacing_mm_xyz=(2.0, 2.5, 3.0),
    direction=(0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0),
)


def judged(
    evidence: list[Evidence],
    agreement: dict[int, float],
    ratios: dict[int, float],
    **others: dict[int, float],
) -> GateRecord:
    found = Findings(evidence=evidence, agreement=agreement, ratios=ratios, **others)
    return judge_transfer(found, NAMES, CONFIG)


def filled(**dice: float) -> CaseFill:
    names = {name: number for number, name in NAMES.items()}
    return CaseFill(
        array=np.zeros((1, 1, 1), np.uint16),
        confidence=np.ones((1, 1, 1), np.float32),
        structures={
            names[name]: StructureFill(
                method="guided", dice=value if value >= 0 else None, dice_by_method={}
            )
            for name, value in dice.items()
        },
    )


def test_good_evidence_is_accepted_with_a_word_of_why() -> None:
    gate = judged([GOOD], {}, {1: 1.0, 2: 1.1})
    assert gate.verdict == "accept"
    assert gate.score > 0.9
    assert "fit together" in gate.reasons[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folded": 0.2}, "folds tissue in 20.0%"),
        ({"inverse_error_mm": 25.0}, "misses the structures by 25 mm"),
        ({"inverse_error_mm": None}, "fall outside of this image"),
        ({"ways_apart_mm": 45.0}, "ends 45 mm apart"),
        ({"similarity": 0.9}, "look little alike"),
        ({"start_certainty": 0.1}, "which part of the body"),
    ],
)
def test_each_weakness_lowers_the_score_and_is_said(change: dict[str, float], words: str) -> None:
    best = judged([GOOD], {}, {1: 1.0})
    gate = judged([replace(GOOD, **change)], {}, {1: 1.0})
    assert gate.score < best.score
    assert any(words in reason for reason in gate.reasons)


def test_implausible_volumes_and_quarrelling_atlases_are_named() -> None:
    gate = judged([GOOD, GOOD], {1: 0.9, 2: 0.2}, {1: 1.0, 2: 3.0})
    assert any("spleen is 3.0 times as large" in reason for reason in gate.reasons)
    assert any("disagree on spleen" in reason for reason in gate.reasons)
    assert not any("liver" in reason for reason in gate.reasons)


def test_labels_whose_borders_are_none_in_the_image_are_doubted() -> None:
    sound = judged([GOOD], {}, {1: 1.0}, borders={1: 1.3, 2: 0.9})
    blurred = judged([GOOD], {}, {1: 1.0}, borders={1: 1.0, 2: -0.5})
    assert sound.score > blurred.score
    assert any("spleen stands out from its surroundings less" in r for r in blurred.reasons)
    assert sound.score == pytest.approx(judged([GOOD], {}, {1: 1.0}).score, abs=0.03)


def test_rings_that_do_not_lead_home_lower_the_score() -> None:
    home = judged([GOOD], {}, {1: 1.0}, misses_mm={1: 2.0, 2: 3.0})
    astray = judged([GOOD], {}, {1: 1.0}, misses_mm={1: 30.0, 2: 3.0})
    assert home.score > astray.score
    assert any("over another case misses liver by 30 mm" in r for r in astray.reasons)


def test_bad_evidence_is_rejected_and_middling_weighted_down() -> None:
    bad = replace(GOOD, similarity=0.85, inverse_error_mm=30.0, ways_apart_mm=50.0)
    assert judged([bad], {}, {1: 0.2}).verdict == "reject"
    middling = replace(GOOD, similarity=0.92, inverse_error_mm=2.0, ways_apart_mm=35.0)
    assert judged([middling], {}, {1: 1.2}).verdict == "down_weight"


def test_a_missing_structure_does_not_break_the_gate() -> None:
    gate = judged([GOOD], {1: 0.0}, {1: 0.0})
    assert 0 <= gate.score < 0.7


def test_a_fill_is_judged_by_its_self_check() -> None:
    good = judge_fill(filled(liver=0.9, spleen=0.8), NAMES, CONFIG)
    assert good.verdict == "accept"
    assert "0.85" in good.reasons[0]
    poor = judge_fill(filled(liver=0.3, spleen=0.1), NAMES, CONFIG)
    assert poor.verdict == "down_weight"
    assert any("spleen changes much" in reason for reason in poor.reasons)
    unknown = judge_fill(filled(liver=-1), NAMES, CONFIG)
    assert unknown.verdict == "accept"
    assert "draw a third one" in unknown.reasons[0]


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(ConfigError, match="accept_above"):
        PropagationConfig(accept_above=0.2, reject_below=0.4)


def vote(share: np.ndarray, distance: float, confidence: float = 1.0) -> Transfer:
    flat = np.full(GRID.shape_zyx, 1.0, np.float32)
    return Transfer(
        case_id="a",
        ids=(1, 2),
        share=share.astype(np.float32),
        confidence=flat * np.float32(confidence),
        distance=flat * np.float32(distance),
        evidence=GOOD,
    )


def blocks(first: slice, second: slice) -> np.ndarray:
    share = np.zeros((2, *GRID.shape_zyx))
    share[0, :, :, first] = 1
    share[1, :, :, second] = 1
    return share


def test_the_atlas_that_looks_alike_outvotes_others() -> None:
    near = vote(blocks(slice(0, 4), slice(8, 12)), 0.01)
    far = vote(blocks(slice(2, 6), slice(9, 12)), 0.08)
    array, confidence = on_grid(fuse([near, far], GRID), GRID)
    assert (array[:, :, :4] == 1).all()
    assert (array[:, :, 4:8] == 0).all()
    assert (array[:, :, 8:] == 2).all()
    assert confidence[0, 0, 0] < confidence[0, 0, 3]  # only one atlas says so
    assert 0 <= confidence.min() <= confidence.max() <= 1


def test_what_an_atlas_does_not_know_weighs_little() -> None:
    sure = vote(blocks(slice(0, 4), slice(8, 12)), 0.05)
    unsure = vote(blocks(slice(6, 9), slice(10, 12)), 0.05, confidence=0.05)
    array, confidence = on_grid(fuse([sure, unsure], GRID), GRID)
    assert (array[:, :, :4] == 1).all()
    assert confidence.max() < 0.6


def test_agreement_is_the_dice_between_atlases() -> None:
    one = vote(blocks(slice(0, 4), slice(8, 12)), 0.05)
    other = vote(blocks(slice(2, 6), slice(8, 12)), 0.05)
    assert fuse([one, other], GRID).agreement == pytest.approx({1: 0.5, 2: 1.0})
    assert fuse([one], GRID).agreement == {}


def test_an_atlas_votes_on_its_own_structures_only() -> None:
    both = vote(blocks(slice(0, 4), slice(8, 12)), 0.05)
    liver_only = replace(both, ids=(1,), share=both.share[:1])
    array, _ = on_grid(fuse([both, liver_only], GRID), GRID)
    assert (array[:, :, 8:] == 2).all()


def test_local_weights_add_up_even_for_equal_and_zero_distances() -> None:
    zero = np.zeros(GRID.shape_zyx, np.float32)
    np.testing.assert_allclose(local_weights([zero, zero]).sum(axis=0), 1)
    assert (local_weights([zero, zero + 1])[0] == 1).all()


def test_the_fusion_grid_surrounds_the_places_within_the_target() -> None:
    atlas = Atlas(
        case_id="a",
        grid=GRID,
        array=(np.indices(GRID.shape_zyx).sum(axis=0) == 9).astype(np.uint16),
        confidence=np.ones(GRID.shape_zyx, np.float32),
        ids=(1,),
    )
    places = drawn_places(atlas)
    target = Grid(
        size_xyz=(60, 60, 40), spacing_mm_xyz=(1.0, 1.0, 3.0), origin_mm_lps=(-20, -9, -9)
    )
    grid = fusion_grid(target, [places])
    assert grid.spacing_mm_xyz == pytest.approx((2.0, 2.0, 3.0))
    voxels = grid.to_voxel(places)
    assert (voxels >= -0.5).all()
    assert (voxels <= np.array(grid.size_xyz) - 0.5).all()
    assert grid.size_xyz[0] < 30
