"""Slices drawn by a simulated human, and label files brought to a study's ids and grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiseg.errors import ConfigError, LabelError, NotEnoughLabelsError, ProtocolError
from semiseg.images.grid import Grid, plane_axis
from semiseg.images.labels import LabelMap, Segment
from semiseg.images.reading import write_image
from semiseg.importing import to_protocol
from semiseg.simulation import SimulationConfig, choose_slices, simulate
from semiseg.study.protocol import parse_structures
from semiseg.study.study import Study

TURNED = Grid(
    size_xyz=(12, 9, 20),
    spacing_mm_xyz=(2.0, 2.5, 4.0),
    origin_mm_lps=(5.0, -7.0, 11.0),
    # Stored sagittally: array axis z runs along the patient's left-right axis.
    direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
)
PROTOCOL = parse_structures("1=liver,4=spleen")


def two_organs(grid: Grid = TURNED) -> np.ndarray:
    label = np.zeros(grid.shape_zyx, dtype=np.uint16)
    label[2:15, 2:7, 3:9] = 1
    label[10:18, 1:3, 8:11] = 4
    return label


def test_both_tips_and_even_steps_between_are_drawn() -> None:
    chosen = choose_slices(two_organs(), TURNED, [1], SimulationConfig(slices=3, plane="sagittal"))
    assert plane_axis(TURNED, "sagittal") == 0
    assert chosen == (2, 8, 14)


def test_slices_of_all_organs_are_drawn_together_or_of_the_whole_once() -> None:
    config = SimulationConfig(slices=2, plane="sagittal")
    assert choose_slices(two_organs(), TURNED, [1, 4], config) == (2, 10, 14, 17)
    whole = SimulationConfig(slices=2, plane="sagittal", per="volume")
    assert choose_slices(two_organs(), TURNED, [1, 4], whole) == (2, 17)


def test_one_slice_is_the_middle_and_too_many_are_all() -> None:
    one = SimulationConfig(slices=1, plane="sagittal")
    assert choose_slices(two_organs(), TURNED, [1], one) == (8,)
    many = SimulationConfig(slices=99, plane="sagittal")
    assert choose_slices(two_organs(), TURNED, [1], many) == tuple(range(2, 15))


@given(
    count=st.integers(1, 12), seed=st.integers(0, 99), plane=st.sampled_from(["axial", "coronal"])
)
def test_chosen_slices_are_inside_and_repeatable(count: int, seed: int, plane: str) -> None:
    config = SimulationConfig(slices=count, seed=seed, plane=plane)  # type: ignore[arg-type]
    chosen = choose_slices(two_organs(), TURNED, [1], config)
    assert chosen == choose_slices(two_organs(), TURNED, [1], config)
    axis = plane_axis(TURNED, plane)  # type: ignore[arg-type]
    inside = np.flatnonzero((two_organs() == 1).any(tuple(a for a in range(3) if a != axis)))
    assert set(chosen) <= set(inside.tolist())
    if count > 1:
        assert {chosen[0], chosen[-1]} == {inside[0], inside[-1]}


def test_an_empty_label_cannot_be_drawn_from() -> None:
    with pytest.raises(NotEnoughLabelsError, match="nothing to draw"):
        choose_slices(two_organs(), TURNED, [9], SimulationConfig())


@pytest.mark.parametrize("wrong", [{"slices": 0}, {"per": "x"}, {"plane": "x"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SimulationConfig(**wrong)  # type: ignore[arg-type]


def test_only_the_chosen_slices_reach_the_study(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=TURNED.shape_zyx).astype(np.float32)
    write_image(tmp_path / "i.nii.gz", image, TURNED)
    study = Study.create(tmp_path / "study", name="s", protocol=PROTOCOL)
    study.add_case(tmp_path / "i.nii.gz", case_id="c", modality="CT")
    chosen = simulate(study, "c", two_organs(), SimulationConfig(slices=2, plane="sagittal"), [1])
    label = study.label("c")
    assert label is not None
    assert chosen == (2, 14)
    assert label.ledger.done("sagittal", 1) == chosen
    assert label.ledger.done("sagittal", 4) == ()
    drawn = label.array.any(axis=(1, 2))
    assert np.flatnonzero(drawn).tolist() == [2, 14]
    assert not (label.array == 4).any()


def test_names_decide_before_numbers() -> None:
    label = LabelMap(
        array=two_organs(),
        grid=TURNED,
        segments=(
            Segment(id=1, name="SPLEEN", color=(1, 1, 1)),
            Segment(id=4, name="liver", color=(2, 2, 2)),
        ),
    )
    array = to_protocol(label, PROTOCOL, TURNED)
    assert (array[two_organs() == 1] == 4).all()
    assert (array[two_organs() == 4] == 1).all()


def test_a_mapping_decides_before_names_and_may_drop() -> None:
    label = LabelMap(array=two_organs(), grid=TURNED)
    array = to_protocol(label, PROTOCOL, TURNED, {1: 4, 4: 0})
    assert (array[two_organs() == 1] == 4).all()
    assert (array[two_organs() == 4] == 0).all()
    with pytest.raises(ProtocolError):
        to_protocol(label, PROTOCOL, TURNED, {1: 99})


def test_values_and_segments_without_a_structure_are_refused_by_name() -> None:
    label = LabelMap(array=two_organs() * 2, grid=TURNED)
    with pytest.raises(LabelError, match="value 2, which no structure"):
        to_protocol(label, PROTOCOL, TURNED)
    segment = Segment(id=1, name="heart", color=(1, 1, 1))
    named = LabelMap(array=two_organs(), grid=TURNED, segments=(segment,))
    with pytest.raises(LabelError, match="segment 'heart'"):
        to_protocol(named, PROTOCOL, TURNED)
