"""Removal of loose islands that anatomy rules out, by what each structure's name says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semiseg.config import Rule

LARGE_FRACTION = 0.05
_SINGLE = re.compile(
    r"liver|spleen|gall ?bladder|stomach|pancreas|o?esophagus|duodenum|trachea|heart|aorta|"
    r"(urinary )?bladder|prostate|uterus|rectum|brain|brainstem|cerebellum|sternum|sacrum|thyroid"
)
_PAIRED = re.compile(r"kidney|adrenal|lung|femur|hip|humerus|scapula|clavicula|breast|testis|ovary")
_VESSEL = re.compile(r"vein|vena|arter|vessel|duct|tree")
_SCATTERED = re.compile(r"tumou?r|lesion|metasta|nodule|cyst|stone|calcif|lymph|polyp|bleed|plaque")
_EVERYWHERE = np.ones((3, 3, 3), dtype=bool)


def rule_for(name: str) -> Rule:
    """What may stay of a structure called `name`.

    Organs that are one piece, and one side of paired ones, keep the largest piece; lesions and
    their like keep all; the rest (vessels, bowel, both kidneys as one structure, names that are
    not known) keep pieces of at least `LARGE_FRACTION` of the largest one.
    """
    words = re.sub(r"[^a-z]+", " ", name.lower())
    if _SCATTERED.search(words):
        return "all"
    if _VESSEL.search(words):
        return "large"
    sides = set(words.split()) & {"left", "right"}
    one_side = len(sides) == 1 and _PAIRED.search(words)
    whole = not sides and _SINGLE.fullmatch(words.strip())
    return "largest" if one_side or whole else "large"


def clean_up(label_zyx: NDArray[np.uint16], rules: Mapping[int, Rule]) -> dict[int, int]:
    """Set loose islands of `label_zyx` to 0, in place; removed voxels per structure id.

    Voxels that touch by a corner are one piece. Memory: 5 bytes per voxel of a structure's box.
    """
    removed = {}
    for index, box in enumerate(ndimage.find_objects(label_zyx)):
        rule = rules.get(index + 1, "all")
        if box is not None and rule != "all":
            count = _clean_box(label_zyx[box], index + 1, rule)
            if count:
                removed[index + 1] = count
    return removed


def _clean_box(box: NDArray[np.uint16], structure_id: int, rule: Rule) -> int:
    """Keep the pieces of `structure_id` in `box` that `rule` lets stay; voxels removed."""
    pieces = np.empty(box.shape, dtype=np.int32)
    count = int(ndimage.label(box == structure_id, structure=_EVERYWHERE, output=pieces))
    if count < 2:
        return 0
    sizes = np.zeros(count + 1, dtype=np.int64)
    for plane in pieces:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    sizes[0] = 0
    if rule == "largest":
        keep = np.arange(count + 1) == sizes.argmax()
    else:
        keep = sizes >= LARGE_FRACTION * sizes.max()
    loose = ~keep
    loose[0] = False
    for plane, target in zip(pieces, box, strict=True):
        target[loose[plane]] = 0
    return int(sizes[loose].sum())
