"""What scans of a group tell of each other: descriptors, chained maps, rings that lead home."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from semiseg.atlases.chain import chained, composed
from semiseg.atlases.cycles import (
    ASTRAY_MM,
    Triangle,
    edge,
    round_trip_mm,
    surface_places,
    typical_misses,
    wrong_edges,
)
from semiseg.atlases.descriptor import CELLS_ZYX, describe, kept_descriptor, likeness
from semiseg.atlases.library import Library, covering
from semiseg.atlases.records import CaseOutcome, Records, Rings
from semiseg.atlases.transfer import Atlas
from semiseg.config import PropagationConfig, RegistrationConfig
from semiseg.images.grid import Grid
from semiseg.registration.field import Field
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import RegistrationResult
from semiseg.registration.warp import warp_image
from semiseg.study.study import Study

OBLIQUE = Grid(
    size_xyz=(18, 14, 12),
    spacing_mm_xyz=(2.0, 2.5, 4.0),
    origin_mm_lps=(-9.0, 3.0, 40.0),
    direction=(0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0),
)
STRAIGHT = Grid(
    size_xyz=(20, 20, 16), spacing_mm_xyz=(2.0, 2.0, 3.0), origin_mm_lps=(-15.0, 2.0, 38.0)
)


def wavy(grid: Grid, phase: float, size_mm: float = 1.5) -> Field:
    """A smooth displacement of up to `size_mm`."""
    index = np.indices(grid.shape_zyx, dtype=np.float64)
    parts = [np.sin(index[k] / 5 + index[(k + 1) % 3] / 7 + phase + k) for k in range(3)]
    return Field(displacement_mm=(size_mm * np.stack(parts)).astype(np.float32), grid=grid)


def shifted(grid: Grid, *shift_mm: float) -> Field:
    shift = np.array(shift_mm, dtype=np.float32)[:, None, None, None]
    field = np.broadcast_to(shift, (3, *grid.shape_zyx)).copy()
    return Field(displacement_mm=field, grid=grid)


def result(field: Field, inverse: Field | None = None, **changes: float) -> RegistrationResult:
    found = RegistrationResult(
        field=field,
        inverse=inverse,
        folded=0.0,
        similarity_before=0.8,
        similarity_after=0.9,
        inverse_error_mm=None if inverse is None else 1.0,
        start_certainty=0.9,
        start_reason="found",
        seconds=1.0,
        ways_apart_mm=5.0,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def body(seed: int = 0, contrast: float = 1.0, shape: tuple[int, int, int] = (30, 24, 24)):
    """A prepared body with organs whose places follow `seed`; grey = contrast * tissue."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    _, y, x = np.indices(shape)
    mask = ((y - 12) / 10) ** 2 + ((x - 12) / 11) ** 2 < 1
    array = np.where(mask, contrast * noise / np.abs(noise).max(), -1).astype(np.float32)
    grid = Grid(size_xyz=shape[::-1], spacing_mm_xyz=(3.0, 3.0, 3.0))
    return Prepared(array=array, mask=mask, grid=grid, modality="CT", device=torch.device("cpu"))


def test_a_descriptor_has_about_two_thousand_numbers_and_length_one() -> None:
    found = describe(body())
    assert found.shape == (12 * int(np.prod(CELLS_ZYX)),)
    assert found.dtype == np.float32
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_a_descriptor_tells_bodies_apart_and_not_contrasts() -> None:
    one, pale, other = describe(body(0)), describe(body(0, -0.5)), describe(body(1))
    same, different = likeness(one, [pale, other])
    assert same > 0.8
    assert different < same - 0.05


def test_an_image_without_a_body_is_like_nothing() -> None:
    empty = body()
    nothing = describe(replace(empty, mask=np.zeros_like(empty.mask)))
    assert not nothing.any()
    assert likeness(nothing, [describe(empty)]) == pytest.approx([0.0])
    assert likeness(nothing, []).shape == (0,)


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_a_lost_or_damaged_descriptor_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "descriptors" / "a.npy"
    calls: list[int] = []

    def make() -> np.ndarray:
        calls.append(1)
        return np.ones(4, dtype=np.float32)

    for _ in range(2):
        np.testing.assert_array_equal(kept_descriptor(path, make), np.ones(4))
    assert len(calls) == 1
    if damage is None:
        np.save(path, np.full(4, np.nan, dtype=np.float32))
    else:
        path.write_bytes(damage)
    np.testing.assert_array_equal(kept_descriptor(path, make), np.ones(4))
    assert len(calls) == 2


def test_descriptors_are_kept_by_content_and_not_by_case(
    phantom_study: Callable[..., Study],
) -> None:
    study = phantom_study(("CT", "MR"), annotated=1)
    config = PropagationConfig(registration=RegistrationConfig(spacing_mm=4.0, device="cpu"))
    first = Library(study, config).descriptor("c0")
    (path,) = (study.cache_dir / "descriptors").glob("*.npy")
    assert len(path.stem) == 64  # a digest
    study.annotate("c0", np.zeros((10, 16, 16), np.uint16), plane="axial", indices=(3,))
    again = Library(study, config)
    monkey = np.load(path) * 0
    np.save(path, monkey)
    assert not again.descriptor("c0").any()  # read, not made: drawing changes no image
    assert first.any()


