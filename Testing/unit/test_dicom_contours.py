"""Outlines of masks and polygons filled again: the same pixels, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from semiseg.dicom.contours import filled, outlines


@settings(max_examples=150, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_filled_outlines_give_exactly_the_mask(mask: np.ndarray) -> None:
    assert np.array_equal(filled(outlines(mask), mask.shape), mask)


def test_polygons_also_hold_one_by_one() -> None:
    mask = np.zeros((12, 14), dtype=bool)
    mask[1:9, 1:8] = True
    mask[3:5, 3:6] = mask[6:8, 2:4] = False
    mask[2:5, 10:13] = True
    rings = outlines(mask)
    assert len(rings) == 2
    assert np.array_equal(sum(filled([r], mask.shape).astype(int) for r in rings), mask)


def test_empty_mask_has_no_outline() -> None:
    assert outlines(np.zeros((3, 3), dtype=bool)) == []
    assert not filled([], (3, 3)).any()


@pytest.mark.parametrize("scale", [1, 7])
def test_ring_inside_a_ring_is_cut_out(scale: int) -> None:
    outer = np.array([[0.5, 0.5], [8.5, 0.5], [8.5, 8.5], [0.5, 8.5]]) * scale
    inner = np.array([[2.5, 2.5], [5.5, 2.5], [5.5, 5.5], [2.5, 5.5]]) * scale
    found = filled([outer, inner], (10 * scale, 10 * scale))
    assert found.sum() == (64 - 9) * scale**2
    assert ndimage.label(~found)[1] == 2


def test_parts_outside_of_the_plane_are_cut_off() -> None:
    ring = np.array([[-5.0, -5.0], [2.5, -5.0], [2.5, 20.0], [-5.0, 20.0]])
    assert filled([ring], (4, 6)).sum() == 4 * 3
