"""Fusion that learns which atlas to believe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semiseg.atlases.fusion import fuse, on_grid
from semiseg.atlases.staple import staple
from semiseg.atlases.transfer import Evidence, Transfer
from semiseg.config import PropagationConfig
from semiseg.errors import ConfigError
from semiseg.images.grid import Grid

GRID = Grid(size_xyz=(20, 18, 16), spacing_mm_xyz=(2.0, 2.0, 3.0))
EVIDENCE = Evidence(
    folded=0.0,
    inverse_error_mm=1.0,
    similarity=0.94,
    start_certainty=1.0,
    outside=0.0,
    atlas_volumes_ml={1: 1.0},
)


def _ball(shift: float = 0.0, radius: float = 6.0) -> np.ndarray:
    z, y, x = np.indices(GRID.shape_zyx, dtype=np.float32)
    return ((z - 8) ** 2 + (y - 9) ** 2 + (x - 9 - shift) ** 2 < radius**2).astype(np.float32)


def _says(share: np.ndarray, distance: float = 0.05) -> Transfer:
    flat = np.ones(GRID.shape_zyx, dtype=np.float32)
    return Transfer(
        case_id="a",
        ids=(1,),
        share=share[None],
        confidence=flat,
        distance=flat * np.float32(distance),
        evidence=EVIDENCE,
    )


def _overlap(found: np.ndarray) -> float:
    true = _ball() > 0
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


def _equal(shares: Tensor) -> Tensor:
    return torch.full_like(shares, 1 / len(shares))


def test_an_atlas_that_is_often_outvoted_is_heard_less() -> None:
    good = [_ball(), _ball(0.5), _ball(-0.5)]
    bad = [_ball(5.0), _ball(5.0, 4.0), _ball(6.0)]
    votes = [_says(share) for share in (*good, *bad)]
    dice = {
        method: _overlap(on_grid(fuse(votes, GRID, method), GRID)[0] == 1)  # type: ignore[arg-type]
        for method in ("vote", "staple")
    }
    assert dice["staple"] >= dice["vote"]
    assert dice["staple"] > 0.85


def test_a_single_atlas_and_voices_in_unison_stay_as_they_are() -> None:
    share = torch.rand(1, 50)
    torch.testing.assert_close(staple(share, torch.ones(1, 50)), share[0])
    same = torch.tensor([[0.0, 1.0, 1.0]] * 3)
    torch.testing.assert_close(staple(same, _equal(same)), same[0])


def test_weights_decide_where_two_atlases_quarrel() -> None:
    says = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    heard = torch.tensor([[0.9, 0.1, 0.1, 0.9], [0.1, 0.9, 0.9, 0.1]])
    assert ((staple(says, heard) > 0.5) == torch.tensor([True, False, True, False])).all()


@given(
    st.integers(1, 6), st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0.0, 1e-6, 1.0])
)
@settings(max_examples=40, deadline=None)
def test_the_result_is_a_probability_whatever_the_atlases_say(
    atlases: int, voxels: int, seed: int, scale: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    says = torch.rand(atlases, voxels, generator=draw).round(decimals=1)
    heard = torch.rand(atlases, voxels, generator=draw) * scale
    found = staple(says, heard)
    assert torch.isfinite(found).all()
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1 + 1e-5


def test_atlases_are_told_in_any_order() -> None:
    says = torch.rand(4, 200, generator=torch.Generator().manual_seed(0))
    turned = staple(says.flip(0), _equal(says))
    torch.testing.assert_close(staple(says, _equal(says)), turned, atol=1e-4, rtol=1e-4)


def test_another_fusion_is_refused() -> None:
    with pytest.raises(ConfigError, match="fusion"):
        PropagationConfig(fusion="mean")  # type: ignore[arg-type]
