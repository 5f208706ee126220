"""Loose islands go where anatomy rules them out, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from semiseg.cleanup import clean_up, rule_for
from semiseg.config import Rule


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("liver", "largest"),
        ("Left kidney", "largest"),
        ("kidney_left", "largest"),
        ("gall bladder", "largest"),
        ("urinary_bladder", "largest"),
        ("kidney", "large"),
        ("left and right kidney", "large"),
        ("lungs", "large"),
        ("portal_vein_and_splenic_vein", "large"),
        ("liver vessels", "large"),
        ("colon", "large"),
        ("structure 3", "large"),
        ("", "large"),
        ("liver tumour", "all"),
        ("kidney_left_cyst", "all"),
        ("metastases", "all"),
    ],
)
def test_the_name_decides_what_may_stay(name: str, rule: Rule) -> None:
    assert rule_for(name) == rule


def islands() -> NDArray[np.uint16]:
    label = np.zeros((12, 14, 16), np.uint16)
    label[1:7, 1:7, 1:7] = 3  # 216 voxels
    label[7, 7, 7] = 3  # touches the block by a corner
    label[9:11, 9:12, 9:12] = 3  # 18 voxels: more than a twentieth
    label[11, 0, 15] = 3
    label[0, 13, 0:3] = 8
    return label


@pytest.mark.parametrize(("rule", "removed"), [("largest", 19), ("large", 1), ("all", 0)])
def test_each_rule_removes_its_islands(rule: Rule, removed: int) -> None:
    label = islands()
    counts = clean_up(label, {3: rule, 8: rule})
    assert counts == ({3: removed} if removed else {})
    assert np.count_nonzero(islands()) - np.count_nonzero(label) == removed
    assert (label[1:7, 1:7, 1:7] == 3).all()
    assert label[7, 7, 7] == 3
    assert (label[0, 13, :3] == 8).all()


def test_other_structures_inside_the_box_stay() -> None:
    label = islands()
    label[8, 2:9, 2:9] = 5
    clean_up(label, {3: "largest"})
    assert (label[8, 2:9, 2:9] == 5).all()


def test_structures_without_a_rule_and_empty_labels_are_left_alone() -> None:
    label = islands()
    assert clean_up(label, {}) == {}
    np.testing.assert_array_equal(label, islands())
    assert clean_up(np.zeros((3, 3, 3), np.uint16), {3: "largest"}) == {}
