"""Many pairs as one batch give what each gives alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semiseg import propagation
from semiseg.config import PropagationConfig, RegistrationConfig
from semiseg.errors import ConfigError, ImageError, SemiSegError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.images.reading import Image
from semiseg.registration import many
from semiseg.registration.aligned import Pair
from semiseg.registration.landmarks import Landmarks, landmark_map
from semiseg.registration.many import pairs_at_once, register_many
from semiseg.registration.prepared import Prepared, prepare
from semiseg.registration.register import RegistrationResult, register
from semiseg.registration.sampling import FeatureMap, feature_map
from semiseg.registration.stacked import stack
from semiseg.study.study import Study

CONFIG = RegistrationConfig(device="cpu", iterations=6)
SAME_MM = 0.01
SIZES = ((28, 26, 24), (22, 28, 20), (26, 20, 28))


def _grid(size_xyz: tuple[int, int, int]) -> Grid:
    return Grid(size_xyz=size_xyz, spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-40.0, 10.0, 700.0))


def _image(size_xyz: tuple[int, int, int], shift_mm: float) -> Image:
    """A textured body that nearly fills its grid, bent by `shift_mm`."""
    grid = _grid(size_xyz)
    z, y, x = np.indices(grid.shape_zyx, dtype=float)
    middle = np.array(grid.shape_zyx)[:, None, None, None] / 2
    unit = (np.stack([z, y, x]) - middle) / middle
    x = x * 3 + shift_mm * np.sin(z / 5)
    waves = np.sin(x / 6) + np.sin(y / 2.3 + 1) + np.sin(z / 1.7 + 2) + np.sin((x + 3 * y) / 9)
    body = (unit**2).sum(axis=0) < 0.9
    return Image(array=np.where(body, 500 + 80 * waves, 0).astype(np.float32), grid=grid)


def _pair(number: int, config: RegistrationConfig = CONFIG) -> Pair:
    sizes = SIZES[number], SIZES[(number + 1) % 3]
    fixed, moving = (
        prepare(_image(size, shift), "MR", config)
        for size, shift in zip(sizes, (0.0, 5.0), strict=True)
    )
    return Pair(fixed=fixed, moving=moving)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Different sizes, the last compared across modalities, the second with landmarks."""
    first, second, third = (_pair(number) for number in range(3))
    maps = [_known(image) for image in (second.fixed, second.moving)]
    marks = Landmarks(fixed=maps[0], moving=maps[1])
    other = Pair(fixed=third.fixed, moving=replace(third.moving, modality="CT"))
    return [first, replace(second, landmarks=marks), other]


