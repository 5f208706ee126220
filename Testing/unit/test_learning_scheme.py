"""How validation is chosen, what is held back, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from semiseg.config import TrainConfig
from semiseg.data.cases import load_training_case
from semiseg.data.supervision import Wanted
from semiseg.errors import NotEnoughLabelsError
from semiseg.learning.plan import make_plan
from semiseg.learning.scheme import choose_scheme
from semiseg.learning.scoring import Score, score
from semiseg.learning.survey import survey
from semiseg.methods.base import Method, MethodSettings, build_method
from semiseg.study.ledger import SliceState
from semiseg.study.protocol import Protocol
from semiseg.study.study import Study

Make = Callable[..., Study]


def scheme_of(study: Study, validation: Any = "auto", seed: int = 0) -> Any:
    found = survey(study, use_propagated=True)
    return choose_scheme(study, found, TrainConfig(validation=validation, seed=seed))


def test_annotated_validation_cases_come_first(phantom_study: Make) -> None:
    study = phantom_study(("CT", "CT", "CT"), annotated=3, splits=("train", "train", "val"))
    scheme = scheme_of(study)
    assert scheme.kind == "split"
    assert "c2" in scheme.text


def test_two_patients_of_one_modality_are_left_out_in_turn(phantom_study: Make) -> None:
    scheme = scheme_of(phantom_study(("CT", "CT", "MR"), annotated=3))
    assert scheme.kind == "leave_one_out"
    assert [fold.left_out for fold in scheme.folds] == [{"c0"}, {"c1"}]


def test_many_patients_make_few_folds(phantom_study: Make) -> None:
    scheme = scheme_of(phantom_study(("CT",) * 5, annotated=5))
    assert len(scheme.folds) == 3


def test_one_patient_a_modality_holds_back_slices(phantom_study: Make) -> None:
    scheme = scheme_of(phantom_study(slices=(2, 3, 4, 5, 6, 7, 8)))
    assert scheme.kind == "slices"
    for lines in scheme.hidden.values():
        assert len(lines) == 2
        assert lines <= {(0, i) for i in range(3, 8)}  # 2 and 8 are outermost


def test_held_back_slices_depend_on_the_seed_alone(phantom_study: Make) -> None:
    study = phantom_study(slices=(1, 2, 3, 4, 5, 6, 7, 8))
    assert scheme_of(study, seed=1).hidden == scheme_of(study, seed=1).hidden
    assert len({str(scheme_of(study, seed=seed).hidden) for seed in range(6)}) > 1


def test_two_slices_are_too_few_to_hold_any_back(phantom_study: Make) -> None:
    study = phantom_study(slices=(4, 5))
    assert scheme_of(study).kind == "none"
    with pytest.raises(NotEnoughLabelsError, match="three done slices"):
        scheme_of(study, "slices")


@pytest.mark.parametrize("validation", ["split", "leave_one_out"])
def test_what_is_asked_for_and_impossible_is_refused(phantom_study: Make, validation: str) -> None:
    with pytest.raises(NotEnoughLabelsError, match="validation auto"):
        scheme_of(phantom_study(), validation)


def test_no_validation_when_none_is_asked_for(phantom_study: Make) -> None:
    assert scheme_of(phantom_study(), "none").kind == "none"


def test_survey_tells_classes_sizes_and_digests(phantom_study: Make) -> None:
    study = phantom_study(("CT", "MR", "CT"), annotated=2, splits=("train", "train", "test"))
    found = survey(study, use_propagated=True)
    assert [facts.id for facts in found.train] == ["c0", "c1"]
    assert found.classes == (0, 1, 2)
    assert 5 < found.smallest_mm < 25
    assert found.train[0].extent_mm_zyx == (40.0, 48.0, 48.0)
    again = survey(study, use_propagated=True)
    assert again == found
    study.mark_slices("c0", "axial", [3], SliceState.DONE, (1,))
    assert survey(study, use_propagated=True).train[0].digest != found.train[0].digest


def test_structures_that_nobody_drew_are_no_classes(phantom_study: Make) -> None:
    study = phantom_study(slices=(0, 9))
    with pytest.raises(NotEnoughLabelsError, match="none of the 2 training cases"):
        survey(study, use_propagated=True)


def test_a_study_without_structures_or_cases_is_refused_in_words(phantom_study: Make) -> None:
    study = phantom_study(("CT",), annotated=0, splits=("test",))
    with pytest.raises(NotEnoughLabelsError, match="no training case"):
        survey(study, use_propagated=True)
    study.set_protocol(Protocol(()))
    with pytest.raises(NotEnoughLabelsError, match="no structure"):
        survey(study, use_propagated=True)


class Constant(Method):
    """Says the same class everywhere."""

    def __init__(self, channel: int) -> None:
        self.channel = channel

    def optimizers(self) -> Any:
        return {}

    def losses(self, batch: Any, progress: float) -> Any:
        return {}

    def predict(self, image: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(image.shape[0], 3, *image.shape[2:])
        logits[:, self.channel] = 9
        return logits


def test_score_is_dice_on_known_voxels(phantom_study: Make) -> None:
    study = phantom_study()
    found = survey(study, use_propagated=True)
    plan = make_plan(found, TrainConfig(steps=1, minutes=None), "cpu")
    wanted = Wanted(classes=found.classes)
    case = load_training_case(study, study.cases["c0"], plan.spacing_mm_zyx, wanted)
    assert case.supervision is not None
    known = case.supervision.valid > 0
    inside = (case.supervision.label == 1) & known
    expected = 2 * inside.sum() / (inside.sum() + known.sum())
    row = score(Constant(1), plan, [case], found.classes).dice["c0"]
    assert row[1] == pytest.approx(expected)
    assert row[2] == 0.0
    assert score(Constant(0), plan, [replace(case, supervision=None)], found.classes).dice == {}


def test_means_are_over_cases_then_structures() -> None:
    found = Score(dice={"a": {1: 0.5, 2: 1.0}, "b": {1: 0.7}})
    assert found.by_structure == pytest.approx({1: 0.6, 2: 1.0})
    assert found.mean == pytest.approx(0.8)
    assert Score(dice={}).mean is None
    assert found.to_json()["structures"] == {"1": 0.6, "2": 1.0}


def test_segmentation_covers_images_smaller_than_the_patch(phantom_study: Make) -> None:
    study = phantom_study()
    found = survey(study, use_propagated=True)
    plan = replace(make_plan(found, TrainConfig(), "cpu"), patch_zyx=(32, 32, 32))
    wanted = Wanted(classes=found.classes)
    case = load_training_case(study, study.cases["c0"], plan.spacing_mm_zyx, wanted)
    method = build_method("supervised", MethodSettings(network=plan.network))
    with torch.no_grad():
        rows = score(method, plan, [case], found.classes).dice["c0"]
    assert all(0 <= value <= 1 for value in rows.values())
    assert np.isfinite(list(rows.values())).all()


class ByModality(Constant):
    """Says channel 1 to MR, background to CT."""

    def predictor(self, modality: str) -> Any:
        return Constant(int(modality == "MR")).predict


def test_cases_are_scored_with_the_network_of_their_modality(phantom_study: Make) -> None:
    study = phantom_study()
    found = survey(study, use_propagated=True)
    plan = make_plan(found, TrainConfig(steps=1, minutes=None), "cpu")
    case = load_training_case(
        study, study.cases["c0"], plan.spacing_mm_zyx, Wanted(classes=found.classes)
    )
    both = [replace(case, id=name, modality=name) for name in ("CT", "MR")]
    rows = score(ByModality(0), plan, both, found.classes).dice
    assert rows["CT"][1] == 0
    assert rows["MR"][1] > 0
