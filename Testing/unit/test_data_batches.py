"""Batches depend on seed and step alone, and show what is known where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semiseg.data.cases import TrainingCase
from semiseg.data.greys import GreyRange, change_greys, draw_knots, remap
from semiseg.data.levels import FAR_MM, level_maps
from semiseg.data.sampler import Sampler, SamplerSettings
from semiseg.data.spatial import Source, SpatialRange, Warp, draw_warp
from semiseg.data.supervision import Supervision
from semiseg.data.training_grid import TrainingImage, from_training_grid, to_training_grid
from semiseg.errors import NotEnoughLabelsError
from semiseg.images.grid import Grid, canonical
from semiseg.images.reading import Image

CPU = torch.device("cpu")
GRID = Grid(size_xyz=(20, 18, 14), spacing_mm_xyz=(2.0, 2.0, 3.0))
PLAIN = SamplerSettings(
    patch_zyx=(8, 8, 8),
    n_labelled=2,
    n_unlabelled=1,
    n_classes=3,
    spacing_mm_zyx=(3.0, 2.0, 2.0),
    spatial=None,
    greys=None,
)
CHANGED = replace(PLAIN, spatial=SpatialRange(mirror=(2,)), greys=GreyRange())


def case(
    name: str, modality: str = "CT", *, labelled: bool = True, by_human: bool = True
) -> TrainingCase:
    """A case whose grey values say where each voxel lies; slices 4 to 7 are known."""
    shape = GRID.shape_zyx
    array = (np.arange(np.prod(shape)) / np.prod(shape) * 2 - 1).reshape(shape).astype(np.float32)
    label = np.zeros(shape, np.int16)
    label[4:8, 3:8, 3:8], label[4:8, 10:15, 12:17] = 1, 2
    known = np.zeros(shape, np.int32)
    known[4:8] = 1
    supervision = Supervision(
        label=label,
        valid=(known > 0).astype(np.float32),
        origin=np.full(shape, 1 if by_human else 2, np.uint8),
        pattern=known,
        patterns=np.array([[False] * 3, [True] * 3]),
    )
    return TrainingCase(
        id=name,
        patient=name,
        modality=modality,  # type: ignore[arg-type]
        image=TrainingImage(array=array, grid=GRID, orientation=canonical(GRID)),
        supervision=supervision if labelled else None,
    )


CASES = [case("a"), case("b", "MR"), case("c", labelled=False)]


@pytest.mark.parametrize("settings", [PLAIN, CHANGED])
def test_a_batch_is_a_function_of_seed_and_step(settings: SamplerSettings) -> None:
    one, other = (Sampler(CASES, settings, CPU) for _ in range(2))
    one.batch(3)
    for step in (7, 2):
        left, right = one.batch(step), other.batch(step)
        for name in ("image", "label", "valid", "known", "origin", "modality"):
            assert torch.equal(getattr(left, name), getattr(right, name))
        assert left.case == right.case
    assert not torch.equal(one.batch(1).image, one.batch(2).image)
    reseeded = Sampler(CASES, replace(settings, seed=1), CPU)
    assert not torch.equal(one.batch(1).image, reseeded.batch(1).image)


def test_batches_have_the_promised_shapes_and_types() -> None:
    batch = Sampler(CASES, CHANGED, CPU).batch(0)
    assert batch.size == 3
    assert batch.image.shape == (3, 1, 8, 8, 8)
    assert batch.label.shape == batch.valid.shape == batch.origin.shape == (3, 8, 8, 8)
    assert batch.known.shape == (3, 3, 8, 8, 8)
    assert batch.label.dtype == torch.int64
    assert batch.known.dtype == torch.bool
    assert batch.n_labelled == 2
    assert batch.to(CPU).image.dtype == torch.float32


def test_labelled_samples_hold_a_known_voxel_and_unlabelled_ones_none() -> None:
    sampler = Sampler(CASES, PLAIN, CPU)
    for step in range(20):
        batch = sampler.batch(step)
        assert (batch.valid[:2].flatten(1).sum(1) > 0).all()
        assert not batch.valid[2].any()
        assert not batch.known[2].any()
        assert not batch.label[2].any()


def test_all_classes_modalities_and_cases_come_up() -> None:
    sampler = Sampler(CASES, PLAIN, CPU)
    batches = [sampler.batch(step) for step in range(40)]
    assert {name for batch in batches for name in batch.case[:2]} == {"a", "b"}
    assert {name for batch in batches for name in batch.case[2:]} == {"a", "b", "c"}
    for channel in (1, 2):
        share = np.mean(
            [bool((sample == channel).any()) for b in batches for sample in b.label[:2]]
        )
        assert share > 0.3


def test_a_lone_human_label_is_seen_as_often_as_many_propagated_ones() -> None:
    cases = [case("human"), *(case(f"p{i}", by_human=False) for i in range(9))]
    sampler = Sampler(cases, replace(PLAIN, n_unlabelled=0), CPU)
    names = [name for step in range(60) for name in sampler.batch(step).case]
    assert 0.35 < names.count("human") / len(names) < 0.65


def test_plain_patches_are_cut_without_interpolation_and_match_their_labels() -> None:
    batch = Sampler([case("a")], PLAIN, CPU).batch(5)
    whole = case("a")
    assert whole.supervision is not None
    place = torch.round((batch.image[0, 0] + 1) / 2 * whole.image.array.size).long().numpy()
    assert np.array_equal(batch.label[0].numpy(), whole.supervision.label.ravel()[place])


def test_patches_larger_than_the_image_are_filled_and_unknown_outside() -> None:
    settings = replace(PLAIN, patch_zyx=(24, 24, 24), n_unlabelled=0)
    batch = Sampler([case("a")], settings, CPU).batch(0)
    outside = batch.image[0, 0] == -1
    assert outside.float().mean() > 0.5
    assert not batch.valid[0][outside].any()
    assert (batch.label[0] > 0).sum() == 4 * 25 * 2


def test_classes_seen_only_as_background_are_sampled_too() -> None:
    empty = case("a")
    assert empty.supervision is not None
    nothing = replace(empty.supervision, label=np.zeros_like(empty.supervision.label))
    batch = Sampler([replace(empty, supervision=nothing)], PLAIN, CPU).batch(0)
    assert batch.valid[:2].any()


def test_without_any_label_the_user_is_told_what_to_do() -> None:
    with pytest.raises(NotEnoughLabelsError, match="mark them as done"):
        Sampler([case("c", labelled=False)], PLAIN, CPU)


def test_large_known_regions_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiseg.data.sampler._MAX_CENTRES", 10)
    assert Sampler(CASES, PLAIN, CPU).batch(0).valid[:2].any()


def test_warp_without_limits_is_a_plain_cut() -> None:
    warp = draw_warp(np.random.default_rng(0), np.zeros(3), (3.0, 1.0, 1.0), None)
    assert np.array_equal(warp.matrix, np.eye(3))
    assert warp.bend is None


def test_rotation_is_rigid_in_millimetres() -> None:
    limits = SpatialRange(
        log_scale=0.0, log_stretch=0.0, bend_chance=0.0, rotation_deg_zyx=(30.0,) * 3
    )
    spacing = np.array([4.0, 1.0, 1.5])
    warp = draw_warp(np.random.default_rng(1), np.zeros(3), (4.0, 1.0, 1.5), limits)
    in_mm = spacing[:, None] * warp.matrix / spacing
    assert np.allclose(in_mm @ in_mm.T, np.eye(3))
    assert np.linalg.det(in_mm) == pytest.approx(1)
    assert not np.allclose(in_mm, np.eye(3), atol=0.01)


def test_left_and_right_are_not_mirrored_unless_asked() -> None:
    draws = [
        np.linalg.det(draw_warp(np.random.default_rng(i), np.zeros(3), (1.0,) * 3, limits).matrix)
        for i in range(12)
        for limits in (SpatialRange(),)
    ]
    assert min(draws) > 0
    mirrored = [
        np.linalg.det(
            draw_warp(
                np.random.default_rng(i), np.zeros(3), (1.0,) * 3, SpatialRange(mirror=(2,))
            ).matrix
        )
        for i in range(12)
    ]
    assert min(mirrored) < 0 < max(mirrored)


def test_image_and_label_move_together() -> None:
    ball = torch.zeros(16, 16, 16)
    ball[5:11, 5:11, 5:11] = 1
    source = Source(ball, 0.0, {"label": ball.to(torch.int16)})
    for seed in range(5):
        warp = draw_warp(np.random.default_rng(seed), np.full(3, 7.5), (1.0,) * 3, SpatialRange())
        image, maps, _ = source.cut(warp, (16, 16, 16))
        assert ((image > 0.5) == (maps["label"] == 1)).float().mean() > 0.97


def test_voxels_beyond_the_edge_are_marked() -> None:
    source = Source(torch.zeros(4, 4, 4), -1.0, {})
    image, _, inside = source.cut(Warp(centre=np.zeros(3), matrix=np.eye(3), bend=None), (3, 3, 3))
    assert inside.sum() == 8
    assert (image[~inside] == -1).all()


def test_monotone_remaps_keep_the_order_of_greys_and_inverted_ones_turn_it() -> None:
    greys = torch.linspace(-1, 1, 50)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        up = remap(greys, torch.from_numpy(draw_knots(rng, inverted=False)))
        down = remap(greys, torch.from_numpy(draw_knots(rng, inverted=True)))
        assert (up.diff() >= 0).all()
        assert (down.diff() <= 0).all()
        assert up[[0, -1]].tolist() == pytest.approx([-1, 1], abs=1e-5)


def test_straight_knots_change_nothing() -> None:
    greys = torch.rand(4, 4, 4) * 2 - 1
    assert torch.allclose(remap(greys, torch.linspace(-1, 1, 9)), greys, atol=1e-6)


def test_no_chance_means_no_change() -> None:
    never = GreyRange(
        remap_chance=0,
        bias_chance=0,
        contrast_chance=0,
        gamma_chance=0,
        blur_chance=0,
        noise_chance=0,
    )
    image = torch.rand(6, 6, 6)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(change_greys(image, np.random.default_rng(0), generator, never), image)


def test_grey_changes_stay_finite_and_keep_the_shape() -> None:
    always = GreyRange(
        remap_chance=1,
        inversion_chance=0.5,
        bias_chance=1,
        contrast_chance=1,
        gamma_chance=1,
        blur_chance=1,
        noise_chance=1,
    )
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(5, 6, 7) * 2.4 - 1.2
        changed = change_greys(image, np.random.default_rng(seed), generator, always)
        assert changed.shape == image.shape
        assert torch.isfinite(changed).all()
        assert changed.std() > 0


def test_training_grid_keeps_the_extent_and_leads_back() -> None:
    direction = (0.0, 0, 1, 1, 0, 0, 0, -1, 0)
    grid = Grid(size_xyz=(20, 16, 12), spacing_mm_xyz=(1.0, 2.0, 3.0), direction=direction)
    z, y, x = np.mgrid[:12, :16, :20]
    image = Image(array=(z + 2.0 * y - 0.5 * x).astype(np.float32), grid=grid)
    ready = to_training_grid(image, "MR", (2.0, 2.0, 2.0))
    before = np.multiply(ready.orientation.grid.size_xyz, ready.orientation.grid.spacing_mm_xyz)
    after = np.multiply(ready.grid.size_xyz, ready.grid.spacing_mm_xyz)
    assert np.allclose(before, after)
    assert ready.fill == ready.array.min() >= -1
    back = from_training_grid(ready.array, ready.orientation)
    assert back.shape == grid.shape_zyx
    inner = (slice(2, -2),) * 3
    assert np.corrcoef(back[inner].ravel(), image.array[inner].ravel())[0, 1] > 0.98


def test_level_sets_come_with_labelled_samples_where_slices_are_known() -> None:
    sampler = Sampler(CASES, replace(CHANGED, level_sets=True), CPU)
    for step in range(4):
        batch = sampler.batch(step)
        assert batch.level is not None
        assert batch.level.shape == (3, 2, 8, 8, 8)
        known = ~batch.level[:2].isnan().any(dim=1)
        assert torch.equal(known, batch.valid[:2] > 0)
        inside = torch.stack([batch.label[:2] == k for k in (1, 2)], dim=1)
        assert bool((batch.level[:2][inside] <= 0).all())
        assert bool((batch.level[:2][~inside & known[:, None]] > 0).all())
        assert bool(batch.level[2:].isnan().all())
        assert batch.to(CPU).level is not None


def test_level_sets_are_made_only_for_methods_that_ask() -> None:
    assert Sampler(CASES, PLAIN, CPU).batch(0).level is None


def placed(name: str, *, labelled: bool = True) -> TrainingCase:
    """A case whose places are its voxel numbers."""
    z, y, x = np.mgrid[:14, :18, :20]
    places = np.stack([x, y, z]).astype(np.float16)
    return replace(case(name, labelled=labelled), places=places)


def test_places_are_those_of_the_voxels_that_are_seen() -> None:
    settings = replace(PLAIN, places=True)
    batch = Sampler([placed("a"), placed("b", labelled=False)], settings, CPU).batch(3)
    assert batch.place is not None
    number = torch.round((batch.image[:, 0] + 1) / 2 * 14 * 18 * 20)
    x, y, z = batch.place.unbind(1)
    assert torch.equal((z * 18 + y) * 20 + x, number)


def test_places_outside_of_the_image_are_unknown() -> None:
    settings = replace(CHANGED, patch_zyx=(24, 24, 24), places=True)
    batch = Sampler([placed("a")], settings, CPU).batch(0)
    assert batch.place is not None
    outside = batch.place[0, 0].isnan()
    assert 0.3 < outside.float().mean() < 1
    assert not batch.valid[0][outside].any()


def test_a_case_without_places_has_none_in_a_batch() -> None:
    batch = Sampler([case("a")], replace(PLAIN, places=True), CPU).batch(0)
    assert batch.place is not None
    assert batch.place.isnan().all()
    assert Sampler([placed("a")], PLAIN, CPU).batch(0).place is None
    assert batch.to(CPU).place is not None


FLAT = replace(CHANGED, patch_zyx=(1, 8, 8), level_sets=True, places=True)


def test_patches_of_one_slice_make_two_dimensional_batches() -> None:
    batch = Sampler([placed("a"), placed("b")], FLAT, CPU).batch(0)
    assert batch.image.shape == (3, 1, 8, 8)
    assert batch.label.shape == batch.valid.shape == (3, 8, 8)
    assert batch.known.shape == (3, 3, 8, 8)
    assert batch.level is not None
    assert batch.level.shape == (3, 2, 8, 8)
    assert batch.place is not None
    assert batch.place.shape == (3, 3, 8, 8)


def test_a_slice_stays_one_slice_however_space_is_moved() -> None:
    sampler = Sampler([placed("a")], FLAT, CPU)
    for step in range(20):
        place = sampler.batch(step).place
        assert place is not None
        for sample in place:
            z = sample[2][~sample[2].isnan()]
            assert len(z.unique()) <= 1


def test_slabs_stay_upright_and_know_levels_within_their_slices() -> None:
    settings = replace(FLAT, patch_zyx=(3, 8, 8), within_slices=True)
    batch = Sampler([placed("a")], settings, CPU).batch(1)
    assert batch.place is not None
    for plane in batch.place[0, 2]:
        z = plane[~plane.isnan()]
        assert len(z.unique()) <= 1


def test_slices_hold_a_known_voxel_of_their_class() -> None:
    sampler = Sampler([case("a")], replace(FLAT, places=False), CPU)
    shares = [sampler.batch(step).valid[:2].flatten(1).mean(1) for step in range(20)]
    assert torch.stack(shares).mean() > 0.7


def test_level_sets_of_slices_lie_within_them() -> None:
    known = case("a").supervision
    assert known is not None
    whole = replace(known, valid=np.ones_like(known.valid), pattern=np.ones_like(known.pattern))
    solid, flat = (level_maps(whole, (3.0, 2.0, 2.0), within_slices=flat) for flat in (False, True))
    assert solid[0, 3, 5, 5] == 3.0
    assert flat[0, 3, 5, 5] == FAR_MM
    assert flat[0, 5, 5, 5] < 0


def test_labelled_samples_are_the_same_without_unlabelled_ones() -> None:
    sampler = Sampler(CASES, CHANGED, CPU)
    whole, alone = sampler.batch(4), sampler.batch(4, unlabelled=False)
    assert alone.all_labelled
    assert not whole.all_labelled
    assert torch.equal(whole.image[:2], alone.image)
    assert torch.equal(whole.label[:2], alone.label)


def bent(by_zyx: tuple[float, float, float]) -> TrainingCase:
    """A case with places and one way to another patient: everything moves by the same."""
    one = np.broadcast_to(np.reshape(by_zyx, (3, 1, 1, 1)), (3, 2, 2, 2)).astype(np.float32)
    return replace(placed("a"), warps=one[None])


def test_labelled_samples_are_bent_a_random_part_of_the_way_every_other_time() -> None:
    settings = replace(PLAIN, places=True)
    straight, drifting = (Sampler([c], settings, CPU) for c in (placed("a"), bent((2.0, 0, 0))))
    moves = []
    for step in range(60):
        before, after = straight.batch(step), drifting.batch(step)
        assert before.place is not None
        assert after.place is not None
        assert after.place[2].isfinite().all()  # unlabelled samples are not bent
        moves.append(float((after.place - before.place)[0, 2, 4, 4, 4].nan_to_num(0)))
    changed = [move for move in moves if move]
    assert 5 < len(changed) < 45
    assert set(changed) == {1.0, 2.0}


def test_bending_keeps_image_and_label_together() -> None:
    sampler = Sampler([bent((1.7, -2.2, 3.1))], replace(PLAIN, places=True), CPU)
    known = case("a").supervision
    assert known is not None
    for step in range(10):
        batch = sampler.batch(step)
        assert batch.place is not None
        x, y, z = (part.nan_to_num(0).long().numpy() for part in batch.place[0])
        inside = batch.valid[0].numpy() > 0
        assert np.array_equal(batch.label[0].numpy()[inside], known.label[z, y, x][inside])


def test_slices_are_not_bent_out_of_themselves() -> None:
    settings = replace(FLAT, level_sets=False)
    sampler = Sampler([bent((3.0, 0.0, 0.0))], settings, CPU)
    straight = Sampler([bent((0.0, 0.0, 0.0))], settings, CPU)
    for step in range(10):
        assert torch.equal(sampler.batch(step).label, straight.batch(step).label)


def test_drift_lies_between_its_knots() -> None:
    """No shift at the first slice, three voxels at the last."""
    drift = np.zeros((3, 2, 1, 1), np.float32)
    drift[0, 1] = 3.0
    image = torch.arange(7.0)[:, None, None].expand(7, 4, 4).contiguous()
    warp = Warp(centre=np.array([3.0, 1.5, 1.5]), matrix=np.eye(3), bend=None, drift=drift)
    seen, _, _ = Source(image, 99.0, {}).cut(warp, (7, 4, 4))
    assert seen[:4, 0, 0].tolist() == pytest.approx([0, 1.5, 3, 4.5], abs=1e-5)


def in_turn(n_labelled: int, n_unlabelled: int) -> SamplerSettings:
    return replace(PLAIN, n_labelled=n_labelled, n_unlabelled=n_unlabelled, modalities_in_turn=True)


@pytest.mark.parametrize(("n_labelled", "n_unlabelled"), [(1, 1), (2, 2), (3, 3), (2, 1)])
def test_modalities_take_turns_through_the_whole_batch(n_labelled: int, n_unlabelled: int) -> None:
    sampler = Sampler(CASES, in_turn(n_labelled, n_unlabelled), CPU)
    first = set()
    for step in range(12):
        modality = sampler.batch(step).modality
        first.add(int(modality[0]))
        assert (modality.diff().abs() == 1).all()
    assert first == {0, 1}


def test_a_part_with_one_modality_only_gives_that_and_the_other_part_still_alternates() -> None:
    cases = [case("a"), case("d"), case("b", "MR", labelled=False)]
    sampler = Sampler(cases, in_turn(2, 2), CPU)
    batches = [sampler.batch(step) for step in range(12)]
    assert not any(batch.modality[:2].any() for batch in batches)
    assert all(sorted(batch.modality[2:].tolist()) == [0, 1] for batch in batches)
    assert {name for batch in batches for name in batch.case} == {"a", "b", "d"}


def test_turns_are_a_function_of_seed_and_step_with_and_without_unlabelled_samples() -> None:
    one, other = (Sampler(CASES, in_turn(3, 2), CPU) for _ in range(2))
    one.batch(0)
    assert torch.equal(one.batch(5).image, other.batch(5).image)
    alone = other.batch(5, unlabelled=False)
    assert torch.equal(one.batch(5).image[:3], alone.image)
    assert alone.case == one.batch(5).case[:3]


def test_methods_that_do_not_ask_see_the_batches_that_they_always_saw() -> None:
    corners = Sampler(CASES, PLAIN, CPU).batch(4).image[:, 0, 0, 0, 0]
    assert corners.tolist() == pytest.approx([-0.5278, -0.8060, -0.1429], abs=1e-4)


def test_unchanged_greys_come_where_they_are_asked_for_and_change_nothing_else() -> None:
    asked = Sampler(CASES, replace(CHANGED, plain_images=True), CPU)
    same_places = Sampler(CASES, replace(CHANGED, greys=None), CPU)
    differ = 0
    for step in range(6):
        batch, usual = asked.batch(step), Sampler(CASES, CHANGED, CPU).batch(step)
        assert usual.plain is None
        assert torch.equal(batch.image, usual.image)
        assert batch.plain is not None
        first = same_places.batch(step).image[0]  # later samples follow other random numbers
        assert torch.equal(batch.plain[0], first)
        differ += not torch.equal(batch.plain, batch.image)
    assert differ > 0
