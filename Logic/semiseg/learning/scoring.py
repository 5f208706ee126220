"""Dice of the network alone on what is known of held-back cases, on the training grid.

Labels propagated to such a case have no say here: most of them come from its own drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.config import Modality
from semiseg.data.cases import TrainingCase
from semiseg.data.companions import own_volumes
from semiseg.events import Json
from semiseg.learning.plan import Plan
from semiseg.learning.scheme import Kind
from semiseg.methods.base import Method
from semiseg.sliding import WindowPlan, stream_probabilities

_OVERLAP = 0.25
Watch = Callable[[TrainingCase, int, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Dice by case and structure id; pairs where neither has the structure are left out."""

    dice: Mapping[str, Mapping[int, float]]

    @property
    def by_structure(self) -> dict[int, float]:
        """Mean over cases."""
        found: dict[int, list[float]] = {}
        for row in self.dice.values():
            for structure, value in row.items():
                found.setdefault(structure, []).append(value)
        return {structure: float(np.mean(found[structure])) for structure in sorted(found)}

    @property
    def mean(self) -> float | None:
        """Mean over structures; None where there was nothing to compare."""
        values = list(self.by_structure.values())
        return float(np.mean(values)) if values else None

    @property
    def in_words(self) -> str:
        """`validation Dice 0.812`; empty where there was nothing to compare."""
        return "" if self.mean is None else f"validation Dice {self.mean:.3f}"

    @property
    def figures(self) -> dict[str, Json]:
        """What an event tells of it."""
        return {"validation_dice": self.mean, **self.to_json()}

    def to_json(self) -> dict[str, Json]:
        """Plain values for model.json and events."""
        return {
            "dice": self.mean,
            "structures": {str(i): round(v, 4) for i, v in self.by_structure.items()},
            "cases": {
                case: {str(i): round(v, 4) for i, v in row.items()}
                for case, row in self.dice.items()
            },
        }


def unseen_dice(
    kind: Kind, score: Mapping[str, Json] | None, modality_of: Mapping[str, Modality]
) -> dict[str, Json]:
    """Mean Dice by modality over the cases of `score` that the network had not learned from.

    Empty unless whole patients were held back; slices held back from scans that are learned from
    tell too much good of new ones.
    """
    if score is None or kind not in ("split", "leave_one_out"):
        return {}
    rows = cast("Mapping[str, Mapping[str, float]]", score["cases"])
    found: dict[Modality, list[float]] = {}
    for case_id, row in rows.items():
        found.setdefault(modality_of[case_id], []).extend(row.values())
    return {modality: round(float(np.mean(v)), 4) for modality, v in found.items() if v}


def score(
    method: Method,
    plan: Plan,
    cases: Sequence[TrainingCase],
    classes: tuple[int, ...],
    watch: Watch | None = None,
) -> Score:
    """Dice of `method` on the supervised voxels of `cases`; `watch` sees all probabilities."""
    return Score(
        dice={
            case.id: _dice(segment(method, plan, case, watch), case, classes)
            for case in cases
            if case.labelled
        }
    )


def segment(
    method: Method, plan: Plan, case: TrainingCase, watch: Watch | None = None
) -> NDArray[np.int64]:
    """Most probable channel per voxel (z, y, x) of the training grid.

    `watch` gets the case, the first slice and probabilities (C, n, H, W), some slices at a time.
    """
    device = torch.device(plan.device)
    image, predict = case.image.array, method.predictor(case.modality)
    if plan.streams:
        volumes, present = own_volumes(case, plan.streams)
        if any(present):
            image, predict = volumes, method.joint_predictor(present)
    window = WindowPlan(
        window_zyx=plan.patch_zyx, overlap=_OVERLAP, batch=2, device=device, sum_on=device
    )
    chunks = stream_probabilities(
        lambda windows: _probabilities(predict, windows),
        torch.from_numpy(image),
        window,
        fill=case.image.fill,
        on_windows=lambda _: None,
    )
    found: list[Tensor] = []
    for chunk in chunks:
        if watch is not None:
            watch(case, sum(part.shape[0] for part in found), chunk)
        found.append(chunk.argmax(dim=0).cpu())
    return torch.cat(found).numpy()


def _probabilities(predict: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
    """(B, C, d, h, w) of `windows` (B, 1, d, h, w); a slice is given to a 2-D network."""
    flat = windows.shape[2] == 1
    logits = predict(windows.squeeze(2) if flat else windows)
    return (logits.unsqueeze(2) if flat else logits).float().softmax(dim=1)


def _dice(
    found: NDArray[np.int64], case: TrainingCase, classes: tuple[int, ...]
) -> dict[int, float]:
    known = case.supervision
    if known is None:
        return {}
    row = {}
    for channel, structure in enumerate(classes):
        if channel == 0:
            continue
        seen = (known.valid > 0) & known.patterns[known.pattern, channel]
        one, other = found[seen] == channel, known.label[seen] == channel
        total = int(one.sum() + other.sum())
        if total:
            row[structure] = 2 * int((one & other).sum()) / total
    return row