def _known(image: Prepared) -> FeatureMap:
    shape = image.grid.shape_zyx
    ball = np.zeros(shape, dtype=np.uint16)
    ball[shape[0] // 3 : shape[0] // 2, 6:12, 6:12] = 1
    return landmark_map(image, ball, np.ones(shape, dtype=np.float32), image.grid, [1])


@pytest.fixture(scope="module")
def alone(pairs: list[Pair]) -> list[RegistrationResult]:
    return [
        register(p.fixed, p.moving, CONFIG, both_ways=True, landmarks=p.landmarks) for p in pairs
    ]


def _same(found: object, expected: RegistrationResult) -> None:
    assert isinstance(found, RegistrationResult)
    assert found.inverse is not None
    assert expected.inverse is not None
    for one, other in ((found.field, expected.field), (found.inverse, expected.inverse)):
        assert one.grid == other.grid
        apart = np.abs(one.displacement_mm - other.displacement_mm)
        assert apart.max() < SAME_MM
    assert found.start_certainty == pytest.approx(expected.start_certainty, abs=0.01)
    assert found.similarity_after == pytest.approx(expected.similarity_after, abs=1e-3)
    assert found.ways_apart_mm == pytest.approx(expected.ways_apart_mm, abs=SAME_MM)
    assert found.inverse_error_mm == pytest.approx(expected.inverse_error_mm, abs=SAME_MM)
    assert found.folded == expected.folded


def test_a_batch_of_different_sizes_gives_what_each_pair_gives_alone(
    pairs: list[Pair], alone: list[RegistrationResult]
) -> None:
    found = register_many(pairs, CONFIG, both_ways=True, at_once=3)
    moved = [float(np.abs(one.field.displacement_mm).max()) for one in alone]
    assert min(moved) > 1.0
    for one, expected in zip(found, alone, strict=True):
        _same(one, expected)


def test_a_pair_that_fails_does_not_harm_the_others(
    pairs: list[Pair], alone: list[RegistrationResult]
) -> None:
    marks = pairs[1].landmarks
    assert marks is not None
    table = torch.full_like(marks.moving.table, torch.nan)
    damage = Landmarks(fixed=marks.fixed, moving=replace(marks.moving, table=table))
    coarse = prepare(_image(SIZES[0], 0.0), "MR", replace(CONFIG, spacing_mm=5.0))
    given = [
        replace(pairs[1], landmarks=damage),
        pairs[0],
        Pair(fixed=pairs[0].fixed, moving=coarse),
    ]
    damaged, good, other = register_many(given, CONFIG, both_ways=True, at_once=3)
    assert isinstance(damaged, ImageError)
    assert isinstance(other, ConfigError)
    _same(good, alone[0])


def test_batches_are_as_large_as_asked_for_and_steps_are_told(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, events = list[int](), list[Event]()
    monkeypatch.setattr(many, "_batch", _counted(sizes))
    found = register_many([*pairs, *pairs], CONFIG, events.append, at_once=4)
    assert sizes == [4, 2]
    assert len(found) == 6
    assert [(event.step, event.total) for event in events] == [(4, 6), (6, 6)]
    assert pairs_at_once(pairs[0]) == 1


def _counted(sizes: list[int], most: int = 100):  # type: ignore[no-untyped-def]
    def batch(given: list[Pair], *_: object, **__: object) -> list[SemiSegError]:
        if len(given) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(given))
        return [ConfigError("counted") for _ in given]

    return batch


def test_a_batch_for_which_memory_does_not_suffice_is_halved_and_that_is_said(
    pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, events = list[int](), list[Event]()
    monkeypatch.setattr(many, "_batch", _counted(sizes, most=1))
    assert len(register_many(pairs, CONFIG, events.append, at_once=3)) == 3
    assert sizes == [1, 1, 1]
    assert "more memory than there is" in events[0].message
    monkeypatch.setattr(many, "_batch", _counted(sizes, most=0))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        register_many(pairs[:1], CONFIG, at_once=1)


def test_splines_too_are_matched_as_a_batch(pairs: list[Pair]) -> None:
    config = replace(CONFIG, diffeomorphic=False, iterations=3)
    both = register_many(pairs[:2], config, both_ways=True, at_once=2)
    for pair, found in zip(pairs[:2], both, strict=True):
        marks = pair.landmarks
        _same(found, register(pair.fixed, pair.moving, config, both_ways=True, landmarks=marks))


def test_propagation_first_asks_for_all_registrations_that_it_misses(
    phantom_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "CT", "CT"), annotated=1)
    fast = RegistrationConfig(spacing_mm=4.0, iterations=1, grid_mm=20.0, device="cpu")
    config = PropagationConfig(registration=fast, accept_above=0.0, reject_below=0.0)
    asked = list[int]()

    def missing(folder: Path, pairs: Iterable[object], *_: object, both_ways: bool) -> None:
        assert folder.parent == study.cache_dir
        assert both_ways
        asked.append(len(list(pairs)))

    monkeypatch.setattr(propagation, "register_missing", missing)
    propagation.propagate(study, config)
    propagation.propagate(study, config)
    assert asked == [2, 0]


def test_nothing_to_do_gives_nothing() -> None:
    assert register_many([], CONFIG) == []


def test_what_is_read_of_a_stack_is_what_each_map_says() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = [
        feature_map(
            torch.rand(channels, *shape, generator=draw),
            torch.ones(shape, dtype=torch.bool),
            torch.rand(3, generator=draw) * 20,
            2.0,
        )
        for channels, shape in ((3, (5, 4, 3)), (2, (3, 6, 4)))
    ]
    points = torch.rand(2, 200, 3, generator=draw) * 30
    values, inside = stack(maps).sample(points)
    for number, one in enumerate(maps):
        expected, seen = one.sample(points[number])
        torch.testing.assert_close(values[number, :, : expected.shape[1]], expected)
        assert torch.equal(inside[number], seen)
    assert float(values[1, :, 2].abs().max()) == 0.0


def test_a_border_is_repeated_where_a_map_ends_and_not_where_the_grid_does() -> None:
    body = torch.ones(2, 2, 2, dtype=torch.bool)
    small = feature_map(torch.arange(8.0).view(1, 2, 2, 2), body, torch.zeros(3), 1.0)
    large = feature_map(torch.zeros(1, 3, 4, 5), torch.ones(3, 4, 5) > 0, torch.zeros(3), 1.0)
    both, single = stack([small, large]), stack([small])
    grown = both.bordered(both.volume)[0, :, :4, :4, :4]
    torch.testing.assert_close(grown, single.bordered(single.volume)[0])
    assert both.own[0].sum() == 8
    numbers = torch.tensor([0, 1, 5, 6, 20, 21, 25, 26])
    assert both.own_numbers(0, numbers).tolist() == list(range(8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use is here")
def test_a_batch_on_a_gpu_gives_what_each_pair_gives_there_alone(pairs: list[Pair]) -> None:
    device = torch.device("cuda")
    there = [
        Pair(fixed=replace(p.fixed, device=device), moving=replace(p.moving, device=device))
        for p in (pairs[0], pairs[2])
    ]
    assert pairs_at_once(there[0]) > 1
    for one, pair in zip(register_many(there, CONFIG, both_ways=True), there, strict=True):
        _same(one, register(pair.fixed, pair.moving, CONFIG, both_ways=True))