def test_the_descriptor_chooses_whom_the_search_looks_at(
    phantom_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = phantom_study(("CT", "CT", "CT", "MR", "CT", "CT"), annotated=5)
    one = PropagationConfig(
        atlases=1, registration=RegistrationConfig(spacing_mm=4.0, device="cpu")
    )
    found = Library(study, one)
    alike = {"c0": 0.1, "c1": 0.9, "c2": 0.5, "c3": 1.0, "c4": 0.2, "c5": 1.0}
    found.descriptor = lambda i: np.array([alike[i], 0], np.float32)
    target = study.cases["c5"]
    lenders = found.lenders(target)
    assert found.nearest(target, lenders, 3) == ("c1", "c2", "c4")  # c3 is of the other modality
    looked: list[str] = []
    genuine = found.prepared
    monkeypatch.setattr(found, "prepared", lambda i: looked.append(i) or genuine(i))
    assert found.choose(target, lenders)[0] in {"c1", "c2", "c4"}
    assert sorted(set(looked)) == ["c1", "c2", "c4", "c5"]
    looked.clear()
    found.choose(target, lenders)
    assert not looked


@pytest.mark.parametrize(
    ("lent", "wanted", "expected"),
    [
        ({"a": {1, 2}, "b": {1}, "c": {2}}, 2, "ab"),
        ({"a": {1}, "b": {1}, "c": {2}}, 2, "ac"),
        ({"a": {1}, "b": {1, 2}, "c": {3}, "d": {3}}, 2, "bc"),
        ({"a": {1}, "b": {2}, "c": {3}}, 2, "abc"),
        ({"a": {1}, "b": {2}}, 1, "ab"),
        ({"a": {1}, "b": {1, 2}}, 1, "b"),
        ({"a": set(), "b": set(), "c": {1}}, 2, "ac"),
        ({"a": {1}, "b": {1}, "c": {1}, "d": {2}, "e": {3}}, 3, "ade"),
    ],
    ids=["enough", "last goes", "all go", "none goes", "one", "one goes", "idle", "two"],
)
def test_a_structure_that_few_atlases_have_is_not_left_out(
    lent: dict[str, set[int]], wanted: int, expected: str
) -> None:
    assert "".join(covering(sorted(lent), wanted, lent)) == expected


def test_the_atlas_with_a_rare_structure_is_looked_at_however_unlike_it_is(
    phantom_study: Callable[..., Study],
) -> None:
    study = phantom_study(("CT",) * 9, annotated=8)
    two = PropagationConfig(
        atlases=2, registration=RegistrationConfig(spacing_mm=4.0, device="cpu")
    )
    found = Library(study, two)
    found.descriptor = lambda i: np.array([float(i[1:]) / 10, 0], np.float32)  # c7 is most alike
    found.lent_ids = lambda i: (1, 2) if i == "c0" else (1,)
    target = study.cases["c8"]
    lenders = found.lenders(target)
    assert "c0" not in found.nearest(target, lenders, 6)
    chosen = found.choose(target, lenders, (1, 2))
    assert len(chosen) == 2
    assert "c0" in chosen
    assert "c0" not in found.choose(target, lenders, (1,))


def test_composed_maps_are_the_way_along_both() -> None:
    first, second = wavy(OBLIQUE, 0.0), wavy(STRAIGHT, 2.0)
    both = composed(first, second)
    points = OBLIQUE.to_world(np.array([[5.0, 5, 5], [9, 7, 6], [12, 3, 8]]))
    np.testing.assert_allclose(
        both.moved(points), second.moved(first.moved(points)), rtol=0, atol=0.02
    )


def test_composing_blurs_less_than_resampling_twice() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=STRAIGHT.shape_zyx).astype(np.float32)
    smooth = ndimage.gaussian_filter(image, 1.5).astype(np.float32)
    first, second = wavy(OBLIQUE, 0.0), wavy(STRAIGHT, 2.0)
    once = warp_image(smooth, STRAIGHT, composed(first, second), OBLIQUE)
    twice = warp_image(warp_image(smooth, STRAIGHT, second, STRAIGHT), STRAIGHT, first, OBLIQUE)
    inner = (slice(3, -3),) * 3
    assert np.corrcoef(once[inner].ravel(), twice[inner].ravel())[0, 1] > 0.95
    assert once[inner].std() > twice[inner].std()


