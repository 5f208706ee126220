"""Plans follow the data, the machine and the time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from semiseg.config import TrainConfig
from semiseg.errors import ConfigError
from semiseg.learning.means import MEANS, voxels_per_step
from semiseg.learning.plan import Plan, make_plan
from semiseg.learning.survey import CaseFacts, Survey


def facts(name: str, modality: Any, spacing: Any, extent: Any, width: float = 40.0) -> CaseFacts:
    return CaseFacts(
        id=name,
        patient=name,
        modality=modality,
        spacing_mm_zyx=spacing,
        extent_mm_zyx=extent,
        human_ids=frozenset({1}),
        program_ids=frozenset(),
        widths_mm={1: width},
        digest="",
    )


def abdomen(width: float = 40.0) -> Survey:
    ct = facts("ct", "CT", (3.0, 1.2, 1.2), (430.0, 310.0, 310.0), width)
    mr = facts("mr", "MR", (7.7, 1.25, 1.25), (250.0, 320.0, 320.0), width)
    return Survey(train=(ct, mr), validation=(), classes=(0, 1))


def heart() -> Survey:
    mr = facts("mr", "MR", (10.0, 1.5, 1.5), (90.0, 350.0, 320.0))
    return Survey(train=(mr,), validation=(), classes=(0, 1))


def small_volumes() -> Survey:
    mr = facts("mr", "MR", (1.0, 1.0, 1.0), (35.0, 50.0, 36.0), 12.0)
    return Survey(train=(mr,), validation=(), classes=(0, 1))


def plan_of(found: Survey, device: str = "cpu", speed: float = 8e5, **settings: Any) -> Plan:
    return make_plan(found, TrainConfig(**settings), device, voxels_per_s=speed)


@pytest.mark.parametrize("found", [abdomen(), heart(), small_volumes()])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("minutes", [0.1, 3.0, 60.0])
def test_patches_fit_the_network_and_the_image(found: Survey, device: str, minutes: float) -> None:
    plan = plan_of(found, device, minutes=minutes)
    dims = plan.network.dims
    for side, multiple in zip(plan.patch_zyx[-dims:], plan.network.multiple, strict=True):
        assert side % multiple == 0
        assert side >= 2 * multiple
    assert math.prod(plan.patch_zyx) <= 2 * MEANS[device].patch_voxels


def test_no_axis_is_learned_finer_than_it_was_scanned() -> None:
    plan = plan_of(heart(), dims="3")
    assert plan.spacing_mm_zyx[0] == 10.0
    assert plan.spacing_mm_zyx[1] == plan.spacing_mm_zyx[2] >= 1.5
    assert (plan.network.stem or plan.network.strides[0]) == (1, 2, 2)


def test_small_structures_need_finer_voxels() -> None:
    coarse, fine = plan_of(abdomen(60.0)), plan_of(abdomen(8.0))
    assert fine.spacing_mm_zyx[1] < coarse.spacing_mm_zyx[1] <= MEANS["cpu"].coarsest_mm


def test_more_time_never_makes_voxels_coarser_or_patches_cover_less() -> None:
    plans = [plan_of(abdomen(), minutes=minutes) for minutes in (1.0, 10.0, 100.0, 1000.0)]
    spacings = [plan.spacing_mm_zyx[1] for plan in plans]
    assert spacings == sorted(spacings, reverse=True)
    covered = [math.prod(p.patch_zyx) * math.prod(p.spacing_mm_zyx) for p in plans[:2]]
    assert covered == sorted(covered)


def test_a_number_of_steps_makes_the_same_plan_on_every_machine() -> None:
    config = TrainConfig(steps=100, minutes=None)
    slow = make_plan(abdomen(), config, "cpu", voxels_per_s=1e3)
    assert slow == make_plan(abdomen(), config, "cpu", voxels_per_s=1e9)


def test_settings_that_are_given_are_taken() -> None:
    plan = plan_of(abdomen(), spacing_mm=5.0, patch=(16, 32, 48), batch_size=3)
    assert plan.spacing_mm_zyx == (5.0, 5.0, 5.0)
    assert plan.patch_zyx == (16, 32, 48)
    assert plan.n_labelled == 3


@pytest.mark.parametrize("patch", [(8, 32, 32), (17, 32, 32)])
def test_patches_that_do_not_fit_are_refused(patch: Any) -> None:
    with pytest.raises(ConfigError, match="multiples of 8 x 8 x 8"):
        plan_of(abdomen(), patch=patch)


def test_methods_that_want_unlabelled_samples_get_them() -> None:
    plan = make_plan(abdomen(), TrainConfig(), "cpu", uses_unlabelled=True)
    assert plan.n_unlabelled == plan.n_labelled
    assert make_plan(abdomen(), TrainConfig(), "cpu").n_unlabelled == 0


def test_memory_is_saved_by_patch_then_batch_then_device() -> None:
    plan: Plan | None = replace(
        plan_of(abdomen(), patch=(64, 64, 64), batch_size=4), device="cuda", n_unlabelled=2
    )
    seen = []
    while plan is not None:
        seen.append(plan)
        plan = plan.smaller()
    sizes = [p.voxels_per_step for p in seen]
    assert sizes == sorted(sizes, reverse=True)
    assert [p.device for p in seen] == ["cuda"] * (len(seen) - 1) + ["cpu"]
    assert seen[-1].n_labelled == 1
    assert all(min(p.patch_zyx) >= 16 for p in seen)


def test_plan_survives_json() -> None:
    plan = plan_of(heart())
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("minutes", [0.1, 3.0, 600.0])
def test_slices_of_few_thick_ones_are_seen_one_by_one(minutes: float) -> None:
    plan = plan_of(heart(), minutes=minutes)
    assert plan.network.dims == 2
    assert plan.spacing_mm_zyx[0] == 10.0
    assert plan.spacing_mm_zyx[1] == plan.spacing_mm_zyx[2] >= 1.5
    assert plan.patch_zyx[0] == 1
    assert 4 <= plan.n_labelled <= 12
    assert plan.n_unlabelled == 0


def test_more_time_makes_finer_and_more_slices() -> None:
    plans = [plan_of(heart(), minutes=minutes) for minutes in (0.5, 5.0, 60.0)]
    assert [p.spacing_mm_zyx[1] for p in plans] == sorted(
        (p.spacing_mm_zyx[1] for p in plans), reverse=True
    )
    assert plans[-1].n_labelled == 12
    assert plans[-1].spacing_mm_zyx[1] == 1.5


def test_dims_follow_the_wish_then_the_patch_then_the_data() -> None:
    assert plan_of(abdomen()).network.dims == 3
    assert plan_of(abdomen(), dims="2").network.dims == 2
    assert plan_of(heart(), dims="3").network.dims == 3
    assert plan_of(heart(), patch=(16, 64, 64)).network.dims == 3
    flat = plan_of(abdomen(), patch=(1, 64, 32), batch_size=3)
    assert (flat.patch_zyx, flat.n_labelled) == ((1, 64, 32), 3)


@pytest.mark.parametrize("patch", [(2, 64, 64), (1, 40, 64)])
def test_slices_that_do_not_fit_are_refused(patch: Any) -> None:
    with pytest.raises(ConfigError, match="multiples of 1 x 16 x 16"):
        plan_of(heart(), dims="2", patch=patch)


def test_slices_with_their_neighbours_are_slabs() -> None:
    plan = plan_of(heart(), dims="2.5")
    assert plan.network.within_slices
    assert plan.network.strides == ((1, 2, 2),) * 4
    assert plan.patch_zyx[0] == 4
    assert plan.patch_zyx[1:] == plan_of(heart(), dims="2").patch_zyx[1:]
    assert 1 <= plan.n_labelled <= 3
    assert plan_of(heart(), dims="2.5", patch=(6, 64, 64)).patch_zyx == (6, 64, 64)


def test_memory_is_saved_on_slices_too() -> None:
    plan: Plan | None = plan_of(heart(), patch=(1, 128, 64), batch_size=1)
    seen = []
    while plan is not None:
        seen.append(plan.patch_zyx)
        plan = plan.smaller()
    assert seen == [(1, 128, 64), (1, 64, 64), (1, 32, 64), (1, 32, 32)]


def test_where_time_makes_voxels_coarser_than_scans_the_network_begins_at_half_resolution() -> None:
    plan = plan_of(abdomen(), minutes=2.0)
    assert plan.network.stem == (2, 2, 2)
    assert plan.network.multiple == (16, 16, 16)
    native = plan_of(abdomen(), minutes=2.0, spacing_mm=plan.spacing_mm_zyx[1] / 8)
    assert native.network.stem == ()
    assert plan_of(abdomen(), minutes=2.0, patch=(24, 24, 24)).network.stem == ()
    assert plan_of(abdomen(), minutes=2.0, patch=(32, 48, 32)).network.stem == (2, 2, 2)
    assert plan_of(abdomen(), "cuda", minutes=2.0).network.stem == ()


def test_with_a_stem_a_step_has_as_many_voxels_and_steps_are_thrice_as_many() -> None:
    config = TrainConfig(minutes=10.0)
    cpu = MEANS["cpu"]
    with_stem = voxels_per_step(config, cpu, None, stem=True)
    assert with_stem == voxels_per_step(config, cpu, None, stem=False)
    measured = voxels_per_step(config, cpu, 2.4e6, stem=True)
    assert measured == pytest.approx(2.4e6 * 600 / (3 * cpu.steps_wanted))
