"""What the comparison of methods draws, pairs and averages."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import method_studies

    return method_studies


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import method_tables

    return method_tables


def scans(n_ct: int = 10, n_mr: int = 6) -> list:
    from data_sets import Scan  # type: ignore[import-not-found]

    names = [("CT", f"ct_{i:02}") for i in range(n_ct)] + [
        ("MR", f"mr_{i:02}") for i in range(n_mr)
    ]
    tests = [("CT", "ct_test"), ("MR", "mr_test")]
    return [
        Scan(
            name=name,
            patient=name,
            modality=modality,
            image=Path(f"{name}_image"),
            label=Path(f"{name}_label"),
            pool=(modality, name) in names,
        )
        for modality, name in (*names, *tests)
    ]


@pytest.mark.parametrize(
    ("labelled", "n_ct", "n_mr"),
    [("AB-1", 1, 1), ("AB-5", 1, 1), ("ct-to-mr", 10, 0), ("mr-to-ct", 0, 6), ("atlases", 5, 3)],
)
def test_protocols_label_as_many_scans_as_they_say(
    studies: ModuleType, labelled: str, n_ct: int, n_mr: int
) -> None:
    drawn = studies.Drawn(labelled=labelled, seed=1, alone=None, propagated=False)
    names = studies.drawn_names(drawn, scans())
    assert (sum("ct" in n for n in names), sum("mr" in n for n in names)) == (n_ct, n_mr)
    assert not any("test" in name for name in names)
    cases = studies.study_cases(drawn, scans())
    assert len(cases) == 18
    for case in cases:
        assert case.slices == (5 if labelled == "AB-5" and case.case_id in names else 0)
        assert case.full == (labelled != "AB-5" and case.case_id in names)


def test_a_rehearsal_never_sees_a_test_scan(studies: ModuleType) -> None:
    from data_sets import rehearsed

    found = rehearsed([*scans(), scans()[0]])  # a patient with two scans stays in one part
    assert not any("test" in scan.name for scan in found)
    held = {scan.patient for scan in found if not scan.pool}
    assert held == {"mr_02", "mr_03", "mr_04", "mr_05"}
    assert held.isdisjoint(scan.patient for scan in found if scan.pool)


def test_seeds_draw_scans_in_turn_as_the_whole_loop_does(studies: ModuleType) -> None:
    for seed, expected in (
        (0, {"ct_00", "mr_00"}),
        (1, {"ct_01", "mr_01"}),
        (7, {"ct_07", "mr_01"}),
    ):
        drawn = studies.Drawn(labelled="AB-5", seed=seed, alone=None, propagated=True)
        assert studies.drawn_names(drawn, scans()) == expected


def test_a_smaller_pool_keeps_the_labelled_scans(studies: ModuleType) -> None:
    drawn = studies.Drawn(labelled="AB-1", seed=2, alone=None, propagated=False, pool=3)
    cases = {case.case_id: case for case in studies.study_cases(drawn, scans())}
    assert len(cases) == 3 + 3 + 2
    assert cases["ct_02"].full
    assert cases["mr_02"].full


def test_a_modality_alone_leaves_the_other_out_of_the_pool(studies: ModuleType) -> None:
    drawn = studies.Drawn(labelled="AB-1", seed=0, alone="CT", propagated=False)
    names = {case.case_id for case in studies.study_cases(drawn, scans())}
    assert {name for name in names if "mr" in name} == {"mr_test"}
    assert studies.is_possible(drawn)
    no_labels = studies.Drawn(labelled="ct-to-mr", seed=0, alone="MR", propagated=False)
    assert not studies.is_possible(no_labels)


def test_names_of_arms_say_what_is_learned_from(studies: ModuleType) -> None:
    arm = studies.Arm.named("cmedl+teacher=CT@MR+propagated")
    assert (arm.method, arm.alone, arm.propagated) == ("cmedl+teacher=CT", "MR", True)
    assert studies.Arm.named("bcp") == studies.Arm(method="bcp")


def run(method: str, seed: int, dice: dict[str, float | None]) -> dict:
    return {
        "run": {"method": method, "labelled": "AB-1", "seed": seed},
        "dice": dice,
        "hd95_mm": {
            key: None if value is None else 10 * (1 - value) for key, value in dice.items()
        },
        "modality": {key.split()[0]: "CT" for key in dice},
        "patient": {key.split()[0]: key.split("_")[0] for key in dice},
        "steps": 10,
        "seconds": {"train": 5.0},
    }


def test_gains_are_paired_by_scan_and_seed(tables: ModuleType) -> None:
    base = [
        run("supervised", 0, {"a_1 liver": 0.5, "b_1 liver": 0.7}),
        run("supervised", 1, {"a_1 liver": 0.6, "b_1 liver": 0.6}),
    ]
    ours = [
        run("bcp", 1, {"a_1 liver": 0.7, "b_1 liver": 0.9}),
        run("bcp", 2, {"a_1 liver": 0.0, "b_1 liver": 0.0}),
    ]
    found = tables.paired(ours, base, "CT", "dice", None)
    assert {name: pytest.approx(values) for name, values in found.items()} == {
        "a": [0.1],
        "b": [0.3],
    }
    assert tables.gain(ours, base, "CT") == "+0.200"


def test_scans_of_a_patient_count_once(tables: ModuleType) -> None:
    keys = ("a_1 liver", "a_2 liver", "b_1 liver", "c_1 liver")
    base = [run("supervised", 0, dict.fromkeys(keys, 0.5))]
    ours = [run("bcp", 0, dict(zip(keys, (0.5, 0.9, 0.6, 0.6), strict=True)))]
    gain = tables.gain(ours, base, "CT")
    assert gain.startswith("+0.133 (+0.100 to +0.200")


def test_the_better_baseline_is_what_is_compared_with(tables: ModuleType) -> None:
    runs = [
        run("supervised", 0, {"a_1 liver": 0.5}),
        run("supervised@CT", 0, {"a_1 liver": 0.6}),
        run("supervised+propagated", 0, {"a_1 liver": 0.9}),
        run("bcp", 0, {"a_1 liver": 0.7}),
    ]
    assert tables.better_baseline(runs, "AB-1", "CT")[0] == "supervised@CT"
    printed = tables.tables(runs)
    assert "| AB-1 | CT | bcp | 0.700 | 0.700 | - | 10-10 | +0.100 | supervised@CT |" in printed
    assert "| AB-1 | CT | supervised@CT | 4.0 | 4.0 | 0 of 1 | - | - |" in printed


def test_what_is_missed_is_counted_and_not_averaged(tables: ModuleType) -> None:
    one = run("supervised", 0, {"a_1 liver": 0.5, "a_1 spleen": 0.0, "a_1 kidney": None})
    one["hd95_mm"]["a_1 spleen"] = None
    assert tables.missed([one], "CT") == "1 of 2"
    assert tables.overall([one], "CT", "hd95_mm") == pytest.approx(5.0)
    assert tables.overall([one], "CT", "dice") == pytest.approx(0.25)
