"""The stream of slices equals the whole; plans step down to what memory allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from semiseg import sliding
from semiseg.sliding import (
    WindowPlan,
    Zyx,
    count_windows,
    label_and_uncertainty,
    stream_probabilities,
    upsample,
    window_plans,
)

CPU = torch.device("cpu")
quick = settings(max_examples=15, deadline=None)
sizes = st.tuples(*[st.integers(1, 24)] * 3)


def plan(window: Zyx, overlap: float = 0.5, batch: int = 2) -> WindowPlan:
    return WindowPlan(window_zyx=window, overlap=overlap, batch=batch, device=CPU, sum_on=CPU)


def guess(windows: Tensor) -> Tensor:
    """Probabilities that depend on the place in the window."""
    ramp = torch.linspace(0, 1, windows.shape[2])[:, None, None].expand_as(windows)
    return torch.cat([windows, ramp, windows.roll(1, 3)], dim=1).softmax(1)


@quick
@given(sizes, st.tuples(*[st.sampled_from([1, 4, 7, 12])] * 3), st.sampled_from([0.0, 0.25, 0.7]))
def test_stream_is_what_monai_makes_of_the_whole(size: Zyx, window: Zyx, overlap: float) -> None:
    image = torch.randn(size, generator=torch.Generator().manual_seed(1))
    counts: list[int] = []
    chunks = list(
        stream_probabilities(
            guess, image, plan(window, overlap), fill=-2.0, on_windows=counts.append
        )
    )
    whole = sliding_window_inference(
        image[None, None], window, 1, guess, overlap, mode="gaussian", cval=-2.0
    )
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole[0], atol=1e-6, rtol=1e-5)
    assert counts == sorted(counts)
    assert counts[-1] == count_windows(size, plan(window, overlap))


@quick
@given(sizes, sizes, st.integers(1, 9))
def test_upsampling_in_pieces_is_trilinear_interpolation(
    source: Zyx, target: Zyx, piece: int
) -> None:
    values = torch.rand(2, *source, generator=torch.Generator().manual_seed(2))
    parts = list(upsample(values.split(piece, dim=1), source, target))
    assert [first for first, _ in parts] == _starts(parts)
    expected = nn.functional.interpolate(values[None], size=target, mode="trilinear")[0]
    found = torch.cat([part for _, part in parts], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def _starts(parts: list[tuple[int, Tensor]]) -> list[int]:
    starts, at = [], 0
    for _, part in parts:
        starts.append(at)
        at += part.shape[1]
    return starts


def test_uncertainty_is_the_entropy_as_a_share_of_the_largest() -> None:
    values = torch.tensor([[0.25, 1.0, 0.5], [0.25, 0.0, 0.5], [0.25, 0, 0], [0.25, 0, 0]])
    channel, uncertainty = label_and_uncertainty(values[:, None, None])
    torch.testing.assert_close(uncertainty[0, 0], torch.tensor([1.0, 0.0, 0.5]))
    assert channel[0, 0, 1] == 0


def plans(window: Zyx, shape: Zyx = (60, 60, 60), device: str = "cpu") -> list[WindowPlan]:
    return window_plans(
        shape,
        3,
        window_zyx=window,
        multiple_zyx=(2, 8, 8),
        overlap=0.5,
        device=torch.device(device),
    )


def test_plans_halve_the_longest_side_and_keep_to_multiples() -> None:
    found = [each.window_zyx for each in plans((32, 72, 64))]
    assert found == [(32, 72, 64), (32, 40, 64), (32, 40, 32)]
    assert [each.window_zyx for each in plans((1, 16, 16))] == [(1, 16, 16)]


def test_plans_of_a_gpu_end_on_the_cpu() -> None:
    found = plans((32, 64, 64), device="cuda")
    assert [(each.device.type, each.sum_on.type, each.batch) for each in found[:2]] == [
        ("cuda", "cuda", 4),
        ("cuda", "cpu", 1),
    ]
    assert [each.device.type for each in found[-3:]] == ["cpu"] * 3


def test_slices_leave_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "_CHUNK_VALUES", 3 * 10 * 10 * 2)
    image = torch.zeros(20, 10, 10)
    chunks = stream_probabilities(
        guess, image, plan((8, 10, 10)), fill=0.0, on_windows=lambda _: None
    )
    kept = list(chunks)
    assert {chunk.shape[1] for chunk in kept} == {2}
    parts = list(upsample(iter(kept), (20, 10, 10), (40, 10, 20)))
    assert {part.shape[1] for _, part in parts} == {1}


@pytest.mark.parametrize(("limit", "depth"), [(10**9, 64), (3 * 4 * 60 * 60 * 40, 32), (1, 16)])
def test_windows_get_shallow_where_their_band_would_be_too_large(
    monkeypatch: pytest.MonkeyPatch, limit: int, depth: int
) -> None:
    monkeypatch.setattr(sliding, "BAND_BYTES", limit)
    assert plans((64, 64, 64))[0].window_zyx == (depth, 64, 64)
