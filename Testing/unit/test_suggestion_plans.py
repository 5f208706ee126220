"""What several slices of a scan tell together, and where a structure is guessed to lie."""

from __future__ import annotations

import numpy as np
import pytest

from semiseg.suggestion.guesses import shifted_profiles
from semiseg.suggestion.plans import Scan, best_plan

PLACES = np.arange(0, 200, 10, dtype=np.float32)  # mm
NOWHERE = np.zeros((1, len(PLACES)), np.float32)  # nothing is told elsewhere


def scan(
    shows: np.ndarray | None = None,
    demand: np.ndarray | None = None,
    drawn: tuple[list[float], list[float]] = ([], []),
) -> Scan:
    """One structure; by default it is missing and expected everywhere."""
    ones = np.ones((1, len(PLACES)), np.float32)
    shows = ones if shows is None else shows[None].astype(np.float32)
    places, shown = (np.array(part, np.float32) for part in drawn)
    return Scan.of(
        PLACES,
        ones / len(PLACES) if demand is None else demand[None].astype(np.float32),
        np.maximum(shows, 0.2),
        shows,
        np.zeros_like(ones),
        [(places, shown)],
    )


def test_between_two_slices_that_show_a_structure_it_is_known_and_beyond_them_not() -> None:
    known = scan(drawn=([50.0, 130.0], [1.0, 1.0])).covered[0]
    assert known[(PLACES > 50) & (PLACES < 130)] == pytest.approx(np.exp(-80 / 500))
    assert known[(PLACES == 50) | (PLACES == 130)].tolist() == [1, 1]
    assert not known[(PLACES < 50) | (PLACES > 130)].any()


def test_where_a_structure_ends_between_two_slices_less_is_known() -> None:
    ends = scan(drawn=([50.0, 130.0], [1.0, 0.0])).covered[0, 8]
    assert ends == pytest.approx(0.8 * np.exp(-80 / 60))
    assert scan(drawn=([50.0, 130.0], [0.0, 0.0])).covered.max() == 0


def test_what_a_slice_would_tell_is_what_is_known_once_it_is_drawn() -> None:
    start = scan(drawn=([20.0, 150.0], [1.0, 0.5]))
    for k in (0, 5, 9, 18):
        after = start.drawn(k)
        assert np.array_equal(after.covered, start.with_each()[:, k])
        gained = ((after.covered - start.covered) * start.demand).sum()
        assert start.gains(NOWHERE)[k] == pytest.approx(gained)


def test_each_side_counts_the_nearest_drawn_slice() -> None:
    one = scan(drawn=([20.0, 150.0], [1.0, 1.0])).drawn(9)  # at 90 mm
    two = scan(drawn=([20.0, 90.0, 150.0], [1.0, 1.0, 1.0]))
    assert np.array_equal(one.low_mm, two.low_mm)
    assert np.array_equal(one.high_mm, two.high_mm)


def test_the_second_slice_of_a_scan_is_worth_more_than_the_first() -> None:
    alone = scan()
    first = alone.gains(NOWHERE).max()
    assert alone.drawn(3).gains(NOWHERE).max() > 2 * first


def test_a_slice_is_put_further_out_only_where_the_structure_is_to_be_expected() -> None:
    shows = np.exp(-np.maximum(PLACES - 60, 0) / 40)
    demand = np.where(PLACES > 60, shows, 0)
    start = scan(shows, demand / demand.sum(), drawn=([40.0, 60.0], [1.0, 1.0]))
    best = PLACES[int(start.gains(NOWHERE).argmax())]
    assert 80 <= best <= 110


def test_a_plan_weighs_its_slices_together_with_opening_the_scan() -> None:
    start, minutes = scan(), np.ones(len(PLACES), np.float32)
    free = np.ones(len(PLACES), np.bool_)
    plan = best_plan(start, NOWHERE, minutes, 0.0, free)
    far = best_plan(start, NOWHERE, minutes, 4.0, free)
    assert plan is not None
    assert far is not None
    gains = []
    for _ in range(4):
        gains.append(start.gains(NOWHERE).max())
        start = start.drawn(int(start.gains(NOWHERE).argmax()))
    total, count = np.cumsum(gains), np.arange(1, 5)
    assert plan.rate == pytest.approx(max(total / count))
    assert far.rate == pytest.approx(max(total / (4 + count)))
    assert plan.rate > gains[0]


def test_a_plan_keeps_to_what_is_free() -> None:
    minutes, free = np.ones(len(PLACES), np.float32), np.zeros(len(PLACES), np.bool_)
    assert best_plan(scan(), NOWHERE, minutes, 0.0, free) is None
    free[17] = True
    plan = best_plan(scan(), NOWHERE, minutes, 0.0, free)
    assert plan is not None
    assert plan.first == 17


def test_what_other_scans_learn_of_a_slice_can_decide() -> None:
    minutes, free = np.ones(len(PLACES), np.float32), np.ones(len(PLACES), np.bool_)
    elsewhere = NOWHERE.copy()
    elsewhere[0, 2] = 5
    plan = best_plan(scan(), elsewhere, minutes, 0.0, free)
    assert plan is not None
    assert plan.first == 2


def test_others_learn_of_what_lies_between_two_slices_as_the_scan_itself_does() -> None:
    alone = scan()
    elsewhere = NOWHERE + 0.5
    second = alone.drawn(3)
    own = second.gains(NOWHERE)
    assert second.gains(elsewhere) == pytest.approx(own * (1 + 0.5 * len(PLACES)), rel=1e-5)


def profile(*rows: tuple[int, int], n: int = 30) -> np.ndarray:
    """Area 1 from a slice up to another, per structure; none where both are 0."""
    found = np.zeros((len(rows), n), np.float32)
    for row, (low, high) in enumerate(rows):
        found[row, low:high] = 1
    return found


def test_a_structure_that_nobody_found_lies_beside_the_others_as_in_another_scan() -> None:
    other, own = profile((10, 14), (16, 20)), profile((4, 8), (0, 0))
    found = shifted_profiles([other, own], [5.0, 5.0], ["CT", "CT"])
    assert np.flatnonzero(found[1][1]).tolist() == [10, 11, 12, 13]
    assert np.array_equal(found[0], other)
    assert np.array_equal(found[1][0], own[0])


def test_guesses_go_by_millimeters_not_by_slices() -> None:
    other, own = profile((10, 14), (16, 20)), profile((8, 16), (0, 0), n=60)
    found = shifted_profiles([other, own], [6.0, 3.0], ["CT", "CT"])
    assert np.flatnonzero(found[1][1] == 1).tolist() == [21, 22, 23, 24, 25, 26]


def test_scans_of_the_same_modality_are_asked_first() -> None:
    own = profile((4, 8), (0, 0))
    of_mr, of_ct = profile((10, 14), (20, 24)), profile((10, 14), (16, 20))
    found = shifted_profiles([of_mr, own, *5 * [of_ct]], 7 * [5.0], ["MR", *6 * ["CT"]])
    assert np.flatnonzero(found[1][1]).tolist() == [10, 11, 12, 13]


def test_without_a_shared_structure_nothing_is_guessed() -> None:
    other, own = profile((0, 0), (16, 20)), profile((4, 8), (0, 0))
    found = shifted_profiles([other, own], [5.0, 5.0], ["CT", "CT"])
    assert not found[1][1].any()
    assert not found[0][0].any()