def test_a_chain_leads_there_and_home_and_is_as_sure_as_its_weakest_part() -> None:
    there = result(shifted(OBLIQUE, 4, 0, 0), shifted(STRAIGHT, -4, 0, 0), start_certainty=0.4)
    on = result(
        shifted(STRAIGHT, 0, 6, 0), shifted(OBLIQUE, 0, -6, 0), ways_apart_mm=20.0, folded=0.1
    )
    chain = chained(there, on, np.ones(OBLIQUE.shape_zyx, dtype=bool))
    point = OBLIQUE.to_world(np.array([8.0, 6, 5]))
    np.testing.assert_allclose(chain.field.moved(point) - point, [4, 6, 0], atol=1e-4)
    assert chain.inverse is not None
    assert chain.inverse.grid == OBLIQUE  # that of the atlas, where the way home begins
    np.testing.assert_allclose(chain.inverse.moved(point) - point, [-4, -6, 0], atol=1e-4)
    assert (chain.start_certainty, chain.ways_apart_mm, chain.inverse_error_mm) == (0.4, 20.0, 2.0)
    assert chain.folded == 0.0  # measured on the chain
    one_way = chained(result(there.field), on, np.ones(OBLIQUE.shape_zyx, dtype=bool))
    assert one_way.inverse is None
    assert one_way.inverse_error_mm is None


def ball() -> Atlas:
    z, y, x = np.indices(OBLIQUE.shape_zyx)
    array = ((z - 6) ** 2 + (y - 7) ** 2 + (x - 9) ** 2 < 16).astype(np.uint16)
    return Atlas(
        case_id="a",
        grid=OBLIQUE,
        array=array,
        confidence=np.ones(array.shape, np.float32),
        ids=(1, 2),
    )


def test_a_surface_is_the_outermost_voxels() -> None:
    atlas = ball()
    places = OBLIQUE.to_voxel(surface_places(atlas, 1))
    radius = np.linalg.norm(places - [9, 7, 6], axis=1)
    assert len(places)
    assert radius.min() > 2.4
    assert radius.max() < 4
    assert surface_places(atlas, 2).shape == (0, 3)


def test_a_ring_leads_home_and_a_planted_wrong_map_misses() -> None:
    right = (shifted(OBLIQUE, 5, 0, 0), shifted(OBLIQUE, 0, 3, 0), shifted(OBLIQUE, -5, -3, 0))
    assert round_trip_mm(ball(), right) == {1: pytest.approx(0, abs=0.01)}
    wrong = (*right[:2], shifted(OBLIQUE, -5, 17, 0))
    assert round_trip_mm(ball(), wrong) == {1: pytest.approx(20, abs=0.01)}


def ring(a: str, b: str, c: str, miss_mm: float, **unsure_mm: float) -> Triangle:
    sides = {
        edge(*pair): unsure_mm.get("".join(edge(*pair)), 1.0) for pair in (a + b, b + c, a + c)
    }
    return Triangle(unsure_mm=sides, miss_mm={1: miss_mm, 2: miss_mm})


def test_an_edge_that_misses_in_most_of_its_rings_is_wrong() -> None:
    home, astray = ASTRAY_MM / 2, 2 * ASTRAY_MM
    assert not wrong_edges([ring("t", "m", "a", home, at=9.0)])
    assert wrong_edges([ring("t", "m", "a", astray, at=9.0)]) == {("a", "t")}
    rings = [
        ring("t", "m", "a", astray, am=9.0),
        ring("u", "m", "a", home, am=9.0),
        ring("v", "m", "a", home, am=9.0),
        ring("t", "m", "b", astray, mt=9.0),
        ring("t", "m", "c", astray, mt=9.0),
    ]
    assert wrong_edges(rings) == {("m", "t")}


def test_rings_say_per_structure_how_far_they_miss() -> None:
    rings = [
        Triangle(unsure_mm={}, miss_mm={1: 2.0, 2: 30.0}),
        Triangle(unsure_mm={}, miss_mm={1: 4.0}),
    ]
    assert typical_misses(rings) == {1: 3.0, 2: 30.0}
    assert typical_misses([]) == {}
    assert not Triangle(unsure_mm={}, miss_mm={}).misses


def test_rings_are_read_as_they_were_kept_and_damaged_ones_are_none(tmp_path: Path) -> None:
    rings, found = Rings(tmp_path), (ring("t", "m", "a", 4.0, at=9.0), ring("t", "m", "b", 40.0))
    rings.keep("t", found)
    assert rings.of(["t", "nobody"]) == found
    path = tmp_path / "t.json"
    text = path.read_text()
    for damaged in (
        "{",
        "[]",
        text.replace('"edges": [', '"edges": ["ab", '),
        text.replace('"edges"', '"sides"'),
        text.replace('"miss_mm": {', '"miss_mm": 3, "more": {'),
        text.replace('"algorithm": ', '"algorithm": 1'),
        '{"algorithm": 4, "triangles": 4}',
        '{"algorithm": 4, "triangles": [4]}',
    ):
        path.write_text(damaged)
        assert rings.of(["t"]) == ()


def test_a_record_says_which_way_a_label_came(tmp_path: Path) -> None:
    records = Records(tmp_path)
    outcome = CaseOutcome(
        case_id="t",
        verdict="accept",
        score=0.8,
        reasons=("why",),
        seconds=1.5,
        atlases=("a", "b"),
        via="m",
        version=3,
        self_check=((1, 0.9),),
    )
    records.keep(outcome, "key")
    found = records.find("t", "key")
    assert found == replace(outcome, unchanged=True, seconds=0.0)
    path = tmp_path / "t.json"
    path.write_text(path.read_text().replace('"via"', '"formerly"'))
    assert records.find("t", "key") is None
