"""The group of processes, here with a single member of a real process group."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semiseg import group
from semiseg.errors import DeviceError
from semiseg.group import ALONE, Joined, joined

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Process groups of one, made over a file; the back ends that were asked for."""
    asked: list[str] = []
    start = torch.distributed.init_process_group

    def of_one(backend: str) -> None:
        asked.append(backend)
        store = tmp_path / f"store{len(asked)}"
        start("gloo", init_method=f"file://{store}", rank=0, world_size=1)

    monkeypatch.setattr(group.distributed, "init_process_group", of_one)
    return asked


def test_one_process_needs_no_group(started: list[str]) -> None:
    with joined(1, 0) as found:
        assert found is ALONE
    assert started == []


def test_members_agree_average_and_wait(started: list[str]) -> None:
    tensors = [torch.arange(6.0).view(2, 3), torch.tensor(7.0)]
    with joined(2, 0) as found:
        assert isinstance(found, Joined)
        assert (found.rank, found.size, found.first) == (0, 1, True)
        assert found.agreed({"plan": [1, 2]}) == {"plan": [1, 2]}
        found.average(tensors)
        found.wait()
    assert [t.tolist() for t in tensors] == [[[0, 1, 2], [3, 4, 5]], 7]
    assert started == ["cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"]
    assert not torch.distributed.is_initialized()


def test_each_process_takes_its_own_gpu(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with joined(4, 2):
        pass
    assert taken == [2]
    assert started == ["cpu:gloo,cuda:nccl"]
    with pytest.raises(DeviceError, match="has 4 GPUs"), joined(8, 4):
        pass
    with joined(8, 4, "cpu"):
        pass
    assert taken == [2]
    assert started[1:] == ["gloo"]


def test_the_group_ends_with_an_error_too(started: list[str]) -> None:
    def fail() -> None:
        with joined(2, 0):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not torch.distributed.is_initialized()
